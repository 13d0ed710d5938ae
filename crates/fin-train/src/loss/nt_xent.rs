//! Cross-entropy of every positive pair against the anchor's negatives.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;

/// Over positive pairs `(a, p)` the mean of `−log(exp(s(a, p)/t) / (exp(s(a, p)/t) + Σ_n exp(s(a,
/// n)/t)))` with the negatives `n` of the anchor, `s` being the cosine and `t` the temperature
/// (Chen et al. 2020, "SimCLR", equation 1, which names it NT-Xent; `NTXentLoss` of
/// pytorch-metric-learning). A batch without positive or without negative pairs has loss 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NtXentLoss {
    temperature: f64,
}

impl Default for NtXentLoss {
    /// Temperature 0.07.
    fn default() -> Self {
        Self { temperature: 0.07 }
    }
}

impl NtXentLoss {
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

impl LabelledLoss for NtXentLoss {
    const NAME: &'static str = "nt_xent";

    fn validate(&self) -> Result<()> {
        ops::positive("temperature", self.temperature)?;
        Ok(())
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let pairs = batch.pairs();
        if pairs.positives == 0 || pairs.negatives == 0 {
            return batch.zero();
        }
        let logits = batch.cosines().div_scalar(self.temperature);
        ops::softmax_over_negatives(logits.clone(), logits, &pairs)
    }
}
