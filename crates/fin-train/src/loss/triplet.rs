//! Triplets that the data gives.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::{ExpectedData, Loss, check_batch, ops};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};
use burn::tensor::activation::relu;

const GUARD: Guard = Guard {
    norm: 1e-12,
    shift: 0.0,
};

/// `mean(max(d(a, p) − d(a, n) + triplet_margin, 0))` over the rows (Schroff et al. 2015,
/// "FaceNet", equation 3; `TripletLoss` of sentence-transformers). `d` is the `euclidean` distance,
/// or by `distance_metric` the `manhattan` distance or 1 less the `cosine`; vectors are taken as
/// they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TripletLoss {
    distance_metric: DistanceMetric,
    triplet_margin: f64,
}

impl Default for TripletLoss {
    /// Euclidean distance, margin 5.
    fn default() -> Self {
        Self {
            distance_metric: DistanceMetric::Euclidean,
            triplet_margin: 5.0,
        }
    }
}

impl TripletLoss {
    /// With this distance and margin.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(distance_metric: DistanceMetric, triplet_margin: f64) -> Result<Self> {
        ops::not_negative("triplet_margin", triplet_margin)?;
        Ok(Self {
            distance_metric,
            triplet_margin,
        })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let Self {
            distance_metric,
            triplet_margin,
        } = registry::parse("triplet", options)?;
        Self::new(distance_metric, triplet_margin)
    }
}

impl Loss for TripletLoss {
    fn name(&self) -> &'static str {
        "triplet"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn accepts(&self) -> ExpectedData {
        ExpectedData {
            min_columns: 3,
            max_columns: Some(3),
            targets: TargetKind::None,
            roles: "anchor, positive, negative",
        }
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        let _ = check_batch(self, embeddings, targets)?;
        let near = self
            .distance_metric
            .of(&embeddings[0], &embeddings[1], GUARD);
        let far = self
            .distance_metric
            .of(&embeddings[0], &embeddings[2], GUARD);
        Ok(relu((near - far).add_scalar(self.triplet_margin)).mean())
    }
}

/// A distance between two vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistanceMetric {
    /// 1 less the cosine.
    Cosine,
    /// Length of the difference.
    Euclidean,
    /// Sum of the absolute differences of the coordinates.
    Manhattan,
}

/// How PyTorch guards the distances of a loss against division by 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guard {
    /// Smallest norm that a vector is divided by.
    pub norm: f64,
    /// Added to every difference of coordinates.
    pub shift: f64,
}

impl DistanceMetric {
    /// Distances of the rows of two matrices, pair by pair: `[batch, 1]`. The gradient of a
    /// Euclidean distance of 0 is 0.
    pub(super) fn of(self, a: &Tensor<2>, b: &Tensor<2>, guard: Guard) -> Tensor<2> {
        let difference = || (a.clone() - b.clone()).add_scalar(guard.shift);
        match self {
            Self::Cosine => {
                let [a, b] = [a, b].map(|x| ops::normalize_rows(x.clone(), guard.norm));
                (a * b).sum_dim(1).neg().add_scalar(1.0)
            }
            Self::Euclidean => ops::row_norms(difference()),
            Self::Manhattan => difference().abs().sum_dim(1),
        }
    }
}
