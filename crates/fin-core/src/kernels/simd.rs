//! Row kernels, compiled several times for different vector widths and chosen at run time.
//!
//! Each kernel is plain scalar Rust over slices, written so that the compiler vectorises it:
//! accumulation over [`LANES`] independent sums, no branches in the inner loops, and polynomial
//! approximations of `exp` and `erfc`.

use super::Activation;
use super::blocked::vector::ROUND;

/// Independent partial sums; a multiple of the widest vector (16 floats).
const LANES: usize = 32;

/// Declares a kernel that runs with AVX-512, AVX2 or the target's base instructions, whichever is
/// the widest at hand.
macro_rules! multiversion {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) {
            /// `FMA`: whether the instructions multiply and add in one.
            #[inline(always)]
            #[allow(dead_code)]
            fn body<const FMA: bool>($($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,fma")]
                fn avx512($($arg: $ty),*) {
                    body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) {
                    body::<true>($($arg),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("fma")
                {
                    // SAFETY: the processor has just been asked for every feature enabled above.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<false>($($arg),*)
        }
    };
}

pub(super) use multiversion;

multiversion! {
    /// Adds `bias` `[width]` to every row and applies the activation, in place.
    pub(super) fn bias_activation(rows: &mut [f32], bias: Option<&[f32]>, width: usize, activation: Activation) {
        for row in rows.chunks_exact_mut(width.max(1)) {
            if let Some(bias) = bias {
                for (x, b) in row.iter_mut().zip(bias) {
                    *x += b;
                }
            }
            match activation {
                Activation::Identity => {}
                Activation::Gelu => row.iter_mut().for_each(|x| *x = gelu::<FMA>(*x)),
                Activation::GeluTanh => row.iter_mut().for_each(|x| *x = gelu_tanh::<FMA>(*x)),
                Activation::QuickGelu => row.iter_mut().for_each(|x| *x /= 1.0 + exp::<FMA>(-super::QUICK_GELU_SCALE * *x)),
                Activation::Relu => row.iter_mut().for_each(|x| *x = x.max(0.0)),
                Activation::Relu6 => row.iter_mut().for_each(|x| *x = x.clamp(0.0, 6.0)),
                Activation::Silu => row.iter_mut().for_each(|x| *x /= 1.0 + exp::<FMA>(-*x)),
                Activation::Tanh => row.iter_mut().for_each(|x| *x = tanh::<FMA>(*x)),
            }
        }
    }
}

multiversion! {
    /// `dx = dy · f′(x)` for an activation `f`.
    pub(super) fn activation_gradient(dx: &mut [f32], dy: &[f32], x: &[f32], activation: Activation) {
        let each = dx.iter_mut().zip(dy).zip(x);
        match activation {
            Activation::Identity => each.for_each(|((dx, dy), _)| *dx = *dy),
            Activation::Gelu => each.for_each(|((dx, dy), x)| *dx = dy * gelu_slope::<FMA>(*x)),
            Activation::GeluTanh => each.for_each(|((dx, dy), x)| *dx = dy * gelu_tanh_slope::<FMA>(*x)),
            Activation::QuickGelu => each.for_each(|((dx, dy), x)| {
                *dx = dy * swish_slope::<FMA>(*x, super::QUICK_GELU_SCALE);
            }),
            Activation::Relu => each.for_each(|((dx, dy), x)| {
                *dx = if *x > 0.0 { *dy } else { 0.0 };
            }),
            Activation::Relu6 => each.for_each(|((dx, dy), x)| {
                *dx = if *x > 0.0 && *x < 6.0 { *dy } else { 0.0 };
            }),
            Activation::Silu => each.for_each(|((dx, dy), x)| *dx = dy * swish_slope::<FMA>(*x, 1.0)),
            Activation::Tanh => each.for_each(|((dx, dy), x)| {
                let y = tanh::<FMA>(*x);
                *dx = dy * (1.0 - y * y);
            }),
        }
    }
}

multiversion! {
    /// Layer normalisation of every row of `rows` (plus `residual`), in place.
    pub(super) fn layer_norm(rows: &mut [f32], residual: Option<&[f32]>, weight: &[f32], bias: &[f32], eps: f32) {
        let width = weight.len();
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            if let Some(residual) = residual {
                for (x, r) in row.iter_mut().zip(&residual[i * width..(i + 1) * width]) {
                    *x += r;
                }
            }
            let mean = sum(row, |x| x) / width as f32;
            let variance = sum(row, |x| (x - mean) * (x - mean)) / width as f32;
            let scale = 1.0 / (variance + eps).sqrt();
            for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
                *x = (*x - mean) * scale * w + b;
            }
        }
    }
}

multiversion! {
    /// Root-mean-square normalisation of every row of `x` into `y`.
    pub(super) fn rms_norm(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let mean = sum(x, |x| x * x) / width as f32;
            let scale = 1.0 / (mean + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        }
    }
}

multiversion! {
    /// Softmax over every row of `scores * scale + position + bias`, in place; `bias` is as long
    /// as a row, `position` as long as `scores`.
    pub(super) fn softmax_rows(scores: &mut [f32], bias: &[f32], position: Option<&[f32]>, scale: f32) {
        let width = bias.len().max(1);
        for (i, row) in scores.chunks_exact_mut(width).enumerate() {
            if let Some(position) = position {
                for (x, p) in row.iter_mut().zip(&position[i * width..(i + 1) * width]) {
                    *x = *x * scale + p;
                }
            } else {
                row.iter_mut().for_each(|x| *x *= scale);
            }
            let mut lanes = [f32::MIN; LANES];
            let (head, tail) = row.as_chunks_mut::<LANES>();
            let (head_bias, tail_bias) = bias.as_chunks::<LANES>();
            for (chunk, bias) in head.iter_mut().zip(head_bias) {
                for ((x, b), lane) in chunk.iter_mut().zip(bias).zip(&mut lanes) {
                    *x += b;
                    *lane = if *x > *lane { *x } else { *lane };
                }
            }
            let mut max = lanes.into_iter().fold(f32::MIN, f32::max);
            for (x, b) in tail.iter_mut().zip(tail_bias) {
                *x += b;
                max = max.max(*x);
            }
            row.iter_mut().for_each(|x| *x = exp::<FMA>(*x - max));
            let norm = 1.0 / sum(row, |x| x);
            row.iter_mut().for_each(|x| *x *= norm);
        }
    }
}

multiversion! {
    /// Of scores `[keys, 32]`, in place, `exp(scores * scale + position + bias - max)`, with the largest over
    /// the keys for every lane; `bias` is as long as there are keys, `position` as long as `scores`. `shares`
    /// are what makes the sum of a lane 1.
    pub(super) fn softmax_lanes(scores: &mut [f32], bias: &[f32], position: Option<&[f32]>, scale: f32, shares: &mut [f32; LANES]) {
        let (rows, _) = scores.as_chunks_mut::<LANES>();
        let mut max = [f32::MIN; LANES];
        let positions = position.map_or(&[][..], |position| position.as_chunks::<LANES>().0);
        for (key, (row, bias)) in rows.iter_mut().zip(bias).enumerate() {
            match positions.get(key) {
                Some(position) => {
                    for (x, p) in row.iter_mut().zip(position) {
                        *x = *x * scale + p + bias;
                    }
                }
                None => row.iter_mut().for_each(|x| *x = *x * scale + bias),
            }
            for (max, x) in max.iter_mut().zip(row) {
                *max = if *x > *max { *x } else { *max };
            }
        }
        let mut sums = [0.0f32; LANES];
        for row in rows {
            for ((x, max), sum) in row.iter_mut().zip(&max).zip(&mut sums) {
                *x = exp::<FMA>(*x - max);
                *sum += *x;
            }
        }
        for (share, sum) in shares.iter_mut().zip(sums) {
            *share = 1.0 / sum;
        }
    }
}

/// The sum of `f` over a row.
#[inline(always)]
pub(super) fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    lanes.into_iter().sum::<f32>() + rest.iter().map(|x| f(*x)).sum::<f32>()
}

