//! Linear maps with weights laid out ahead, for inference.
//!
//! A weight is held as panels of 32 outputs, `[out_features / 32, in_features, 32]`, so that the values that a
//! step multiplies lie side by side and a panel is read from memory in one piece. A tile of the output is up to
//! 14 rows by 32 columns, summed in registers: a step loads the weights of one input for 32 outputs and
//! multiplies them by that input of every row. Rows of the input are read where they lie, and while one panel
//! is multiplied the next is asked for. Sums are formed in the order in which [`super::linear`] forms them of
//! the weight as it was, so that both give the same bits.

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::blocked::ahead::Ahead;
use super::blocked::each;
use super::blocked::memory::{Buffer, Shared, filled};
#[cfg(target_arch = "x86_64")]
use super::blocked::vector::{Avx2, Avx512};
use super::blocked::vector::{Isa, Portable, Vector};
use super::product::DEPTH;
use super::tasks::{self, Tasks};
use super::{Activation, flex, simd, slices};

/// Outputs of a panel.
const COLUMNS: usize = 32;

/// Floats of a vector.
const LANES: usize = 16;

/// Most rows of a task: their part of the input and a panel stay in a second-level cache of 1 MiB.
const GROUP: usize = 224;

/// Panels between two passes of the activation: what of the output stays in the nearest caches.
const ACTIVATED: usize = 4;

/// A weight `[out_features, in_features]` in panels.
pub struct PackedLinear {
    features: [usize; 2],
    /// `[out_features / 32, in_features, 32]`, zeros beyond the weight.
    values: Buffer,
}

impl fmt::Debug for PackedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedLinear")
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

impl PackedLinear {
    /// Lays out a weight; none where it is not f32 on `flex`, or takes part in training.
    pub fn of(weight: Tensor<2>) -> Option<Self> {
        let [outputs, inputs] = weight.dims();
        let weight = slices::takes(&weight).then_some(weight)?;
        flex::read(weight, |values| Self::new(values, [outputs, inputs]))
    }

    /// Lays out a weight `[out_features, in_features]`.
    ///
    /// Panics where the length does not fit.
    pub fn new(weight: &[f32], features: [usize; 2]) -> Self {
        let [outputs, inputs] = features;
        assert_eq!(weight.len(), outputs * inputs, "linear: weight length");
        let mut values = Buffer::new(outputs.div_ceil(COLUMNS) * inputs * COLUMNS);
        if inputs > 0 {
            let rows = weight.par_chunks(COLUMNS * inputs);
            let panels = values.par_chunks_mut(inputs * COLUMNS);
            panels.zip(rows).for_each(|(panel, rows)| {
                // Some inputs at a time, so that what is written stays in the nearest cache.
                for start in (0..inputs).step_by(LANES) {
                    let end = (start + LANES).min(inputs);
                    for (column, row) in rows.chunks_exact(inputs).enumerate() {
                        for (i, value) in row[start..end].iter().enumerate() {
                            panel[(start + i) * COLUMNS + column] = *value;
                        }
                    }
                }
            });
        }
        Self { features, values }
    }

    /// The weight as it was, `[out_features, in_features]` row by row.
    pub fn weight(&self) -> Vec<f32> {
        let [outputs, inputs] = self.features;
        let mut weight = vec![0.0; outputs * inputs];
        if inputs > 0 {
            let rows = weight.par_chunks_mut(COLUMNS * inputs);
            let panels = self.values.par_chunks(inputs * COLUMNS);
            panels.zip(rows).for_each(|(panel, rows)| {
                for (column, row) in rows.chunks_exact_mut(inputs).enumerate() {
                    for (i, value) in row.iter_mut().enumerate() {
                        *value = panel[i * COLUMNS + column];
                    }
                }
            });
        }
        weight
    }

