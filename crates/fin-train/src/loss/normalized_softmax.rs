//! Softmax over cosines with class vectors.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::LabelledBatch;
use super::ops;
use super::proxies::{self, Initial, ProxyLoss};

/// Cross-entropy of logits `cos θ / temperature` (Zhai and Wu 2019, "Classification is a strong
/// baseline for deep metric learning", equation 2; `NormalizedSoftmaxLoss` of
/// pytorch-metric-learning). The class vectors are the columns of `W` `[dim, classes]` and begin as
/// normal numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NormalizedSoftmaxLoss {
    temperature: f64,
}

impl Default for NormalizedSoftmaxLoss {
    /// Temperature 0.05.
    fn default() -> Self {
        Self { temperature: 0.05 }
    }
}

impl NormalizedSoftmaxLoss {
    /// With this temperature.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(temperature: f64) -> Result<Self> {
        let made = Self { temperature };
        made.validate()?;
        Ok(made)
    }
}

impl ProxyLoss for NormalizedSoftmaxLoss {
    const NAME: &'static str = "normalized_softmax";
    const WEIGHT: &'static str = "W";

    fn validate(&self) -> Result<()> {
        ops::positive("temperature", self.temperature)?;
        Ok(())
    }

    fn initial(&self, classes: usize, dim: usize) -> ([usize; 2], Initial) {
        ([dim, classes], Initial::Normal(1.0))
    }

    fn compute(&self, weight: Tensor<2>, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let temperature = self.temperature;
        proxies::large_margin_softmax(
            weight,
            batch,
            |cosine| cosine,
            |logits| logits.div_scalar(temperature),
        )
    }
}