/// The sum of `a · f(b)` over two rows of one length.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * f(*b);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a * f(*b));
    lanes.into_iter().sum::<f32>() + rest.sum::<f32>()
}

/// `a·b + c`, rounded once where the instructions can: `f32::mul_add` without them is a call.
#[inline(always)]
fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `eˣ` to about one unit in the last place; 0 below -87.
///
/// Splits `x = n·ln 2 + r` with `|r| ≤ ln 2 / 2` and takes a polynomial of degree 6 in `r` (the
/// scheme and coefficients of the Cephes library's `expf`).
#[allow(clippy::excessive_precision)]
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    let x = x.clamp(-87.336_54, 88.376_26);
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -0.693_359_375, x);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_15e-4;
    p = fma::<FMA>(p, r, 1.398_199_950_7e-3);
    p = fma::<FMA>(p, r, 8.333_451_907_3e-3);
    p = fma::<FMA>(p, r, 4.166_579_589_4e-2);
    p = fma::<FMA>(p, r, 1.666_666_545_9e-1);
    p = fma::<FMA>(p, r, 5.000_000_120_1e-1);
    let p = fma::<FMA>(p * r, r, r) + 1.0;
    let two_to_n = f32::from_bits(
        (shifted.to_bits() as i32)
            .wrapping_shl(23)
            .wrapping_add(127 << 23) as u32,
    );
    let y = p * two_to_n;
    if x <= -87.336_54 { 0.0 } else { y }
}

