//! From texts to token ids.

use std::path::Path;

use fin_core::{Error, Result};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy,
};

use crate::config::read_json;

/// Token ids of one text, special tokens included, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedText {
    /// Ids in order.
    pub ids: Vec<u32>,
    /// Whether the text was cut to the maximum length.
    pub truncated: bool,
}

/// A tokenizer that cuts to a maximum length and never pads.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
    pad_id: u32,
    vocab_size: usize,
    do_lower_case: bool,
}

/// What `tokenizer_config.json` says of a WordPiece tokenizer.
#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct TokenizerConfig {
    do_lower_case: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
    /// Some checkpoints have 1e30 here, for "no limit".
    pub(crate) model_max_length: Option<f64>,
}

impl TokenizerConfig {
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("tokenizer_config.json");
        if path.is_file() {
            read_json(&path)
        } else {
            Ok(Self::default())
        }
    }
}

impl TextTokenizer {
    /// Opens `tokenizer.json`, or builds a WordPiece tokenizer from `vocab.txt` (and
    /// `tokenizer_config.json`) where that is all there is.
    ///
    /// `vocab_size` is the number of rows of the model's word table; an id beyond it is an error
    /// when it occurs. `pad_id` overrides the id of `[PAD]`.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where there is no tokenizer or it is damaged.
    pub fn open(
        directory: &Path,
        max_length: usize,
        vocab_size: usize,
        pad_id: Option<u32>,
    ) -> Result<Self> {
        let json = directory.join("tokenizer.json");
        let vocab = directory.join("vocab.txt");
        let mut inner = if json.is_file() {
            let bytes = std::fs::read(&json).map_err(Error::io(&json, "read"))?;
            Tokenizer::from_bytes(bytes).map_err(|e| {
                Error::invalid(&json, format!("not a tokenizer that can be read: {e}"))
            })?
        } else if vocab.is_file() {
            word_piece(&vocab, &TokenizerConfig::read(directory)?)?
        } else {
            return Err(Error::invalid(
                directory,
                "no tokenizer found; looked for tokenizer.json, vocab.txt",
            ));
        };
        inner.with_padding(None);
        inner
            .with_truncation(Some(TruncationParams {
                max_length,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
                direction: TruncationDirection::Right,
            }))
            .map_err(|e| Error::argument("max-length", e))?;
        let pad_id = pad_id.or_else(|| inner.token_to_id("[PAD]")).unwrap_or(0);
        Ok(Self {
            inner,
            pad_id,
            vocab_size,
            do_lower_case: false,
        })
    }

    /// Lower-cases texts before anything else (`do_lower_case` of sentence-transformers).
    pub(crate) fn lower_case(mut self, yes: bool) -> Self {
        self.do_lower_case = yes;
        self
    }

    /// Id that batches are padded with.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Largest number of tokens a text may have, special tokens included.
    pub fn max_length(&self) -> usize {
        self.inner
            .get_truncation()
            .map_or(usize::MAX, |truncation| truncation.max_length)
    }

    /// Tokenises texts in order, `prefix` put before each.
    ///
    /// # Errors
    /// [`Error::Argument`] where a text has an id that the model's word table does not hold.
    pub fn encode(&self, texts: &[String], prefix: &str) -> Result<Vec<TokenizedText>> {
        let inputs: Vec<String> = texts
            .iter()
            .map(|text| {
                let text = format!("{prefix}{text}");
                if self.do_lower_case {
                    text.to_lowercase()
                } else {
                    text
                }
            })
            .collect();
        let encodings = self
            .inner
            .encode_batch_fast(inputs, true)
            .map_err(|e| Error::argument("text", format!("cannot be tokenised: {e}")))?;
        encodings
            .into_iter()
            .map(|encoding| {
                let truncated = !encoding.get_overflowing().is_empty();
                let ids = encoding.get_ids().to_vec();
                match ids.iter().find(|id| **id as usize >= self.vocab_size) {
                    Some(id) => Err(Error::argument(
                        "tokenizer",
                        format!(
                            "token {id} is beyond the model's vocabulary of {}; \
                             the tokenizer and the weights do not belong together",
                            self.vocab_size
                        ),
                    )),
                    None => Ok(TokenizedText { ids, truncated }),
                }
            })
            .collect()
    }
}

/// BERT's tokenizer (Devlin et al. 2018) from its vocabulary, a token a line.
fn word_piece(vocab: &Path, config: &TokenizerConfig) -> Result<Tokenizer> {
    let invalid = |e: &dyn std::fmt::Display| {
        Error::invalid(vocab, format!("not a WordPiece vocabulary: {e}"))
    };
    std::fs::File::open(vocab).map_err(Error::io(vocab, "open"))?;
    let entries = WordPiece::read_file(&vocab.to_string_lossy()).map_err(|e| invalid(&e))?;
    let model = WordPiece::builder()
        .vocab(entries)
        .unk_token("[UNK]".into())
        .build()
        .map_err(|e| invalid(&e))?;
    let mut tokenizer = Tokenizer::new(model);
    let id = |token: &str| {
        tokenizer
            .token_to_id(token)
            .ok_or_else(|| invalid(&format!("the special token {token} is not in it")))
    };
    let (cls, sep) = (id("[CLS]")?, id("[SEP]")?);
    id("[UNK]")?;
    let template = TemplateProcessing::builder()
        .try_single("[CLS] $A [SEP]")
        .and_then(|builder| builder.try_pair("[CLS] $A [SEP] $B:1 [SEP]:1"))
        .map_err(|e| invalid(&e))?
        .special_tokens(vec![("[CLS]", cls), ("[SEP]", sep)])
        .build()
        .map_err(|e| invalid(&e))?;
    tokenizer.with_normalizer(Some(BertNormalizer::new(
        true,
        config.tokenize_chinese_chars.unwrap_or(true),
        config.strip_accents,
        config.do_lower_case.unwrap_or(true),
    )));
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_post_processor(Some(template));
    // Special tokens written out in a text are tokens, as upstream has it.
    let special =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(|token| AddedToken::from(token, true));
    tokenizer.add_special_tokens(&special);
    Ok(tokenizer)
}
