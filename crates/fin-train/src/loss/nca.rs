//! Neighbourhood components analysis.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;
use crate::miner::Mined;

/// For every item with positives, `−log` of the probability of picking one of its class, a
/// neighbour at distance `d` being picked in proportion to `exp(−softmax_scale · d²)`; the mean
/// over them (Goldberger et al. 2004, "Neighbourhood components analysis", equation 2; `NCALoss` of
/// pytorch-metric-learning). Vectors are scaled to unit length. A miner's selection weights the
/// items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NcaLoss {
    softmax_scale: f64,
}

impl Default for NcaLoss {
    /// Scale 1.
    fn default() -> Self {
        Self { softmax_scale: 1.0 }
    }
}

impl NcaLoss {
    /// With this scale.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(softmax_scale: f64) -> Result<Self> {
        let made = Self { softmax_scale };
        made.validate()?;
        Ok(made)
    }
}

impl LabelledLoss for NcaLoss {
    const NAME: &'static str = "nca";

    fn validate(&self) -> Result<()> {
        ops::positive("softmax_scale", self.softmax_scale)?;
        Ok(())
    }

    fn refuses_memory(&self) -> Option<&'static str> {
        Some("its neighbours are all others, the item itself among those of the memory")
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let all = Mined::all_pairs(batch.labels()).pairs();
        let pairs = batch.count(&all.0, &all.1);
        if pairs.positives == 0 {
            return batch.zero();
        }
        let logits = batch.squared_distances().mul_scalar(-self.softmax_scale);
        let others = pairs.positive.clone() + pairs.negative;
        let counted = ops::any_in_row(&pairs.positive);
        let losses = ops::masked_logsumexp(logits.clone(), &others, false)
            - ops::masked_logsumexp(logits, &pairs.positive, false);
        let losses = losses * counted.clone();
        let losses = match batch.weights() {
            Some(weights) => losses * weights.reshape([batch.len(), 1]),
            None => losses,
        };
        losses.sum() / counted.sum()
    }
}
