//! What stays as it is in training.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use fin_clip::{ClipEmbedder, ClipItem, ClipOptions, EncodedClip};
use fin_core::weights::state_dict;
use fin_core::{DeviceSpec, Embedder, EmbeddingNetwork};
use fin_train::optim::{AdamW, Optimizer, OptimizerConfig};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/clip")
}

fn items() -> (Vec<ClipItem>, Vec<ClipItem>) {
    let texts = ["a photo of a cat", "a dog in the rain", "boats"];
    let texts = texts.map(|text| ClipItem::Text(text.into()));
    let images = [0, 1, 2].map(|i| ClipItem::Image(fixtures().join(format!("images/{i}.png"))));
    (texts.into(), images.into())
}

/// The parameters after a step by their names, whether each has moved.
fn moved(name: &str, options: &ClipOptions) -> (ClipEmbedder, BTreeMap<String, bool>) {
    let plain = DeviceSpec::Flex.open().unwrap();
    let device = plain.clone().autodiff();
    let model = ClipEmbedder::open(fixtures().join(name), options, &plain)
        .unwrap_or_else(|e| panic!("{e}"));
    let network = model.network().clone().train();
    let (texts, images) = items();
    let [texts, images]: [Tensor<2>; 2] = [texts, images].map(|items| {
        let encoded = model.preprocess_training(&items, &plain).unwrap();
        let encoded: Vec<&EncodedClip> = encoded.iter().collect();
        let batch = model.collate_training(&encoded, 1, &device).unwrap();
        network.embed(&batch)
    });
    let loss = network.logits(texts, images).square().sum();
    let gradients = GradientsParams::from_grads(loss.backward(), &network);
    let mut optimizer = Optimizer::new(Box::new(AdamW::default()), &OptimizerConfig::default());
    let before = state_dict(model.network(), &model.names());
    let (network, _) = optimizer.step(network, gradients, 1e-2).unwrap();
    let after = state_dict(&network.valid(), &model.names());
    let changed = before.into_iter().zip(after).map(|(before, after)| {
        assert_eq!(before.0, after.0);
        (before.0, before.2 != after.2)
    });
    // A key's bias shifts all scores of a query alike, and has no gradient but rounding.
    let is_exact =
        |(key, _): &(String, bool)| !key.ends_with("k_proj.bias") && !key.ends_with("key.bias");
    (model, changed.filter(is_exact).collect())
}

#[test]
fn a_locked_tower_is_seen_once_and_stays() {
    for name in ["transformers", "open_clip", "open_clip-xlm-roberta"] {
        for lock_image in [true, false] {
            let options = ClipOptions {
                lock_image,
                lock_text: !lock_image,
                ..ClipOptions::default()
            };
            let (model, moved) = moved(name, &options);
            let is_image = |key: &str| key.starts_with("visual") || key.starts_with("vision");
            for (key, moved) in &moved {
                let locked = is_image(key) == lock_image && key != "logit_scale";
                assert_eq!(*moved, !locked, "{name}, lock_image {lock_image}: {key}");
            }
            let (texts, images) = items();
            let plain = DeviceSpec::Flex.open().unwrap();
            let encoded = model
                .preprocess_training(&[texts, images].concat(), &plain)
                .unwrap();
            for (i, item) in encoded.iter().enumerate() {
                let features = match item {
                    EncodedClip::TextFeatures { .. } => !lock_image && i < 3,
                    EncodedClip::ImageFeatures(_) => lock_image && i >= 3,
                    EncodedClip::Text(_) => lock_image && i < 3,
                    EncodedClip::Pixels(_) => !lock_image && i >= 3,
                    EncodedClip::File(_) => false,
                };
                assert!(features, "{i}: {item:?}");
            }
            // The features are what the tower gives.
            let all: Vec<&EncodedClip> = encoded.iter().collect();
            let batch = model.collate_training(&all, 1, &plain).unwrap();
            let found = model.network().embed(&batch);
            let (texts, images) = items();
            let fresh = model.preprocess(&[texts, images].concat()).unwrap();
            let fresh: Vec<&EncodedClip> = fresh.iter().collect();
            let batch = model.collate(&fresh, &plain).unwrap();
            let expected = model.network().embed(&batch);
            let difference = (found - expected).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-5, "{difference}");
        }
    }
}

#[test]
fn parameters_are_frozen_by_upstreams_names() {
    for (name, patterns, stays) in [
        (
            "transformers",
            ["*.self_attn.*", "logit_scale"],
            &["self_attn", "logit_scale"][..],
        ),
        (
            "open_clip",
            ["visual.*.in_proj_*", "token_embedding.weight"],
            &["token_embedding"],
        ),
    ] {
        let options = ClipOptions {
            freeze: patterns.map(String::from).to_vec(),
            ..ClipOptions::default()
        };
        let (_, moved) = moved(name, &options);
        let mut frozen = 0;
        for (key, moved) in &moved {
            let fused = ["q_proj", "k_proj", "v_proj"];
            let is_frozen = stays.iter().any(|part| key.contains(part))
                || name == "open_clip"
                    && key.starts_with("visual")
                    && fused.iter().any(|part| key.contains(part));
            frozen += usize::from(is_frozen);
            assert_eq!(*moved, !is_frozen, "{name}: {key}");
        }
        assert!(frozen > 5 && frozen < moved.len());
    }
}

#[test]
fn clip_options_that_cannot_be() {
    let device = DeviceSpec::Flex.open().unwrap();
    let mut messages = Vec::new();
    let base = ClipOptions::default;
    for options in [
        ClipOptions {
            freeze: vec!["visual.*".into()],
            ..base()
        },
        ClipOptions {
            image_size: Some(64),
            ..base()
        },
        ClipOptions {
            max_length: Some(21),
            ..base()
        },
        ClipOptions {
            max_length: Some(2),
            ..base()
        },
        ClipOptions {
            lock_image: true,
            lock_text: true,
            ..base()
        },
    ] {
        let error = ClipEmbedder::open(fixtures().join("transformers"), &options, &device);
        messages.push(error.unwrap_err().to_string());
    }
    for (message, part) in messages.iter().zip([
        "`visual.*` is no parameter's name; there are `text_model.",
        "32 × 32",
        "3 to 20",
        "3 to 20",
        "nothing left to train",
    ]) {
        assert!(message.contains(part), "{message}");
    }
    let short = ClipOptions {
        max_length: Some(5),
        image_size: Some(32),
        ..base()
    };
    let model = ClipEmbedder::open(fixtures().join("transformers"), &short, &device).unwrap();
    assert_eq!(model.max_length(), 5);
    let encoded = model.preprocess(&items().0).unwrap();
    let lengths = encoded.iter().map(|item| model.cost(item));
    assert_eq!(lengths.max(), Some(5));
    assert!(encoded.iter().any(|item| model.is_truncated(item)));
}
