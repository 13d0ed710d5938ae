//! `fin fit --layer-decay`: the rate of every parameter, against timm's of the same networks
//! (`fixtures/optimizers/layer_decay.py`).
//!
//! Lion moves every weight with a gradient by the learning rate, whatever the gradient is: how far a
//! tensor moves in one step is its rate.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, Scratch, fin, fixture};
use fin_core::weights::Checkpoint;
use serde_json::{Value, json};

/// A power of two, so that a step is as large as it should be.
const RATE: f64 = 0.0078125;

/// One step, and what it was as a part of the rate for every tensor that timm has a factor for.
/// `untrained` begins the names of tensors that have no part in the embedding.
fn moved_as_timm_says(model: &Path, reference: &str, untrained: &[&str], data: [&str; 3]) {
    let scratch = Scratch::new();
    let json = fs::read(fixture("optimizers/layer_decay.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let tuned = scratch.out("tuned");
    let [loss, train, option] = data;
    let mut fit = fin();
    fit.args(["fit", "--loss", loss, "--train", train, "--loss-option"]);
    fit.args([option, "--batch-size", "8", "--max-steps", "1"]);
    fit.args(["--optimizer", "lion", "--schedule", "constant"]);
    fit.args(["--learning-rate", &RATE.to_string(), "--layer-decay"]);
    fit.arg(json["layer_decay"].to_string());
    fit.arg("--model").arg(model).arg("--output").arg(&tuned);
    Run::from(fit.output().unwrap()).ok();

    let open = |directory: &Path| Checkpoint::open(directory.join("model.safetensors")).unwrap();
    let (before, after) = (open(model), open(&tuned));
    let expected = json[reference].as_object().unwrap();
    assert!(!expected.is_empty());
    for (name, factor) in expected {
        if untrained.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let (old, new) = (before.read_f32(name), after.read_f32(name));
        let steps = old.unwrap().into_iter().zip(new.unwrap());
        let largest = steps.map(|(old, new)| f64::from((new - old).abs()));
        let found = largest.fold(0.0, f64::max) / RATE;
        let factor = factor.as_f64().unwrap();
        assert!(
            (found - factor).abs() < 1e-3 * factor,
            "{reference}, {name}: {found}, timm has {factor}"
        );
    }
}

#[test]
fn layers_of_bert() {
    let model = fixture("text/bert-tiny");
    let train = fixture("help-desk/train.csv");
    let data = [
        "multiple_negatives_ranking",
        train.to_str().unwrap(),
        "scale=20",
    ];
    moved_as_timm_says(&model, "text/bert-tiny", &["pooler"], data);
}

/// A directory of the ResNet of the fixtures, and pictures of two classes.
fn resnet(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let (model, photos) = (scratch.path("resnet"), scratch.path("photos"));
    fs::create_dir(&model).unwrap();
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(fixture(name)).unwrap()).unwrap()
    };
    let mut config = read("images/efficientnet/fin.json");
    config["architecture"] = read("images/resnet-bottleneck.json")["architecture"].clone();
    config["projection"] = json!(null);
    config["pooling"] = json!("mean");
    fs::write(model.join("fin.json"), config.to_string()).unwrap();
    let weights = fixture("images/resnet-bottleneck.safetensors");
    fs::copy(weights, model.join("model.safetensors")).unwrap();
    for (class, period) in [("fine", 3), ("coarse", 11)] {
        let directory = photos.join(class);
        fs::create_dir_all(&directory).unwrap();
        for i in 0..4u32 {
            let picture = image::RgbImage::from_fn(40, 40, |x, y| {
                let is_dark = (x + y * i + i) % period < period / 2;
                image::Rgb([if is_dark { 40 } else { 210 }, (5 * x) as u8, (6 * y) as u8])
            });
            picture.save(directory.join(format!("{i}.png"))).unwrap();
        }
    }
    (model, photos)
}

#[test]
fn layers_of_a_resnet() {
    let scratch = Scratch::new();
    let (model, photos) = resnet(&scratch);
    let data = ["triplet_margin", photos.to_str().unwrap(), "margin=2"];
    moved_as_timm_says(&model, "images/resnet-bottleneck", &["fc"], data);
}

#[test]
fn layers_of_both_towers_of_a_clip() {
    let scratch = Scratch::new();
    let images = fixture("clip/images");
    let captions = ["a boat at the pier", "two dogs", "the clock", "rain"];
    let rows: String = captions
        .iter()
        .enumerate()
        .map(|(i, caption)| format!("{caption},{}\n", images.join(format!("{i}.png")).display()))
        .collect();
    let train = scratch.write("train.csv", format!("text,image\n{rows}"));
    let data = ["clip", train.to_str().unwrap(), "learn_temperature=true"];
    let model = fixture("clip/transformers");
    moved_as_timm_says(&model, "clip/transformers", &[], data);
}
