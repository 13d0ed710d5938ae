//! The inner kernel of dense convolutions: one tile of output pixels by one or two blocks of
//! output channels, summed over all inputs in registers.
//!
//! Each step loads the weights of one input channel for 16 or 32 output channels, and multiplies
//! them by that channel's value at every pixel of the tile. Borders do not occur here: the
//! caller's pointers and offsets lead to memory where they have been filled in.

use super::ahead::Ahead;
#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{Isa, Portable, Vector};

/// Functions after a convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Finish {
    /// Limits, infinite where there are none.
    Clamp(f32, f32),
    /// `x·σ(x)`.
    Silu,
}

impl Finish {
    /// Applies the function to one vector.
    #[inline(always)]
    pub(super) fn apply<V: Vector>(self, x: V) -> V {
        match self {
            Self::Clamp(low, high) => x.clamp(low, high),
            Self::Silu => x.silu(),
        }
    }
}

/// Where a tile reads and writes. Pixels of a row follow each other, in the input by the lanes of
/// its blocks and in the output by 16 floats. Distances are in floats.
pub(super) struct Tile<'a> {
    /// First input of the tile's first and, with two, second row.
    pub x: [*const f32; 2],
    /// From an input block to the next.
    pub x_block: usize,
    /// Blocks of input channels.
    pub blocks: usize,
    /// Lanes of the last one to take; all of those before are taken.
    pub last: usize,
    /// From a pixel's first input to those that the kernel's elements multiply.
    pub taps: &'a [usize],
    /// `[blocks, taps, lanes, 16]` for one block of output channels.
    pub weight: *const f32,
    /// From a block of output channels to the next in `weight`.
    pub weight_block: usize,
    /// `[blocks of output channels, 16]`.
    pub bias: *const f32,
    /// First output of the rows.
    pub out: [*mut f32; 2],
    /// From a block of output channels to the next in `out` and `residual`.
    pub out_block: usize,
    /// What to add before `finish`, laid out as `out`; null for nothing.
    pub residual: [*const f32; 2],
    /// Function at the end.
    pub finish: Finish,
    /// Weights of the next tiles.
    pub ahead: Ahead,
}

/// The body for every number of the list below a constant, written out: a loop that the compiler
/// does not unroll would keep the sums in memory.
macro_rules! each {
    ($i:ident < $count:ident, [$($number:literal)*], $body:block) => {$(
        if $number < $count {
            #[allow(non_upper_case_globals)]
            const $i: usize = $number;
            $body
        }
    )*};
}
pub(in crate::kernels) use each;

/// A kernel for one size of tile.
///
/// # Safety
/// The processor has the instructions that it was compiled for, and all that a [`Tile`] of its
/// size names is readable or, of `out`, writable.
pub(super) type Kernel = unsafe fn(&Tile);

/// `LANES` input channels in a block, `OUT` blocks of output channels, `ROWS` rows of `PIXELS`.
///
/// # Safety
/// That of [`Kernel`].
#[inline(always)]
unsafe fn tile<
    V: Vector,
    const LANES: usize,
    const OUT: usize,
    const ROWS: usize,
    const PIXELS: usize,
>(
    t: &Tile,
) {
    // SAFETY: by the contract, `bias` holds `OUT` blocks, `weight` has `OUT` blocks of
    // `blocks * taps * LANES * 16` floats at distances `weight_block`, and at every input block
    // and tap there are `ROWS` rows of `PIXELS` pixels of `LANES` floats from `x`; `out` and a
    // residual have `ROWS` rows of `PIXELS` pixels of 16 floats for each of `OUT` blocks.
    unsafe {
        let mut sums = [[[V::splat(0.0); PIXELS]; ROWS]; OUT];
        each!(o < OUT, [0 1], {
            sums[o] = [[V::load(t.bias.add(o * 16)); PIXELS]; ROWS];
        });
        let (mut ahead, mut step) = (t.ahead, 0);
        let mut weight = t.weight;
        for block in 0..t.blocks {
            let lanes = if block + 1 == t.blocks { t.last } else { LANES };
            for &tap in t.taps {
                let at = block * t.x_block + tap;
                let mut x = [t.x[0].add(at), t.x[1].add(at)];
                let mut w = weight;
                for _ in 0..lanes {
                    ahead.step::<V>(step);
                    step += 1;
                    let mut ws = [V::splat(0.0); OUT];
                    each!(o < OUT, [0 1], {
                        ws[o] = V::load(w.add(o * t.weight_block));
                    });
                    each!(r < ROWS, [0 1], {
                        each!(p < PIXELS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                            let value = V::splat(*x[r].add(p * LANES));
                            each!(o < OUT, [0 1], {
                                sums[o][r][p] = value.mul_add(ws[o], sums[o][r][p]);
                            });
                        });
                        x[r] = x[r].add(1);
                    });
                    w = w.add(16);
                }
                weight = weight.add(LANES * 16);
            }
        }
        if !t.residual[0].is_null() {
            each!(o < OUT, [0 1], {
                each!(r < ROWS, [0 1], {
                    each!(p < PIXELS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                        let residual = V::load(t.residual[r].add(o * t.out_block + p * 16));
                        sums[o][r][p] = sums[o][r][p].add(residual);
                    });
                });
            });
        }
        // Written out for each function, as a call would pass vectors through memory.
        match t.finish {
            Finish::Silu => {
                each!(o < OUT, [0 1], {
                    each!(r < ROWS, [0 1], {
                        each!(p < PIXELS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                            let sum = sums[o][r][p].silu();
                            sum.store(t.out[r].add(o * t.out_block + p * 16));
                        });
                    });
                });
            }
            Finish::Clamp(low, high) => {
                each!(o < OUT, [0 1], {
                    each!(r < ROWS, [0 1], {
                        each!(p < PIXELS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                            let sum = sums[o][r][p].clamp(low, high);
                            sum.store(t.out[r].add(o * t.out_block + p * 16));
                        });
                    });
                });
            }
        }
    }
}

