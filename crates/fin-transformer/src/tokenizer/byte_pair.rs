//! CLIP's tokenizer (Radford et al. 2021): `CLIPTokenizer` of `transformers`
//! (`models/clip/tokenization_clip.py`). Byte pairs are merged in the order learnt (Sennrich et al.
//! 2016), over characters that stand for bytes (Radford et al. 2019), with a mark at the end of a
//! word.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use fin_core::{Error, Result};
use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::{self, Lowercase, NFC};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use super::config::SpecialTokens;
use super::{Source, TOKENIZER_JSON, Template, json};
use crate::config::read_json;

/// Special tokens where no file names others.
pub(super) const CLIP_DEFAULTS: [(&str, &str); 4] = [
    ("bos_token", "<|startoftext|>"),
    ("eos_token", "<|endoftext|>"),
    ("unk_token", "<|endoftext|>"),
    ("pad_token", "<|endoftext|>"),
];

/// The two files of a vocabulary without `tokenizer.json`.
pub(super) const VOCAB_JSON: &str = "vocab.json";
const MERGES_TXT: &str = "merges.txt";

/// Mark of a word's last symbol.
const END_OF_WORD: &str = "</w>";

/// What is cut into symbols by itself: words, single digits, runs of other characters.
const PARTS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Symbols with their ids, and the pairs that are merged, the first first.
#[derive(Debug, Clone, Deserialize)]
pub struct BytePairVocabulary {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// A pair, as older and newer files have it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Text(String),
}

impl BytePairVocabulary {
    /// Of symbols with their ids, and pairs in the order in which they are merged.
    pub fn new(vocab: HashMap<String, u32>, merges: Vec<(String, String)>) -> Self {
        let merges = merges.into_iter().map(|(a, b)| Merge::Pair(a, b)).collect();
        Self { vocab, merges }
    }

    /// Whether a directory has a file that [`BytePairVocabulary::read`] reads.
    pub fn is_in(directory: &Path) -> bool {
        [TOKENIZER_JSON, VOCAB_JSON]
            .iter()
            .any(|name| directory.join(name).is_file())
    }

    /// The vocabulary of a directory, from `tokenizer.json`, or from `vocab.json` and `merges.txt`,
    /// and the file that it is in. Tokens that were added to it are left aside.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::InvalidFile`] where there is none or it is damaged.
    pub fn read(directory: &Path) -> Result<(PathBuf, Self)> {
        let file = directory.join(TOKENIZER_JSON);
        if file.is_file() {
            let bytes = std::fs::read(&file).map_err(Error::io(&file, "read"))?;
            let header = json::Header::parse(&file, &bytes)?;
            if !matches!(header.model.kind.as_deref(), None | Some("BPE")) {
                let kind = header.model.kind.unwrap_or_default();
                let reason = format!("is a {kind} vocabulary; CLIP's is made of byte pairs (BPE)");
                return Err(Error::invalid(&file, reason));
            }
            let vocabulary = json::model(&file, &bytes)?;
            return Ok((file, vocabulary));
        }
        let file = directory.join(VOCAB_JSON);
        let vocabulary = Self::read_files(&file)?;
        Ok((file, vocabulary))
    }

