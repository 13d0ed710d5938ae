//! Affine maps with an activation.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::super::flex::{FinKernels, rows_per_task};
use super::super::product::{Matrix, product};
use super::super::{Activation, simd};
use super::{Contiguous, output, sums_of_pieces};

#[derive(Debug)]
struct Linear;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State {
    /// `[..., in]`.
    x: FlexTensor,
    /// `[out, in]`.
    weight: FlexTensor,
    has_bias: bool,
    /// `[..., out]` before the activation, where there is one.
    before: Option<FlexTensor>,
    activation: Activation,
}

pub(super) fn record<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex>>,
    weight: FloatTensor<Autodiff<Flex>>,
    bias: FloatTensor<Autodiff<Flex>>,
    has_bias: bool,
    activation: Activation,
) -> FloatTensor<Autodiff<Flex>> {
    let nodes = [x.node(), weight.node(), bias.node()];
    let (x, weight, bias) = (
        x.into_primitive(),
        weight.into_primitive(),
        bias.into_primitive(),
    );
    match Linear.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => {
            prep.finish(Flex::fin_linear(x, weight, bias, has_bias, activation))
        }
        OpsKind::Tracked(prep) => {
            let none = Activation::Identity;
            let y = Flex::fin_linear(x.clone(), weight.clone(), bias, has_bias, none);
            let (before, y) = if activation == none {
                (None, y)
            } else {
                let activated = activated(&y, activation);
                (Some(y), activated)
            };
            let state = State {
                x,
                weight,
                has_bias,
                before,
                activation,
            };
            prep.finish(state, y)
        }
    }
}

fn activated(x: &FlexTensor, activation: Activation) -> FlexTensor {
    let x = Contiguous::new(x.clone());
    let mut y = vec![0.0; x.values().len()];
    let chunk = rows_per_task(y.len());
    y.par_chunks_mut(chunk)
        .zip(x.values().par_chunks(chunk))
        .for_each(|(y, x)| {
            y.copy_from_slice(x);
            simd::bias_activation(y, None, y.len(), activation);
        });
    output(y, x.dims())
}

impl Backward<Flex, 3> for Linear {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [node_x, node_weight, node_bias] = ops.parents;
        let state = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node);
        let gradient = match &state.before {
            None => gradient,
            Some(before) => through_activation(gradient, before, state.activation),
        };
        let gradient = Contiguous::new(gradient);
        let weight = Contiguous::new(state.weight);
        let (n, k) = (weight.dims()[0], weight.dims()[1]);
        let m = gradient.values().len() / n.max(1);
        let rows = Matrix::rows(gradient.values(), [m, n]);
        if let Some(node) = node_x {
            let mut dx = vec![0.0; m * k];
            let weight = Matrix::rows(weight.values(), [n, k]);
            product(rows, weight, None, Activation::Identity, &mut dx);
            grads.register::<Flex>(node.id, output(dx, state.x.shape().to_vec()));
        }
        if let Some(node) = node_weight {
            let x = Contiguous::new(state.x);
            let mut dw = vec![0.0; n * k];
            let x = Matrix::rows(x.values(), [m, k]);
            product(rows.transposed(), x, None, Activation::Identity, &mut dw);
            grads.register::<Flex>(node.id, output(dw, vec![n, k]));
        }
        if let Some(node) = node_bias.filter(|_| state.has_bias) {
            let [sums] = sums_of_pieces(m, n, |rows, [sums]| {
                add_rows(sums, &gradient.values()[rows.start * n..rows.end * n]);
            });
            grads.register::<Flex>(node.id, output(sums, vec![n]));
        }
    }
}

/// The gradient before the activation, of that after it.
fn through_activation(
    gradient: FlexTensor,
    before: &FlexTensor,
    activation: Activation,
) -> FlexTensor {
    let gradient = Contiguous::new(gradient);
    let before = Contiguous::new(before.clone());
    let mut y = vec![0.0; before.values().len()];
    let chunk = rows_per_task(y.len());
    y.par_chunks_mut(chunk)
        .zip(gradient.values().par_chunks(chunk))
        .zip(before.values().par_chunks(chunk))
        .for_each(|((y, gradient), before)| {
            simd::activation_gradient(y, gradient, before, activation);
        });
    output(y, before.dims())
}

simd::multiversion! {
    /// Adds every row, as wide as `sums`, to it.
    fn add_rows(sums: &mut [f32], rows: &[f32]) {
        for row in rows.chunks_exact(sums.len().max(1)) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}
