//! Training by `fin-train`: batch statistics, dropout and stochastic depth through checkpoints
//! and resumption, and what is saved at the end.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use fin_cnn::{CONFIG_FILE, ImageEmbedder, ImageOptions};
use fin_core::weights::{self, Checkpoint};
use fin_core::{DeviceSpec, Embedder, Result};
use fin_train::callback::{Callback, Context};
use fin_train::checkpoint::latest;
use fin_train::dataset::Dataset;
use fin_train::{Options, TrainConfig, TrainSummary, Trainer, loss_from_name};
use serde_json::Value;

/// The generator of a device is one for all threads.
static TURN: Mutex<()> = Mutex::new(());

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images")
}

/// The fixture's model with dropout and stochastic depth.
fn model() -> ImageEmbedder {
    let directory = tempfile::tempdir().unwrap();
    let source = fixtures().join("efficientnet");
    for name in ["model.safetensors", "projection.safetensors"] {
        std::fs::copy(source.join(name), directory.path().join(name)).unwrap();
    }
    let text = std::fs::read_to_string(source.join(CONFIG_FILE)).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["architecture"]["efficientnet"]["dropout"] = 0.2.into();
    config["architecture"]["efficientnet"]["stochastic_depth"] = 0.3.into();
    std::fs::write(directory.path().join(CONFIG_FILE), config.to_string()).unwrap();
    let device = DeviceSpec::Flex.open().unwrap();
    ImageEmbedder::open(directory.path(), &ImageOptions::default(), &device).unwrap()
}

/// The same picture in two formats.
fn pairs() -> Dataset<PathBuf> {
    let file = |name: &&str| fixtures().join("files").join(name);
    let anchors = [
        "rgb.png",
        "grey.png",
        "palette.png",
        "rgb16.png",
        "bits1.png",
        "turned.png",
    ];
    let positives = [
        "444.jpg",
        "grey.jpg",
        "palette.gif",
        "rgba16.png",
        "bits1.bmp",
        "turned.webp",
    ];
    let paths = |names: [&str; 6]| names.iter().map(file).collect();
    Dataset::pairs(paths(anchors), paths(positives), vec![]).unwrap()
}

fn trainer() -> Trainer<ImageEmbedder> {
    let config = TrainConfig {
        epochs: 3,
        batch_size: 3,
        learning_rate: 1e-3,
        ..TrainConfig::default()
    };
    let loss = loss_from_name("multiple_negatives_ranking", &Options::new()).unwrap();
    Trainer::new(config, loss).unwrap()
}

fn fit(trainer: Trainer<ImageEmbedder>) -> (ImageEmbedder, TrainSummary) {
    let device = DeviceSpec::Flex.open().unwrap();
    trainer.fit(model(), &pairs(), &device).unwrap()
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

fn state(model: &ImageEmbedder) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    weights::state_dict(model.network(), &model.names())
}

#[test]
fn a_resumed_run_ends_with_the_bits_of_an_unbroken_one() {
    let _turn = TURN.lock();
    let directory = tempfile::tempdir().unwrap();
    let (unbroken, whole) = fit(trainer());
    assert_eq!(whole.steps, 6);
    assert!(state(&unbroken) != state(&model()));

    let stopped = trainer()
        .with_checkpoints(directory.path())
        .with_callback(StopAt(3));
    let (_, first) = fit(stopped);
    assert!(first.stopped && first.steps == 3);
    let checkpoint = latest(directory.path()).unwrap().unwrap();
    // Two passes a step: one for each picture of the pairs. Counters began at what the file said.
    let tensors = Checkpoint::open(checkpoint.join("model.safetensors")).unwrap();
    let original = Checkpoint::open(fixtures().join("efficientnet/model.safetensors")).unwrap();
    let key = "features.0.1.num_batches_tracked";
    let (now, before) = (tensors.read_i64(key), original.read_i64(key));
    assert_eq!(now.unwrap()[0], before.unwrap()[0] + 6);

    let (resumed, second) = fit(trainer().resume_from(&checkpoint));
    assert_eq!([first.losses, second.losses].concat(), whole.losses);
    assert!(state(&resumed) == state(&unbroken));
}

#[test]
fn a_trained_model_is_saved_with_its_statistics() {
    let _turn = TURN.lock();
    let (trained, _) = fit(trainer());
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("trained");
    trained.save(&target).unwrap();
    let device = DeviceSpec::Flex.open().unwrap();
    let opened = ImageEmbedder::open(&target, &ImageOptions::default(), &device).unwrap();
    assert!(state(&opened) == state(&trained));
}