    /// `vocab.json`, and `merges.txt` beside it.
    pub(super) fn read_files(file: &Path) -> Result<Self> {
        let vocab = read_json(file)?;
        let path = file.with_file_name(MERGES_TXT);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.starts_with("#version"));
        // At once, so that a file of nothing is not held a line at a time.
        let pair = |(i, line): (usize, &str)| match two_symbols(line) {
            Some([first, second]) => Ok(Merge::Pair(first.into(), second.into())),
            None => {
                let reason = format!("line {} is `{line}`; expected two symbols", i + 1);
                Err(Error::invalid(&path, reason))
            }
        };
        Ok(Self {
            vocab,
            merges: lines.map(pair).collect::<Result<_>>()?,
        })
    }

    /// Id of a symbol.
    pub fn id(&self, symbol: &str) -> Option<u32> {
        self.vocab.get(symbol).copied()
    }

    /// `vocab.json` and `merges.txt` of it, as names and contents.
    pub fn files(&self) -> [(&'static str, Vec<u8>); 2] {
        let mut symbols: Vec<(&String, &u32)> = self.vocab.iter().collect();
        symbols.sort_by_key(|(_, id)| **id);
        let vocab: serde_json::Map<String, serde_json::Value> = symbols
            .into_iter()
            .map(|(symbol, id)| (symbol.clone(), (*id).into()))
            .collect();
        let mut merges = String::from("#version: 0.2\n");
        for merge in &self.merges {
            match merge {
                Merge::Pair(first, second) => merges.extend([first, " ", second]),
                Merge::Text(text) => merges.push_str(text),
            }
            merges.push('\n');
        }
        let vocab = serde_json::Value::Object(vocab).to_string();
        [
            (VOCAB_JSON, vocab.into_bytes()),
            (MERGES_TXT, merges.into_bytes()),
        ]
    }

    /// The model of the `tokenizers` library, with `unknown` for characters that are no symbol.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where there are no symbols, a merge is not a pair of them, or its result
    /// is none.
    pub fn model(self, file: &Path, unknown: Option<&str>) -> Result<BPE> {
        let pair = |(i, merge): (usize, Merge)| match merge {
            Merge::Pair(first, second) => Ok((first, second)),
            Merge::Text(text) => match two_symbols(&text) {
                Some([first, second]) => Ok((first.to_string(), second.to_string())),
                None => Err(Error::invalid(
                    file,
                    format!("merge {i} is `{text}`; expected two symbols"),
                )),
            },
        };
        if self.vocab.is_empty() {
            return Err(Error::invalid(file, "the vocabulary is empty"));
        }
        let merges = self.merges.into_iter().enumerate().map(pair);
        let merges = merges.collect::<Result<Vec<_>>>()?;
        let mut builder = BPE::builder()
            .vocab_and_merges(self.vocab.into_iter().collect::<Vocab>(), merges)
            .end_of_word_suffix(END_OF_WORD.into());
        if let Some(unknown) = unknown {
            builder = builder.unk_token(unknown.into());
        }
        builder
            .build()
            .map_err(|e| Error::invalid(file, format!("not a vocabulary of byte pairs: {e}")))
    }
}

/// The two symbols of a merge.
fn two_symbols(text: &str) -> Option<[&str; 2]> {
    let mut symbols = text.split(' ');
    match (symbols.next(), symbols.next(), symbols.next()) {
        (Some(first), Some(second), None) => Some([first, second]),
        _ => None,
    }
}

/// The tokenizer over a vocabulary, and what it puts around a text: a start and an end token.
pub(super) fn build_clip(
    source: &Source,
    vocabulary: BytePairVocabulary,
    special: &SpecialTokens,
) -> Result<(Tokenizer, Option<Template>)> {
    let role = |role| special.required(source, role);
    let (bos, eos, unk) = (role("bos_token")?, role("eos_token")?, role("unk_token")?);
    let mut tokenizer = Tokenizer::new(vocabulary.model(source.file, Some(unk))?);
    let pattern = |e| Error::invalid(source.file, format!("cannot be split: {e}"));
    let space = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(pattern)?;
    tokenizer.with_normalizer(Some(normalizers::Sequence::new(vec![
        NFC.into(),
        space.into(),
        Lowercase.into(),
    ])));
    let split = SplitPattern::Regex(PARTS.into());
    let split = Split::new(split, SplitDelimiterBehavior::Removed, true).map_err(pattern)?;
    let bytes = ByteLevel::default().add_prefix_space(false);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])));
    let template = Template::new(&[bos], &[eos, eos], &[eos]);
    Ok((tokenizer, Some(template)))
}
