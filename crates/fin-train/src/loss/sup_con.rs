//! Supervised contrastive learning.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;

/// For every anchor the mean over its positives `p` of `−log(exp(s(a, p)/t) / Σ_i exp(s(a, i)/t))`,
/// `i` running over its positives and negatives; the mean over the anchors above zero (Khosla et
/// al. 2020, "Supervised contrastive learning", equation 2; `SupConLoss` of
/// pytorch-metric-learning). `s` is the cosine and `t` the temperature. A batch without positive or
/// without negative pairs has loss 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupConLoss {
    temperature: f64,
}

impl Default for SupConLoss {
    /// Temperature 0.1.
    fn default() -> Self {
        Self { temperature: 0.1 }
    }
}

impl SupConLoss {
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

impl LabelledLoss for SupConLoss {
    const NAME: &'static str = "sup_con";

    fn validate(&self) -> Result<()> {
        ops::positive("temperature", self.temperature)?;
        Ok(())
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let pairs = batch.pair_masks();
        if pairs.positives == 0 || pairs.negatives == 0 {
            return batch.zero();
        }
        let logits = batch.cosines().div_scalar(self.temperature);
        let all = pairs.positive.clone() + pairs.negative;
        let log_probability = logits.clone() - ops::masked_logsumexp(logits, &all, false);
        let number = pairs.positive.clone().sum_dim(1).clamp_min(1.0);
        let losses = (log_probability * pairs.positive).sum_dim(1).neg() / number;
        let each = losses.ones_like();
        ops::mean_above_zero(losses, each)
    }
}
