//! Convolutions of 3 × 3 pixels with step 1 in fewer multiplications: Winograd's F(2×2, 3×3), as Lavin and Gray have
//! it (2016, <https://arxiv.org/abs/1509.09308>).
//!
//! A tile of 4 × 4 inputs and the kernel become 16 numbers each by sums and differences (`BᵀdB` and `GgGᵀ`), whose
//! products, summed over the input channels, become 2 × 2 outputs by sums and differences again (`AᵀmA`): 16
//! multiplications in the place of 36. Each of the 16 places is a matrix product of its own, tiles by input channels by
//! output channels, which [`tile`](super::tile)'s kernels compute. The matrices have nothing but 0, ±1 and ±½; with
//! sums that are nine times shorter, errors are no greater than those of the plain form (of 144 channels, 0.6 times).
//!
//! Weights are transformed anew in every call: to keep them so would take 16/9 of their memory more, and to transform
//! those of 256 channels takes less than a tenth of the time that is saved for a batch of 8.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::ahead::Ahead;
use super::memory::{Buffer, Shared};
use super::pack::Dense;
use super::plan::{Call, Held, Plan, Task, Work};
use super::tile::{Finish, Kernels, Tile};
#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{Isa, Portable, Vector};
use super::{Activation, BLOCK, Fused, Shape, Window, finish};

/// Pixels along either edge of a tile of inputs.
const EDGE: usize = 4;

/// Pixels along either edge of a tile of outputs, and from a tile of inputs to the next.
const STEP: usize = 2;

/// Places of a transformed tile.
const PLACES: usize = EDGE * EDGE;

/// Bytes of transformed input that a task works on. They are read once for every 32 output channels, while 16/9 of the
/// weights' bytes go by once.
const INPUT_BYTES: usize = 832 << 10;

/// Channels of input and output from which the fewer multiplications outweigh the transforms.
const CHANNELS: usize = 32;

/// Tiles of an image from which they outweigh the transform of the weights.
const TILES: usize = 36;

/// Whether a convolution is computed so. It depends on the shape of one image alone, so that its values do not depend
/// on the others of its batch.
pub(super) fn fits(packed: &Dense, window: Window, fused: &Fused, to: Shape) -> bool {
    let tiles = to.height.div_ceil(2) * to.width.div_ceil(2);
    packed.lanes == BLOCK
        && packed.kernel == [3, 3]
        && window.stride == 1
        && fused.scale.is_none()
        && packed.channels.iter().all(|channels| *channels >= CHANNELS)
        && tiles >= TILES
}

/// A thread's part of the work.
struct Scratch {
    /// What stands in `input`.
    held: Held,
    /// `[16, in/16, tiles, 16]`.
    input: Buffer,
    /// `[16, 1 or 2 blocks, tiles, 16]`.
    sums: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        held: Held::NOTHING,
        input: Buffer::new(0),
        sums: Buffer::new(0),
    });
}

/// Memory for the transformed weights of a call, as much as there have been calls at a time. It goes from thread to
/// thread: a machine has more of them than calls.
static WEIGHTS: Mutex<Vec<Buffer>> = Mutex::new(Vec::new());

/// What no call has at the moment; a panic in between leaves nothing wrong.
fn free() -> MutexGuard<'static, Vec<Buffer>> {
    WEIGHTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that the tasks of one convolution share.
struct Job<'a> {
    call: Call,
    kernels: Kernels,
    transforms: Transforms,
    x: &'a [f32],
    shape: Shape,
    to: Shape,
    packed: &'a Dense,
    /// `[columns, 16, blocks of a column, in, 16]`, as [`weights`] makes it.
    weight: &'a [f32],
    window: Window,
    fused: Fused<'a>,
    finish: Finish,
    out: Shared,
}

