//! Order of the cosines of pairs after their scores.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::EPS;
use super::{ExpectedData, Loss, check_batch, ops};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};
use burn::tensor::TensorData;

/// `log(1 + Σ exp(scale (cos_i − cos_j)))` over the pairs of examples `i`, `j` in which `j` has the
/// higher score (Su 2022, "CoSENT"; `CoSENTLoss` of sentence-transformers).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoSentLoss {
    scale: f64,
}

impl Default for CoSentLoss {
    /// Scale 20.
    fn default() -> Self {
        Self { scale: 20.0 }
    }
}

impl CoSentLoss {
    /// With this scale.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(scale: f64) -> Result<Self> {
        ops::positive("scale", scale)?;
        Ok(Self { scale })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let Self { scale } = registry::parse("co_sent", options)?;
        Self::new(scale)
    }
}

impl Loss for CoSentLoss {
    fn name(&self) -> &'static str {
        "co_sent"
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
        let [a, b] =
            [0, 1].map(|column: usize| ops::normalize_rows(embeddings[column].clone(), EPS));
        Ok(in_order((a * b).sum_dim(1).mul_scalar(self.scale), targets))
    }
}

/// `log(1 + Σ exp(value_i − value_j))` over the pairs of examples in which `j` has the higher
/// score, of values `[batch, 1]`.
pub(super) fn in_order(values: Tensor<2>, targets: &BatchTargets) -> Tensor<1> {
    let scores: &[f32] = match targets {
        BatchTargets::Scores(scores) => scores,
        // Refused by `check_batch`.
        _ => &[],
    };
    let len = scores.len();
    let lower: Vec<f32> = (0..len * len)
        .map(|i| f32::from(u8::from(scores[i / len] < scores[i % len])))
        .collect();
    let lower = TensorData::new(lower, [1, len * len]);
    let lower = Tensor::<2>::from_data(lower, &values.device());
    let differences = values.clone() - values.transpose();
    let differences = differences.reshape([1, len * len]);
    ops::masked_logsumexp(differences, &lower, true).reshape([1])
}
