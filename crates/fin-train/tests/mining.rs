//! Mined negatives against those of sentence-transformers.

use std::fs;
use std::path::Path;

use fin_train::mining::{HardNegatives, Mined};
use serde_json::Value;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures/mining")
        .join(name);
    fs::read(path).unwrap()
}

/// Rows of a tensor one after the other, and their width.
fn tensor(file: &str, name: &str) -> (Vec<f32>, usize) {
    let bytes = fixture(file);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    let values = view.data().chunks_exact(4);
    let values = values.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    (values.collect(), view.shape()[1])
}

fn options(case: &Value) -> HardNegatives {
    let number = |name: &str| case[name].as_f64().map(|value| value as f32);
    let count = |name: &str| case[name].as_u64().map(|value| value as usize);
    let default = HardNegatives::default();
    let known = [
        "num_negatives",
        "range_min",
        "range_max",
        "max_score",
        "min_score",
        "absolute_margin",
        "relative_margin",
    ];
    for name in case.as_object().unwrap().keys() {
        assert!(known.contains(&name.as_str()), "{name}");
    }
    HardNegatives {
        negatives: count("num_negatives").unwrap_or(default.negatives),
        range_min: count("range_min").unwrap_or(0),
        range_max: count("range_max"),
        max_score: number("max_score"),
        min_score: number("min_score"),
        absolute_margin: number("absolute_margin"),
        relative_margin: number("relative_margin"),
        ..default
    }
}

type Rows = Vec<Vec<usize>>;

fn rows(value: &Value) -> Rows {
    serde_json::from_value(value.clone()).unwrap()
}

/// Query, positive, negative; and the scores of both.
fn triplets(mined: &Mined) -> (Rows, Vec<[f32; 2]>) {
    let (mut rows, mut scores) = (Vec::new(), Vec::new());
    let lists = mined.positives.iter().zip(&mined.negatives);
    for (query, (positives, negatives)) in lists.enumerate() {
        for &(positive, above) in positives {
            for &(negative, below) in negatives {
                rows.push(vec![query, positive, negative]);
                scores.push([above, below]);
            }
        }
    }
    (rows, scores)
}

fn tuples(mined: &Mined, count: usize) -> Rows {
    let mut rows = Vec::new();
    let lists = mined.positives.iter().zip(&mined.negatives);
    for (query, (positives, negatives)) in lists.enumerate() {
        for &(positive, _) in positives {
            if negatives.len() == count {
                let negatives = negatives.iter().map(|(negative, _)| *negative);
                rows.push([query, positive].into_iter().chain(negatives).collect());
            }
        }
    }
    rows
}

fn labelled_pairs(mined: &Mined) -> Rows {
    let mut rows = Vec::new();
    let lists = mined.positives.iter().zip(&mined.negatives);
    for (query, (positives, negatives)) in lists.enumerate() {
        rows.extend(
            positives
                .iter()
                .map(|(document, _)| vec![query, *document, 1]),
        );
        rows.extend(
            negatives
                .iter()
                .map(|(document, _)| vec![query, *document, 0]),
        );
    }
    rows
}

/// Checks the rows and scores of every case of a file against what `mine` makes.
fn check_cases(
    file: &str,
    least: usize,
    mine: impl Fn(&HardNegatives, &[(usize, usize)]) -> Mined,
) {
    let reference: Value = serde_json::from_slice(&fixture(file)).unwrap();
    let pairs: Vec<(usize, usize)> = serde_json::from_value(reference["pairs"].clone()).unwrap();
    let cases = reference["cases"].as_array().unwrap();
    assert!(cases.len() >= least);
    for case in cases {
        let name = case["options"].to_string();
        let options = options(&case["options"]);
        let mined = mine(&options, &pairs);
        let (found, scores) = triplets(&mined);
        assert_eq!(found, rows(&case["triplets"]), "{name}");
        assert_eq!(
            tuples(&mined, options.negatives),
            rows(&case["tuples"]),
            "{name}"
        );
        assert_eq!(
            labelled_pairs(&mined),
            rows(&case["labelled_pairs"]),
            "{name}"
        );
        let expected: Vec<[f32; 2]> =
            serde_json::from_value(case["triplet_scores"].clone()).unwrap();
        assert_eq!(scores.len(), expected.len());
        for (found, expected) in scores.iter().flatten().zip(expected.iter().flatten()) {
            assert!(
                (found - expected).abs() < 1e-6,
                "{name}: {found} {expected}"
            );
        }
    }
}

#[test]
fn hard_negatives_are_those_of_sentence_transformers() {
    let file = "embeddings.safetensors";
    let (queries, dim) = tensor(file, "queries");
    let (documents, _) = tensor(file, "documents");
    check_cases("hard_negatives.json", 12, |options, pairs| {
        options.mine(&queries, &documents, dim, pairs).unwrap()
    });
}

#[test]
fn rescored_negatives_are_those_of_sentence_transformers() {
    let file = "embeddings.safetensors";
    let (queries, dim) = tensor(file, "queries");
    let (documents, _) = tensor(file, "documents");
    let (scores, width) = tensor("rescored.safetensors", "cross_scores");
    check_cases("rescored.json", 9, |options, pairs| {
        let rescore = |pairs: &[(usize, usize)]| {
            let score = |&(query, document): &(usize, usize)| scores[query * width + document];
            Ok(pairs.iter().map(score).collect())
        };
        let mined = options.mine_rescored(&queries, &documents, dim, pairs, rescore);
        mined.unwrap()
    });
}
