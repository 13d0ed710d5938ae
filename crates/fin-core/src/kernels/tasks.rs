//! How products are cut into tasks.

use std::ops::Range;

use rayon::prelude::*;

/// Multiplications below which one thread is faster than two.
pub(super) const SMALL: usize = 1 << 18;

/// Tasks a thread, so that uneven threads even out.
pub(super) const A_THREAD: usize = 4;

/// An output in groups of rows, and these in parts of columns.
pub(super) struct Tasks {
    rows: usize,
    columns: usize,
    /// Rows of a group.
    group: usize,
    /// Columns of a part.
    width: usize,
}

impl Tasks {
    /// `[rows, columns]` in groups of `group` rows, with so many parts of whole panels of columns that there is
    /// enough for `threads`; a part has `least` panels at least. Not of an output without elements.
    pub(super) fn new(
        [rows, columns]: [usize; 2],
        group: usize,
        panel: usize,
        least: usize,
        threads: usize,
    ) -> Self {
        let panels = columns.div_ceil(panel);
        let parts = match threads {
            1 => 1,
            _ => (A_THREAD * threads)
                .div_ceil(rows.div_ceil(group))
                .min(panels.div_ceil(least)),
        };
        Self {
            rows,
            columns,
            group,
            width: panels.div_ceil(parts) * panel,
        }
    }

    /// Runs every task, given its rows and columns, on the threads of the pool where there is more than one.
    pub(super) fn run(&self, threads: usize, task: impl Fn(Range<usize>, Range<usize>) + Sync) {
        let parts = self.columns.div_ceil(self.width);
        let count = self.rows.div_ceil(self.group) * parts;
        let work = |number: usize| {
            let (row, column) = (number / parts * self.group, number % parts * self.width);
            task(
                row..(row + self.group).min(self.rows),
                column..(column + self.width).min(self.columns),
            );
        };
        if threads == 1 {
            (0..count).for_each(work);
        } else {
            (0..count).into_par_iter().for_each(work);
        }
    }
}

/// Threads for so many multiplications, of which one thread does less than `small`.
pub(super) fn threads(products: usize, small: usize) -> usize {
    match products < small {
        true => 1,
        false => rayon::current_num_threads(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::cases;
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_element_is_in_one_task_of_whole_panels() {
        let sizes = [[1, 1], [1, 100], [33, 14], [500, 65], [7, 3000]];
        for &[rows, columns] in cases(&sizes, &[[1, 1], [33, 34]]) {
            for (group, panel, least) in [(1, 32, 1), (14, 14, 4), (224, 32, 2)] {
                for &threads in cases(&[1, 2, 5], &[1, 2]) {
                    let seen = Mutex::new(vec![0u8; rows * columns]);
                    let tasks = Tasks::new([rows, columns], group, panel, least, threads);
                    tasks.run(threads, |r, c| {
                        assert!(r.len() <= group && c.start % panel == 0);
                        let mut seen = seen.lock().unwrap();
                        for row in r {
                            for column in c.clone() {
                                seen[row * columns + column] += 1;
                            }
                        }
                    });
                    assert!(seen.into_inner().unwrap().iter().all(|n| *n == 1));
                }
            }
        }
    }
}
