//! Cross-encoders against sentence-transformers: token ids and types of pairs, the classifier's
//! numbers and the scores, and which function a directory makes scores by.
//!
//! References come from `fixtures/cross-encoders/generate.py`.

use std::path::{Path, PathBuf};

use fin_core::device::f32_tolerance;
use fin_core::{BatchLimits, DeviceSpec};
use fin_transformer::{CrossEncoder, CrossEncoderOptions};
use serde_json::{Map, Value};

use super::{check, devices};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/cross-encoders")
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(name)).unwrap()).unwrap()
}

fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The pairs of all references.
fn pairs() -> Vec<(String, String)> {
    let json = read("texts.json");
    let texts: Vec<String> = list(&json["texts"]);
    let numbers: Vec<[usize; 2]> = list(&json["pairs"]);
    assert!(numbers.len() > 70);
    numbers
        .into_iter()
        .map(|[first, second]| (texts[first].clone(), texts[second].clone()))
        .collect()
}

fn borrowed(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(a, b)| (&**a, &**b)).collect()
}

fn open(directory: impl AsRef<Path>, spec: DeviceSpec) -> CrossEncoder {
    let options = CrossEncoderOptions::default();
    CrossEncoder::open(directory, &options, &spec.open().unwrap()).unwrap()
}

fn scores(name: &str) {
    let reference = read(&format!("{name}.reference.json"));
    let pairs = pairs();
    let pairs = borrowed(&pairs);
    for spec in devices() {
        let model = open(fixtures().join(name), spec);
        assert!(model.report().unused.is_empty(), "{}", model.report());
        assert_eq!(model.tokenizer().max_length(), reference["max_length"]);

        let tokenized = model.preprocess(&pairs).unwrap();
        let ids: Vec<Vec<u32>> = list(&reference["input_ids"]);
        let types: Vec<Option<usize>> = list(&reference["second_type_tokens"]);
        for (i, (pair, expected)) in tokenized.iter().zip(&ids).enumerate() {
            assert_eq!(pair.ids, *expected, "{name}: {:?}", pairs[i]);
            let second = types[i].unwrap_or(0);
            let first = expected.len() - second;
            let expected = [vec![0; first], vec![1; second]].concat();
            // What the network of DistilBERT has no use for.
            if types[i].is_some() || name != "distilbert" {
                assert_eq!(pair.token_types, expected, "{name}: {:?}", pairs[i]);
            }
        }
        assert!(tokenized.iter().any(|pair| pair.truncated));

        let tolerance = f32_tolerance(spec);
        let label = |what: &str| format!("{name} as a cross-encoder on {spec}: {what}");
        let limits = BatchLimits::default();
        let logits = model.logits(&pairs, limits, |_| {}).unwrap();
        let expected: Vec<f32> = list(&reference["logits"]);
        check(&label("logits"), &logits.values, &expected, tolerance);
        let cut = tokenized.iter().filter(|pair| pair.truncated).count();
        assert_eq!(logits.truncated, cut);

        let mut told = Vec::new();
        let limits = BatchLimits {
            max_items: 7,
            max_cost: 200,
        };
        let found = model.score(&pairs, limits, |done| told.push(done)).unwrap();
        let expected: Vec<f32> = list(&reference["scores"]);
        check(
            &label("scores, in batches"),
            &found.values,
            &expected,
            tolerance,
        );
        assert!(told.is_sorted() && told.last() == Some(&pairs.len()));

        // A pair's score depends on nothing but the pair.
        let backwards: Vec<_> = pairs.iter().rev().copied().collect();
        let mut backwards = model.logits(&backwards, limits, |_| {}).unwrap().values;
        backwards.reverse();
        for (i, pair) in pairs.iter().enumerate() {
            let alone = model.logits(&[*pair], limits, |_| {}).unwrap().values;
            for other in [logits.values[i], backwards[i]] {
                let error = (other - alone[0]).abs();
                assert!(error < 1e-5, "{name} on {spec}: {pair:?} moves by {error}");
            }
        }
    }
}

#[test]
fn bert() {
    scores("bert");
}

#[test]
fn xlm_roberta() {
    scores("xlm-roberta");
}

#[test]
fn distilbert_with_a_prompt() {
    scores("distilbert");
}

#[test]
fn no_pairs_have_no_scores() {
    let model = open(fixtures().join("bert"), DeviceSpec::Flex);
    let found = model.score(&[], BatchLimits::default(), |_| {}).unwrap();
    assert!(found.values.is_empty() && found.truncated == 0);
}

/// Changes to the files of `bert`, and what the library then makes scores by.
#[test]
fn the_function_of_the_scores_is_found_as_the_library_does() {
    let cases = read("activations.json");
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() > 10);
    for case in cases {
        let directory = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixtures().join("bert")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
        }
        for (name, changes) in case["files"].as_object().unwrap() {
            let path = directory.path().join(name);
            let content = match std::fs::read(&path) {
                Ok(old) => {
                    let mut old: Map<String, Value> = serde_json::from_slice(&old).unwrap();
                    for (field, value) in changes.as_object().unwrap() {
                        match value {
                            Value::Null => old.shift_remove(field),
                            value => old.insert(field.clone(), value.clone()),
                        };
                    }
                    Value::Object(old)
                }
                Err(_) => changes.clone(),
            };
            std::fs::write(&path, content.to_string()).unwrap();
        }
        let model = open(directory.path(), DeviceSpec::Flex);
        let found = format!("{:?}", model.activation());
        assert_eq!(found, case["activation"], "{case}");
    }
}
