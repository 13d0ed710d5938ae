//! A bound on the angle at the negative of a triplet.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;
use burn::tensor::TensorData;

/// Over positive pairs the mean of `log(1 + Σ_n exp(4 tan²(alpha) (a + p)·n − 2 (1 + tan²(alpha))
/// a·p))`, `n` running over all items of other classes (Wang et al. 2017, "Deep metric learning
/// with angular loss", equation 8; `AngularLoss` of pytorch-metric-learning). Anchors and positives
/// are scaled to unit length; negatives are taken as they are, as in the reference. `alpha` is in
/// degrees. Of a miner's selection the positive pairs count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AngularLoss {
    alpha: f64,
}

impl Default for AngularLoss {
    /// 40 degrees.
    fn default() -> Self {
        Self { alpha: 40.0 }
    }
}

impl AngularLoss {
    /// With this angle in degrees.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(alpha: f64) -> Result<Self> {
        let made = Self { alpha };
        made.validate()?;
        Ok(made)
    }
}

impl LabelledLoss for AngularLoss {
    const NAME: &'static str = "angular";

    fn validate(&self) -> Result<()> {
        ops::finite("alpha", self.alpha)?;
        Ok(())
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let (positive, negative) = batch.pair_lists();
        if positive.is_empty() || negative.is_empty() {
            return batch.zero();
        }
        let (unit, others) = batch.both_unit();
        let anchors = unit.select(0, batch.indices(positive.iter().map(|pair| pair[0])));
        let positives = others.select(0, batch.indices(positive.iter().map(|pair| pair[1])));
        let labels = batch.other_labels();
        let others: Vec<f32> = positive
            .iter()
            .flat_map(|&[a, _]| {
                let own = batch.labels()[a];
                let other = labels.iter();
                other.map(move |&label| f32::from(u8::from(label != own)))
            })
            .collect();
        let others = TensorData::new(others, [positive.len(), labels.len()]);
        let others = Tensor::<2>::from_data(others, &batch.device());
        let tangent = self.alpha.to_radians().tan().powi(2);
        let similarity = (anchors.clone() + positives.clone()).matmul(batch.others().transpose());
        let together = (anchors * positives).sum_dim(1);
        let terms =
            similarity.mul_scalar(4.0 * tangent) - together.mul_scalar(2.0 * (1.0 + tangent));
        ops::masked_logsumexp(terms, &others, true).mean()
    }
}
