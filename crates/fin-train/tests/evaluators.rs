//! Metrics against scipy and sentence-transformers; see `fixtures/evaluators/generate.py`.

mod common;

use std::collections::HashSet;

use fin_core::weights::Checkpoint;
use fin_train::evaluate::LabelledEvaluator;
use fin_train::evaluate::labelled::{labelled_metrics, rank_others};
use fin_train::evaluate::retrieval::ranking_metrics;
use fin_train::evaluate::sts::{Similarity, pearson, spearman};
use fin_train::evaluate::{normalize, top_k};
use serde_json::Value;

fn open(name: &str) -> (Value, Checkpoint) {
    let text =
        std::fs::read_to_string(common::fixture(&format!("evaluators/{name}.json"))).unwrap();
    let tensors =
        Checkpoint::open(common::fixture(&format!("evaluators/{name}.safetensors"))).unwrap();
    (serde_json::from_str(&text).unwrap(), tensors)
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

fn agrees(what: &str, found: Option<f64>, expected: &Value) {
    match (found, expected.as_f64()) {
        (Some(found), Some(expected)) => assert!(
            (found - expected).abs() < 1e-9,
            "{what}: {found} against {expected}"
        ),
        (found, expected) => assert_eq!(found, expected, "{what}"),
    }
}

#[test]
fn correlations_agree_with_scipy() {
    let (record, tensors) = open("correlation");
    for list in record["lists"].as_array().unwrap() {
        let (values, scores) = (numbers(&list["values"]), numbers(&list["scores"]));
        let what = list["what"].as_str().unwrap();
        agrees(what, spearman(&values, &scores).unwrap(), &list["spearman"]);
        agrees(what, pearson(&values, &scores).unwrap(), &list["pearson"]);
    }
    for case in record["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let [a, b] = ["a", "b"].map(|side| tensors.read_f32(&format!("{name}.{side}")).unwrap());
        let dim = tensors.get(&format!("{name}.a")).unwrap().shape()[1];
        let scores = numbers(&case["scores"]);
        for similarity in Similarity::ALL {
            let expected = &case[similarity.name()];
            let values = similarity.rows(&a, &b, dim).unwrap();
            for (found, expected) in values.iter().zip(numbers(&expected["values"])) {
                assert!(
                    (found - expected).abs() <= 1e-9 * expected.abs().max(1.0),
                    "{name} {similarity}"
                );
            }
            let what = format!("{name} {similarity}");
            agrees(
                &what,
                spearman(&values, &scores).unwrap(),
                &expected["spearman"],
            );
            agrees(
                &what,
                pearson(&values, &scores).unwrap(),
                &expected["pearson"],
            );
        }
    }
}

#[test]
fn retrieval_agrees_with_sentence_transformers() {
    let (record, tensors) = open("retrieval");
    let cutoffs: Vec<usize> = numbers(&record["cutoffs"])
        .into_iter()
        .map(|k| k as usize)
        .collect();
    let mut compared = 0;
    for case in record["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let [queries, corpus] =
            ["queries", "corpus"].map(|side| tensors.read_f32(&format!("{name}.{side}")).unwrap());
        let dim = tensors.get(&format!("{name}.queries")).unwrap().shape()[1];
        let relevant: Vec<HashSet<usize>> = case["relevant"]
            .as_array()
            .unwrap()
            .iter()
            .map(|wanted| numbers(wanted).into_iter().map(|i| i as usize).collect())
            .collect();
        let unit = |values: &[f32]| normalize(values.to_vec(), dim).unwrap();
        for (similarity, queries, corpus) in [
            ("dot", queries.clone(), corpus.clone()),
            ("cosine", unit(&queries), unit(&corpus)),
        ] {
            let rankings: Vec<Vec<usize>> = top_k(&queries, &corpus, dim, 10)
                .unwrap()
                .into_iter()
                .map(|row| row.into_iter().map(|(i, _)| i).collect())
                .collect();
            let expected: Vec<Vec<usize>> =
                serde_json::from_value(case["top10"][similarity].clone()).unwrap();
            assert_eq!(rankings, expected, "{name} {similarity}");
            let metrics = ranking_metrics(&rankings, &relevant, &cutoffs).unwrap();
            let expected = &case["metrics"][similarity];
            for (metric, found) in metrics.iter() {
                agrees(
                    &format!("{name} {similarity} {metric}"),
                    Some(found),
                    &expected[metric],
                );
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 7 * 2 * 7 * 4);
}

#[test]
fn labelled_metrics_agree() {
    let (record, tensors) = open("labelled");
    let cutoffs: Vec<usize> = serde_json::from_value(record["cutoffs"].clone()).unwrap();
    let mut compared = 0;
    for case in record["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let key = format!("{name}.embeddings");
        let dim = tensors.get(&key).unwrap().shape()[1];
        let values = normalize(tensors.read_f32(&key).unwrap(), dim).unwrap();
        let labels: Vec<usize> = serde_json::from_value(case["labels"].clone()).unwrap();
        let rankings = rank_others(&values, dim, &labels, &cutoffs).unwrap();
        let rankings: Vec<Vec<usize>> = rankings
            .into_iter()
            .map(|row| row.into_iter().map(|(other, _)| other).collect())
            .collect();
        let metrics = labelled_metrics(&rankings, &labels, &cutoffs).unwrap();
        assert_eq!(
            metrics.len(),
            case["metrics"].as_object().unwrap().len(),
            "{name}"
        );
        for (metric, found) in metrics.iter() {
            let what = format!("{name} {metric}");
            agrees(&what, Some(found), &case["metrics"][metric]);
            compared += 1;
        }
    }
    assert_eq!(compared, 5 * 22);
}

#[test]
fn labelled_data_that_cannot_be_ranked_is_refused() {
    let error = |labels: &[&str]| {
        LabelledEvaluator::new("x", vec!["a", "b", "c"], labels)
            .unwrap_err()
            .to_string()
    };
    assert!(error(&["x", "y", "z"]).contains("alone"));
    assert!(error(&["x", "x"]).contains("2 labels for 3 items"));
    let made = LabelledEvaluator::new("x", vec!["a", "b"], &["x", "x"]).unwrap();
    assert!(made.with_cutoffs(&[0]).is_err());
    for (rankings, what) in [
        (vec![vec![1], vec![0]], "2 rankings for 3"),
        (
            vec![vec![0, 1], vec![0, 2], vec![0, 1]],
            "item 0 has item 0",
        ),
        (
            vec![vec![1, 3], vec![0, 2], vec![0, 1]],
            "item 0 has item 3",
        ),
        (vec![vec![1], vec![0, 2], vec![0, 1]], "2 are needed"),
    ] {
        let error = labelled_metrics(&rankings, &[0, 0, 0], &[1])
            .unwrap_err()
            .to_string();
        assert!(error.contains(what), "{error}");
    }
}
