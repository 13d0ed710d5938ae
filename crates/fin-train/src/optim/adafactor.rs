//! Adafactor.

use burn::tensor::Tensor;
use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Rule, Step, not_negative, share};
use crate::registry::{self, Options};

/// Steps scaled by running means of squared gradients, of which a matrix keeps the rows' and the columns'
/// alone (Shazeer and Stern 2018; `Adafactor` of transformers at a given learning rate,
/// `relative_step=False`). The state of a matrix `[n, m]` is `n + m` numbers. Weight decay is decoupled;
/// none unless told otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adafactor {
    /// Added to squared gradients. Default: 1e-30.
    pub eps: f64,
    /// Smallest size of a parameter that `scale_parameter` goes by. Default: 1e-3.
    pub min_scale: f64,
    /// Largest root mean square of a step before the learning rate. Default: 1.
    pub clip_threshold: f64,
    /// The running means forget at `1 − tᵈ` after `t` steps. Default: −0.8.
    pub decay_rate: f64,
    /// Decay of a running mean of steps; none unless given.
    pub beta1: Option<f64>,
    /// Whether the learning rate is multiplied by the root mean square of the parameter. Default: no,
    /// as the `Trainer` of transformers has it.
    pub scale_parameter: bool,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self {
            eps: 1e-30,
            min_scale: 1e-3,
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: None,
            scale_parameter: false,
        }
    }
}

impl Adafactor {
    pub(super) fn from_options(name: &str, options: &Options) -> Result<Self> {
        let made: Self = registry::parse(name, options)?;
        not_negative("eps", made.eps)?;
        not_negative("min_scale", made.min_scale)?;
        if !(made.clip_threshold > 0.0 && made.clip_threshold.is_finite()) {
            let reason = format!("{} is not a positive number", made.clip_threshold);
            return Err(Error::argument("clip_threshold", reason));
        }
        if !(made.decay_rate < 0.0 && made.decay_rate.is_finite()) {
            let reason = format!("{} is not a number below 0", made.decay_rate);
            return Err(Error::argument("decay_rate", reason));
        }
        if let Some(beta1) = made.beta1 {
            share("beta1", beta1)?;
        }
        Ok(made)
    }
}

/// A tensor's shape as matrices one after the other, where it has two axes or more.
fn matrices(shape: &[usize]) -> Option<[usize; 3]> {
    match shape {
        [outer @ .., rows, columns] => Some([outer.iter().product(), *rows, *columns]),
        _ => None,
    }
}

/// Root mean square of all values: `[1]`.
fn root_mean_square(x: Tensor<1>) -> Tensor<1> {
    (x.clone() * x).mean().sqrt()
}

impl Rule for Adafactor {
    fn name(&self) -> &'static str {
        "adafactor"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn state(&self, shape: &[usize]) -> Vec<(&'static str, usize)> {
        let size = shape.iter().product();
        let mut state = match matrices(shape) {
            Some([outer, rows, columns]) => vec![
                ("exp_avg_sq_row", outer * rows),
                ("exp_avg_sq_col", outer * columns),
            ],
            None => vec![("exp_avg_sq", size)],
        };
        if self.beta1.is_some() {
            state.push(("exp_avg", size));
        }
        state
    }

    fn update(
        &self,
        values: Tensor<1>,
        gradient: Tensor<1>,
        state: Vec<Tensor<1>>,
        step: &Step<'_>,
    ) -> (Tensor<1>, Vec<Tensor<1>>) {
        let gradient = step.scaled(gradient);
        let size = gradient.dims()[0];
        let beta2 = 1.0 - (step.number as f64).powf(self.decay_rate);
        let squares = (gradient.clone() * gradient.clone()).add_scalar(self.eps);
        let mean =
            |old: Tensor<1>, new: Tensor<1>| old.mul_scalar(beta2) + new.mul_scalar(1.0 - beta2);
        let mut state = state.into_iter();
        let mut next = |size: usize| {
            let zeros = || Tensor::zeros([size], &gradient.device());
            state.next().unwrap_or_else(zeros)
        };
        let (update, mut kept) = match matrices(step.shape) {
            Some([outer, rows, columns]) => {
                let squares: Tensor<3> = squares.reshape([outer, rows, columns]);
                let by_row = squares.clone().mean_dim(2).reshape([outer * rows]);
                let by_column = squares.mean_dim(1).reshape([outer * columns]);
                let by_row = mean(next(outer * rows), by_row);
                let by_column = mean(next(outer * columns), by_column);
                let r: Tensor<3> = by_row.clone().reshape([outer, rows, 1]);
                let r = (r.clone() / r.mean_dim(1)).sqrt().recip();
                let c: Tensor<3> = by_column.clone().reshape([outer, 1, columns]);
                let factor = (r * c.sqrt().recip()).reshape([size]);
                (factor * gradient.clone(), vec![by_row, by_column])
            }
            None => {
                let squares = mean(next(size), squares);
                (
                    squares.clone().sqrt().recip() * gradient.clone(),
                    vec![squares],
                )
            }
        };
        let excess = root_mean_square(update.clone())
            .div_scalar(self.clip_threshold)
            .clamp_min(1.0);
        let rate = match self.scale_parameter {
            true => root_mean_square(values.clone())
                .clamp_min(self.min_scale)
                .mul_scalar(step.learning_rate),
            false => Tensor::full([1], step.learning_rate, &values.device()),
        };
        let mut update = update / excess * rate.clone();
        if let Some(beta1) = self.beta1 {
            let old = next(size);
            update = old.mul_scalar(beta1) + update.mul_scalar(1.0 - beta1);
            kept.push(update.clone());
        }
        let values = match step.weight_decay {
            0.0 => values,
            decay => values.clone() - values * rate.mul_scalar(decay),
        };
        (values - update, kept)
    }
}
