//! Dense convolutions with weights in 8 bits, for inference.
//!
//! As in [`crate::kernels::int8`], an output channel's weights are integers from -127 to 127 and one scale, and
//! inputs are brought to integers from 0 to 255 as they come, here by an image's smallest and largest value
//! ([`Range`]), zero among them, so that borders are exact. Sums are exact in 32 bits, and a range does not
//! depend on how the work is split: every number of threads and every instruction set gives the same bits, SiLU's
//! own rounding aside. Inputs and outputs are f32 in blocks of channels, and bytes only where a task has copied
//! what it reads. A value that is not finite makes its whole image not a number.

mod lanes;
mod range;
#[cfg(test)]
mod tests;
mod tile;

use std::cell::RefCell;

use rayon::prelude::*;

use super::ahead::Ahead;
use super::gather::Copied;
use super::memory::{Buffer, Shared};
use super::pack::padded;
use super::plan::{Call, Held, INPUT_BYTES, Plan, Task, Work, tiles};
use super::tile::Finish;
use super::{BLOCK, Fused, Shape, Window, finish, vector};
use crate::kernels::int8::{Isa, MOST_FEATURES};
use lanes::Found;
pub(super) use range::Bytes;
pub use range::{Range, ranges};
use range::{Ranges, factors};
use tile::Pixels;
pub(super) use tile::{Kernels, Tile};

/// Input channels that are summed into one lane by one instruction.
const STEP: usize = 4;

/// Bytes of the weights of a block of output channels at a step.
const STEP_BYTES: usize = BLOCK * STEP;

/// Weights in 8 bits and bias of a dense convolution of blocked inputs; made by [`pack_int8`].
#[derive(Clone)]
pub struct PackedInt8 {
    /// `[out/16, in/16, kh, kw, 4, 16, 4]` signed bytes, zeros for the channels that fill up a block.
    weight: Buffer,
    /// Sums of the integers of every output channel.
    sums: Vec<i32>,
    /// What an integer of every output channel stands for.
    scales: Buffer,
    bias: Buffer,
    channels: [usize; 2],
    kernel: [usize; 2],
}

/// Whether sums over this many input channels and a kernel of this size stay within 32 bits.
pub fn fits_int8(from: usize, kernel: [usize; 2]) -> bool {
    from * kernel[0] * kernel[1] <= MOST_FEATURES
}

/// Quantises `weight` `[out, in, kh, kw]`, output channel by output channel, and packs it with `bias` `[out]`
/// for [`conv_int8`]. A channel with a weight that is not finite gives outputs that are not numbers.
///
/// Panics where a length does not fit, or [`fits_int8`] is false.
pub fn pack_int8(
    weight: &[f32],
    bias: Option<&[f32]>,
    out: usize,
    from: usize,
    kh: usize,
    kw: usize,
) -> PackedInt8 {
    super::pack::check(weight, bias, [out, from], [kh, kw]);
    assert!(
        fits_int8(from, [kh, kw]),
        "int8: {from} channels and a kernel of {kh} x {kw}"
    );
    let taps = kh * kw;
    let (blocks, padded_out) = (from.div_ceil(BLOCK), out.next_multiple_of(BLOCK));
    let mut packed = Buffer::new(padded_out * blocks * taps * BLOCK / size_of::<f32>());
    let bytes: &mut [i8] = bytemuck::cast_slice_mut(&mut packed);
    let (mut sums, mut scales) = (vec![0; padded_out], Buffer::new(padded_out));
    for (o, weight) in weight.chunks_exact(from * taps).enumerate() {
        let largest = weight.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        let finite = weight.iter().all(|w| w.is_finite());
        let inverse = 127.0 / largest;
        let inverse = if finite && inverse.is_finite() {
            inverse
        } else {
            0.0
        };
        scales[o] = if finite { largest / 127.0 } else { f32::NAN };
        for (i, weight) in weight.chunks_exact(taps).enumerate() {
            let block = (o / BLOCK * blocks + i / BLOCK) * taps;
            for (tap, w) in weight.iter().enumerate() {
                let q = (w * inverse).round_ties_even() as i8;
                let step = (block + tap) * (BLOCK / STEP) + i % BLOCK / STEP;
                bytes[step * STEP_BYTES + o % BLOCK * STEP + i % STEP] = q;
                sums[o] += i32::from(q);
            }
        }
    }
    PackedInt8 {
        weight: packed,
        sums,
        scales,
        bias: padded(bias, out),
        channels: [out, from],
        kernel: [kh, kw],
    }
}

