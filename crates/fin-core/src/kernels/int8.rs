//! Linear maps with weights in 8 bits, for inference.
//!
//! A row of the weight is held as integers from -127 to 127 and one scale. A row of the input is brought to
//! integers from 0 to 255 as it comes, by its own smallest and largest value, so that no data are needed
//! ahead ("dynamic" quantisation; Jacob et al. 2018, <https://arxiv.org/abs/1712.05877>, section 2). Sums of
//! products are exact in 32 bits, whatever the instruction set: with the dot products of AVX-512 VNNI or
//! AVX-VNNI where the processor has them, with plain code elsewhere.

use std::cell::Cell;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::blocked::ahead::Ahead;
use super::blocked::memory::{Buffer, Shared, filled};
use super::blocked::vector::ROUND;
#[cfg(target_arch = "x86_64")]
use super::blocked::vector::{Avx2, Avx512};
use super::simd::multiversion;
use super::tasks::{self, Tasks};
use super::{Activation, simd, slices};

/// Columns of a tile: outputs whose weights lie side by side.
const COLUMNS: usize = 32;

/// Values along the inner axis that are summed into one lane by one instruction.
const STEP: usize = 4;

/// Bytes of the weights of a tile at a step.
const STEP_BYTES: usize = COLUMNS * STEP;

/// Most rows of a tile.
const TALL: usize = 14;

/// Bytes of a task's quantised rows: what leaves room in a cache of 1 MiB.
const ROOM: usize = 256 * 1024;

/// Products below which one thread does them.
const SMALL: usize = 1 << 20;

/// Most input features for which no sum of products leaves 32 bits: `127 · 255 · inner < 2³¹`.
pub const MOST_FEATURES: usize = 65_536;

/// A weight `[out_features, in_features]` in 8 bits with its bias.
pub struct Int8Linear {
    features: [usize; 2],
    /// Steps along the inner axis.
    steps: usize,
    /// `[out_features / 32, steps, 32, 4]` signed bytes, zeros beyond the weight.
    values: Buffer,
    /// Of 32 rows of the weight each.
    panels: Vec<Panel>,
}

/// What the sums of a panel's products stand for; zeros beyond the weight.
#[derive(Clone)]
struct Panel {
    /// What an integer of a row of the weight stands for.
    scales: [f32; COLUMNS],
    /// The sum of a row of the weight, as its integers have it.
    sums: [f32; COLUMNS],
    bias: [f32; COLUMNS],
}

impl fmt::Debug for Int8Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Int8Linear")
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

impl Int8Linear {
    /// Quantises a weight `[out_features, in_features]`, row by row. A row with a value that is not finite gives
    /// outputs that are not numbers.
    ///
    /// Panics where a length does not fit, or there are more than [`MOST_FEATURES`] input features.
    pub fn new(weight: &[f32], features: [usize; 2], bias: Option<&[f32]>) -> Self {
        let [outputs, inner] = features;
        assert_eq!(weight.len(), outputs * inner, "int8: weight length");
        assert!(inner <= MOST_FEATURES, "int8: {inner} input features");
        if let Some(bias) = bias {
            assert_eq!(bias.len(), outputs, "int8: bias length");
        }
        let steps = inner.div_ceil(STEP);
        let panel = steps * STEP_BYTES;
        let mut values = Buffer::new(outputs.div_ceil(COLUMNS) * panel / size_of::<f32>());
        let none = Panel {
            scales: [0.0; COLUMNS],
            sums: [0.0; COLUMNS],
            bias: [0.0; COLUMNS],
        };
        let mut panels = vec![none; outputs.div_ceil(COLUMNS)];
        if steps > 0 {
            let bytes: &mut [i8] = bytemuck::cast_slice_mut(&mut values);
            bytes
                .par_chunks_mut(panel)
                .zip(weight.par_chunks(COLUMNS * inner))
                .zip(&mut panels)
                .for_each(|((bytes, rows), of)| {
                    for (column, row) in rows.chunks_exact(inner).enumerate() {
                        let (scale, sum) = quantize_weight(row, column, bytes);
                        of.scales[column] = scale;
                        of.sums[column] = scale * sum as f32;
                    }
                });
        }
        if let Some(bias) = bias {
            for (panel, bias) in panels.iter_mut().zip(bias.chunks(COLUMNS)) {
                panel.bias[..bias.len()].copy_from_slice(bias);
            }
        }
        Self {
            features,
            steps,
            values,
            panels,
        }
    }

