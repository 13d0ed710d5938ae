//! Convolutions of every channel on its own.

use rayon::prelude::*;

use super::memory::{Buffer, Shared};
use super::tile::Finish;
#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{Isa, Portable, Vector};
use super::{BLOCK, PackedDepthwise, Shape, Window, finish};

/// Convolution of blocked `x` channel by channel into blocked `out`; returns the shape of `out`.
/// `means` `[batch, channels]` takes the means of the output's channels.
///
/// Panics where a length does not fit, the kernel does not fit the padded input, or the
/// activation is not one of identity, ReLU, ReLU6 and SiLU.
pub fn depthwise(
    x: &[f32],
    shape: Shape,
    weight: &PackedDepthwise,
    window: Window,
    activation: super::Activation,
    means: Option<&mut [f32]>,
    out: &mut [f32],
) -> Shape {
    let finish = finish(activation);
    run(Isa::detect(), x, shape, weight, window, finish, means, out)
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
    /// Where the sum of all outputs goes.
    pub sum: Option<&'a mut [f32; BLOCK]>,
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
    means: Option<&mut [f32]>,
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
    if let Some(means) = &means {
        assert_eq!(
            means.len(),
            shape.batch * shape.channels,
            "depthwise convolution: means of {shape:?}"
        );
    }

    let planes = shape.batch * shape.blocks();
    let taps = packed.kernel[0] * packed.kernel[1];
    // Pieces of a plane only where there are few planes, and each is worth a task.
    let wanted = (8 * rayon::current_num_threads()).div_ceil(planes.max(1));
    let worth = (to.plane() * taps) >> 14;
    let pieces = wanted.min(worth).clamp(1, height);
    let lines = height.div_ceil(pieces);
    let pieces = height.div_ceil(lines);
    let mut sums = means
        .is_some()
        .then(|| Buffer::new(planes * pieces * BLOCK));
    let shared = Shared::new(out);
    let kernel = select(isa, packed.kernel[1], window.stride);
    let task = |(number, sum): (usize, Option<&mut [f32; BLOCK]>)| {
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
                sum,
            }
        };
        // SAFETY: `kernel` is for an instruction set that this processor has, and for this
        // width and stride; no two tasks write the same rows.
        unsafe { kernel(&mut rows) };
    };
    let small = to.blocked_len() * taps < 1 << 18;
    match &mut sums {
        Some(sums) => {
            let sums = sums.as_chunks_mut::<BLOCK>().0;
            if small {
                sums.iter_mut().map(Some).enumerate().for_each(task);
            } else {
                sums.par_iter_mut().map(Some).enumerate().for_each(task);
            }
        }
        None if small => (0..planes * pieces).for_each(|n| task((n, None))),
        None => (0..planes * pieces)
            .into_par_iter()
            .for_each(|n| task((n, None))),
    }
    if let (Some(means), Some(sums)) = (means, sums) {
        mean_of_parts(&sums, pieces, to, means);
    }
    to
}

/// Means of the channels of `shape` `[batch, channels]` from the sums of parts of them, `[batch,
/// blocks, parts, 16]`.
pub(super) fn mean_of_parts(sums: &[f32], parts: usize, shape: Shape, means: &mut [f32]) {
    let scale = 1.0 / shape.plane() as f32;
    for (i, mean) in means.iter_mut().enumerate() {
        let (image, channel) = (i / shape.channels, i % shape.channels);
        let plane = image * shape.blocks() + channel / BLOCK;
        let parts = &sums[plane * parts * BLOCK..(plane + 1) * parts * BLOCK];
        let parts = parts.iter().skip(channel % BLOCK).step_by(BLOCK);
        *mean = parts.sum::<f32>() * scale;
    }
}

/// # Safety
/// The processor has the instructions of `V`; the pointers of `rows` lead to planes of the sizes
/// that it names, `rows.lines` to rows of the output that nobody else uses. `WIDTH` and `STRIDE`
/// are the kernel's width and the stride, or 0 for any.
#[inline(always)]
unsafe fn rows<V: Vector, const WIDTH: usize, const STRIDE: usize, const PIXELS: usize>(
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
                        total = total.add(y);
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
                            total = total.add(*sum);
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
        if let Some(sum) = &mut t.sum {
            total.store(sum.as_mut_ptr());
        }
    }
}

/// [`rows`] for an instruction set, width and stride.
///
/// # Safety
/// That of [`rows`].
pub(super) type Kernel = unsafe fn(&mut Rows);

/// The kernel for a kernel's width and a stride.
pub(super) fn select(isa: Isa, width: usize, stride: usize) -> Kernel {
    macro_rules! sizes {
        ($f:ident, $pixels:literal) => {
            match (width, stride) {
                (3, 1) => $f::<3, 1, $pixels>,
                (3, 2) => $f::<3, 2, $pixels>,
                (5, 1) => $f::<5, 1, $pixels>,
                (5, 2) => $f::<5, 2, $pixels>,
                _ => $f::<0, 0, $pixels>,
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
        unsafe fn $name<const WIDTH: usize, const STRIDE: usize, const PIXELS: usize>(
            t: &mut Rows,
        ) {
            // SAFETY: the contract is the same.
            unsafe { rows::<$vector, WIDTH, STRIDE, PIXELS>(t) }
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