/// [`conv`](super::conv) into `out` of shape `to`, for what [`fits`]; lengths have been checked, and there are images.
#[allow(clippy::too_many_arguments)]
pub(super) fn run(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    packed: &Dense,
    window: Window,
    fused: Fused,
    to: Shape,
    out: &mut [f32],
) {
    assert!(packed.kernel == [3, 3] && packed.lanes == BLOCK && window.stride == 1);
    let kernels = Kernels::blocked(isa);
    let transforms = Transforms::of(isa);
    let mut weight = free().pop().unwrap_or_else(|| Buffer::new(0));
    weights(packed, kernels.out_blocks(), &transforms, &mut weight);

    let [lines, columns] = [to.height.div_ceil(2), to.width.div_ceil(2)];
    let places = PLACES * shape.blocks() * BLOCK;
    let products = lines * columns * PLACES * packed.channels[0] * packed.channels[1];
    let plan = Plan::new(&Work {
        batch: shape.batch,
        lines,
        line_bytes: columns * places * size_of::<f32>(),
        input_bytes: INPUT_BYTES,
        grain: 1,
        columns: to.blocks().div_ceil(kernels.out_blocks()),
        products: products * shape.batch,
        threads: rayon::current_num_threads(),
    });
    let job = Job {
        call: Call::new(),
        kernels,
        transforms,
        x,
        shape,
        to,
        packed,
        weight: &weight,
        window,
        fused,
        finish: finish(fused.activation),
        out: Shared::new(out),
    };
    plan.run(|task| SCRATCH.with_borrow_mut(|scratch| job.task(task, scratch)));
    free().push(weight);
}

/// Transforms weights into `to`, whose columns have `out_blocks` blocks of output channels, the last one perhaps fewer.
fn weights(packed: &Dense, out_blocks: usize, transforms: &Transforms, to: &mut Buffer) {
    let [out, from] = packed.channels.map(|channels| channels.div_ceil(BLOCK));
    let lanes = from * BLOCK;
    to.resize(out * PLACES * lanes * BLOCK);
    let column = |(number, to): (usize, &mut [f32])| {
        let first = number * out_blocks;
        let count = out_blocks.min(out - first);
        for block in 0..count {
            let from = &packed.weight[(first + block) * lanes * 9 * BLOCK..][..lanes * 9 * BLOCK];
            let to = &mut to[block * lanes * BLOCK..];
            let place = count * lanes * BLOCK;
            assert!(to.len() >= (PLACES - 1) * place + lanes * BLOCK);
            // SAFETY: the table has functions for this processor alone. `from` has 9 vectors for each of `lanes`
            // channels, and that `to` has room for one more at each of 16 places was just checked.
            unsafe { (transforms.weight)(from.as_ptr(), lanes, to.as_mut_ptr(), place) };
        }
    };
    let length = out_blocks * PLACES * lanes * BLOCK;
    if packed.weight.len() < 1 << 15 {
        to.chunks_mut(length).enumerate().for_each(column);
    } else {
        to.par_chunks_mut(length).enumerate().for_each(column);
    }
}