    /// `[out_features, in_features]`.
    pub fn features(&self) -> [usize; 2] {
        self.features
    }

    /// `activation(x·Wᵀ + b)`: `[..., in_features]` → `[..., out_features]`; none where the tensor is not f32 on
    /// `flex`, or takes part in training.
    ///
    /// Panics where the last axis is of another size.
    pub fn forward<const D: usize>(
        &self,
        x: &Tensor<D>,
        activation: Activation,
    ) -> Option<Tensor<D>> {
        slices::map(x, |x, mut dims| {
            let [outputs, inner] = self.features;
            assert_eq!(dims[D - 1], inner, "int8: input of another width");
            let rows = x.len() / inner.max(1);
            let run = |y: &mut _| self.run(Isa::detect(), x, activation, y);
            // SAFETY: it writes to every value.
            let y = unsafe { filled(rows * outputs, run) };
            dims[D - 1] = outputs;
            (y, dims)
        })
    }

    /// `x` `[rows, in_features]` → `y` `[rows, out_features]`, every value of which is written.
    fn run(&self, isa: Isa, x: &[f32], activation: Activation, y: &mut [MaybeUninit<f32>]) {
        let [outputs, inner] = self.features;
        let rows = y.len() / outputs.max(1);
        assert!(
            x.len() == rows * inner && y.len() == rows * outputs,
            "int8: {} values of input, {} of output",
            x.len(),
            y.len()
        );
        if rows == 0 {
            return;
        }
        let kernels = isa.kernels();
        let most = kernels.len();
        let threads = tasks::threads(rows * outputs * inner, SMALL);
        // A line more than is needed: rows that lie a page apart would share lines of the cache.
        let stride = (self.steps * STEP).next_multiple_of(64) + 64;
        let wanted = tasks::A_THREAD * threads;
        let group = rows.div_ceil(wanted).next_multiple_of(most);
        let group = group.min((ROOM / stride).max(1).next_multiple_of(most));
        let shared = Shared::unwritten(y);
        // Few rows are shared out by columns.
        let tasks = Tasks::new([rows, outputs], group, COLUMNS, 2, threads);
        tasks.run(threads, |rows: Range<usize>, columns: Range<usize>| {
            let (first, count) = (rows.start, rows.len());
            let x = &x[first * inner..rows.end * inner];
            let mut memory = SCRATCH.take().unwrap_or_else(|| Buffer::new(0));
            memory.resize((group * stride).div_ceil(size_of::<f32>()));
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
            let mut ranges = vec![[0.0; 2]; count];
            for (i, range) in ranges.iter_mut().enumerate() {
                let bytes = &mut bytes[i * stride..][..self.steps * STEP];
                quantize(&x[i * inner..][..inner], bytes, range);
            }
            let weights: &[i8] = bytemuck::cast_slice(&self.values);
            let (mut sums, mut values) = ([[0; COLUMNS]; TALL], [[0.0; COLUMNS]; TALL]);
            for column in columns.clone().step_by(COLUMNS) {
                let panel = column / COLUMNS;
                let weight = &weights[panel * self.steps * STEP_BYTES..][..self.steps * STEP_BYTES];
                let wide = COLUMNS.min(columns.end - column);
                let next = weight.as_ptr_range().end;
                let mut ahead = Ahead::new(next, weight.len(), self.steps * count.div_ceil(most));
                for tile in (0..count).step_by(most) {
                    let tall = most.min(count - tile);
                    let rows = &bytes[tile * stride..];
                    // SAFETY: the table is of this processor's kernels; `tall` rows of `stride` bytes are in
                    // the memory, as a group is whole tiles, and `weight` is a panel.
                    unsafe { (kernels[tall - 1])(rows, stride, weight, ahead, &mut sums) };
                    ahead = ahead.after(self.steps);
                    let values = &mut values[..tall];
                    restore(values, &sums, &ranges[tile..], &self.panels[panel]);
                    if activation != Activation::Identity {
                        simd::bias_activation(values.as_flattened_mut(), None, COLUMNS, activation);
                    }
                    for (i, values) in values.iter().enumerate() {
                        let at = (first + tile + i) * outputs + column;
                        // SAFETY: a row and columns of the output which no other task has.
                        unsafe {
                            std::ptr::copy_nonoverlapping(
                                values.as_ptr(),
                                shared.get().add(at),
                                wide,
                            )
                        };
                    }
                }
            }
            SCRATCH.set(Some(memory));
        });
    }
}

