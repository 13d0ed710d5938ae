//! The tokenizers of T5 (Raffel et al. 2020) and XLM-RoBERTa (Conneau et al. 2020): `T5Tokenizer`
//! and `XLMRobertaTokenizer` of `transformers` (`models/t5/tokenization_t5.py`,
//! `models/xlm_roberta/tokenization_xlm_roberta.py`, and `convert_slow_tokenizer.py` for the
//! SentencePiece models).
//!
//! Both cut text into the most probable pieces (Kudo 2018) after normalising it by the model's own
//! table. They split at white space first, and put `▁` in front of every word.

use std::path::Path;

use fin_core::{Error, Result};
use serde::Deserialize;
use tokenizers::Tokenizer;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::Precompiled;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;

use super::config::{SpecialTokens, TOKENIZER_CONFIG};
use super::sentence_piece::{Piece, PieceKind, SentencePieceModel, check_charsmap};
use super::{Source, Template};

/// T5's special tokens where no file names others.
pub(super) const T5_DEFAULTS: [(&str, &str); 3] = [
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("pad_token", "<pad>"),
];

/// XLM-RoBERTa's special tokens where no file names others.
pub(super) const XLM_ROBERTA_DEFAULTS: [(&str, &str); 7] = [
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("sep_token", "</s>"),
    ("cls_token", "<s>"),
    ("unk_token", "<unk>"),
    ("pad_token", "<pad>"),
    ("mask_token", "<mask>"),
];

/// Id of the unknown piece, which upstream takes for granted.
const T5_UNKNOWN: usize = 2;
const XLM_ROBERTA_UNKNOWN: usize = 3;

/// XLM-RoBERTa's ids are those of fairseq: four special tokens in place of the model's three.
const XLM_ROBERTA_DROPPED: usize = 3;

/// Number of T5's `<extra_id_…>` tokens where no file says it.
const EXTRA_IDS: u64 = 100;
const MAX_EXTRA_IDS: u64 = 1 << 16;

/// Pieces of SentencePiece models have up to 16 characters, unless asked for otherwise. The search
/// tree is as deep as the longest piece, and walked by recursion.
const MAX_PIECE_BYTES: usize = 1024;

/// Pieces with their scores in the order of ids, and the normalisation table.
#[derive(Debug, Default, PartialEq, Deserialize)]
pub(super) struct Vocabulary {
    #[serde(rename = "vocab")]
    pub pieces: Vec<(String, f64)>,
    #[serde(skip)]
    pub charsmap: Option<Vec<u8>>,
}

/// Reads T5's `spiece.model`. The pieces are followed by the extra ids, the highest first.
pub(super) fn read_t5(source: &Source, special: &mut SpecialTokens) -> Result<Vocabulary> {
    let model = SentencePieceModel::read(source.file)?;
    let unknown = model.pieces.get(T5_UNKNOWN);
    if unknown.is_none_or(|piece| piece.kind != PieceKind::Unknown) {
        return Err(Error::invalid(
            source.file,
            format!(
                "piece {T5_UNKNOWN} does not stand for unknown text, as in T5's models; its \
                 tokenizer would give other ids than those the model was trained with"
            ),
        ));
    }
    special.set_additional(symbols(&model.pieces));
    let mut pieces = scores(model.pieces);
    let extra = (0..extra_ids(source)?).rev();
    pieces.extend(extra.map(|i| (extra_id(i), 0.0)));
    Ok(Vocabulary {
        pieces,
        charsmap: model.charsmap,
    })
}

/// Reads XLM-RoBERTa's `sentencepiece.bpe.model`, which is of the unigram kind for all its name.
///
/// The model's `<unk>`, `<s>` and `</s>` give way to `<s>`, `<pad>`, `</s>` and `<unk>`, so that
/// other ids move up by one; `<mask>` comes last.
pub(super) fn read_xlm_roberta(source: &Source, special: &mut SpecialTokens) -> Result<Vocabulary> {
    let mut model = SentencePieceModel::read(source.file)?;
    let replaced = model.pieces.get(..XLM_ROBERTA_DROPPED).unwrap_or_default();
    let are_special = |piece: &Piece| matches!(piece.kind, PieceKind::Unknown | PieceKind::Control);
    if replaced.len() < XLM_ROBERTA_DROPPED || !replaced.iter().all(are_special) {
        return Err(Error::invalid(
            source.file,
            format!(
                "the first {XLM_ROBERTA_DROPPED} pieces are not all special, as in XLM-RoBERTa's \
                 models; its tokenizer would give other ids than those the model was trained with"
            ),
        ));
    }
    special.set_additional(symbols(&model.pieces));
    let role = |role| Ok((special.required(source, role)?.to_string(), 0.0));
    let mut pieces = Vec::with_capacity(model.pieces.len() + 2);
    for name in ["bos_token", "pad_token", "eos_token", "unk_token"] {
        pieces.push(role(name)?);
    }
    pieces.extend(scores(model.pieces.split_off(XLM_ROBERTA_DROPPED)));
    pieces.push(role("mask_token")?);
    Ok(Vocabulary {
        pieces,
        charsmap: model.charsmap,
    })
}

