//! Triplets of all classes in a batch.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;
use burn::tensor::TensorData;
use burn::tensor::activation::relu;

/// `max(d(a, p) − d(a, n) + margin, 0)` over triplets of an anchor, another item of its class and
/// an item of another class, averaged over those above zero (Hermans et al. 2017, "In defense of
/// the triplet loss", section 2; `TripletMarginLoss` of pytorch-metric-learning): without a miner
/// over all of them ("batch all", with the mean over non-zero losses), with the miner `batch_hard`
/// over the hardest of each anchor.
///
/// `d` is the Euclidean distance of vectors scaled to unit length. With `swap`, the smaller of
/// `d(a, n)` and `d(p, n)` stands for `d(a, n)` (Balntas et al. 2016). With `smooth`, the
/// reference's `smooth_loss`, `log(1 + exp(·))` stands for `max(·, 0)`. A batch without triplets,
/// or whose triplets all keep the margin, has loss 0 and gradients of 0.
///
/// Without a miner, triplets take `batch³` numbers of memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TripletMarginLoss {
    margin: f64,
    swap: bool,
    #[serde(alias = "smooth_loss")]
    smooth: bool,
}

impl Default for TripletMarginLoss {
    /// Margin 0.05, neither swapped nor smooth.
    fn default() -> Self {
        Self {
            margin: 0.05,
            swap: false,
            smooth: false,
        }
    }
}

impl TripletMarginLoss {
    /// With this margin between distances, hard or smooth.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where the margin is negative or not finite.
    pub fn new(margin: f64, smooth: bool) -> Result<Self> {
        let made = Self {
            margin,
            smooth,
            ..Self::default()
        };
        made.validate()?;
        Ok(made)
    }

    /// With the nearer of anchor and positive to the negative.
    pub fn with_swap(mut self) -> Self {
        self.swap = true;
        self
    }
}

impl LabelledLoss for TripletMarginLoss {
    const NAME: &'static str = "triplet_margin";

    fn validate(&self) -> Result<()> {
        ops::not_negative("margin", self.margin)?;
        Ok(())
    }

    fn refuses_memory(&self) -> Option<&'static str> {
        self.swap.then_some(
            "`swap` compares the positive with the negative, which are both in the memory",
        )
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let d = batch.distances();
        let gaps = match batch.mined() {
            None => self.gaps_of_all(batch, d),
            Some(mined) => {
                let triplets = mined.triplets();
                if triplets.is_empty() {
                    return batch.zero();
                }
                let ([rows, len], count) = (d.dims(), triplets.len());
                let flat = d.reshape([rows * len]);
                let pick = |pair: &dyn Fn(&[usize; 3]) -> usize| {
                    flat.clone()
                        .select(0, batch.indices(triplets.iter().map(pair)))
                };
                let near = pick(&|[a, p, _]| a * len + p);
                let mut far = pick(&|[a, _, n]| a * len + n);
                if self.swap {
                    far = far.min_pair(pick(&|[_, p, n]| p * len + n));
                }
                let once = Tensor::<3>::ones([count, 1, 1], &batch.device());
                ((near - far).reshape([count, 1, 1]), once)
            }
        };
        let (gap, counted) = gaps;
        let gap = gap.add_scalar(self.margin);
        let losses = if self.smooth {
            ops::softplus(gap)
        } else {
            relu(gap)
        } * counted;
        let above_zero = losses
            .clone()
            .detach()
            .greater_scalar(0.0)
            .float()
            .sum()
            .clamp_min(1.0);
        losses.sum() / above_zero
    }
}

impl TripletMarginLoss {
    /// `d(a, p) − d(a, n)` of all triples of items, and 1 for those that are triplets, else 0:
    /// each `[batch, batch, batch]`.
    fn gaps_of_all(&self, batch: &LabelledBatch<'_>, d: Tensor<2>) -> (Tensor<3>, Tensor<3>) {
        let (len, labels) = (batch.len(), batch.labels());
        let matrix = |entry: &dyn Fn(usize, usize) -> bool| {
            let values: Vec<f32> = (0..len * len)
                .map(|i| f32::from(u8::from(entry(i / len, i % len))))
                .collect();
            Tensor::<2>::from_data(TensorData::new(values, [len, len]), &batch.device())
        };
        let positive = matrix(&|a, p| a != p && labels[a] == labels[p]);
        let negative = matrix(&|a, n| labels[a] != labels[n]);
        let triplets = positive.unsqueeze_dim::<3>(2) * negative.unsqueeze_dim::<3>(1);
        let near = d.clone().reshape([len, len, 1]);
        let mut far = d.clone().reshape([len, 1, len]);
        if self.swap {
            far = far
                .repeat_dim(1, len)
                .min_pair(d.reshape([1, len, len]).repeat_dim(0, len));
        }
        (near - far, triplets)
    }
}
