//! Sixteen sums of products of bytes in the registers of AVX-512, of AVX2 and of any processor, and the way
//! to them from floats and back. What is computed here has the same bits everywhere.

#[cfg(target_arch = "x86_64")]
use super::super::vector::{Avx2, Avx512};
use super::super::vector::{Portable, ROUND, Vector};

/// Largest values of 16 lanes, of the bits of floats: as signed integers, which is the largest float above
/// zero, and as unsigned ones, which is the smallest below zero where there is one. A value that is not finite
/// is larger than all that are.
pub(super) type Found = [[u32; 16]; 2];

/// An instruction set's way to do it. Every function relies on the processor having its instructions.
pub(super) trait Lanes {
    /// Sixteen floats.
    type Float: Vector;
    /// Sixteen 32-bit integers.
    type Sums: Copy;
    /// Of four input channels for 16 output channels.
    type Weights: Copy;
    /// Four input channels of a pixel, for all lanes.
    type Bytes: Copy;

    /// `-zero` times 16 integers.
    ///
    /// # Safety
    /// That of the trait; 16 integers are readable at `p`.
    unsafe fn start(p: *const i32, zero: i32) -> Self::Sums;

    /// # Safety
    /// That of the trait; 64 bytes are readable at `p`.
    unsafe fn weights(p: *const i8) -> Self::Weights;

    /// # Safety
    /// That of the trait; four bytes are readable at `p`.
    unsafe fn bytes(p: *const u8) -> Self::Bytes;

    /// Adds four products to every lane.
    ///
    /// # Safety
    /// That of the trait.
    unsafe fn dot(sums: Self::Sums, x: Self::Bytes, w: Self::Weights) -> Self::Sums;

    /// The nearest floats.
    ///
    /// # Safety
    /// That of the trait.
    unsafe fn float(sums: Self::Sums) -> Self::Float;

    /// The nearest integers, halves to even ones, plus `zero`, at most 255. What is below 0, or beyond 2²², is
    /// stored as anything.
    ///
    /// # Safety
    /// That of the trait; 16 bytes are writable at `p`.
    unsafe fn store_bytes(x: Self::Float, zero: i32, p: *mut u8);

    /// The larger of each lane's bits, as signed and as unsigned integers.
    ///
    /// # Safety
    /// That of the trait.
    unsafe fn find(found: [Self::Sums; 2], x: Self::Float) -> [Self::Sums; 2];

    /// # Safety
    /// That of the trait.
    unsafe fn load_found(p: &Found) -> [Self::Sums; 2];

    /// # Safety
    /// That of the trait.
    unsafe fn store_found(found: [Self::Sums; 2], p: &mut Found);
}

/// Any processor; the compiler makes vectors of it.
pub(super) enum Plain {}

impl Lanes for Plain {
    type Float = Portable;
    type Sums = [i32; 16];
    type Weights = [[i8; 4]; 16];
    type Bytes = [i32; 4];

    #[inline(always)]
    unsafe fn start(p: *const i32, zero: i32) -> Self::Sums {
        // SAFETY: the caller says that 16 integers are readable.
        let sums = unsafe { p.cast::<[i32; 16]>().read_unaligned() };
        sums.map(|sum| sum.wrapping_mul(-zero))
    }

