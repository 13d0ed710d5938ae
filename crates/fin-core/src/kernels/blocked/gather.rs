//! Copies of input rows with their padding, in which a kernel's elements are at fixed distances.

use std::ops::Range;

use super::memory::Buffer;
use super::{BLOCK, Shape, Window};

/// Layout `[blocks, images, row phases, rows, column phases, columns, lanes]` of a copy. Rows and
/// columns whose distance is not a multiple of the stride go to different phases, so that pixels
/// that neighbouring outputs read are neighbours, and those that no output reads are left out.
#[derive(Debug, Clone)]
pub(super) struct Copied {
    pub stride: usize,
    pub kernel: [usize; 2],
    pub lanes: usize,
    /// Rows and columns of a phase.
    extent: [usize; 2],
    phases: [usize; 2],
    /// Floats of an image in a block.
    pub image: usize,
}

impl Copied {
    /// For `lines` rows of `width` output pixels.
    pub(super) fn new(
        window: Window,
        kernel: [usize; 2],
        lanes: usize,
        lines: usize,
        width: usize,
    ) -> Self {
        let stride = window.stride;
        let extent = [
            lines + (kernel[0] - 1) / stride,
            width + (kernel[1] - 1) / stride,
        ];
        let phases = kernel.map(|k| k.min(stride));
        Self {
            stride,
            kernel,
            lanes,
            extent,
            phases,
            image: extent.iter().chain(&phases).product::<usize>() * lanes,
        }
    }

    /// From the inputs of an output pixel to those of the pixel below.
    pub(super) fn row(&self) -> usize {
        self.phases[1] * self.extent[1] * self.lanes
    }

    /// From an output pixel's place to what each of the kernel's elements multiplies.
    pub(super) fn taps(&self) -> Vec<usize> {
        let [kh, kw] = self.kernel;
        let s = self.stride;
        let at = |r: usize, c: usize| {
            let row = r % s * self.extent[0] + r / s;
            row * self.row() + (c % s * self.extent[1] + c / s) * self.lanes
        };
        (0..kh)
            .flat_map(|r| (0..kw).map(move |c| at(r, c)))
            .collect()
    }

    /// Copies what the output rows `lines` of `images` read.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn fill(
        &self,
        to: &mut Buffer,
        x: &[f32],
        shape: Shape,
        window: Window,
        images: Range<usize>,
        lines: Range<usize>,
        scale: Option<&[f32]>,
    ) {
        let blocks = shape.channels.div_ceil(self.lanes);
        let line = shape.width * self.lanes;
        to.resize(blocks * images.len() * self.image);
        self.rows(to, shape, window, images, lines, |row, place| {
            let Some(at) = place.at else {
                row.fill(0.0);
                return;
            };
            self.phases(
                row,
                &x[at..at + line],
                window.padding[1].0,
                |row, x| match x {
                    Some(x) => self.pixels(row, x),
                    None => row.fill(0.0),
                },
            );
            if let Some(scale) = scale {
                let channels = place.block * BLOCK..shape.channels.min((place.block + 1) * BLOCK);
                let scale = &scale[place.image * shape.channels..][channels];
                let mut factors = [1.0; BLOCK];
                factors[..scale.len()].copy_from_slice(scale);
                for x in row.as_chunks_mut::<BLOCK>().0 {
                    for (x, factor) in x.iter_mut().zip(factors) {
                        *x *= factor;
                    }
                }
            }
        });
    }

    /// Every row of a copy for the output rows `lines` of `images`, in the order of its layout.
    #[inline]
    pub(super) fn rows<T>(
        &self,
        to: &mut [T],
        shape: Shape,
        window: Window,
        images: Range<usize>,
        lines: Range<usize>,
        mut copy: impl FnMut(&mut [T], Place),
    ) {
        let blocks = shape.channels.div_ceil(self.lanes);
        let top = window.padding[0].0;
        let mut rows = to.chunks_exact_mut(self.row());
        for block in 0..blocks {
            for image in images.clone() {
                let plane = (image * blocks + block) * shape.height;
                for phase in 0..self.phases[0] {
                    for i in lines.start..lines.start + self.extent[0] {
                        let from = (i * self.stride + phase).checked_sub(top);
                        let from = from.filter(|from| *from < shape.height);
                        let at = from.map(|from| (plane + from) * shape.width * self.lanes);
                        if let Some(row) = rows.next() {
                            copy(row, Place { image, block, at });
                        }
                    }
                }
            }
        }
    }

    /// Every part of a row of the copy, by column phases, with the input from its first pixel on, or none for
    /// padding. Pixels of the input are `stride` apart.
    #[inline]
    pub(super) fn phases<T>(
        &self,
        row: &mut [T],
        x: &[f32],
        left: usize,
        mut copy: impl FnMut(&mut [T], Option<&[f32]>),
    ) {
        let (lanes, columns) = (self.lanes, self.extent[1]);
        let width = x.len() / lanes;
        for (phase, row) in row.chunks_exact_mut(columns * lanes).enumerate() {
            // Column `q` of the phase is input column `q * stride + phase - left`.
            let first = left
                .saturating_sub(phase)
                .div_ceil(self.stride)
                .min(columns);
            let end = (width + left).saturating_sub(phase).div_ceil(self.stride);
            let end = end.clamp(first, columns);
            copy(&mut row[..first * lanes], None);
            copy(&mut row[end * lanes..], None);
            if first < end {
                let x = &x[(first * self.stride + phase - left) * lanes..];
                copy(&mut row[first * lanes..end * lanes], Some(x));
            }
        }
    }

    /// As many pixels as there is room for.
    #[inline]
    fn pixels(&self, row: &mut [f32], x: &[f32]) {
        let lanes = self.lanes;
        if self.stride == 1 {
            row.copy_from_slice(&x[..row.len()]);
        } else if lanes == BLOCK {
            let (row, _) = row.as_chunks_mut::<BLOCK>();
            let (x, _) = x.as_chunks::<BLOCK>();
            for (to, from) in row.iter_mut().zip(x.iter().step_by(self.stride)) {
                *to = *from;
            }
        } else {
            let x = x.chunks(lanes).step_by(self.stride);
            for (to, from) in row.chunks_exact_mut(lanes).zip(x) {
                to.copy_from_slice(from);
            }
        }
    }
}

/// What a row of a copy is of.
pub(super) struct Place {
    pub image: usize,
    pub block: usize,
    /// Where its first pixel is in the input; none for a row of padding.
    pub at: Option<usize>,
}