    /// `activation(x·Wᵀ + b)`: `[..., in_features]` → `[..., out_features]`; none where the tensor is not f32 on
    /// `flex`, or takes part in training.
    ///
    /// Panics where the last axis is of another size, or the bias of another length.
    pub fn forward<const D: usize>(
        &self,
        x: &Tensor<D>,
        bias: Option<Tensor<1>>,
        activation: Activation,
    ) -> Option<Tensor<D>> {
        if !slices::takes(x) {
            return None;
        }
        let run = |bias: Option<&[f32]>| {
            slices::map(x, |x, mut dims| {
                let [outputs, inputs] = self.features;
                assert_eq!(dims[D - 1], inputs, "linear: input of another width");
                let rows = x.len() / inputs.max(1);
                let run = |y: &mut _| self.run(Isa::detect(), x, bias, activation, y);
                // SAFETY: it writes to every value.
                let y = unsafe { filled(rows * outputs, run) };
                dims[D - 1] = outputs;
                (y, dims)
            })
        };
        match bias {
            Some(bias) => flex::read(bias, |bias| run(Some(bias)))?,
            None => run(None),
        }
    }

    /// `x` `[rows, in_features]` → `y` `[rows, out_features]`, every value of which is written.
    fn run(
        &self,
        isa: Isa,
        x: &[f32],
        bias: Option<&[f32]>,
        activation: Activation,
        y: &mut [MaybeUninit<f32>],
    ) {
        let [n, k] = self.features;
        let m = y.len() / n.max(1);
        assert!(
            x.len() == m * k && y.len() == m * n,
            "linear: {} values of input, {} of output for {m} rows",
            x.len(),
            y.len()
        );
        if let Some(bias) = bias {
            assert_eq!(bias.len(), n, "linear: bias length");
        }
        if m == 0 {
            return;
        }
        let kernels = Kernels::new(isa);
        let most = kernels.by_rows.len();
        let threads = tasks::threads(m * n * k, tasks::SMALL);
        let depths = k.div_ceil(DEPTH).max(1);
        let depth = k.div_ceil(depths);
        let group = m.div_ceil(m.div_ceil(GROUP)).next_multiple_of(most);
        let shared = Shared::unwritten(y);
        let tasks = Tasks::new([m, n], group, COLUMNS, 1, threads);
        tasks.run(threads, |rows: Range<usize>, columns: Range<usize>| {
            // Tiles of rows as equal as can be.
            let tiles = rows.len().div_ceil(most);
            let tall = rows.len().div_ceil(tiles);
            let panels = columns.start / COLUMNS..columns.end.div_ceil(COLUMNS);
            for part in 0..depths {
                let inner = part * depth..((part + 1) * depth).min(k);
                for panel in panels.clone() {
                    let weight = &self.values[(panel * k + inner.start) * COLUMNS..];
                    let next = weight.as_ptr().wrapping_add(k * COLUMNS);
                    let bytes = inner.len() * COLUMNS * size_of::<f32>();
                    let mut ahead = Ahead::new(next, bytes, tiles * inner.len());
                    let column = panel * COLUMNS;
                    let wide = COLUMNS.min(n - column);
                    let bias = match bias {
                        Some(bias) if part == 0 => bias[column..].as_ptr(),
                        _ => std::ptr::null(),
                    };
                    for row in rows.clone().step_by(tall) {
                        let tall = tall.min(rows.end - row);
                        // SAFETY: the table has kernels for this processor alone. `row` to `row + tall` are
                        // rows of `x` and `y` and `inner` inputs of them, `column` to `column + wide` outputs,
                        // which no other task has; the panel holds `inner.len()` steps from `inner.start` on;
                        // the bias has a value for each of the outputs.
                        unsafe {
                            (kernels.by_rows[tall - 1])(&Tile {
                                x: x.as_ptr().add(row * k + inner.start),
                                row: k,
                                weight: weight.as_ptr(),
                                depth: inner.len(),
                                bias,
                                out: shared.get().add(row * n + column),
                                across: n,
                                columns: wide,
                                onto: part > 0,
                                ahead,
                            });
                        }
                        ahead = ahead.after(inner.len());
                    }
                    let begun = (panel - panels.start) % ACTIVATED;
                    let last = begun + 1 == ACTIVATED || panel + 1 == panels.end;
                    if part + 1 == depths && last && activation != Activation::Identity {
                        let columns = (panel - begun) * COLUMNS..column + wide;
                        for row in rows.clone() {
                            // SAFETY: rows and columns of this task, which its tiles have written.
                            let y = unsafe {
                                let start = shared.get().add(row * n + columns.start);
                                std::slice::from_raw_parts_mut(start, columns.len())
                            };
                            simd::bias_activation(y, None, columns.len(), activation);
                        }
                    }
                }
            }
        });
    }
}

