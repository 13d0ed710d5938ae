//! From texts to token ids.
//!
//! A directory's tokenizer is the one that `AutoTokenizer` of `transformers` 5 builds from it.
//! That goes by the class which `tokenizer_config.json` or `config.json` names: the known classes
//! are built from the vocabulary, whether it is in `tokenizer.json` or in a file of its own, and
//! all else is as the class has it. Another class's `tokenizer.json` is taken as it is.

mod byte_pair;
mod config;
mod json;
mod pairs;
mod sentence_piece;
mod unigram;
mod word_piece;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use fin_core::{Error, Result};
use serde::Deserialize;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, PostProcessor, Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy,
};

pub use byte_pair::BytePairVocabulary;
pub(crate) use config::TokenizerConfig;
pub use pairs::{PairTokenizer, TokenizedPair};

use crate::config::read_json;
use config::{SpecialTokens, TOKENIZER_CONFIG, merge};
use json::Header;
use unigram::Vocabulary;

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
    has_token_types: bool,
}

/// The classes of `transformers` that are built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Bert,
    T5,
    XlmRoberta,
    Clip,
    /// Any other: whatever its `tokenizer.json` describes.
    Other,
}

const TOKENIZER_JSON: &str = "tokenizer.json";

/// Files with a vocabulary alone, and the class whose they are.
const VOCABULARIES: [(&str, Class); 4] = [
    ("vocab.txt", Class::Bert),
    ("spiece.model", Class::T5),
    ("sentencepiece.bpe.model", Class::XlmRoberta),
    (byte_pair::VOCAB_JSON, Class::Clip),
];

impl Class {
    /// The class that the configuration files name.
    ///
    /// # Errors
    /// Where `config.json` is there, but cannot be read.
    fn read(directory: &Path, config: &TokenizerConfig) -> Result<Self> {
        #[derive(Default, Deserialize)]
        struct ModelConfig {
            model_type: Option<String>,
            tokenizer_class: Option<String>,
        }
        let path = directory.join("config.json");
        let model: ModelConfig = if path.is_file() {
            read_json(&path)?
        } else {
            ModelConfig::default()
        };
        let class = config
            .tokenizer_class
            .as_ref()
            .or(model.tokenizer_class.as_ref());
        Ok(match class {
            Some(name) => match name.strip_suffix("Fast").unwrap_or(name) {
                "BertTokenizer" | "DistilBertTokenizer" => Self::Bert,
                "T5Tokenizer" => Self::T5,
                "XLMRobertaTokenizer" => Self::XlmRoberta,
                "CLIPTokenizer" => Self::Clip,
                _ => Self::Other,
            },
            None => match model.model_type.as_deref() {
                Some("bert" | "distilbert") => Self::Bert,
                Some("t5" | "mt5") => Self::T5,
                Some("xlm-roberta") => Self::XlmRoberta,
                Some("clip" | "clip_text_model") => Self::Clip,
                _ => Self::Other,
            },
        })
    }

    /// The class if `model.type` of a `tokenizer.json` is what it builds on.
    fn if_built_on(self, model: Option<&str>) -> Self {
        match (self, model) {
            (Self::Bert, None | Some("WordPiece")) => self,
            (Self::T5 | Self::XlmRoberta, None | Some("Unigram")) => self,
            (Self::Clip, None | Some("BPE")) => self,
            _ => Self::Other,
        }
    }

    /// Special tokens where no file names others.
    fn defaults(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Bert => &word_piece::DEFAULTS,
            Self::T5 => &unigram::T5_DEFAULTS,
            Self::XlmRoberta => &unigram::XLM_ROBERTA_DEFAULTS,
            Self::Clip => &byte_pair::CLIP_DEFAULTS,
            Self::Other => &[],
        }
    }
}

/// Where a tokenizer comes from.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    directory: &'a Path,
    /// The file with the vocabulary.
    file: &'a Path,
    config: &'a TokenizerConfig,
}

impl Source<'_> {
    fn without(&self, token: &str) -> Error {
        Error::invalid(
            self.file,
            format!("the special token {token} is not in the vocabulary"),
        )
    }
}

/// Special tokens around a text, and around and between two.
#[derive(Debug, Clone)]
struct Template {
    before: Vec<String>,
    between: Vec<String>,
    after: Vec<String>,
    /// Token type of the second text of two and of what follows it.
    second_type: u32,
}

