//! Pairs weighted by how far they are from their optimum.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;
use burn::tensor::activation::relu;

/// For every anchor `log(1 + Σ_n exp(gamma α_n (s_n − m)) · Σ_p exp(−gamma α_p (s_p − 1 + m)))`
/// with `α_p = max(1 + m − s_p, 0)` and `α_n = max(s_n + m, 0)`, through which no gradient flows;
/// the mean over the anchors above zero that have both kinds of pairs (Sun et al. 2020, "Circle
/// loss", equations 6 to 8; `CircleLoss` of pytorch-metric-learning). `s` is the cosine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CircleLoss {
    m: f64,
    gamma: f64,
}

impl Default for CircleLoss {
    /// Relaxation 0.4, scale 80, the paper's for retrieval.
    fn default() -> Self {
        Self {
            m: 0.4,
            gamma: 80.0,
        }
    }
}

impl CircleLoss {
    /// With this relaxation and scale.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(m: f64, gamma: f64) -> Result<Self> {
        let made = Self { m, gamma };
        made.validate()?;
        Ok(made)
    }
}

impl LabelledLoss for CircleLoss {
    const NAME: &'static str = "circle";

    fn validate(&self) -> Result<()> {
        ops::finite("m", self.m)?;
        ops::positive("gamma", self.gamma)?;
        Ok(())
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let (s, pairs) = (batch.cosines(), batch.pair_masks());
        let fixed = s.clone().detach();
        let weight = relu(fixed.clone().neg().add_scalar(1.0 + self.m));
        let near = (weight * s.clone().sub_scalar(1.0 - self.m)).mul_scalar(-self.gamma);
        let weight = relu(fixed.add_scalar(self.m));
        let far = (weight * s.sub_scalar(self.m)).mul_scalar(self.gamma);
        let both = ops::any_in_row(&pairs.positive) * ops::any_in_row(&pairs.negative);
        let near = ops::masked_logsumexp(near, &pairs.positive, false);
        let far = ops::masked_logsumexp(far, &pairs.negative, false);
        let losses = ops::softplus(near + far) * both.clone();
        ops::mean_above_zero(losses, both)
    }
}