/// Where a tile reads and writes. Distances are in floats.
struct Tile {
    /// First input of the first row.
    x: *const f32,
    /// From a row of the input to the next.
    row: usize,
    /// `[depth, 32]`.
    weight: *const f32,
    depth: usize,
    /// A value for each of the columns, or null.
    bias: *const f32,
    out: *mut f32,
    /// From a row of the output to the next.
    across: usize,
    /// Columns to write, 1 to 32.
    columns: usize,
    /// Whether to add to what stands in the output.
    onto: bool,
    /// The next panel.
    ahead: Ahead,
}

/// A kernel for a number of rows.
///
/// # Safety
/// The processor has the instructions that it was compiled for, and all that a [`Tile`] of its size names is
/// readable or, of `out`, writable.
type Kernel = unsafe fn(&Tile);

/// `ROWS` rows by 16 or 32 columns, from vector `first` of the panel on.
///
/// # Safety
/// That of [`Kernel`].
#[inline(always)]
unsafe fn columns<V: Vector, const VECTORS: usize, const ROWS: usize>(t: &Tile, first: usize) {
    // SAFETY: by the contract, `weight` holds `depth` times 32 floats, `x` as many floats of `ROWS` rows; of
    // bias and output only the columns that there are are touched.
    unsafe {
        let mut sums = [[V::splat(0.0); ROWS]; VECTORS];
        if !t.bias.is_null() {
            each!(v < VECTORS, [0 1], {
                let start = (first + v) * LANES;
                let count = t.columns.saturating_sub(start).min(LANES);
                if count > 0 {
                    sums[v] = [V::load_first(t.bias.add(start), count); ROWS];
                }
            });
        }
        // Every third row, so that few addresses are kept.
        let mut x = [t.x; 5];
        for (i, x) in x.iter_mut().enumerate() {
            if 3 * i < ROWS {
                *x = x.add(3 * i * t.row);
            }
        }
        let mut weight = t.weight.add(first * LANES);
        let mut ahead = t.ahead;
        for step in 0..t.depth {
            ahead.step::<V>(step);
            let mut w = [V::splat(0.0); VECTORS];
            each!(v < VECTORS, [0 1], {
                w[v] = V::load(weight.add(v * LANES));
            });
            each!(r < ROWS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                let value = V::splat(*x[r / 3].add((r % 3) * t.row + step));
                each!(v < VECTORS, [0 1], {
                    sums[v][r] = value.mul_add(w[v], sums[v][r]);
                });
            });
            weight = weight.add(COLUMNS);
        }
        each!(v < VECTORS, [0 1], {
            let start = (first + v) * LANES;
            let count = t.columns.saturating_sub(start).min(LANES);
            each!(r < ROWS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                if count == LANES {
                    let out = t.out.add(r * t.across + start);
                    let y = if t.onto {
                        sums[v][r].add(V::load(out))
                    } else {
                        sums[v][r]
                    };
                    y.store(out);
                } else if count > 0 {
                    let out = t.out.add(r * t.across + start);
                    let y = if t.onto {
                        sums[v][r].add(V::load_first(out, count))
                    } else {
                        sums[v][r]
                    };
                    y.store_first(out, count);
                }
            });
        });
    }
}

