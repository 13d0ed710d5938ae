//! Layers that points share, on the calling thread: PointNet++ runs them group by group in memory
//! that stays in the cache, many groups at a time.
//!
//! Activations are blocks of channels as everywhere here, `[channels/16, rows, 16]`, a row a point.

use super::super::Activation;
use super::super::simd::multiversion;
use super::ahead::Ahead;
use super::tile::{Kernels, Tile};
use super::vector::Isa;
use super::{BLOCK, PackedConv, finish};

/// A layer with weights `[out, in, 1, 1]`: `x` `[in/16, rows, 16]` → `out` `[out/16, rows, 16]`.
///
/// Panics where a length does not fit, the kernel is not of one pixel, or the activation is not one
/// of identity, ReLU, ReLU6 and SiLU.
pub fn points(
    x: &[f32],
    rows: usize,
    weight: &PackedConv,
    activation: Activation,
    out: &mut [f32],
) {
    run(Isa::detect(), x, rows, weight, activation, out);
}

fn run(
    isa: Isa,
    x: &[f32],
    rows: usize,
    weight: &PackedConv,
    activation: Activation,
    out: &mut [f32],
) {
    let packed = &weight.0;
    let [channels, from] = packed.channels;
    let (out_blocks, blocks) = (channels.div_ceil(BLOCK), from.div_ceil(BLOCK));
    assert_eq!(packed.kernel, [1, 1], "points: kernel");
    assert_eq!(x.len(), blocks * rows * BLOCK, "points: input length");
    assert_eq!(
        out.len(),
        out_blocks * rows * BLOCK,
        "points: output length"
    );
    let kernels = Kernels::blocked(isa);
    let finish = finish(activation);
    let weight_block = blocks * BLOCK * BLOCK;
    let pieces = rows.div_ceil(kernels.pixels());
    for first in (0..out_blocks).step_by(kernels.out_blocks()) {
        let count = kernels.out_blocks().min(out_blocks - first);
        let weight = &packed.weight[first * weight_block..][..count * weight_block];
        let bias = &packed.bias[first * BLOCK..][..count * BLOCK];
        let mut done = 0;
        // Pieces of nearly the same length.
        for piece in 0..pieces {
            let pixels = (rows - done) / (pieces - piece);
            let x = x[done * BLOCK..].as_ptr();
            let out = out[(first * rows + done) * BLOCK..].as_mut_ptr();
            let tile = Tile {
                x: [x; 2],
                x_block: rows * BLOCK,
                blocks,
                last: from - (blocks - 1) * BLOCK,
                taps: &[0],
                weight: weight.as_ptr(),
                weight_block,
                bias: bias.as_ptr(),
                out: [out; 2],
                out_block: rows * BLOCK,
                residual: [std::ptr::null(); 2],
                finish,
                ahead: Ahead::NOTHING,
            };
            // SAFETY: the table has kernels for this processor alone. `x` has `blocks` blocks of
            // `rows` rows and `out` has `out_blocks`, as was checked above, and rows `done` to
            // `done + pixels` are among them; weight and bias were just cut to `count` blocks.
            unsafe { (kernels.get(count, 1, pixels))(&tile) };
            done += pixels;
        }
    }
}

