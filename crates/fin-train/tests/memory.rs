//! Losses that compare a batch with earlier ones, against pytorch-metric-learning; see
//! `fixtures/losses/generate.py`.
#![cfg(feature = "flex")]

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{Bag, exclusive, questions_and_answers};
use fin_core::weights::{self, Checkpoint};
use fin_core::{Embedder, Error, Result};
use fin_train::callback::{Callback, Context};
use fin_train::checkpoint::latest;
use fin_train::dataset::{BatchTargets, Dataset};
use fin_train::loss::Loss;
use fin_train::{Options, TrainConfig, TrainSummary, Trainer, loss_from_name, sampler_from_name};
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// As in the test `losses`.
const RELATIVE: f64 = 1e-5;
const ABSOLUTE: f64 = 2e-7;

fn from_options(name: &str, options: &Value) -> Result<Box<dyn Loss>> {
    loss_from_name(name, options.as_object().unwrap())
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

fn difference(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    norm(pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)))
}

#[test]
fn successive_batches_agree() {
    let directory = common::fixture("losses");
    let text = std::fs::read_to_string(directory.join("cross_batch_memory.json")).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    let path = directory.join("cross_batch_memory.safetensors");
    let tensors = Checkpoint::open(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let integers = SafeTensors::deserialize(&bytes).unwrap();
    let device = Device::flex().autodiff();
    let mut current: Option<(u64, Box<dyn Loss>)> = None;
    let (mut wrong, mut seen, mut runs) = (Vec::new(), 0, 0);
    for case in record["cases"].as_array().unwrap() {
        let (name, what) = (case["name"].as_str().unwrap(), &case["what"]);
        let run = case["run"].as_u64().unwrap();
        if current.as_ref().is_none_or(|(number, _)| *number != run) {
            let loss = from_options(case["loss_name"].as_str().unwrap(), &case["options"]);
            current = Some((run, loss.unwrap()));
            (seen, runs) = (0, runs + 1);
        }
        let loss = &mut current.as_mut().unwrap().1;
        let read = |kind: &str| tensors.read_f32(&format!("{name}.{kind}")).unwrap();
        let values = read("embeddings");
        let labels = integers.tensor(&format!("{name}.labels")).unwrap();
        let labels: Vec<usize> = labels
            .data()
            .as_chunks::<8>()
            .0
            .iter()
            .map(|label| i64::from_le_bytes(*label) as usize)
            .collect();
        let (rows, dim) = (labels.len(), values.len() / labels.len());
        let embeddings = Tensor::<2>::from_data(TensorData::new(values, [rows, dim]), &device);
        let embeddings = embeddings.require_grad();
        let targets = BatchTargets::Labels(labels);

        let columns = std::slice::from_ref(&embeddings);
        let value = loss.forward(columns, &targets).unwrap();
        let found = f64::from(value.clone().into_scalar::<f32>());
        let expected = case["loss_float64"].as_f64().unwrap();
        if (found - expected).abs() > RELATIVE * expected.abs() + ABSOLUTE || found.is_nan() {
            wrong.push(format!("{name} ({what}): {found} against {expected}"));
        }
        let gradient = embeddings.grad(&value.backward()).expect("a gradient");
        let gradient: Vec<f32> = gradient.into_data().try_into_vec().unwrap();
        assert!(
            gradient.iter().all(|x| x.is_finite()),
            "{name}: {gradient:?}"
        );
        let (expected, reference) = (read("grad_float64"), read("grad"));
        for row in 0..rows {
            let [found, expected, reference] =
                [&gradient, &expected, &reference].map(|all| &all[row * dim..(row + 1) * dim]);
            let error = difference(found, expected);
            let size = norm(expected.iter().map(|x| f64::from(*x)));
            let rounding = difference(reference, expected);
            if error > RELATIVE * size + ABSOLUTE + 3.0 * rounding {
                wrong.push(format!(
                    "{name} ({what}), row {row}: error {error:e} of {size:e}"
                ));
            }
        }
        // Asking for a loss again changes nothing; taking note of the batch does.
        let again = loss.forward(columns, &targets).unwrap();
        assert_eq!(f64::from(again.into_scalar::<f32>()), found, "{name}");
        loss.observe(columns, &targets).unwrap();
        seen += rows;
        let memory = loss.memory().unwrap();
        assert_eq!(memory.len(), seen.min(memory.size()), "{name}");
    }
    assert!(runs >= 40, "{runs} runs");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn losses_that_have_no_memory_say_why() {
    for (name, options, what) in [
        ("arc_face", json!({"memory": 8}), "vectors of the classes"),
        ("proxy_nca", json!({"memory": 8}), "vectors of the classes"),
        (
            "fast_ap",
            json!({"memory": 8}),
            "`fast_ap` does not go with it",
        ),
        (
            "n_pairs",
            json!({"memory": 8}),
            "`n_pairs` does not go with it",
        ),
        ("nca", json!({"memory": 8}), "`nca` does not go with it"),
        (
            "lifted_structure",
            json!({"memory": 8}),
            "negatives of the positive",
        ),
        (
            "triplet_margin",
            json!({"memory": 8, "swap": true}),
            "`swap`",
        ),
        ("contrastive", json!({"memory": 0}), "0 is too small"),
        (
            "contrastive",
            json!({"memory": "many"}),
            "not a number of items",
        ),
        (
            "contrastive",
            json!({"memory": 2.5}),
            "not a number of items",
        ),
        ("co_sent", json!({"memory": 8}), "memory"),
        (
            "matryoshka",
            json!({"matryoshka_dims": [4], "loss": {"name": "contrastive", "memory": 8}}),
            "has a memory",
        ),
        (
            "contrastive",
            json!({"miner": {"name": "maximum_loss", "loss": {"name": "nt_xent", "memory": 8}}}),
            "has a memory",
        ),
    ] {
        let error = from_options(name, &options).unwrap_err().to_string();
        assert!(
            error.contains(what) && error.contains("memory"),
            "{name}: {error}"
        );
    }
    let device = Device::flex();
    let forward = |options: Value| {
        let loss = from_options("contrastive", &options).unwrap();
        let again = loss_from_name("contrastive", &loss.options()).unwrap();
        assert_eq!(again.options(), loss.options());
        let items = Tensor::<2>::from_floats([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], &device);
        loss.forward(&[items], &BatchTargets::Labels(vec![0, 0, 1]))
    };
    let error = forward(json!({"memory": 2})).unwrap_err().to_string();
    assert!(error.contains("2 is less than the 3 items"), "{error}");
    let error = forward(json!({"memory": 4, "miner": "maximum_loss"})).unwrap_err();
    assert!(
        error.to_string().contains("does not go with a memory"),
        "{error}"
    );
    // The memory of a first batch is the batch.
    let values = [json!({}), json!({"memory": 3}), json!({"memory": null})]
        .map(|options| forward(options).unwrap().into_scalar::<f32>());
    assert!(values[0] > 0.0 && values[2] == values[0], "{values:?}");
    assert!((values[1] - values[0]).abs() < 1e-6, "{values:?}");
}

/// Asks for a stop after a step.
struct StopAt(usize);

impl<E: Embedder> Callback<E> for StopAt {
    fn on_step_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        if context.progress().step == self.0 {
            context.request_stop();
        }
        Ok(())
    }
}

type Change<'a> = &'a dyn Fn(Trainer<Bag>) -> Trainer<Bag>;

/// Questions and answers of a topic as a class each, two batches of 4 a step.
fn fit(loss: &str, options: &Value, change: Change) -> Result<(Bag, TrainSummary)> {
    let device = Device::flex();
    let (questions, answers) = questions_and_answers();
    let labels: Vec<String> = (0..2 * questions.len())
        .map(|i| (i % questions.len()).to_string())
        .collect();
    let data = Dataset::labelled([questions, answers].concat(), &labels)?;
    let config = TrainConfig {
        epochs: 4,
        batch_size: 4,
        gradient_accumulation_steps: 2,
        learning_rate: 0.01,
        ..TrainConfig::default()
    };
    let trainer = Trainer::new(config, from_options(loss, options)?)?
        .with_sampler(sampler_from_name("random", &Options::new())?);
    change(trainer).fit(Bag::new(&device, 11, 0.2), &data, &device)
}

/// The memory, and the boundaries of the margin loss, are written down and put back: a run that is
/// stopped and resumed ends with the losses and weights of an unbroken one.
#[test]
fn memory_and_learned_boundaries_are_part_of_a_checkpoint() {
    let _turn = exclusive();
    let beta = json!({"learn_beta": true, "per_class": true, "nu": 0.01, "memory": 9});
    for (loss, options) in [
        ("contrastive", json!({"memory": 9})),
        (
            "multi_similarity",
            json!({"memory": 9, "miner": "multi_similarity"}),
        ),
        ("margin", beta),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (unbroken, whole) = fit(loss, &options, &|trainer| trainer).unwrap();
        assert_eq!(whole.steps, 12, "{loss}");
        let (_, half) = fit(loss, &options, &|trainer| {
            trainer
                .with_checkpoints(directory.path())
                .with_callback(StopAt(7))
        })
        .unwrap();
        let checkpoint = latest(directory.path()).unwrap().unwrap();
        let file = checkpoint.join("memory.safetensors");
        let saved = Checkpoint::open(&file).unwrap();
        assert_eq!(saved.get("embedding_memory").unwrap().shape(), [9, 8]);
        // 56 items went through its 9 slots.
        assert_eq!(saved.read_f32("queue_idx").unwrap(), [2.0]);
        if loss == "margin" {
            let saved = Checkpoint::open(checkpoint.join("loss.safetensors")).unwrap();
            let beta = saved.read_f32("beta").unwrap();
            assert_eq!(beta.len(), 12);
            assert!(
                beta.iter().any(|beta| (beta - 1.2).abs() > 1e-3),
                "{beta:?}"
            );
        }
        let resume: Change = &|trainer| trainer.resume_from(&checkpoint);
        let (resumed, rest) = fit(loss, &options, resume).unwrap();
        assert_eq!(
            [half.losses.clone(), rest.losses].concat(),
            whole.losses,
            "{loss}"
        );
        assert_eq!(resumed.weights(), unbroken.weights(), "{loss}");

        // What it holds counts, and what does not fit is refused.
        let labels = saved.read_f32("label_memory").unwrap();
        let tensors = |dim: usize| {
            let values = (0..9 * dim).map(|i| (i % 7) as f32 - 3.0).collect();
            [
                ("embedding_memory".to_string(), vec![9, dim], values),
                ("label_memory".to_string(), vec![9], labels.clone()),
                ("queue_idx".to_string(), vec![1], vec![2.0]),
            ]
        };
        weights::save(&file, &tensors(8)).unwrap();
        let (_, other) = fit(loss, &options, resume).unwrap();
        assert_ne!(
            other.losses[..],
            whole.losses[half.losses.len()..],
            "{loss}"
        );
        weights::save(&file, &tensors(5)).unwrap();
        let error = fit(loss, &options, resume).unwrap_err();
        assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
        std::fs::remove_file(&file).unwrap();
        let error = fit(loss, &options, resume).unwrap_err().to_string();
        assert!(error.contains("memory.safetensors"), "{error}");
        let error = fit(loss, &json!({"memory": 10}), resume).unwrap_err();
        assert!(
            matches!(&error, Error::Config { field, .. } if field == "loss"),
            "{error}"
        );
    }
}

#[test]
fn a_boundary_is_learned_where_that_is_asked_for() {
    for (options, what) in [
        (json!({"nu": 0.1}), "nu"),
        (json!({"per_class": true}), "per_class"),
        (json!({"learn_beta": true, "nu": -1.0}), "nu"),
    ] {
        let error = from_options("margin", &options).unwrap_err().to_string();
        assert!(error.starts_with(what), "{error}");
    }
    assert!(!from_options("margin", &json!({})).unwrap().has_parameters());
    let loss = from_options("margin", &json!({"learn_beta": true})).unwrap();
    assert!(loss.has_parameters() && loss.parameters().is_none());
    let items = Tensor::<2>::ones([2, 4], &Device::flex());
    let error = loss.forward(&[items], &BatchTargets::Labels(vec![0, 0]));
    assert!(error.unwrap_err().to_string().contains("not prepared"));
}
