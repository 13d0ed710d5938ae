//! Difference of two similarities regressed on a teacher's.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::{ExpectedData, Loss, check_batch};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};

/// `mean((q·p − q·n − score)²)`: the score of a row is by how much a teacher scores the positive
/// above the negative (Hofstätter et al. 2020, "Improving efficient neural ranking models with
/// cross-architecture knowledge distillation", equation 3; `MarginMSELoss` of sentence-transformers
/// with one negative).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct MarginMseLoss {}

impl MarginMseLoss {
    pub(super) fn from_options(options: &Options) -> Result<Self> {
        registry::parse("margin_mse", options)
    }
}

impl Loss for MarginMseLoss {
    fn name(&self) -> &'static str {
        "margin_mse"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn accepts(&self) -> ExpectedData {
        ExpectedData {
            min_columns: 3,
            max_columns: Some(3),
            targets: TargetKind::Scores,
            roles: "query, positive, negative",
        }
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        let _ = check_batch(self, embeddings, targets)?;
        let scores = super::scores(targets, &embeddings[0].device());
        let query = embeddings[0].clone();
        let gap = (query * (embeddings[1].clone() - embeddings[2].clone())).sum_dim(1);
        Ok((gap - scores).square().mean())
    }
}
