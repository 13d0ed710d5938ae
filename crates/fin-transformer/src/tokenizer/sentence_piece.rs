//! SentencePiece model files (Kudo and Richardson 2018): a protocol buffer with the pieces, their
//! scores and a table that normalises text.
//!
//! Messages and tags are those of `sentencepiece_model.proto`. Fields that take no part in
//! tokenising as `transformers` does it are left out: it pays no heed to `add_dummy_prefix`,
//! `remove_extra_whitespaces` and `byte_fallback`.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use fin_core::{Error, Result};
use prost::Message;

/// Larger than any SentencePiece model in use by an order of magnitude.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// `ModelProto`.
#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

/// `ModelProto.SentencePiece`.
#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(enumeration = "PieceKind", optional, tag = "3")]
    kind: Option<i32>,
}

/// `TrainerSpec`.
#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(enumeration = "ModelKind", optional, tag = "3")]
    model_type: Option<i32>,
}

/// `NormalizerSpec`.
#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
}

/// `ModelProto.SentencePiece.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum PieceKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// `TrainerSpec.ModelType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum ModelKind {
    Unigram = 1,
    Bpe = 2,
    Word = 3,
    Char = 4,
}

/// One entry of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    /// Logarithm of its probability.
    pub score: f64,
    pub kind: PieceKind,
}

/// What is read of a SentencePiece model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SentencePieceModel {
    /// In the order of their ids.
    pub pieces: Vec<Piece>,
    /// Normalisation table, not checked yet.
    pub charsmap: Option<Vec<u8>>,
}

impl SentencePieceModel {
    /// Reads a model of the unigram kind.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read, [`Error::InvalidFile`] where it is damaged,
    /// holds what SentencePiece itself refuses (an empty or repeated piece, a number of unknown
    /// pieces other than one), or is of another kind than unigram.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(Error::io(path, "open"))?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::io(path, "read"))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(Error::invalid(
                path,
                format!("more than {MAX_FILE_BYTES} bytes; no SentencePiece model is that large"),
            ));
        }
        Self::parse(&bytes).map_err(|reason| Error::invalid(path, reason))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("empty; expected a SentencePiece model".into());
        }
        let model = ModelProto::decode(bytes)
            .map_err(|e| format!("not a SentencePiece model, or a damaged one: {e}"))?;
        let kind = model.trainer_spec.unwrap_or_default().model_type();
        if kind != ModelKind::Unigram {
            return Err(format!(
                "a SentencePiece model of the kind {kind:?} is not supported; supported: Unigram, \
                 or a tokenizer.json beside it"
            ));
        }
        let mut pieces = Vec::with_capacity(model.pieces.len());
        for (id, piece) in model.pieces.into_iter().enumerate() {
            let kind = piece.kind();
            let score = f64::from(piece.score());
            let text = piece
                .piece
                .filter(|text| !text.is_empty())
                .ok_or_else(|| format!("damaged: piece {id} is empty"))?;
            pieces.push(Piece { text, score, kind });
        }
        let mut texts = HashSet::with_capacity(pieces.len());
        if let Some(piece) = pieces.iter().find(|piece| !texts.insert(&*piece.text)) {
            return Err(format!("damaged: the piece `{}` occurs twice", piece.text));
        }
        let unknown = pieces
            .iter()
            .filter(|piece| piece.kind == PieceKind::Unknown)
            .count();
        if unknown != 1 {
            return Err(format!(
                "damaged: {unknown} pieces stand for unknown text; there must be 1"
            ));
        }
        Ok(Self {
            pieces,
            charsmap: model
                .normalizer_spec
                .and_then(|spec| spec.precompiled_charsmap)
                .filter(|table| !table.is_empty()),
        })
    }
}

