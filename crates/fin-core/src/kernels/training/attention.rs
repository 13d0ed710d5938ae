//! Multi-head attention. The shares of every head are kept for the backward pass, as
//! `[batch, heads, seq, seq]`; what dropout leaves out of them is drawn again.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::super::product::{Matrix, product};
use super::super::{Activation, simd};
use super::dropout::{Drop, dropped};
use super::{Contiguous, output};

/// What is said of an attention besides its tensors.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct Heads {
    pub(super) count: usize,
    /// Of scores.
    pub(super) scale: f32,
    /// Whether there is a position bias.
    pub(super) has_position: bool,
    /// Of shares.
    pub(super) drop: Option<Drop>,
}

#[derive(Debug)]
struct Attention;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State {
    /// Query, key and value, each `[batch, seq, heads · head_dim]`.
    inputs: [FlexTensor; 3],
    /// `[batch, heads, seq, seq]`, before dropout.
    shares: FlexTensor,
    heads: Heads,
}

pub(super) fn record<C: CheckpointStrategy>(
    query: FloatTensor<Autodiff<Flex>>,
    key: FloatTensor<Autodiff<Flex>>,
    value: FloatTensor<Autodiff<Flex>>,
    key_bias: FloatTensor<Autodiff<Flex>>,
    position_bias: FloatTensor<Autodiff<Flex>>,
    heads: Heads,
) -> FloatTensor<Autodiff<Flex>> {
    let nodes = [query.node(), key.node(), value.node(), position_bias.node()];
    let inputs = [query, key, value].map(|x| x.into_primitive());
    let [query, key, value] = inputs.clone();
    let biases = [key_bias, position_bias].map(|x| x.into_primitive());
    let [key_bias, position_bias] = biases;
    let (context, shares) = forward(query, key, value, key_bias, position_bias, &heads);
    match Attention.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(context),
        OpsKind::Tracked(prep) => {
            let state = State {
                inputs,
                shares,
                heads,
            };
            prep.finish(state, context)
        }
    }
}

/// Sizes of an attention.
#[derive(Clone, Copy)]
struct Sizes {
    seq: usize,
    hidden: usize,
    head_dim: usize,
}

impl Sizes {
    /// The columns of a head, `[seq, head_dim]`, of the values of an item.
    fn head<'a>(&self, item: &'a [f32], head: usize) -> Matrix<'a> {
        let values = &item[head * self.head_dim..];
        Matrix::new(values, [self.seq, self.head_dim], [self.hidden, 1])
    }

    /// Puts `[seq, head_dim]` where the columns of a head are, multiplied.
    fn put(&self, item: &mut [f32], head: usize, values: &[f32], scale: f32) {
        let rows = item.chunks_exact_mut(self.hidden);
        for (row, values) in rows.zip(values.chunks_exact(self.head_dim)) {
            let row = &mut row[head * self.head_dim..][..self.head_dim];
            for (y, x) in row.iter_mut().zip(values) {
                *y = x * scale;
            }
        }
    }
}

fn plain(left: Matrix, right: Matrix, out: &mut [f32]) {
    product(left, right, None, Activation::Identity, out);
}

/// Context, `[batch, seq, heads · head_dim]`, and shares, `[batch, heads, seq, seq]`.
pub(super) fn forward(
    query: FlexTensor,
    key: FlexTensor,
    value: FlexTensor,
    key_bias: FlexTensor,
    position_bias: FlexTensor,
    heads: &Heads,
) -> (FlexTensor, FlexTensor) {
    let [query, key, value, key_bias] = [query, key, value, key_bias].map(Contiguous::new);
    let dims = query.dims();
    let (batch, seq, hidden) = (dims[0], dims[1], dims[2]);
    assert!(
        key.dims() == dims && value.dims() == dims,
        "attention: query, key and value differ in shape"
    );
    assert_eq!(key_bias.dims(), [batch, seq], "attention: key bias shape");
    let count = heads.count;
    assert_eq!(
        hidden % count,
        0,
        "attention: {hidden} does not split into {count} heads"
    );
    let position = heads.has_position.then(|| Contiguous::new(position_bias));
    if let Some(position) = &position {
        assert_eq!(
            position.dims(),
            [count, seq, seq],
            "attention: position bias shape"
        );
    }
    let sizes = Sizes {
        seq,
        hidden,
        head_dim: hidden / count,
    };
    let (item, square) = (seq * hidden, seq * seq);
    let mut context = vec![0.0f32; batch * item];
    let mut shares = vec![0.0f32; batch * count * square];
    context
        .par_chunks_mut(item.max(1))
        .zip(shares.par_chunks_mut((count * square).max(1)))
        .enumerate()
        .for_each(|(i, (context, shares))| {
            let at = i * item..(i + 1) * item;
            let [q, k, v] = [&query, &key, &value].map(|x| &x.values()[at.clone()]);
            let bias = &key_bias.values()[i * seq..(i + 1) * seq];
            let mut rest = vec![0.0; if heads.drop.is_some() { square } else { 0 }];
            let mut of_head = vec![0.0; seq * sizes.head_dim];
            for (head, shares) in shares.chunks_exact_mut(square.max(1)).enumerate() {
                let [q, k, v] = [q, k, v].map(|x| sizes.head(x, head));
                plain(q, k.transposed(), shares);
                let position = position
                    .as_ref()
                    .map(|p| &p.values()[head * square..(head + 1) * square]);
                simd::softmax_rows(shares, bias, position, heads.scale);
                let shares = match heads.drop {
                    None => &*shares,
                    Some(drop) => {
                        dropped(&mut rest, shares, (i * count + head) * square, drop);
                        &rest
                    }
                };
                plain(Matrix::rows(shares, [seq, seq]), v, &mut of_head);
                sizes.put(context, head, &of_head, 1.0);
            }
        });
    (
        output(context, dims),
        output(shares, vec![batch, count, seq, seq]),
    )
}

