//! Convolution of every channel with a kernel of its own.
//!
//! A plane with its padding is cut by the parity of rows and columns, for a stride of two into four,
//! so that what one tap of the kernel sees is a run of neighbours in one of them: the whole plane is
//! then a few long multiplications, in which the ends of rows are computed along and left out.

use std::ops::Range;

use rayon::prelude::*;

use super::super::simd;
use super::conv::Sizes;

/// Planes of one phase each, and where taps begin in them.
struct Phases {
    stride: usize,
    /// Rows and columns of a phase.
    rows: usize,
    columns: usize,
    /// Phase and first element of every tap.
    taps: Vec<(usize, usize)>,
    /// Elements from the first output to the last, ends of rows included.
    run: usize,
}

impl Phases {
    fn new(sizes: &Sizes) -> Self {
        let stride = sizes.window.stride;
        let padded = |axis: usize| {
            let (before, behind) = sizes.window.padding[axis];
            sizes.input[axis] + before + behind
        };
        let rows = padded(0).div_ceil(stride);
        let columns = padded(1).div_ceil(stride);
        let taps = (0..sizes.taps()).map(|tap| {
            let (ky, kx) = (tap / sizes.kernel[1], tap % sizes.kernel[1]);
            let phase = ky % stride * stride + kx % stride;
            (phase, ky / stride * columns + kx / stride)
        });
        Self {
            stride,
            rows,
            columns,
            taps: taps.collect(),
            run: (sizes.output[0] - 1) * columns + sizes.output[1],
        }
    }

    fn size(&self) -> usize {
        self.rows * self.columns
    }

    /// Where the values of a row of the input that lie in a phase of columns go: the row's phase, the
    /// place of the first, and the column of the input that it has.
    fn row(&self, sizes: &Sizes, y: usize, phase: usize) -> (usize, usize, usize) {
        let [(above, _), (before, _)] = sizes.window.padding;
        let row = y + above;
        // The first column of the input whose place, with padding, has this phase.
        let column = (phase + self.stride - before % self.stride) % self.stride;
        let plane = row % self.stride * self.stride + phase;
        let at = row / self.stride * self.columns + (column + before) / self.stride;
        (plane, plane * self.size() + at, column)
    }

    /// Cuts a plane of the input; `out` is zero where there is padding.
    fn cut(&self, sizes: &Sizes, plane: &[f32], out: &mut [f32]) {
        for (y, row) in plane.chunks_exact(sizes.input[1]).enumerate() {
            for phase in 0..self.stride {
                let (_, at, column) = self.row(sizes, y, phase);
                let from = row.get(column..).unwrap_or_default();
                if self.stride == 1 {
                    out[at..at + from.len()].copy_from_slice(from);
                } else {
                    let to = out[at..].iter_mut();
                    for (to, from) in to.zip(from.iter().step_by(self.stride)) {
                        *to = *from;
                    }
                }
            }
        }
    }

    /// The other way round.
    fn join(&self, sizes: &Sizes, phases: &[f32], plane: &mut [f32]) {
        for (y, row) in plane.chunks_exact_mut(sizes.input[1]).enumerate() {
            for phase in 0..self.stride {
                let (_, at, column) = self.row(sizes, y, phase);
                let to = row.get_mut(column..).unwrap_or_default();
                if self.stride == 1 {
                    to.copy_from_slice(&phases[at..at + to.len()]);
                } else {
                    for (to, from) in to.iter_mut().step_by(self.stride).zip(&phases[at..]) {
                        *to = *from;
                    }
                }
            }
        }
    }

    /// The gradient of a plane of the output with zeros at the ends of rows.
    fn spread(&self, sizes: &Sizes, dy: &[f32], out: &mut [f32]) {
        let rows = out.chunks_mut(self.columns);
        for (row, dy) in rows.zip(dy.chunks_exact(sizes.output[1])) {
            row[..dy.len()].copy_from_slice(dy);
        }
    }
}

/// Planes of a channel to a task, so that one is worth its while.
const LEAST: usize = 4096;

pub(super) fn forward(sizes: &Sizes, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let phases = Phases::new(sizes);
    let mut y = vec![0.0f32; sizes.batch * sizes.outputs * sizes.pixels()];
    y.par_chunks_mut(sizes.pixels())
        .zip(x.par_chunks(sizes.input_pixels()))
        .enumerate()
        .with_min_len(LEAST.div_ceil(sizes.pixels()))
        .for_each_init(
            || {
                let cut = vec![0.0f32; phases.size() * phases.stride * phases.stride];
                (cut, vec![0.0f32; phases.run])
            },
            |(cut, run), (i, (y, x))| {
                let channel = i % sizes.outputs;
                phases.cut(sizes, x, cut);
                let weight = &weight[channel * sizes.taps()..][..sizes.taps()];
                let sources: Vec<&[f32]> = phases
                    .taps
                    .iter()
                    .map(|&(phase, at)| &cut[phase * phases.size() + at..][..phases.run])
                    .collect();
                sum_of_taps(run, &sources, weight);
                for (y, run) in y
                    .chunks_exact_mut(sizes.output[1])
                    .zip(run.chunks(phases.columns))
                {
                    y.copy_from_slice(&run[..y.len()]);
                    if let Some(bias) = bias {
                        y.iter_mut().for_each(|y| *y += bias[channel]);
                    }
                }
            },
        );
    y
}