/// A first layer that sees an offset beside what was computed once of every point: row `r` of `out`
/// is `max(base[index[r]] + weight · offsets[r], 0)`.
///
/// `base` is `[out/16, points, 16]`, `weight` `[out/16, 3, 16]`, `out` `[out/16, rows, 16]`.
///
/// Panics where a length does not fit or an index is not below `points`.
pub fn points_from(
    base: &[f32],
    points: usize,
    weight: &[f32],
    index: &[u32],
    offsets: &[[f32; 3]],
    out: &mut [f32],
) {
    let rows = index.len();
    let blocks = weight.len() / (3 * BLOCK);
    assert_eq!(weight.len(), blocks * 3 * BLOCK, "points: weight length");
    assert_eq!(base.len(), blocks * points * BLOCK, "points: base length");
    assert_eq!(offsets.len(), rows, "points: number of offsets");
    assert_eq!(out.len(), blocks * rows * BLOCK, "points: output length");
    if rows == 0 {
        return;
    }
    let (base, _) = base.as_chunks::<BLOCK>();
    let (weight, _) = weight.as_chunks::<BLOCK>();
    let (out, _) = out.as_chunks_mut::<BLOCK>();
    let planes = out.chunks_exact_mut(rows).zip(weight.chunks_exact(3));
    for (number, (out, weight)) in planes.enumerate() {
        let base = &base[number * points..][..points];
        gathered(base, weight, index, offsets, out);
    }
}

multiversion! {
    fn gathered(base: &[[f32; BLOCK]], weight: &[[f32; BLOCK]], index: &[u32], offsets: &[[f32; 3]], out: &mut [[f32; BLOCK]]) {
        let [wx, wy, wz] = [weight[0], weight[1], weight[2]];
        for ((out, index), [x, y, z]) in out.iter_mut().zip(index).zip(offsets) {
            let base = &base[*index as usize];
            for lane in 0..BLOCK {
                let sum = base[lane] + (x * wx[lane] + y * wy[lane] + z * wz[lane]);
                // A NaN stays.
                out[lane] = if sum < 0.0 { 0.0 } else { sum };
            }
        }
    }
}

/// The maximum of every channel over groups of rows: `x` `[channels/16, rows, 16]`, of which each
/// group ends before `ends[group]`, → `out`, a row of `stride` floats a group, from the start of
/// which `channels` are written.
///
/// Panics where a length does not fit, ends do not rise, or a group has no rows.
pub fn points_max(
    x: &[f32],
    rows: usize,
    ends: &[usize],
    channels: usize,
    stride: usize,
    out: &mut [f32],
) {
    let blocks = channels.div_ceil(BLOCK);
    assert_eq!(x.len(), blocks * rows * BLOCK, "points: input length");
    assert!(
        channels <= stride,
        "points: {channels} channels in {stride}"
    );
    assert!(
        ends.is_empty() || out.len() >= (ends.len() - 1) * stride + channels,
        "points: output length"
    );
    let (x, _) = x.as_chunks::<BLOCK>();
    for block in 0..blocks {
        let plane = &x[block * rows..][..rows];
        let width = BLOCK.min(channels - block * BLOCK);
        let mut start = 0;
        for (group, end) in ends.iter().enumerate() {
            let members = plane.get(start..*end).unwrap_or_default();
            assert!(!members.is_empty(), "points: group {group} has no rows");
            let mut largest = members[0];
            maximum(&members[1..], &mut largest);
            let at = group * stride + block * BLOCK;
            out[at..at + width].copy_from_slice(&largest[..width]);
            start = *end;
        }
    }
}

