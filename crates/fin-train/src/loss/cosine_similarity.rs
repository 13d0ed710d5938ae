//! Mean squared error of the cosine similarity.

use burn::tensor::{Tensor, TensorData};
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::ops::normalize_rows;
use super::{ExpectedData, Loss, check_batch};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};

/// Smallest norm a vector is divided by, as in `torch.cosine_similarity`.
const EPS: f64 = 1e-8;

/// `mean((cos(a, b) − score)²)`: regression of the cosine of a pair on its score (Reimers and
/// Gurevych 2019, section 3, "regression objective"; `CosineSimilarityLoss` of
/// sentence-transformers).
///
/// Two columns and a score each. The cosine ranges over `[-1, 1]`; scores are usually scaled to
/// `[0, 1]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CosineSimilarityLoss {}

impl CosineSimilarityLoss {
    pub(super) fn from_options(options: &Options) -> Result<Self> {
        registry::parse("cosine_similarity", options)
    }
}

impl Loss for CosineSimilarityLoss {
    fn name(&self) -> &'static str {
        "cosine_similarity"
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
        let scores = match targets {
            BatchTargets::Scores(scores) => TensorData::new(scores.clone(), [batch, 1]),
            // Refused by `check_batch`.
            _ => TensorData::zeros::<f32, _>([batch, 1]),
        };
        let scores = Tensor::<2>::from_data(scores, &embeddings[0].device());
        let [a, b] = [0, 1].map(|column: usize| normalize_rows(embeddings[column].clone(), EPS));
        let cosine = (a * b).sum_dim(1);
        Ok((cosine - scores).square().mean())
    }
}