impl PackedInt8 {
    /// Channels of the output and the input.
    pub fn channels(&self) -> [usize; 2] {
        self.channels
    }

    /// Height and width.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }

    /// Bytes from a block of output channels to the next.
    pub(super) fn block_bytes(&self) -> usize {
        self.channels[1].div_ceil(BLOCK) * self.kernel[0] * self.kernel[1] * BLOCK * BLOCK
    }

    /// A tile's part that is the same for all of a block of output channels.
    ///
    /// # Safety
    /// `first` is one of the blocks.
    pub(super) unsafe fn tile<'a>(
        &self,
        first: usize,
        taps: &'a [usize],
        finish: Finish,
    ) -> Tile<'a> {
        let blocks = self.channels[1].div_ceil(BLOCK);
        // SAFETY: by the contract, these are within the buffers.
        unsafe {
            Tile {
                x: [std::ptr::null(); 2],
                x_block: 0,
                blocks,
                last: self.channels[1] - (blocks - 1) * BLOCK,
                taps,
                weight: self
                    .weight
                    .as_ptr()
                    .cast::<i8>()
                    .add(first * self.block_bytes()),
                weight_block: self.block_bytes(),
                sums: self.sums.as_ptr().add(first * BLOCK),
                scales: self.scales.as_ptr().add(first * BLOCK),
                bias: self.bias.as_ptr().add(first * BLOCK),
                bytes: [Range::EMPTY.bytes(); 2],
                out: [std::ptr::null_mut(); 2],
                out_block: 0,
                residual: [std::ptr::null(); 2],
                finish,
                found: [std::ptr::null_mut(); 2],
                ahead: Ahead::NOTHING,
            }
        }
    }
}

/// Convolution in 8 bits of blocked `x`, whose images have `ranges`, into blocked `out`; returns the shape of
/// `out`. `found` takes the ranges of the output's images. Where `fused` has factors, the ranges are those of
/// their products with the input ([`ranges()`]).
///
/// Panics where [`conv`](super::conv) does.
#[allow(clippy::too_many_arguments)]
pub fn conv_int8(
    x: &[f32],
    shape: Shape,
    ranges: &[Range],
    weight: &PackedInt8,
    window: Window,
    fused: Fused,
    out: &mut [f32],
    found: Option<&mut [Range]>,
) -> Shape {
    run(
        Isa::detect(),
        x,
        shape,
        ranges,
        weight,
        window,
        fused,
        out,
        found,
    )
}

/// A thread's copy of input rows, in bytes.
struct Scratch {
    /// What stands in `rows`.
    held: Held,
    rows: Buffer,
    runs: Vec<Run>,
    found: Vec<Found>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        held: Held::NOTHING,
        rows: Buffer::new(0),
        runs: Vec::new(),
        found: Vec::new(),
    });
}

/// Neighbouring pixels of a row: `x` in bytes from the start of the copy, `out` in floats.
#[derive(Clone, Copy)]
struct Run {
    x: usize,
    out: usize,
    pixels: usize,
    /// Of the batch, and of the task.
    image: usize,
    number: usize,
}

/// All that the tasks of one convolution share.
struct Job<'a> {
    call: Call,
    kernels: Kernels,
    x: &'a [f32],
    shape: Shape,
    to: Shape,
    packed: &'a PackedInt8,
    window: Window,
    fused: Fused<'a>,
    finish: Finish,
    bytes: Vec<Bytes>,
    /// Whether every output pixel is made of one input pixel, at the same place, so that rows need not be told
    /// apart.
    point: bool,
    out: Shared,
    found: Option<Ranges>,
}

