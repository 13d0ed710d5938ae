//! The first half of an inverted bottleneck (Sandler et al. 2018): a convolution of one pixel to
//! more channels, and one of every channel on its own, without the map between them. A thread
//! makes some rows of a few of its channels, and uses them while they are in its cache.

use std::cell::RefCell;

use rayon::prelude::*;

use super::depthwise::{self, Rows, mean_of_parts};
use super::memory::{Buffer, Shared};
use super::pack::Dense;
use super::tile::{Finish, Kernels, Tile};
use super::vector::Isa;
use super::{BLOCK, PackedConv, PackedDepthwise, Shape, Window, finish};

/// Bytes of rows between the two convolutions that a thread makes at a time.
const ROWS_BYTES: usize = 448 << 10;

thread_local! {
    static ROWS: RefCell<Buffer> = RefCell::new(Buffer::new(0));
}

/// [`conv`](super::conv) of blocked `x` by `expand`, a kernel of one pixel, with `inner` after it,
/// and [`depthwise`](fn@super::depthwise) of that with `weight` over `window` into blocked `out`,
/// with `activation` after it; returns the shape of `out`. `means` `[batch, channels]` takes the
/// means of the output's channels.
///
/// Panics where a length does not fit, `expand` has more than one pixel, the kernel does not fit
/// the padded input, or an activation is not one of identity, ReLU, ReLU6 and SiLU.
#[allow(clippy::too_many_arguments)]
pub fn expand_depthwise(
    x: &[f32],
    shape: Shape,
    expand: &PackedConv,
    inner: super::Activation,
    weight: &PackedDepthwise,
    window: Window,
    activation: super::Activation,
    means: Option<&mut [f32]>,
    out: &mut [f32],
) -> Shape {
    let finishes = [finish(inner), finish(activation)];
    let isa = Isa::detect();
    run(
        isa, x, shape, &expand.0, weight, window, finishes, means, out,
    )
}

