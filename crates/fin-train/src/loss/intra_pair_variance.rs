//! Similarities of either kind of pairs close to their mean.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;
use burn::tensor::activation::relu;

/// Over positive pairs the mean of `max((1 − pos_eps) μ_p − s, 0)²`, plus over negative pairs that
/// of `max(s − (1 + neg_eps) μ_n, 0)²`, `μ` being the mean similarity of the kind (Yu and Tao 2019,
/// "Deep metric learning with tuplet margin loss", section 3.3; `IntraPairVarianceLoss` of
/// pytorch-metric-learning). `s` is the cosine. Meant beside another loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IntraPairVarianceLoss {
    pos_eps: f64,
    neg_eps: f64,
}

impl Default for IntraPairVarianceLoss {
    /// 0.01 each.
    fn default() -> Self {
        Self {
            pos_eps: 0.01,
            neg_eps: 0.01,
        }
    }
}

impl IntraPairVarianceLoss {
    /// With these shares of the mean.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(pos_eps: f64, neg_eps: f64) -> Result<Self> {
        let made = Self { pos_eps, neg_eps };
        made.validate()?;
        Ok(made)
    }
}

impl LabelledLoss for IntraPairVarianceLoss {
    const NAME: &'static str = "intra_pair_variance";

    fn validate(&self) -> Result<()> {
        ops::finite("pos_eps", self.pos_eps)?;
        ops::finite("neg_eps", self.neg_eps)?;
        Ok(())
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let (s, pairs) = (batch.cosines(), batch.pairs());
        let mean = |x: Tensor<2>, counts: &Tensor<2>, number: usize| {
            (x * counts.clone()).sum().div_scalar(number.max(1) as f64)
        };
        let near = mean(s.clone(), &pairs.positive, pairs.positives).mul_scalar(1.0 - self.pos_eps);
        let far = mean(s.clone(), &pairs.negative, pairs.negatives).mul_scalar(1.0 + self.neg_eps);
        let near = relu(near.reshape([1, 1]) - s.clone()).square();
        let far = relu(s - far.reshape([1, 1])).square();
        mean(near, &pairs.positive, pairs.positives) + mean(far, &pairs.negative, pairs.negatives)
    }
}
