//! Positive pairs against all negatives of either item.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;
use burn::tensor::activation::relu;

/// Over positive pairs the mean of `max(log(Σ_n exp(neg_margin − d(a, n)) + Σ_n exp(neg_margin −
/// d(p, n))) + d(a, p) − pos_margin, 0)² / 2` (Oh Song et al. 2016, "Deep metric learning via
/// lifted structured feature embedding", equation 4; `LiftedStructureLoss` of
/// pytorch-metric-learning). `d` is the Euclidean distance of vectors scaled to unit length; the
/// logarithm of an empty sum counts as 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LiftedStructureLoss {
    neg_margin: f64,
    pos_margin: f64,
}

impl Default for LiftedStructureLoss {
    /// Margins of 1 and 0.
    fn default() -> Self {
        Self {
            neg_margin: 1.0,
            pos_margin: 0.0,
        }
    }
}

impl LiftedStructureLoss {
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

impl LabelledLoss for LiftedStructureLoss {
    const NAME: &'static str = "lifted_structure";

    fn validate(&self) -> Result<()> {
        ops::finite("neg_margin", self.neg_margin)?;
        ops::finite("pos_margin", self.pos_margin)?;
        Ok(())
    }

    fn refuses_memory(&self) -> Option<&'static str> {
        Some("it takes the negatives of the positive too, which the memory does not compare")
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let (d, pairs) = (batch.distances(), batch.pairs());
        if pairs.positives == 0 || pairs.negatives == 0 {
            return batch.zero();
        }
        let far = d.clone().neg().add_scalar(self.neg_margin);
        // Distances are at most 2, so that sums of exponentials need no further care.
        let far = (far.exp() * pairs.negative).sum_dim(1);
        let far = far.clone() + far.transpose();
        let none = far.clone().detach().lower_equal_elem(0.0);
        let far = far.mask_fill(none, 1.0).log();
        let losses = relu(far + d.sub_scalar(self.pos_margin)).square();
        (losses * pairs.positive)
            .sum()
            .div_scalar(2.0 * pairs.positives as f64)
    }
}
