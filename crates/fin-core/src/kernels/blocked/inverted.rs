//! The first half of an inverted bottleneck (Sandler et al. 2018): a convolution of one pixel to
//! more channels, and one of every channel on its own, without the map between them. A thread
//! makes some rows of a few of its channels, and uses them while they are in its cache.

use std::cell::{Cell, RefCell};

use rayon::prelude::*;

use super::ahead::Ahead;
use super::depthwise::{self, PART, Rows, Summary};
use super::int8::{self, Bytes, PackedInt8, Range};
use super::memory::{Buffer, Shared};
use super::pack::Dense;
use super::tile::{Finish, Kernels, Tile};
use super::vector::Isa;
use super::{BLOCK, PackedConv, PackedDepthwise, Shape, Window, finish};

/// Bytes of rows between the two convolutions that a thread makes at a time.
const ROWS_BYTES: usize = 448 << 10;

thread_local! {
    static ROWS: RefCell<Buffer> = RefCell::new(Buffer::new(0));
    /// An input as bytes; taken while in use, as a thread that waits may begin another network.
    static MAP: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// [`conv`](super::conv) of blocked `x` by `expand`, a kernel of one pixel, with `inner` after it,
/// and [`depthwise`](fn@super::depthwise) of that with `weight` over `window` into blocked `out`,
/// with `activation` after it; returns the shape of `out`.
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
    summary: Summary,
    out: &mut [f32],
) -> Shape {
    let finishes = [finish(inner), finish(activation)];
    let isa = Isa::detect();
    let expand = Expand::Float(&expand.0, Kernels::blocked(isa), x);
    run(
        isa, x, shape, &expand, weight, window, finishes, summary, out,
    )
}

/// [`expand_depthwise`] with `expand` in 8 bits, of an input whose images have `ranges`; the other convolution is
/// in f32.
///
/// Panics where [`expand_depthwise`] does.
#[allow(clippy::too_many_arguments)]
pub fn expand_depthwise_int8(
    x: &[f32],
    shape: Shape,
    ranges: &[Range],
    expand: &PackedInt8,
    inner: super::Activation,
    weight: &PackedDepthwise,
    window: Window,
    activation: super::Activation,
    summary: Summary,
    out: &mut [f32],
) -> Shape {
    let finishes = [finish(inner), finish(activation)];
    let isa = crate::kernels::int8::Isa::detect();
    run_int8(
        isa, x, shape, ranges, expand, weight, window, finishes, summary, out,
    )
}

/// [`expand_depthwise_int8`] with an instruction set.
#[allow(clippy::too_many_arguments)]
pub(super) fn run_int8(
    isa: crate::kernels::int8::Isa,
    x: &[f32],
    shape: Shape,
    ranges: &[Range],
    expand: &PackedInt8,
    weight: &PackedDepthwise,
    window: Window,
    finishes: [Finish; 2],
    summary: Summary,
    out: &mut [f32],
) -> Shape {
    // All of it, as every task reads some rows of all input channels.
    let mut map = MAP.take().unwrap_or_else(|| Buffer::new(0));
    let bytes = int8::quantize(isa, x, shape, ranges, &mut map);
    let expand = Expand::Int8 {
        packed: expand,
        kernels: int8::Kernels::new(isa),
        x: bytemuck::cast_slice(&map),
        bytes: &bytes,
    };
    let isa = int8::floats(isa);
    let to = run(
        isa, x, shape, &expand, weight, window, finishes, summary, out,
    );
    MAP.set(Some(map));
    to
}

/// The first of the two convolutions, and its input in blocks of channels.
pub(super) enum Expand<'a> {
    Float(&'a Dense, Kernels, &'a [f32]),
    Int8 {
        packed: &'a PackedInt8,
        kernels: int8::Kernels,
        x: &'a [u8],
        bytes: &'a [Bytes],
    },
}

/// Neighbouring pixels of an image, and blocks of output channels.
#[derive(Clone, Copy)]
struct Part {
    image: usize,
    start: usize,
    pixels: usize,
    first: usize,
    count: usize,
}

