//! `config.json`: which architecture, and the numbers that shape it.

use std::path::Path;

use fin_core::kernels::Activation;
use fin_core::{Error, Result};
use serde::de::DeserializeOwned;

use crate::bert::BertConfig;
use crate::distilbert::DistilBertConfig;
use crate::t5::T5Config;
use crate::xlm_roberta::XlmRobertaConfig;

/// The architecture that a `config.json` describes.
#[derive(Debug, Clone, PartialEq)]
pub enum BackboneConfig {
    /// `model_type: bert`.
    Bert(BertConfig),
    /// `model_type: distilbert`.
    DistilBert(DistilBertConfig),
    /// `model_type: xlm-roberta`, `roberta` or `camembert`.
    XlmRoberta(XlmRobertaConfig),
    /// `model_type: t5` or `mt5`; the encoder is used.
    T5(T5Config),
}

/// Values of `model_type` that are built.
const MODEL_TYPES: [&str; 7] = [
    "bert",
    "distilbert",
    "xlm-roberta",
    "roberta",
    "camembert",
    "t5",
    "mt5",
];

impl BackboneConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Config`] naming the field where it
    /// describes something that is not built here.
    pub fn read(path: &Path) -> Result<Self> {
        let value: serde_json::Value = read_json(path)?;
        let config = match value.get("model_type").and_then(|v| v.as_str()) {
            Some("bert") => Self::Bert(from_value(path, value)?),
            Some("distilbert") => Self::DistilBert(from_value(path, value)?),
            Some("xlm-roberta" | "roberta" | "camembert") => {
                Self::XlmRoberta(from_value(path, value)?)
            }
            Some("t5" | "mt5") => Self::T5(from_value(path, value)?),
            other => {
                let found = other.map_or("missing".into(), |name| {
                    format!("`{name}` is not supported")
                });
                let supported = MODEL_TYPES.join(", ");
                let reason = format!("{found}; supported: {supported}");
                return Err(Error::config(path, "model_type", reason));
            }
        };
        match &config {
            Self::Bert(config) => config.check(path)?,
            Self::DistilBert(config) => config.check(path)?,
            Self::XlmRoberta(config) => config.check(path)?,
            Self::T5(config) => config.check(path)?,
        }
        Ok(config)
    }

    /// Largest number of tokens that the position table has rows for; `None` where there is no
    /// table (T5).
    pub fn max_tokens(&self) -> Option<usize> {
        match self {
            Self::Bert(config) => Some(config.max_position_embeddings),
            Self::DistilBert(config) => Some(config.max_position_embeddings),
            Self::XlmRoberta(config) => Some(config.max_tokens()),
            Self::T5(_) => None,
        }
    }

    /// Number of tokens that the model was pretrained with, where that is known and not
    /// [`BackboneConfig::max_tokens`].
    pub fn pretrained_tokens(&self) -> Option<usize> {
        match self {
            Self::T5(config) => config.n_positions,
            _ => self.max_tokens(),
        }
    }

    /// Rows of the word table.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bert(config) => config.vocab_size,
            Self::DistilBert(config) => config.vocab_size,
            Self::XlmRoberta(config) => config.bert.vocab_size,
            Self::T5(config) => config.vocab_size,
        }
    }

    /// Width of the hidden states.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Bert(config) => config.hidden_size,
            Self::DistilBert(config) => config.dim,
            Self::XlmRoberta(config) => config.bert.hidden_size,
            Self::T5(config) => config.d_model,
        }
    }

    /// Id that batches are padded with, where the configuration says so.
    pub fn pad_token_id(&self) -> Option<u32> {
        match self {
            Self::Bert(config) => config.pad_token_id,
            Self::DistilBert(config) => config.pad_token_id,
            Self::XlmRoberta(config) => Some(config.pad_token_id()),
            Self::T5(config) => config.pad_token_id,
        }
    }

    /// The architecture, under the `model_type` of its first model.
    pub fn model_type(&self) -> &'static str {
        match self {
            Self::Bert(_) => "bert",
            Self::DistilBert(_) => "distilbert",
            Self::XlmRoberta(_) => "xlm-roberta",
            Self::T5(_) => "t5",
        }
    }
}

pub(crate) use fin_core::json::read as read_json;

fn from_value<T: DeserializeOwned>(path: &Path, value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|e| Error::invalid(path, format!("incomplete configuration: {e}")))
}

/// The activation of this name, or an error that lists the names.
pub(crate) fn activation(path: &Path, field: &str, name: &str) -> Result<Activation> {
    Activation::from_name(name).ok_or_else(|| {
        Error::config(
            path,
            field,
            format!(
                "`{name}` is not supported; supported: {}",
                Activation::NAMES.join(", ")
            ),
        )
    })
}

/// Most layers of a network, each of which takes memory before any weight is read. The deepest
/// encoders have less than a hundred.
const MAX_LAYERS: usize = 1024;

/// Checks sizes that layers divide by or allocate with, and numbers of layers.
pub(crate) fn check_sizes(
    path: &Path,
    sizes: &[(&str, usize)],
    hidden: (&str, usize),
    heads: (&str, usize),
) -> Result<()> {
    for (field, size) in sizes.iter().chain([&hidden, &heads]) {
        let most = if field.ends_with("layers") {
            MAX_LAYERS
        } else {
            1 << 24
        };
        if *size == 0 || *size > most {
            let reason = format!("{size} is not a usable size; accepted: 1 to {most}");
            return Err(Error::config(path, *field, reason));
        }
    }
    if !hidden.1.is_multiple_of(heads.1) {
        return Err(Error::config(
            path,
            heads.0,
            format!(
                "{} = {} does not split into {} heads",
                hidden.0, hidden.1, heads.1
            ),
        ));
    }
    Ok(())
}

/// Checks a dropout rate.
pub(crate) fn check_rate(path: &Path, field: &str, rate: f64) -> Result<()> {
    if (0.0..1.0).contains(&rate) {
        Ok(())
    } else {
        Err(Error::config(
            path,
            field,
            format!("{rate} is not a rate; accepted: 0 up to but not including 1"),
        ))
    }
}