multiversion! {
    fn maximum(rows: &[[f32; BLOCK]], largest: &mut [f32; BLOCK]) {
        let mut y = *largest;
        for row in rows {
            for (y, x) in y.iter_mut().zip(row) {
                // A NaN stays.
                *y = if *y > *x || y.is_nan() { *y } else { *x };
            }
        }
        *largest = y;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Shape, from_blocked, pack, to_blocked};
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2654435761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn shape(channels: usize, rows: usize) -> Shape {
        Shape {
            batch: 1,
            channels,
            height: 1,
            width: rows,
        }
    }

    /// `[rows, channels]` in blocks.
    fn blocked(x: &[f32], rows: usize, channels: usize) -> Vec<f32> {
        let mut planes = vec![0.0; x.len()];
        for row in 0..rows {
            for c in 0..channels {
                planes[c * rows + row] = x[row * channels + c];
            }
        }
        let shape = shape(channels, rows);
        let mut out = vec![0.0; shape.blocked_len()];
        to_blocked(&planes, shape, &mut out);
        out
    }

    fn close(found: f32, expected: f64) {
        assert!(
            (f64::from(found) - expected).abs() < 1e-5,
            "{found} for {expected}"
        );
    }

    #[test]
    fn a_layer_of_points_agrees_with_plain_loops() {
        for (case, (rows, from, out)) in [(1, 3, 5), (13, 16, 32), (29, 35, 50), (64, 64, 16)]
            .into_iter()
            .enumerate()
        {
            let case = case as u32;
            let x = numbers(rows * from, case);
            let w = numbers(out * from, case + 10);
            let b = numbers(out, case + 20);
            let packed = pack(&w, Some(&b), out, from, 1, 1);
            for isa in Isa::available() {
                let to = shape(out, rows);
                let mut y = vec![f32::NAN; to.blocked_len()];
                run(
                    isa,
                    &blocked(&x, rows, from),
                    rows,
                    &packed,
                    Activation::Relu,
                    &mut y,
                );
                let mut planes = vec![0.0; to.plain_len()];
                from_blocked(&y, to, &mut planes);
                for row in 0..rows {
                    for o in 0..out {
                        let terms = (0..from)
                            .map(|i| f64::from(x[row * from + i]) * f64::from(w[o * from + i]));
                        let sum = f64::from(b[o]) + terms.sum::<f64>();
                        close(planes[o * rows + row], sum.max(0.0));
                    }
                }
            }
        }
    }

    #[test]
    fn a_first_layer_and_the_maximum_of_groups() {
        let (count, channels, stride) = (7, 21, 30);
        let base = numbers(count * channels, 1);
        let weight = numbers(3 * channels, 2);
        let index = [0u32, 6, 3, 3, 5, 1, 2, 4];
        let rows = index.len();
        let offsets = numbers(3 * rows, 3);
        let offsets = offsets.as_chunks::<3>().0;
        // As rows of channels, an axis a row.
        let mut packed = vec![0.0; channels.div_ceil(BLOCK) * 3 * BLOCK];
        for axis in 0..3 {
            for c in 0..channels {
                packed[(c / BLOCK * 3 + axis) * BLOCK + c % BLOCK] = weight[axis * channels + c];
            }
        }
        let to = shape(channels, rows);
        let mut y = vec![f32::NAN; to.blocked_len()];
        points_from(
            &blocked(&base, count, channels),
            count,
            &packed,
            &index,
            offsets,
            &mut y,
        );
        let value = |row: usize, c: usize| {
            let terms = (0..3)
                .map(|axis| f64::from(offsets[row][axis]) * f64::from(weight[axis * channels + c]));
            let sum = f64::from(base[index[row] as usize * channels + c]) + terms.sum::<f64>();
            sum.max(0.0)
        };
        let mut planes = vec![0.0; to.plain_len()];
        from_blocked(&y, to, &mut planes);
        for row in 0..rows {
            for c in 0..channels {
                close(planes[c * rows + row], value(row, c));
            }
        }

        let ends = [1, 6, 8];
        let mut out = vec![9.0; ends.len() * stride];
        points_max(&y, rows, &ends, channels, stride, &mut out);
        let mut start = 0;
        for (group, end) in ends.into_iter().enumerate() {
            let row = &out[group * stride..][..stride];
            for (c, found) in row[..channels].iter().enumerate() {
                close(
                    *found,
                    (start..end).map(|r| value(r, c)).fold(0.0, f64::max),
                );
            }
            assert!(row[channels..].iter().all(|x| *x == 9.0));
            start = end;
        }
    }

    #[test]
    #[should_panic(expected = "group 1 has no rows")]
    fn a_group_without_rows_is_refused() {
        points_max(&[0.0; 32], 2, &[2, 2], 4, 4, &mut [0.0; 8]);
    }
}