/// [`conv_int8`] with an instruction set.
#[allow(clippy::too_many_arguments)]
fn run(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    ranges: &[Range],
    packed: &PackedInt8,
    window: Window,
    fused: Fused,
    out: &mut [f32],
    found: Option<&mut [Range]>,
) -> Shape {
    shape.check("convolution: input", x.len());
    let [channels, from] = packed.channels;
    assert_eq!(
        shape.channels, from,
        "convolution: the input has {} channels and the weight {from}",
        shape.channels
    );
    let [height, width] = window.output(shape.height, shape.width, packed.kernel);
    let to = Shape {
        batch: shape.batch,
        channels,
        height,
        width,
    };
    to.check("convolution: output", out.len());
    if let Some(residual) = fused.residual {
        assert!(!fused.onto, "convolution: two residuals");
        to.check("convolution: residual", residual.len());
    }
    if let Some(scale) = fused.scale {
        assert_eq!(
            scale.len(),
            shape.batch * shape.channels,
            "convolution: factors of {shape:?}"
        );
    }
    for ranges in [Some(ranges.len()), found.as_ref().map(|found| found.len())] {
        let ranges = ranges.unwrap_or(shape.batch);
        assert_eq!(ranges, shape.batch, "convolution: ranges of {shape:?}");
    }
    if shape.batch == 0 {
        return to;
    }

    let point = packed.kernel == [1, 1] && window == Window::POINT;
    let kernels = Kernels::new(isa);
    let products = channels * from * packed.kernel[0] * packed.kernel[1];
    let (lines, line, grain) = if point {
        (to.plane(), 1, kernels.pixels())
    } else {
        (to.height, shape.width * window.stride, 1)
    };
    let plan = Plan::new(&Work {
        batch: shape.batch,
        lines,
        line_bytes: line * from.next_multiple_of(BLOCK),
        input_bytes: INPUT_BYTES,
        grain,
        columns: to.blocks().div_ceil(kernels.out_blocks()),
        products: products * to.plane() * shape.batch,
        threads: rayon::current_num_threads(),
    });
    let job = Job {
        call: Call::new(),
        kernels,
        x,
        shape,
        to,
        packed,
        window,
        fused,
        finish: finish(fused.activation),
        bytes: ranges.iter().map(|range| range.bytes()).collect(),
        point,
        out: Shared::new(out),
        found: found.as_ref().map(|_| Ranges::new(shape.batch)),
    };
    plan.run(|task| SCRATCH.with_borrow_mut(|scratch| job.task(task, scratch)));
    if let (Some(found), Some(ranges)) = (found, job.found) {
        for (found, range) in found.iter_mut().zip(ranges.get()) {
            *found = range;
        }
    }
    to
}