impl Job<'_> {
    fn task(&self, task: &Task, scratch: &mut Scratch) {
        let columns = self.to.width.div_ceil(2);
        let tiles = task.images.len() * task.lines.len() * columns;
        let in_blocks = self.shape.blocks();
        let Scratch { held, input, sums } = scratch;
        held.make(self.call, task.chunk, || {
            input.resize(PLACES * in_blocks * tiles * BLOCK);
            self.input(task, tiles, input);
        });
        let input = &input[..PLACES * in_blocks * tiles * BLOCK];
        let most = self.kernels.out_blocks();
        sums.resize(PLACES * most * tiles * BLOCK);
        for column in task.columns.clone() {
            let first = column * most;
            let count = most.min(self.to.blocks() - first);
            self.sums(column, count, tiles, input, sums);
            self.outputs(task, first, count, tiles, sums);
        }
    }

    /// Transforms what a task reads, into `[16, in/16, tiles, 16]`.
    fn input(&self, task: &Task, tiles: usize, to: &mut [f32]) {
        let blocks = self.shape.blocks();
        let columns = self.to.width.div_ceil(2);
        let place = blocks * tiles * BLOCK;
        let line = self.shape.width * BLOCK;
        let [top, left] = self.window.padding.map(|(before, _)| before);
        for block in 0..blocks {
            let mut tile = block * tiles;
            for image in task.images.clone() {
                let plane = (image * blocks + block) * self.shape.height;
                for number in task.lines.clone() {
                    let rows = [0, 1, 2, 3].map(|row| {
                        let row = (2 * number + row).checked_sub(top);
                        let row = row.filter(|row| *row < self.shape.height);
                        row.map(|row| &self.x[(plane + row) * line..][..line])
                    });
                    let to = &mut to[tile * BLOCK..];
                    assert!(to.len() >= (PLACES - 1) * place + columns * BLOCK);
                    // SAFETY: the table has functions for this processor alone; that `to` has room for a line of
                    // tiles at each of 16 places was just checked.
                    unsafe {
                        (self.transforms.input)(&rows, left, columns, to.as_mut_ptr(), place)
                    };
                    tile += columns;
                }
            }
        }
    }

    /// The products of every place, `[16, count, tiles, 16]`.
    fn sums(&self, column: usize, count: usize, tiles: usize, input: &[f32], to: &mut [f32]) {
        const NO_BIAS: [f32; 2 * BLOCK] = [0.0; 2 * BLOCK];
        let blocks = self.shape.blocks();
        let lanes = blocks * BLOCK;
        let first = column * self.kernels.out_blocks();
        let weight = &self.weight[first * PLACES * lanes * BLOCK..];
        let weight = &weight[..count * PLACES * lanes * BLOCK];
        let to = &mut to[..PLACES * count * tiles * BLOCK];
        let pieces = tiles.div_ceil(self.kernels.pixels());
        for place in 0..PLACES {
            // Meanwhile those of the next place.
            let bytes = count * lanes * BLOCK * size_of::<f32>();
            let next = weight
                .as_ptr()
                .wrapping_add((place + 1) * count * lanes * BLOCK);
            let mut ahead = Ahead::new(next, bytes, pieces * self.shape.channels);
            let mut done = 0;
            for piece in 0..pieces {
                let pixels = (tiles - done) / (pieces - piece);
                let x = input[(place * blocks * tiles + done) * BLOCK..].as_ptr();
                let out = to[(place * count * tiles + done) * BLOCK..].as_mut_ptr();
                let tile = Tile {
                    x: [x; 2],
                    x_block: tiles * BLOCK,
                    blocks,
                    last: self.shape.channels - (blocks - 1) * BLOCK,
                    taps: &[0],
                    weight: weight[place * count * lanes * BLOCK..].as_ptr(),
                    weight_block: lanes * BLOCK,
                    bias: NO_BIAS.as_ptr(),
                    out: [out; 2],
                    out_block: tiles * BLOCK,
                    residual: [std::ptr::null(); 2],
                    finish: finish(Activation::Identity),
                    ahead,
                };
                // SAFETY: the table has kernels for this processor alone. `input` has `blocks` rows of `tiles` pixels
                // at each of 16 places, `weight` `count` blocks of `lanes` vectors, `to` `count` rows of `tiles`
                // pixels, and `done + pixels` is at most `tiles`.
                unsafe { (self.kernels.get(count, 1, pixels))(&tile) };
                done += pixels;
                ahead = ahead.after(self.shape.channels);
            }
        }
    }

    /// Outputs of the blocks of channels from `first` on.
    fn outputs(&self, task: &Task, first: usize, count: usize, tiles: usize, sums: &[f32]) {
        let columns = self.to.width.div_ceil(2);
        let plane = self.to.plane() * BLOCK;
        let place = count * tiles * BLOCK;
        assert!(sums.len() >= PLACES * place);
        for block in 0..count {
            let bias = self.packed.bias[(first + block) * BLOCK..].as_ptr();
            let mut tile = block * tiles;
            for image in task.images.clone() {
                for number in task.lines.clone() {
                    let at = (image * self.to.blocks() + first + block) * plane
                        + 2 * number * self.to.width * BLOCK;
                    // SAFETY: output and residual have a plane for this image and block, and `number` is a line of
                    // tiles within it.
                    let (out, residual) = unsafe {
                        let out = self.out.get().add(at);
                        let residual = match self.fused.residual {
                            Some(residual) => residual.as_ptr().add(at),
                            None if self.fused.onto => out.cast_const(),
                            None => std::ptr::null(),
                        };
                        (out, residual)
                    };
                    let line = Line {
                        sums: sums[tile * BLOCK..].as_ptr(),
                        place,
                        bias,
                        residual,
                        out,
                        width: self.to.width,
                        rows: (self.to.height - 2 * number).min(2),
                        finish: self.finish,
                    };
                    // SAFETY: the table has functions for this processor alone. `sums` has `columns` vectors from here
                    // on at each of 16 places, as was checked; the tasks share no line of an output block, so
                    // nobody else reads or writes these rows.
                    unsafe { (self.transforms.output)(&line) };
                    tile += columns;
                }
            }
        }
    }
}