thread_local! {
    /// Memory for quantised rows; taken while in use, as a thread that waits may begin another product.
    static SCRATCH: Cell<Option<Buffer>> = const { Cell::new(None) };
}

/// Brings row `column` of a panel to integers from -127 to 127 between those of other rows; what one stands for,
/// which is not a number where a value of the row is not finite, and their sum.
fn quantize_weight(row: &[f32], column: usize, panel: &mut [i8]) -> (f32, i32) {
    let largest = row.iter().fold(0.0f32, |max, w| max.max(w.abs()));
    if !row.iter().all(|w| w.is_finite()) {
        return (f32::NAN, 0);
    }
    let inverse = match largest > 0.0 {
        true => 127.0 / largest,
        false => 0.0,
    };
    let mut sum = 0;
    for (i, w) in row.iter().enumerate() {
        let q = (w * inverse + ROUND).to_bits() as i8;
        panel[i / STEP * STEP_BYTES + column * STEP + i % STEP] = q;
        sum += i32::from(q);
    }
    (largest / 127.0, sum)
}

multiversion! {
    /// Brings a row to integers from 0 to 255, zeros beyond it; `range` is its smallest value and what an
    /// integer stands for, which is not a number where a value of the row is not finite.
    fn quantize(x: &[f32], q: &mut [u8], range: &mut [f32; 2]) {
        const LANES: usize = 32;
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let mut poison = [0.0f32; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for (((x, low), high), poison) in chunk.iter().zip(&mut low).zip(&mut high).zip(&mut poison) {
                *low = if *x < *low { *x } else { *low };
                *high = if *x > *high { *x } else { *high };
                *poison += x * 0.0;
            }
        }
        for (((x, low), high), poison) in rest.iter().zip(&mut low).zip(&mut high).zip(&mut poison) {
            *low = low.min(*x);
            *high = high.max(*x);
            *poison += x * 0.0;
        }
        let low = low.into_iter().fold(f32::INFINITY, f32::min);
        let high = high.into_iter().fold(f32::NEG_INFINITY, f32::max);
        // Divided first, as the distance of two numbers can be beyond all.
        let scale = (high / 255.0 - low / 255.0) + poison.into_iter().sum::<f32>();
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        *range = [low, scale];
        for (q, x) in q.iter_mut().zip(x) {
            *q = ((x - low) * inverse + ROUND).to_bits() as u8;
        }
        for q in q.iter_mut().skip(x.len()) {
            *q = 0;
        }
    }
}

multiversion! {
    /// Sums of products of integers to what they stand for, of rows with their ranges.
    fn restore(y: &mut [[f32; COLUMNS]], sums: &[[i32; COLUMNS]; TALL], ranges: &[[f32; 2]], panel: &Panel) {
        for ((y, sums), [low, scale]) in y.iter_mut().zip(sums).zip(ranges) {
            for column in 0..COLUMNS {
                y[column] = sums[column] as f32 * (scale * panel.scales[column])
                    + (low * panel.sums[column] + panel.bias[column]);
            }
        }
    }
}

/// Sums of products of rows, so many bytes apart, with a panel of weights, while another is asked for; as many rows as
/// the kernel is for.
///
/// # Safety
/// The processor has the instructions that it was compiled for; every row has as many bytes as the panel has
/// for a column.
type Kernel = unsafe fn(&[u8], usize, &[i8], Ahead, &mut [[i32; COLUMNS]; TALL]);

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// AVX-512 F and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// AVX2 and AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX2, without dot products.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The target's base instructions.
    Portable,
}

/// A kernel for every number of rows of the list.
macro_rules! by_rows {
    ($f:ident, $($rows:literal)*) => {
        const { &[$($f::<$rows> as Kernel),*] as &[Kernel] }
    };
}

impl Isa {
    /// What this processor has, the fastest first.
    pub(super) fn available() -> impl Iterator<Item = Self> {
        // Whatever has AVX2 has FMA, which the kernels for convolutions have in what follows the sums.
        #[cfg(target_arch = "x86_64")]
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let all = [
            #[cfg(target_arch = "x86_64")]
            (
                Self::Avx512Vnni,
                avx2 && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vnni"),
            ),
            #[cfg(target_arch = "x86_64")]
            (Self::AvxVnni, avx2 && is_x86_feature_detected!("avxvnni")),
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, avx2),
            (Self::Portable, true),
        ];
        all.into_iter().filter(|(_, has)| *has).map(|(isa, _)| isa)
    }

    /// The fastest that this processor has.
    pub(super) fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }

    /// By rows less one.
    fn kernels(self) -> &'static [Kernel] {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => by_rows!(avx512_vnni, 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => by_rows!(avx_vnni, 1 2 3),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => by_rows!(avx2, 1 2),
            Self::Portable => by_rows!(portable, 1 2 3 4),
        }
    }
}

