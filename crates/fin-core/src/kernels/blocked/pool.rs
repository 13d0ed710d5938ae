//! Pooling, sums and scaling of blocked activations, and the way in and out of blocks. They read
//! more than they compute, so that the base instructions are enough.

use rayon::prelude::*;

use super::{BLOCK, Shape, Window};

/// Most floats of a task of the element-wise functions.
const PIECE: usize = 1 << 15;

/// Maximum over windows of `kernel` by `kernel` pixels; padding never is the maximum. Returns the
/// shape of `out`.
///
/// Panics where a length does not fit, or a window would lie in padding alone.
pub fn max_pool(x: &[f32], shape: Shape, kernel: usize, window: Window, out: &mut [f32]) -> Shape {
    shape.check("max pooling: input", x.len());
    let sides = window.padding.iter().flat_map(|(a, b)| [a, b]);
    assert!(
        kernel > 0 && sides.max() < Some(&kernel),
        "max pooling: padding {:?} is not below the kernel of {kernel}",
        window.padding
    );
    let [height, width] = window.output(shape.height, shape.width, [kernel; 2]);
    let to = Shape {
        height,
        width,
        ..shape
    };
    to.check("max pooling: output", out.len());
    let (x, _) = x.as_chunks::<BLOCK>();
    let (out, _) = out.as_chunks_mut::<BLOCK>();
    out.par_chunks_mut(width).enumerate().for_each(|(n, out)| {
        let (plane, row) = (n / height, n % height * window.stride);
        let x = &x[plane * shape.plane()..(plane + 1) * shape.plane()];
        let top = window.padding[0].0;
        let rows = row.saturating_sub(top)..(row + kernel).saturating_sub(top).min(shape.height);
        let left = window.padding[1].0;
        for (column, out) in out.iter_mut().enumerate() {
            let start = column * window.stride;
            let end = (start + kernel).saturating_sub(left).min(shape.width);
            *out = [f32::NEG_INFINITY; BLOCK];
            for row in rows.clone() {
                for x in &x[row * shape.width..][start.saturating_sub(left)..end] {
                    for (y, x) in out.iter_mut().zip(x) {
                        // A NaN stays.
                        *y = if *y > *x { *y } else { *x };
                    }
                }
            }
        }
    });
    to
}

/// Mean over the pixels of every channel: `[batch, channels]`.
///
/// Panics where a length does not fit, or there are no pixels.
pub fn global_mean(x: &[f32], shape: Shape, means: &mut [f32]) {
    shape.check("global mean: input", x.len());
    assert!(shape.plane() > 0, "global mean: no pixels in {shape:?}");
    assert_eq!(
        means.len(),
        shape.batch * shape.channels,
        "global mean: output of {shape:?}"
    );
    let (x, _) = x.as_chunks::<BLOCK>();
    let sums: Vec<[f32; BLOCK]> = x
        .par_chunks(shape.plane())
        .map(|plane| {
            let mut sums = [[0.0f32; BLOCK]; 2];
            for pair in plane.chunks(2) {
                for (sums, x) in sums.iter_mut().zip(pair) {
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum += x;
                    }
                }
            }
            let [mut sum, other] = sums;
            for (a, b) in sum.iter_mut().zip(other) {
                *a = (*a + b) / plane.len() as f32;
            }
            sum
        })
        .collect();
    for (i, mean) in means.iter_mut().enumerate() {
        let (image, channel) = (i / shape.channels, i % shape.channels);
        *mean = sums[image * shape.blocks() + channel / BLOCK][channel % BLOCK];
    }
}

/// Multiplies every channel by its factor of `scale` `[batch, channels]`, in place.
///
/// Panics where a length does not fit.
pub fn scale_channels(x: &mut [f32], shape: Shape, scale: &[f32]) {
    shape.check("scale: input", x.len());
    assert_eq!(
        scale.len(),
        shape.batch * shape.channels,
        "scale: factors of {shape:?}"
    );
    let plane = (shape.plane() * BLOCK).max(1);
    x.par_chunks_mut(plane).enumerate().for_each(|(n, x)| {
        let (image, block) = (n / shape.blocks(), n % shape.blocks());
        let scale = &scale[image * shape.channels..(image + 1) * shape.channels];
        let scale = &scale[block * BLOCK..shape.channels.min((block + 1) * BLOCK)];
        let mut factors = [0.0; BLOCK];
        factors[..scale.len()].copy_from_slice(scale);
        for x in x.as_chunks_mut::<BLOCK>().0 {
            for (x, factor) in x.iter_mut().zip(factors) {
                *x *= factor;
            }
        }
    });
}

/// Adds `y` to `x`, in place.
///
/// Panics where they differ in length.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add: lengths");
    x.par_chunks_mut(PIECE)
        .zip(y.par_chunks(PIECE))
        .for_each(|(x, y)| {
            for (x, y) in x.iter_mut().zip(y) {
                *x += y;
            }
        });
}

/// `[batch, channels, height, width]` into blocks.
///
/// Panics where a length does not fit.
pub fn to_blocked(x: &[f32], shape: Shape, out: &mut [f32]) {
    assert_eq!(x.len(), shape.plain_len(), "to blocks: input of {shape:?}");
    shape.check("to blocks: output", out.len());
    let plane = shape.plane();
    let out = out.par_chunks_mut((plane * BLOCK).max(1));
    out.enumerate().for_each(|(n, out)| {
        let (image, block) = (n / shape.blocks(), n % shape.blocks());
        let first = block * BLOCK;
        let count = BLOCK.min(shape.channels - first);
        let x = &x[(image * shape.channels + first) * plane..][..count * plane];
        for (p, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            *out = [0.0; BLOCK];
            for (c, out) in out[..count].iter_mut().enumerate() {
                *out = x[c * plane + p];
            }
        }
    });
}

/// Blocks into `[batch, channels, height, width]`.
///
/// Panics where a length does not fit.
pub fn from_blocked(x: &[f32], shape: Shape, out: &mut [f32]) {
    shape.check("from blocks: input", x.len());
    assert_eq!(
        out.len(),
        shape.plain_len(),
        "from blocks: output of {shape:?}"
    );
    let plane = shape.plane();
    let (x, _) = x.as_chunks::<BLOCK>();
    out.par_chunks_mut(plane.max(1))
        .enumerate()
        .for_each(|(n, out)| {
            let (image, channel) = (n / shape.channels, n % shape.channels);
            let x = &x[(image * shape.blocks() + channel / BLOCK) * plane..];
            for (out, x) in out.iter_mut().zip(x) {
                *out = x[channel % BLOCK];
            }
        });
}
