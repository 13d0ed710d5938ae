//! Embeddings regressed on a teacher's.

use burn::tensor::{Tensor, TensorData};
use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{ExpectedData, Loss, check_batch};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};

/// The mean of `(embedding − target)²` over rows and coordinates, where the target of a row is a
/// teacher's embedding (Reimers and Gurevych 2020, "Making monolingual sentence embeddings
/// multilingual using knowledge distillation", equation 1; `MSELoss` of sentence-transformers).
/// Several columns, a text and its translation say, have the same target, and the loss is the mean
/// of theirs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct MseLoss {}

impl MseLoss {
    pub(super) fn from_options(options: &Options) -> Result<Self> {
        registry::parse("mse", options)
    }
}

impl Loss for MseLoss {
    fn name(&self) -> &'static str {
        "mse"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn accepts(&self) -> ExpectedData {
        ExpectedData {
            min_columns: 1,
            max_columns: None,
            targets: TargetKind::Vectors,
            roles: "items that are to be embedded as the teacher embeds the first",
        }
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        let [rows, width] = check_batch(self, embeddings, targets)?;
        let BatchTargets::Vectors { values, dim } = targets else {
            return Err(Error::argument("targets", "`mse` needs a vector each"));
        };
        if *dim != width {
            let reason = format!(
                "a target has {dim} components and an embedding {width}; reduce the teacher's \
                 vectors, or give the model an output of that width"
            );
            return Err(Error::argument("targets", reason));
        }
        let data = TensorData::new(values.clone(), [rows, width]);
        let target = Tensor::<2>::from_data(data, &embeddings[0].device());
        let terms = embeddings
            .iter()
            .map(|column| (column.clone() - target.clone()).square().mean());
        Ok(Tensor::cat(terms.collect(), 0).mean())
    }
}