/// A line of tiles on its way to the output.
struct Line {
    /// The first place of the first tile; tiles follow each other.
    sums: *const f32,
    /// From a place to the next.
    place: usize,
    /// 16 floats.
    bias: *const f32,
    /// As `out`, or null.
    residual: *const f32,
    /// The first of one or two rows, which follow each other.
    out: *mut f32,
    /// Pixels of a row.
    width: usize,
    rows: usize,
    finish: Finish,
}

/// `GgGᵀ` of every input channel of a block of output channels.
///
/// # Safety
/// The processor has the instructions of `V`. `from` is `[lanes/16, 9, 16, 16]`, and `lanes` vectors are writable from
/// `to` on at each of 16 distances of `place`.
#[inline(always)]
unsafe fn weight<V: Vector>(from: *const f32, lanes: usize, to: *mut f32, place: usize) {
    for lane in 0..lanes {
        // SAFETY: by the contract.
        unsafe {
            let from = from.add((lane / BLOCK * 9 * BLOCK + lane % BLOCK) * BLOCK);
            let tap = |tap: usize| V::load(from.add(tap * BLOCK * BLOCK));
            let half = V::splat(0.5);
            // A kernel's rows or columns to four: g₀, (g₀ + g₁ + g₂)/2, (g₀ − g₁ + g₂)/2, g₂.
            macro_rules! four {
                ($a:expr, $b:expr, $c:expr) => {{
                    let (a, b, c) = ($a, $b, $c);
                    let (outer, inner) = (a.add(c).mul(half), b.mul(half));
                    [a, outer.add(inner), outer.sub(inner), c]
                }};
            }
            let columns = [
                four!(tap(0), tap(3), tap(6)),
                four!(tap(1), tap(4), tap(7)),
                four!(tap(2), tap(5), tap(8)),
            ];
            let to = to.add(lane * BLOCK);
            super::each!(i < EDGE, [0 1 2 3], {
                let row = four!(columns[0][i], columns[1][i], columns[2][i]);
                for (j, value) in row.into_iter().enumerate() {
                    value.store(to.add((EDGE * i + j) * place));
                }
            });
        }
    }
}

/// The rows of pixels that a line of tiles covers, none for padding.
type Rows<'a> = [Option<&'a [f32]>; EDGE];

/// `BᵀdB` of a line of tiles, whose rows have `left` columns of padding before them.
///
/// # Safety
/// The processor has the instructions of `V`, and `columns` vectors are writable from `to` on at each of 16 distances
/// of `place`.
#[inline(always)]
unsafe fn input<V: Vector>(rows: &Rows, left: usize, columns: usize, to: *mut f32, place: usize) {
    const ZEROS: [f32; BLOCK] = [0.0; BLOCK];
    let width = rows.iter().flatten().map(|row| row.len() / BLOCK).min();
    let width = width.unwrap_or(0);
    // A row of padding is the same zeros at every column.
    let rows = rows.map(|row| match row {
        Some(row) => (row.as_ptr(), BLOCK),
        None => (ZEROS.as_ptr(), 0),
    });
    // SAFETY: by the contract; columns that are read are below `width`, which every row has that is not padding.
    unsafe {
        // A column of pixels to four: d₀ − d₂, d₁ + d₂, d₂ − d₁, d₁ − d₃.
        macro_rules! four {
            ($a:expr, $b:expr, $c:expr, $d:expr) => {{
                let (a, b, c, d) = ($a, $b, $c, $d);
                [a.sub(c), b.add(c), c.sub(b), b.sub(d)]
            }};
        }
        macro_rules! column {
            ($at:expr) => {
                match $at.checked_sub(left) {
                    Some(at) if at < width => four!(
                        V::load(rows[0].0.add(at * rows[0].1)),
                        V::load(rows[1].0.add(at * rows[1].1)),
                        V::load(rows[2].0.add(at * rows[2].1)),
                        V::load(rows[3].0.add(at * rows[3].1))
                    ),
                    _ => [V::splat(0.0); 4],
                }
            };
        }
        // Two of a tile's columns are the next one's.
        let mut first = column!(0usize);
        let mut second = column!(1usize);
        for column in 0..columns {
            let third = column!((2 * column + 2));
            let fourth = column!((2 * column + 3));
            let to = to.add(column * BLOCK);
            super::each!(i < EDGE, [0 1 2 3], {
                let [a, b, c, d] = four!(first[i], second[i], third[i], fourth[i]);
                a.store(to.add(4 * i * place));
                b.store(to.add((4 * i + 1) * place));
                c.store(to.add((4 * i + 2) * place));
                d.store(to.add((4 * i + 3) * place));
            });
            (first, second) = (third, fourth);
        }
    }
}