impl Job<'_> {
    fn task(&self, task: &Task, scratch: &mut Scratch) {
        let Scratch {
            held,
            rows,
            runs,
            found,
        } = scratch;
        let (x_block, taps) = self.input(task, held, rows, runs);
        found.clear();
        found.resize(task.images.len(), [[0; BLOCK]; 2]);
        let x: &[u8] = bytemuck::cast_slice(rows);
        for column in task.columns.clone() {
            let first = column * self.kernels.out_blocks();
            let count = self.kernels.out_blocks().min(self.to.blocks() - first);
            // SAFETY: `first` is a block of the output, of which the weight has as many.
            let tile = unsafe { self.packed.tile(first, &taps, self.finish) };
            let tile = Tile { x_block, ..tile };
            self.tiles(x, tile, [first, count], runs, found);
        }
        if let Some(ranges) = &self.found {
            for (image, found) in task.images.clone().zip(&*found) {
                ranges.add(image, found);
            }
        }
    }

    /// Runs of pixels, tile by tile, for one or two blocks of output channels.
    fn tiles(
        &self,
        x: &[u8],
        mut tile: Tile,
        [first, count]: [usize; 2],
        runs: &[Run],
        found: &mut [Found],
    ) {
        let out_block = self.to.plane() * BLOCK;
        let most = self.kernels.pixels();
        let residual = |at: usize| match self.fused.residual {
            // SAFETY: the residual is as long as the output.
            Some(residual) => unsafe { residual.as_ptr().add(at) },
            // SAFETY: as for `out`; a kernel reads its part before it writes there.
            None if self.fused.onto => unsafe { self.out.get().add(at).cast_const() },
            None => std::ptr::null(),
        };
        let wanted = self.found.is_some();
        let found = found.as_mut_ptr();
        tile.out_block = out_block;
        let pixels = |run: &Run| run.pixels;
        let number = tiles(runs, pixels, most, |_, _| {});
        // Meanwhile the weights of as many blocks more.
        let bytes = count * tile.weight_block;
        let steps = self.shape.channels.div_ceil(STEP) * tile.taps.len();
        tile.ahead = Ahead::new(tile.weight.wrapping_add(bytes), bytes, steps * number);
        tiles(runs, pixels, most, |rows, pixels| {
            let runs = [rows[0], rows[rows.len() - 1]];
            let at = runs.map(|run| run.out + first * out_block + pixels.start * BLOCK);
            // SAFETY: a run lies within an image of the copy and of the output, so that these
            // are offsets within them; a task has a place in `found` for each of its images.
            unsafe {
                tile.x = runs.map(|run| x.as_ptr().add(run.x + pixels.start * BLOCK));
                tile.out = at.map(|at| self.out.get().add(at));
                tile.found = runs.map(|run| match wanted {
                    true => found.add(run.number),
                    false => std::ptr::null_mut(),
                });
            }
            tile.residual = at.map(residual);
            tile.bytes = runs.map(|run| self.bytes[run.image]);
            // SAFETY: the table has kernels for this processor alone. The lengths of the
            // weight, output, residual and input were checked or made in `run`, `pack_int8`
            // and `input`; the tasks share no run of an output block, so nobody else
            // reads or writes this part of the output.
            unsafe { (self.kernels.get(count, rows.len(), pixels.len()))(&tile) };
            tile.ahead = tile.ahead.after(steps);
        });
    }

    /// Copies a task's input as bytes and lists its runs of pixels; returns the distance of the copy's blocks,
    /// and the offsets of the kernel's elements.
    fn input(
        &self,
        task: &Task,
        held: &mut Held,
        rows: &mut Buffer,
        runs: &mut Vec<Run>,
    ) -> (usize, Vec<usize>) {
        let images = task.images.clone();
        let out_image = self.to.blocks() * self.to.plane();
        let (kernel, width) = (self.packed.kernel, self.to.width);
        let copied = Copied::new(self.window, kernel, BLOCK, task.lines.len(), width);
        let image = match self.point {
            true => task.lines.len() * BLOCK,
            false => copied.image,
        };
        let x_block = images.len() * image;
        held.make(self.call, task.chunk, || {
            rows.resize(self.shape.blocks() * x_block / size_of::<f32>());
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(rows);
            match self.point {
                true => self.fill_points(task, bytes),
                false => self.fill_rows(task, &copied, bytes),
            }
        });
        // Without a border, a row follows the other without a gap.
        let joined = kernel[1] == 1;
        let (lines, pixels) = match (self.point, joined) {
            (true, _) => (1, task.lines.len()),
            (false, true) => (1, width * task.lines.len()),
            (false, false) => (task.lines.len(), width),
        };
        let start = task.lines.start * if self.point { 1 } else { width };
        runs.clear();
        for (number, i) in images.enumerate() {
            for line in 0..lines {
                runs.push(Run {
                    x: number * image + line * copied.row(),
                    out: (i * out_image + start + line * width) * BLOCK,
                    pixels,
                    image: i,
                    number,
                });
            }
        }
        match self.point {
            true => (x_block, vec![0]),
            false => (x_block, copied.taps()),
        }
    }

    /// Pixels as bytes, one after the other.
    fn fill_points(&self, task: &Task, to: &mut [u8]) {
        let (shape, count) = (self.shape, task.lines.len());
        let mut places = to.chunks_exact_mut(count * BLOCK);
        for block in 0..shape.blocks() {
            for (image, to) in task.images.clone().zip(&mut places) {
                let plane = image * shape.blocks() + block;
                let at = (plane * shape.plane() + task.lines.start) * BLOCK;
                let x = &self.x[at..][..count * BLOCK];
                let factors = factors(self.fused.scale, shape, image, block);
                self.quantize(x, 1, self.bytes[image], &factors, to);
            }
        }
    }

    /// Rows as bytes, with their padding.
    fn fill_rows(&self, task: &Task, copied: &Copied, to: &mut [u8]) {
        let shape = self.shape;
        let (images, lines) = (task.images.clone(), task.lines.clone());
        let factors = |block, image| factors(self.fused.scale, shape, image, block);
        copied.rows(to, shape, self.window, images, lines, |row, place| {
            let bytes = self.bytes[place.image];
            let Some(at) = place.at else {
                row.fill(bytes.zero as u8);
                return;
            };
            let x = &self.x[at..][..shape.width * BLOCK];
            let factors = factors(place.block, place.image);
            let left = self.window.padding[1].0;
            copied.phases(row, x, left, |row, x| match x {
                Some(x) => self.quantize(x, self.window.stride, bytes, &factors, row),
                None => row.fill(bytes.zero as u8),
            });
        });
    }

    /// As many pixels as there is room for, of those so many apart.
    fn quantize(
        &self,
        x: &[f32],
        apart: usize,
        bytes: Bytes,
        factors: &[f32; BLOCK],
        to: &mut [u8],
    ) {
        let count = to.len() / BLOCK;
        assert!(count == 0 || x.len() >= ((count - 1) * apart + 1) * BLOCK);
        let pixels = Pixels {
            x: x.as_ptr(),
            step: apart * BLOCK,
            count,
            factors,
            bytes,
            to: to.as_mut_ptr(),
        };
        // SAFETY: the table has kernels for this processor alone, and the lengths were just checked.
        unsafe { (self.kernels.quantize)(&pixels) };
    }
}

