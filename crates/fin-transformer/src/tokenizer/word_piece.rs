//! BERT's tokenizer (Devlin et al. 2018): `BertTokenizer` of `transformers`
//! (`models/bert/tokenization_bert.py`), which DistilBERT shares.

use std::path::Path;

use fin_core::{Error, Result};
use tokenizers::Tokenizer;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use super::config::SpecialTokens;
use super::{Source, Template};

/// Special tokens where no file names others.
pub(super) const DEFAULTS: [(&str, &str); 5] = [
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];

/// Reads `vocab.txt`, a token a line.
pub(super) fn read_vocabulary(path: &Path) -> Result<WordPiece> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    WordPiece::read_bytes(&bytes)
        .and_then(|vocab| WordPiece::builder().vocab(vocab).build())
        .map_err(|e| Error::invalid(path, format!("not a WordPiece vocabulary: {e}")))
}

/// The tokenizer over the vocabulary of `model`, and what it puts around a text: `[CLS]` before it
/// and `[SEP]` after.
///
/// White space and control characters are cleaned, ideographs stand alone, and what else is done
/// to a text is as the configuration says: lower-cased and stripped of accents unless told not to.
pub(super) fn build(
    source: &Source,
    mut model: WordPiece,
    special: &SpecialTokens,
) -> Result<(Tokenizer, Option<Template>)> {
    let role = |role| special.required(source, role);
    let (unk, cls, sep) = (role("unk_token")?, role("cls_token")?, role("sep_token")?);
    model.unk_token = unk.to_string();
    // Upstream takes no notice of what a tokenizer.json says of these two.
    model.continuing_subword_prefix = "##".to_string();
    model.max_input_chars_per_word = 100;
    let mut tokenizer = Tokenizer::new(model);
    if tokenizer.token_to_id(unk).is_none() {
        return Err(source.without(unk));
    }
    let config = source.config;
    tokenizer.with_normalizer(Some(BertNormalizer::new(
        true,
        config.tokenize_chinese_chars.unwrap_or(true),
        config.strip_accents,
        config.do_lower_case.unwrap_or(true),
    )));
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let template = Template::new(&[cls], &[sep], &[sep]).with_second_type();
    Ok((tokenizer, Some(template)))
}
