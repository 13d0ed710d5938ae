//! Matrix products of row-major activations, with nothing packed ahead.
//!
//! Rows of the left operand are copied in groups of 32 to `[inner, 32]` when they are needed, in
//! memory that stays in the cache; a tile of the output is then 32 rows by up to 14 columns, summed in
//! registers, for which each step loads 32 values of the left operand and multiplies them by one value
//! of the right for every column. The right operand is read where it lies, unless its columns are so
//! far apart that all of a tile's would share a few lines of the cache, or it lies row by row, so that
//! every step would go to another line: then the columns of a tile are copied first.

use std::cell::Cell;
use std::ops::Range;

use super::blocked::each;
use super::blocked::memory::{Buffer, Shared};
#[cfg(target_arch = "x86_64")]
use super::blocked::vector::{Avx2, Avx512};
use super::blocked::vector::{Isa, Portable, Vector};
use super::tasks::{self, Tasks};
use super::{Activation, simd};

/// Rows of a tile.
pub(super) const ROWS: usize = 32;

/// Floats of a vector.
const LANES: usize = 16;

/// Most steps along the inner axis before sums go to memory, where they are turned into rows on the way.
pub(super) const DEPTH: usize = 384;

/// The same, where they go as they are: fewer, as short sums are the more exact ones.
const DEPTH_OF_COLUMNS: usize = 128;

/// Floats of the copied rows of a task: what leaves room in a cache of 1 MiB.
const COPIED: usize = 96 * 1024;

/// Bytes after which addresses share a line of the nearest cache.
const ALIAS: usize = 4096;

/// A matrix in a slice; element `(i, j)` is at `i · strides[0] + j · strides[1]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Matrix<'a> {
    /// Panics where an element would lie outside the slice.
    pub(super) fn new(values: &'a [f32], shape: [usize; 2], strides: [usize; 2]) -> Self {
        let last = |i: usize| (shape[i].saturating_sub(1)).checked_mul(strides[i]);
        let end = last(0).zip(last(1)).and_then(|(a, b)| a.checked_add(b));
        assert!(
            shape.contains(&0) || end.is_some_and(|end| end < values.len()),
            "matrix of {shape:?} with strides {strides:?} in {} values",
            values.len()
        );
        Self {
            values,
            shape,
            strides,
        }
    }

    /// Of rows one after the other.
    pub(super) fn rows(values: &'a [f32], shape: [usize; 2]) -> Self {
        Self::new(values, shape, [shape[1], 1])
    }

    /// Rows and columns.
    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// A row of a matrix whose rows are contiguous.
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        assert_eq!(self.strides[1], 1, "matrix: a row with gaps");
        &self.values[row * self.strides[0]..][..self.shape[1]]
    }

    /// With axes swapped.
    pub(super) fn transposed(self) -> Self {
        Self {
            shape: [self.shape[1], self.shape[0]],
            strides: [self.strides[1], self.strides[0]],
            ..self
        }
    }
}

/// Where a product goes.
pub(super) struct Output<'a> {
    values: &'a mut [f32],
    shape: [usize; 2],
    /// Element `(i, j)` is at `i · strides[0] + j · strides[1]`; one of the two is 1.
    strides: [usize; 2],
    adding: bool,
}

impl<'a> Output<'a> {
    /// Of rows one after the other.
    ///
    /// Panics where the slice has another length.
    pub(super) fn rows(values: &'a mut [f32], shape: [usize; 2]) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1], "product: output length");
        Self {
            values,
            shape,
            strides: [shape[1], 1],
            adding: false,
        }
    }

    /// Of columns that begin so many elements after each other.
    ///
    /// Panics where they overlap or an element would lie outside the slice.
    pub(super) fn columns(values: &'a mut [f32], shape: [usize; 2], apart: usize) -> Self {
        let end = shape[1].saturating_sub(1) * apart + shape[0];
        assert!(
            shape[0] <= apart && (shape.contains(&0) || end <= values.len()),
            "product: {shape:?} with columns {apart} apart in {} values",
            values.len()
        );
        Self {
            values,
            shape,
            strides: [1, apart],
            adding: false,
        }
    }