/// The instruction set for what is in f32 beside it.
pub(super) fn floats(isa: Isa) -> vector::Isa {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => vector::Isa::Avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni | Isa::Avx2 => vector::Isa::Avx2,
        Isa::Portable => vector::Isa::Portable,
    }
}

/// A whole batch as bytes, `[batch, blocks, height, width, 16]`, for kernels of one pixel; returns how every image
/// was brought to them.
pub(super) fn quantize(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    ranges: &[Range],
    to: &mut Buffer,
) -> Vec<Bytes> {
    shape.check("quantisation: input", x.len());
    assert_eq!(
        ranges.len(),
        shape.batch,
        "quantisation: ranges of {shape:?}"
    );
    let quantize = Kernels::new(isa).quantize;
    let bytes: Vec<Bytes> = ranges.iter().map(|range| range.bytes()).collect();
    to.resize(x.len() / size_of::<f32>());
    let to: &mut [u8] = bytemuck::cast_slice_mut(to);
    let plane = shape.plane() * BLOCK;
    let each = |(number, (x, to)): (usize, (&[f32], &mut [u8]))| {
        let pixels = Pixels {
            x: x.as_ptr(),
            step: BLOCK,
            count: x.len() / BLOCK,
            factors: &[1.0; BLOCK],
            bytes: bytes[number / shape.blocks()],
            to: to.as_mut_ptr(),
        };
        // SAFETY: the table has kernels for this processor alone; `x` and `to` are a plane each.
        unsafe { quantize(&pixels) };
    };
    if x.len() < INPUT_BYTES / size_of::<f32>() {
        x.chunks_exact(plane)
            .zip(to.chunks_exact_mut(plane))
            .enumerate()
            .for_each(each);
    } else {
        x.par_chunks_exact(plane)
            .zip(to.par_chunks_exact_mut(plane))
            .enumerate()
            .for_each(each);
    }
    bytes
}
