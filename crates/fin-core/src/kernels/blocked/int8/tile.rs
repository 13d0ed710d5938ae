//! The inner kernel: one tile of output pixels by one or two blocks of output channels, summed over all inputs in
//! registers, four input channels at a time; and the kernel that brings pixels to bytes.

use super::super::ahead::Ahead;
use super::super::tile::{Finish, each};
use super::super::vector::Vector;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2Madd, Avx512Vnni, AvxVnni};
use super::lanes::{Found, Lanes, Plain};
use super::{Bytes, STEP, STEP_BYTES};
use crate::kernels::int8::Isa;

/// Steps of a full block of input channels.
const STEPS: usize = 16 / STEP;

/// Where a tile reads and writes: as [`super::super::tile::Tile`], with bytes for the input and the weights.
pub(in super::super) struct Tile<'a> {
    /// First input of the tile's first and, with two, second row.
    pub x: [*const u8; 2],
    /// From an input block to the next.
    pub x_block: usize,
    /// Blocks of input channels.
    pub blocks: usize,
    /// Channels of the last one.
    pub last: usize,
    /// From a pixel's first input to those that the kernel's elements multiply.
    pub taps: &'a [usize],
    /// `[blocks, taps, 4, 16, 4]` for one block of output channels.
    pub weight: *const i8,
    /// From a block of output channels to the next in `weight`.
    pub weight_block: usize,
    /// Sums of the weights, `[blocks of output channels, 16]`.
    pub sums: *const i32,
    /// What an integer of the weights stands for, `[blocks of output channels, 16]`.
    pub scales: *const f32,
    /// `[blocks of output channels, 16]`.
    pub bias: *const f32,
    /// How the images of the rows were brought to bytes.
    pub bytes: [Bytes; 2],
    /// First output of the rows.
    pub out: [*mut f32; 2],
    /// From a block of output channels to the next in `out` and `residual`.
    pub out_block: usize,
    /// What to add before `finish`, laid out as `out`; null for nothing.
    pub residual: [*const f32; 2],
    /// Function at the end.
    pub finish: Finish,
    /// Where the largest and smallest outputs of the rows go, along with what is there; null for nowhere.
    pub found: [*mut Found; 2],
    /// Weights of the next tiles.
    pub ahead: Ahead,
}

/// A kernel for one size of tile.
///
/// # Safety
/// The processor has the instructions that it was compiled for, and all that a [`Tile`] of its
/// size names is readable or, of `out` and `found`, writable.
pub(in super::super) type Kernel = unsafe fn(&Tile);

/// `OUT` blocks of output channels, `ROWS` rows of `PIXELS`.
///
/// # Safety
/// That of [`Kernel`].
#[inline(always)]
unsafe fn tile<L: Lanes, const OUT: usize, const ROWS: usize, const PIXELS: usize>(t: &Tile) {
    // SAFETY: by the contract, `sums`, `scales` and `bias` hold `OUT` blocks, `weight` has `OUT` blocks of
    // `blocks * taps * 256` bytes at distances `weight_block`, and at every input block and tap there are `ROWS`
    // rows of `PIXELS` pixels of 16 bytes from `x`; `out` and a residual have `ROWS` rows of `PIXELS` pixels of 16
    // floats for each of `OUT` blocks.
    unsafe {
        let mut sums = [[[L::start(t.sums, 0); PIXELS]; ROWS]; OUT];
        each!(o < OUT, [0 1], {
            each!(r < ROWS, [0 1], {
                sums[o][r] = [L::start(t.sums.add(o * 16), t.bytes[r].zero); PIXELS];
            });
        });
        let (mut ahead, mut step) = (t.ahead, 0);
        let mut weight = t.weight;
        for block in 0..t.blocks {
            let steps = if block + 1 == t.blocks {
                t.last.div_ceil(STEP)
            } else {
                STEPS
            };
            for &tap in t.taps {
                let at = block * t.x_block + tap;
                let mut x = [t.x[0].add(at), t.x[1].add(at)];
                let mut w = weight;
                for _ in 0..steps {
                    ahead.step::<L::Float>(step);
                    step += 1;
                    let mut ws = [L::weights(w); OUT];
                    each!(o < OUT, [0 1], {
                        ws[o] = L::weights(w.add(o * t.weight_block));
                    });
                    each!(r < ROWS, [0 1], {
                        each!(p < PIXELS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                            let four = L::bytes(x[r].add(p * 16));
                            each!(o < OUT, [0 1], {
                                sums[o][r][p] = L::dot(sums[o][r][p], four, ws[o]);
                            });
                        });
                        x[r] = x[r].add(STEP);
                    });
                    w = w.add(STEP_BYTES);
                }
                weight = weight.add(STEPS * STEP_BYTES);
            }
        }
        // Written out for each function, as a call would pass vectors through memory.
        macro_rules! finish {
            ($f:expr) => {{
                let f = $f;
                each!(r < ROWS, [0 1], {
                    let mut found = if t.found[r].is_null() {
                        L::load_found(&[[0; 16]; 2])
                    } else {
                        L::load_found(&*t.found[r])
                    };
                    each!(o < OUT, [0 1], {
                        let scale = L::Float::load(t.scales.add(o * 16));
                        let scale = scale.mul(L::Float::splat(t.bytes[r].scale));
                        let bias = L::Float::load(t.bias.add(o * 16));
                        each!(p < PIXELS, [0 1 2 3 4 5 6 7 8 9 10 11 12 13], {
                            let at = o * t.out_block + p * 16;
                            let mut y = L::float(sums[o][r][p]).mul(scale).add(bias);
                            if !t.residual[r].is_null() {
                                y = y.add(L::Float::load(t.residual[r].add(at)));
                            }
                            let y = f(y);
                            found = L::find(found, y);
                            y.store(t.out[r].add(at));
                        });
                    });
                    if !t.found[r].is_null() {
                        L::store_found(found, &mut *t.found[r]);
                    }
                });
            }};
        }
        match t.finish {
            Finish::Silu => finish!(|y: L::Float| y.silu()),
            Finish::Clamp(low, high) => finish!(|y: L::Float| y.clamp(low, high)),
        }
    }
}

