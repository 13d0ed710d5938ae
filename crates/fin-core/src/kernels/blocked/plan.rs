//! How a dense convolution is split into tasks.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

/// Bytes of input that a task works on: they stay in the second-level cache while the weights of
/// all output channels pass by.
pub(super) const INPUT_BYTES: usize = 384 << 10;

/// Tasks a thread, so that uneven threads even out.
const TASKS_PER_THREAD: usize = 4;

/// What a split depends on. A line is what the split does not go below: a row of output pixels,
/// or, where rows need not be told apart, a pixel.
pub(super) struct Work {
    pub batch: usize,
    /// Lines of an image.
    pub lines: usize,
    /// Bytes of input that a line stands for.
    pub line_bytes: usize,
    /// Bytes of input that a task is to have.
    pub input_bytes: usize,
    /// Lines that a task should have a multiple of.
    pub grain: usize,
    /// Groups of output channels that the kernels take at once.
    pub columns: usize,
    /// Multiplications of the whole.
    pub products: usize,
    pub threads: usize,
}

/// A split into chunks of lines, and of each chunk into groups of output channels.
#[derive(Debug)]
pub(super) struct Plan {
    batch: usize,
    lines: usize,
    columns: usize,
    /// Images of a chunk, all their lines; 1 where images are split.
    images: usize,
    /// Lines of a chunk.
    chunk_lines: usize,
    /// Chunks of an image, where it is split.
    pieces: usize,
    chunks: usize,
    /// Groups of output channels of a task.
    task_columns: usize,
    /// Tasks of a chunk.
    groups: usize,
}

/// One task.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Task {
    /// Number of the chunk; tasks of the same one read the same input.
    pub chunk: usize,
    pub images: Range<usize>,
    /// Of every image.
    pub lines: Range<usize>,
    pub columns: Range<usize>,
}

/// One call of a kernel, told apart from all others of the process.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Call(u64);

impl Call {
    pub(super) fn new() -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        Self(CALLS.fetch_add(1, Ordering::Relaxed))
    }
}

/// The call and the chunk whose input a thread has made ready last, so that it does so once.
pub(super) struct Held(Option<(Call, usize)>);

impl Held {
    /// Nothing yet.
    pub(super) const NOTHING: Self = Self(None);

    /// Calls `make`, unless it is this chunk that is held.
    pub(super) fn make(&mut self, call: Call, chunk: usize, make: impl FnOnce()) {
        let wanted = Some((call, chunk));
        if self.0 != wanted {
            // Unset for the time of a panic in between.
            self.0 = None;
            make();
            self.0 = wanted;
        }
    }
}

impl Plan {
    pub(super) fn new(work: &Work) -> Self {
        // What takes less time than to wake a thread is not split at all.
        let wanted = (work.products >> 18).clamp(1, TASKS_PER_THREAD * work.threads);
        let mut size = (work.input_bytes / work.line_bytes.max(1)).max(1);
        if wanted == 1 {
            size = size.max(work.batch * work.lines);
        }
        let mut plan = Self::of_size(work, size);
        while plan.chunks * work.columns < wanted && size > work.grain {
            size = (size.min(work.batch * work.lines) / 2).max(work.grain);
            plan = Self::of_size(work, size);
        }
        let groups = wanted.div_ceil(plan.chunks).clamp(1, work.columns);
        plan.task_columns = work.columns.div_ceil(groups);
        plan.groups = work.columns.div_ceil(plan.task_columns);
        plan
    }

    /// Chunks of about `size` lines.
    fn of_size(work: &Work, size: usize) -> Self {
        let (images, chunk_lines, pieces, chunks);
        if size >= work.lines {
            // The same number of images in every chunk, as nearly as can be.
            chunks = work.batch.div_ceil(size / work.lines);
            images = work.batch.div_ceil(chunks);
            chunk_lines = work.lines;
            pieces = 1;
        } else {
            images = 1;
            let about = work.lines.div_ceil(work.lines.div_ceil(size));
            chunk_lines = about.next_multiple_of(work.grain).min(work.lines);
            pieces = work.lines.div_ceil(chunk_lines);
            chunks = 0;
        }
        Self {
            batch: work.batch,
            lines: work.lines,
            columns: work.columns,
            images,
            chunk_lines,
            pieces,
            chunks: if chunks > 0 {
                work.batch.div_ceil(images)
            } else {
                work.batch * pieces
            },
            task_columns: work.columns,
            groups: 1,
        }
    }

    /// Tasks, those of a chunk beside each other.
    pub(super) fn tasks(&self) -> usize {
        self.chunks * self.groups
    }

