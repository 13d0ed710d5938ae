//! From coefficients to samples: the accurate integer transform of libjpeg, to the bit.
//!
//! It is the algorithm of Loeffler, Ligtenberg and Moschytz with constants of 13 bits: columns
//! first, rounded to two bits more than the result has, then rows.

use std::num::Wrapping;
use std::ops::{Add, Mul, Sub};

use super::entropy::Block;

/// Bits of the constants, and bits that are kept between the passes.
const CONSTANT_BITS: usize = 13;
const BETWEEN_BITS: usize = 2;

/// Eight values of a row or column each, worked on side by side. Damaged files have coefficients
/// that overflow; they wrap around.
#[derive(Clone, Copy)]
struct Lanes([Wrapping<i32>; 8]);

impl Lanes {
    /// What `value` gives for every lane. (`std::array::from_fn` is not always inlined.)
    #[inline(always)]
    fn each(value: impl Fn(usize) -> Wrapping<i32>) -> Self {
        let mut lanes = [Wrapping(0); 8];
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = value(i);
        }
        Self(lanes)
    }

    /// Divides by two to the power of `bits` and rounds.
    #[inline(always)]
    fn descale(self, bits: usize) -> Self {
        Self::each(|i| (self.0[i] + Wrapping(1 << (bits - 1))) >> bits)
    }
}

impl Add for Lanes {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self::each(|i| self.0[i] + other.0[i])
    }
}

impl Sub for Lanes {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self::each(|i| self.0[i] - other.0[i])
    }
}

impl Mul<i32> for Lanes {
    type Output = Self;
    #[inline(always)]
    fn mul(self, constant: i32) -> Self {
        Self::each(|i| self.0[i] * Wrapping(constant))
    }
}

/// One dimension of the transform, on eight vectors at once.
#[inline(always)]
fn pass(input: [Lanes; 8], bits: usize) -> [Lanes; 8] {
    let [i0, i1, i2, i3, i4, i5, i6, i7] = input;
    // Even part: a rotation of 2 and 6, sums of 0 and 4. Constants are cosines times 8192.
    let turned = (i2 + i6) * 4433;
    let (from_2, from_6) = (turned + i2 * 6270, turned - i6 * 15137);
    let sum = (i0 + i4) * (1 << CONSTANT_BITS);
    let difference = (i0 - i4) * (1 << CONSTANT_BITS);
    let even = [
        sum + from_2,
        difference + from_6,
        difference - from_6,
        sum - from_2,
    ];
    // Odd part.
    let all = (i7 + i3 + i5 + i1) * 9633;
    let outer = (i7 + i1) * 7373;
    let inner = (i5 + i3) * 20995;
    let left = all - (i7 + i3) * 16069;
    let right = all - (i5 + i1) * 3196;
    let odd = [
        i1 * 12299 - outer + right,
        i3 * 25172 - inner + left,
        i5 * 16819 - inner + right,
        i7 * 2446 - outer + left,
    ];
    let up = |i: usize| (even[i] + odd[i]).descale(bits);
    let down = |i: usize| (even[i] - odd[i]).descale(bits);
    [
        up(0),
        up(1),
        up(2),
        up(3),
        down(3),
        down(2),
        down(1),
        down(0),
    ]
}

#[inline(always)]
fn sample(value: i32) -> u8 {
    value.saturating_add(128).clamp(0, 255) as u8
}

/// Writes the 8 × 8 samples of a block with more than its first coefficient.
///
/// `quantisation` is row-major as `block` is. `out` begins at the block's first sample.
pub(super) fn transform(block: &Block, quantisation: &Block, out: &mut [u8], stride: usize) {
    let mut rows = [Lanes([Wrapping(0); 8]); 8];
    for (y, row) in rows.iter_mut().enumerate() {
        // Products are of 16 bits.
        let value = |at: usize| block[at].wrapping_mul(quantisation[at]);
        *row = Lanes::each(|x| Wrapping(value(8 * y + x).into()));
    }
    let columns = transposed(&pass(rows, CONSTANT_BITS - BETWEEN_BITS));
    let done = transposed(&pass(columns, CONSTANT_BITS + BETWEEN_BITS + 3));
    for (row, out) in done.iter().zip(out.chunks_mut(stride)) {
        for (out, value) in out[..8].iter_mut().zip(row.0) {
            *out = sample(value.0);
        }
    }
}

#[inline(always)]
fn transposed(lanes: &[Lanes; 8]) -> [Lanes; 8] {
    let mut turned = [Lanes([Wrapping(0); 8]); 8];
    for (y, row) in turned.iter_mut().enumerate() {
        *row = Lanes::each(|x| lanes[x].0[y]);
    }
    turned
}

/// [`transform`] of a block that has the first coefficient alone.
pub(super) fn flat(block: &Block, quantisation: &Block, out: &mut [u8], stride: usize) {
    let value = i32::from(block[0].wrapping_mul(quantisation[0]));
    let sample = sample((value + 4) >> 3);
    for row in out.chunks_mut(stride).take(8) {
        row[..8].fill(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in double precision.
    fn exact(block: &Block) -> [f64; 64] {
        let basis = |x: usize, u: usize| {
            let scale = if u == 0 { 0.5f64.sqrt() } else { 1.0 };
            scale / 2.0 * (std::f64::consts::PI * ((2 * x + 1) * u) as f64 / 16.0).cos()
        };
        std::array::from_fn(|at| {
            let (x, y) = (at % 8, at / 8);
            (0..64)
                .map(|uv| f64::from(block[uv]) * basis(x, uv % 8) * basis(y, uv / 8))
                .sum()
        })
    }

    #[test]
    fn is_the_cosine_transform() {
        let mut state = 1u32;
        for round in 0..200 {
            let mut block = [0; 64];
            for value in &mut block {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if state >> 28 < round % 16 {
                    *value = ((state >> 12) % 401) as i16 - 200;
                }
            }
            let mut out = [0; 64];
            transform(&block, &[1; 64], &mut out, 8);
            for (found, exact) in out.iter().zip(exact(&block)) {
                let exact = (exact + 128.0).clamp(0.0, 255.0);
                assert!(
                    (f64::from(*found) - exact).abs() < 0.6,
                    "{found} for {exact}"
                );
            }
        }
    }

    #[test]
    fn flat_blocks_are_what_the_transform_makes_of_them() {
        for dc in (-1100..1100).chain([i16::MIN, i16::MAX]) {
            let mut block = [0; 64];
            block[0] = dc;
            let (mut found, mut expected) = ([0; 64], [0; 64]);
            flat(&block, &[1; 64], &mut found, 8);
            transform(&block, &[1; 64], &mut expected, 8);
            assert_eq!(found, expected, "{dc}");
        }
    }

    #[test]
    fn coefficients_out_of_range_do_not_panic() {
        for value in [i16::MIN, i16::MAX] {
            transform(&[value; 64], &[1; 64], &mut [0; 64], 8);
            transform(&[value; 64], &[-1; 64], &mut [0; 64], 8);
        }
    }
}
