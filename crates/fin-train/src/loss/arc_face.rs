//! Softmax over angles to class vectors, with a margin added to the own angle.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::LabelledBatch;
use super::ops;
use super::proxies::{self, Initial, ProxyLoss};

/// Cross-entropy of logits `scale · cos θ`, where `cos(θ + margin)` stands for the cosine of the
/// item's own class (Deng et al. 2019, "ArcFace", equation 3; `ArcFaceLoss` of
/// pytorch-metric-learning). Beyond `180° − margin`, where that would rise again, `cos θ − margin ·
/// sin(margin)` stands for it. `margin` is in degrees.
///
/// The class vectors are the columns of `W` `[dim, classes]` and begin as normal numbers. Where an
/// item is parallel to its class's vector no gradient flows through the sine, where the reference's
/// is infinite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArcFaceLoss {
    margin: f64,
    scale: f64,
}

impl Default for ArcFaceLoss {
    /// 28.6 degrees, scale 64.
    fn default() -> Self {
        Self {
            margin: 28.6,
            scale: 64.0,
        }
    }
}

impl ArcFaceLoss {
    /// With this margin in degrees and this scale.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(margin: f64, scale: f64) -> Result<Self> {
        let made = Self { margin, scale };
        made.validate()?;
        Ok(made)
    }
}

impl ProxyLoss for ArcFaceLoss {
    const NAME: &'static str = "arc_face";
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
        let margin = self.margin.to_radians();
        let (sin, cos) = margin.sin_cos();
        let own = |cosine: Tensor<2>| {
            let cosine = cosine.clamp(-1.0, 1.0);
            let added = cosine.clone().mul_scalar(cos) - ops::sine(cosine.clone()).mul_scalar(sin);
            let beyond = cosine.clone().detach().lower_elem(-cos);
            added.mask_where(beyond, cosine.sub_scalar(margin * sin))
        };
        proxies::large_margin_softmax(weight, batch, own, |logits| logits.mul_scalar(self.scale))
    }
}