    /// Most images and lines of a task.
    #[cfg(test)]
    pub(super) fn largest(&self) -> [usize; 2] {
        [self.images, self.chunk_lines]
    }

    /// Calls `work` for every task, on as many threads as there are.
    pub(super) fn run(&self, work: impl Fn(&Task) + Send + Sync) {
        if self.tasks() == 1 {
            work(&self.task(0));
        } else {
            let numbers = (0..self.tasks()).into_par_iter();
            numbers.for_each(|number| work(&self.task(number)));
        }
    }

    pub(super) fn task(&self, number: usize) -> Task {
        let (chunk, group) = (number / self.groups, number % self.groups);
        let (first, piece) = (chunk / self.pieces * self.images, chunk % self.pieces);
        let start = piece * self.chunk_lines;
        let column = group * self.task_columns;
        Task {
            chunk,
            images: first..(first + self.images).min(self.batch),
            lines: start..(start + self.chunk_lines).min(self.lines),
            columns: column..(column + self.task_columns).min(self.columns),
        }
    }
}

/// Cuts runs of pixels into tiles of at most `most` pixels: `tile` is given two neighbouring runs of the same length
/// where they fit into one, or a run and which of its pixels to take, pieces of nearly the same length. Returns how many
/// tiles there are.
pub(super) fn tiles<R>(
    mut runs: &[R],
    pixels: impl Fn(&R) -> usize,
    most: usize,
    mut tile: impl FnMut(&[R], Range<usize>),
) -> usize {
    let mut number = 0;
    while let [one, rest @ ..] = runs {
        let count = pixels(one);
        let pair = rest.first().is_some_and(|two| pixels(two) == count);
        if pair && 2 * count <= most {
            tile(&runs[..2], 0..count);
            number += 1;
            runs = &rest[1..];
            continue;
        }
        let pieces = count.div_ceil(most);
        number += pieces;
        let mut done = 0;
        for piece in 0..pieces {
            let end = done + (count - done) / (pieces - piece);
            tile(&runs[..1], done..end);
            done = end;
        }
        runs = rest;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::cases;
    use super::*;

    #[test]
    fn tiles_take_every_pixel_once() {
        for runs in [&[14][..], &[15, 7, 7, 7], &[3, 3, 5, 5, 5], &[100, 0, 1]] {
            let numbered: Vec<(usize, usize)> = runs.iter().copied().enumerate().collect();
            let mut seen: Vec<Vec<u8>> = runs.iter().map(|run| vec![0; *run]).collect();
            let mut called = 0;
            let number = tiles(
                &numbered,
                |run| run.1,
                14,
                |of, pixels| {
                    called += 1;
                    assert!((1..=14).contains(&(of.len() * pixels.len())));
                    for (run, _) in of {
                        pixels.clone().for_each(|pixel| seen[*run][pixel] += 1);
                    }
                },
            );
            assert_eq!(number, called, "{runs:?}");
            assert!(seen.iter().flatten().all(|n| *n == 1), "{runs:?}: {seen:?}");
        }
    }

    #[test]
    fn tasks_cover_everything_once() {
        let sizes = [
            (1, 1, 64, 1, 1),
            (8, 49, 8192, 14, 32),
            (3, 9025, 192, 14, 5),
            (2, 56, 14848, 1, 2),
            (5, 7, 1 << 20, 1, 3),
        ];
        for &(batch, lines, line_bytes, grain, columns) in cases(&sizes, &sizes[4..]) {
            for &threads in cases(&[1, 2, 16], &[2]) {
                for products in [1000, 1 << 30] {
                    let work = Work {
                        batch,
                        lines,
                        line_bytes,
                        input_bytes: INPUT_BYTES,
                        grain,
                        columns,
                        products,
                        threads,
                    };
                    let plan = Plan::new(&work);
                    let mut seen = vec![0; batch * lines * columns];
                    for number in 0..plan.tasks() {
                        let task = plan.task(number);
                        let [images, chunk] = plan.largest();
                        assert!(task.images.len() <= images && task.lines.len() <= chunk);
                        assert!(task.images.len() == 1 || task.lines == (0..lines));
                        for image in task.images.clone() {
                            for line in task.lines.clone() {
                                for column in task.columns.clone() {
                                    seen[(image * lines + line) * columns + column] += 1;
                                }
                            }
                        }
                    }
                    assert!(seen.iter().all(|n| *n == 1), "{plan:?}");
                    assert!(products < 1 << 18 || plan.tasks() >= threads.min(columns));
                }
            }
        }
    }
}
