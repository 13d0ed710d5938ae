//! Pairs of score 1 pulled together, pairs of score 0 pushed beyond a margin.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::triplet::{DistanceMetric, Guard};
use super::{ExpectedData, Loss, check_batch, ops};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};
use burn::tensor::activation::relu;

/// That of `torch.cosine_similarity` and `torch.nn.functional.pairwise_distance`.
pub(super) const GUARD: Guard = Guard {
    norm: 1e-8,
    shift: 1e-6,
};

/// `mean(score · d² + (1 − score) · max(margin − d, 0)²) / 2` (Hadsell et al. 2006, "Dimensionality
/// reduction by learning an invariant mapping", equation 4; `ContrastiveLoss` of
/// sentence-transformers). `d` is 1 less the cosine, or by `distance_metric` the `euclidean` or
/// `manhattan` distance. Scores are 1 for pairs that belong together, 0 for those that do not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PairContrastiveLoss {
    distance_metric: DistanceMetric,
    margin: f64,
    size_average: bool,
}

impl Default for PairContrastiveLoss {
    /// Cosine distance, margin 0.5, the mean.
    fn default() -> Self {
        Self {
            distance_metric: DistanceMetric::Cosine,
            margin: 0.5,
            size_average: true,
        }
    }
}

impl PairContrastiveLoss {
    /// With this distance and margin; the mean of the batch, or else the sum.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(distance_metric: DistanceMetric, margin: f64, size_average: bool) -> Result<Self> {
        ops::not_negative("margin", margin)?;
        Ok(Self {
            distance_metric,
            margin,
            size_average,
        })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let Self {
            distance_metric,
            margin,
            size_average,
        } = registry::parse("pair_contrastive", options)?;
        Self::new(distance_metric, margin, size_average)
    }
}

impl Loss for PairContrastiveLoss {
    fn name(&self) -> &'static str {
        "pair_contrastive"
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
        let _ = check_batch(self, embeddings, targets)?;
        let scores = super::scores(targets, &embeddings[0].device());
        let d = self
            .distance_metric
            .of(&embeddings[0], &embeddings[1], GUARD);
        let far = relu(d.clone().neg().add_scalar(self.margin)).square();
        let losses = d.square() * scores.clone() + far * scores.neg().add_scalar(1.0);
        let losses = losses.div_scalar(2.0);
        Ok(if self.size_average {
            losses.mean()
        } else {
            losses.sum()
        })
    }
}