/// Pixels to bring to bytes.
pub(super) struct Pixels<'a> {
    /// The first one's 16 channels.
    pub x: *const f32,
    /// From one to the next.
    pub step: usize,
    pub count: usize,
    /// What the channels are multiplied by before.
    pub factors: &'a [f32; 16],
    pub bytes: Bytes,
    /// 16 bytes a pixel.
    pub to: *mut u8,
}

/// Brings pixels to bytes.
///
/// # Safety
/// The processor has the instructions that it was compiled for, and all that is named is readable or, of `to`,
/// writable.
pub(super) type Quantize = unsafe fn(&Pixels);

/// # Safety
/// That of [`Quantize`].
#[inline(always)]
unsafe fn quantize<L: Lanes>(t: &Pixels) {
    // SAFETY: the contract is the same.
    unsafe {
        let factors = L::Float::load(t.factors.as_ptr());
        let inverse = L::Float::splat(t.bytes.inverse);
        for p in 0..t.count {
            let x = L::Float::load(t.x.add(p * t.step));
            let x = x.mul(factors).mul(inverse);
            L::store_bytes(x, t.bytes.zero, t.to.add(p * 16));
        }
    }
}

/// Kernels of one instruction set.
pub(in super::super) struct Kernels {
    pub(super) quantize: Quantize,
    /// For one row, by output blocks less one and pixels less one.
    one_row: &'static [&'static [Kernel]],
    /// For two rows.
    two_rows: &'static [&'static [Kernel]],
}

/// A table of kernels: function, rows, output blocks, pixels.
macro_rules! sizes {
    ($f:ident, $rows:literal, [$($out:literal)*], $($pixels:literal)*) => {
        sizes!(@ $f, $rows, [$($out)*], [$($pixels)*])
    };
    (@ $f:ident, $rows:literal, [$($out:literal)*], $pixels:tt) => {
        const { &[$(sizes!(% $f, $rows, $out, $pixels)),*] }
    };
    (% $f:ident, $rows:literal, $out:literal, [$($pixels:literal)*]) => {
        &[$($f::<$out, $rows, $pixels> as Kernel),*] as &[Kernel]
    };
}

impl Kernels {
    pub(in super::super) fn new(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Self {
                quantize: quantize_avx512_vnni,
                one_row: sizes!(avx512_vnni, 1, [1 2], 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
                two_rows: sizes!(avx512_vnni, 2, [1 2], 1 2 3 4 5 6 7),
            },
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Self {
                quantize: quantize_avx_vnni,
                one_row: sizes!(avx_vnni, 1, [1], 1 2 3 4 5 6),
                two_rows: sizes!(avx_vnni, 2, [1], 1 2 3),
            },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Self {
                quantize: quantize_avx2,
                one_row: sizes!(avx2, 1, [1], 1 2 3 4),
                two_rows: sizes!(avx2, 2, [1], 1 2),
            },
            Isa::Portable => Self {
                quantize: quantize_portable,
                one_row: sizes!(portable, 1, [1], 1 2),
                two_rows: sizes!(portable, 2, [1], 1),
            },
        }
    }

    /// Most output blocks of a tile.
    pub(in super::super) fn out_blocks(&self) -> usize {
        self.one_row.len()
    }

    /// Most pixels of a tile in one row; two rows have half of it each.
    pub(in super::super) fn pixels(&self) -> usize {
        self.one_row[0].len()
    }

    /// The kernel for a size of tile within these limits.
    pub(in super::super) fn get(&self, out_blocks: usize, rows: usize, pixels: usize) -> Kernel {
        let table = if rows == 1 {
            self.one_row
        } else {
            self.two_rows
        };
        table[out_blocks - 1][pixels - 1]
    }
}

/// Declares [`tile`] and [`quantize`] compiled for an instruction set.
macro_rules! compiled {
    ($(#[$attribute:meta])* $name:ident, $quantize:ident, $lanes:ty) => {
        $(#[$attribute])*
        unsafe fn $quantize(t: &Pixels) {
            // SAFETY: the contract is the same.
            unsafe { quantize::<$lanes>(t) }
        }

        $(#[$attribute])*
        unsafe fn $name<const OUT: usize, const ROWS: usize, const PIXELS: usize>(t: &Tile) {
            // SAFETY: the contract is the same.
            unsafe { tile::<$lanes, OUT, ROWS, PIXELS>(t) }
        }
    };
}

compiled! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vnni,fma")]
    avx512_vnni, quantize_avx512_vnni, Avx512Vnni
}
compiled! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,avxvnni,fma")]
    avx_vnni, quantize_avx_vnni, AvxVnni
}
compiled! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    avx2, quantize_avx2, Avx2Madd
}
compiled! { portable, quantize_portable, Plain }
