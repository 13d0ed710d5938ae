//! Convolutions of every channel on its own.

use rayon::prelude::*;

use super::int8::Range;
use super::memory::{Buffer, Shared};
use super::tile::Finish;
#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{Isa, Portable, Vector};
use super::{BLOCK, PackedDepthwise, Shape, Window, finish};

/// What is to be found out of the channels of an output while it is made.
#[derive(Debug, Default)]
pub struct Summary<'a> {
    /// Takes their means, `[batch, channels]`.
    pub means: Option<&'a mut [f32]>,
    /// Takes their smallest and largest values, zero among them, `[batch, channels]`: [`Range::of_channels`]. Where a
    /// value is not finite, nor is what stands here.
    pub extents: Option<&'a mut [Range]>,
}

/// Pieces of a plane that are tasks.
const MOST_PIECES: usize = 16;

/// Floats that are kept of a part of a plane: sums, largest and smallest values.
pub(super) const PART: usize = 3 * BLOCK;

impl Summary<'_> {
    /// Room for `parts` parts of every plane of `shape`, or none. Panics where a length does not fit.
    pub(super) fn parts(&self, what: &str, parts: usize, shape: Shape) -> Option<Buffer> {
        let lengths = [
            self.means.as_ref().map(|m| m.len()),
            self.extents.as_ref().map(|e| e.len()),
        ];
        for length in lengths.into_iter().flatten() {
            assert_eq!(
                length,
                shape.batch * shape.channels,
                "{what}: means of {shape:?}"
            );
        }
        let wanted = lengths.iter().any(Option::is_some);
        wanted.then(|| Buffer::new(shape.batch * shape.blocks() * parts * PART))
    }

    /// Of `[batch, blocks, parts, 3, 16]`.
    pub(super) fn finish(self, found: &[f32], parts: usize, shape: Shape) {
        let part = |i: usize| {
            let (image, channel) = (i / shape.channels, i % shape.channels);
            let plane = image * shape.blocks() + channel / BLOCK;
            let parts = &found[plane * parts * PART..(plane + 1) * parts * PART];
            parts.iter().skip(channel % BLOCK).step_by(BLOCK)
        };
        if let Some(means) = self.means {
            let scale = 1.0 / shape.plane() as f32;
            for (i, mean) in means.iter_mut().enumerate() {
                *mean = part(i).step_by(3).sum::<f32>() * scale;
            }
        }
        if let Some(extents) = self.extents {
            for (i, extent) in extents.iter_mut().enumerate() {
                let sum = part(i).step_by(3).sum::<f32>();
                // What is not a number gets lost in a comparison, but not in a sum.
                let poison = sum * 0.0;
                *extent = Range {
                    high: part(i).skip(1).step_by(3).fold(0.0f32, |a, b| a.max(*b)) + poison,
                    low: part(i).skip(2).step_by(3).fold(0.0f32, |a, b| a.min(*b)) + poison,
                };
            }
        }
    }
}

/// Convolution of blocked `x` channel by channel into blocked `out`; returns the shape of `out`.
///
/// Panics where a length does not fit, the kernel does not fit the padded input, or the
/// activation is not one of identity, ReLU, ReLU6 and SiLU.
pub fn depthwise(
    x: &[f32],
    shape: Shape,
    weight: &PackedDepthwise,
    window: Window,
    activation: super::Activation,
    summary: Summary,
    out: &mut [f32],
) -> Shape {
    let finish = finish(activation);
    run(
        Isa::detect(),
        x,
        shape,
        weight,
        window,
        finish,
        summary,
        out,
    )
}

/// Rows of one block of channels of one image.
pub(super) struct Rows<'a> {
    /// The plane's first pixel.
    pub x: *const f32,
    pub height: usize,
    pub width: usize,
    /// `[kh, kw, 16]`.
    pub weight: *const f32,
    pub bias: *const f32,
    pub kernel: [usize; 2],
    pub window: Window,
    /// The output plane's first pixel.
    pub out: *mut f32,
    pub out_width: usize,
    pub lines: std::ops::Range<usize>,
    pub finish: Finish,
    /// Where the sums of all outputs go, and the largest and smallest ones where the kernel has them.
    pub part: Option<&'a mut [f32; PART]>,
}