impl Template {
    /// Of tokens that come before, between and after texts. Those between two are among those
    /// after.
    fn new(before: &[&str], between: &[&str], after: &[&str]) -> Self {
        let owned = |tokens: &[&str]| tokens.iter().map(|token| (*token).into()).collect();
        Self {
            before: owned(before),
            between: owned(between),
            after: owned(after),
            second_type: 0,
        }
    }

    /// With a token type of its own for the second text of two.
    fn with_second_type(mut self) -> Self {
        self.second_type = 1;
        self
    }

    fn tokens(&self) -> impl Iterator<Item = &String> {
        self.before.iter().chain(&self.after)
    }

    /// The processing step, with ids as `tokenizer` has them.
    fn processing(&self, source: &Source, tokenizer: &Tokenizer) -> Result<TemplateProcessing> {
        let invalid = |e: &dyn std::fmt::Display| {
            let reason = format!("special tokens that cannot be used: {e}");
            Error::invalid(source.file, reason)
        };
        let text = ["$A".to_string()];
        let single: Vec<String> = [&*self.before, &text, &*self.after].concat();
        let typed = |parts: [&[String]; 3], kind: u32| -> Vec<String> {
            let pieces = parts.into_iter().flatten();
            pieces.map(|piece| format!("{piece}:{kind}")).collect()
        };
        let second = ["$B".to_string()];
        let pair = [
            typed([&self.before, &text, &self.between], 0),
            typed([&[], &second, &self.after], self.second_type),
        ];
        let id = |token: &String| {
            let id = tokenizer.token_to_id(token);
            Ok((token.clone(), id.ok_or_else(|| source.without(token))?))
        };
        TemplateProcessing::builder()
            .try_single(single)
            .map_err(|e| invalid(&e))?
            .try_pair(pair.concat())
            .map_err(|e| invalid(&e))?
            .special_tokens(self.tokens().map(id).collect::<Result<Vec<_>>>()?)
            .build()
            .map_err(|e| invalid(&e))
    }
}

