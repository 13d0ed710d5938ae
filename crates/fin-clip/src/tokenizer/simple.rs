//! open_clip's tokenizer (`SimpleTokenizer` in `open_clip/tokenizer.py`, from OpenAI's CLIP).

use std::path::Path;
use std::sync::LazyLock;

use fin_core::{Error, Result};
use fin_transformer::{BytePairVocabulary, TokenizedText};
use rayon::prelude::*;
use regex::Regex;
use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use super::clean::clean_lower;

/// Start and end of a text as open_clip writes them, and as `transformers` does.
pub(super) const SPECIAL: [(&str, &str); 2] = [
    ("<start_of_text>", "<|startoftext|>"),
    ("<end_of_text>", "<|endoftext|>"),
];

/// Words, single digits, and runs of other characters; the special tokens where they are written
/// out. The iota below (U+0345) is in none: where upstream's expression leaves case out of account,
/// it is a letter to what excludes letters, and none to what looks for them.
static PARTS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i:<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+",
    )
    .expect("the pattern belongs to the program and is valid")
});

/// Characters that stand for bytes, as in GPT-2.
static BYTES: LazyLock<[char; 256]> = LazyLock::new(byte_characters);

/// The character for each byte: itself where it can be seen, one from U+0100 on otherwise.
pub(super) fn byte_characters() -> [char; 256] {
    let mut next = 0x100u32;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) => byte.into(),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or_default()
        }
    })
}

#[derive(Debug, Clone)]
pub(super) struct SimpleTokenizer {
    model: BPE,
    /// Ids of start and end.
    special: [u32; 2],
    context_length: usize,
}

impl SimpleTokenizer {
    /// With the vocabulary that was read from `file`.
    pub fn new(file: &Path, vocabulary: BytePairVocabulary, context_length: usize) -> Result<Self> {
        let id = |(ours, theirs): (&str, &str)| {
            let found = vocabulary.id(ours).or_else(|| vocabulary.id(theirs));
            found.ok_or_else(|| {
                let reason = format!("neither {ours} nor {theirs} is in the vocabulary");
                Error::invalid(file, reason)
            })
        };
        let special = [id(SPECIAL[0])?, id(SPECIAL[1])?];
        for byte in *BYTES {
            for symbol in [byte.to_string(), format!("{byte}</w>")] {
                if vocabulary.id(&symbol).is_none() {
                    let reason = format!("the byte symbol `{symbol}` is not in the vocabulary");
                    return Err(Error::invalid(file, reason));
                }
            }
        }
        Ok(Self {
            model: vocabulary.model(file, None)?,
            special,
            context_length,
        })
    }

    pub fn special(&self) -> [u32; 2] {
        self.special
    }

    pub fn encode(&self, texts: &[String]) -> Result<Vec<TokenizedText>> {
        texts.par_iter().map(|text| self.encode_one(text)).collect()
    }

    fn encode_one(&self, text: &str) -> Result<TokenizedText> {
        let [start, end] = self.special;
        let mut ids = vec![start];
        let text = clean_lower(text);
        for part in PARTS.find_iter(&text) {
            // There is no need to know how much is cut off.
            if ids.len() >= self.context_length {
                break;
            }
            let part = part.as_str();
            if let Some(i) = SPECIAL.iter().position(|(token, _)| *token == part) {
                ids.push(self.special[i]);
                continue;
            }
            let symbols: String = part.bytes().map(|byte| BYTES[usize::from(byte)]).collect();
            let tokens = self
                .model
                .tokenize(&symbols)
                .map_err(|e| Error::argument("text", format!("cannot be tokenised: {e}")))?;
            ids.extend(tokens.iter().map(|token| token.id));
        }
        ids.push(end);
        let truncated = ids.len() > self.context_length;
        if truncated {
            ids.truncate(self.context_length);
            ids[self.context_length - 1] = end;
        }
        Ok(TokenizedText { ids, truncated })
    }
}
