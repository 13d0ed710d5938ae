//! Distances on either side of a boundary.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;
use burn::tensor::activation::relu;

/// Over triplets `max(d(a, p) − beta + margin, 0) + max(beta − d(a, n) + margin, 0)`, the sum being
/// divided by the number of terms above zero (Wu et al. 2017, "Sampling matters in deep embedding
/// learning", section 4; `MarginLoss` of pytorch-metric-learning with a fixed `beta`). `d` is the
/// Euclidean distance of vectors scaled to unit length. The paper selects triplets with the miner
/// `distance_weighted`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MarginLoss {
    margin: f64,
    beta: f64,
}

impl Default for MarginLoss {
    /// Margin 0.2 around 1.2.
    fn default() -> Self {
        Self {
            margin: 0.2,
            beta: 1.2,
        }
    }
}

impl MarginLoss {
    /// With this margin around this boundary.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(margin: f64, beta: f64) -> Result<Self> {
        let made = Self { margin, beta };
        made.validate()?;
        Ok(made)
    }
}

impl LabelledLoss for MarginLoss {
    const NAME: &'static str = "margin";

    fn validate(&self) -> Result<()> {
        ops::finite("margin", self.margin)?;
        ops::finite("beta", self.beta)?;
        Ok(())
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let (d, pairs) = (batch.distances(), batch.pairs_in_triplets());
        let near = relu(d.clone().add_scalar(self.margin - self.beta));
        let far = relu(d.neg().add_scalar(self.margin + self.beta));
        let above = |losses: &Tensor<2>, counts: &Tensor<2>| {
            (losses.clone().detach().greater_elem(0.0).float() * counts.clone()).sum()
        };
        let number = above(&near, &pairs.positive) + above(&far, &pairs.negative);
        ((near * pairs.positive).sum() + (far * pairs.negative).sum()) / number.clamp_min(1.0)
    }
}
