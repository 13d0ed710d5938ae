//! Image models whose convolutions are in 8 bits: close to what they are in f32, for inference alone.
#![cfg(feature = "flex")]

use std::path::{Path, PathBuf};

use burn::module::Module;
use fin_cnn::{ImageEmbedder, ImageOptions};
use fin_core::{BatchLimits, DeviceSpec, Embedder, PostProcess, Precision, encode};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images")
}

const FILES: [&str; 5] = [
    "444.jpg",
    "large.webp",
    "rgb.png",
    "grey.tiff",
    "palette.gif",
];

fn options(precision: Precision) -> ImageOptions {
    ImageOptions {
        precision,
        normalize: Some(true),
        ..ImageOptions::default()
    }
}

#[test]
fn embeddings_are_close_to_those_in_f32() {
    let device = DeviceSpec::Flex.open().unwrap();
    let files = FILES.map(|name| fixtures().join("files").join(name));
    let [exact, coarse] = [Precision::F32, Precision::Int8].map(|precision| {
        let path = fixtures().join("efficientnet");
        let model = ImageEmbedder::open(path, &options(precision), &device).unwrap();
        let (limits, post) = (BatchLimits::default(), PostProcess::default());
        encode(&model, &files, &device, limits, post, |_| {}).unwrap()
    });
    assert_ne!(exact.values, coarse.values, "not in 8 bits");
    for (i, file) in FILES.iter().enumerate() {
        let rows = exact.row(i).iter().zip(coarse.row(i));
        let cosine: f32 = rows.map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "{file}: cosine {cosine}");
    }
}

#[test]
fn the_convolutions_weights_are_let_go() {
    let device = DeviceSpec::Flex.open().unwrap();
    let [exact, coarse] = [Precision::F32, Precision::Int8].map(|precision| {
        let path = fixtures().join("efficientnet");
        let model = ImageEmbedder::open(path, &options(precision), &device).unwrap();
        model.network().backbone.num_params()
    });
    assert!(exact > 0);
    assert_eq!(coarse, 0);
}

#[test]
fn saving_and_training_are_refused() {
    let device = DeviceSpec::Flex.open().unwrap();
    let path = fixtures().join("efficientnet");
    let model = ImageEmbedder::open(&path, &options(Precision::Int8), &device).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let saved = directory.path().join("saved");
    let error = model.save(&saved).unwrap_err().to_string();
    assert!(error.contains("int8") && error.contains("f32"), "{error}");
    assert!(!saved.exists());
    let error = ImageEmbedder::open(&path, &options(Precision::Int8), &device.autodiff());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("inference"), "{error}");
}
