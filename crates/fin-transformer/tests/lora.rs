//! Low-rank adapters on a text model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::Module;
use fin_core::weights::{Checkpoint, state_dict};
use fin_core::{BatchLimits, DeviceSpec, Embedder, PostProcess, encode};
use fin_train::checkpoint::latest;
use fin_train::dataset::Dataset;
use fin_train::{Adapters, LoraConfig, Options, TrainConfig, Trainer, loss_from_name};
use fin_transformer::{TextEmbedder, TextOptions};

/// The generator of a device, which dropout draws from, is one for all threads.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open() -> TextEmbedder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text/bert-tiny");
    let device = DeviceSpec::Flex.open().unwrap();
    TextEmbedder::open(path, &TextOptions::default(), &device).unwrap()
}

fn pairs() -> Dataset<String> {
    let a = ["a boat", "a dog", "the clock", "rain"].map(String::from);
    let b = ["at the pier", "it barks", "is broken", "over the sea"].map(String::from);
    Dataset::pairs(a.into(), b.into(), vec![]).unwrap()
}

fn config() -> LoraConfig {
    LoraConfig {
        rank: 2,
        alpha: 8.0,
        targets: vec!["query".into(), "encoder.layer.1.*dense".into()],
    }
}

fn trainer(checkpoints: &Path, adapters: Option<PathBuf>) -> Trainer<TextEmbedder> {
    let settings = TrainConfig {
        epochs: 4,
        batch_size: 4,
        learning_rate: 1e-2,
        checkpoint_every_steps: Some(1),
        keep_checkpoints: 9,
        ..TrainConfig::default()
    };
    let loss = loss_from_name("multiple_negatives_ranking", &Options::new()).unwrap();
    let adapters = adapters.map(|directory| Adapters {
        directory,
        base: "bert-tiny".into(),
    });
    Trainer::new(settings, loss)
        .unwrap()
        .with_checkpoints(checkpoints)
        .with_lora(config(), adapters)
        .unwrap()
}

fn weights(embedder: &TextEmbedder) -> BTreeMap<String, Vec<f32>> {
    let found = state_dict(embedder.network(), &embedder.names());
    found
        .into_iter()
        .map(|(key, _, values)| (key, values))
        .collect()
}

fn embeddings(embedder: &TextEmbedder) -> Vec<f32> {
    let texts = ["a boat waits", "rain over the pier"].map(String::from);
    let device = DeviceSpec::Flex.open().unwrap();
    let (limits, post) = (BatchLimits::default(), PostProcess::default());
    encode(embedder, &texts, &device, limits, post, |_| {})
        .unwrap()
        .values
}

#[test]
fn adapters_alone_are_trained_and_end_up_in_the_weights() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let device = DeviceSpec::Flex.open().unwrap();
    let (checkpoints, apart) = (
        directory.path().join("steps"),
        directory.path().join("peft"),
    );
    let trainer = trainer(&checkpoints, Some(apart.clone()));
    let (tuned, _) = trainer.fit(open(), &pairs(), &device).unwrap();

    // Gradients are of adapters, and both of their matrices have one.
    let last = latest(&checkpoints).unwrap().unwrap();
    let optimizer = Checkpoint::open(last.join("optimizer.safetensors")).unwrap();
    let names: Vec<&str> = optimizer.iter().map(|(name, _)| name).collect();
    assert!(
        names.iter().all(|name| name.contains(".lora.")),
        "{names:?}"
    );
    // Two layers' queries and the second's three other maps, two matrices each.
    let moments = names.iter().filter(|name| name.ends_with(".exp_avg"));
    assert_eq!(moments.count(), 2 * (2 + 3));

    // What is saved has upstream's keys, and differs where there are adapters.
    let (before, after) = (weights(&open()), weights(&tuned));
    assert_eq!(before.len(), after.len());
    for (key, values) in &after {
        let adapted = key.ends_with("query.weight")
            || key.contains("layer.1.") && key.ends_with("dense.weight");
        assert_eq!(values != &before[key], adapted, "{key}");
    }

    // The sum in the weights computes what weights and adapters do.
    let network = open().network().clone();
    let with_adapters = config().attach(network, &open().names(), 42).unwrap();
    let step = Checkpoint::open(last.join("model.safetensors")).unwrap();
    let names = open().names();
    let (with_adapters, _) =
        fin_core::weights::load(with_adapters, &step, &names, &device).unwrap();
    let unmerged = embeddings(&open().with_network(with_adapters.valid()));
    let merged = embeddings(&tuned);
    let square = |x: f32| f64::from(x) * f64::from(x);
    let pairs = unmerged.iter().zip(&merged);
    let difference: f64 = pairs.map(|(a, b)| square(a - b)).sum();
    let norm: f64 = merged.iter().map(|b| square(*b)).sum();
    assert!((difference / norm).sqrt() < 1e-5, "{difference} of {norm}");
    assert_ne!(merged, embeddings(&open()));

    // PEFT's names and shapes.
    let apart = Checkpoint::open(apart.join("adapter_model.safetensors")).unwrap();
    let key = "base_model.model.encoder.layer.0.attention.self.query";
    let shape = |name: &str| {
        apart
            .get(&format!("{key}.{name}"))
            .unwrap()
            .shape()
            .to_vec()
    };
    assert_eq!(shape("lora_A.weight"), [2, 32]);
    assert_eq!(shape("lora_B.weight"), [32, 2]);
    assert_eq!(apart.iter().count(), 10);
}

#[test]
fn a_resumed_run_with_adapters_ends_with_the_same_bits() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let device = DeviceSpec::Flex.open().unwrap();
    let steps = directory.path().join("steps");
    let (tuned, _) = trainer(&steps, None)
        .fit(open(), &pairs(), &device)
        .unwrap();
    let rest = trainer(&directory.path().join("rest"), None);
    let rest = rest.resume_from(steps.join("step-00000002"));
    let (resumed, _) = rest.fit(open(), &pairs(), &device).unwrap();
    assert_eq!(weights(&resumed), weights(&tuned));
    // Without the adapters it is another run.
    let loss = loss_from_name("multiple_negatives_ranking", &Options::new()).unwrap();
    let other = Trainer::new(
        TrainConfig {
            epochs: 4,
            batch_size: 4,
            learning_rate: 1e-2,
            ..TrainConfig::default()
        },
        loss,
    );
    let other = other.unwrap().resume_from(steps.join("step-00000002"));
    let error = other
        .fit(open(), &pairs(), &device)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`lora`"), "{error}");
}

#[test]
fn what_cannot_be_adapted_is_told() {
    let network = open().network().clone();
    let attach = |config: LoraConfig| config.attach(network.clone(), &open().names(), 1);
    let none = LoraConfig {
        targets: vec!["q_proj".into()],
        ..config()
    };
    let error = attach(none).unwrap_err().to_string();
    for part in ["q_proj", "query", "dense"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    for (config, field) in [
        (
            LoraConfig {
                rank: 0,
                ..config()
            },
            "rank",
        ),
        (
            LoraConfig {
                alpha: 0.0,
                ..config()
            },
            "alpha",
        ),
        (
            LoraConfig {
                targets: vec![],
                ..config()
            },
            "targets",
        ),
    ] {
        let error = attach(config).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}
