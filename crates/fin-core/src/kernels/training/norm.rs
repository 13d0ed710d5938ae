//! Layer normalisation and root-mean-square normalisation.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn_flex::FlexTensor;

use super::super::flex::FinKernels;
use super::super::simd;
use super::{Contiguous, PIECE, output, sums_of_pieces};
use rayon::prelude::*;

#[derive(Debug)]
struct LayerNorm;

#[derive(Debug)]
struct RmsNorm;

/// What the backward passes need: the input, with the residual added, and the weight.
#[derive(Debug, Clone)]
struct State {
    x: FlexTensor,
    weight: FlexTensor,
    eps: f32,
    has_residual: bool,
}

pub(super) fn record_layer<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex>>,
    residual: FloatTensor<Autodiff<Flex>>,
    has_residual: bool,
    weight: FloatTensor<Autodiff<Flex>>,
    bias: FloatTensor<Autodiff<Flex>>,
    eps: f64,
) -> FloatTensor<Autodiff<Flex>> {
    let nodes = [x.node(), residual.node(), weight.node(), bias.node()];
    let x = x.into_primitive();
    let residual = residual.into_primitive();
    let (weight, bias) = (weight.into_primitive(), bias.into_primitive());
    match LayerNorm.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(Flex::fin_layer_norm(
            x,
            residual,
            has_residual,
            weight,
            bias,
            eps,
        )),
        OpsKind::Tracked(prep) => {
            let x = if has_residual { sum(x, residual) } else { x };
            // `weight` in the place of a residual that is not there.
            let other = weight.clone();
            let y = Flex::fin_layer_norm(x.clone(), other, false, weight.clone(), bias, eps);
            let eps = eps as f32;
            let state = State {
                x,
                weight,
                eps,
                has_residual,
            };
            prep.finish(state, y)
        }
    }
}

pub(super) fn record_rms<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex>>,
    weight: FloatTensor<Autodiff<Flex>>,
    eps: f64,
) -> FloatTensor<Autodiff<Flex>> {
    let nodes = [x.node(), weight.node()];
    let (x, weight) = (x.into_primitive(), weight.into_primitive());
    match RmsNorm.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(Flex::fin_rms_norm(x, weight, eps)),
        OpsKind::Tracked(prep) => {
            let y = Flex::fin_rms_norm(x.clone(), weight.clone(), eps);
            let eps = eps as f32;
            let state = State {
                x,
                weight,
                eps,
                has_residual: false,
            };
            prep.finish(state, y)
        }
    }
}

fn sum(a: FlexTensor, b: FlexTensor) -> FlexTensor {
    let (a, b) = (Contiguous::new(a), Contiguous::new(b));
    assert_eq!(a.dims(), b.dims(), "layer_norm: residual shape");
    let mut y = vec![0.0; a.values().len()];
    let chunk = super::super::flex::rows_per_task(y.len());
    y.par_chunks_mut(chunk)
        .zip(a.values().par_chunks(chunk))
        .zip(b.values().par_chunks(chunk))
        .for_each(|((y, a), b)| add(y, a, b));
    output(y, a.dims())
}

