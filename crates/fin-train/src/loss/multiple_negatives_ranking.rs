//! In-batch negatives with a softmax over cosine similarities.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::ops::normalize_rows;
use super::{ExpectedData, Loss, check_batch};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};

/// Smallest norm a vector is divided by, as in `torch.nn.functional.normalize`.
const EPS: f64 = 1e-12;

/// Cross-entropy of each anchor's positive among all candidates of the batch (Henderson et al.
/// 2017, section 4; `MultipleNegativesRankingLoss` of sentence-transformers, also called InfoNCE).
///
/// Columns are anchors, positives and any number of hard negatives. Candidates of anchor `i` are
/// the positives of all rows and the hard negatives of all rows; the logit of a candidate is
/// `scale · cos(anchor, candidate)`. A batch must not hold an item twice, or a positive would be
/// scored as a negative: [`crate::sampler::NoDuplicatesSampler`] sees to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MultipleNegativesRankingLoss {
    scale: f64,
}

impl Default for MultipleNegativesRankingLoss {
    /// Scale 20.
    fn default() -> Self {
        Self { scale: 20.0 }
    }
}

impl MultipleNegativesRankingLoss {
    /// With this scale, the inverse of the softmax temperature.
    ///
    /// # Errors
    /// [`Error::Argument`] where the scale is not positive and finite.
    pub fn new(scale: f64) -> Result<Self> {
        if scale > 0.0 && scale.is_finite() {
            Ok(Self { scale })
        } else {
            Err(Error::argument(
                "scale",
                format!("{scale} is not a positive number"),
            ))
        }
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("multiple_negatives_ranking", options)?;
        Self::new(parsed.scale)
    }
}

impl Loss for MultipleNegativesRankingLoss {
    fn name(&self) -> &'static str {
        "multiple_negatives_ranking"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn accepts(&self) -> ExpectedData {
        ExpectedData {
            min_columns: 2,
            max_columns: None,
            targets: TargetKind::None,
            roles: "anchor, positive, hard negatives",
        }
    }

    fn default_sampler(&self) -> &'static str {
        "no_duplicates"
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        let [batch, _] = check_batch(self, embeddings, targets)?;
        let anchors = normalize_rows(embeddings[0].clone(), EPS);
        let candidates = normalize_rows(Tensor::cat(embeddings[1..].to_vec(), 0), EPS);
        let logits = anchors
            .matmul(candidates.transpose())
            .mul_scalar(self.scale);
        let positives =
            Tensor::<1, Int>::arange(0..batch as i64, &logits.device()).reshape([batch, 1]);
        Ok(log_softmax(logits, 1).gather(1, positives).mean().neg())
    }
}
