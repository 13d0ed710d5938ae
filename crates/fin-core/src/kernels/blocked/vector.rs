//! Vectors of 16 floats in the registers of AVX-512, of AVX2 and of any processor, behind one
//! trait that the kernels are generic over.

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kernels) enum Isa {
    /// AVX-512 F and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The target's base instructions.
    Portable,
}

impl Isa {
    /// What this processor has, the fastest first.
    pub(in crate::kernels) fn available() -> impl Iterator<Item = Self> {
        let all = [
            #[cfg(target_arch = "x86_64")]
            (
                Self::Avx512,
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma"),
            ),
            #[cfg(target_arch = "x86_64")]
            (
                Self::Avx2,
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            ),
            (Self::Portable, true),
        ];
        all.into_iter().filter(|(_, has)| *has).map(|(isa, _)| isa)
    }

    /// The fastest that this processor has.
    pub(in crate::kernels) fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }
}

/// Sixteen floats. Whoever makes one knows that the processor has the instructions of the type;
/// what is done with a value can therefore rely on them.
pub(in crate::kernels) trait Vector: Copy {
    /// All lanes `x`.
    ///
    /// # Safety
    /// The processor has the instructions of the type.
    unsafe fn splat(x: f32) -> Self;

    /// From memory of any alignment.
    ///
    /// # Safety
    /// The processor has the instructions of the type and 16 floats are readable at `p`.
    unsafe fn load(p: *const f32) -> Self;

    /// To memory of any alignment.
    ///
    /// # Safety
    /// 16 floats are writable at `p`.
    unsafe fn store(self, p: *mut f32);

    /// Asks for a line of memory ahead of its use, where the processor can be asked; `p` may be any address.
    fn prefetch(_p: *const f32) {}

    /// `self · a + b`.
    fn mul_add(self, a: Self, b: Self) -> Self;

    /// `self + other`.
    fn add(self, other: Self) -> Self;

    /// `self - other`.
    fn sub(self, other: Self) -> Self;

    /// `self · other`.
    fn mul(self, other: Self) -> Self;

    /// The greater; `other` where one is not a number.
    fn max(self, other: Self) -> Self;

    /// The smaller; `other` where one is not a number.
    fn min(self, other: Self) -> Self;

    /// The first `count` lanes, up to 16, from memory of any alignment; zeros in the others.
    ///
    /// # Safety
    /// The processor has the instructions of the type and that many floats are readable at `p`.
    unsafe fn load_first(p: *const f32, count: usize) -> Self;

    /// The first `count` lanes, up to 16, to memory of any alignment.
    ///
    /// # Safety
    /// That many floats are writable at `p`.
    unsafe fn store_first(self, p: *mut f32, count: usize);

    /// Lane `j` of vector `i` to lane `i` of vector `j`.
    fn transpose(rows: [Self; 16]) -> [Self; 16];

    /// To the nearest integer, for values within ±2²².
    fn round(self) -> Self;

    /// `self · 2ⁿ` for lanes from 0.5 to 2 and integers `n` within ±125.
    fn scale(self, n: Self) -> Self;

    /// `1 / self` to about one unit in the last place, for lanes from 1 to 2¹²⁶.
    fn reciprocal(self) -> Self;

    /// All lanes `x`.
    #[inline(always)]
    fn like(self, x: f32) -> Self {
        // SAFETY: there is a value of the type, so the processor has its instructions.
        unsafe { Self::splat(x) }
    }

    /// Within limits; a NaN goes through.
    #[inline(always)]
    fn clamp(self, low: f32, high: f32) -> Self {
        self.like(high).min(self.like(low).max(self))
    }

    /// `x·σ(x)` to about 3e-7.
    #[inline(always)]
    fn silu(self) -> Self {
        // ln(2)ᵏ / k!, the Taylor series of 2ᶠ, for |f| ≤ 1/2.
        const SERIES: [f32; 6] = [
            1.333_355_8e-3,
            9.618_129e-3,
            5.550_411e-2,
            0.240_226_5,
            std::f32::consts::LN_2,
            1.0,
        ];
        let exponent = self.mul(self.like(-std::f32::consts::LOG2_E));
        let exponent = exponent.max(self.like(-125.0)).min(self.like(125.0));
        let n = exponent.round();
        let f = exponent.sub(n);
        let mut power = self.like(1.540_353e-4);
        for c in SERIES {
            power = power.mul_add(f, self.like(c));
        }
        let denominator = power.scale(n).add(self.like(1.0));
        self.mul(denominator.reciprocal())
    }
}

/// 1.5·2²³: added to a float within ±2²², it rounds it to an integer and leaves that in the low bits.
pub(in crate::kernels) const ROUND: f32 = 12_582_912.0;

/// Any processor; the compiler makes vectors of it.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(in crate::kernels) struct Portable([f32; 16]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut y = self;
        for (y, x) in y.0.iter_mut().zip(other.0) {
            *y = f(*y, x);
        }
        y
    }
}

