//! Contrastive loss over signal-to-noise distances.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::contrastive::contrast;
use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;

/// Smallest sum of squares that a distance is divided by.
const MIN_VARIANCE: f64 = 1e-12;

/// The contrastive loss with the distance `var(a − b) / var(a)` of an anchor `a` (Yuan et al. 2019,
/// "Signal-to-noise ratio: a robust distance metric for deep metric learning";
/// `SignalToNoiseRatioContrastiveLoss` of pytorch-metric-learning, without its regulariser, as
/// there by default). Variances are over the coordinates of vectors scaled to unit length; that of
/// a constant vector counts as 1e-12.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SignalToNoiseContrastiveLoss {
    pos_margin: f64,
    neg_margin: f64,
}

impl Default for SignalToNoiseContrastiveLoss {
    /// Margins of 0 and 1.
    fn default() -> Self {
        Self {
            pos_margin: 0.0,
            neg_margin: 1.0,
        }
    }
}

impl SignalToNoiseContrastiveLoss {
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

impl LabelledLoss for SignalToNoiseContrastiveLoss {
    const NAME: &'static str = "signal_to_noise_contrastive";

    fn validate(&self) -> Result<()> {
        ops::finite("pos_margin", self.pos_margin)?;
        ops::finite("neg_margin", self.neg_margin)?;
        Ok(())
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let (unit, others) = batch.both_unit();
        let centre = |x: Tensor<2>| x.clone() - x.mean_dim(1);
        let centred = centre(unit);
        let noise = ops::squared_distances(centred.clone(), centre(others));
        let signal = centred.square().sum_dim(1).clamp_min(MIN_VARIANCE);
        contrast(
            noise / signal,
            batch.pairs(),
            self.pos_margin,
            self.neg_margin,
        )
    }
}
