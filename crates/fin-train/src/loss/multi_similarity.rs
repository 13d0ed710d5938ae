//! Soft weighting of pairs by their similarity to the others.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;

/// The mean over anchors of `1/alpha · log(1 + Σ_p exp(−alpha (s(a, p) − base))) + 1/beta · log(1 +
/// Σ_n exp(beta (s(a, n) − base)))` (Wang et al. 2019, "Multi-similarity loss with general pair
/// weighting", equation 14; `MultiSimilarityLoss` of pytorch-metric-learning). `s` is the cosine.
/// The paper selects pairs with the miner `multi_similarity`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MultiSimilarityLoss {
    alpha: f64,
    beta: f64,
    base: f64,
}

impl Default for MultiSimilarityLoss {
    /// Weights of 2 and 50, similarity 0.5.
    fn default() -> Self {
        Self {
            alpha: 2.0,
            beta: 50.0,
            base: 0.5,
        }
    }
}

impl MultiSimilarityLoss {
    /// With these weights of positive and negative pairs and this similarity between them.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(alpha: f64, beta: f64, base: f64) -> Result<Self> {
        let made = Self { alpha, beta, base };
        made.validate()?;
        Ok(made)
    }
}

impl LabelledLoss for MultiSimilarityLoss {
    const NAME: &'static str = "multi_similarity";

    fn validate(&self) -> Result<()> {
        ops::positive("alpha", self.alpha)?;
        ops::positive("beta", self.beta)?;
        ops::finite("base", self.base)?;
        Ok(())
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let (cosines, pairs) = (batch.cosines(), batch.pair_masks());
        let centred = cosines.sub_scalar(self.base);
        let near = centred.clone().mul_scalar(-self.alpha);
        let far = centred.mul_scalar(self.beta);
        let near = ops::masked_logsumexp(near, &pairs.positive, true).div_scalar(self.alpha);
        let far = ops::masked_logsumexp(far, &pairs.negative, true).div_scalar(self.beta);
        (near + far).mean()
    }
}
