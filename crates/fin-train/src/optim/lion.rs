//! Lion.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::{Rule, Step, share};
use crate::registry::{self, Options};

/// Steps of one size in every component, by the sign of a running mean of gradients (Chen et al. 2023,
/// "Symbolic discovery of optimization algorithms", algorithm 2; `Lion` of lion-pytorch). The paper takes
/// a learning rate 3 to 10 times smaller than AdamW's. Weight decay is decoupled; none unless told
/// otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lion {
    /// Share of the running mean in the direction of a step.
    pub beta1: f64,
    /// Decay of the running mean.
    pub beta2: f64,
}

impl Default for Lion {
    /// Those of the paper.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.99,
        }
    }
}

impl Lion {
    pub(super) fn from_options(name: &str, options: &Options) -> Result<Self> {
        let made: Self = registry::parse(name, options)?;
        share("beta1", made.beta1)?;
        share("beta2", made.beta2)?;
        Ok(made)
    }
}

impl Rule for Lion {
    fn name(&self) -> &'static str {
        "lion"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn state(&self, shape: &[usize]) -> Vec<(&'static str, usize)> {
        vec![("exp_avg", shape.iter().product())]
    }

    fn update(
        &self,
        values: Tensor<1>,
        gradient: Tensor<1>,
        state: Vec<Tensor<1>>,
        step: &Step<'_>,
    ) -> (Tensor<1>, Vec<Tensor<1>>) {
        let gradient = step.scaled(gradient);
        let mean = state
            .into_iter()
            .next()
            .unwrap_or_else(|| gradient.zeros_like());
        let direction = (mean.clone().mul_scalar(self.beta1)
            + gradient.clone().mul_scalar(1.0 - self.beta1))
        .sign();
        let mean = mean.mul_scalar(self.beta2) + gradient.mul_scalar(1.0 - self.beta2);
        let kept = values.mul_scalar(1.0 - step.learning_rate * step.weight_decay);
        (kept - direction.mul_scalar(step.learning_rate), vec![mean])
    }
}
