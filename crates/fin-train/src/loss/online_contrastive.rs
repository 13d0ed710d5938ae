//! Contrastive loss over the hard pairs of a batch.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::pair_contrastive::GUARD;
use super::triplet::DistanceMetric;
use super::{ExpectedData, Loss, check_batch, ops};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};
use burn::tensor::activation::relu;

/// The sum of `d²` over the pairs of score 1 that are farther apart than the nearest pair of score
/// 0, and of `max(margin − d, 0)²` over the pairs of score 0 that are nearer than the farthest pair
/// of score 1 (`OnlineContrastiveLoss` of sentence-transformers). Where a batch has one kind alone,
/// the mean distance of that kind stands for the bound. `d` is 1 less the cosine, or by
/// `distance_metric` the `euclidean` or `manhattan` distance. Pairs of other scores do not count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OnlineContrastiveLoss {
    distance_metric: DistanceMetric,
    margin: f64,
}

impl Default for OnlineContrastiveLoss {
    /// Cosine distance, margin 0.5.
    fn default() -> Self {
        Self {
            distance_metric: DistanceMetric::Cosine,
            margin: 0.5,
        }
    }
}

impl OnlineContrastiveLoss {
    /// With this distance and margin.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(distance_metric: DistanceMetric, margin: f64) -> Result<Self> {
        ops::not_negative("margin", margin)?;
        Ok(Self {
            distance_metric,
            margin,
        })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let Self {
            distance_metric,
            margin,
        } = registry::parse("online_contrastive", options)?;
        Self::new(distance_metric, margin)
    }
}

impl Loss for OnlineContrastiveLoss {
    fn name(&self) -> &'static str {
        "online_contrastive"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn accepts(&self) -> ExpectedData {
        ExpectedData {
            min_columns: 2,
            max_columns: Some(2),
            targets: TargetKind::Scores,
            roles: "first, second",
        }
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        let [batch, _] = check_batch(self, embeddings, targets)?;
        let scores = super::scores(targets, &embeddings[0].device());
        let d = self
            .distance_metric
            .of(&embeddings[0], &embeddings[1], GUARD);
        let fixed = d.clone().detach();
        let [near, far] = [1.0, 0.0].map(|score: f32| scores.clone().equal_elem(score).float());
        let number = |mask: &Tensor<2>| mask.clone().sum().reshape([1, 1]);
        let mean = |mask: &Tensor<2>| {
            let sum = (fixed.clone() * mask.clone()).sum().reshape([1, 1]);
            sum / number(mask).clamp_min(1.0)
        };
        let without = |mask: &Tensor<2>, value: f64| {
            fixed.clone().mask_fill(mask.clone().equal_elem(0.0), value)
        };
        let empty = |mask: &Tensor<2>| number(mask).equal_elem(0.0);
        let farthest = without(&near, f64::from(f32::MIN)).max_dim(0);
        let farthest = farthest.mask_where(empty(&near), mean(&far));
        let nearest = without(&far, f64::from(f32::MAX)).min_dim(0);
        let nearest = nearest.mask_where(empty(&far), mean(&near));
        let near = near * fixed.clone().greater(nearest.expand([batch, 1])).float();
        let far = far * fixed.lower(farthest.expand([batch, 1])).float();
        let apart = relu(d.clone().neg().add_scalar(self.margin)).square();
        Ok((d.square() * near + apart * far).sum())
    }
}
