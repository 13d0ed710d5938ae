//! Symmetric cross-entropy of pairs over cosine similarities.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::EPS;
use super::{ExpectedData, Loss, check_batch, ops};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};
use burn::tensor::Int;
use burn::tensor::activation::log_softmax;

/// The mean of two cross-entropies over `cos(a, b) / temperature`: of each first item's own second
/// one among all second ones of the batch, and the other way round (Radford et al. 2021, "CLIP",
/// figure 3; `ClipLoss` of open_clip, `clip_loss` of transformers). The temperature is fixed. A
/// batch must not hold an item twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClipLoss {
    temperature: f64,
}

impl Default for ClipLoss {
    /// Temperature 0.07, where CLIP's training begins.
    fn default() -> Self {
        Self { temperature: 0.07 }
    }
}

impl ClipLoss {
    /// With this temperature.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(temperature: f64) -> Result<Self> {
        ops::positive("temperature", temperature)?;
        Ok(Self { temperature })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let Self { temperature } = registry::parse("clip", options)?;
        Self::new(temperature)
    }
}

impl Loss for ClipLoss {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn accepts(&self) -> ExpectedData {
        ExpectedData {
            min_columns: 2,
            max_columns: Some(2),
            targets: TargetKind::None,
            roles: "first, second",
        }
    }

    fn default_sampler(&self) -> &'static str {
        "no_duplicates"
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        let [batch, _] = check_batch(self, embeddings, targets)?;
        let [a, b] =
            [0, 1].map(|column: usize| ops::normalize_rows(embeddings[column].clone(), EPS));
        let logits = a.matmul(b.transpose()).div_scalar(self.temperature);
        let own = Tensor::<1, Int>::arange(0..batch as i64, &logits.device()).reshape([batch, 1]);
        let entropy =
            |logits: Tensor<2>| log_softmax(logits, 1).gather(1, own.clone()).mean().neg();
        Ok((entropy(logits.clone()) + entropy(logits.transpose())).div_scalar(2.0))
    }
}
