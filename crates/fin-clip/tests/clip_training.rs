//! Training of texts and images by `fin-train`: gradient caching, the learned temperature, frozen
//! parameters, and models between two others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fin_clip::{ClipEmbedder, ClipItem, ClipOptions};
use fin_core::weights::{Checkpoint, state_dict};
use fin_core::{DeviceSpec, Embedder, EmbeddingNetwork, Error};
use fin_train::checkpoint::latest;
use fin_train::dataset::Dataset;
use fin_train::wise_ft::wise_ft;
use fin_train::{Options, TrainConfig, TrainSummary, Trainer, loss_from_name};
use serde_json::{Value, json};

/// The generator of a device is one for all threads.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const MODELS: [&str; 2] = ["transformers", "open_clip"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn open(model: &str, options: &ClipOptions) -> ClipEmbedder {
    let device = DeviceSpec::Flex.open().unwrap();
    ClipEmbedder::open(fixtures().join("clip").join(model), options, &device).unwrap()
}

/// Twelve texts, each with an image of its own.
fn pairs() -> Dataset<ClipItem> {
    let texts = [
        "a boat",
        "two gulls over a pier",
        "it rains",
        "a clock, broken",
        "the night train leaves",
        "x",
        "red and white",
        "nobody is at home",
        "a very long walk along the shore in the evening, with a dog and a lantern and more",
        "3 apples",
        "cafe",
        "stairs",
    ];
    let files = [
        "rgb.png",
        "grey.png",
        "palette.png",
        "rgb16.png",
        "bits1.png",
        "turned.png",
        "444.jpg",
        "grey.jpg",
        "palette.gif",
        "rgba16.png",
        "bits1.bmp",
        "turned.webp",
    ];
    let texts = texts.map(|text| ClipItem::Text(text.into()));
    let images = files.map(|file| ClipItem::Image(fixtures().join("images/files").join(file)));
    Dataset::pairs(texts.into(), images.into(), vec![]).unwrap()
}

fn config(steps: usize) -> TrainConfig {
    TrainConfig {
        epochs: steps,
        batch_size: 12,
        learning_rate: 1e-3,
        max_grad_norm: 0.0,
        warmup: 0.0,
        max_steps: Some(steps),
        checkpoint_every_steps: Some(1),
        keep_checkpoints: 10,
        ..TrainConfig::default()
    }
}

fn trainer(steps: usize, options: Value) -> Trainer<ClipEmbedder> {
    let options: Options = options.as_object().unwrap().clone();
    Trainer::new(config(steps), loss_from_name("clip", &options).unwrap()).unwrap()
}

fn fit(
    trainer: Trainer<ClipEmbedder>,
    embedder: ClipEmbedder,
    checkpoints: &Path,
) -> (ClipEmbedder, TrainSummary) {
    let device = DeviceSpec::Flex.open().unwrap();
    let trainer = trainer.with_checkpoints(checkpoints);
    trainer.fit(embedder, &pairs(), &device).unwrap()
}

fn weights(embedder: &ClipEmbedder) -> BTreeMap<String, Vec<f32>> {
    let values = state_dict(embedder.network(), &embedder.names());
    values
        .into_iter()
        .map(|(key, _, values)| (key, values))
        .collect()
}

/// The first gradient of every parameter, from the optimiser's state.
fn gradients(size: Option<usize>, model: &str) -> (BTreeMap<String, Vec<f32>>, f32) {
    let directory = tempfile::tempdir().unwrap();
    let mut trainer = trainer(1, json!({"learn_temperature": true}));
    if let Some(size) = size {
        trainer = trainer.with_mini_batches(size).unwrap();
    }
    let (_, summary) = fit(
        trainer,
        open(model, &ClipOptions::default()),
        directory.path(),
    );
    let step = latest(directory.path()).unwrap().unwrap();
    let mut found = BTreeMap::new();
    for file in ["optimizer.safetensors", "loss_optimizer.safetensors"] {
        let state = Checkpoint::open(step.join(file)).unwrap();
        for (name, _) in state.iter().filter(|(name, _)| name.ends_with(".exp_avg")) {
            found.insert(format!("{file} {name}"), state.read_f32(name).unwrap());
        }
    }
    (found, summary.losses[0])
}