impl Vector for Portable {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 16])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller says that 16 floats are readable.
        Self(unsafe { p.cast::<[f32; 16]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller says that 16 floats are writable.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        let mut y = self;
        for ((y, a), b) in y.0.iter_mut().zip(a.0).zip(b.0) {
            // Without the instruction, `mul_add` is a call of a slow function.
            *y = if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                y.mul_add(a, b)
            } else {
                *y * a + b
            };
        }
        y
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn load_first(p: *const f32, count: usize) -> Self {
        let mut lanes = [0.0f32; 16];
        // SAFETY: the caller says that `count` floats are readable, and it is at most 16.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), count.min(16));
            Self::load(lanes.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, count: usize) {
        // SAFETY: the caller says that `count` floats are writable, and it is at most 16.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), p, count.min(16)) }
    }

    #[inline(always)]
    fn transpose(rows: [Self; 16]) -> [Self; 16] {
        let mut columns = rows;
        for (i, row) in rows.iter().enumerate() {
            for (column, x) in columns.iter_mut().zip(row.0) {
                column.0[i] = x;
            }
        }
        columns
    }

    #[inline(always)]
    fn round(self) -> Self {
        self.zip(self, |a, _| a + ROUND - ROUND)
    }

    #[inline(always)]
    fn scale(self, n: Self) -> Self {
        self.zip(n, |a, n| {
            let bits = (n + ROUND).to_bits().wrapping_shl(23);
            a * f32::from_bits(bits.wrapping_add(127 << 23))
        })
    }

    #[inline(always)]
    fn reciprocal(self) -> Self {
        self.zip(self, |a, _| 1.0 / a)
    }
}

#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    /// In one register of AVX-512.
    #[derive(Clone, Copy)]
    pub(in crate::kernels) struct Avx512(pub(in crate::kernels) __m512);

    /// In two registers of AVX2.
    #[derive(Clone, Copy)]
    pub(in crate::kernels) struct Avx2(
        pub(in crate::kernels) __m256,
        pub(in crate::kernels) __m256,
    );

    /// Methods of `Avx512` that are one instruction.
    macro_rules! avx512 {
        ($($name:ident($($arg:ident),*) => $call:expr;)*) => {$(
            #[inline(always)]
            fn $name(self, $($arg: Self),*) -> Self {
                let call = $call;
                // SAFETY: there is a value of the type, so the processor has its instructions.
                Self(unsafe { call(self.0, $($arg.0),*) })
            }
        )*};
    }

    impl Vector for Avx512 {
        #[inline(always)]
        fn prefetch(p: *const f32) {
            // SAFETY: this reads nothing and faults at no address; every processor of the target has it.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }

        avx512! {
            mul_add(a, b) => _mm512_fmadd_ps;
            add(other) => _mm512_add_ps;
            sub(other) => _mm512_sub_ps;
            mul(other) => _mm512_mul_ps;
            max(other) => _mm512_max_ps;
            min(other) => _mm512_min_ps;
            round() => _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>;
            scale(n) => _mm512_scalef_ps;
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller says that the processor has AVX-512.
            Self(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: the caller says so of the processor and of 16 floats at `p`.
            Self(unsafe { _mm512_loadu_ps(p) })
        }

        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: the caller says that 16 floats are writable.
            unsafe { _mm512_storeu_ps(p, self.0) }
        }

        #[inline(always)]
        unsafe fn load_first(p: *const f32, count: usize) -> Self {
            let mask = ((1u32 << count) - 1) as u16;
            // SAFETY: the caller says that the lanes of the mask are readable.
            Self(unsafe { _mm512_maskz_loadu_ps(mask, p) })
        }

        #[inline(always)]
        unsafe fn store_first(self, p: *mut f32, count: usize) {
            let mask = ((1u32 << count) - 1) as u16;
            // SAFETY: the caller says that the lanes of the mask are writable.
            unsafe { _mm512_mask_storeu_ps(p, mask, self.0) }
        }

        #[inline(always)]
        fn transpose(rows: [Self; 16]) -> [Self; 16] {
            // Written out: a closure over an array would be a call that takes it through memory.
            let r = [
                rows[0].0, rows[1].0, rows[2].0, rows[3].0, rows[4].0, rows[5].0, rows[6].0,
                rows[7].0, rows[8].0, rows[9].0, rows[10].0, rows[11].0, rows[12].0, rows[13].0,
                rows[14].0, rows[15].0,
            ];
            // SAFETY: there is a value of the type, so the processor has its instructions.
            unsafe {
                // Lane `l` of four, of vector `4g + j`: column `4l + j` of the rows from `4g` on.
                let mut s = r;
                for g in 0..4 {
                    let a = _mm512_unpacklo_ps(r[4 * g], r[4 * g + 1]);
                    let b = _mm512_unpackhi_ps(r[4 * g], r[4 * g + 1]);
                    let c = _mm512_unpacklo_ps(r[4 * g + 2], r[4 * g + 3]);
                    let d = _mm512_unpackhi_ps(r[4 * g + 2], r[4 * g + 3]);
                    let pair = |x, y| {
                        let (x, y) = (_mm512_castps_pd(x), _mm512_castps_pd(y));
                        let low = _mm512_unpacklo_pd(x, y);
                        let high = _mm512_unpackhi_pd(x, y);
                        [_mm512_castpd_ps(low), _mm512_castpd_ps(high)]
                    };
                    [s[4 * g], s[4 * g + 1]] = pair(a, c);
                    [s[4 * g + 2], s[4 * g + 3]] = pair(b, d);
                }
                let mut columns = rows;
                for j in 0..4 {
                    let a = _mm512_shuffle_f32x4::<0x88>(s[j], s[4 + j]);
                    let b = _mm512_shuffle_f32x4::<0x88>(s[8 + j], s[12 + j]);
                    let c = _mm512_shuffle_f32x4::<0xdd>(s[j], s[4 + j]);
                    let d = _mm512_shuffle_f32x4::<0xdd>(s[8 + j], s[12 + j]);
                    columns[j] = Self(_mm512_shuffle_f32x4::<0x88>(a, b));
                    columns[4 + j] = Self(_mm512_shuffle_f32x4::<0x88>(c, d));
                    columns[8 + j] = Self(_mm512_shuffle_f32x4::<0xdd>(a, b));
                    columns[12 + j] = Self(_mm512_shuffle_f32x4::<0xdd>(c, d));
                }
                columns
            }
        }

        #[inline(always)]
        fn reciprocal(self) -> Self {
            // SAFETY: there is a value of the type, so the processor has its instructions.
            Self(unsafe {
                // An estimate of 14 bits, and a step of Newton's method.
                let estimate = _mm512_rcp14_ps(self.0);
                let error = _mm512_fnmadd_ps(self.0, estimate, _mm512_set1_ps(1.0));
                _mm512_fmadd_ps(estimate, error, estimate)
            })
        }
    }

    /// Methods of `Avx2` that are one instruction for each half.
    macro_rules! avx2 {
        ($($name:ident($($arg:ident),*) => $call:expr;)*) => {$(
            #[inline(always)]
            fn $name(self, $($arg: Self),*) -> Self {
                let call = $call;
                // SAFETY: there is a value of the type, so the processor has its instructions.
                unsafe { Self(call(self.0, $($arg.0),*), call(self.1, $($arg.1),*)) }
            }
        )*};
    }

    impl Vector for Avx2 {
        #[inline(always)]
        fn prefetch(p: *const f32) {
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }

        avx2! {
            mul_add(a, b) => _mm256_fmadd_ps;
            add(other) => _mm256_add_ps;
            sub(other) => _mm256_sub_ps;
            mul(other) => _mm256_mul_ps;
            max(other) => _mm256_max_ps;
            min(other) => _mm256_min_ps;
            round() => _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>;
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller says that the processor has AVX2.
            unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        }

        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: the caller says so of the processor and of 16 floats at `p`.
            unsafe { Self(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
        }

        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: the caller says that 16 floats are writable.
            unsafe {
                _mm256_storeu_ps(p, self.0);
                _mm256_storeu_ps(p.add(8), self.1);
            }
        }

        #[inline(always)]
        unsafe fn load_first(p: *const f32, count: usize) -> Self {
            let mut lanes = [0.0f32; 16];
            // SAFETY: the caller says that `count` floats are readable, and it is at most 16.
            unsafe {
                std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), count.min(16));
                Self::load(lanes.as_ptr())
            }
        }

        #[inline(always)]
        unsafe fn store_first(self, p: *mut f32, count: usize) {
            let mut lanes = [0.0f32; 16];
            // SAFETY: the caller says that `count` floats are writable, and it is at most 16.
            unsafe {
                self.store(lanes.as_mut_ptr());
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, count.min(16));
            }
        }

        #[inline(always)]
        fn transpose(rows: [Self; 16]) -> [Self; 16] {
            let mut lanes = [[0.0f32; 16]; 16];
            for (i, row) in rows.iter().enumerate() {
                let mut values = [0.0f32; 16];
                // SAFETY: 16 floats are writable.
                unsafe { row.store(values.as_mut_ptr()) };
                for (lanes, x) in lanes.iter_mut().zip(values) {
                    lanes[i] = x;
                }
            }
            // SAFETY: there is a value of the type, so the processor has its instructions, and 16
            // floats are readable.
            lanes.map(|lanes| unsafe { Self::load(lanes.as_ptr()) })
        }

        #[inline(always)]
        fn scale(self, n: Self) -> Self {
            // SAFETY: there is a value of the type, so the processor has its instructions.
            let half = |x, n| unsafe {
                let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent))
            };
            Self(half(self.0, n.0), half(self.1, n.1))
        }

        #[inline(always)]
        fn reciprocal(self) -> Self {
            // SAFETY: there is a value of the type, so the processor has its instructions.
            let half = |x| unsafe { _mm256_div_ps(_mm256_set1_ps(1.0), x) };
            Self(half(self.0), half(self.1))
        }
    }
}