/// Checks that looking up any text in a normalisation table stays within it.
///
/// The table is a number of bytes (32 bits, little-endian), a double array of as many bytes that
/// maps prefixes to offsets, and the replacements, each up to a zero byte. A unit of the double
/// array holds in 32 bits a label (the lowest 8), whether a leaf follows (bit 8), and how far its
/// children are (the upper 22, in steps of 256 where bit 9 is set); a leaf is an offset.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_charsmap(table: &[u8]) -> Result<(), String> {
    let damaged = |what: &str| format!("the normalisation table is damaged: {what}");
    let (size, rest) = table
        .split_first_chunk::<4>()
        .ok_or_else(|| damaged("shorter than its header"))?;
    let size = u32::from_le_bytes(*size) as usize;
    if size > rest.len() || size == 0 || !size.is_multiple_of(4) {
        return Err(damaged(&format!(
            "a search tree of {size} bytes is announced, {} follow",
            rest.len()
        )));
    }
    let (tree, replacements) = rest.split_at(size);
    let units: Vec<u32> = tree
        .as_chunks::<4>()
        .0
        .iter()
        .map(|unit| u32::from_le_bytes(*unit))
        .collect();
    let replacements =
        std::str::from_utf8(replacements).map_err(|_| damaged("the replacements are not UTF-8"))?;
    let children = |unit: u32| ((unit >> 10) as usize) << ((unit & (1 << 9)) >> 6);

    // A place stands for all prefixes that lead to it: `units[place ^ byte]` is looked at for
    // whatever byte comes next.
    let mut seen = vec![false; units.len() + 256];
    let mut places = vec![children(units[0])];
    while let Some(place) = places.pop() {
        match seen.get_mut(place) {
            Some(true) => continue,
            Some(seen) => *seen = true,
            None => return Err(damaged("a branch leads out of the search tree")),
        }
        for byte in 1..=0xFF {
            let at = place ^ byte;
            let unit = *units
                .get(at)
                .ok_or_else(|| damaged("a branch leads out of the search tree"))?;
            if unit & (1 << 31 | 0xFF) != byte as u32 {
                continue;
            }
            let next = at ^ children(unit);
            if unit & (1 << 8) != 0 {
                let offset = units.get(next).map(|leaf| (leaf & !(1 << 31)) as usize);
                if !offset.is_some_and(|offset| replacements.is_char_boundary(offset)) {
                    return Err(damaged("a leaf leads out of the replacements"));
                }
            }
            places.push(next);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(pieces: &[(&str, f32, PieceKind)], kind: ModelKind) -> Vec<u8> {
        ModelProto {
            pieces: pieces
                .iter()
                .map(|(text, score, kind)| PieceProto {
                    piece: Some((*text).into()),
                    score: Some(*score),
                    kind: Some(*kind as i32),
                })
                .collect(),
            trainer_spec: Some(TrainerSpec {
                model_type: Some(kind as i32),
            }),
            normalizer_spec: None,
        }
        .encode_to_vec()
    }

    #[test]
    fn refuses_what_sentencepiece_refuses() {
        use PieceKind::{Normal, Unknown};
        let unknown = ("<unk>", 0.0, Unknown);
        let good = model(&[unknown, ("a", -1.5, Normal)], ModelKind::Unigram);
        let read = SentencePieceModel::parse(&good).unwrap();
        assert_eq!(read.pieces[1].text, "a");
        assert_eq!(read.pieces[1].score, -1.5);
        assert_eq!(read.charsmap, None);

        let cases = [
            (model(&[unknown], ModelKind::Bpe), "Bpe is not supported"),
            (model(&[unknown], ModelKind::Word), "Word is not supported"),
            (
                model(&[("a", 0.0, Normal)], ModelKind::Unigram),
                "0 pieces stand for unknown text",
            ),
            (
                model(&[unknown, ("b", 0.0, Unknown)], ModelKind::Unigram),
                "2 pieces",
            ),
            (
                model(&[unknown, ("", 0.0, Normal)], ModelKind::Unigram),
                "piece 1 is empty",
            ),
            (
                model(
                    &[unknown, ("a", 0.0, Normal), ("a", 0.0, Normal)],
                    ModelKind::Unigram,
                ),
                "`a` occurs twice",
            ),
            (Vec::new(), "empty"),
            // A piece of 2^63 bytes, of which none follow.
            (
                vec![0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
                "damaged",
            ),
            // Groups within groups without end.
            (vec![0x0B; 1 << 16], "damaged"),
        ];
        for (bytes, expected) in cases {
            let error = SentencePieceModel::parse(&bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        for cut in 1..good.len() {
            // A cut at the end of a field is a smaller model; none may panic.
            let _ = SentencePieceModel::parse(&good[..cut]);
        }
    }

    /// A table in which `a` becomes `replacements[offset..]` up to its zero byte.
    fn table(offset: u32, replacements: &[u8]) -> Vec<u8> {
        // The root's children are at 256 ^ byte; the leaf of `a` is at the unit itself ^ 512.
        let mut units = vec![0_u32; 1024];
        units[0] = 256 << 10;
        let at = 256 ^ usize::from(b'a');
        units[at] = 512 << 10 | 1 << 8 | u32::from(b'a');
        units[at ^ 512] = 1 << 31 | offset;
        let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(replacements);
        bytes
    }

    #[test]
    fn a_damaged_table_is_found_before_it_is_used() {
        use tokenizers::normalizers::Precompiled;
        let good = table(2, "x\0zé\0".as_bytes());
        check_charsmap(&good).unwrap();
        let read = Precompiled::from(&good).unwrap();
        assert_eq!(read.normalize_string("bab"), "bzéb");

        let announced = |size: u32| {
            let mut bytes = good.clone();
            bytes[..4].copy_from_slice(&size.to_le_bytes());
            bytes
        };
        // The children of the root are beyond the end.
        let mut beyond = good.clone();
        beyond[4..8].copy_from_slice(&(1024_u32 << 10).to_le_bytes());
        let cases = [
            (vec![1, 0, 0], "header"),
            (announced(u32::MAX), "4294967295 bytes is announced"),
            (announced(0), "0 bytes"),
            (announced(4095), "4095 bytes"),
            (beyond, "out of the search tree"),
            (table(99, b"x\0"), "out of the replacements"),
            (table(4, "x\0zé\0".as_bytes()), "out of the replacements"),
            (table(0, b"\xFF\0"), "UTF-8"),
        ];
        for (bytes, expected) in cases {
            let error = check_charsmap(&bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