#[test]
fn mini_batches_of_two_towers_have_the_gradients_of_the_batch() {
    let _turn = turn();
    for model in MODELS {
        let (whole, loss) = gradients(None, model);
        assert!(whole.len() > 50, "{} gradients", whole.len());
        assert!(whole.keys().any(|name| name.starts_with("loss_")));
        for size in [1, 5, 12, 100] {
            let (parts, found) = gradients(Some(size), model);
            assert!(
                (found - loss).abs() <= 1e-5 * loss,
                "{found} against {loss}"
            );
            assert_eq!(parts.len(), whole.len());
            for (name, expected) in &whole {
                let norm = |values: &mut dyn Iterator<Item = f64>| {
                    values.map(|x| x * x).sum::<f64>().sqrt()
                };
                let pairs = parts[name].iter().zip(expected);
                let error = norm(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
                // The gradient of a key's bias, which moves all scores of a query alike, is zero but
                // for rounding, that of the bias of queries is of the same making and is not.
                let beside = &whole[&name.replace("k_proj.bias", "q_proj.bias")];
                let size_of = norm(&mut beside.iter().map(|x| f64::from(*x)));
                assert!(
                    error <= 1e-5 * size_of,
                    "{model}, {size}, {name}: {error:e} of {size_of:e}"
                );
            }
        }
    }
}

#[test]
fn the_learned_temperature_ends_up_in_the_saved_model() {
    let _turn = turn();
    for model in MODELS {
        let directory = tempfile::tempdir().unwrap();
        let learned = json!({"learn_temperature": true});
        let start = open(model, &ClipOptions::default());
        let before = start.logit_scale();
        let checkpoints = directory.path().join("unbroken");
        let (tuned, _) = fit(trainer(4, learned.clone()), start.clone(), &checkpoints);
        let after = tuned.logit_scale();
        // Four steps of Adam at no more than 0.01.
        assert!(
            (1e-3..0.05).contains(&(after - before).abs()),
            "{before} to {after}"
        );
        assert_eq!(tuned.network().logit_scale.val().dims(), [1]);
        let saved = directory.path().join("saved");
        tuned.save(&saved).unwrap();
        let device = DeviceSpec::Flex.open().unwrap();
        let opened = ClipEmbedder::open(&saved, &ClipOptions::default(), &device).unwrap();
        assert_eq!(opened.logit_scale().to_bits(), after.to_bits());
        assert_eq!(weights(&opened), weights(&tuned));

        // A resumed run ends with the same bits.
        let step = checkpoints.join("step-00000002");
        let rest = trainer(4, learned).resume_from(&step);
        let (resumed, _) = fit(rest, start.clone(), &directory.path().join("resumed"));
        assert_eq!(weights(&resumed), weights(&tuned));

        // Without learning it stays the model's.
        let (fixed, _) = fit(
            trainer(2, json!({})),
            start,
            &directory.path().join("fixed"),
        );
        assert_eq!(fixed.logit_scale(), before);
        assert_ne!(weights(&fixed), weights(&tuned));
    }
}

#[test]
fn the_temperature_stays_within_bounds() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let mut embedder = open("transformers", &ClipOptions::default());
    embedder.set_logit_scale(7.0).unwrap();
    let (tuned, _) = fit(
        trainer(3, json!({"learn_temperature": true})),
        embedder,
        directory.path(),
    );
    let scale = f64::from(tuned.logit_scale());
    assert!(scale <= 100f64.ln() + 1e-6 && scale > 4.5, "{scale}");
    assert_eq!(tuned.network().logit_scale(), Some(tuned.logit_scale()));
}

#[test]
fn frozen_parameters_stay_as_they_are() {
    let _turn = turn();
    let options = ClipOptions {
        freeze: vec![
            "text_model.*".into(),
            "*.bias".into(),
            "visual_projection.?eight".into(),
        ],
        ..ClipOptions::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let start = open("transformers", &options);
    let before = weights(&start);
    let (tuned, _) = fit(trainer(2, json!({})), start, directory.path());
    let (mut frozen, mut moved) = (0, 0);
    for (key, values) in weights(&tuned) {
        let expected = key.starts_with("text_model.")
            || key.ends_with(".bias")
            || key == "visual_projection.weight"
            || key == "logit_scale";
        assert_eq!(values == before[&key], expected, "{key}");
        frozen += usize::from(expected);
        moved += usize::from(!expected);
    }
    assert!(frozen > 20 && moved > 10, "{frozen} and {moved}");
}

#[test]
fn models_between_two_are_their_means() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let start = open("transformers", &ClipOptions::default());
    let learned = json!({"learn_temperature": true});
    let (tuned, _) = fit(trainer(2, learned), start.clone(), directory.path());
    let (before, after) = (weights(&start), weights(&tuned));
    assert_eq!(
        weights(&wise_ft(&start, tuned.clone(), 0.0).unwrap()),
        before
    );
    assert_eq!(
        weights(&wise_ft(&start, tuned.clone(), 1.0).unwrap()),
        after
    );
    let between = weights(&wise_ft(&start, tuned.clone(), 0.25).unwrap());
    assert_eq!(between.len(), before.len());
    for (key, values) in between {
        for (i, value) in values.into_iter().enumerate() {
            let expected = 0.75 * before[&key][i] + 0.25 * after[&key][i];
            assert!(
                (value - expected).abs() <= 1e-6 * expected.abs().max(1e-3),
                "{key}"
            );
        }
    }
    for alpha in [-0.1, 1.5, f64::NAN] {
        let error = wise_ft(&start, tuned.clone(), alpha).unwrap_err();
        assert!(
            matches!(&error, Error::Argument { name, .. } if name == "alpha"),
            "{error}"
        );
    }
    let other = open("transformers-gelu", &ClipOptions::default());
    let error = wise_ft(&other, tuned, 0.5).unwrap_err().to_string();
    assert!(
        error.contains("before: `") && error.contains("has shape"),
        "{error}"
    );
}
