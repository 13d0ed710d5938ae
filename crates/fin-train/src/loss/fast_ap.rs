//! Average precision over a histogram of distances.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use crate::miner::Mined;
use burn::tensor::TensorData;
use burn::tensor::activation::relu;
use fin_core::Error;

/// Largest squared distance of two vectors of unit length.
const MAX_SQUARED_DISTANCE: f64 = 4.0;

/// For every item with positives, 1 less the average precision of ranking the batch by distance to
/// it, the ranks being softened by a histogram of `num_bins` bins of squared distances; the mean
/// over them (Cakir et al. 2019, "Deep metric learning to rank", equation 7; `FastAPLoss` of
/// pytorch-metric-learning). Vectors are scaled to unit length. A miner's selection weights the
/// items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FastApLoss {
    num_bins: usize,
}

impl Default for FastApLoss {
    /// 10 bins.
    fn default() -> Self {
        Self { num_bins: 10 }
    }
}

impl FastApLoss {
    /// With this number of bins.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(num_bins: usize) -> Result<Self> {
        let made = Self { num_bins };
        made.validate()?;
        Ok(made)
    }
}

impl LabelledLoss for FastApLoss {
    const NAME: &'static str = "fast_ap";

    fn validate(&self) -> Result<()> {
        if self.num_bins == 0 {
            let reason = "0 is too few; 1 or more are needed";
            return Err(Error::argument("num_bins", reason));
        }
        Ok(())
    }

    fn refuses_memory(&self) -> Option<&'static str> {
        Some("it ranks the whole batch for every item of it")
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let all = Mined::all_pairs(batch.labels()).pairs();
        let pairs = batch.count(&all.0, &all.1);
        if pairs.positives == 0 {
            return batch.zero();
        }
        let (len, edges) = (batch.len(), self.num_bins + 1);
        let width = MAX_SQUARED_DISTANCE / self.num_bins as f64;
        let middles: Vec<f32> = (0..edges).map(|i| (i as f64 * width) as f32).collect();
        let middles =
            Tensor::<3>::from_data(TensorData::new(middles, [1, 1, edges]), &batch.device());
        let distance = batch.squared_distances().reshape([len, len, 1]);
        let pulse = (distance - middles)
            .abs()
            .div_scalar(-width)
            .add_scalar(1.0);
        let pulse = relu(pulse);
        // Sums over bins up to each.
        let up_to: Vec<f32> = (0..edges * edges)
            .map(|i| f32::from(u8::from(i / edges <= i % edges)))
            .collect();
        let up_to = Tensor::<2>::from_data(TensorData::new(up_to, [edges, edges]), &batch.device());
        let histogram = |counts: &Tensor<2>| {
            let counts = counts.clone().reshape([len, len, 1]);
            (pulse.clone() * counts).sum_dim(1).reshape([len, edges])
        };
        let (near, far) = (histogram(&pairs.positive), histogram(&pairs.negative));
        let near_up_to = near.clone().matmul(up_to.clone());
        let all_up_to = (near.clone() + far).matmul(up_to);
        let product = near * near_up_to;
        let empty = product.clone().detach().lower_equal_elem(0.0);
        let precision = product.mask_fill(empty.clone(), 0.0) / all_up_to.mask_fill(empty, 1.0);
        let number = pairs.positive.sum_dim(1);
        let counted = number.clone().greater_elem(0.0).float();
        let losses = (precision.sum_dim(1) / number.clamp_min(1.0))
            .neg()
            .add_scalar(1.0);
        let losses = losses * counted.clone();
        let losses = match batch.weights() {
            Some(weights) => losses * weights.reshape([len, 1]),
            None => losses,
        };
        losses.sum() / counted.sum()
    }
}
