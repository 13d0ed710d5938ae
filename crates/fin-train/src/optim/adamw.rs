//! Adam with decoupled weight decay.

use burn::tensor::Tensor;
use fin_core::Result;
use fin_core::kernels::optimizer::{AdamStep, adam};
use serde::{Deserialize, Serialize};

use super::{Rule, Step, share};
use crate::registry::{self, Options};

/// Adam whose weight decay takes a share of the weights themselves (Loshchilov and Hutter 2019,
/// algorithm 2), with the order of operations of `torch.optim.AdamW`. Weight decay of 0.01 unless told
/// otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the latter.
    pub eps: f64,
}

impl Default for AdamW {
    /// Those of PyTorch.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
        }
    }
}

impl AdamW {
    pub(super) fn from_options(name: &str, options: &Options) -> Result<Self> {
        let made: Self = registry::parse(name, options)?;
        share("beta1", made.beta1)?;
        share("beta2", made.beta2)?;
        super::not_negative("eps", made.eps)?;
        Ok(made)
    }

    /// A step whose weight decay is the decoupled one.
    pub(super) fn step(
        &self,
        values: Tensor<1>,
        gradient: Tensor<1>,
        state: Vec<Tensor<1>>,
        step: &Step<'_>,
    ) -> (Tensor<1>, Vec<Tensor<1>>) {
        let correction = |beta: f64| 1.0 - beta.powf(step.number as f64);
        let factors = AdamStep {
            gradient_scale: step.gradient_scale,
            beta1: self.beta1,
            beta2: self.beta2,
            root_scale: correction(self.beta2).sqrt().recip(),
            eps: self.eps,
            keep: 1.0 - step.learning_rate * step.weight_decay,
            rate: step.learning_rate / correction(self.beta1),
        };
        let mut state = state.into_iter();
        let mut next = || state.next().unwrap_or_else(|| gradient.zeros_like());
        let (mean, squares) = (next(), next());
        let [values, mean, squares] = adam(values, gradient, mean, squares, &factors);
        (values, vec![mean, squares])
    }
}

/// The names of Adam's running means.
pub(super) fn means(shape: &[usize]) -> Vec<(&'static str, usize)> {
    let size = shape.iter().product();
    vec![("exp_avg", size), ("exp_avg_sq", size)]
}

impl Rule for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn weight_decay(&self) -> f64 {
        0.01
    }

    fn state(&self, shape: &[usize]) -> Vec<(&'static str, usize)> {
        means(shape)
    }

    fn update(
        &self,
        values: Tensor<1>,
        gradient: Tensor<1>,
        state: Vec<Tensor<1>>,
        step: &Step<'_>,
    ) -> (Tensor<1>, Vec<Tensor<1>>) {
        self.step(values, gradient, state, step)
    }
}