/// T5's tokenizer, and what it puts around a text: `</s>` after it.
pub(super) fn build_t5(
    source: &Source,
    vocabulary: Vocabulary,
    special: &mut SpecialTokens,
) -> Result<(Tokenizer, Option<Template>)> {
    let count = extra_ids(source)?;
    let given = special.additional().map_or(0, |texts| {
        texts.filter(|text| text.contains("<extra_id_")).count() as u64
    });
    if given == 0 {
        special.extend_additional((0..count).map(extra_id));
    } else if count > 0 && count != given {
        return Err(Error::config(
            source.directory.join(TOKENIZER_CONFIG),
            "extra_ids",
            format!("{count}, but {given} such tokens are given by name"),
        ));
    }
    let tokenizer = build(source, vocabulary, T5_UNKNOWN, PrependScheme::Always)?;
    let eos = special.required(source, "eos_token")?;
    Ok((tokenizer, Some(Template::new(&[], &[eos], &[eos]))))
}

/// XLM-RoBERTa's tokenizer, and what it puts around a text: `<s>` before it and `</s>` after.
pub(super) fn build_xlm_roberta(
    source: &Source,
    vocabulary: Vocabulary,
    special: &SpecialTokens,
) -> Result<(Tokenizer, Option<Template>)> {
    let scheme = match source.config.add_prefix_space {
        Some(false) => PrependScheme::Never,
        _ => PrependScheme::Always,
    };
    let tokenizer = build(source, vocabulary, XLM_ROBERTA_UNKNOWN, scheme)?;
    let role = |role| special.required(source, role);
    let (bos, eos) = (role("bos_token")?, role("eos_token")?);
    let template = Template::new(&[bos], &[eos, eos], &[eos]);
    Ok((tokenizer, Some(template)))
}

/// Checks that pieces can be searched for.
///
/// # Errors
/// [`Error::InvalidFile`] where one is empty or very long, or a score is no number.
pub(super) fn check_pieces(file: &Path, pieces: &[(String, f64)]) -> Result<()> {
    let invalid = |reason: String| Err(Error::invalid(file, reason));
    for (id, (piece, score)) in pieces.iter().enumerate() {
        let length = piece.len();
        if length == 0 || length > MAX_PIECE_BYTES {
            return invalid(format!(
                "piece {id} has {length} bytes; accepted: 1 to {MAX_PIECE_BYTES}"
            ));
        }
        if !score.is_finite() {
            return invalid(format!("the score of piece {id}, `{piece}`, is {score}"));
        }
    }
    Ok(())
}

fn build(
    source: &Source,
    vocabulary: Vocabulary,
    unknown: usize,
    scheme: PrependScheme,
) -> Result<Tokenizer> {
    check_pieces(source.file, &vocabulary.pieces)?;
    let invalid = |reason: String| Error::invalid(source.file, reason);
    // Upstream has no byte pieces stand in for unknown characters, whatever the model says.
    let model = Unigram::from(vocabulary.pieces, Some(unknown), false)
        .map_err(|e| invalid(format!("not a unigram vocabulary: {e}")))?;
    let mut tokenizer = Tokenizer::new(model);
    if let Some(table) = &vocabulary.charsmap {
        check_charsmap(table).map_err(invalid)?;
        let normalizer = Precompiled::from(table).map_err(|e| invalid(e.to_string()))?;
        tokenizer.with_normalizer(Some(normalizer));
    }
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::WhitespaceSplit(WhitespaceSplit),
        PreTokenizerWrapper::Metaspace(Metaspace::new('▁', scheme, true)),
    ])));
    Ok(tokenizer)
}

/// Control symbols and those of the user, which are found in a text before it is cut, and whether
/// they are special.
fn symbols(pieces: &[Piece]) -> Vec<(String, bool)> {
    let symbol = |piece: &Piece| match piece.kind {
        PieceKind::Control => Some((piece.text.clone(), true)),
        PieceKind::UserDefined => Some((piece.text.clone(), false)),
        _ => None,
    };
    pieces.iter().filter_map(symbol).collect()
}

fn scores(pieces: Vec<Piece>) -> Vec<(String, f64)> {
    pieces
        .into_iter()
        .map(|piece| (piece.text, piece.score))
        .collect()
}

fn extra_id(i: u64) -> String {
    format!("<extra_id_{i}>")
}

fn extra_ids(source: &Source) -> Result<u64> {
    let count = source.config.extra_ids.unwrap_or(EXTRA_IDS);
    if count <= MAX_EXTRA_IDS {
        return Ok(count);
    }
    Err(Error::config(
        source.directory.join(TOKENIZER_CONFIG),
        "extra_ids",
        format!("{count}; accepted: 0 to {MAX_EXTRA_IDS}"),
    ))
}
