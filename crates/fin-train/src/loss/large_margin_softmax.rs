//! Softmax over dot products with class vectors, the own angle being multiplied.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::LabelledBatch;
use super::ops;
use super::proxies::{self, Initial, ProxyLoss};
use super::sphere_face::multiplied_angle;
use fin_core::Error;

/// Cross-entropy of logits `scale · ‖w‖ · ‖x‖ · cos θ`, where `(−1)^k cos(margin · θ) − 2k` with `k
/// = ⌊margin · θ / π⌋` stands for the cosine of the item's own class (Liu et al. 2016,
/// "Large-margin softmax loss for convolutional neural networks", equation 6;
/// `LargeMarginSoftmaxLoss` of pytorch-metric-learning). The class vectors `w` are the columns of
/// `W` `[dim, classes]` and begin as normal numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LargeMarginSoftmaxLoss {
    margin: usize,
    scale: f64,
}

impl Default for LargeMarginSoftmaxLoss {
    /// Factor 4, scale 1.
    fn default() -> Self {
        Self {
            margin: 4,
            scale: 1.0,
        }
    }
}

impl LargeMarginSoftmaxLoss {
    /// With this factor of the angle and this scale.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(margin: usize, scale: f64) -> Result<Self> {
        let made = Self { margin, scale };
        made.validate()?;
        Ok(made)
    }
}

impl ProxyLoss for LargeMarginSoftmaxLoss {
    const NAME: &'static str = "large_margin_softmax";
    const WEIGHT: &'static str = "W";

    fn validate(&self) -> Result<()> {
        if self.margin == 0 {
            let reason = "0 is too small; 1 or more are needed";
            return Err(Error::argument("margin", reason));
        }
        ops::positive("scale", self.scale)?;
        Ok(())
    }

    fn initial(&self, classes: usize, dim: usize) -> ([usize; 2], Initial) {
        ([dim, classes], Initial::Normal(1.0))
    }

    fn compute(&self, weight: Tensor<2>, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let norms = ops::row_norms(batch.embeddings());
        let lengths = ops::row_norms(weight.clone().transpose()).transpose();
        proxies::large_margin_softmax(
            weight,
            batch,
            |cosine| multiplied_angle(cosine, self.margin),
            |logits| (logits * norms * lengths).mul_scalar(self.scale),
        )
    }
}
