//! Order of the angles of pairs in complex space after their scores.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::co_sent::in_order;
use super::labelled::EPS;
use super::{ExpectedData, Loss, check_batch, ops};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};

/// [`CoSentLoss`](super::CoSentLoss) with the similarity `|cos + sin|`, the vectors scaled to unit
/// length being taken for complex ones whose first half is the real part (Li and Li 2024,
/// "AnglE-optimized text embeddings", section 3.3; `AnglELoss` of sentence-transformers 6). A
/// vector of odd width has a 0 added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AngleLoss {
    scale: f64,
}

impl Default for AngleLoss {
    /// Scale 20.
    fn default() -> Self {
        Self { scale: 20.0 }
    }
}

impl AngleLoss {
    /// With this scale.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(scale: f64) -> Result<Self> {
        ops::positive("scale", scale)?;
        Ok(Self { scale })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let Self { scale } = registry::parse("angle", options)?;
        Self::new(scale)
    }
}

impl Loss for AngleLoss {
    fn name(&self) -> &'static str {
        "angle"
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
        let [_, dim] = check_batch(self, embeddings, targets)?;
        let half = dim.div_ceil(2);
        let [a, b] = [0, 1].map(|column: usize| {
            let unit = ops::normalize_rows(embeddings[column].clone(), EPS);
            if dim.is_multiple_of(2) {
                unit
            } else {
                Tensor::cat(vec![unit.clone(), unit.zeros_like().narrow(1, 0, 1)], 1)
            }
        });
        let cos = (a.clone() * b.clone()).sum_dim(1);
        let part = |x: &Tensor<2>, first: usize| x.clone().narrow(1, first, half);
        let sin = (part(&a, half) * part(&b, 0) - part(&a, 0) * part(&b, half)).sum_dim(1);
        Ok(in_order((cos + sin).abs().mul_scalar(self.scale), targets))
    }
}