    /// The product is added to what stands there.
    pub(super) fn adding(mut self) -> Self {
        self.adding = true;
        self
    }
}

/// Where a tile reads and writes. Distances are in floats.
pub(super) struct Tile {
    /// `[depth, 32]`.
    pub(super) left: *const f32,
    pub(super) depth: usize,
    /// First element of the first column of the right operand.
    pub(super) right: *const f32,
    /// From a column to the next.
    pub(super) column: usize,
    /// From a step along the inner axis to the next.
    pub(super) step: usize,
    /// A value a column, or null.
    pub(super) bias: *const f32,
    pub(super) out: *mut f32,
    /// From a row of the output to the next.
    pub(super) row: usize,
    /// From a column of the output to the next. One of the two is 1.
    pub(super) across: usize,
    /// Rows to write, up to 32.
    pub(super) rows: usize,
    /// Whether to add to what stands in the output.
    pub(super) onto: bool,
}

/// A kernel for a number of columns.
///
/// # Safety
/// The processor has the instructions that it was compiled for, and all that a [`Tile`] of its size
/// names is readable or, of `out`, writable.
pub(super) type Kernel = unsafe fn(&Tile);

/// `VECTORS` times 16 rows by `COLUMNS` columns.
///
/// # Safety
/// That of [`Kernel`].
#[inline(always)]
unsafe fn sums<V: Vector, const VECTORS: usize, const COLUMNS: usize>(
    t: &Tile,
) -> [[V; VECTORS]; COLUMNS] {
    // SAFETY: by the contract, `left` holds `depth` times 32 floats, of which 16 or 32 are read;
    // `bias` one float a column, where it is not null; `right` one for every step and column.
    unsafe {
        let mut sums = [[V::splat(0.0); VECTORS]; COLUMNS];
        if !t.bias.is_null() {
            each!(c < COLUMNS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                sums[c] = [V::splat(*t.bias.add(c)); VECTORS];
            });
        }
        let mut left = t.left;
        // Every third column, so that few addresses are kept.
        let mut right = [t.right; 5];
        for (i, right) in right.iter_mut().enumerate() {
            if 3 * i < COLUMNS {
                *right = right.add(3 * i * t.column);
            }
        }
        for _ in 0..t.depth {
            let mut x = [V::splat(0.0); VECTORS];
            each!(v < VECTORS, [0 1], {
                x[v] = V::load(left.add(v * 16));
            });
            each!(c < COLUMNS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                let value = V::splat(*right[c / 3].add((c % 3) * t.column));
                each!(v < VECTORS, [0 1], {
                    sums[c][v] = value.mul_add(x[v], sums[c][v]);
                });
            });
            left = left.add(ROWS);
            for (i, right) in right.iter_mut().enumerate() {
                if 3 * i < COLUMNS {
                    *right = right.wrapping_add(t.step);
                }
            }
        }
        sums
    }
}

/// # Safety
/// That of [`Kernel`].
#[inline(always)]
unsafe fn tile<V: Vector, const VECTORS: usize, const COLUMNS: usize>(t: &Tile) {
    // SAFETY: the contract is the same; rows below `rows` of `COLUMNS` floats are writable.
    unsafe {
        let sums = sums::<V, VECTORS, COLUMNS>(t);
        if t.row == 1 {
            each!(v < VECTORS, [0 1], {
                let count = t.rows.saturating_sub(16 * v).min(LANES);
                each!(c < COLUMNS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                    let out = t.out.add(16 * v + c * t.across);
                    let y = match (count, t.onto) {
                        (0, _) | (_, false) => sums[c][v],
                        (LANES, true) => sums[c][v].add(V::load(out)),
                        (_, true) => sums[c][v].add(V::load_first(out, count)),
                    };
                    match count {
                        0 => {}
                        LANES => y.store(out),
                        _ => y.store_first(out, count),
                    }
                });
            });
            return;
        }
        each!(v < VECTORS, [0 1], {
            // Indices that are constants: sums in an array would be written there at every step.
            let mut block = [V::splat(0.0); 16];
            each!(c < COLUMNS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                block[c] = sums[c][v];
            });
            let block = V::transpose(block);
            each!(r < LANES, [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15], {
                if 16 * v + r < t.rows {
                    let out = t.out.add((16 * v + r) * t.row);
                    let y = if t.onto {
                        block[r].add(V::load_first(out, COLUMNS))
                    } else {
                        block[r]
                    };
                    y.store_first(out, COLUMNS);
                }
            });
        });
    }
}

