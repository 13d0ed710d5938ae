//! Convolution of two axes, as products of matrices: the output of an image, `[out, pixels]`, is that
//! of the weight, `[out, in · kernel]`, and of the values that each pixel sees, `[in · kernel, pixels]`,
//! which are copied out for some rows of pixels at a time.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::super::product::{Matrix, Output, product_into};
use super::super::simd;
use super::{Contiguous, depthwise, output};

/// What is said of a convolution besides its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) struct Window {
    /// Of both axes.
    pub(in crate::kernels) stride: usize,
    /// Zeros before and behind, of the vertical and of the horizontal axis.
    pub(in crate::kernels) padding: [(usize, usize); 2],
    /// Whether every channel is convolved with a kernel of its own.
    pub(in crate::kernels) depthwise: bool,
    /// Whether a value is added to every channel of the output.
    pub(in crate::kernels) bias: bool,
}

/// Sizes of a convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Height and width of the input, of the kernel and of the output.
    pub(super) input: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) window: Window,
}

impl Sizes {
    /// Panics where the kernel is larger than the padded input, or the channels do not fit.
    fn new(x: &[usize], weight: &[usize], window: Window) -> Self {
        let axis = |i: usize| {
            let (before, behind) = window.padding[i];
            let padded = x[2 + i] + before + behind;
            assert!(
                padded >= weight[2 + i],
                "convolution: a kernel {weight:?} on an input {x:?}"
            );
            (padded - weight[2 + i]) / window.stride + 1
        };
        let channels = if window.depthwise { 1 } else { x[1] };
        assert!(
            weight[1] == channels && (!window.depthwise || weight[0] == x[1]),
            "convolution: a weight {weight:?} for an input {x:?}"
        );
        Self {
            batch: x[0],
            inputs: x[1],
            outputs: weight[0],
            input: [x[2], x[3]],
            kernel: [weight[2], weight[3]],
            output: [axis(0), axis(1)],
            window,
        }
    }

    pub(super) fn input_pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    pub(super) fn pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Values that a pixel of the output sees.
    fn seen(&self) -> usize {
        self.inputs * self.taps()
    }

    /// Whether a pixel of the output sees the pixel of the input at its place, and no other.
    fn is_plain(&self) -> bool {
        self.taps() == 1 && self.window.stride == 1 && self.window.padding == [(0, 0); 2]
    }

    /// Rows of the output whose values are copied out at a time.
    fn rows(&self) -> usize {
        let row = self.seen() * self.output[1];
        (COPIED / row.max(1)).clamp(1, self.output[0])
    }

    /// Parts of the rows of the output.
    fn parts(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (rows, height) = (self.rows(), self.output[0]);
        (0..height)
            .step_by(rows)
            .map(move |first| first..(first + rows).min(height))
    }

    /// The place of the input's axis that an output's place sees at a place of the kernel.
    fn source(&self, axis: usize, output: usize, tap: usize) -> Option<usize> {
        let at = output * self.window.stride + tap;
        at.checked_sub(self.window.padding[axis].0)
            .filter(|&at| at < self.input[axis])
    }

    /// Places of the output, on the horizontal axis, that see the input at a place of the kernel.
    fn columns(&self, tap: usize) -> std::ops::Range<usize> {
        let (before, stride) = (self.window.padding[1].0, self.window.stride);
        let first = before.saturating_sub(tap).div_ceil(stride);
        let end = (self.input[1] + before)
            .saturating_sub(tap)
            .div_ceil(stride)
            .min(self.output[1]);
        first.min(end)..end
    }
}

/// Floats that are copied out at a time: what stays in a cache of 1 MiB.
const COPIED: usize = 256 * 1024;

/// Parts of a batch whose sums are formed apart from each other, so that as many threads have work. Not
/// their number, so that sums have the same bits with any.
const GROUPS: usize = 8;

/// What some rows of the output see of an image: `[in · kernel, pixels]`.
fn copy_out(sizes: &Sizes, image: &[f32], rows: std::ops::Range<usize>, out: &mut [f32]) {
    let (width, stride) = (sizes.output[1], sizes.window.stride);
    let pixels = rows.len() * width;
    let mut lines = out.chunks_exact_mut(pixels.max(1));
    for plane in image.chunks_exact(sizes.input_pixels()) {
        for ky in 0..sizes.kernel[0] {
            for kx in 0..sizes.kernel[1] {
                let Some(line) = lines.next() else { return };
                let columns = sizes.columns(kx);
                for (y, line) in rows.clone().zip(line.chunks_exact_mut(width)) {
                    let Some(from) = sizes.source(0, y, ky).filter(|_| !columns.is_empty()) else {
                        line.fill(0.0);
                        continue;
                    };
                    let start = columns.start * stride + kx - sizes.window.padding[1].0;
                    let from = &plane[from * sizes.input[1] + start..];
                    line[..columns.start].fill(0.0);
                    line[columns.end..].fill(0.0);
                    let line = &mut line[columns.clone()];
                    if stride == 1 {
                        line.copy_from_slice(&from[..line.len()]);
                    } else {
                        for (x, from) in line.iter_mut().zip(from.iter().step_by(stride)) {
                            *x = *from;
                        }
                    }
                }
            }
        }
    }
}

