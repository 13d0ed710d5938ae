//! CLIP's tokenizers: texts to the ids of their tokens.
//!
//! Two libraries have one each, over the same vocabulary of 49,408 tokens. Both put a token before
//! and one after a text, cut it to 77 tokens with the last of them the end token, and split it by
//! the same expression into words whose bytes are then merged. They differ in what they do to a
//! text before ([`clean_lower`] in open_clip; normalisation form C, white space and small letters in
//! `transformers`), in what tokens written out in a text are tokens, and in padding.

mod clean;
mod encodings;
mod html;
mod mojibake;
mod simple;
mod tables;
mod vocabulary;

use std::path::{Path, PathBuf};

use fin_core::{Error, Result};
use fin_transformer::{BytePairVocabulary, TextTokenizer, TokenizedText};

pub use clean::{clean_lower, clean_whitespace};
pub use html::unescape;
pub use vocabulary::read_bpe;

use simple::SimpleTokenizer;

/// Longest sequence of the published models, special tokens included.
pub const CONTEXT_LENGTH: usize = 77;

/// Files with merges alone, as OpenAI and open_clip distribute them.
pub(crate) const BPE_FILES: [&str; 2] =
    ["bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt"];

/// Whose tokenizer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerDialect {
    /// `CLIPTokenizer` of `transformers` 5 (`models/clip/tokenization_clip.py`).
    Transformers,
    /// `SimpleTokenizer` of open_clip 3 (`open_clip/tokenizer.py`).
    OpenClip,
}

/// A tokenizer that cuts to a number of tokens and does not pad.
#[derive(Debug, Clone)]
pub struct ClipTokenizer {
    kind: Kind,
    context_length: usize,
    vocab_size: usize,
    special: [u32; 2],
    pad_id: u32,
    file: PathBuf,
}

#[derive(Debug, Clone)]
enum Kind {
    Transformers(Box<TextTokenizer>),
    OpenClip(Box<SimpleTokenizer>),
}

impl ClipTokenizer {
    /// Opens the tokenizer of a directory, from `tokenizer.json`, from `vocab.json` and
    /// `merges.txt`, or from `bpe_simple_vocab_16e6.txt.gz`, the first of these that there is.
    ///
    /// Texts are cut to `context_length` tokens. `vocab_size` is the number of rows of the model's
    /// token table; an id beyond it is an error when it occurs. In the dialect of `transformers`
    /// the configuration files beside the vocabulary are heeded.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where there is no vocabulary or it is damaged, [`Error::Config`] where
    /// a configuration file asks for what cannot be, [`Error::Argument`] where `context_length`
    /// leaves no room for a token between the special ones.
    pub fn open(
        directory: &Path,
        dialect: TokenizerDialect,
        context_length: usize,
        vocab_size: usize,
    ) -> Result<Self> {
        if BytePairVocabulary::is_in(directory) {
            return match dialect {
                TokenizerDialect::Transformers => {
                    let inner = TextTokenizer::open_clip(directory, context_length, vocab_size)?;
                    Self::transformers(directory, inner, context_length, vocab_size)
                }
                TokenizerDialect::OpenClip => {
                    let (file, vocabulary) = BytePairVocabulary::read(directory)?;
                    Self::open_clip(&file, vocabulary, context_length, vocab_size)
                }
            };
        }
        let files = BPE_FILES.map(|name| directory.join(name));
        match files.iter().find(|file| file.is_file()) {
            Some(file) => Self::from_bpe(file, dialect, context_length, vocab_size),
            None => Err(Error::invalid(
                directory,
                format!(
                    "no tokenizer found; looked for tokenizer.json, vocab.json with merges.txt, {}",
                    BPE_FILES.join(", ")
                ),
            )),
        }
    }

    /// Opens the tokenizer over a file of merges, [`read_bpe`]'s.
    ///
    /// # Errors
    /// As [`ClipTokenizer::open`].
    pub fn from_bpe(
        file: &Path,
        dialect: TokenizerDialect,
        context_length: usize,
        vocab_size: usize,
    ) -> Result<Self> {
        let vocabulary = read_bpe(file, dialect)?;
        match dialect {
            TokenizerDialect::Transformers => {
                let inner = TextTokenizer::from_clip(file, vocabulary, context_length, vocab_size)?;
                Self::transformers(file, inner, context_length, vocab_size)
            }
            TokenizerDialect::OpenClip => {
                Self::open_clip(file, vocabulary, context_length, vocab_size)
            }
        }
    }

    fn transformers(
        file: &Path,
        inner: TextTokenizer,
        context_length: usize,
        vocab_size: usize,
    ) -> Result<Self> {
        // What is around an empty text.
        let empty = inner.encode(&[String::new()], "")?;
        let special = match empty.first().map(|text| &*text.ids) {
            Some([start, end]) => [*start, *end],
            _ => return Err(Error::invalid(file, "a text has no start or no end token")),
        };
        Ok(Self {
            pad_id: inner.pad_id(),
            kind: Kind::Transformers(Box::new(inner)),
            context_length,
            vocab_size,
            special,
            file: file.into(),
        })
    }

    fn open_clip(
        file: &Path,
        vocabulary: BytePairVocabulary,
        context_length: usize,
        vocab_size: usize,
    ) -> Result<Self> {
        if context_length <= 2 {
            return Err(Error::argument(
                "max-length",
                format!("{context_length} leaves no room beside 2 special tokens"),
            ));
        }
        let inner = SimpleTokenizer::new(file, vocabulary, context_length)?;
        Ok(Self {
            special: inner.special(),
            kind: Kind::OpenClip(Box::new(inner)),
            context_length,
            vocab_size,
            pad_id: 0,
            file: file.into(),
        })
    }

    /// Whose tokenizer it is.
    pub fn dialect(&self) -> TokenizerDialect {
        match self.kind {
            Kind::Transformers(_) => TokenizerDialect::Transformers,
            Kind::OpenClip(_) => TokenizerDialect::OpenClip,
        }
    }

    /// Largest number of tokens of a text, special tokens included.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Id before every text.
    pub fn start_id(&self) -> u32 {
        self.special[0]
    }

    /// Id after every text. Where the token is written out in a text it comes earlier as well, and
    /// that is the place where both libraries take a text's vector.
    pub fn end_id(&self) -> u32 {
        self.special[1]
    }

    /// Id that batches are padded with: 0 in open_clip, which always pads to the context length;
    /// in `transformers` the padding token's, the end token unless a file names another. Texts are
    /// padded at the end, where the causal mask hides it from all that comes before.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Ids of texts, in order: the start token, at most `context_length - 2` tokens, the end token,
    /// no padding.
    ///
    /// # Errors
    /// [`Error::Argument`] where a text has an id that the model's token table does not hold.
    pub fn encode(&self, texts: &[String]) -> Result<Vec<TokenizedText>> {
        let found = match &self.kind {
            Kind::Transformers(inner) => return inner.encode(texts, ""),
            Kind::OpenClip(inner) => inner.encode(texts)?,
        };
        let ids = found.iter().flat_map(|text| &text.ids);
        match ids.copied().find(|id| *id as usize >= self.vocab_size) {
            Some(id) => Err(Error::invalid(
                &self.file,
                format!(
                    "token {id} is beyond the model's vocabulary of {}; the tokenizer and the \
                     weights do not belong together",
                    self.vocab_size
                ),
            )),
            None => Ok(found),
        }
    }
}