/// # Safety
/// That of [`Kernel`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn avx512_vnni<const ROWS: usize>(
    x: &[u8],
    stride: usize,
    weight: &[i8],
    mut ahead: Ahead,
    out: &mut [[i32; COLUMNS]; TALL],
) {
    use std::arch::x86_64::*;
    // SAFETY: by the contract; a step reads 128 bytes of weights and 4 of each row.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
        let (mut x, mut w) = (x.as_ptr(), weight.as_ptr());
        for step in 0..weight.len() / STEP_BYTES {
            ahead.step::<Avx512>(step);
            let w0 = _mm512_loadu_si512(w.cast());
            let w1 = _mm512_loadu_si512(w.add(64).cast());
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(x.add(row * stride).cast::<i32>().read_unaligned());
                sums[0] = _mm512_dpbusd_epi32(sums[0], x, w0);
                sums[1] = _mm512_dpbusd_epi32(sums[1], x, w1);
            }
            x = x.add(STEP);
            w = w.add(STEP_BYTES);
        }
        for (sums, out) in sums.iter().zip(out) {
            _mm512_storeu_si512(out.as_mut_ptr().cast(), sums[0]);
            _mm512_storeu_si512(out.as_mut_ptr().add(16).cast(), sums[1]);
        }
    }
}

/// # Safety
/// That of [`Kernel`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn avx_vnni<const ROWS: usize>(
    x: &[u8],
    stride: usize,
    weight: &[i8],
    mut ahead: Ahead,
    out: &mut [[i32; COLUMNS]; TALL],
) {
    use std::arch::x86_64::*;
    // SAFETY: as above.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 4]; ROWS];
        let (mut x, mut w) = (x.as_ptr(), weight.as_ptr());
        for step in 0..weight.len() / STEP_BYTES {
            ahead.step::<Avx2>(step);
            let mut rows = [_mm256_setzero_si256(); ROWS];
            for (row, values) in rows.iter_mut().enumerate() {
                let four = x.add(row * stride).cast::<i32>().read_unaligned();
                *values = _mm256_set1_epi32(four);
            }
            for quarter in 0..4 {
                let w = _mm256_loadu_si256(w.add(32 * quarter).cast());
                for (sums, x) in sums.iter_mut().zip(rows) {
                    sums[quarter] = _mm256_dpbusd_avx_epi32(sums[quarter], x, w);
                }
            }
            x = x.add(STEP);
            w = w.add(STEP_BYTES);
        }
        for (sums, out) in sums.iter().zip(out) {
            for (quarter, sums) in sums.iter().enumerate() {
                _mm256_storeu_si256(out.as_mut_ptr().add(8 * quarter).cast(), *sums);
            }
        }
    }
}

/// # Safety
/// That of [`Kernel`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2<const ROWS: usize>(
    x: &[u8],
    stride: usize,
    weight: &[i8],
    _ahead: Ahead,
    out: &mut [[i32; COLUMNS]; TALL],
) {
    plain::<ROWS>(x, stride, weight, out);
}

/// # Safety
/// That of [`Kernel`].
unsafe fn portable<const ROWS: usize>(
    x: &[u8],
    stride: usize,
    weight: &[i8],
    _ahead: Ahead,
    out: &mut [[i32; COLUMNS]; TALL],
) {
    plain::<ROWS>(x, stride, weight, out);
}

