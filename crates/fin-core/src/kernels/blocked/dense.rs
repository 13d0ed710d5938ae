//! Dense convolutions.

use std::cell::RefCell;

use super::ahead::Ahead;
use super::gather::Copied;
use super::memory::{Buffer, Shared};
use super::pack::Dense;
use super::plan::{Call, Held, INPUT_BYTES, Plan, Task, Work, tiles};
use super::tile::{Finish, Kernels, Tile};
use super::vector::Isa;
use super::{BLOCK, Fused, PackedConv, PackedStem, Shape, Window, finish, winograd};

/// Convolution of blocked `x` into blocked `out`; returns the shape of `out`.
///
/// Panics where a length does not fit, the kernel does not fit the padded input, or the
/// activation is not one of identity, ReLU, ReLU6 and SiLU.
pub fn conv(
    x: &[f32],
    shape: Shape,
    weight: &PackedConv,
    window: Window,
    fused: Fused,
    out: &mut [f32],
) -> Shape {
    shape.check("convolution: input", x.len());
    run(Isa::detect(), x, shape, &weight.0, window, fused, out)
}

/// Convolution of an image `x` `[batch, channels, height, width]` into blocked `out`; returns the
/// shape of `out`.
///
/// Panics where [`conv`] does.
pub fn stem(
    x: &[f32],
    shape: Shape,
    weight: &PackedStem,
    window: Window,
    activation: super::Activation,
    out: &mut [f32],
) -> Shape {
    assert_eq!(
        x.len(),
        shape.plain_len(),
        "convolution: input length of {shape:?}"
    );
    let fused = Fused::new(activation);
    run(Isa::detect(), x, shape, &weight.0, window, fused, out)
}

/// A thread's copy of input rows.
struct Scratch {
    /// What stands in `rows`.
    held: Held,
    rows: Buffer,
    runs: Vec<Run>,
    /// Weights times the factors of an image.
    weight: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        held: Held::NOTHING,
        rows: Buffer::new(0),
        runs: Vec::new(),
        weight: Buffer::new(0),
    });
}

/// Neighbouring pixels of a row, in floats from the start of the memory.
#[derive(Clone, Copy)]
struct Run {
    x: usize,
    out: usize,
    pixels: usize,
}

/// One or two blocks of output channels, and the input of a task.
#[derive(Clone, Copy)]
struct Channels<'a> {
    x: &'a [f32],
    /// From an input block to the next.
    x_block: usize,
    /// Offsets of the kernel's elements.
    taps: &'a [usize],
    /// From the first block on.
    weight: &'a [f32],
    /// From a block of output channels to the next in `weight`.
    weight_block: usize,
    /// The weights of the blocks that come next.
    next: *const f32,
    first: usize,
    count: usize,
}

/// All that the tasks of one convolution share.
struct Job<'a> {
    call: Call,
    kernels: Kernels,
    x: &'a [f32],
    shape: Shape,
    to: Shape,
    packed: &'a Dense,
    window: Window,
    fused: Fused<'a>,
    finish: Finish,
    /// Whether the kernels read the input itself, pixel after pixel, not a copy of its rows; the
    /// weights are then multiplied by an image's factors, not the rows.
    direct: bool,
    out: Shared,
}