/// [`depthwise`] with an instruction set.
#[allow(clippy::too_many_arguments)]
pub(super) fn run(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    packed: &PackedDepthwise,
    window: Window,
    finish: Finish,
    summary: Summary,
    out: &mut [f32],
) -> Shape {
    shape.check("depthwise convolution: input", x.len());
    assert_eq!(
        shape.channels, packed.channels,
        "depthwise convolution: the input has {} channels and the weight {}",
        shape.channels, packed.channels
    );
    let [height, width] = window.output(shape.height, shape.width, packed.kernel);
    let to = Shape {
        height,
        width,
        ..shape
    };
    to.check("depthwise convolution: output", out.len());

    let planes = shape.batch * shape.blocks();
    let taps = packed.kernel[0] * packed.kernel[1];
    // Pieces of a plane where each is worth a task; as many for any number of threads and images, so that
    // sums have the same bits.
    let worth = (to.plane() * taps) >> 14;
    let pieces = worth.min(MOST_PIECES).clamp(1, height);
    let lines = height.div_ceil(pieces);
    let pieces = height.div_ceil(lines);
    let mut parts = summary.parts("depthwise convolution", pieces, to);
    let shared = Shared::new(out);
    let extents = summary.extents.is_some();
    let kernel = select(isa, packed.kernel[1], window.stride, extents);
    let task = |(number, part): (usize, Option<&mut [f32; PART]>)| {
        let (plane, piece) = (number / pieces, number % pieces);
        let block = plane % shape.blocks();
        let start = piece * lines;
        // SAFETY: `plane` and `block` are within the checked lengths of input, output and weight.
        let mut rows = unsafe {
            Rows {
                x: x.as_ptr().add(plane * shape.plane() * BLOCK),
                height: shape.height,
                width: shape.width,
                weight: packed.weight.as_ptr().add(block * taps * BLOCK),
                bias: packed.bias.as_ptr().add(block * BLOCK),
                kernel: packed.kernel,
                window,
                out: shared.get().add(plane * to.plane() * BLOCK),
                out_width: to.width,
                lines: start..(start + lines).min(height),
                finish,
                part,
            }
        };
        // SAFETY: `kernel` is for an instruction set that this processor has, and for this
        // width and stride; no two tasks write the same rows.
        unsafe { kernel(&mut rows) };
    };
    let small = to.blocked_len() * taps < 1 << 18;
    match &mut parts {
        Some(parts) => {
            let parts = parts.as_chunks_mut::<PART>().0;
            if small {
                parts.iter_mut().map(Some).enumerate().for_each(task);
            } else {
                parts.par_iter_mut().map(Some).enumerate().for_each(task);
            }
        }
        None if small => (0..planes * pieces).for_each(|n| task((n, None))),
        None => (0..planes * pieces)
            .into_par_iter()
            .for_each(|n| task((n, None))),
    }
    if let Some(parts) = parts {
        summary.finish(&parts, pieces, to);
    }
    to
}

/// # Safety
/// The processor has the instructions of `V`; the pointers of `rows` lead to planes of the sizes
/// that it names, `rows.lines` to rows of the output that nobody else uses. `WIDTH` and `STRIDE`
/// are the kernel's width and the stride, or 0 for any; `EXTENTS` says whether the largest and smallest outputs are
/// looked for.
#[inline(always)]
unsafe fn rows<
    V: Vector,
    const WIDTH: usize,
    const STRIDE: usize,
    const PIXELS: usize,
    const EXTENTS: bool,