/// The weights of every input channel times a factor.
///
/// # Safety
/// The processor has the instructions of `V`, and 16 floats for each of `scale` are readable at
/// `weight` and writable at `out`.
#[inline(always)]
unsafe fn scaled<V: Vector>(weight: *const f32, scale: &[f32], out: *mut f32) {
    for (i, factor) in scale.iter().enumerate() {
        // SAFETY: the contract is the same.
        unsafe {
            let weight = V::load(weight.add(i * 16));
            weight.mul(V::splat(*factor)).store(out.add(i * 16));
        }
    }
}

/// [`scaled`] for an instruction set.
///
/// # Safety
/// That of [`scaled`].
pub(super) type Scale = unsafe fn(*const f32, &[f32], *mut f32);

/// Kernels of one instruction set, for inputs in blocks of `LANES`.
pub(super) struct Kernels {
    /// Weights of a block of output channels times factors of the input channels.
    pub scale: Scale,
    /// For one row, by output blocks less one and pixels less one.
    one_row: &'static [&'static [Kernel]],
    /// For two rows.
    two_rows: &'static [&'static [Kernel]],
}

impl Kernels {
    /// Most output blocks of a tile.
    pub(super) fn out_blocks(&self) -> usize {
        self.one_row.len()
    }

    /// Most pixels of a tile in one row; two rows have half of it each.
    pub(super) fn pixels(&self) -> usize {
        self.one_row[0].len()
    }

    /// The kernel for a size of tile within these limits.
    pub(super) fn get(&self, out_blocks: usize, rows: usize, pixels: usize) -> Kernel {
        let table = if rows == 1 {
            self.one_row
        } else {
            self.two_rows
        };
        table[out_blocks - 1][pixels - 1]
    }

    /// Those of an instruction set for blocks of 16 input channels.
    pub(super) fn blocked(isa: Isa) -> Self {
        Self::new::<16>(isa)
    }

    /// Those for single channels, as images come.
    pub(super) fn planar(isa: Isa) -> Self {
        Self::new::<1>(isa)
    }

    fn new<const LANES: usize>(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Self {
                scale: scaled_avx512,
                one_row: sizes!(avx512, LANES, 1, [1 2], 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
                two_rows: sizes!(avx512, LANES, 2, [1 2], 1 2 3 4 5 6 7),
            },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Self {
                scale: scaled_avx2,
                one_row: sizes!(avx2, LANES, 1, [1], 1 2 3 4 5 6),
                two_rows: sizes!(avx2, LANES, 2, [1], 1 2 3),
            },
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Portable => Self {
                scale: scaled_portable,
                one_row: sizes!(portable, LANES, 1, [1], 1 2),
                two_rows: sizes!(portable, LANES, 2, [1], 1),
            },
            // Twice as many registers.
            #[cfg(target_arch = "aarch64")]
            Isa::Portable => Self {
                scale: scaled_portable,
                one_row: sizes!(portable, LANES, 1, [1], 1 2 3 4 5),
                two_rows: sizes!(portable, LANES, 2, [1], 1 2),
            },
        }
    }
}

/// A table of kernels: function, lanes, rows, output blocks, pixels.
macro_rules! sizes {
    ($f:ident, $lanes:ident, $rows:literal, [$($out:literal)*], $($pixels:literal)*) => {
        sizes!(@ $f, $lanes, $rows, [$($out)*], [$($pixels)*])
    };
    (@ $f:ident, $lanes:ident, $rows:literal, [$($out:literal)*], $pixels:tt) => {
        const { &[$(sizes!(% $f, $lanes, $rows, $out, $pixels)),*] }
    };
    (% $f:ident, $lanes:ident, $rows:literal, $out:literal, [$($pixels:literal)*]) => {
        &[$($f::<$lanes, $out, $rows, $pixels> as Kernel),*] as &[Kernel]
    };
}
use sizes;

/// Declares [`tile`] and [`scaled`] compiled for an instruction set.
macro_rules! compiled {
    ($(#[$attribute:meta])* $name:ident, $scaled:ident, $vector:ty) => {
        $(#[$attribute])*
        unsafe fn $scaled(weight: *const f32, scale: &[f32], out: *mut f32) {
            // SAFETY: the contract is the same.
            unsafe { scaled::<$vector>(weight, scale, out) }
        }

        $(#[$attribute])*
        unsafe fn $name<
            const LANES: usize,
            const OUT: usize,
            const ROWS: usize,
            const PIXELS: usize,
        >(
            t: &Tile,
        ) {
            // SAFETY: the contract is the same.
            unsafe { tile::<$vector, LANES, OUT, ROWS, PIXELS>(t) }
        }
    };
}

compiled! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,fma")]
    avx512, scaled_avx512, Avx512
}
compiled! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    avx2, scaled_avx2, Avx2
}
compiled! { portable, scaled_portable, Portable }
