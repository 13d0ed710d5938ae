//! Models whose layers are held in 8 bits: close to what they are in f32, for inference alone.

use std::path::{Path, PathBuf};

use fin_core::{
    BatchLimits, DeviceSpec, Embedder, EmbeddingNetwork, PostProcess, Precision, encode,
};
use fin_transformer::{CrossEncoder, CrossEncoderOptions, TextEmbedder, TextOptions};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text")
}

const TEXTS: [&str; 4] = [
    "a boat",
    "the boat waits at the pier and the gulls follow it out to sea",
    "",
    "two friends",
];

fn options(precision: Precision) -> TextOptions {
    TextOptions {
        precision,
        normalize: Some(true),
        ..TextOptions::default()
    }
}

#[test]
fn every_architecture_is_close_to_itself_in_f32() {
    let device = DeviceSpec::Flex.open().unwrap();
    let texts = TEXTS.map(String::from);
    for name in [
        "bert-tiny",
        "distilbert-tiny",
        "t5-tiny",
        "t5-tiny-gated",
        "xlm-roberta-tiny",
    ] {
        let [exact, coarse] = [Precision::F32, Precision::Int8].map(|precision| {
            let model = TextEmbedder::open(fixtures().join(name), &options(precision), &device);
            let model = model.unwrap_or_else(|e| panic!("{name}: {e}"));
            let (limits, post) = (BatchLimits::default(), PostProcess::default());
            encode(&model, &texts, &device, limits, post, |_| {}).unwrap()
        });
        assert_ne!(exact.values, coarse.values, "{name} is not in 8 bits");
        for i in 0..texts.len() {
            let rows = exact.row(i).iter().zip(coarse.row(i));
            let cosine: f32 = rows.map(|(a, b)| a * b).sum();
            assert!(cosine > 0.995, "{name}, text {i}: cosine {cosine}");
        }
    }
}

#[test]
fn cross_encoders_are_close_to_themselves_in_f32() {
    let device = DeviceSpec::Flex.open().unwrap();
    let pairs = [
        (TEXTS[0], TEXTS[1]),
        (TEXTS[1], TEXTS[3]),
        (TEXTS[2], TEXTS[0]),
    ];
    for name in ["bert", "distilbert", "xlm-roberta"] {
        let directory = fixtures().join("../cross-encoders").join(name);
        let [exact, coarse] = [Precision::F32, Precision::Int8].map(|precision| {
            let options = CrossEncoderOptions {
                precision,
                ..CrossEncoderOptions::default()
            };
            let model = CrossEncoder::open(&directory, &options, &device).unwrap();
            let limits = BatchLimits::default();
            model.logits(&pairs, limits, |_| {}).unwrap().values
        });
        assert_ne!(exact, coarse, "{name} is not in 8 bits");
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
        let change = norm(&mut exact.iter().zip(&coarse).map(|(a, b)| a - b));
        let change = change / norm(&mut exact.iter().copied());
        assert!(change < 0.1, "{name}: changed by {change}");
    }
}

#[test]
fn the_layers_weights_are_let_go() {
    let device = DeviceSpec::Flex.open().unwrap();
    let [exact, coarse] = [Precision::F32, Precision::Int8].map(|precision| {
        let model = TextEmbedder::open(fixtures().join("bert-tiny"), &options(precision), &device);
        let model = model.unwrap();
        let width = model.network().output_dim();
        (burn::module::Module::num_params(model.network()), width)
    });
    assert_eq!(exact.1, coarse.1);
    assert!(
        coarse.0 < exact.0,
        "{} values, {} before",
        coarse.0,
        exact.0
    );
}

#[test]
fn saving_and_training_are_refused() {
    let device = DeviceSpec::Flex.open().unwrap();
    let path = fixtures().join("bert-tiny");
    let model = TextEmbedder::open(&path, &options(Precision::Int8), &device).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let saved = directory.path().join("saved");
    let error = model.save(&saved).unwrap_err().to_string();
    assert!(error.contains("int8") && error.contains("f32"), "{error}");
    assert!(!saved.exists());
    let error = TextEmbedder::open(&path, &options(Precision::Int8), &device.autodiff());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("inference"), "{error}");
}

#[test]
fn precisions_have_names() {
    for precision in [
        Precision::F32,
        Precision::F16,
        Precision::Bf16,
        Precision::Int8,
    ] {
        assert_eq!(
            precision.to_string().parse::<Precision>().unwrap(),
            precision
        );
    }
    let error = "int4".parse::<Precision>().unwrap_err().to_string();
    assert!(error.contains("f32, f16, bf16, int8"), "{error}");
}