>(
    t: &mut Rows,
) {
    let stride = if STRIDE == 0 { t.window.stride } else { STRIDE };
    let kernel_width = if WIDTH == 0 { t.kernel[1] } else { WIDTH };
    let (top, left) = (t.window.padding[0].0, t.window.padding[1].0);
    // Output columns from `first` to `end` read no padding.
    let end = match (t.width + left).checked_sub(kernel_width) {
        Some(room) => (room / stride + 1).min(t.out_width),
        None => 0,
    };
    let first = left.div_ceil(stride).min(t.out_width);
    let end = end.max(first);
    // SAFETY: rows and columns of the kernel are limited to those within the input: above by
    // `high` and in `border` by the same rule for columns, and between `first` and `end` all are.
    unsafe {
        let bias = V::load(t.bias);
        let mut total = V::splat(0.0);
        let (mut high, mut low) = (total, total);
        macro_rules! look {
            ($y:expr) => {
                total = total.add($y);
                if EXTENTS {
                    high = $y.max(high);
                    low = $y.min(low);
                }
            };
        }
        for line in t.lines.clone() {
            let row = line * stride;
            let low = top.saturating_sub(row).min(t.kernel[0]);
            let high = (t.height + top).saturating_sub(row).clamp(low, t.kernel[0]);
            let x = t.x.add((row + low).saturating_sub(top) * t.width * BLOCK);
            let w = t.weight.add(low * kernel_width * BLOCK);
            let out = t.out.add(line * t.out_width * BLOCK);
            let count = high - low;

            // Written out, as a call would pass vectors through memory.
            macro_rules! border {
                ($columns:expr) => {
                    for column in $columns {
                        let at = column * stride;
                        let from = left.saturating_sub(at).min(kernel_width);
                        let to = (t.width + left).saturating_sub(at);
                        let to = to.clamp(from, kernel_width);
                        let mut sum = bias;
                        for r in 0..count {
                            let x = x.add(r * t.width * BLOCK);
                            let w = w.add(r * kernel_width * BLOCK);
                            for c in from..to {
                                let x = V::load(x.add((at + c - left) * BLOCK));
                                sum = x.mul_add(V::load(w.add(c * BLOCK)), sum);
                            }
                        }
                        let y = t.finish.apply(sum);
                        y.store(out.add(column * BLOCK));
                        look!(y);
                    }
                };
            }
            let all = if WIDTH == 0 { t.out_width } else { first };
            border!(0..all);
            if WIDTH == 0 {
                continue;
            }
            let mut column = first;
            macro_rules! interior {
                ($pixels:expr) => {
                    while end - column >= $pixels {
                        let x = x.add((column * stride - left) * BLOCK);
                        let mut sums = [bias; $pixels];
                        for r in 0..count {
                            let x = x.add(r * t.width * BLOCK);
                            let mut ws = [bias; WIDTH];
                            for (c, ws) in ws.iter_mut().enumerate() {
                                *ws = V::load(w.add((r * WIDTH + c) * BLOCK));
                            }
                            for (c, w) in ws.iter().enumerate() {
                                for (p, sum) in sums.iter_mut().enumerate() {
                                    let x = V::load(x.add((p * STRIDE + c) * BLOCK));
                                    *sum = x.mul_add(*w, *sum);
                                }
                            }
                        }
                        let out = out.add(column * BLOCK);
                        match t.finish {
                            Finish::Silu => {
                                for sum in &mut sums {
                                    *sum = sum.silu();
                                }
                            }
                            Finish::Clamp(low, high) => {
                                for sum in &mut sums {
                                    *sum = sum.clamp(low, high);
                                }
                            }
                        }
                        for (p, sum) in sums.iter().enumerate() {
                            sum.store(out.add(p * BLOCK));
                            look!(*sum);
                        }
                        column += $pixels;
                    }
                };
            }
            interior!(PIXELS);
            interior!(2);
            interior!(1);
            border!(end..t.out_width);
        }
        if let Some(part) = &mut t.part {
            total.store(part.as_mut_ptr());
            if EXTENTS {
                high.store(part.as_mut_ptr().add(BLOCK));
                low.store(part.as_mut_ptr().add(2 * BLOCK));
            }
        }
    }
}

/// [`rows`] for an instruction set, width and stride.
///
/// # Safety
/// That of [`rows`].
pub(super) type Kernel = unsafe fn(&mut Rows);

/// The kernel for a kernel's width and a stride, with or without the largest and smallest outputs.
pub(super) fn select(isa: Isa, width: usize, stride: usize, extents: bool) -> Kernel {
    macro_rules! sizes {
        ($f:ident, $pixels:literal) => {
            if extents {
                sizes!($f, $pixels, true)
            } else {
                sizes!($f, $pixels, false)
            }
        };
        ($f:ident, $pixels:literal, $extents:literal) => {
            match (width, stride) {
                (3, 1) => $f::<3, 1, $pixels, $extents>,
                (3, 2) => $f::<3, 2, $pixels, $extents>,
                (5, 1) => $f::<5, 1, $pixels, $extents>,
                (5, 2) => $f::<5, 2, $pixels, $extents>,
                _ => $f::<0, 0, $pixels, $extents>,
            }
        };
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => sizes!(avx512, 8),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => sizes!(avx2, 4),
        Isa::Portable => sizes!(portable, 2),
    }
}

/// Declares [`rows`] compiled for an instruction set.
macro_rules! compiled {
    ($(#[$attribute:meta])* $name:ident, $vector:ty) => {
        $(#[$attribute])*
        unsafe fn $name<
            const WIDTH: usize,
            const STRIDE: usize,
            const PIXELS: usize,
            const EXTENTS: bool,
        >(
            t: &mut Rows,
        ) {
            // SAFETY: the contract is the same.
            unsafe { rows::<$vector, WIDTH, STRIDE, PIXELS, EXTENTS>(t) }
        }
    };
}

compiled! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,fma")]
    avx512, Avx512
}
compiled! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    avx2, Avx2
}
compiled! { portable, Portable }
