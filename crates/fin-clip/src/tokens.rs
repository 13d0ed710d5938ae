//! Texts to token ids, by whichever tokenizer a directory has.

use std::path::Path;

use fin_core::Result;
use fin_transformer::{TextTokenizer, TokenizedText};

use crate::config::TextConfig;

/// How texts become ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// CLIP's tokenizer as `transformers` has it.
    Clip,
    /// The same after open_clip has cleaned the text.
    ClipCleaned,
    /// CLIP's tokenizer as open_clip has it.
    OpenClip,
    /// XLM-RoBERTa's after open_clip has cleaned the text.
    XlmRoberta,
}

/// The tokenizer of a model.
#[derive(Debug, Clone)]
pub(crate) enum Tokenizer {
    Plain(TextTokenizer),
}

impl Tokenizer {
    pub fn open(
        directory: &Path,
        tokens: Tokens,
        config: &TextConfig,
        max_length: usize,
    ) -> Result<Self> {
        let pad_id = match (tokens, config) {
            (_, TextConfig::XlmRoberta(config)) => Some(config.transformer.pad_token_id()),
            _ => None,
        };
        let open = TextTokenizer::open(directory, max_length, config.vocab_size(), pad_id)?;
        Ok(Self::Plain(open))
    }

    pub fn encode(&self, texts: &[String]) -> Result<Vec<TokenizedText>> {
        match self {
            Self::Plain(tokenizer) => tokenizer.encode(texts, ""),
        }
    }

    /// Id that batches are padded with.
    pub fn pad_id(&self) -> u32 {
        match self {
            Self::Plain(tokenizer) => tokenizer.pad_id(),
        }
    }

    /// Largest number of tokens of a text.
    pub fn max_length(&self) -> usize {
        match self {
            Self::Plain(tokenizer) => tokenizer.max_length(),
        }
    }
}
