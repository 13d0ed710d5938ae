//! The student before training: a BERT whose token embeddings are the teacher's view of each piece.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::matrix::Matrix;
use super::random::Random;

/// Layers of the student.
const LAYERS: usize = 2;
const HEADS: usize = 4;
/// Most tokens of a text.
const POSITIONS: usize = 256;
/// Standard deviation of token embeddings, and of weights that begin at random.
const TOKEN_SPREAD: f64 = 0.05;
const WEIGHT_SPREAD: f64 = 0.02;

const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The pieces of a vocabulary that the student keeps, in the order of their new ids: special tokens,
/// single characters, and then those that the corpus has most of. Only ASCII.
pub fn pieces(vocabulary: &str, corpus: &[String], most: usize) -> Vec<String> {
    let all: HashMap<&str, usize> = vocabulary
        .lines()
        .enumerate()
        .map(|(i, p)| (p, i))
        .collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for text in corpus {
        for word in words(text) {
            for piece in split(&word, &all) {
                *counts.entry(piece).or_default() += 1;
            }
        }
    }
    let mut rest: Vec<(&str, usize)> = all
        .iter()
        .map(|(piece, id)| (*piece, *id))
        .filter(|(piece, _)| piece.is_ascii() && !(piece.starts_with('[') && piece.len() > 1))
        .collect();
    rest.sort_by_key(|(piece, id)| {
        let single = piece.trim_start_matches("##").len() <= 1;
        let count = counts.get(piece).copied().unwrap_or_default();
        (std::cmp::Reverse((single, count)), *id)
    });
    let special = SPECIAL.into_iter();
    let rest = rest.into_iter().map(|(piece, _)| piece);
    special.chain(rest).take(most).map(str::to_owned).collect()
}

/// Lower-case words and single marks of an ASCII text, as BERT's basic tokenizer has them.
fn words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut inside = false;
    for c in text.chars() {
        let letter = c.is_ascii_alphanumeric();
        match out.last_mut() {
            Some(last) if letter && inside => last.push(c.to_ascii_lowercase()),
            _ if !c.is_whitespace() => out.push(c.to_ascii_lowercase().to_string()),
            _ => {}
        }
        inside = letter;
    }
    out
}

/// The longest pieces first; nothing for a word that has none.
fn split<'a>(word: &str, pieces: &HashMap<&'a str, usize>) -> Vec<&'a str> {
    let mut out = Vec::new();
    let mut start = 0;
    while start < word.len() {
        let found = (start + 1..=word.len()).rev().find_map(|end| {
            let piece = match start {
                0 => word[..end].to_owned(),
                _ => format!("##{}", &word[start..end]),
            };
            pieces
                .get_key_value(piece.as_str())
                .map(|(piece, _)| (*piece, end))
        });
        let Some((piece, end)) = found else {
            return Vec::new();
        };
        out.push(piece);
        start = end;
    }
    out
}

/// What the teacher is asked for each piece.
pub fn prompt(piece: &str) -> &str {
    piece
        .strip_prefix("##")
        .filter(|rest| !rest.is_empty())
        .unwrap_or(piece)
}

