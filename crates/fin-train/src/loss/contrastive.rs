//! Positive pairs pulled together, negative pairs pushed beyond a margin.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::PairCounts;
use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;
use burn::tensor::activation::relu;

/// Over positive pairs the mean of `max(d − pos_margin, 0)`, plus over negative pairs the mean of
/// `max(neg_margin − d, 0)`, each over those above zero (Hadsell et al. 2006, "Dimensionality
/// reduction by learning an invariant mapping", without the squares; `ContrastiveLoss` of
/// pytorch-metric-learning). `d` is the Euclidean distance of vectors scaled to unit length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContrastiveLoss {
    pos_margin: f64,
    neg_margin: f64,
}

impl Default for ContrastiveLoss {
    /// Margins of 0 and 1.
    fn default() -> Self {
        Self {
            pos_margin: 0.0,
            neg_margin: 1.0,
        }
    }
}

impl ContrastiveLoss {
    /// With these margins.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(pos_margin: f64, neg_margin: f64) -> Result<Self> {
        let made = Self {
            pos_margin,
            neg_margin,
        };
        made.validate()?;
        Ok(made)
    }
}

impl LabelledLoss for ContrastiveLoss {
    const NAME: &'static str = "contrastive";

    fn validate(&self) -> Result<()> {
        ops::finite("pos_margin", self.pos_margin)?;
        ops::finite("neg_margin", self.neg_margin)?;
        Ok(())
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let (d, pairs) = (batch.distances(), batch.pairs());
        contrast(d, pairs, self.pos_margin, self.neg_margin)
    }
}

/// The loss over a matrix of distances.
pub(super) fn contrast(
    d: Tensor<2>,
    pairs: PairCounts,
    pos_margin: f64,
    neg_margin: f64,
) -> Tensor<1> {
    let near = relu(d.clone().sub_scalar(pos_margin));
    let far = relu(d.neg().add_scalar(neg_margin));
    ops::mean_above_zero(near, pairs.positive) + ops::mean_above_zero(far, pairs.negative)
}