simd::multiversion! {
    fn add(y: &mut [f32], a: &[f32], b: &[f32]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

/// Gradients of the input, `[rows, width]`, of the weight and of the bias.
struct Gradient {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// For some rows: the gradient of `x`, of `x`, that of the result, the weight and the epsilon; and what
/// is added to the gradients of weight and bias.
type Kernel = fn(&mut [f32], &[f32], &[f32], &[f32], f32, &mut [f32], &mut [f32]);

/// The gradients, by a kernel over some rows.
fn gradients(state: &State, gradient: FlexTensor, kernel: Kernel) -> Gradient {
    let gradient = Contiguous::new(gradient);
    let x = Contiguous::new(state.x.clone());
    let weight = Contiguous::new(state.weight.clone());
    let width = weight.values().len().max(1);
    let rows = x.values().len() / width;
    let mut dx = vec![0.0; x.values().len()];
    let shared: Vec<std::sync::Mutex<&mut [f32]>> = dx
        .chunks_mut(PIECE * width)
        .map(std::sync::Mutex::new)
        .collect();
    let [dw, db] = sums_of_pieces(rows, width, |rows, [dw, db]| {
        // Each piece is locked once, by the one task that has it.
        let Ok(mut dx) = shared[rows.start / PIECE].lock() else {
            return;
        };
        let at = rows.start * width..rows.end * width;
        kernel(
            &mut dx,
            &x.values()[at.clone()],
            &gradient.values()[at],
            weight.values(),
            state.eps,
            dw,
            db,
        );
    });
    drop(shared);
    Gradient {
        x: dx,
        weight: dw,
        bias: db,
    }
}

impl Backward<Flex, 4> for LayerNorm {
    type State = State;

    fn backward(self, ops: Ops<State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [node_x, node_residual, node_weight, node_bias] = ops.parents;
        let state = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node);
        let found = gradients(&state, gradient, layer_gradient);
        let width = found.weight.len();
        let dx = output(found.x, state.x.layout().shape().to_vec());
        if let Some(node) = node_residual.filter(|_| state.has_residual) {
            grads.register::<Flex>(node.id, dx.clone());
        }
        if let Some(node) = node_x {
            grads.register::<Flex>(node.id, dx);
        }
        if let Some(node) = node_weight {
            grads.register::<Flex>(node.id, output(found.weight, vec![width]));
        }
        if let Some(node) = node_bias {
            grads.register::<Flex>(node.id, output(found.bias, vec![width]));
        }
    }
}

impl Backward<Flex, 2> for RmsNorm {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [node_x, node_weight] = ops.parents;
        let state = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node);
        let found = gradients(&state, gradient, rms_gradient);
        let width = found.weight.len();
        if let Some(node) = node_x {
            let dims = state.x.layout().shape().to_vec();
            grads.register::<Flex>(node.id, output(found.x, dims));
        }
        if let Some(node) = node_weight {
            grads.register::<Flex>(node.id, output(found.weight, vec![width]));
        }
    }
}

simd::multiversion! {
    /// Of every row `x̂ = (x − mean) · scale`: the gradient of `x`, and what it adds to those of weight
    /// and bias.
    fn layer_gradient(
        dx: &mut [f32],
        x: &[f32],
        dy: &[f32],
        weight: &[f32],
        eps: f32,
        dw: &mut [f32],
        db: &mut [f32],
    ) {
        let width = weight.len();
        let count = width as f32;
        for ((dx, x), dy) in dx
            .chunks_exact_mut(width)
            .zip(x.chunks_exact(width))
            .zip(dy.chunks_exact(width))
        {
            let mean = simd::sum(x, |x| x) / count;
            let variance = simd::sum(x, |x| (x - mean) * (x - mean)) / count;
            let scale = 1.0 / (variance + eps).sqrt();
            for (((dx, dy), w), db) in dx.iter_mut().zip(dy).zip(weight).zip(db.iter_mut()) {
                *dx = dy * w;
                *db += dy;
            }
            let along_one = simd::sum(dx, |x| x) / count;
            let along_x = simd::dot(dx, x, |x| (x - mean) * scale) / count;
            for (((dx, x), dy), dw) in dx.iter_mut().zip(x).zip(dy).zip(dw.iter_mut()) {
                let normal = (x - mean) * scale;
                *dw += dy * normal;
                *dx = (*dx - along_one - normal * along_x) * scale;
            }
        }
    }
}

simd::multiversion! {
    /// Of every row `x̂ = x · scale`: the gradient of `x`, and what it adds to that of the weight.
    fn rms_gradient(
        dx: &mut [f32],
        x: &[f32],
        dy: &[f32],
        weight: &[f32],
        eps: f32,
        dw: &mut [f32],
        _db: &mut [f32],
    ) {
        let width = weight.len();
        let count = width as f32;
        for ((dx, x), dy) in dx
            .chunks_exact_mut(width)
            .zip(x.chunks_exact(width))
            .zip(dy.chunks_exact(width))
        {
            let scale = 1.0 / (simd::sum(x, |x| x * x) / count + eps).sqrt();
            for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                *dx = dy * w;
            }
            let along_x = simd::dot(dx, x, |x| x * scale) / count;
            for (((dx, x), dy), dw) in dx.iter_mut().zip(x).zip(dy).zip(dw.iter_mut()) {
                let normal = x * scale;
                *dw += dy * normal;
                *dx = (*dx - normal * along_x) * scale;
            }
        }
    }
}
