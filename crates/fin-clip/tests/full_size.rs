//! CLIP models of real size against the reference libraries, from texts and image files to
//! features and logits. The references are made by `scripts/reference/clip_full.py` and lie where
//! `FIN_CLIP_REFERENCE` says:
//!
//! ```sh
//! scripts/reference/clip_full.py /tmp/clip clip-base-en clip-base-multi
//! FIN_CLIP_REFERENCE=/tmp/clip cargo test --release --workspace --test full_size -- --ignored clip
//! ```

use std::path::{Path, PathBuf};
use std::time::Instant;

use fin_clip::{ClipEmbedder, ClipItem, ClipOptions};
use fin_core::device::f32_tolerance;
use fin_core::{BatchLimits, DeviceSpec, Embedder};
use serde_json::Value;

/// `‖a − b‖ / ‖b‖`.
fn relative(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let pairs = a.iter().zip(b);
    let difference: f64 = pairs.map(|(a, b)| square(f64::from(*a) - b)).sum();
    (difference / b.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

fn compare(directory: &Path, spec: DeviceSpec) {
    let text = std::fs::read_to_string(directory.join("reference.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let name = reference["name"].as_str().unwrap();
    let rows = |field: &str| -> Vec<f64> {
        let rows: Vec<Vec<f64>> = serde_json::from_value(reference[field].clone()).unwrap();
        rows.into_iter().flatten().collect()
    };
    let texts: Vec<String> = serde_json::from_value(reference["texts"].clone()).unwrap();
    let images: Vec<String> = serde_json::from_value(reference["images"].clone()).unwrap();
    let images: Vec<PathBuf> = images.iter().map(|name| directory.join(name)).collect();
    let device = spec.open().unwrap();
    let begin = Instant::now();
    let model = ClipEmbedder::open(directory.join("model"), &ClipOptions::default(), &device)
        .unwrap_or_else(|e| panic!("{e}"));
    let seconds = begin.elapsed().as_secs_f64();
    assert!(model.report().unused.is_empty(), "{}", model.report());

    let limits = BatchLimits::default();
    let text = model.encode_text(&texts, &device, limits).unwrap();
    let image = model.encode_image(&images, &device, limits).unwrap();
    // One item at a time, texts and images in turn.
    let alone = BatchLimits {
        max_items: 1,
        ..limits
    };
    let first = [
        ClipItem::Text(texts[0].clone()),
        ClipItem::Image(images[0].clone()),
    ];
    let mixed = model.preprocess(&first).unwrap();
    let mixed =
        fin_core::encode_preprocessed(&model, &mixed, &device, alone, Default::default(), |_| {});
    let mixed = mixed.unwrap();
    let expected = [
        &rows("text_features")[..mixed.dim],
        &rows("image_features")[..mixed.dim],
    ]
    .concat();
    let errors = [
        ("texts", relative(&text.values, &rows("text_features"))),
        ("images", relative(&image.values, &rows("image_features"))),
        (
            "logits",
            relative(
                &model.similarity(&text, &image).unwrap(),
                &rows("logits_per_text"),
            ),
        ),
        ("one at a time", relative(&mixed.values, &expected)),
    ];
    let shown = errors.map(|(what, error)| format!("{what} {error:.2e}"));
    println!(
        "{name} on {spec}: {}; the library's own single precision {} (reference in {}); opened in \
         {seconds:.1} s",
        shown.join(", "),
        reference["float32_relative_error"],
        reference["precision"].as_str().unwrap(),
    );
    for (what, error) in errors {
        let tolerance = f32_tolerance(spec);
        assert!(error < tolerance, "{name} on {spec}, {what}: {error:.2e}");
    }
}

#[test]
#[ignore = "needs references of real size: see the top of this file"]
fn clip_models_of_real_size() {
    let directory = std::env::var_os("FIN_CLIP_REFERENCE").expect("FIN_CLIP_REFERENCE is not set");
    let devices = std::env::var("FIN_TEST_DEVICES").unwrap_or_else(|_| "flex".into());
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("reference.json").is_file())
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no references");
    for device in devices.split(',') {
        for directory in &found {
            compare(directory, device.parse().unwrap());
        }
    }
}
