//! Texts to token ids, by whichever tokenizer a directory has.

use std::path::Path;

use fin_core::Result;
use fin_transformer::{TextTokenizer, TokenizedText};
use rayon::prelude::*;

use crate::config::TextConfig;
use crate::tokenizer::{ClipTokenizer, TokenizerDialect, clean_whitespace};

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
pub(crate) struct Tokenizer {
    kind: Kind,
    /// Whether open_clip cleans the texts of another library's tokenizer.
    cleans: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Clip(Box<ClipTokenizer>),
    XlmRoberta(Box<TextTokenizer>),
}

impl Tokenizer {
    pub fn open(
        directory: &Path,
        tokens: Tokens,
        config: &TextConfig,
        max_length: usize,
    ) -> Result<Self> {
        let vocab_size = config.vocab_size();
        let kind = match config {
            TextConfig::XlmRoberta(config) => {
                let pad_id = Some(config.transformer.pad_token_id());
                let open = TextTokenizer::open(directory, max_length, vocab_size, pad_id)?;
                Kind::XlmRoberta(Box::new(open))
            }
            TextConfig::Clip(_) => {
                let dialect = match tokens {
                    Tokens::OpenClip => TokenizerDialect::OpenClip,
                    _ => TokenizerDialect::Transformers,
                };
                let open = ClipTokenizer::open(directory, dialect, max_length, vocab_size)?;
                Kind::Clip(Box::new(open))
            }
        };
        Ok(Self {
            kind,
            cleans: matches!(tokens, Tokens::ClipCleaned | Tokens::XlmRoberta),
        })
    }

    pub fn encode(&self, texts: &[String]) -> Result<Vec<TokenizedText>> {
        let cleaned: Vec<String>;
        let texts = if self.cleans {
            cleaned = texts
                .par_iter()
                .map(|text| clean_whitespace(text))
                .collect();
            &cleaned
        } else {
            texts
        };
        match &self.kind {
            Kind::Clip(tokenizer) => tokenizer.encode(texts),
            Kind::XlmRoberta(tokenizer) => tokenizer.encode(texts, ""),
        }
    }

    /// Id that batches are padded with.
    pub fn pad_id(&self) -> u32 {
        match &self.kind {
            Kind::Clip(tokenizer) => tokenizer.pad_id(),
            Kind::XlmRoberta(tokenizer) => tokenizer.pad_id(),
        }
    }

    /// Largest number of tokens of a text.
    pub fn max_length(&self) -> usize {
        match &self.kind {
            Kind::Clip(tokenizer) => tokenizer.context_length(),
            Kind::XlmRoberta(tokenizer) => tokenizer.max_length(),
        }
    }
}