/// [`conv`] or [`stem`], as the weights are packed, with an instruction set.
pub(super) fn run(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    packed: &Dense,
    window: Window,
    fused: Fused,
    out: &mut [f32],
) -> Shape {
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
    if shape.batch == 0 {
        return to;
    }
    if winograd::fits(packed, window, &fused, to) {
        winograd::run(isa, x, shape, packed, window, fused, to, out);
        return to;
    }

    let point = packed.kernel == [1, 1];
    // Factors go to whichever of a chunk's input and the weights is smaller.
    let pixels = to.plane().min(INPUT_BYTES / (from * size_of::<f32>()));
    let direct = point && window == Window::POINT && (fused.scale.is_none() || pixels > channels);
    let kernels = if packed.lanes == BLOCK {
        Kernels::blocked(isa)
    } else {
        Kernels::planar(isa)
    };
    let products = channels * from * packed.kernel[0] * packed.kernel[1];
    let (lines, line, grain) = if direct {
        (to.plane(), 1, kernels.pixels())
    } else {
        (to.height, shape.width * window.stride, 1)
    };
    let plan = Plan::new(&Work {
        batch: shape.batch,
        lines,
        line_bytes: line * from.next_multiple_of(packed.lanes) * size_of::<f32>(),
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
        direct,
        out: Shared::new(out),
    };
    plan.run(|task| SCRATCH.with_borrow_mut(|scratch| job.task(task, scratch)));
    to
}

impl Job<'_> {
    fn task(&self, task: &Task, scratch: &mut Scratch) {
        let Scratch {
            held,
            rows,
            runs,
            weight: scaled,
        } = scratch;
        let (x, x_block, taps) = self.input(task, held, rows, runs);
        let lanes = self.packed.lanes;
        let blocks = self.shape.channels.div_ceil(lanes);
        let weight_block = blocks * taps.len() * lanes * BLOCK;
        let scale = self.fused.scale.filter(|_| self.direct);
        for column in task.columns.clone() {
            let first = column * self.kernels.out_blocks();
            let count = self.kernels.out_blocks().min(self.to.blocks() - first);
            let weight = &self.packed.weight[first * weight_block..][..count * weight_block];
            let channels = Channels {
                x,
                x_block,
                taps: &taps,
                weight,
                weight_block,
                next: weight.as_ptr_range().end,
                first,
                count,
            };
            let Some(scale) = scale else {
                self.tiles(&channels, runs);
                continue;
            };
            for (image, run) in task.images.clone().zip(&*runs) {
                scaled.resize(weight.len());
                let scale = &scale[image * self.shape.channels..][..self.shape.channels];
                for block in 0..count {
                    let at = block * weight_block;
                    let (from, to) = (&weight[at..], &mut scaled[at..]);
                    assert!(from.len().min(to.len()) >= scale.len() * BLOCK);
                    // SAFETY: the lengths were just checked, and the table has kernels for this
                    // processor alone.
                    unsafe { (self.kernels.scale)(from.as_ptr(), scale, to.as_mut_ptr()) };
                }
                let channels = Channels {
                    weight: scaled,
                    ..channels
                };
                self.tiles(&channels, std::slice::from_ref(run));
            }
        }
    }

    /// Runs of pixels, tile by tile, for one or two blocks of output channels.
    fn tiles(&self, channels: &Channels, runs: &[Run]) {
        let lanes = self.packed.lanes;
        let blocks = self.shape.channels.div_ceil(lanes);
        let last = self.shape.channels - (blocks - 1) * lanes;
        let out_block = self.to.plane() * BLOCK;
        let residual = self.fused.residual;
        let most = self.kernels.pixels();
        let Channels { x, first, .. } = *channels;
        let residual = |at: usize| match residual {
            // SAFETY: the residual is as long as the output.
            Some(residual) => unsafe { residual.as_ptr().add(at) },
            // SAFETY: as for `out`; a kernel reads its part before it writes there.
            None if self.fused.onto => unsafe { self.out.get().add(at).cast_const() },
            None => std::ptr::null(),
        };
        let pixels = |run: &Run| run.pixels;
        let number = tiles(runs, pixels, most, |_, _| {});
        let steps = self.shape.channels * channels.taps.len();
        let mut ahead = Ahead::new(channels.next, size_of_val(channels.weight), steps * number);
        tiles(runs, pixels, most, |rows, pixels| {
            let runs = [rows[0], rows[rows.len() - 1]];
            let done = pixels.start;
            let at = runs.map(|run| run.out + first * out_block + done * BLOCK);
            // SAFETY: a run lies within an image of the input and output, so that these
            // are offsets within the slices; `first` is one of the weight's blocks.
            let tile = unsafe {
                Tile {
                    x: runs.map(|run| x.as_ptr().add(run.x + done * lanes)),
                    x_block: channels.x_block,
                    blocks,
                    last,
                    taps: channels.taps,
                    weight: channels.weight.as_ptr(),
                    weight_block: channels.weight_block,
                    bias: self.packed.bias.as_ptr().add(first * BLOCK),
                    out: at.map(|at| self.out.get().add(at)),
                    out_block,
                    residual: at.map(residual),
                    finish: self.finish,
                    ahead,
                }
            };
            // SAFETY: the table has kernels for this processor alone. The lengths of the
            // weight, output, residual and input were checked or made in `run`, `Dense::new`,
            // `task` and `Copied`; the tasks share no run of an output block, so nobody else
            // reads or writes this part of the output.
            unsafe { (self.kernels.get(channels.count, rows.len(), pixels.len()))(&tile) };
            ahead = ahead.after(steps);
        });
    }

    /// Lists a task's runs of pixels; returns the memory that they are read from, the distance of
    /// its blocks, and the offsets of the kernel's elements.
    fn input<'a>(
        &'a self,
        task: &Task,
        held: &mut Held,
        rows: &'a mut Buffer,
        runs: &mut Vec<Run>,
    ) -> (&'a [f32], usize, Vec<usize>) {
        let lanes = self.packed.lanes;
        let images = task.images.clone();
        let out_image = self.to.blocks() * self.to.plane();
        runs.clear();
        if self.direct {
            let image = self.shape.channels.div_ceil(lanes) * self.shape.plane();
            runs.extend(images.map(|i| Run {
                x: (i * image + task.lines.start) * lanes,
                out: (i * out_image + task.lines.start) * BLOCK,
                pixels: task.lines.len(),
            }));
            return (self.x, self.shape.plane() * lanes, vec![0]);
        }

        let (kernel, width) = (self.packed.kernel, self.to.width);
        let copied = Copied::new(self.window, kernel, lanes, task.lines.len(), width);
        held.make(self.call, task.chunk, || {
            copied.fill(
                rows,
                self.x,
                self.shape,
                self.window,
                images.clone(),
                task.lines.clone(),
                self.fused.scale,
            );
        });
        // Without a border, a row follows the other without a gap.
        let joined = kernel[1] == 1;
        let lines = if joined { 1 } else { task.lines.len() };
        for (number, i) in images.clone().enumerate() {
            for line in 0..lines {
                runs.push(Run {
                    x: number * copied.image + line * copied.row(),
                    out: (i * out_image + (task.lines.start + line) * width) * BLOCK,
                    pixels: width * task.lines.len() / lines,
                });
            }
        }
        (rows, images.len() * copied.image, copied.taps())
    }
}