impl Expand<'_> {
    /// Channels of the output and the input, and the kernel's height and width.
    fn shape(&self) -> ([usize; 2], [usize; 2]) {
        match self {
            Self::Float(dense, ..) => (dense.channels, dense.kernel),
            Self::Int8 { packed, .. } => (packed.channels(), packed.kernel()),
        }
    }

    /// Most output blocks and pixels of a tile.
    fn most(&self) -> [usize; 2] {
        match self {
            Self::Float(_, kernels, _) => [kernels.out_blocks(), kernels.pixels()],
            Self::Int8 { kernels, .. } => [kernels.out_blocks(), kernels.pixels()],
        }
    }

    /// Makes a part of the output, `[count, pixels, 16]` floats at `out`, of an input of this shape.
    ///
    /// # Safety
    /// The part's image and blocks exist, its pixels are within a plane, and there is room at `out`; kernels are for
    /// this processor alone, and the input's length is that of `shape`.
    unsafe fn rows(&self, shape: Shape, part: Part, finish: Finish, out: *mut f32) {
        let Part {
            image,
            start,
            pixels,
            first,
            count,
        } = part;
        let from = (image * shape.blocks() * shape.plane() + start) * BLOCK;
        let (x_block, out_block) = (shape.plane() * BLOCK, pixels * BLOCK);
        let blocks = shape.blocks();
        let tiles = pixels.div_ceil(self.most()[1]);
        // First pixel and size of every tile.
        let sizes = (0..tiles).scan(0, |done, tile| {
            let size = (pixels - *done) / (tiles - tile);
            *done += size;
            Some((*done - size, size))
        });
        // SAFETY: the tiles are within the part's pixels, so that by the contract they lie within the input and
        // `out`; the weights have `count` blocks from `first` on.
        unsafe {
            match self {
                Self::Float(dense, kernels, x) => {
                    let weight_block = blocks * BLOCK * BLOCK;
                    let mut tile = Tile {
                        x: [std::ptr::null(); 2],
                        x_block,
                        blocks,
                        last: shape.channels - (blocks - 1) * BLOCK,
                        taps: &[0],
                        weight: dense.weight.as_ptr().add(first * weight_block),
                        weight_block,
                        bias: dense.bias.as_ptr().add(first * BLOCK),
                        out: [out; 2],
                        out_block,
                        residual: [std::ptr::null(); 2],
                        finish,
                        ahead: Ahead::NOTHING,
                    };
                    for (done, size) in sizes {
                        tile.x = [x.as_ptr().add(from + done * BLOCK); 2];
                        tile.out = [out.add(done * BLOCK); 2];
                        (kernels.get(count, 1, size))(&tile);
                    }
                }
                Self::Int8 {
                    packed,
                    kernels,
                    x,
                    bytes,
                } => {
                    let mut tile = int8::Tile {
                        x_block,
                        bytes: [bytes[image]; 2],
                        out_block,
                        ..packed.tile(first, &[0], finish)
                    };
                    for (done, size) in sizes {
                        tile.x = [x.as_ptr().add(from + done * BLOCK); 2];
                        tile.out = [out.add(done * BLOCK); 2];
                        (kernels.get(count, 1, size))(&tile);
                    }
                }
            }
        }
    }
}

/// [`expand_depthwise`] with an instruction set.
#[allow(clippy::too_many_arguments)]
pub(super) fn run(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    expand: &Expand,
    packed: &PackedDepthwise,
    window: Window,
    finishes: [Finish; 2],
    summary: Summary,
    out: &mut [f32],
) -> Shape {
    shape.check("expansion: input", x.len());
    let ([channels, from], expand_kernel) = expand.shape();
    assert!(
        expand_kernel == [1, 1] && shape.channels == from && packed.channels == channels,
        "expansion: an input of {} channels, a weight [{channels}, {from}, {}, {}] and {} channels \
         after it",
        shape.channels,
        expand_kernel[0],
        expand_kernel[1],
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
    if shape.batch == 0 {
        return to;
    }

    let kernel = depthwise::select(
        isa,
        packed.kernel[1],
        window.stride,
        summary.extents.is_some(),
    );
    let taps = packed.kernel[0] * packed.kernel[1];
    let [group, _] = expand.most();
    let groups = to.blocks().div_ceil(group);
    // Output rows of a task, in pieces of nearly the same number.
    let room = ROWS_BYTES / (group * shape.width * BLOCK * size_of::<f32>());
    let lines = room.saturating_sub(packed.kernel[0]) / window.stride + 1;
    let pieces = height.div_ceil(lines);
    let lines = height.div_ceil(pieces);
    let pieces = height.div_ceil(lines);
    let parts = summary.parts("expansion", pieces, to);
    let wants_parts = parts.is_some();
    let mut parts = parts.unwrap_or_else(|| Buffer::new(0));
    let (shared, shared_parts) = (Shared::new(out), Shared::new(&mut parts));
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
        let part = Part {
            image,
            start: above * shape.width,
            pixels,
            first,
            count,
        };
        // SAFETY: image, rows and blocks are within the checked lengths of the input and the weights, and there is
        // room for these pixels in `rows`; the kernels were chosen for this processor.
        unsafe {
            expand.rows(shape, part, finishes[0], rows.as_mut_ptr());
        }
        for block in 0..count {
            let plane = image * to.blocks() + first + block;
            // SAFETY: these are `pixels` of the rows that were just made, one block of the
            // weight and bias, and the output's rows `lines` of one plane, which no other task
            // has.
            let mut rows = unsafe {
                let part = shared_parts
                    .get()
                    .add((plane * pieces + piece) * PART * usize::from(wants_parts));
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
                    part: wants_parts.then(|| &mut *part.cast::<[f32; PART]>()),
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
    if wants_parts {
        summary.finish(&parts, pieces, to);
    }
    to
}
