//! Triplets of all classes in a batch.

use burn::tensor::activation::relu;
use burn::tensor::{Tensor, TensorData};
use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{ExpectedData, Loss, check_batch, normalize_rows};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};

/// Smallest norm a vector is divided by, as in `torch.nn.functional.normalize`.
const EPS: f64 = 1e-12;
/// Square of the distance that stands for zero: its root is negligible beside any margin, and
/// below it no gradient flows, where that of the root would be infinite.
const MIN_SQUARED_DISTANCE: f64 = 1e-24;

/// `max(d(a, p) − d(a, n) + margin, 0)` over all triplets of an anchor, another item of its class
/// and an item of another class, averaged over those above zero (Hermans et al. 2017, section 2,
/// "batch all", with the mean over non-zero losses; `TripletMarginLoss` of
/// pytorch-metric-learning).
///
/// One column and a label each. `d` is the Euclidean distance of vectors scaled to unit length.
/// With `smooth`, `log(1 + exp(·))` stands for `max(·, 0)`. A batch without triplets, or whose
/// triplets all keep the margin, has loss 0 and gradients of 0.
///
/// Differences are formed coordinate by coordinate, which keeps small distances exact and takes
/// `batch² · dim` numbers of memory; triplets take `batch³`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TripletMarginLoss {
    margin: f64,
    smooth: bool,
}

impl Default for TripletMarginLoss {
    /// Margin 0.05, not smooth.
    fn default() -> Self {
        Self {
            margin: 0.05,
            smooth: false,
        }
    }
}

impl TripletMarginLoss {
    /// With this margin between distances, hard or smooth.
    ///
    /// # Errors
    /// [`Error::Argument`] where the margin is negative or not finite.
    pub fn new(margin: f64, smooth: bool) -> Result<Self> {
        if margin >= 0.0 && margin.is_finite() {
            Ok(Self { margin, smooth })
        } else {
            Err(Error::argument(
                "margin",
                format!("{margin} is not a number of at least 0"),
            ))
        }
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("triplet_margin", options)?;
        Self::new(parsed.margin, parsed.smooth)
    }
}

impl Loss for TripletMarginLoss {
    fn name(&self) -> &'static str {
        "triplet_margin"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn accepts(&self) -> ExpectedData {
        ExpectedData {
            min_columns: 1,
            max_columns: Some(1),
            targets: TargetKind::Labels,
            roles: "item",
        }
    }

    fn default_sampler(&self) -> &'static str {
        "class_balanced"
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        let [batch, dim] = check_batch(self, embeddings, targets)?;
        let labels: &[usize] = match targets {
            BatchTargets::Labels(labels) => labels,
            // Refused by `check_batch`.
            BatchTargets::None | BatchTargets::Scores(_) => &[],
        };
        let device = embeddings[0].device();
        let matrix = |entry: &dyn Fn(usize, usize) -> bool| {
            let values: Vec<f32> = (0..batch * batch)
                .map(|i| f32::from(u8::from(entry(i / batch, i % batch))))
                .collect();
            Tensor::<2>::from_data(TensorData::new(values, [batch, batch]), &device)
        };
        let positive = matrix(&|a, p| a != p && labels[a] == labels[p]);
        let negative = matrix(&|a, n| labels[a] != labels[n]);
        let triplets = positive.unsqueeze_dim::<3>(2) * negative.unsqueeze_dim::<3>(1);

        let x = normalize_rows(embeddings[0].clone(), EPS);
        let difference = x.clone().reshape([batch, 1, dim]) - x.reshape([1, batch, dim]);
        let distance = difference
            .square()
            .sum_dim(2)
            .clamp_min(MIN_SQUARED_DISTANCE)
            .sqrt();
        let gap = distance.clone().reshape([batch, batch, 1]) - distance.reshape([batch, 1, batch]);
        let gap = gap.add_scalar(self.margin);
        // Distances are at most 2, so the exponential cannot overflow.
        let losses = if self.smooth {
            gap.exp().log1p()
        } else {
            relu(gap)
        } * triplets;
        let above_zero = losses
            .clone()
            .detach()
            .greater_scalar(0.0)
            .float()
            .sum()
            .clamp_min(1.0);
        Ok(losses.sum() / above_zero)
    }
}