    #[inline(always)]
    unsafe fn weights(p: *const i8) -> Self::Weights {
        // SAFETY: the caller says that 64 bytes are readable.
        unsafe { p.cast::<[[i8; 4]; 16]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self::Bytes {
        // SAFETY: the caller says that four bytes are readable.
        unsafe { p.cast::<[u8; 4]>().read_unaligned() }.map(i32::from)
    }

    #[inline(always)]
    unsafe fn dot(mut sums: Self::Sums, x: Self::Bytes, w: Self::Weights) -> Self::Sums {
        for (sum, w) in sums.iter_mut().zip(w) {
            let w = w.map(i32::from);
            let four = x[0] * w[0] + x[1] * w[1] + x[2] * w[2] + x[3] * w[3];
            *sum = sum.wrapping_add(four);
        }
        sums
    }

    #[inline(always)]
    unsafe fn float(sums: Self::Sums) -> Self::Float {
        let floats = sums.map(|sum| sum as f32);
        // SAFETY: these are 16 floats, and any processor will do.
        unsafe { Portable::load(floats.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store_bytes(x: Self::Float, zero: i32, p: *mut u8) {
        let mut floats = [0.0f32; 16];
        // SAFETY: there is room for 16 floats here, and for as many bytes at `p`, as the caller says.
        unsafe {
            x.store(floats.as_mut_ptr());
            let bytes = floats.map(|x| {
                let rounded = (x + ROUND).to_bits().wrapping_sub(ROUND.to_bits());
                (rounded as i32).wrapping_add(zero).clamp(0, 255) as u8
            });
            p.cast::<[u8; 16]>().write_unaligned(bytes);
        }
    }

    #[inline(always)]
    unsafe fn find(mut found: [Self::Sums; 2], x: Self::Float) -> [Self::Sums; 2] {
        let mut floats = [0.0f32; 16];
        // SAFETY: there is room for 16 floats.
        unsafe { x.store(floats.as_mut_ptr()) };
        let [high, low] = &mut found;
        for ((x, high), low) in floats.iter().zip(high).zip(low) {
            *high = (*high).max(x.to_bits() as i32);
            *low = (*low as u32).max(x.to_bits()) as i32;
        }
        found
    }

    #[inline(always)]
    unsafe fn load_found(p: &Found) -> [Self::Sums; 2] {
        p.map(|lanes| lanes.map(|bits| bits as i32))
    }

    #[inline(always)]
    unsafe fn store_found(found: [Self::Sums; 2], p: &mut Found) {
        *p = found.map(|lanes| lanes.map(|bits| bits as u32));
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2Madd, Avx512Vnni, AvxVnni};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Avx2, Avx512, Found, Lanes};
    use std::arch::x86_64::*;

    /// AVX-512 F and VNNI.
    pub(in super::super) enum Avx512Vnni {}

    impl Lanes for Avx512Vnni {
        type Float = Avx512;
        type Sums = __m512i;
        type Weights = __m512i;
        type Bytes = __m512i;

        #[inline(always)]
        unsafe fn start(p: *const i32, zero: i32) -> Self::Sums {
            // SAFETY: the caller says so of the processor, and of 16 integers at `p`.
            unsafe { _mm512_mullo_epi32(_mm512_loadu_si512(p.cast()), _mm512_set1_epi32(-zero)) }
        }

        #[inline(always)]
        unsafe fn weights(p: *const i8) -> Self::Weights {
            // SAFETY: the caller says so of the processor, and of 64 bytes at `p`.
            unsafe { _mm512_loadu_si512(p.cast()) }
        }

        #[inline(always)]
        unsafe fn bytes(p: *const u8) -> Self::Bytes {
            // SAFETY: the caller says so of the processor, and of four bytes at `p`.
            unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }

        #[inline(always)]
        unsafe fn dot(sums: Self::Sums, x: Self::Bytes, w: Self::Weights) -> Self::Sums {
            // SAFETY: the caller says so of the processor.
            unsafe { _mm512_dpbusd_epi32(sums, x, w) }
        }

        #[inline(always)]
        unsafe fn float(sums: Self::Sums) -> Self::Float {
            // SAFETY: the caller says so of the processor.
            Avx512(unsafe { _mm512_cvtepi32_ps(sums) })
        }

        #[inline(always)]
        unsafe fn store_bytes(x: Self::Float, zero: i32, p: *mut u8) {
            // SAFETY: the caller says so of the processor, and of 16 bytes at `p`.
            unsafe {
                let x = _mm512_add_epi32(_mm512_cvtps_epi32(x.0), _mm512_set1_epi32(zero));
                _mm_storeu_si128(p.cast(), _mm512_cvtusepi32_epi8(x));
            }
        }

        #[inline(always)]
        unsafe fn find([high, low]: [Self::Sums; 2], x: Self::Float) -> [Self::Sums; 2] {
            // SAFETY: the caller says so of the processor.
            unsafe {
                let bits = _mm512_castps_si512(x.0);
                [_mm512_max_epi32(high, bits), _mm512_max_epu32(low, bits)]
            }
        }

        #[inline(always)]
        unsafe fn load_found(p: &Found) -> [Self::Sums; 2] {
            // SAFETY: the caller says so of the processor; 16 integers are readable at each.
            unsafe {
                [
                    _mm512_loadu_si512(p[0].as_ptr().cast()),
                    _mm512_loadu_si512(p[1].as_ptr().cast()),
                ]
            }
        }

        #[inline(always)]
        unsafe fn store_found([high, low]: [Self::Sums; 2], p: &mut Found) {
            // SAFETY: the caller says so of the processor; 16 integers are writable at each.
            unsafe {
                _mm512_storeu_si512(p[0].as_mut_ptr().cast(), high);
                _mm512_storeu_si512(p[1].as_mut_ptr().cast(), low);
            }
        }
    }

    /// Two registers of AVX2.
    type Pair = [__m256i; 2];

    /// Sixteen integers.
    ///
    /// # Safety
    /// The processor has AVX2, and 64 bytes are readable at `p`.
    #[inline(always)]
    unsafe fn load<T>(p: *const T) -> Pair {
        // SAFETY: the contract is the same.
        unsafe {
            [
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.cast::<__m256i>().add(1)),
            ]
        }
    }

    /// The functions of [`Lanes`] that need no more than AVX2.
    macro_rules! avx2 {
        () => {
            #[inline(always)]
            unsafe fn start(p: *const i32, zero: i32) -> Self::Sums {
                // SAFETY: the caller says so of the processor, and of 16 integers at `p`.
                unsafe {
                    let [a, b] = load(p);
                    let zero = _mm256_set1_epi32(-zero);
                    [_mm256_mullo_epi32(a, zero), _mm256_mullo_epi32(b, zero)]
                }
            }

            #[inline(always)]
            unsafe fn float([a, b]: Self::Sums) -> Self::Float {
                // SAFETY: the caller says so of the processor.
                unsafe { Avx2(_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)) }
            }

            #[inline(always)]
            unsafe fn store_bytes(x: Self::Float, zero: i32, p: *mut u8) {
                // SAFETY: the caller says so of the processor, and of 16 bytes at `p`.
                unsafe {
                    let zero = _mm256_set1_epi32(zero);
                    let a = _mm256_add_epi32(_mm256_cvtps_epi32(x.0), zero);
                    let b = _mm256_add_epi32(_mm256_cvtps_epi32(x.1), zero);
                    // Of a and b in turns, four at a time.
                    let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
                    let low = _mm256_castsi256_si128(words);
                    let high = _mm256_extracti128_si256::<1>(words);
                    _mm_storeu_si128(p.cast(), _mm_packus_epi16(low, high));
                }
            }

            #[inline(always)]
            unsafe fn find([high, low]: [Self::Sums; 2], x: Self::Float) -> [Self::Sums; 2] {
                // SAFETY: the caller says so of the processor.
                unsafe {
                    let (a, b) = (_mm256_castps_si256(x.0), _mm256_castps_si256(x.1));
                    [
                        [_mm256_max_epi32(high[0], a), _mm256_max_epi32(high[1], b)],
                        [_mm256_max_epu32(low[0], a), _mm256_max_epu32(low[1], b)],
                    ]
                }
            }

            #[inline(always)]
            unsafe fn load_found(p: &Found) -> [Self::Sums; 2] {
                // SAFETY: the caller says so of the processor; 16 integers are readable at each.
                unsafe { [load(p[0].as_ptr()), load(p[1].as_ptr())] }
            }

            #[inline(always)]
            unsafe fn store_found(found: [Self::Sums; 2], p: &mut Found) {
                for (found, p) in found.into_iter().zip(p) {
                    // SAFETY: the caller says so of the processor; 16 integers are writable at each.
                    unsafe {
                        let p = p.as_mut_ptr().cast::<__m256i>();
                        _mm256_storeu_si256(p, found[0]);
                        _mm256_storeu_si256(p.add(1), found[1]);
                    }
                }
            }
        };
    }

    /// AVX2 and AVX-VNNI.
    pub(in super::super) enum AvxVnni {}

    impl Lanes for AvxVnni {
        type Float = Avx2;
        type Sums = Pair;
        type Weights = Pair;
        type Bytes = __m256i;

        avx2!();

        #[inline(always)]
        unsafe fn weights(p: *const i8) -> Self::Weights {
            // SAFETY: the caller says so of the processor, and of 64 bytes at `p`.
            unsafe { load(p) }
        }

        #[inline(always)]
        unsafe fn bytes(p: *const u8) -> Self::Bytes {
            // SAFETY: the caller says so of the processor, and of four bytes at `p`.
            unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }

        #[inline(always)]
        unsafe fn dot([a, b]: Self::Sums, x: Self::Bytes, w: Self::Weights) -> Self::Sums {
            // SAFETY: the caller says so of the processor.
            unsafe {
                [
                    _mm256_dpbusd_avx_epi32(a, x, w[0]),
                    _mm256_dpbusd_avx_epi32(b, x, w[1]),
                ]
            }
        }
    }

    /// AVX2 alone: bytes are widened to 16 bits, those at even and at odd places apart, as products of bytes
    /// that are added in 16 bits would be cut off.
    pub(in super::super) enum Avx2Madd {}

    impl Lanes for Avx2Madd {
        type Float = Avx2;
        type Sums = Pair;
        type Weights = [Pair; 2];
        type Bytes = Pair;

        avx2!();

        #[inline(always)]
        unsafe fn weights(p: *const i8) -> Self::Weights {
            // SAFETY: the caller says so of the processor, and of 64 bytes at `p`.
            unsafe {
                let [a, b] = load(p);
                [
                    [
                        _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(a)),
                        _mm256_srai_epi16::<8>(a),
                    ],
                    [
                        _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)),
                        _mm256_srai_epi16::<8>(b),
                    ],
                ]
            }
        }

        #[inline(always)]
        unsafe fn bytes(p: *const u8) -> Self::Bytes {
            // SAFETY: the caller says so of the processor, and of four bytes at `p`.
            unsafe {
                let x = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
                [
                    _mm256_and_si256(x, _mm256_set1_epi16(255)),
                    _mm256_srli_epi16::<8>(x),
                ]
            }
        }

        #[inline(always)]
        unsafe fn dot(mut sums: Self::Sums, x: Self::Bytes, w: Self::Weights) -> Self::Sums {
            // SAFETY: the caller says so of the processor.
            unsafe {
                for (sum, w) in sums.iter_mut().zip(w) {
                    let even = _mm256_madd_epi16(x[0], w[0]);
                    let odd = _mm256_madd_epi16(x[1], w[1]);
                    *sum = _mm256_add_epi32(*sum, _mm256_add_epi32(even, odd));
                }
            }
            sums
        }
    }
}
