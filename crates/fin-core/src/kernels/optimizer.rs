//! What an optimiser does to every element of a parameter, in one pass over memory on `flex`.
//!
//! The fast form does the portable one's operations in its order, each rounded to f32, so that the two
//! have the same bits.

use burn::tensor::Tensor;
#[cfg(feature = "flex")]
use rayon::prelude::*;

/// The sum of the squares of all values: `[1]`.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if super::is_fast(&x) {
        let device = x.device();
        // Pieces of one size whatever the number of threads, so that the sum has the same bits.
        let sum = super::flex::read(x.clone(), |values| {
            let sums: Vec<f64> = values.par_chunks(1 << 14).map(squares).collect();
            sums.into_iter().sum::<f64>()
        });
        if let Some(sum) = sum {
            return Tensor::from_floats([sum as f32], &device);
        }
    }
    x.square().sum()
}

/// The sum of squares of a slice, in 32 sums side by side.
#[cfg(feature = "flex")]
fn squares(values: &[f32]) -> f64 {
    let mut sums = [0.0f32; 32];
    square_lanes(&mut sums, values);
    sums.into_iter().map(f64::from).sum()
}

#[cfg(feature = "flex")]
super::simd::multiversion! {
    /// Adds the square of value `i` to sum `i mod 32`.
    fn square_lanes(sums: &mut [f32; 32], values: &[f32]) {
        let (chunks, rest) = values.as_chunks::<32>();
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += x * x;
            }
        }
        for (sum, x) in sums.iter_mut().zip(rest) {
            *sum += x * x;
        }
    }
}

/// A step of Adam's for one parameter: what is the same for all its elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Gradients are multiplied by this first, where there is a factor.
    pub gradient_scale: Option<f64>,
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients.
    pub beta2: f64,
    /// What the root of the latter is multiplied by: `1 / √(1 − beta2ᵗ)`.
    pub root_scale: f64,
    /// Added to that root.
    pub eps: f64,
    /// What values are multiplied by: 1 less the learning rate times the weight decay.
    pub keep: f64,
    /// Learning rate over `1 − beta1ᵗ`.
    pub rate: f64,
}

/// One step of Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2) in the order
/// of operations of `torch.optim.AdamW`: values, gradient and the two running means, all `[elements]`,
/// to values and means.
pub fn adam(
    values: Tensor<1>,
    gradient: Tensor<1>,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    step: &AdamStep,
) -> [Tensor<1>; 3] {
    #[cfg(feature = "flex")]
    if [&values, &gradient, &exp_avg, &exp_avg_sq]
        .into_iter()
        .all(super::is_fast)
    {
        return fused(values, gradient, exp_avg, exp_avg_sq, step);
    }
    portable(values, gradient, exp_avg, exp_avg_sq, step)
}

fn portable(
    values: Tensor<1>,
    gradient: Tensor<1>,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    step: &AdamStep,
) -> [Tensor<1>; 3] {
    let gradient = match step.gradient_scale {
        Some(scale) => gradient.mul_scalar(scale),
        None => gradient,
    };
    let exp_avg = exp_avg.mul_scalar(step.beta1) + gradient.clone().mul_scalar(1.0 - step.beta1);
    let exp_avg_sq = exp_avg_sq.mul_scalar(step.beta2)
        + (gradient.clone() * gradient).mul_scalar(1.0 - step.beta2);
    let root = exp_avg_sq
        .clone()
        .sqrt()
        .mul_scalar(step.root_scale)
        .add_scalar(step.eps);
    let direction = exp_avg.clone() / root;
    let values = values.mul_scalar(step.keep) - direction.mul_scalar(step.rate);
    [values, exp_avg, exp_avg_sq]
}

