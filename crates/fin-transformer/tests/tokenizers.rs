//! Token ids against those that `transformers` gives, for WordPiece and unigram tokenizers, from
//! `tokenizer.json` and from a vocabulary file alone; and vocabulary files that are damaged.
//!
//! References come from `fixtures/tokenizers/generate.py`.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use fin_core::{DeviceSpec, Embedder, Error, Result};
use fin_transformer::{TextEmbedder, TextOptions, TextTokenizer};
use safetensors::SafeTensors;
use serde_json::{Value, json};

const NAMES: [&str; 5] = [
    "word-piece-uncased",
    "word-piece-cased",
    "word-piece-multilingual-cased",
    "unigram-t5",
    "unigram-xlm-roberta",
];

/// More than any text has tokens.
const UNLIMITED: usize = 1 << 20;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers")
}

fn read_json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn strings() -> Vec<String> {
    let text = std::fs::read_to_string(fixtures().join("strings.jsonl")).unwrap();
    // A string may hold what else ends a line, but no line feed.
    text.split_terminator('\n')
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["text"]
                .as_str()
                .unwrap()
                .into()
        })
        .collect()
}

/// The lists of ids under a prefix.
fn unpack(tensors: &SafeTensors, prefix: &str) -> Vec<Vec<u32>> {
    let data = |name: &str| tensors.tensor(&format!("{prefix}{name}")).unwrap().data();
    let ids: Vec<u32> = data("ids")
        .as_chunks()
        .0
        .iter()
        .map(|bytes| u16::from_le_bytes(*bytes).into())
        .collect();
    let offsets: Vec<usize> = data("offsets")
        .as_chunks()
        .0
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes) as usize)
        .collect();
    offsets
        .windows(2)
        .map(|ends| ids[ends[0]..ends[1]].to_vec())
        .collect()
}

/// A copy of a fixture's directory, to change.
fn copy(name: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    directory
}

fn open(directory: &Path) -> Result<TextTokenizer> {
    TextTokenizer::open(directory, UNLIMITED, usize::MAX, None)
}

/// Compares ids, and shows the first text whose ids are others.
fn compare(what: &str, tokenizer: &TextTokenizer, texts: &[String], expected: &[Vec<u32>]) {
    assert_eq!(texts.len(), expected.len());
    let found = tokenizer.encode(texts, "").unwrap();
    let mut different = texts
        .iter()
        .zip(&found)
        .zip(expected)
        .filter(|((_, found), expected)| found.ids != **expected);
    if let Some(((text, found), expected)) = different.next() {
        panic!(
            "{what}: {} of {} strings have other ids, the first {text:?}\n found {:?}\n expected \
             {expected:?}",
            1 + different.count(),
            texts.len(),
            found.ids,
        );
    }
}

#[test]
fn ids_are_those_of_the_reference() {
    let texts = strings();
    let described = read_json(fixtures().join("reference.json"));
    assert!(texts.len() >= 2_000, "{} strings", texts.len());
    let max_length = described["max_length"].as_u64().unwrap() as usize;
    for name in NAMES {
        let bytes = std::fs::read(fixtures().join(format!("{name}.reference.safetensors")));
        let bytes = bytes.unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let (whole, cut) = (unpack(&tensors, ""), unpack(&tensors, "truncated_"));
        let with_json = fixtures().join(name);
        let alone = copy(name);
        std::fs::remove_file(alone.path().join("tokenizer.json")).unwrap();
        for (from, directory) in [
            ("tokenizer.json", with_json.as_path()),
            ("the vocabulary alone", alone.path()),
        ] {
            let what = format!("{name} from {from}");
            let tokenizer = open(directory).unwrap();
            compare(&what, &tokenizer, &texts, &whole);
            assert_eq!(
                u64::from(tokenizer.pad_id()),
                described["tokenizers"][name]["pad_token_id"],
                "{what}"
            );

            let short = TextTokenizer::open(directory, max_length, usize::MAX, Some(7)).unwrap();
            compare(&format!("{what}, cut"), &short, &texts, &cut);
            assert_eq!(short.pad_id(), 7);
            let flags = short.encode(&texts, "").unwrap();
            for ((text, found), whole) in texts.iter().zip(flags).zip(&whole) {
                assert_eq!(
                    found.truncated,
                    whole.len() > max_length,
                    "{what}: {text:?}"
                );
            }
        }
    }
}

