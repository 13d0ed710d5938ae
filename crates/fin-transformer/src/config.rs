//! `config.json`: which architecture, and the numbers that shape it.

use std::path::Path;

use fin_core::kernels::Activation;
use fin_core::{Error, Result};
use serde::de::DeserializeOwned;

use crate::bert::BertConfig;
use crate::distilbert::DistilBertConfig;

/// The architecture that a `config.json` describes.
#[derive(Debug, Clone, PartialEq)]
pub enum BackboneConfig {
    /// `model_type: bert`.
    Bert(BertConfig),
    /// `model_type: distilbert`.
    DistilBert(DistilBertConfig),
}

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
            Some(other) => {
                return Err(Error::config(
                    path,
                    "model_type",
                    format!("`{other}` is not supported; supported: bert, distilbert"),
                ));
            }
            None => {
                return Err(Error::config(
                    path,
                    "model_type",
                    "missing; expected bert or distilbert",
                ));
            }
        };
        match &config {
            Self::Bert(config) => config.check(path)?,
            Self::DistilBert(config) => config.check(path)?,
        }
        Ok(config)
    }

    /// Largest number of tokens that the position table holds.
    pub fn max_position_embeddings(&self) -> usize {
        match self {
            Self::Bert(config) => config.max_position_embeddings,
            Self::DistilBert(config) => config.max_position_embeddings,
        }
    }

    /// Rows of the word table.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bert(config) => config.vocab_size,
            Self::DistilBert(config) => config.vocab_size,
        }
    }

    /// Width of the hidden states.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Bert(config) => config.hidden_size,
            Self::DistilBert(config) => config.dim,
        }
    }

    /// `model_type` in `config.json`.
    pub fn model_type(&self) -> &'static str {
        match self {
            Self::Bert(_) => "bert",
            Self::DistilBert(_) => "distilbert",
        }
    }
}

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::invalid(path, format!("not the JSON that was expected: {e}")))
}

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

/// Checks sizes that layers divide by or allocate with.
pub(crate) fn check_sizes(
    path: &Path,
    sizes: &[(&str, usize)],
    hidden: (&str, usize),
    heads: (&str, usize),
) -> Result<()> {
    for (field, size) in sizes.iter().chain([&hidden, &heads]) {
        if *size == 0 || *size > 1 << 24 {
            return Err(Error::config(
                path,
                *field,
                format!("{size} is not a usable size"),
            ));
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