#[cfg(feature = "flex")]
fn fused(
    values: Tensor<1>,
    gradient: Tensor<1>,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    step: &AdamStep,
) -> [Tensor<1>; 3] {
    let factors = Factors {
        gradient: step.gradient_scale.map_or(1.0, |scale| scale as f32),
        beta1: step.beta1 as f32,
        rest1: (1.0 - step.beta1) as f32,
        beta2: step.beta2 as f32,
        rest2: (1.0 - step.beta2) as f32,
        root: step.root_scale as f32,
        eps: step.eps as f32,
        keep: step.keep as f32,
        rate: step.rate as f32,
    };
    super::flex::update(
        [values, exp_avg, exp_avg_sq],
        gradient,
        |changed, gradient| {
            let [values, means, squares] = changed;
            let piece = super::flex::rows_per_task(gradient.len()).max(1 << 12);
            values
                .par_chunks_mut(piece)
                .zip(means.par_chunks_mut(piece))
                .zip(squares.par_chunks_mut(piece))
                .zip(gradient.par_chunks(piece))
                .for_each(|(((values, means), squares), gradient)| {
                    adam_rows(values, means, squares, gradient, factors);
                });
        },
    )
}

/// [`AdamStep`] in single precision.
#[cfg(feature = "flex")]
#[derive(Clone, Copy)]
struct Factors {
    gradient: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    root: f32,
    eps: f32,
    keep: f32,
    rate: f32,
}

#[cfg(feature = "flex")]
super::simd::multiversion! {
    /// The step on slices of one length.
    fn adam_rows(values: &mut [f32], means: &mut [f32], squares: &mut [f32], gradient: &[f32], f: Factors) {
        for (((x, m), v), g) in values.iter_mut().zip(means).zip(squares).zip(gradient) {
            let g = g * f.gradient;
            *m = *m * f.beta1 + g * f.rest1;
            *v = *v * f.beta2 + (g * g) * f.rest2;
            let direction = *m / (v.sqrt() * f.root + f.eps);
            *x = *x * f.keep - direction * f.rate;
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn squares_are_summed_to_rounding() {
        let device = Device::flex();
        device.seed(6);
        for len in [1, 31, 40_000] {
            let x = Tensor::<2>::random([len, 3], Distribution::Normal(0.0, 2.0), &device);
            let values: Vec<f32> = x.to_data().try_into_vec().unwrap();
            let expected: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
            // A view whose values do not lie one after the other.
            for x in [x.clone(), x.transpose()] {
                let found = f64::from(sum_of_squares(x).into_scalar::<f32>());
                assert!(
                    (found - expected).abs() < 1e-6 * expected,
                    "{found} against {expected}"
                );
            }
        }
    }

    #[test]
    fn one_pass_has_the_bits_of_many() {
        let device = Device::flex();
        device.seed(5);
        let bits = |x: &Tensor<1>| -> Vec<u32> {
            let values: Vec<f32> = x.to_data().try_into_vec().unwrap();
            values.into_iter().map(f32::to_bits).collect()
        };
        for len in [1, 7, 64, 9_001] {
            let random = |deviation| {
                Tensor::<1>::random([len], Distribution::Normal(0.0, deviation), &device)
            };
            let (mut fast, mut slow) = (random(1.0), random(1.0));
            slow = slow.clone() - slow + fast.clone();
            let mut fast_state = [fast.zeros_like(), fast.zeros_like()];
            let mut slow_state = fast_state.clone();
            for t in 1..6 {
                let gradient = random(0.1);
                let step = AdamStep {
                    gradient_scale: (t % 2 == 0).then_some(0.37),
                    beta1: 0.9,
                    beta2: 0.999,
                    root_scale: 1.0 / (1.0 - 0.999f64.powi(t)).sqrt(),
                    eps: 1e-8,
                    keep: 1.0 - 0.01 * 0.1,
                    rate: 0.01 / (1.0 - 0.9f64.powi(t)),
                };
                let before = fast.clone();
                let [m, v] = fast_state;
                let [x, m, v] = adam(fast, gradient.clone(), m, v, &step);
                (fast, fast_state) = (x, [m, v]);
                let [m, v] = slow_state;
                let [x, m, v] = portable(slow, gradient, m, v, &step);
                (slow, slow_state) = (x, [m, v]);
                assert_eq!(bits(&fast), bits(&slow), "{len}: step {t}");
                for (fast, slow) in fast_state.iter().zip(&slow_state) {
                    assert_eq!(bits(fast), bits(slow), "{len}: step {t}");
                }
                // What others hold is left alone.
                assert_ne!(bits(&fast), bits(&before), "{len}: step {t}");
            }
        }
    }
}
