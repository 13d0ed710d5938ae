//! Softmax over angles to class vectors, the own angle being multiplied.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::LabelledBatch;
use super::ops;
use super::proxies::{self, Initial, ProxyLoss};
use fin_core::Error;
use std::f64::consts::PI;

/// Cross-entropy of logits `scale · ‖x‖ · cos θ`, where `(−1)^k cos(margin · θ) − 2k` with `k =
/// ⌊margin · θ / π⌋` stands for the cosine of the item's own class (Liu et al. 2017, "SphereFace",
/// equation 7; `SphereFaceLoss` of pytorch-metric-learning). The class vectors are the columns of
/// `W` `[dim, classes]`, count by their direction alone, and begin as normal numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SphereFaceLoss {
    margin: usize,
    scale: f64,
}

impl Default for SphereFaceLoss {
    /// Factor 4, scale 1.
    fn default() -> Self {
        Self {
            margin: 4,
            scale: 1.0,
        }
    }
}

impl SphereFaceLoss {
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

impl ProxyLoss for SphereFaceLoss {
    const NAME: &'static str = "sphere_face";
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
        proxies::large_margin_softmax(
            weight,
            batch,
            |cosine| multiplied_angle(cosine, self.margin),
            |logits| (logits * norms).mul_scalar(self.scale),
        )
    }
}

/// `(−1)^k cos(margin · θ) − 2k` with `k = ⌊margin · θ / π⌋`, a falling function of `θ`, of
/// cosines `[batch, 1]`. Multiples of the angle are by Chebyshev's recurrence, which needs no
/// arc cosine and has a finite gradient everywhere; `k` has none.
pub(super) fn multiplied_angle(cosine: Tensor<2>, margin: usize) -> Tensor<2> {
    let (mut before, mut multiple) = (cosine.ones_like(), cosine.clone());
    for _ in 1..margin {
        let next = (cosine.clone() * multiple.clone()).mul_scalar(2.0) - before;
        (before, multiple) = (multiple, next);
    }
    let angle = cosine.detach().clamp(-1.0, 1.0).acos();
    let k = angle.mul_scalar(margin as f64 / PI).floor();
    let odd = k.clone() - k.clone().div_scalar(2.0).floor().mul_scalar(2.0);
    let sign = odd.mul_scalar(-2.0).add_scalar(1.0);
    sign * multiple - k.mul_scalar(2.0)
}