/// [`expand_depthwise`] with an instruction set.
#[allow(clippy::too_many_arguments)]
pub(super) fn run(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    expand: &Dense,
    packed: &PackedDepthwise,
    window: Window,
    finishes: [Finish; 2],
    means: Option<&mut [f32]>,
    out: &mut [f32],
) -> Shape {
    shape.check("expansion: input", x.len());
    let [channels, from] = expand.channels;
    assert!(
        expand.kernel == [1, 1] && shape.channels == from && packed.channels == channels,
        "expansion: an input of {} channels, a weight [{channels}, {from}, {}, {}] and {} channels \
         after it",
        shape.channels,
        expand.kernel[0],
        expand.kernel[1],
        packed.channels
    );
    let [height, width] = window.output(shape.height, shape.width, packed.kernel);
    let to = Shape {
        batch: shape.batch,
        channels,
        height,
        width,
    };
    to.check("expansion: output", out.len());
    if let Some(means) = &means {
        assert_eq!(
            means.len(),
            to.batch * channels,
            "expansion: means of {to:?}"
        );
    }
    if shape.batch == 0 {
        return to;
    }

    let kernels = Kernels::blocked(isa);
    let kernel = depthwise::select(isa, packed.kernel[1], window.stride);
    let taps = packed.kernel[0] * packed.kernel[1];
    let group = kernels.out_blocks();
    let groups = to.blocks().div_ceil(group);
    // Output rows of a task, in pieces of nearly the same number.
    let room = ROWS_BYTES / (group * shape.width * BLOCK * size_of::<f32>());
    let lines = room.saturating_sub(packed.kernel[0]) / window.stride + 1;
    let pieces = height.div_ceil(lines);
    let lines = height.div_ceil(pieces);
    let pieces = height.div_ceil(lines);
    let mut sums = Buffer::new(match means {
        Some(_) => to.batch * to.blocks() * pieces * BLOCK,
        None => 0,
    });
    let wants_sums = means.is_some();
    let (shared, shared_sums) = (Shared::new(out), Shared::new(&mut sums));
    let blocks = shape.blocks();
    let last = from - (blocks - 1) * BLOCK;
    let top = window.padding[0].0;

    let task = |number: usize, rows: &mut Buffer| {
        let (place, first) = (number / groups, number % groups * group);
        let (image, piece) = (place / pieces, place % pieces);
        let count = group.min(to.blocks() - first);
        let start = piece * lines;
        let lines = start..(start + lines).min(height);
        // Input rows that these read.
        let above = (start * window.stride)
            .saturating_sub(top)
            .min(shape.height);
        let below = (lines.end - 1) * window.stride + packed.kernel[0];
        let below = below.saturating_sub(top).clamp(above, shape.height);
        let pixels = (below - above) * shape.width;
        rows.resize(count * pixels * BLOCK);
        let weight_block = blocks * BLOCK * BLOCK;
        // SAFETY: image, row and block are within the checked lengths of input, weight and bias.
        let (x, weight, bias) = unsafe {
            (
                x.as_ptr()
                    .add((image * blocks * shape.plane() + above * shape.width) * BLOCK),
                expand.weight.as_ptr().add(first * weight_block),
                expand.bias.as_ptr().add(first * BLOCK),
            )
        };
        let tiles = pixels.div_ceil(kernels.pixels());
        let mut done = 0;
        for tile in 0..tiles {
            let size = (pixels - done) / (tiles - tile);
            // SAFETY: `done + size` is at most `pixels`, so that the tile lies within the rows
            // `above` to `below` of the input and within `rows`.
            let tile = unsafe {
                Tile {
                    x: [x.add(done * BLOCK); 2],
                    x_block: shape.plane() * BLOCK,
                    blocks,
                    last,
                    taps: &[0],
                    weight,
                    weight_block,
                    bias,
                    out: [rows.as_mut_ptr().add(done * BLOCK); 2],
                    out_block: pixels * BLOCK,
                    residual: [std::ptr::null(); 2],
                    finish: finishes[0],
                }
            };
            // SAFETY: the table has kernels for this processor alone, and the tile is one of
            // `count` blocks and `size` pixels of a row.
            unsafe { (kernels.get(count, 1, size))(&tile) };
            done += size;
        }
        for block in 0..count {
            let plane = image * to.blocks() + first + block;
            // SAFETY: these are `pixels` of the rows that were just made, one block of the
            // weight and bias, and the output's rows `lines` of one plane, which no other task
            // has.
            let mut rows = unsafe {
                let sum = shared_sums
                    .get()
                    .add((plane * pieces + piece) * BLOCK * usize::from(wants_sums));
                Rows {
                    x: rows.as_ptr().add(block * pixels * BLOCK),
                    height: below - above,
                    width: shape.width,
                    weight: packed.weight.as_ptr().add((first + block) * taps * BLOCK),
                    bias: packed.bias.as_ptr().add((first + block) * BLOCK),
                    kernel: packed.kernel,
                    window: Window {
                        padding: [
                            (top.saturating_sub(start * window.stride), 0),
                            window.padding[1],
                        ],
                        ..window
                    },
                    out: shared
                        .get()
                        .add((plane * to.plane() + start * to.width) * BLOCK),
                    out_width: to.width,
                    lines: 0..lines.len(),
                    finish: finishes[1],
                    sum: wants_sums.then(|| &mut *sum.cast::<[f32; BLOCK]>()),
                }
            };
            // SAFETY: `kernel` is for an instruction set that this processor has, and for this
            // width and stride; no two tasks write the same rows.
            unsafe { kernel(&mut rows) };
        }
    };
    let tasks = to.batch * pieces * groups;
    let products = (shape.plane() * from + to.plane() * taps) * channels * to.batch;
    let work = |number| ROWS.with_borrow_mut(|rows| task(number, rows));
    if products < 1 << 18 {
        (0..tasks).for_each(work);
    } else {
        (0..tasks).into_par_iter().for_each(work);
    }
    if let Some(means) = means {
        mean_of_parts(&sums, pieces, to, means);
    }
    to
}