/// Copies up to 32 rows from `first` on and columns `from..to` of a matrix to `[to - from, 32]`,
/// with zeros for rows that it does not have.
///
/// # Safety
/// The processor has the instructions of `V`; the rows and columns lie within the matrix.
#[inline(always)]
unsafe fn copy<V: Vector>(
    x: &Matrix,
    first: usize,
    inner: std::ops::Range<usize>,
    out: &mut [f32],
) {
    let rows = (x.shape[0] - first).min(ROWS);
    assert!(out.len() >= inner.len() * ROWS && inner.end <= x.shape[1]);
    let [down, across] = x.strides;
    // SAFETY: reads are of elements of the matrix, writes of the `inner.len() * 32` floats just
    // asked for.
    unsafe {
        let start = x.values.as_ptr().add(first * down + inner.start * across);
        if across == 1 {
            for half in 0..2 {
                let rows = rows.saturating_sub(16 * half).min(16);
                let start = start.wrapping_add(16 * half * down);
                let mut k = 0;
                while k < inner.len() {
                    let count = (inner.len() - k).min(16);
                    let mut block = [V::splat(0.0); 16];
                    for (r, block) in block.iter_mut().enumerate().take(rows) {
                        let at = start.add(r * down + k);
                        *block = if count == 16 {
                            V::load(at)
                        } else {
                            V::load_first(at, count)
                        };
                    }
                    let block = V::transpose(block);
                    for (i, column) in block.into_iter().enumerate().take(count) {
                        column.store(out.as_mut_ptr().add((k + i) * ROWS + 16 * half));
                    }
                    k += 16;
                }
            }
        } else {
            for k in 0..inner.len() {
                let row = &mut out[k * ROWS..][..ROWS];
                let from = start.add(k * across);
                if down == 1 && rows == ROWS {
                    V::load(from).store(row.as_mut_ptr());
                    V::load(from.add(16)).store(row.as_mut_ptr().add(16));
                } else {
                    for (r, y) in row.iter_mut().enumerate() {
                        *y = if r < rows { *from.add(r * down) } else { 0.0 };
                    }
                }
            }
        }
    }
}

/// Copies 16 columns of some rows of a matrix whose rows are contiguous, or as many as it has, to rows
/// of 16.
///
/// # Safety
/// The processor has the instructions of `V`; the rows and the first column lie within the matrix.
#[inline(always)]
unsafe fn pack<V: Vector>(
    x: &Matrix,
    rows: std::ops::Range<usize>,
    column: usize,
    out: &mut [f32],
) {
    let count = (x.shape[1] - column).min(LANES);
    assert!(out.len() >= rows.len() * LANES && rows.end <= x.shape[0] && x.strides[1] == 1);
    for (i, row) in rows.enumerate() {
        // SAFETY: `count` elements of the row from `column` on are in the matrix, and 16 floats in the
        // output just asked for.
        unsafe {
            let from = x.values.as_ptr().add(row * x.strides[0] + column);
            let values = if count == LANES {
                V::load(from)
            } else {
                V::load_first(from, count)
            };
            values.store(out.as_mut_ptr().add(i * LANES));
        }
    }
}

/// Kernels of one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    /// By columns less one; for 32 rows.
    pub(super) wide: &'static [Kernel],
    /// For the first 16 of 32 rows.
    pub(super) narrow: &'static [Kernel],
    pub(super) copy: unsafe fn(&Matrix, usize, std::ops::Range<usize>, &mut [f32]),
    pack: unsafe fn(&Matrix, std::ops::Range<usize>, usize, &mut [f32]),
}

macro_rules! sizes {
    ($f:ident, $vectors:literal, $($columns:literal)*) => {
        const { &[$($f::<$vectors, $columns> as Kernel),*] as &[Kernel] }
    };
}

