//! Batch normalisation by the statistics of the batch (Ioffe and Szegedy 2015), with an activation. Statistics are sums in
//! double precision, and deviations from the mean are formed from its two halves in single precision,
//! so that a mean far from zero takes no digits.

use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::super::{Activation, simd};
use super::{Contiguous, output};

/// Means and variances of the channels of a batch.
#[derive(Debug, Clone)]
pub(in crate::kernels) struct Statistics(Arc<Channels>);

#[derive(Debug)]
struct Channels {
    layout: Layout,
    mean: Vec<f64>,
    /// Biased.
    variance: Vec<f64>,
    eps: f64,
}

/// `[batch, channels, plane]`.
#[derive(Debug, Clone, Copy)]
struct Layout {
    batch: usize,
    channels: usize,
    plane: usize,
}

impl Layout {
    /// Values of a channel.
    fn count(self) -> usize {
        self.batch * self.plane
    }

    /// Where the planes of a channel lie.
    fn planes(self, channel: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        (0..self.batch).map(move |i| {
            let start = (i * self.channels + channel) * self.plane;
            start..start + self.plane
        })
    }

    /// Planes to a task, so that one is worth its while.
    fn least(self) -> usize {
        4096_usize.div_ceil(self.plane.max(1))
    }

    /// Channels to a task.
    fn least_channels(self) -> usize {
        4096_usize.div_ceil(self.count().max(1))
    }

    /// `f` of every plane of the output, with the channel and the place where the plane begins.
    fn map(self, f: impl Fn(&mut [f32], usize, usize) + Sync) -> Vec<f32> {
        let mut y = vec![0.0f32; self.count() * self.channels];
        y.par_chunks_mut(self.plane.max(1))
            .with_min_len(self.least())
            .enumerate()
            .for_each(|(i, y)| f(y, i % self.channels, i * self.plane));
        y
    }

    /// `f` of every channel, in order.
    fn channels<T: Send>(self, f: impl Fn(usize) -> T + Send + Sync) -> Vec<T> {
        (0..self.channels)
            .into_par_iter()
            .with_min_len(self.least_channels())
            .map(f)
            .collect()
    }
}

/// A number as the sum of two floats.
fn halves(x: f64) -> [f32; 2] {
    let high = x as f32;
    [high, (x - f64::from(high)) as f32]
}

impl Statistics {
    /// Of values `[batch, channels, height, width]`.
    pub(super) fn of(values: &[f32], dims: [usize; 4], eps: f64) -> Self {
        let layout = Layout {
            batch: dims[0],
            channels: dims[1],
            plane: dims[2] * dims[3],
        };
        let count = layout.count().max(1) as f64;
        let moments = layout.channels(|channel| {
            // From a value of the channel, so that squares are of deviations.
            let from = layout.planes(channel).next();
            let from = from.and_then(|plane| values.get(plane.start)).copied();
            let from = from.unwrap_or_default();
            let mut sums = [0.0f64; 2];
            for plane in layout.planes(channel) {
                deviations(&values[plane], from, &mut sums);
            }
            let offset = sums[0] / count;
            let variance = (sums[1] / count - offset * offset).max(0.0);
            (f64::from(from) + offset, variance)
        });
        let (mean, variance) = moments.into_iter().unzip();
        Self(Arc::new(Channels {
            layout,
            mean,
            variance,
            eps,
        }))
    }

    pub(super) fn mean(&self) -> &[f64] {
        &self.0.mean
    }

    pub(super) fn variance(&self) -> &[f64] {
        &self.0.variance
    }

    /// One over the root of a channel's variance.
    fn scale(&self, channel: usize) -> f64 {
        1.0 / (self.0.variance[channel] + self.0.eps).sqrt()
    }
}

pub(super) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    statistics: &Statistics,
    activation: Activation,
) -> FlexTensor {
    let [x, weight, bias] = [x, weight, bias].map(Contiguous::new);
    let layout = statistics.0.layout;
    let y = layout.map(|y, channel, at| {
        let scale = statistics.scale(channel) * f64::from(weight.values()[channel]);
        let x = &x.values()[at..at + y.len()];
        let mean = halves(statistics.0.mean[channel]);
        normalise(y, x, mean, scale as f32, bias.values()[channel]);
        simd::bias_activation(y, None, y.len(), activation);
    });
    output(y, x.dims())
}

#[derive(Debug)]
struct BatchNorm;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State {
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    statistics: Statistics,
    activation: Activation,
}

pub(super) fn record<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex>>,
    weight: FloatTensor<Autodiff<Flex>>,
    bias: FloatTensor<Autodiff<Flex>>,
    statistics: Statistics,
    activation: Activation,
) -> FloatTensor<Autodiff<Flex>> {
    let nodes = [x.node(), weight.node(), bias.node()];
    let [x, weight, bias] = [x, weight, bias].map(|x| x.into_primitive());
    let y = forward(
        x.clone(),
        weight.clone(),
        bias.clone(),
        &statistics,
        activation,
    );
    match BatchNorm.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(y),
        OpsKind::Tracked(prep) => {
            let state = State {
                x,
                weight,
                bias,
                statistics,
                activation,
            };
            prep.finish(state, y)
        }
    }
}

