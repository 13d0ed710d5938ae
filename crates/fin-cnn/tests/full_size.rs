//! Networks of real size against the reference libraries, from image files to embeddings. The
//! references are made by `scripts/reference/cnn_full.py` and lie where `FIN_CNN_REFERENCE` says:
//!
//! ```sh
//! scripts/reference/cnn_full.py /tmp/cnn resnet50 efficientnet_b4
//! FIN_CNN_REFERENCE=/tmp/cnn cargo test --package fin-cnn --test full_size -- --ignored --nocapture
//! ```

use std::path::{Path, PathBuf};

use fin_cnn::{ImageEmbedder, ImageOptions, ModelConfig};
use fin_core::device::f32_tolerance;
use fin_core::{BatchLimits, DeviceSpec, Embedder, EmbeddingNetwork, PostProcess, encode};
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
    let text = |field: &str| reference[field].as_str().unwrap();
    let name = text("architecture");
    let device = spec.open().unwrap();
    let config = ModelConfig::preset(name, None).unwrap();
    let checkpoint = directory.join(text("checkpoint"));
    let images: Vec<String> = serde_json::from_value(reference["images"].clone()).unwrap();
    let images: Vec<PathBuf> = images.iter().map(|name| directory.join(name)).collect();
    for (field, image_size) in [("embeddings", None), ("embeddings_224", Some(224))] {
        let options = ImageOptions {
            image_size,
            ..ImageOptions::default()
        };
        let model =
            ImageEmbedder::open_checkpoint(&checkpoint, &config, &options, &device).unwrap();
        assert!(model.report().unused.is_empty(), "{}", model.report());
        let rows: Vec<Vec<f64>> = serde_json::from_value(reference[field].clone()).unwrap();
        let expected: Vec<f64> = rows.into_iter().flatten().collect();

        let encoded = model.preprocess(&images).unwrap();
        let batch = model
            .collate(&encoded.iter().collect::<Vec<_>>(), &device)
            .unwrap();
        let plain = model.network().embed(&batch);
        let plain: Vec<f32> = plain.into_data().try_into_vec().unwrap();
        let encode = |max_items| {
            let limits = BatchLimits {
                max_items,
                max_cost: usize::MAX,
            };
            let post = PostProcess::default();
            encode(&model, &images, &device, limits, post, |_| {})
                .unwrap()
                .values
        };
        let [plain, one, all] =
            [plain, encode(1), encode(images.len())].map(|found| relative(&found, &expected));
        println!(
            "{name} on {spec}, {field}: plain {plain:.2e}; at inference, one image at a time \
             {one:.2e}, {} at a time {all:.2e}; the library's own single precision {:.2e}",
            images.len(),
            reference["float32_relative_error"].as_f64().unwrap()
        );
        let tolerance = f32_tolerance(spec);
        let worst = plain.max(one).max(all);
        assert!(worst < tolerance, "{name} on {spec}, {field}: {worst}");
    }
}

#[test]
#[ignore = "needs references of real size: see the top of this file"]
fn networks_of_real_size() {
    let directory = std::env::var_os("FIN_CNN_REFERENCE").expect("FIN_CNN_REFERENCE is not set");
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
