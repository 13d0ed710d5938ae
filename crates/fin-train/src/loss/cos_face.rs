//! Softmax over cosines with class vectors, with a margin taken off the own cosine.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::LabelledBatch;
use super::ops;
use super::proxies::{self, Initial, ProxyLoss};

/// Cross-entropy of logits `scale · cos θ`, where `cos θ − margin` stands for the cosine of the
/// item's own class (Wang et al. 2018, "CosFace", equation 4; `CosFaceLoss` of
/// pytorch-metric-learning). The class vectors are the columns of `W` `[dim, classes]` and begin as
/// normal numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CosFaceLoss {
    margin: f64,
    scale: f64,
}

impl Default for CosFaceLoss {
    /// Margin 0.35, scale 64.
    fn default() -> Self {
        Self {
            margin: 0.35,
            scale: 64.0,
        }
    }
}

impl CosFaceLoss {
    /// With this margin and scale.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(margin: f64, scale: f64) -> Result<Self> {
        let made = Self { margin, scale };
        made.validate()?;
        Ok(made)
    }
}

impl ProxyLoss for CosFaceLoss {
    const NAME: &'static str = "cos_face";
    const WEIGHT: &'static str = "W";

    fn validate(&self) -> Result<()> {
        ops::finite("margin", self.margin)?;
        ops::positive("scale", self.scale)?;
        Ok(())
    }

    fn initial(&self, classes: usize, dim: usize) -> ([usize; 2], Initial) {
        ([dim, classes], Initial::Normal(1.0))
    }

    fn compute(&self, weight: Tensor<2>, batch: &LabelledBatch<'_>) -> Tensor<1> {
        proxies::large_margin_softmax(
            weight,
            batch,
            |cosine| cosine.sub_scalar(self.margin),
            |logits| logits.mul_scalar(self.scale),
        )
    }
}
