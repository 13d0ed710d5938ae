//! Values and gradients against sentence-transformers and pytorch-metric-learning; see
//! `fixtures/losses/generate.py`.
#![cfg(feature = "flex")]

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use fin_core::weights::Checkpoint;
use fin_train::dataset::BatchTargets;
use fin_train::{Options, loss_from_name};
use safetensors::SafeTensors;
use serde_json::Value;

/// Largest `‖found − expected‖ / ‖expected‖` against the reference in double precision; largest
/// absolute error where the expected value is zero but for rounding. Gradients may further be off
/// by three times the rounding error of the reference itself in single precision, which matters at
/// large scales alone.
const RELATIVE: f64 = 1e-5;
const ABSOLUTE: f64 = 2e-7;

fn distance(found: &[f32], expected: &[f32]) -> (f64, f64) {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|x| x.is_finite()), "{found:?}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(
        &mut found
            .iter()
            .zip(expected)
            .map(|(a, b)| f64::from(*a) - f64::from(*b)),
    );
    (error, norm(&mut expected.iter().map(|x| f64::from(*x))))
}

fn check(loss: &str, columns: &[&str], options: impl Fn(&Value) -> Options) {
    let directory = common::fixture("losses");
    let text = std::fs::read_to_string(directory.join(format!("{loss}.json"))).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    let path = directory.join(format!("{loss}.safetensors"));
    let tensors = Checkpoint::open(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let integers = SafeTensors::deserialize(&bytes).unwrap();
    let device = Device::flex().autodiff();
    let cases = record["cases"].as_array().unwrap();
    assert!(cases.len() >= 7);
    for case in cases {
        let (name, what) = (case["name"].as_str().unwrap(), &case["what"]);
        let present: Vec<&&str> = columns
            .iter()
            .filter(|column| tensors.get(&format!("{name}.{column}")).is_some())
            .collect();
        let embeddings: Vec<Tensor<2>> = present
            .iter()
            .map(|column| {
                let key = format!("{name}.{column}");
                let shape = tensors.get(&key).unwrap().shape().to_vec();
                Tensor::from_data(
                    TensorData::new(tensors.read_f32(&key).unwrap(), shape),
                    &device,
                )
                .require_grad()
            })
            .collect();
        let targets = if tensors.get(&format!("{name}.scores")).is_some() {
            BatchTargets::Scores(tensors.read_f32(&format!("{name}.scores")).unwrap())
        } else if let Ok(labels) = integers.tensor(&format!("{name}.labels")) {
            let labels = labels.data().as_chunks::<8>().0;
            BatchTargets::Labels(
                labels
                    .iter()
                    .map(|label| i64::from_le_bytes(*label) as usize)
                    .collect(),
            )
        } else {
            BatchTargets::None
        };
        let value = loss_from_name(loss, &options(case))
            .unwrap()
            .forward(&embeddings, &targets)
            .unwrap();
        let found = f64::from(value.clone().into_scalar::<f32>());
        let expected = case["loss_float64"].as_f64().unwrap();
        assert!(
            (found - expected).abs() <= RELATIVE * expected.abs() + ABSOLUTE,
            "{name} ({what}): {found} against {expected}"
        );
        let gradients = value.backward();
        for (column, embedding) in present.iter().zip(&embeddings) {
            let gradient = embedding
                .grad(&gradients)
                .expect("a gradient for every column");
            let gradient: Vec<f32> = gradient.into_data().try_into_vec().unwrap();
            let suffix = if **column == "embeddings" {
                String::new()
            } else {
                format!(".{column}")
            };
            let read = |kind| tensors.read_f32(&format!("{name}.{kind}{suffix}")).unwrap();
            let (expected, reference) = (read("grad_float64"), read("grad"));
            // Rows are compared one by one: that of a zero vector is many orders above the others
            // and would hide them.
            let dim = embedding.dims()[1];
            for row in 0..embedding.dims()[0] {
                let [found, expected, reference] =
                    [&gradient, &expected, &reference].map(|all| &all[row * dim..(row + 1) * dim]);
                let (error, norm) = distance(found, expected);
                let (rounding, _) = distance(reference, expected);
                assert!(
                    error <= RELATIVE * norm + ABSOLUTE + 3.0 * rounding,
                    "{name} ({what}), {column} row {row}: error {error:e} of {norm:e}"
                );
            }
        }
    }
}

#[test]
fn cosine_similarity_agrees() {
    check("cosine_similarity", &["a", "b"], |_| Options::new());
}

#[test]
fn multiple_negatives_ranking_agrees() {
    check(
        "multiple_negatives_ranking",
        &["anchor", "positive", "negative0", "negative1"],
        |case| Options::from_iter([("scale".to_string(), case["scale"].clone())]),
    );
}

#[test]
fn triplet_margin_agrees() {
    check("triplet_margin", &["embeddings"], |case| {
        Options::from_iter([
            ("margin".to_string(), case["margin"].clone()),
            ("smooth".to_string(), case["smooth_loss"].clone()),
        ])
    });
}

#[test]
fn batches_of_another_form_are_refused() {
    let device = Device::flex();
    let zeros = |batch| Tensor::<2>::zeros([batch, 4], &device);
    let loss = loss_from_name("cosine_similarity", &Options::new()).unwrap();
    for (embeddings, targets, what) in [
        (
            vec![zeros(2)],
            BatchTargets::Scores(vec![0.0; 2]),
            "1 column",
        ),
        (vec![zeros(2), zeros(2)], BatchTargets::None, "no targets"),
        (
            vec![zeros(2), zeros(3)],
            BatchTargets::Scores(vec![0.0; 2]),
            "[3, 4]",
        ),
        (
            vec![zeros(2), zeros(2)],
            BatchTargets::Scores(vec![0.0; 3]),
            "3 targets",
        ),
        (
            vec![zeros(0), zeros(0)],
            BatchTargets::Scores(vec![]),
            "empty",
        ),
    ] {
        let error = loss.forward(&embeddings, &targets).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