impl Backward<Flex, 4> for Attention {
    type State = State;

    fn backward(self, ops: Ops<State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [node_query, node_key, node_value, node_position] = ops.parents;
        let State {
            inputs,
            shares,
            heads,
        } = ops.state;
        let gradient = Contiguous::new(grads.consume::<Flex>(&ops.node));
        let [query, key, value] = inputs.map(Contiguous::new);
        let shares = Contiguous::new(shares);
        let dims = query.dims();
        let (batch, seq, hidden) = (dims[0], dims[1], dims[2]);
        let count = heads.count;
        let sizes = Sizes {
            seq,
            hidden,
            head_dim: hidden / count,
        };
        let (item, square) = (seq * hidden, seq * seq);
        let node_position = node_position.filter(|_| heads.has_position);
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0f32; batch * item]);
        // Gradients of scores; of every item and head where their sum over the batch is wanted.
        let kept = if node_position.is_some() {
            count * square
        } else {
            0
        };
        let mut scores = vec![0.0f32; batch * kept.max(1)];
        dq.par_chunks_mut(item.max(1))
            .zip(dk.par_chunks_mut(item.max(1)))
            .zip(dv.par_chunks_mut(item.max(1)))
            .zip(scores.par_chunks_mut(kept.max(1)))
            .enumerate()
            .for_each(|(i, (((dq, dk), dv), scores))| {
                let at = i * item..(i + 1) * item;
                let [q, k, v, dy] =
                    [&query, &key, &value, &gradient].map(|x| &x.values()[at.clone()]);
                let [mut rest, mut ds, mut dropped_ds] = [(); 3].map(|()| vec![0.0; square]);
                let mut of_head = vec![0.0; seq * sizes.head_dim];
                for head in 0..count {
                    let place = (i * count + head) * square;
                    let p = &shares.values()[place..place + square];
                    let [q, k, v, dy] = [q, k, v, dy].map(|x| sizes.head(x, head));
                    plain(dy, v.transposed(), &mut ds);
                    let (after, ds) = match heads.drop {
                        None => (p, &mut ds),
                        Some(drop) => {
                            dropped(&mut rest, p, place, drop);
                            dropped(&mut dropped_ds, &ds, place, drop);
                            (&rest[..], &mut dropped_ds)
                        }
                    };
                    let after = Matrix::rows(after, [seq, seq]);
                    plain(after.transposed(), dy, &mut of_head);
                    sizes.put(dv, head, &of_head, 1.0);
                    softmax_gradient(ds, p, seq);
                    if node_position.is_some() {
                        scores[head * square..(head + 1) * square].copy_from_slice(ds);
                    }
                    let ds = Matrix::rows(ds, [seq, seq]);
                    plain(ds, k, &mut of_head);
                    sizes.put(dq, head, &of_head, heads.scale);
                    plain(ds.transposed(), q, &mut of_head);
                    sizes.put(dk, head, &of_head, heads.scale);
                }
            });
        for (node, gradient) in [(node_query, dq), (node_key, dk), (node_value, dv)] {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, output(gradient, dims.clone()));
            }
        }
        if let Some(node) = node_position {
            let mut sums = vec![0.0f32; kept];
            for item in scores.chunks_exact(kept) {
                for (sum, x) in sums.iter_mut().zip(item) {
                    *sum += x;
                }
            }
            grads.register::<Flex>(node.id, output(sums, vec![count, seq, seq]));
        }
    }
}

simd::multiversion! {
    /// The gradient of scores, in place of that of their shares `p`, row by row.
    fn softmax_gradient(ds: &mut [f32], p: &[f32], width: usize) {
        for (ds, p) in ds.chunks_exact_mut(width.max(1)).zip(p.chunks_exact(width.max(1))) {
            let along = simd::dot(ds, p, |p| p);
            for (ds, p) in ds.iter_mut().zip(p) {
                *ds = (*ds - along) * p;
            }
        }
    }
}
