//! Values and gradients against sentence-transformers and pytorch-metric-learning; see
//! `fixtures/losses/generate.py`.
#![cfg(feature = "flex")]

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use fin_core::weights::Checkpoint;
use fin_train::dataset::{BatchTargets, TargetKind};
use fin_train::loss::{
    CosineSimilarityLoss, Loss, LossParameters, LossShape, MultipleNegativesRankingLoss,
};
use fin_train::{Options, loss_from_name, loss_names};
use safetensors::SafeTensors;
use serde_json::{Value, json};

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

/// Compares every case of a fixture; the inputs of a case are in its `inputs`, `weight` being the
/// parameters of the loss.
fn check(fixture: &str, loss: &str, options: impl Fn(&Value) -> Options) {
    let directory = common::fixture("losses");
    let text = std::fs::read_to_string(directory.join(format!("{fixture}.json"))).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    let path = directory.join(format!("{fixture}.safetensors"));
    let tensors = Checkpoint::open(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let integers = SafeTensors::deserialize(&bytes).unwrap();
    let device = Device::flex().autodiff();
    let cases = record["cases"].as_array().unwrap();
    assert!(cases.len() >= 7);
    let mut wrong = Vec::new();
    for case in cases {
        let (name, what) = (case["name"].as_str().unwrap(), &case["what"]);
        let present: Vec<&str> = COLUMNS
            .into_iter()
            .filter(|column| tensors.get(&format!("{name}.{column}")).is_some())
            .collect();
        let inputs: Vec<Tensor<2>> = present
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
        } else if let Some(vectors) = tensors.get(&format!("{name}.vectors")) {
            BatchTargets::Vectors {
                dim: vectors.shape()[1],
                values: tensors.read_f32(&format!("{name}.vectors")).unwrap(),
            }
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
        let mut loss = loss_from_name(loss, &options(case)).unwrap();
        let mut embeddings = inputs.clone();
        let mut inputs = inputs;
        if present.last() == Some(&"weight") {
            loss.prepare(&LossShape {
                classes: case["classes"].as_u64().unwrap_or_default() as usize,
                dim: embeddings[0].dims()[1],
                logit_scale: None,
                seed: 0,
                device: device.clone(),
            })
            .unwrap();
            let weight = LossParameters::new(embeddings.pop().unwrap());
            let last = inputs.len() - 1;
            inputs[last] = weight.weight();
            loss.set_parameters(weight);
        }
        let value = loss.forward(&embeddings, &targets).unwrap();
        let found = f64::from(value.clone().into_scalar::<f32>());
        let expected = case["loss_float64"].as_f64().unwrap();
        if (found - expected).abs() > RELATIVE * expected.abs() + ABSOLUTE || found.is_nan() {
            wrong.push(format!("{name} ({what}): {found} against {expected}"));
        }
        let gradients = value.backward();
        for (column, embedding) in present.iter().zip(&inputs) {
            let gradient = embedding
                .grad(&gradients)
                .expect("a gradient for every column");
            let gradient: Vec<f32> = gradient.into_data().try_into_vec().unwrap();
            let suffix = if *column == "embeddings" {
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
                if error > RELATIVE * norm + ABSOLUTE + 3.0 * rounding {
                    wrong.push(format!(
                        "{name} ({what}), {column} row {row}: error {error:e} of {norm:e}, \
                         the reference's {rounding:e}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Inputs in the order in which losses take them.
const COLUMNS: [&str; 10] = [
    "embeddings",
    "a",
    "b",
    "query",
    "anchor",
    "positive",
    "negative",
    "negative0",
    "negative1",
    "weight",
];

/// The options that a case of a newer fixture has under their names here.
fn given(case: &Value) -> Options {
    case["options"].as_object().unwrap().clone()
}

#[test]
fn cosine_similarity_agrees() {
    check("cosine_similarity", "cosine_similarity", |_| Options::new());
}

#[test]
fn multiple_negatives_ranking_agrees() {
    let name = "multiple_negatives_ranking";
    check(name, name, |case| {
        Options::from_iter([("scale".to_string(), case["scale"].clone())])
    });
}

#[test]
fn triplet_margin_agrees() {
    check("triplet_margin", "triplet_margin", |case| {
        Options::from_iter([
            ("margin".to_string(), case["margin"].clone()),
            ("smooth".to_string(), case["smooth_loss"].clone()),
        ])
    });
    check("triplet_margin_mined", "triplet_margin", given);
}

#[test]
fn margin_with_a_learned_boundary_agrees() {
    check("margin_learned", "margin", given);
}

#[test]
fn clip_with_a_learned_temperature_agrees() {
    check("clip_learned", "clip", |_| {
        Options::from_iter([("learn_temperature".to_string(), json!(true))])
    });
}

#[test]
fn clip_begins_at_the_temperature_of_the_model() {
    let device = Device::flex();
    let prepared = |options: Value, logit_scale| {
        let mut loss = loss_from_name("clip", options.as_object().unwrap()).unwrap();
        loss.prepare(&LossShape {
            classes: 0,
            dim: 4,
            logit_scale,
            seed: 0,
            device: device.clone(),
        })
        .unwrap();
        loss
    };
    for (options, own, expected) in [
        (json!({}), None, (1.0f64 / 0.07).ln()),
        (json!({}), Some(3.0), 3.0),
        (json!({"temperature": 0.5}), Some(3.0), 2f64.ln()),
        // No more than 100, whatever a file says.
        (json!({}), Some(5.5), 100f64.ln()),
    ] {
        let fixed = prepared(options.clone(), own);
        assert!(!fixed.has_parameters() && fixed.parameters().is_none());
        assert_eq!(fixed.logit_scale(), None);
        let mut options = options;
        options["learn_temperature"] = json!(true);
        let learned = prepared(options, own);
        let (name, parameters) = learned.parameters().unwrap();
        assert_eq!((name, parameters.weight().dims()), ("logit_scale", [1, 1]));
        let found = f64::from(learned.logit_scale().unwrap());
        assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        assert_eq!(learned.bounds(), Some((0.0, 100f64.ln())));
        let items =
            || Tensor::<2>::from_floats([[1.0, 0.0, 0.5, 0.0], [0.2, 1.0, 0.0, 0.0]], &device);
        let value = |loss: &dyn Loss| {
            let other = items() * Tensor::from_floats([[1.0, 0.3, -1.0, 0.0]], &device);
            let value = loss.forward(&[items(), other], &BatchTargets::None);
            value.unwrap().into_scalar::<f32>()
        };
        let (a, b) = (value(fixed.as_ref()), value(learned.as_ref()));
        assert!((a - b).abs() < 1e-5 * a.abs(), "{a} is not {b}");
    }
    let negative = json!({"temperature": -1.0});
    assert!(loss_from_name("clip", negative.as_object().unwrap()).is_err());
    let mut unprepared = loss_from_name(
        "clip",
        json!({"learn_temperature": true}).as_object().unwrap(),
    )
    .unwrap();
    assert_eq!(unprepared.logit_scale(), None);
    unprepared.set_parameters(LossParameters::new(Tensor::ones([1, 1], &device)));
    assert_eq!(unprepared.logit_scale(), Some(1.0));
}

macro_rules! agrees {
    ($($name:ident)*) => {
        mod agrees {
            $(
                #[test]
                fn $name() {
                    super::check(stringify!($name), stringify!($name), super::given);
                }
            )*
        }
    };
}

agrees! {
    angle angular arc_face circle clip co_sent contrastive cos_face fast_ap
    generalized_lifted_structure intra_pair_variance large_margin_softmax lifted_structure margin
    margin_mse matryoshka mse multi_similarity n_pairs nca normalized_softmax nt_xent
    online_contrastive pair_contrastive proxy_anchor proxy_nca signal_to_noise_contrastive
    soft_triple sphere_face sup_con triplet tuplet_margin vicreg
}

/// Duplicates, zero vectors, parallel vectors, batches without one kind of pairs: every loss and
/// gradient is a number, and without positives and negatives the loss is 0.
#[test]
fn degenerate_batches_have_finite_gradients() {
    let device = Device::flex().autodiff();
    let mut axes = vec![0.0f32; 24];
    (0..6).for_each(|i| axes[4 * i + i % 3] = if i < 3 { 1.0 } else { -1.0 });
    for name in loss_names().filter(|name| *name != "matryoshka") {
        let mut loss = loss_from_name(name, &Options::new()).unwrap();
        loss.prepare(&LossShape {
            classes: 3,
            dim: 4,
            logit_scale: None,
            seed: 1,
            device: device.clone(),
        })
        .unwrap();
        if let Some((_, parameters)) = loss.parameters() {
            // Parallel to the items.
            let shape = parameters.weight().dims();
            let values = (0..shape[0] * shape[1])
                .map(|i| f32::from(u8::from(i / shape[1] == i % shape[1])))
                .collect::<Vec<_>>();
            let weight = Tensor::from_data(TensorData::new(values, shape), &device);
            loss.set_parameters(LossParameters::new(weight));
        }
        let accepted = loss.accepts();
        for (what, values) in [
            ("equal", vec![0.5f32; 24]),
            ("zero", vec![0.0; 24]),
            ("parallel and opposite", axes.clone()),
            ("tiny", axes.iter().map(|x| x * 1e-20).collect()),
        ] {
            for labels in [[0, 0, 0, 1, 1, 1], [0; 6], [0, 1, 2, 0, 1, 2]] {
                let columns: Vec<Tensor<2>> = (0..accepted.min_columns)
                    .map(|_| {
                        let data = TensorData::new(values.clone(), [6, 4]);
                        Tensor::from_data(data, &device).require_grad()
                    })
                    .collect();
                let targets = match accepted.targets {
                    TargetKind::None => BatchTargets::None,
                    TargetKind::Scores => {
                        BatchTargets::Scores(labels.map(|label| (label % 2) as f32).to_vec())
                    }
                    TargetKind::Labels => BatchTargets::Labels(labels.to_vec()),
                    TargetKind::Vectors => BatchTargets::Vectors {
                        values: axes.clone(),
                        dim: 4,
                    },
                };
                let value = loss.forward(&columns, &targets).unwrap();
                let gradients = value.clone().backward();
                let value = value.into_scalar::<f32>();
                assert!(value.is_finite(), "{name}, {what}, {labels:?}: {value}");
                for column in &columns {
                    let gradient = column.grad(&gradients).expect("a gradient");
                    let gradient: Vec<f32> = gradient.into_data().try_into_vec().unwrap();
                    assert!(
                        gradient.iter().all(|x| x.is_finite()),
                        "{name}, {what}, {labels:?}: {gradient:?}"
                    );
                }
            }
        }
        // One item has no pairs.
        if accepted.targets == TargetKind::Labels && !loss.has_parameters() {
            let one = Tensor::<2>::ones([1, 4], &device).require_grad();
            let value = loss
                .forward(std::slice::from_ref(&one), &BatchTargets::Labels(vec![0]))
                .unwrap();
            let gradient = one.grad(&value.clone().backward()).expect("a gradient");
            assert_eq!(value.into_scalar::<f32>(), 0.0, "{name}");
            assert_eq!(gradient.abs().sum().into_scalar::<f32>(), 0.0, "{name}");
        }
    }
}

#[test]
fn losses_with_parameters_say_what_they_need() {
    let device = Device::flex();
    let mut loss = loss_from_name("arc_face", &Options::new()).unwrap();
    let mut forward = |prepare: Option<usize>, dim, label| {
        if let Some(classes) = prepare {
            let shape = LossShape {
                classes,
                dim: 4,
                logit_scale: None,
                seed: 0,
                device: device.clone(),
            };
            loss.prepare(&shape)?;
        }
        let items = Tensor::<2>::ones([2, dim], &device);
        loss.forward(&[items], &BatchTargets::Labels(vec![0, label]))
    };
    for (prepare, dim, label, what) in [
        (None, 4, 1, "not prepared"),
        (Some(0), 4, 1, "no classes"),
        (Some(3), 4, 3, "label 3"),
        (Some(3), 5, 2, "width 5"),
    ] {
        let error = forward(prepare, dim, label).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    forward(Some(3), 4, 2).unwrap();
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
    let loss = loss_from_name("mse", &Options::new()).unwrap();
    let vectors = |count, dim| BatchTargets::Vectors {
        values: vec![0.0; count],
        dim,
    };
    for (targets, what) in [
        (BatchTargets::Scores(vec![0.0; 2]), "a vector each"),
        (vectors(10, 5), "5 components and an embedding 4"),
        (vectors(12, 4), "3 targets"),
        (vectors(0, 0), "0 targets"),
    ] {
        let error = loss.forward(&[zeros(2)], &targets).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn every_name_makes_its_loss_and_keeps_its_options() {
    for name in loss_names() {
        let mut options = Options::new();
        if name == "matryoshka" {
            options.insert("matryoshka_dims".into(), json!([8, 4]));
        }
        let loss = loss_from_name(name, &options).unwrap();
        assert_eq!(loss.name(), name);
        let again = loss_from_name(name, &loss.options()).unwrap();
        assert_eq!(again.options(), loss.options());
        fin_train::sampler_from_name(loss.default_sampler(), &Options::new()).unwrap();
    }
}

#[test]
fn errors_list_names_and_name_options() {
    let error = loss_from_name("mean", &Options::new())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cos_face, cosine_similarity, fast_ap"),
        "{error}"
    );
    for (name, options, what) in [
        ("triplet_margin", json!({"scale": 1}), "scale"),
        ("triplet_margin", json!({"margin": "wide"}), "wide"),
        ("triplet_margin", json!({"margin": -1.0}), "margin"),
        ("triplet_margin", json!({"miner": "hard"}), "batch_hard"),
        ("nt_xent", json!({"miner": {"angle": 1}}), "miner"),
        ("sup_con", json!({"temperature": 0}), "temperature"),
        ("fast_ap", json!({"num_bins": 0}), "num_bins"),
        ("arc_face", json!({"scale": -1}), "scale"),
        ("matryoshka", json!({}), "matryoshka_dims"),
        (
            "matryoshka",
            json!({"loss": "arc_face", "matryoshka_dims": [4]}),
            "arc_face",
        ),
        (
            "matryoshka",
            json!({"matryoshka_dims": [4, 2], "matryoshka_weights": [1]}),
            "matryoshka_weights",
        ),
        ("multiple_negatives_ranking", json!({"scale": 0.0}), "scale"),
    ] {
        let error = loss_from_name(name, options.as_object().unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn data_of_another_form_is_told_what_is_needed() {
    let loss = CosineSimilarityLoss::default();
    let error = loss
        .accepts()
        .check(loss.name(), 1, TargetKind::Labels)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "loss: `cosine_similarity` needs 2 columns (first, second) and a score each; \
         the data has 1 column and a label each"
    );
    let loss = MultipleNegativesRankingLoss::default();
    loss.accepts()
        .check(loss.name(), 4, TargetKind::None)
        .unwrap();
    let error = loss
        .accepts()
        .check(loss.name(), 2, TargetKind::Scores)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("2 or more columns (anchor, positive, hard negatives) and no targets"),
        "{error}"
    );
}