/// Writes the student's directory: `tokens` has a row a piece.
pub fn write(
    directory: &Path,
    pieces: &[String],
    tokens: &Matrix,
    seed: u64,
) -> Result<(), String> {
    let hidden = tokens.width;
    let config = json!({
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": hidden,
        "initializer_range": WEIGHT_SPREAD,
        "intermediate_size": 4 * hidden,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": POSITIONS,
        "model_type": "bert",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": pieces.len(),
    });
    let module = |idx: usize, path: &str, kind: &str| {
        json!({
            "idx": idx, "name": idx.to_string(), "path": path,
            "type": format!("sentence_transformers.models.{kind}"),
        })
    };
    let tokenizer = json!({
        "tokenizer_class": "BertTokenizer", "do_lower_case": true, "model_max_length": POSITIONS,
        "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    });
    let pooling = json!({"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": true});
    let modules = json!([
        module(0, "", "Transformer"),
        module(1, "1_Pooling", "Pooling"),
        module(2, "2_Normalize", "Normalize"),
    ]);
    let length = json!({"max_seq_length": POSITIONS, "do_lower_case": false});
    for (name, value) in [
        ("config.json", config),
        ("modules.json", modules),
        ("tokenizer_config.json", tokenizer),
        ("sentence_bert_config.json", length),
        ("1_Pooling/config.json", pooling),
    ] {
        put(&directory.join(name), format!("{value:#}\n").as_bytes())?;
    }
    put(
        &directory.join("vocab.txt"),
        (pieces.join("\n") + "\n").as_bytes(),
    )?;
    let tensors = tensors(tokens, seed);
    put(
        &directory.join("model.safetensors"),
        &safetensors(&tensors, "F32"),
    )
}

pub fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(path, bytes))
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// A tensor of a safetensors file with its bytes.
pub struct Named {
    pub name: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

fn tensors(tokens: &Matrix, seed: u64) -> Vec<Named> {
    let hidden = tokens.width;
    let mut random = Random::new(seed);
    let mut out = Vec::new();
    let mut put = |name: String, shape: &[usize], values: Vec<f32>| {
        out.push(Named {
            name,
            shape: shape.to_vec(),
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        });
    };
    let count = tokens.values.len() as f64;
    let square: f64 = tokens.values.iter().map(|x| f64::from(*x).powi(2)).sum();
    let scale = TOKEN_SPREAD / (square / count).sqrt();
    let embedded = tokens
        .values
        .iter()
        .map(|x| (f64::from(*x) * scale) as f32)
        .collect();
    let word = "embeddings.word_embeddings.weight".to_owned();
    put(word, &[tokens.values.len() / hidden, hidden], embedded);
    // Zero, so that positions which no text reaches in training do no harm later.
    for (name, rows) in [("position", POSITIONS), ("token_type", 2)] {
        let name = format!("embeddings.{name}_embeddings.weight");
        put(name, &[rows, hidden], vec![0.0; rows * hidden]);
    }
    let mut norm = |prefix: String| {
        put(
            format!("{prefix}.LayerNorm.weight"),
            &[hidden],
            vec![1.0; hidden],
        );
        put(
            format!("{prefix}.LayerNorm.bias"),
            &[hidden],
            vec![0.0; hidden],
        );
    };
    norm("embeddings".into());
    for layer in 0..LAYERS {
        norm(format!("encoder.layer.{layer}.attention.output"));
        norm(format!("encoder.layer.{layer}.output"));
    }
    for layer in 0..LAYERS {
        for (name, rows, columns) in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", 4 * hidden, hidden),
            ("output.dense", hidden, 4 * hidden),
        ] {
            let name = format!("encoder.layer.{layer}.{name}");
            let weight = (0..rows * columns).map(|_| (random.normal() * WEIGHT_SPREAD) as f32);
            put(format!("{name}.weight"), &[rows, columns], weight.collect());
            put(format!("{name}.bias"), &[rows], vec![0.0; rows]);
        }
    }
    out
}

/// The bytes of a safetensors file of tensors of one element type.
pub fn safetensors(tensors: &[Named], dtype: &str) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.bytes.len();
        header.insert(
            tensor.name.clone(),
            json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}),
        );
    }
    let mut text = Value::Object(header).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.bytes());
    tensors
        .iter()
        .for_each(|tensor| bytes.extend(&tensor.bytes));
    bytes
}

/// A safetensors file of `float32` as one of `float16`; values are rounded to the nearest.
pub fn halve(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let parse = || {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (header, data) = rest.split_at_checked(length)?;
        let header: Map<String, Value> = serde_json::from_slice(header).ok()?;
        let mut tensors = Vec::new();
        for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
            let at = |i: usize| usize::try_from(entry["data_offsets"][i].as_u64()?).ok();
            let values = data.get(at(0)?..at(1)?)?.as_chunks::<4>().0;
            let half = |value: &[u8; 4]| half::f16::from_f32(f32::from_le_bytes(*value));
            let shape = entry["shape"].as_array()?.iter();
            if entry["dtype"] != "F32" {
                return None;
            }
            tensors.push(Named {
                name: name.clone(),
                shape: shape
                    .map(|n| n.as_u64().map(|n| n as usize))
                    .collect::<Option<_>>()?,
                bytes: values
                    .iter()
                    .flat_map(|value| half(value).to_le_bytes())
                    .collect(),
            });
        }
        Some(safetensors(&tensors, "F16"))
    };
    parse().ok_or_else(|| format!("{}: not a safetensors file of float32", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_those_of_the_corpus_first() {
        let vocabulary =
            "[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\nunseen\ncats\n##s\ncat\n\u{e9}";
        let corpus = ["Cats, a CATS cat-cat".to_owned()];
        let found = pieces(vocabulary, &corpus, 10);
        let expected = [
            "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "##s", "cats", "cat",
        ];
        assert_eq!(found, expected);
        assert_eq!(words("It's 2x"), ["it", "'", "s", "2x"]);
        assert_eq!([prompt("##s"), prompt("##"), prompt("a")], ["s", "##", "a"]);
    }
}
