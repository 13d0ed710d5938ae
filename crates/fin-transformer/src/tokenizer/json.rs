//! `tokenizer.json`, the file of the `tokenizers` library.

use std::path::Path;

use fin_core::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::TruncationDirection;

use super::config::TokenObject;
use super::sentence_piece::check_charsmap;

/// Bytes that replacements may make of one. Those in use make less than a hundred.
const MAX_GROWTH: u64 = 1024;

/// What there is beside the vocabulary.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    #[serde(default)]
    added_tokens: Vec<IdentifiedToken>,
    normalizer: Option<Value>,
    /// Of the decoder, which takes no part here: that it is JSON. The library takes it for granted.
    #[serde(rename = "decoder")]
    _decoder: Option<Value>,
    post_processor: Option<Value>,
    truncation: Option<Truncation>,
    pub(super) model: ModelHeader,
}

/// Kind of the model; the oldest files do not name it.
#[derive(Debug, Deserialize)]
pub(super) struct ModelHeader {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct IdentifiedToken {
    id: u32,
    #[serde(flatten)]
    token: TokenObject,
}

#[derive(Debug, Deserialize)]
struct Truncation {
    #[serde(default)]
    direction: TruncationDirection,
}

impl Header {
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        parse(path, bytes)
    }

    /// Added tokens with the ids that the file gives them.
    pub(super) fn added_tokens(&self) -> impl Iterator<Item = (u32, TokenObject)> {
        self.added_tokens
            .iter()
            .map(|token| (token.id, token.token.clone()))
    }

    /// Which end of a text the file has cut off.
    pub(super) fn truncation(&self) -> Option<TruncationDirection> {
        self.truncation.as_ref().map(|it| it.direction)
    }

    /// The first normalisation table of a SentencePiece model.
    ///
    /// # Errors
    /// Where one is damaged.
    pub(super) fn charsmap(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let mut first = None;
        let mut left: Vec<&Value> = self.normalizer.iter().collect();
        while let Some(normalizer) = left.pop() {
            if let Some(list) = normalizer.get("normalizers").and_then(Value::as_array) {
                left.extend(list.iter().rev());
            }
            let invalid =
                |reason: String| Error::config(path, "normalizer.precompiled_charsmap", reason);
            let text = match normalizer.get("precompiled_charsmap") {
                Some(Value::String(text)) => text,
                // The library takes it for granted where it is to be used.
                table if table.is_some() || normalizer["type"] == "Precompiled" => {
                    return Err(invalid("missing; expected a table in base64".into()));
                }
                _ => continue,
            };
            let table = base64::decode(text).map_err(|e| invalid(e.to_string()))?;
            check_charsmap(&table).map_err(invalid)?;
            first.get_or_insert(table);
        }
        Ok(first)
    }

    /// Checks what the library takes for granted of the templates that put special tokens around
    /// a text.
    ///
    /// # Errors
    /// Where a template refers to a token that is not described, or to a second text.
    pub(super) fn check_templates(&self, path: &Path) -> Result<()> {
        let invalid = |reason: String| Err(Error::config(path, "post_processor", reason));
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned();
        let mut left: Vec<Value> = self.post_processor.iter().cloned().collect();
        while let Some(processor) = left.pop() {
            left.extend(list(processor.get("processors")).unwrap_or_default());
            let tokens = processor.get("special_tokens");
            let pieces = ["single", "pair"].into_iter().flat_map(|template| {
                let pieces = list(processor.get(template)).unwrap_or_default();
                pieces.into_iter().map(move |piece| (template, piece))
            });
            for (template, piece) in pieces {
                let id = |kind: &str| piece.get(kind)?.get("id")?.as_str();
                if template == "single" && id("Sequence").is_some_and(|id| id != "A") {
                    return invalid("the template of one text has another in it".into());
                }
                let Some(name) = id("SpecialToken") else {
                    continue;
                };
                let Some(token) = tokens.and_then(|tokens| tokens.get(name)) else {
                    return invalid(format!("the special token `{name}` is not described"));
                };
                let count = |field| token.get(field).and_then(Value::as_array).map(Vec::len);
                if count("ids") != count("tokens") {
                    let reason = format!("`{name}` has another number of ids than of tokens");
                    return invalid(reason);
                }
            }
        }
        Ok(())
    }

    /// Checks that the replacements of the normalisation, one after the other, keep a text at a
    /// length that can be held.
    ///
    /// # Errors
    /// Where each byte of a text could become more than [`MAX_GROWTH`].
    pub(super) fn check_growth(&self, path: &Path) -> Result<()> {
        let mut growth = 1u64;
        let mut left: Vec<&Value> = self.normalizer.iter().collect();
        while let Some(normalizer) = left.pop() {
            left.extend(
                normalizer
                    .get("normalizers")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten(),
            );
            let Some(content) = normalizer.get("content").and_then(Value::as_str) else {
                continue;
            };
            let pattern = normalizer.get("pattern");
            let literal = pattern.and_then(|pattern| pattern.get("String")?.as_str());
            growth = growth.saturating_mul(match literal {
                Some(text) => content.len().div_ceil(text.len().max(1)).max(1) as u64,
                // An expression can match nothing, between any two bytes.
                None => content.len() as u64 + 1,
            });
        }
        if growth > MAX_GROWTH {
            let reason = format!(
                "its replacements make up to {growth} bytes of one; at most {MAX_GROWTH} are \
                 accepted"
            );
            return Err(Error::config(path, "normalizer", reason));
        }
        Ok(())
    }
}

/// The `model` of a file.
pub(super) fn model<M: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<M> {
    #[derive(Deserialize)]
    struct Whole<M> {
        model: M,
    }
    parse::<Whole<M>>(path, bytes).map(|whole| whole.model)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::invalid(path, format!("not a tokenizer that can be read: {e}")))
}
