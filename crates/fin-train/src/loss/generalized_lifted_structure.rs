//! Lifted structure over all positives and negatives of an anchor.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;
use burn::tensor::activation::relu;

/// The mean over anchors of `max(log Σ_p exp(d(a, p) − pos_margin) + log Σ_n exp(neg_margin − d(a,
/// n)), 0)` (Hermans et al. 2017, "In defense of the triplet loss", equation 7;
/// `GeneralizedLiftedStructureLoss` of pytorch-metric-learning). `d` is the Euclidean distance of
/// vectors scaled to unit length; the logarithm of an empty sum counts as 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneralizedLiftedStructureLoss {
    neg_margin: f64,
    pos_margin: f64,
}

impl Default for GeneralizedLiftedStructureLoss {
    /// Margins of 1 and 0.
    fn default() -> Self {
        Self {
            neg_margin: 1.0,
            pos_margin: 0.0,
        }
    }
}

impl GeneralizedLiftedStructureLoss {
    /// With these margins of negative and positive pairs.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(neg_margin: f64, pos_margin: f64) -> Result<Self> {
        let made = Self {
            neg_margin,
            pos_margin,
        };
        made.validate()?;
        Ok(made)
    }
}

impl LabelledLoss for GeneralizedLiftedStructureLoss {
    const NAME: &'static str = "generalized_lifted_structure";

    fn validate(&self) -> Result<()> {
        ops::finite("neg_margin", self.neg_margin)?;
        ops::finite("pos_margin", self.pos_margin)?;
        Ok(())
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let (d, pairs) = (batch.distances(), batch.pair_masks());
        let near = d.clone().sub_scalar(self.pos_margin);
        let far = d.neg().add_scalar(self.neg_margin);
        let near = ops::masked_logsumexp(near, &pairs.positive, false);
        let far = ops::masked_logsumexp(far, &pairs.negative, false);
        relu(near + far).mean()
    }
}