#[inline(always)]
fn plain<const ROWS: usize>(
    x: &[u8],
    stride: usize,
    weight: &[i8],
    out: &mut [[i32; COLUMNS]; TALL],
) {
    let (steps, _) = weight.as_chunks::<STEP_BYTES>();
    for (row, out) in out.iter_mut().enumerate().take(ROWS) {
        let (x, _) = x[row * stride..].as_chunks::<STEP>();
        let mut sums = [0i32; COLUMNS];
        for (x, weight) in x.iter().zip(steps) {
            let x = x.map(i32::from);
            let (weight, _) = weight.as_chunks::<STEP>();
            for (sum, w) in sums.iter_mut().zip(weight) {
                let w = w.map(i32::from);
                *sum += x[0] * w[0] + x[1] * w[1] + x[2] * w[2] + x[3] * w[3];
            }
        }
        *out = sums;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{cases, over_nan, values};
    use super::*;

    /// What the quantised map must give, in double precision.
    fn expected(x: &[f32], weight: &[f32], [n, k]: [usize; 2], bias: Option<&[f32]>) -> Vec<f64> {
        let mut y = Vec::new();
        for x in x.chunks_exact(k) {
            let low = x.iter().copied().fold(f32::INFINITY, f32::min);
            let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let scale = high / 255.0 - low / 255.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            for (j, w) in weight.chunks_exact(k).enumerate() {
                let largest = w.iter().fold(0.0f32, |max, w| max.max(w.abs()));
                let step = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                let mut sum = bias.map_or(0.0, |bias| f64::from(bias[j]));
                for (x, w) in x.iter().zip(w) {
                    let x = f64::from(((x - low) * inverse).round_ties_even());
                    let w = f64::from((w * step).round_ties_even());
                    let x = x * f64::from(scale) + f64::from(low);
                    sum += x * (w * f64::from(largest / 127.0));
                }
                y.push(sum);
            }
        }
        assert_eq!(y.len(), x.len() / k * n);
        y
    }

    #[test]
    fn every_instruction_set_gives_the_products_of_the_integers() {
        let sizes = [
            (1, 1, 1),
            (3, 35, 7),
            (14, 32, 64),
            (29, 65, 130),
            (300, 70, 33),
        ];
        for &(m, n, k) in cases(&sizes, &[(3, 35, 7)]) {
            let (mut x, w) = (values(m * k, 1), values(n * k, 2));
            // A row without a width, and one far from zero.
            x[..k].fill(0.25);
            x[(m - 1) * k..].iter_mut().for_each(|x| *x += 3.0);
            let bias = values(n, 3);
            for bias in [None, Some(bias.as_slice())] {
                let layer = Int8Linear::new(&w, [n, k], bias);
                let expected = expected(&x, &w, [n, k], bias);
                let mut first: Option<Vec<f32>> = None;
                for isa in Isa::available() {
                    let run = |y: &mut _| layer.run(isa, &x, Activation::Identity, y);
                    let y = over_nan(m * n, run);
                    for (place, (y, expected)) in y.iter().zip(&expected).enumerate() {
                        let error = (f64::from(*y) - expected).abs();
                        let allowed = 1e-5 * (k as f64).sqrt();
                        assert!(
                            error < allowed,
                            "{isa:?} {m}x{k}x{n} at {place}: {y}, not {expected}"
                        );
                    }
                    let first = first.get_or_insert_with(|| y.clone());
                    assert_eq!(*first, y, "{isa:?} {m}x{k}x{n}");
                }
            }
        }
    }

    #[test]
    fn close_to_the_map_that_is_quantised() {
        let (m, n, k) = if cfg!(miri) {
            (2, 33, 16)
        } else {
            (40, 96, 256)
        };
        let (x, w, bias) = (values(m * k, 4), values(n * k, 5), values(n, 6));
        let layer = Int8Linear::new(&w, [n, k], Some(&bias));
        let run = |y: &mut _| layer.run(Isa::detect(), &x, Activation::Relu, y);
        let y = over_nan(m * n, run);
        let (mut error, mut size) = (0.0, 0.0);
        for (i, x) in x.chunks_exact(k).enumerate() {
            for (j, w) in w.chunks_exact(k).enumerate() {
                let products = x.iter().zip(w).map(|(x, w)| f64::from(x * w));
                let exact = (products.sum::<f64>() + f64::from(bias[j])).max(0.0);
                error += (f64::from(y[i * n + j]) - exact).powi(2);
                size += exact.powi(2);
            }
        }
        // Steps of 2/255 and 1/127 are off by a twelfth of their square on average.
        assert!((error / size).sqrt() < 0.01, "{}", (error / size).sqrt());
    }

    #[test]
    fn what_is_not_finite_stays_where_it_is() {
        let (n, k) = (33, 5);
        let (mut x, mut w) = (values(3 * k, 7), values(n * k, 8));
        x[k + 2] = f32::INFINITY;
        w[4 * k] = f32::NAN;
        let layer = Int8Linear::new(&w, [n, k], None);
        let run = |y: &mut _| layer.run(Isa::detect(), &x, Activation::Identity, y);
        let y = over_nan(3 * n, run);
        for (place, y) in y.iter().enumerate() {
            let lost = place / n == 1 || place % n == 4;
            assert_eq!(y.is_nan(), lost, "{place}: {y}");
        }
    }
}