/// `tanh x` from `exp`.
#[inline(always)]
fn tanh<const FMA: bool>(x: f32) -> f32 {
    // A difference of nearly equal numbers loses digits near zero, where the series is exact.
    let a = x.abs();
    let e = exp::<FMA>(-2.0 * a);
    let big = (1.0 - e) / (1.0 + e);
    let x2 = x * x;
    let small = a
        * (1.0
            + x2 * (-0.333_333_34
                + x2 * (0.133_333_33 + x2 * (-0.053_968_254 + x2 * 0.021_869_488))));
    let y = if a < 0.25 { small } else { big };
    y.copysign(x)
}

/// `erfc z` for `z ≥ 0` with a relative error of 1.2e-7 everywhere: a Chebyshev fit of
/// `ln(erfc z · eᶻ² / t)` in `t = 1 / (1 + z/2)` (Press et al., Numerical Recipes, section 6.2).
#[inline(always)]
fn erfc_positive<const FMA: bool>(z: f32) -> f32 {
    let t = 1.0 / fma::<FMA>(0.5, z, 1.0);
    let mut p = 0.170_872_77;
    p = fma::<FMA>(p, t, -0.822_152_23);
    p = fma::<FMA>(p, t, 1.488_515_9);
    p = fma::<FMA>(p, t, -1.135_204);
    p = fma::<FMA>(p, t, 0.278_868_07);
    p = fma::<FMA>(p, t, -0.186_288_06);
    p = fma::<FMA>(p, t, 0.096_784_18);
    p = fma::<FMA>(p, t, 0.374_091_96);
    p = fma::<FMA>(p, t, 1.000_023_7);
    p = fma::<FMA>(p, t, -1.265_512_2);
    t * exp::<FMA>(fma::<FMA>(-z, z, p))
}

/// `x·Φ(x)`, from the tail that `x` is on: what is added to 1 or 0 is small and exact, so that
/// large negative inputs keep their digits.
#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    let tail = 0.5 * x * erfc_positive::<FMA>(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    if x > 0.0 { x - tail } else { tail }
}

#[inline(always)]
fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh::<FMA>(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

/// The derivative of [`gelu`], `Φ(x) + x·φ(x)`.
#[inline(always)]
fn gelu_slope<const FMA: bool>(x: f32) -> f32 {
    /// `1 / √(2π)`.
    const DENSITY: f32 = 0.398_942_3;
    let tail = 0.5 * erfc_positive::<FMA>(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    let below = if x > 0.0 { 1.0 - tail } else { tail };
    below + x * DENSITY * exp::<FMA>(-0.5 * x * x)
}

/// The derivative of [`gelu_tanh`].
#[inline(always)]
fn gelu_tanh_slope<const FMA: bool>(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    // `(1 + tanh u) / 2` and what is left to one, without differences of nearly equal numbers.
    let e = exp::<FMA>(-2.0 * SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x));
    let s = 1.0 / (1.0 + e);
    let inner = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x);
    s + 2.0 * x * s * (e * s) * inner
}

