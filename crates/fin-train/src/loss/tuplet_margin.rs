//! Positive pairs with a slack angle against all negatives of the anchor.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;

/// Over positive pairs the mean of `log(1 + Σ_n exp(scale (cos θ(a, n) − cos(θ(a, p) − margin))))`
/// (Yu and Tao 2019, "Deep metric learning with tuplet margin loss", equation 5; `TupletMarginLoss`
/// of pytorch-metric-learning). `margin` is in degrees. Where a pair is parallel no gradient flows
/// through its sine, where the reference's is infinite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TupletMarginLoss {
    margin: f64,
    scale: f64,
}

impl Default for TupletMarginLoss {
    /// 5.73 degrees, scale 64.
    fn default() -> Self {
        Self {
            margin: 5.73,
            scale: 64.0,
        }
    }
}

impl TupletMarginLoss {
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

impl LabelledLoss for TupletMarginLoss {
    const NAME: &'static str = "tuplet_margin";

    fn validate(&self) -> Result<()> {
        ops::finite("margin", self.margin)?;
        ops::positive("scale", self.scale)?;
        Ok(())
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let pairs = batch.pairs();
        if pairs.positives == 0 || pairs.negatives == 0 {
            return batch.zero();
        }
        let cosine = batch.cosines();
        let (sin, cos) = self.margin.to_radians().sin_cos();
        let eased = cosine.clone().mul_scalar(cos) + ops::sine(cosine.clone()).mul_scalar(sin);
        let scaled = |x: Tensor<2>| x.mul_scalar(self.scale);
        ops::softmax_over_negatives(scaled(eased), scaled(cosine), &pairs)
    }
}