/// `tokenizer.json` of XLM-RoBERTa as version 4 of the reference library converted it.
fn older_json(directory: &Path) -> Value {
    let mut value = read_json(directory.join("tokenizer.json"));
    let table = value["normalizer"].take();
    value["normalizer"] = json!({
        "type": "Sequence",
        "normalizers": [
            table,
            {"type": "Strip", "strip_left": false, "strip_right": true},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        ],
    });
    let space = json!({
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true,
    });
    value["pre_tokenizer"] = space.clone();
    value["decoder"] = space;
    value
}

#[test]
fn the_files_around_a_vocabulary_are_heeded() {
    let all = strings();
    let described = read_json(fixtures().join("variants.json"));
    let bytes = std::fs::read(fixtures().join("variants.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let lines: Vec<usize> = serde_json::from_value(described["strings"].clone()).unwrap();
    let texts: Vec<String> = lines.iter().map(|line| all[*line].clone()).collect();
    let variants = described["variants"].as_array().unwrap();
    assert!(!variants.is_empty());
    for variant in variants {
        let name = variant["name"].as_str().unwrap();
        let directory = copy(variant["base"].as_str().unwrap());
        for (file, content) in variant["files"].as_object().unwrap() {
            let path = directory.path().join(file);
            let content = match content {
                Value::Null => {
                    std::fs::remove_file(path).unwrap();
                    continue;
                }
                Value::String(_) => older_json(directory.path()),
                content => content.clone(),
            };
            std::fs::write(path, content.to_string()).unwrap();
        }
        let max_length = variant["max_length"]
            .as_u64()
            .map_or(UNLIMITED, |n| n as usize);
        let tokenizer =
            TextTokenizer::open(directory.path(), max_length, usize::MAX, None).unwrap();
        compare(
            name,
            &tokenizer,
            &texts,
            &unpack(&tensors, &format!("{name}.")),
        );
    }
}

/// Replaces the bytes after the only occurrence of `context`.
fn patch(bytes: &mut [u8], context: &[u8], new: &[u8]) {
    let places: Vec<usize> = (0..bytes.len() - context.len())
        .filter(|at| bytes[*at..].starts_with(context))
        .collect();
    assert_eq!(
        places.len(),
        1,
        "{context:x?} occurs {} times",
        places.len()
    );
    let at = places[0] + context.len();
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// A directory with a changed SentencePiece model and nothing else.
fn with_model(file: &str, bytes: &[u8]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(file), bytes).unwrap();
    directory
}

#[test]
fn damaged_sentencepiece_models_are_refused() {
    for (name, file) in [
        ("unigram-t5", "spiece.model"),
        ("unigram-xlm-roberta", "sentencepiece.bpe.model"),
    ] {
        let good = std::fs::read(fixtures().join(name).join(file)).unwrap();
        let patched = |context: &[u8], new: &[u8]| {
            let mut bytes = good.clone();
            patch(&mut bytes, context, new);
            bytes
        };
        // A piece is its text, then its score after 0x15, then its kind after 0x18.
        let space = [&[3][..], "▁".as_bytes(), &[0x15]].concat();
        let unknown = b"\x05<unk>\x15\0\0\0\0\x18";
        // The size of the search tree comes first in the normalisation table.
        let table = good
            .windows(4)
            .position(|bytes| bytes == [0x00, 0xBC, 0x02, 0x00])
            .expect("the table of nmt_nfkc");
        let mut lying = good.clone();
        lying[table..table + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let cases = [
            (Vec::new(), "empty"),
            (b"\x0A".to_vec(), "not a SentencePiece model"),
            (vec![0xFF; 4096], "not a SentencePiece model"),
            (good[..good.len() / 2].to_vec(), "not a SentencePiece model"),
            (patched(&space, &f32::NAN.to_le_bytes()), "`▁`, is NaN"),
            (patched(&space, &f32::INFINITY.to_le_bytes()), "`▁`, is inf"),
            (patched(unknown, &[1]), "0 pieces stand for unknown text"),
            (lying, "4294967295 bytes is announced"),
        ];
        for (bytes, expected) in cases {
            let directory = with_model(file, &bytes);
            let error = open(directory.path()).unwrap_err();
            assert!(matches!(error, Error::InvalidFile { .. }), "{error}");
            let error = error.to_string();
            assert!(error.contains(file) && error.contains(expected), "{error}");
        }
        open(with_model(file, &good).path()).unwrap();

        // A model of the one kind is not one of the other.
        let other = match file {
            "spiece.model" => "sentencepiece.bpe.model",
            _ => "spiece.model",
        };
        let result = open(with_model(other, &good).path());
        if other == "spiece.model" {
            let error = result.unwrap_err().to_string();
            assert!(
                error.contains("piece 2 does not stand for unknown"),
                "{error}"
            );
        }

        // Whatever else is wrong with it: an error or a tokenizer, and no panic.
        let texts = ["a ﬁne ①² day in Café,\u{301} 北京 \u{7f}".to_string()];
        let mut state = 0x2545_F491_u32;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as usize % below
        };
        for _ in 0..60 {
            let mut bytes = good[..good.len() - random(2) * random(good.len())].to_vec();
            for _ in 0..=random(40) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            if let Ok(tokenizer) = open(with_model(file, &bytes).path()) {
                tokenizer.encode(&texts, "").unwrap();
            }
        }
    }
}

#[test]
fn damage_in_a_json_file_is_refused() {
    for class in ["T5Tokenizer", "PreTrainedTokenizerFast"] {
        let directory = copy("unigram-t5");
        let path = directory.path().join("tokenizer.json");
        let mut value = read_json(&path);
        let config = json!({ "tokenizer_class": class });
        std::fs::write(
            directory.path().join("tokenizer_config.json"),
            config.to_string(),
        )
        .unwrap();
        let good = value["normalizer"]["precompiled_charsmap"].take();
        let good = good.as_str().unwrap();
        // The first four characters stand for three of the four bytes of the tree's size.
        for bad in [
            &format!("////{}", &good[4..]),
            &good[..5],
            &good[..good.len() / 8 * 4],
        ] {
            value["normalizer"]["precompiled_charsmap"] = json!(bad);
            std::fs::write(&path, value.to_string()).unwrap();
            let error = open(directory.path()).unwrap_err().to_string();
            assert!(error.contains("tokenizer.json"), "{error}");
            assert!(error.contains("precompiled_charsmap"), "{error}");
        }
        for bad in [
            json!({ "type": "Precompiled" }),
            json!({ "type": "Precompiled", "precompiled_charsmap": 1 }),
            json!({ "type": "Sequence", "normalizers": [{ "type": "Precompiled" }] }),
        ] {
            value["normalizer"] = bad;
            std::fs::write(&path, value.to_string()).unwrap();
            let error = open(directory.path()).unwrap_err().to_string();
            assert!(error.contains("precompiled_charsmap"), "{error}");
        }

        value["normalizer"] = Value::Null;
        // Half of a character, in a part that is of no use.
        let text = value.to_string();
        let half = text.replacen("\"decoder\":{", r#""decoder":{"half":"\ud800","#, 1);
        assert_ne!(text, half);
        std::fs::write(&path, half).unwrap();
        let error = open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");

        value["model"]["vocab"][7][0] = json!("long".repeat(1 << 20));
        std::fs::write(&path, value.to_string()).unwrap();
        let error = open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("piece 7 has 4194304 bytes"), "{error}");
    }
}

#[test]
fn templates_hold_what_they_refer_to() {
    let directory = copy("word-piece-uncased");
    let path = directory.path().join("tokenizer.json");
    let config = json!({ "tokenizer_class": "PreTrainedTokenizerFast" });
    let config_path = directory.path().join("tokenizer_config.json");
    std::fs::write(config_path, config.to_string()).unwrap();
    let mut value = read_json(&path);
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let token = json!({ "SpecialToken": { "id": "[CLS]", "type_id": 0 } });
    let described = json!({ "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] } });
    let template = |single: Value, tokens: &Value| json!({ "type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens });
    let good = template(json!([token, text]), &described);
    let mut open_with = |processor: Value| {
        value["post_processor"] = processor;
        std::fs::write(&path, value.to_string()).unwrap();
        open(directory.path())
    };
    open_with(good.clone()).unwrap();
    let other = json!({ "Sequence": { "id": "B", "type_id": 0 } });
    let uneven = json!({ "[CLS]": { "id": "[CLS]", "ids": [2, 3], "tokens": ["[CLS]"] } });
    for (bad, reason) in [
        (
            template(json!([token, text]), &json!({})),
            "is not described",
        ),
        (
            template(json!([text, other]), &described),
            "has another in it",
        ),
        (
            template(json!([token, text]), &uneven),
            "another number of ids",
        ),
    ] {
        let nested = json!({ "type": "Sequence", "processors": [good, bad] });
        for processor in [bad, nested] {
            let error = open_with(processor).unwrap_err().to_string();
            assert!(
                error.contains("post_processor") && error.contains(reason),
                "{error}"
            );
        }
    }
}

#[test]
fn what_cannot_be_is_said() {
    let directory = copy("word-piece-uncased");
    let config = |value: Value| {
        let path = directory.path().join("tokenizer_config.json");
        std::fs::write(path, value.to_string()).unwrap();
        open(directory.path()).unwrap_err().to_string()
    };
    let error = config(json!({ "truncation_side": "middle" }));
    assert!(error.contains("`truncation_side`"), "{error}");
    let error = config(json!({ "sep_token": null }));
    assert!(error.contains("`sep_token`"), "{error}");
    let error = config(json!({ "cls_token": "[NONE]" }));
    assert!(error.contains("[NONE] is not in the vocabulary"), "{error}");
    for name in NAMES {
        let error = TextTokenizer::open(&fixtures().join(name), 1, usize::MAX, None);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("1 leaves no room beside"), "{error}");
    }
    let empty = tempfile::tempdir().unwrap();
    let error = open(empty.path()).unwrap_err().to_string();
    assert!(
        error.contains("spiece.model, sentencepiece.bpe.model"),
        "{error}"
    );
}

#[test]
fn a_saved_directory_has_the_vocabulary() {
    let device: Device = DeviceSpec::Flex.open().unwrap();
    let text = fixtures().join("../text/bert-tiny");
    for (name, file) in [
        ("unigram-t5", "spiece.model"),
        ("unigram-xlm-roberta", "sentencepiece.bpe.model"),
    ] {
        let model = tempfile::tempdir().unwrap();
        for part in ["config.json", "model.safetensors"] {
            std::fs::copy(text.join(part), model.path().join(part)).unwrap();
        }
        let vocabulary = fixtures().join(name).join(file);
        std::fs::copy(&vocabulary, model.path().join(file)).unwrap();
        let embedder = TextEmbedder::open(model.path(), &TextOptions::default(), &device).unwrap();
        let saved = tempfile::tempdir().unwrap();
        let saved = saved.path().join("model");
        embedder.save(&saved).unwrap();
        let bytes = std::fs::read(saved.join(file)).unwrap();
        assert_eq!(bytes, std::fs::read(&vocabulary).unwrap());
        TextEmbedder::open(&saved, &TextOptions::default(), &device).unwrap();
    }
}