/// The derivative of `x·σ(scale·x)`.
#[inline(always)]
fn swish_slope<const FMA: bool>(x: f32, scale: f32) -> f32 {
    let s = 1.0 / (1.0 + exp::<FMA>(-scale * x));
    s + scale * x * s * (1.0 - s)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `erf` in double precision by its Taylor series and, from 3 on, its continued fraction.
    fn erf_reference(x: f64) -> f64 {
        let a = x.abs();
        let y = if a < 3.0 {
            let (mut term, mut sum, mut n) = (a, a, 0.0);
            while term.abs() > 1e-18 {
                n += 1.0;
                term *= -a * a / n;
                sum += term / (2.0 * n + 1.0);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        } else {
            let mut fraction = 0.0;
            for k in (1..60).rev() {
                fraction = f64::from(k) / 2.0 / (a + fraction);
            }
            1.0 - (-a * a).exp() / (a + fraction) / std::f64::consts::PI.sqrt()
        };
        y.copysign(x)
    }

    fn grid(limit: f32) -> impl Iterator<Item = f32> {
        let steps = if cfg!(miri) { 50 } else { 20_000 };
        (-steps..=steps).map(move |i| i as f32 / steps as f32 * limit)
    }

    fn exp_is_exact<const FMA: bool>() {
        for x in grid(87.0) {
            let reference = f64::from(x).exp();
            let error = ((f64::from(exp::<FMA>(x)) - reference) / reference).abs();
            assert!(error < 2.4e-7, "exp({x}): {error}");
        }
        assert_eq!(exp::<FMA>(-1e30), 0.0);
        assert_eq!(exp::<FMA>(f32::MIN), 0.0);
        assert_eq!(exp::<FMA>(0.0), 1.0);
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        exp_is_exact::<false>();
        exp_is_exact::<true>();
    }

    fn tanh_and_gelu_are_exact<const FMA: bool>() {
        for x in grid(6.0) {
            let reference = f64::from(x).tanh();
            let error = (f64::from(tanh::<FMA>(x)) - reference).abs();
            assert!(
                error <= 3e-7 * reference.abs().max(1e-7),
                "tanh({x}): {error}"
            );
            let reference = 0.5 * f64::from(x) * (1.0 + erf_reference(f64::from(x) / 2f64.sqrt()));
            let found = gelu::<FMA>(x);
            let error = (f64::from(found) - reference).abs();
            assert!(
                error <= 2e-7 * f64::from(x.abs()),
                "gelu({x}) = {found}: {error}"
            );
        }
    }

    #[test]
    fn tanh_and_gelu_are_exact_to_rounding() {
        tanh_and_gelu_are_exact::<false>();
        tanh_and_gelu_are_exact::<true>();
    }

    #[test]
    fn slopes_are_those_of_the_functions_in_double_precision() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let gelu = |x: f64| 0.5 * x * (1.0 + erf_reference(x / 2f64.sqrt()));
        let gelu_tanh = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        };
        let quick = f64::from(super::super::QUICK_GELU_SCALE);
        let swish = |scale: f64| move |x: f64| x * sigmoid(scale * x);
        type Function = Box<dyn Fn(f64) -> f64>;
        let functions: [(Activation, Function); 8] = [
            (Activation::Identity, Box::new(|x| x)),
            (Activation::Gelu, Box::new(gelu)),
            (Activation::GeluTanh, Box::new(gelu_tanh)),
            (Activation::QuickGelu, Box::new(swish(quick))),
            (Activation::Relu, Box::new(|x: f64| x.max(0.0))),
            (Activation::Relu6, Box::new(|x: f64| x.clamp(0.0, 6.0))),
            (Activation::Silu, Box::new(swish(1.0))),
            (Activation::Tanh, Box::new(f64::tanh)),
        ];
        for (activation, f) in functions {
            // Not where a slope jumps.
            let x: Vec<f32> = grid(6.5)
                .step_by(7)
                .filter(|x| x.abs() > 1e-3 && (x - 6.0).abs() > 1e-3)
                .collect();
            let mut slopes = vec![f32::NAN; x.len()];
            activation_gradient(&mut slopes, &vec![2.0; x.len()], &x, activation);
            for (x, slope) in x.iter().zip(slopes) {
                let (x, h) = (f64::from(*x), 1e-4);
                // Of fourth order in the step.
                let difference = |h: f64| (f(x + h) - f(x - h)) / h;
                let expected = (4.0 * difference(h) - difference(2.0 * h)) / 3.0;
                let error = (f64::from(slope) - expected).abs();
                assert!(
                    error < 2e-6,
                    "{activation:?} at {x}: {slope}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn softmax_of_a_row_with_masked_keys() {
        let mut row = [1.0, 2.0, 3.0, 50.0];
        let bias = [0.0, 0.0, 0.0, super::super::MASKED_SCORE];
        softmax_rows(&mut row, &bias, None, 0.5);
        let e = [0.5f64.exp(), 1f64.exp(), 1.5f64.exp()];
        let total: f64 = e.iter().sum();
        for (x, e) in row.iter().zip(e) {
            assert!((f64::from(*x) - e / total).abs() < 1e-7);
        }
        assert_eq!(row[3], 0.0);
    }
}