/// Declares [`tile`], [`copy`] and [`pack`] compiled for an instruction set.
macro_rules! compiled {
    ($(#[$attribute:meta])* $tile:ident, $copy:ident, $pack:ident, $vector:ty) => {
        $(#[$attribute])*
        unsafe fn $copy(x: &Matrix, first: usize, inner: std::ops::Range<usize>, out: &mut [f32]) {
            // SAFETY: the contract is the same.
            unsafe { copy::<$vector>(x, first, inner, out) }
        }

        $(#[$attribute])*
        unsafe fn $pack(x: &Matrix, rows: std::ops::Range<usize>, column: usize, out: &mut [f32]) {
            // SAFETY: the contract is the same.
            unsafe { pack::<$vector>(x, rows, column, out) }
        }

        $(#[$attribute])*
        unsafe fn $tile<const VECTORS: usize, const COLUMNS: usize>(t: &Tile) {
            // SAFETY: the contract is the same.
            unsafe { tile::<$vector, VECTORS, COLUMNS>(t) }
        }
    };
}

compiled! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,fma")]
    avx512, copy_avx512, pack_avx512, Avx512
}
compiled! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    avx2, copy_avx2, pack_avx2, Avx2
}
compiled! { portable, copy_portable, pack_portable, Portable }

impl Kernels {
    pub(super) fn new(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Self {
                wide: sizes!(avx512, 2, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
                narrow: sizes!(avx512, 1, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
                copy: copy_avx512,
                pack: pack_avx512,
            },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Self {
                wide: sizes!(avx2, 2, 1 2 3),
                narrow: sizes!(avx2, 1, 1 2 3),
                copy: copy_avx2,
                pack: pack_avx2,
            },
            Isa::Portable => Self {
                wide: sizes!(portable, 2, 1 2),
                narrow: sizes!(portable, 1, 1 2),
                copy: copy_portable,
                pack: pack_portable,
            },
        }
    }
}

thread_local! {
    /// Memory for copied rows; taken while in use, as a thread that waits may begin another product.
    static COPY: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// `out[m, n] = activation(left[m, k] · right[k, n] + bias)`, rows of `out` one after the other.
///
/// Panics where a length does not fit.
pub(super) fn product(
    left: Matrix,
    right: Matrix,
    bias: Option<&[f32]>,
    activation: Activation,
    out: &mut [f32],
) {
    let out = Output::rows(out, [left.shape[0], right.shape[1]]);
    run(Isa::detect(), left, right, bias, activation, out);
}

/// `out = left · right + bias`, or that much more.
///
/// Panics where a length does not fit.
pub(super) fn product_into(left: Matrix, right: Matrix, bias: Option<&[f32]>, out: Output) {
    run(Isa::detect(), left, right, bias, Activation::Identity, out);
}

/// With an activation only where rows of the output lie one after the other and nothing is added to.
fn run(
    isa: Isa,
    left: Matrix,
    right: Matrix,
    bias: Option<&[f32]>,
    activation: Activation,
    out: Output,
) {
    let [m, k] = left.shape;
    let n = right.shape[1];
    assert_eq!(right.shape[0], k, "product: inner sizes");
    assert_eq!(out.shape, [m, n], "product: output shape");
    assert!(
        activation == Activation::Identity || (out.strides[1] == 1 && !out.adding),
        "product: an activation of columns or sums"
    );
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n, "product: bias length");
    }
    if m == 0 || n == 0 {
        return;
    }
    let (strides, adding) = (out.strides, out.adding);
    let out = out.values;
    let kernels = Kernels::new(isa);
    let most = kernels.wide.len();
    let threads = tasks::threads(m * n * k, tasks::SMALL);
    let most_steps = match strides {
        [1, _] => DEPTH_OF_COLUMNS,
        _ => DEPTH,
    };
    let depths = k.div_ceil(most_steps).max(1);
    let depth = k.div_ceil(depths);
    let tiles = m.div_ceil(ROWS);
    let group = (COPIED / (depth * ROWS).max(1)).clamp(1, tiles);
    let groups = tiles.div_ceil(group);
    let group = tiles.div_ceil(groups);
    let shared = Shared::new(out);
    // A column's copy, with a line between it and the next.
    let apart = depth + LANES;
    let aliased = right.strides[0] == 1
        && (right.strides[1] * size_of::<f32>()).is_multiple_of(ALIAS)
        && group > 1;
    // Rows of the right operand, of which a tile needs a few values each.
    let rowwise = right.strides[1] == 1 && right.strides[0] > LANES && group > 1;
    let room = if aliased {
        most * apart
    } else if rowwise {
        depth * LANES
    } else {
        0
    };
    let tasks = Tasks::new([m, n], group * ROWS, most, 4, threads);
    tasks.run(threads, |rows: Range<usize>, columns: Range<usize>| {
        let (first, count) = (rows.start / ROWS, rows.len().div_ceil(ROWS));
        let mut copied = COPY.take().unwrap_or_else(|| Buffer::new(0));
        copied.resize(count * depth * ROWS + room);
        let (copied_left, copied_right) = copied.split_at_mut(count * depth * ROWS);
        let mut done = 0;
        // Once with nothing to sum over, too, for the bias.
        while done < k.max(1) && (done == 0 || done < k) {
            let inner = done..(done + depth).min(k);
            for i in 0..count {
                let part = &mut copied_left[i * depth * ROWS..][..depth * ROWS];
                // SAFETY: the table has kernels for this processor alone; tile `first + i` begins
                // with a row of the matrix, and `inner` is within its columns.
                unsafe { (kernels.copy)(&left, (first + i) * ROWS, inner.clone(), part) };
            }
            let mut column = columns.start;
            while column < columns.end {
                let wide = most.min(columns.end - column);
                let right_at = done * right.strides[0] + column * right.strides[1];
                let (start, distance, step) = if rowwise {
                    // SAFETY: the table has kernels for this processor alone, and `column` and `inner`
                    // lie within the matrix.
                    unsafe { (kernels.pack)(&right, inner.clone(), column, copied_right) };
                    (copied_right.as_ptr(), 1, LANES)
                } else if aliased {
                    for c in 0..wide {
                        let from = &right.values[right_at + c * right.strides[1]..][..inner.len()];
                        copied_right[c * apart..][..inner.len()].copy_from_slice(from);
                    }
                    (copied_right.as_ptr(), apart, right.strides[0])
                } else {
                    let start = right.values.as_ptr().wrapping_add(right_at);
                    (start, right.strides[1], right.strides[0])
                };
                for i in 0..count {
                    let row = (first + i) * ROWS;
                    let rows = (m - row).min(ROWS);
                    let kernel = if rows > 16 {
                        kernels.wide[wide - 1]
                    } else {
                        kernels.narrow[wide - 1]
                    };
                    let bias = match bias {
                        Some(bias) if done == 0 => bias[column..].as_ptr(),
                        _ => std::ptr::null(),
                    };
                    // SAFETY: `column` to `column + wide` are columns and `row` to `row + rows` rows
                    // of the output, the steps are within the inner size, and `Matrix::new` has
                    // checked that all elements lie in the slice; a copy holds `inner.len()` values
                    // a column. No other task has these rows and columns.
                    unsafe {
                        kernel(&Tile {
                            left: copied_left[i * depth * ROWS..].as_ptr(),
                            depth: inner.len(),
                            right: start,
                            column: distance,
                            step,
                            bias,
                            out: shared.get().add(row * strides[0] + column * strides[1]),
                            row: strides[0],
                            across: strides[1],
                            rows,
                            onto: adding || done > 0,
                        });
                    }
                }
                column += wide;
            }
            done += depth.max(1);
        }
        if activation != Activation::Identity {
            for row in first * ROWS..((first + count) * ROWS).min(m) {
                // SAFETY: as above; the tiles are done with.
                let part = unsafe {
                    let start = shared.get().add(row * n + columns.start);
                    std::slice::from_raw_parts_mut(start, columns.len())
                };
                simd::bias_activation(part, None, columns.len(), activation);
            }
        }
        COPY.set(Some(copied));
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cases, values};
    use super::*;

    /// Compares a product with one in double precision, for every instruction set.
    fn check(left: Matrix, right: Matrix, bias: Option<&[f32]>) {
        let [[m, k], [_, n]] = [left.shape, right.shape];
        let at = |x: &Matrix, i: usize, j: usize| {
            f64::from(x.values[i * x.strides[0] + j * x.strides[1]])
        };
        for isa in Isa::available() {
            // What stands in the output must not matter.
            let mut found = vec![f32::NAN; m * n];
            let out = Output::rows(&mut found, [m, n]);
            run(isa, left, right, bias, Activation::Relu, out);
            // By columns, with a gap after each, on top of something.
            let apart = m + 3;
            let mut columns = vec![0.5f32; n * apart];
            let out = Output::columns(&mut columns, [m, n], apart).adding();
            run(isa, left, right, bias, Activation::Identity, out);
            for (place, y) in columns.iter().enumerate() {
                let (j, i) = (place / apart, place % apart);
                if i < m {
                    let y = (y - 0.5).max(0.0);
                    let error = (y - found[i * n + j]).abs();
                    assert!(error < 1e-4, "{isa:?} {m}x{k}x{n} at {i}, {j}: {y}");
                } else {
                    assert_eq!(*y, 0.5, "{isa:?} {m}x{k}x{n}: beyond column {j}");
                }
            }
            for (place, found) in found.into_iter().enumerate() {
                let (i, j) = (place / n, place % n);
                let terms = (0..k).map(|l| at(&left, i, l) * at(&right, l, j));
                let start = bias.map_or(0.0, |bias| f64::from(bias[j]));
                let (sum, size) = terms.fold((start, start.abs()), |(sum, size), term| {
                    (sum + term, size + term.abs())
                });
                let error = (f64::from(found) - sum.max(0.0)).abs();
                assert!(
                    error <= 1e-6 * size + 1e-12,
                    "{isa:?} {m}x{k}x{n} at {i}, {j}: {found}, not {sum}"
                );
            }
        }
    }

    #[test]
    fn products_of_every_form_are_those_in_double_precision() {
        let sizes = [
            (1, 1, 1),
            (1, 14, 16),
            (16, 15, 17),
            (17, 29, 3),
            (33, 5, 64),
            (70, 61, 50),
            (5, 3, 2100),
        ];
        for &(m, n, k) in cases(&sizes, &[(1, 1, 1), (17, 15, 3), (3, 5, 20)]) {
            let (x, w) = (values(m * k, 1), values(n * k, 2));
            let bias = values(n, 3);
            for bias in [None, Some(bias.as_slice())] {
                let left = Matrix::rows(&x, [m, k]);
                let right = Matrix::rows(&w, [n, k]).transposed();
                check(left, right, bias);
                check(left, Matrix::rows(&w, [k, n]), bias);
                let left = Matrix::rows(&x, [k, m]).transposed();
                check(left, right, bias);
                check(left, Matrix::rows(&w, [k, n]), bias);
            }
        }
    }

    #[test]
    fn columns_a_page_apart_and_gaps_between_rows() {
        let (m, n, k) = cases(&[(70, 17, 1024)], &[(3, 2, 1024)])[0];
        let (x, w) = (values(m * (k + 3), 4), values(n * k, 5));
        let left = Matrix::new(&x, [m, k], [k + 3, 1]);
        check(left, Matrix::rows(&w, [n, k]).transposed(), None);
    }

    #[test]
    fn without_an_inner_axis_the_bias_is_left() {
        let empty = Matrix::rows(&[], [3, 0]);
        let right = Matrix::rows(&[], [0, 2]);
        let mut out = [f32::NAN; 6];
        let bias = Some([1.0, -2.0].as_slice());
        product(empty, right, bias, Activation::Identity, &mut out);
        assert_eq!(out, [1.0, -2.0, 1.0, -2.0, 1.0, -2.0]);
    }

    #[test]
    #[should_panic(expected = "columns 2 apart")]
    fn columns_that_overlap_are_refused() {
        Output::columns(&mut [0.0; 9], [3, 3], 2);
    }

    #[test]
    #[should_panic(expected = "matrix of")]
    fn a_matrix_beyond_its_slice_is_refused() {
        Matrix::new(&[0.0; 5], [2, 3], [3, 1]);
    }
}