/// # Safety
/// That of [`Kernel`].
#[inline(always)]
unsafe fn tile<V: Vector, const VECTORS: usize, const ROWS: usize>(t: &Tile) {
    // SAFETY: the contract is the same.
    unsafe {
        columns::<V, VECTORS, ROWS>(t, 0);
        if VECTORS == 1 && t.columns > LANES {
            columns::<V, VECTORS, ROWS>(t, 1);
        }
    }
}

/// Kernels of one instruction set.
struct Kernels {
    /// By rows less one.
    by_rows: &'static [Kernel],
}

macro_rules! sizes {
    ($f:ident, $vectors:literal, $($rows:literal)*) => {
        const { &[$($f::<$vectors, $rows> as Kernel),*] as &[Kernel] }
    };
}

/// Declares [`tile`] compiled for an instruction set.
macro_rules! compiled {
    ($(#[$attribute:meta])* $tile:ident, $vector:ty) => {
        $(#[$attribute])*
        unsafe fn $tile<const VECTORS: usize, const ROWS: usize>(t: &Tile) {
            // SAFETY: the contract is the same.
            unsafe { tile::<$vector, VECTORS, ROWS>(t) }
        }
    };
}

compiled! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,fma")]
    avx512, Avx512
}
compiled! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    avx2, Avx2
}
compiled! { portable, Portable }

impl Kernels {
    fn new(isa: Isa) -> Self {
        let by_rows = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => sizes!(avx512, 2, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => sizes!(avx2, 1, 1 2 3 4 5 6),
            Isa::Portable => sizes!(portable, 1, 1 2),
        };
        Self { by_rows }
    }
}

#[cfg(test)]
mod tests {
    use super::super::product::{Matrix, product};
    use super::super::testing::{cases, over_nan, values};
    use super::*;

    #[test]
    fn every_instruction_set_gives_what_the_weight_as_it_was_gives() {
        let sizes = [
            (1, 1, 1),
            (3, 35, 7),
            (14, 32, 64),
            (15, 48, 400),
            (29, 65, 130),
            (300, 150, 33),
            (5, 17, 2100),
            (450, 224, 770),
        ];
        for &(m, n, k) in cases(&sizes, &[(3, 35, 7)]) {
            let (x, w, b) = (values(m * k, 1), values(n * k, 2), values(n, 3));
            let packed = PackedLinear::new(&w, [n, k]);
            assert_eq!(packed.weight(), w, "{n}x{k}");
            for bias in [None, Some(b.as_slice())] {
                for activation in [Activation::Identity, Activation::Gelu] {
                    let mut expected = vec![0.0; m * n];
                    product(
                        Matrix::rows(&x, [m, k]),
                        Matrix::rows(&w, [n, k]).transposed(),
                        bias,
                        activation,
                        &mut expected,
                    );
                    for isa in Isa::available() {
                        let run = |y: &mut _| packed.run(isa, &x, bias, activation, y);
                        let found = over_nan(m * n, run);
                        for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
                            // The portable form multiplies and adds in two steps.
                            let allowed = match isa {
                                Isa::Portable => 1e-6 * (k as f32).sqrt() * (1.0 + expected.abs()),
                                _ => 0.0,
                            };
                            assert!(
                                (found - expected).abs() <= allowed,
                                "{isa:?} {m}x{k}x{n} at {place}: {found}, not {expected}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn without_inputs_the_bias_is_left() {
        let packed = PackedLinear::new(&[], [2, 0]);
        let bias = [1.0, -2.0];
        let run = |y: &mut _| packed.run(Isa::detect(), &[], Some(&bias), Activation::Relu, y);
        let y = over_nan(6, run);
        assert_eq!(y, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    #[should_panic(expected = "weight length")]
    fn a_weight_of_another_length_is_refused() {
        PackedLinear::new(&[0.0; 5], [2, 3]);
    }
}