pub(super) fn input_gradient(sizes: &Sizes, dy: &[f32], weight: &[f32]) -> Vec<f32> {
    let phases = Phases::new(sizes);
    // Zeros before and behind the gradient, as far as a tap may lie from the first.
    let farthest = phases.taps.iter().map(|&(_, at)| at).max().unwrap_or(0);
    let mut dx = vec![0.0f32; sizes.batch * sizes.inputs * sizes.input_pixels()];
    // The taps of every phase.
    let count = phases.stride * phases.stride;
    let of_phase: Vec<Vec<usize>> = (0..count)
        .map(|phase| {
            let taps = phases.taps.iter().enumerate();
            let taps = taps.filter(|(_, (of, _))| *of == phase);
            taps.map(|(tap, _)| tap).collect()
        })
        .collect();
    dx.par_chunks_mut(sizes.input_pixels())
        .zip(dy.par_chunks(sizes.pixels()))
        .enumerate()
        .with_min_len(LEAST.div_ceil(sizes.input_pixels()))
        .for_each_init(
            || {
                let spread = vec![0.0f32; 2 * farthest + phases.size().max(phases.run)];
                (spread, vec![0.0f32; phases.size() * count])
            },
            |(spread, cut), (i, (dx, dy))| {
                let channel = i % sizes.inputs;
                phases.spread(sizes, dy, &mut spread[farthest..farthest + phases.run]);
                let weight = &weight[channel * sizes.taps()..][..sizes.taps()];
                for (taps, out) in of_phase.iter().zip(cut.chunks_exact_mut(phases.size())) {
                    let sources: Vec<&[f32]> = taps
                        .iter()
                        .map(|&tap| &spread[farthest - phases.taps[tap].1..][..out.len()])
                        .collect();
                    let weights: Vec<f32> = taps.iter().map(|&tap| weight[tap]).collect();
                    sum_of_taps(out, &sources, &weights);
                }
                phases.join(sizes, cut, dx);
            },
        );
    dx
}

pub(super) fn weight_gradient(sizes: &Sizes, dy: &[f32], x: &[f32]) -> Vec<f32> {
    let phases = Phases::new(sizes);
    let plane = |i: usize, channel: usize, size: usize| -> Range<usize> {
        let start = (i * sizes.inputs + channel) * size;
        start..start + size
    };
    let mut dw = vec![0.0f32; sizes.outputs * sizes.taps()];
    dw.par_chunks_mut(sizes.taps())
        .enumerate()
        .with_min_len(LEAST.div_ceil(sizes.batch * sizes.input_pixels()))
        .for_each_init(
            || {
                let cut = vec![0.0f32; phases.size() * phases.stride * phases.stride];
                (cut, vec![0.0f32; phases.run], vec![0.0f64; sizes.taps()])
            },
            |(cut, spread, sums), (channel, dw)| {
                sums.fill(0.0);
                for i in 0..sizes.batch {
                    phases.cut(sizes, &x[plane(i, channel, sizes.input_pixels())], cut);
                    phases.spread(sizes, &dy[plane(i, channel, sizes.pixels())], spread);
                    for (sum, &(phase, at)) in sums.iter_mut().zip(&phases.taps) {
                        let seen = &cut[phase * phases.size() + at..][..phases.run];
                        dot(spread, seen, sum);
                    }
                }
                for (dw, sum) in dw.iter_mut().zip(sums) {
                    *dw = *sum as f32;
                }
            },
        );
    dw
}

/// Elements whose sum is formed in registers.
const LANES: usize = 64;

simd::multiversion! {
    /// `y = Σ weight · source`; all sources are as long as `y`.
    fn sum_of_taps(y: &mut [f32], sources: &[&[f32]], weights: &[f32]) {
        let (chunks, rest) = y.as_chunks_mut::<LANES>();
        for (i, chunk) in chunks.iter_mut().enumerate() {
            let mut sums = [0.0f32; LANES];
            for (source, weight) in sources.iter().zip(weights) {
                let (source, _) = source.as_chunks::<LANES>();
                for (sum, x) in sums.iter_mut().zip(&source[i]) {
                    *sum += x * weight;
                }
            }
            *chunk = sums;
        }
        let done = chunks.len() * LANES;
        rest.fill(0.0);
        for (source, weight) in sources.iter().zip(weights) {
            for (y, x) in rest.iter_mut().zip(&source[done..]) {
                *y += x * weight;
            }
        }
    }
}

simd::multiversion! {
    /// Adds the sum of the products of two slices, in pieces of single precision.
    fn dot(a: &[f32], b: &[f32], sum: &mut f64) {
        for (a, b) in a.chunks(2048).zip(b.chunks(2048)) {
            *sum += f64::from(simd::dot(a, b, |x| x));
        }
    }
}