/// `AᵀmA` of a line of tiles, with all that comes after the sums.
///
/// # Safety
/// The processor has the instructions of `V`. All that a [`Line`] names is readable or, of `out`, writable: 16 places of
/// as many tiles as cover `width`, and `rows` rows of `width` pixels.
#[inline(always)]
unsafe fn output<V: Vector>(line: &Line) {
    // SAFETY: by the contract.
    unsafe {
        let bias = V::load(line.bias);
        // Four to two: m₀ + m₁ + m₂, m₁ − m₂ − m₃.
        macro_rules! two {
            ($a:expr, $b:expr, $c:expr, $d:expr) => {{
                let (a, b, c, d) = ($a, $b, $c, $d);
                [a.add(b).add(c), b.sub(c).sub(d)]
            }};
        }
        for column in 0..line.width.div_ceil(2) {
            let sums = line.sums.add(column * BLOCK);
            let mut columns = [[bias; 2]; 4];
            super::each!(j < EDGE, [0 1 2 3], {
                columns[j] = two!(
                    V::load(sums.add(j * line.place)),
                    V::load(sums.add((4 + j) * line.place)),
                    V::load(sums.add((8 + j) * line.place)),
                    V::load(sums.add((12 + j) * line.place))
                );
            });
            let pixels = (line.width - 2 * column).min(2);
            super::each!(i < STEP, [0 1], {
                let row = two!(columns[0][i], columns[1][i], columns[2][i], columns[3][i]);
                super::each!(j < STEP, [0 1], {
                    if i < line.rows && j < pixels {
                        let at = (i * line.width + 2 * column + j) * BLOCK;
                        let mut y = row[j].add(bias);
                        if !line.residual.is_null() {
                            y = y.add(V::load(line.residual.add(at)));
                        }
                        line.finish.apply(y).store(line.out.add(at));
                    }
                });
            });
        }
    }
}

/// [`weight`], [`input`] and [`output`] for an instruction set.
///
/// # Safety
/// Those of these functions.
struct Transforms {
    weight: unsafe fn(*const f32, usize, *mut f32, usize),
    input: unsafe fn(&Rows, usize, usize, *mut f32, usize),
    output: unsafe fn(&Line),
}

impl Transforms {
    fn of(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(),
            Isa::Portable => portable(),
        }
    }
}

/// Declares the functions compiled for an instruction set.
macro_rules! compiled {
    ($(#[$cfg:meta])? [$(#[$target:meta])?] $name:ident, $vector:ty) => {
        $(#[$cfg])?
        fn $name() -> Transforms {
            $(#[$target])?
            unsafe fn of_weight(from: *const f32, lanes: usize, to: *mut f32, place: usize) {
                // SAFETY: the contract is the same.
                unsafe { weight::<$vector>(from, lanes, to, place) }
            }

            $(#[$target])?
            unsafe fn of_input(
                rows: &Rows,
                left: usize,
                columns: usize,
                to: *mut f32,
                place: usize,
            ) {
                // SAFETY: the contract is the same.
                unsafe { input::<$vector>(rows, left, columns, to, place) }
            }

            $(#[$target])?
            unsafe fn to_output(line: &Line) {
                // SAFETY: the contract is the same.
                unsafe { output::<$vector>(line) }
            }

            Transforms {
                weight: of_weight,
                input: of_input,
                output: to_output,
            }
        }
    };
}

compiled! { #[cfg(target_arch = "x86_64")] [#[target_feature(enable = "avx512f,fma")]] avx512, Avx512 }
compiled! { #[cfg(target_arch = "x86_64")] [#[target_feature(enable = "avx2,fma")]] avx2, Avx2 }
compiled! { [] portable, Portable }