impl Backward<Flex, 3> for BatchNorm {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [node_x, node_weight, node_bias] = ops.parents;
        let State {
            x,
            weight,
            bias,
            statistics,
            activation,
        } = ops.state;
        let gradient = Contiguous::new(grads.consume::<Flex>(&ops.node));
        let [x, weight, bias] = [x, weight, bias].map(Contiguous::new);
        let layout = statistics.0.layout;
        // Through the activation, of what is computed again.
        let inner = (activation != Activation::Identity).then(|| {
            layout.map(|dz, channel, at| {
                let at = at..at + dz.len();
                let scale = statistics.scale(channel) * f64::from(weight.values()[channel]);
                let mean = halves(statistics.0.mean[channel]);
                let affine = (scale as f32, bias.values()[channel]);
                let dy = &gradient.values()[at.clone()];
                through(dz, dy, &x.values()[at], mean, affine, activation);
            })
        });
        let gradient = inner.as_deref().unwrap_or_else(|| gradient.values());
        // Of every channel the sums of the gradient, and of the gradient times the deviation.
        let sums = layout.channels(|channel| {
            let mean = halves(statistics.0.mean[channel]);
            let mut sums = [0.0f64; 2];
            for plane in layout.planes(channel) {
                let x = &x.values()[plane.clone()];
                products(&gradient[plane], x, mean, &mut sums);
            }
            sums
        });
        let count = layout.count().max(1) as f64;
        if let Some(node) = node_x {
            let dx = layout.map(|dx, channel, at| {
                let scale = statistics.scale(channel);
                let [plain, along] = sums[channel];
                let factors = [
                    (scale * f64::from(weight.values()[channel])) as f32,
                    (plain / count) as f32,
                    (along / count * scale * scale) as f32,
                ];
                let mean = halves(statistics.0.mean[channel]);
                let at = at..at + dx.len();
                let dy = &gradient[at.clone()];
                input_gradient(dx, dy, &x.values()[at], mean, factors);
            });
            grads.register::<Flex>(node.id, output(dx, x.dims()));
        }
        let channels = vec![layout.channels];
        if let Some(node) = node_weight {
            let dw = sums.iter().enumerate();
            let dw = dw.map(|(channel, sums)| (sums[1] * statistics.scale(channel)) as f32);
            grads.register::<Flex>(node.id, output(dw.collect(), channels.clone()));
        }
        if let Some(node) = node_bias {
            let db = sums.iter().map(|sums| sums[0] as f32).collect();
            grads.register::<Flex>(node.id, output(db, channels));
        }
    }
}

/// Values whose sum is formed in single precision, side by side.
const BLOCK: usize = 512;

/// Sums side by side.
const LANES: usize = 32;

simd::multiversion! {
    /// Adds the sums of the deviations from a number and of their squares.
    fn deviations(x: &[f32], from: f32, sums: &mut [f64; 2]) {
        for block in x.chunks(BLOCK) {
            let mut lanes = [[0.0f32; LANES]; 2];
            let (chunks, rest) = block.as_chunks::<LANES>();
            for chunk in chunks {
                for i in 0..LANES {
                    let d = chunk[i] - from;
                    lanes[0][i] += d;
                    lanes[1][i] += d * d;
                }
            }
            for (i, x) in rest.iter().enumerate() {
                let d = x - from;
                lanes[0][i] += d;
                lanes[1][i] += d * d;
            }
            for (sum, lanes) in sums.iter_mut().zip(&lanes) {
                *sum += lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
            }
        }
    }
}

simd::multiversion! {
    /// Adds the sums of `dy` and of `dy` times the deviation of `x`.
    fn products(dy: &[f32], x: &[f32], mean: [f32; 2], sums: &mut [f64; 2]) {
        for (dy, x) in dy.chunks(BLOCK).zip(x.chunks(BLOCK)) {
            let mut lanes = [[0.0f32; LANES]; 2];
            let (dy, dy_rest) = dy.as_chunks::<LANES>();
            let (x, x_rest) = x.as_chunks::<LANES>();
            for (dy, x) in dy.iter().zip(x) {
                for i in 0..LANES {
                    lanes[0][i] += dy[i];
                    lanes[1][i] += dy[i] * ((x[i] - mean[0]) - mean[1]);
                }
            }
            for (i, (dy, x)) in dy_rest.iter().zip(x_rest).enumerate() {
                lanes[0][i] += dy;
                lanes[1][i] += dy * ((x - mean[0]) - mean[1]);
            }
            for (sum, lanes) in sums.iter_mut().zip(&lanes) {
                *sum += lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
            }
        }
    }
}

simd::multiversion! {
    fn normalise(y: &mut [f32], x: &[f32], mean: [f32; 2], scale: f32, bias: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = ((x - mean[0]) - mean[1]).mul_add(scale, bias);
        }
    }
}

/// The gradient before the activation of a plane.
fn through(
    dz: &mut [f32],
    dy: &[f32],
    x: &[f32],
    mean: [f32; 2],
    (scale, bias): (f32, f32),
    activation: Activation,
) {
    let mut z = [0.0f32; BLOCK];
    let blocks = dz.chunks_mut(BLOCK).zip(dy.chunks(BLOCK));
    for ((dz, dy), x) in blocks.zip(x.chunks(BLOCK)) {
        let z = &mut z[..x.len()];
        normalise(z, x, mean, scale, bias);
        simd::activation_gradient(dz, dy, z, activation);
    }
}

simd::multiversion! {
    /// `dx = a · (dy − b − c · deviation)` for `[a, b, c]`.
    fn input_gradient(dx: &mut [f32], dy: &[f32], x: &[f32], mean: [f32; 2], factors: [f32; 3]) {
        let [a, b, c] = factors;
        for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
            *dx = a * (dy - b - c * ((x - mean[0]) - mean[1]));
        }
    }
}