impl TextTokenizer {
    /// Opens the tokenizer of a directory: `tokenizer.json`, or a vocabulary alone, which is
    /// BERT's `vocab.txt`, T5's `spiece.model`, XLM-RoBERTa's `sentencepiece.bpe.model`, or CLIP's
    /// `vocab.json` with `merges.txt` where a configuration file says that it is CLIP's.
    /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` are heeded.
    ///
    /// `vocab_size` is the number of rows of the model's word table; an id beyond it is an error
    /// when it occurs. `pad_id` overrides the id of the padding token (`[PAD]`, `<pad>`).
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where there is no tokenizer or it is damaged, [`Error::Config`] where
    /// a configuration file asks for what cannot be, [`Error::Argument`] where `max_length` leaves
    /// no room for a token between the special ones.
    pub fn open(
        directory: &Path,
        max_length: usize,
        vocab_size: usize,
        pad_id: Option<u32>,
    ) -> Result<Self> {
        let config = TokenizerConfig::read(directory)?;
        let class = Class::read(directory, &config)?;
        Self::open_as(directory, class, &config, max_length, vocab_size, pad_id)
    }

    /// [`TextTokenizer::open`] for a directory whose tokenizer is CLIP's, whether or not its files
    /// say so.
    ///
    /// # Errors
    /// As [`TextTokenizer::open`].
    pub fn open_clip(directory: &Path, max_length: usize, vocab_size: usize) -> Result<Self> {
        let config = TokenizerConfig::read(directory)?;
        Self::open_as(
            directory,
            Class::Clip,
            &config,
            max_length,
            vocab_size,
            None,
        )
    }

    /// CLIP's tokenizer over a vocabulary that was read from `file`, with no configuration.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where a special token is not in the vocabulary or a merge makes what
    /// is not, [`Error::Argument`] as [`TextTokenizer::open`].
    pub fn from_clip(
        file: &Path,
        vocabulary: BytePairVocabulary,
        max_length: usize,
        vocab_size: usize,
    ) -> Result<Self> {
        let config = TokenizerConfig::default();
        let source = Source {
            // The file is not a directory, so that there is nothing beside the vocabulary.
            directory: file,
            file,
            config: &config,
        };
        let special = SpecialTokens::read(&source, Class::Clip.defaults(), [])?;
        let (tokenizer, template) = byte_pair::build_clip(&source, vocabulary, &special)?;
        let direction = TruncationDirection::Right;
        let opened = finish(&source, tokenizer, template, special, direction)?;
        Self::new(
            file,
            opened,
            Class::Clip,
            &config,
            max_length,
            vocab_size,
            None,
        )
    }

    fn open_as(
        directory: &Path,
        class: Class,
        config: &TokenizerConfig,
        max_length: usize,
        vocab_size: usize,
        pad_id: Option<u32>,
    ) -> Result<Self> {
        let json = directory.join(TOKENIZER_JSON);
        let (opened, class) = if json.is_file() {
            (open_json(directory, &json, class, config)?, class)
        } else {
            let found = VOCABULARIES
                .iter()
                // Other tokenizers' vocabularies have the name of CLIP's.
                .filter(|(_, of)| *of != Class::Clip || class == Class::Clip)
                .map(|(name, class)| (directory.join(name), *class))
                .find(|(path, _)| path.is_file());
            let Some((path, class)) = found else {
                let names = VOCABULARIES.map(|(name, _)| name).join(", ");
                return Err(Error::invalid(
                    directory,
                    format!("no tokenizer found; looked for {TOKENIZER_JSON}, {names}"),
                ));
            };
            (open_vocabulary(directory, &path, class, config)?, class)
        };
        Self::new(
            directory, opened, class, config, max_length, vocab_size, pad_id,
        )
    }

    fn new(
        directory: &Path,
        (mut inner, pad_token, direction): Opened,
        class: Class,
        config: &TokenizerConfig,
        max_length: usize,
        vocab_size: usize,
        pad_id: Option<u32>,
    ) -> Result<Self> {
        inner.with_padding(None);
        inner.set_encode_special_tokens(config.split_special_tokens.unwrap_or(false));
        let direction = match config.truncation_side.as_deref() {
            Some("right") => TruncationDirection::Right,
            Some("left") => TruncationDirection::Left,
            None => direction,
            Some(other) => {
                return Err(Error::config(
                    directory.join(TOKENIZER_CONFIG),
                    "truncation_side",
                    format!("`{other}` is not supported; supported: right, left"),
                ));
            }
        };
        let special = inner
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(false));
        if max_length <= special {
            return Err(Error::argument(
                "max-length",
                format!("{max_length} leaves no room beside {special} special tokens"),
            ));
        }
        inner
            .with_truncation(Some(TruncationParams {
                max_length,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
                direction,
            }))
            .map_err(|e| Error::argument("max-length", e))?;
        let pad_id = pad_id
            .or_else(|| inner.token_to_id(&pad_token?))
            .or_else(|| inner.token_to_id("[PAD]"))
            .or_else(|| inner.token_to_id("<pad>"))
            .unwrap_or(0);
        Ok(Self {
            inner,
            pad_id,
            vocab_size,
            do_lower_case: false,
            has_token_types: config.has_token_types().unwrap_or(class == Class::Bert),
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
                check_ids(&ids, self.vocab_size)?;
                Ok(TokenizedText { ids, truncated })
            })
            .collect()
    }
}

/// Ids must be rows of the model's word table.
fn check_ids(ids: &[u32], vocab_size: usize) -> Result<()> {
    match ids.iter().find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(Error::argument(
            "tokenizer",
            format!(
                "token {id} is beyond the model's vocabulary of {vocab_size}; the tokenizer and \
                 the weights do not belong together"
            ),
        )),
        None => Ok(()),
    }
}

/// A tokenizer, the text of its padding token, and which end of a text to cut off.
type Opened = (Tokenizer, Option<String>, TruncationDirection);

/// The tokenizer of a `tokenizer.json`.
fn open_json(
    directory: &Path,
    file: &Path,
    class: Class,
    config: &TokenizerConfig,
) -> Result<Opened> {
    let bytes = std::fs::read(file).map_err(Error::io(file, "read"))?;
    let header = Header::parse(file, &bytes)?;
    let charsmap = header.charsmap(file)?;
    let class = class.if_built_on(header.model.kind.as_deref());
    let source = Source {
        directory,
        file,
        config,
    };
    let mut special = SpecialTokens::read(&source, class.defaults(), header.added_tokens())?;
    let unigram = || -> Result<Vocabulary> {
        Ok(Vocabulary {
            charsmap,
            ..json::model(file, &bytes)?
        })
    };
    let (tokenizer, template) = match class {
        Class::Bert => word_piece::build(&source, json::model(file, &bytes)?, &special)?,
        Class::T5 => unigram::build_t5(&source, unigram()?, &mut special)?,
        Class::XlmRoberta => unigram::build_xlm_roberta(&source, unigram()?, &special)?,
        Class::Clip => byte_pair::build_clip(&source, json::model(file, &bytes)?, &special)?,
        Class::Other => {
            if matches!(header.model.kind.as_deref(), None | Some("Unigram"))
                && let Ok(vocabulary) = json::model::<Vocabulary>(file, &bytes)
            {
                unigram::check_pieces(file, &vocabulary.pieces)?;
            }
            header.check_growth(file)?;
            header.check_templates(file)?;
            let tokenizer = Tokenizer::from_bytes(&bytes).map_err(|e| {
                Error::invalid(file, format!("not a tokenizer that can be read: {e}"))
            })?;
            (tokenizer, None)
        }
    };
    let direction = header.truncation().unwrap_or_default();
    finish(&source, tokenizer, template, special, direction)
}

/// The tokenizer over a vocabulary that is in a file of its own.
fn open_vocabulary(
    directory: &Path,
    file: &Path,
    class: Class,
    config: &TokenizerConfig,
) -> Result<Opened> {
    let source = Source {
        directory,
        file,
        config,
    };
    let mut special = SpecialTokens::read(&source, class.defaults(), [])?;
    let (tokenizer, template) = match class {
        Class::T5 => {
            let vocabulary = unigram::read_t5(&source, &mut special)?;
            unigram::build_t5(&source, vocabulary, &mut special)?
        }
        Class::XlmRoberta => {
            let vocabulary = unigram::read_xlm_roberta(&source, &mut special)?;
            unigram::build_xlm_roberta(&source, vocabulary, &special)?
        }
        Class::Clip => {
            byte_pair::build_clip(&source, BytePairVocabulary::read_files(file)?, &special)?
        }
        Class::Bert | Class::Other => {
            word_piece::build(&source, word_piece::read_vocabulary(file)?, &special)?
        }
    };
    let direction = TruncationDirection::Right;
    finish(&source, tokenizer, template, special, direction)
}

/// Adds the special tokens, so that they are tokens where a text has them written out, and puts
/// those of the template around a text.
fn finish(
    source: &Source,
    mut tokenizer: Tokenizer,
    template: Option<Template>,
    special: SpecialTokens,
    direction: TruncationDirection,
) -> Result<Opened> {
    for token in template.iter().flat_map(Template::tokens) {
        // One that is new to the vocabulary would get an id that the model was not trained with.
        if tokenizer.token_to_id(token).is_none() && !special.is_added(token) {
            return Err(source.without(token));
        }
    }
    let pad_token = special.text("pad_token").map(str::to_string);
    let decoder = tokenizer.get_added_tokens_decoder().into_iter();
    let present: BTreeMap<u32, AddedToken> = decoder.collect();
    let present: Vec<AddedToken> = present.into_values().collect();
    let tokens = special.into_tokens(&present);
    let by_text: HashMap<&str, &AddedToken> = present
        .iter()
        .map(|token| (&*token.content, token))
        .collect();
    let changes = |token: &AddedToken| {
        let other = by_text.get(&*token.content);
        other.is_some_and(|other| *other != token)
    };
    if tokens.iter().any(changes) {
        // A token's flags do not all change when it is added again.
        tokenizer = without_added_tokens(&tokenizer);
    }
    tokenizer.add_tokens(&merge(present.into_iter().chain(tokens)));
    if let Some(template) = template {
        let processing = template.processing(source, &tokenizer)?;
        tokenizer.with_post_processor(Some(processing));
    }
    Ok((tokenizer, pad_token, direction))
}

/// The same tokenizer before any token was added to its model's vocabulary.
fn without_added_tokens(tokenizer: &Tokenizer) -> Tokenizer {
    let mut new = Tokenizer::new(tokenizer.get_model().clone());
    new.with_normalizer(tokenizer.get_normalizer().cloned())
        .with_pre_tokenizer(tokenizer.get_pre_tokenizer().cloned())
        .with_post_processor(tokenizer.get_post_processor().cloned());
    new
}