/// Adds the gradients of what some rows of the output see, as [`copy_out`] lays it out, to that of the
/// image.
fn add_back(sizes: &Sizes, seen: &[f32], rows: std::ops::Range<usize>, image: &mut [f32]) {
    let (width, stride) = (sizes.output[1], sizes.window.stride);
    let pixels = rows.len() * width;
    let mut lines = seen.chunks_exact(pixels.max(1));
    for plane in image.chunks_exact_mut(sizes.input_pixels()) {
        for ky in 0..sizes.kernel[0] {
            for kx in 0..sizes.kernel[1] {
                let Some(line) = lines.next() else { return };
                let columns = sizes.columns(kx);
                for (y, line) in rows.clone().zip(line.chunks_exact(width)) {
                    let Some(to) = sizes.source(0, y, ky).filter(|_| !columns.is_empty()) else {
                        continue;
                    };
                    let start = columns.start * stride + kx - sizes.window.padding[1].0;
                    let to = &mut plane[to * sizes.input[1] + start..];
                    let line = &line[columns.clone()];
                    if stride == 1 {
                        for (x, from) in to.iter_mut().zip(line) {
                            *x += from;
                        }
                    } else {
                        for (x, from) in to.iter_mut().step_by(stride).zip(line) {
                            *x += from;
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    window: Window,
) -> FlexTensor {
    let [x, weight] = [x, weight].map(Contiguous::new);
    let bias = window.bias.then(|| Contiguous::new(bias));
    let bias = bias.as_ref().map(Contiguous::values);
    let sizes = Sizes::new(&x.dims(), &weight.dims(), window);
    let dims = vec![sizes.batch, sizes.outputs, sizes.output[0], sizes.output[1]];
    let y = if window.depthwise {
        depthwise::forward(&sizes, x.values(), weight.values(), bias)
    } else {
        dense(&sizes, x.values(), weight.values(), bias)
    };
    output(y, dims)
}

fn dense(sizes: &Sizes, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let (seen, pixels) = (sizes.seen(), sizes.pixels());
    let weight = Matrix::rows(weight, [sizes.outputs, seen]).transposed();
    let mut y = vec![0.0f32; sizes.batch * sizes.outputs * pixels];
    let image = sizes.inputs * sizes.input_pixels();
    y.par_chunks_mut((sizes.outputs * pixels).max(1))
        .zip(x.par_chunks(image.max(1)))
        .for_each(|(y, x)| {
            let mut copied = Vec::new();
            for rows in sizes.parts() {
                let at = rows.start * sizes.output[1]..rows.end * sizes.output[1];
                let seen = of_rows(sizes, x, rows, &mut copied);
                let out = Output::columns(&mut y[at.start..], [at.len(), sizes.outputs], pixels);
                product_into(seen.transposed(), weight, bias, out);
            }
        });
    y
}

/// What some rows of the output see, `[in · kernel, pixels]`: in the image where it lies so, or copied.
fn of_rows<'a>(
    sizes: &Sizes,
    image: &'a [f32],
    rows: std::ops::Range<usize>,
    copied: &'a mut Vec<f32>,
) -> Matrix<'a> {
    let at = rows.start * sizes.output[1]..rows.end * sizes.output[1];
    let shape = [sizes.seen(), at.len()];
    if sizes.is_plain() {
        return Matrix::new(&image[at.start..], shape, [sizes.pixels(), 1]);
    }
    copied.resize(shape[0] * shape[1], 0.0);
    copy_out(sizes, image, rows, copied);
    Matrix::rows(copied, shape)
}

/// The gradient of the input.
fn input_gradient(sizes: &Sizes, dy: &[f32], weight: &[f32]) -> Vec<f32> {
    let (seen, pixels) = (sizes.seen(), sizes.pixels());
    let weight = Matrix::rows(weight, [sizes.outputs, seen]);
    let image = sizes.inputs * sizes.input_pixels();
    let mut dx = vec![0.0f32; sizes.batch * image];
    dx.par_chunks_mut(image.max(1))
        .zip(dy.par_chunks((sizes.outputs * pixels).max(1)))
        .for_each(|(dx, dy)| {
            let mut copied = Vec::new();
            for rows in sizes.parts() {
                let at = rows.start * sizes.output[1]..rows.end * sizes.output[1];
                let dy = Matrix::new(&dy[at.start..], [sizes.outputs, at.len()], [pixels, 1]);
                if sizes.is_plain() {
                    let out = Output::columns(&mut dx[at.start..], [at.len(), seen], pixels);
                    product_into(dy.transposed(), weight, None, out);
                } else {
                    copied.resize(seen * at.len(), 0.0);
                    let out = Output::columns(&mut copied, [at.len(), seen], at.len());
                    product_into(dy.transposed(), weight, None, out);
                    add_back(sizes, &copied, rows, dx);
                }
            }
        });
    dx
}

/// The gradient of the weight.
fn weight_gradient(sizes: &Sizes, dy: &[f32], x: &[f32]) -> Vec<f32> {
    let (seen, pixels) = (sizes.seen(), sizes.pixels());
    let image = sizes.inputs * sizes.input_pixels();
    let group = sizes.batch.div_ceil(GROUPS).max(1);
    let sums: Vec<Vec<f32>> = x
        .par_chunks((group * image).max(1))
        .zip(dy.par_chunks((group * sizes.outputs * pixels).max(1)))
        .map(|(x, dy)| {
            let mut sum = vec![0.0f32; sizes.outputs * seen];
            let mut copied = Vec::new();
            let images = x.chunks(image.max(1));
            for (x, dy) in images.zip(dy.chunks((sizes.outputs * pixels).max(1))) {
                for rows in sizes.parts() {
                    let at = rows.start * sizes.output[1]..rows.end * sizes.output[1];
                    let dy = Matrix::new(&dy[at.start..], [sizes.outputs, at.len()], [pixels, 1]);
                    let seen_here = of_rows(sizes, x, rows, &mut copied);
                    let out = Output::rows(&mut sum, [sizes.outputs, seen]).adding();
                    product_into(dy, seen_here.transposed(), None, out);
                }
            }
            sum
        })
        .collect();
    let mut sums = sums.into_iter();
    let mut total = sums
        .next()
        .unwrap_or_else(|| vec![0.0; sizes.outputs * seen]);
    for sum in sums {
        for (total, x) in total.iter_mut().zip(sum) {
            *total += x;
        }
    }
    total
}

#[derive(Debug)]
struct Convolution;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State {
    x: FlexTensor,
    weight: FlexTensor,
    window: Window,
}

pub(super) fn record<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex>>,
    weight: FloatTensor<Autodiff<Flex>>,
    bias: FloatTensor<Autodiff<Flex>>,
    window: Window,
) -> FloatTensor<Autodiff<Flex>> {
    let nodes = [x.node(), weight.node(), bias.node()];
    let [x, weight, bias] = [x, weight, bias].map(|x| x.into_primitive());
    let y = forward(x.clone(), weight.clone(), bias, window);
    match Convolution.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(y),
        OpsKind::Tracked(prep) => prep.finish(State { x, weight, window }, y),
    }
}

impl Backward<Flex, 3> for Convolution {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [node_x, node_weight, node_bias] = ops.parents;
        let State { x, weight, window } = ops.state;
        let dy = Contiguous::new(grads.consume::<Flex>(&ops.node));
        let [x, weight] = [x, weight].map(Contiguous::new);
        let sizes = Sizes::new(&x.dims(), &weight.dims(), window);
        if let Some(node) = node_x {
            let dx = if window.depthwise {
                depthwise::input_gradient(&sizes, dy.values(), weight.values())
            } else {
                input_gradient(&sizes, dy.values(), weight.values())
            };
            grads.register::<Flex>(node.id, output(dx, x.dims()));
        }
        if let Some(node) = node_weight {
            let dw = if window.depthwise {
                depthwise::weight_gradient(&sizes, dy.values(), x.values())
            } else {
                weight_gradient(&sizes, dy.values(), x.values())
            };
            grads.register::<Flex>(node.id, output(dw, weight.dims()));
        }
        if let Some(node) = node_bias.filter(|_| window.bias) {
            let sums = (0..sizes.outputs).into_par_iter().map(|channel| {
                let planes = dy.values().chunks_exact(sizes.pixels().max(1));
                let planes = planes.skip(channel).step_by(sizes.outputs);
                let mut sum = 0.0f64;
                planes.for_each(|plane| add_up(plane, &mut sum));
                sum as f32
            });
            let sums = output(sums.collect(), vec![sizes.outputs]);
            grads.register::<Flex>(node.id, sums);
        }
    }
}

simd::multiversion! {
    /// Adds the sum of a slice, in pieces of single precision.
    fn add_up(x: &[f32], sum: &mut f64) {
        for x in x.chunks(512) {
            *sum += f64::from(simd::sum(x, |x| x));
        }
    }
}
