//! The backbones at their real size against the reference library.
//!
//! Ignored unless asked for: `cargo xtask parity --family text` makes a model and its reference
//! (`scripts/reference/text_full.py`) and names them in `FIN_FULL_SIZE`.

use std::path::PathBuf;

use burn::tensor::Tensor;
use fin_core::device::f32_tolerance;
use fin_core::weights::Checkpoint;
use fin_core::{
    Backbone, BatchLimits, DeviceSpec, Embedder, Pooling, PostProcess, encode, output::read_npy_f32,
};
use fin_transformer::{CrossEncoder, CrossEncoderOptions, TextEmbedder, TextOptions, TokenBatch};
use serde_json::Value;

/// `‖a − b‖ / ‖b‖`.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let pairs = a.iter().zip(b);
    let difference: f64 = pairs
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    let norm: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (difference / norm).sqrt()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

#[test]
#[ignore = "needs FIN_FULL_SIZE; run `cargo xtask parity --family text`"]
fn full_size() {
    let folder = PathBuf::from(std::env::var_os("FIN_FULL_SIZE").expect("FIN_FULL_SIZE is set"));
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let devices = std::env::var("FIN_TEST_DEVICES").unwrap_or_else(|_| "flex".into());
    let reference = Checkpoint::open(folder.join("reference.safetensors")).unwrap();
    let read = |key: &str| reference.read_f32(key).unwrap();
    let lengths: Vec<usize> = read("lengths").iter().map(|n| *n as usize).collect();
    let longest = *lengths.iter().max().unwrap();
    let ids: Vec<Vec<u32>> = read("input_ids")
        .chunks_exact(longest)
        .zip(&lengths)
        .map(|(row, length)| row[..*length].iter().map(|id| *id as u32).collect())
        .collect();
    let (last, pooled) = (read("last_hidden_state"), read("pooled"));
    let width = pooled.len() / lengths.len();
    for device in devices.split(',') {
        let spec: DeviceSpec = device.parse().unwrap();
        let device = spec.open().unwrap();
        let options = TextOptions::default();
        let model = TextEmbedder::open(folder.join("model"), &options, &device).unwrap();
        assert!(model.report().unused.is_empty(), "{}", model.report());
        let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let batch = TokenBatch::new(&rows, model.tokenizer().pad_id(), &device);
        let hidden = model.network().backbone.forward(&batch);
        let mean = values(Pooling::Mean.forward(hidden.clone(), batch.mask.clone()));
        let hidden = values(hidden);
        let tolerance = f32_tolerance(spec);
        let check = |what: &str, found: &[f32], expected: &[f32]| {
            let error = relative(found, expected);
            println!("{name} on {spec}, {what}: {error:.1e}");
            assert!(error < tolerance, "{name} on {spec}, {what}: {error:.1e}");
        };
        for (i, length) in lengths.iter().enumerate() {
            let tokens = i * longest * width..(i * longest + length) * width;
            let what = format!("{length} tokens, last hidden state");
            check(&what, &hidden[tokens.clone()], &last[tokens]);
            let row = i * width..(i + 1) * width;
            let what = format!("{length} tokens, mean");
            check(&what, &mean[row.clone()], &pooled[row]);
        }
        let (expected, [_, dim]) = read_npy_f32(folder.join("texts.npy")).unwrap();
        let texts = std::fs::read_to_string(folder.join("texts.txt")).unwrap();
        let texts: Vec<String> = texts.lines().map(String::from).collect();
        let (limits, post) = (BatchLimits::default(), PostProcess::default());
        let found = encode(&model, &texts, &device, limits, post, |_| {}).unwrap();
        assert_eq!(found.dim, dim);
        check("embeddings of texts", &found.values, &expected);
    }
}

/// `scripts/reference/cross_encoder_full.py` makes a model and its reference.
#[test]
#[ignore = "needs FIN_FULL_SIZE; see scripts/reference/cross_encoder_full.py"]
fn cross_encoder() {
    let folder = PathBuf::from(std::env::var_os("FIN_FULL_SIZE").expect("FIN_FULL_SIZE is set"));
    let devices = std::env::var("FIN_TEST_DEVICES").unwrap_or_else(|_| "flex".into());
    let text = std::fs::read_to_string(folder.join("pairs.jsonl")).unwrap();
    let pairs: Vec<(String, String)> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (&**a, &**b)).collect();
    let reference = std::fs::read(folder.join("scores.json")).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    for device in devices.split(',') {
        let spec: DeviceSpec = device.parse().unwrap();
        let options = CrossEncoderOptions::default();
        let device = spec.open().unwrap();
        let model = CrossEncoder::open(folder.join("model"), &options, &device).unwrap();
        assert!(model.report().unused.is_empty(), "{}", model.report());
        let limits = BatchLimits::default();
        let logits = model.logits(&pairs, limits, |_| {}).unwrap();
        let scores = model.score(&pairs, limits, |_| {}).unwrap();
        assert!(logits.truncated > 0);
        for (what, found) in [("logits", logits.values), ("scores", scores.values)] {
            let expected: Vec<f32> = serde_json::from_value(reference[what].clone()).unwrap();
            let error = relative(&found, &expected);
            println!("{} pairs on {spec}, {what}: {error:.1e}", pairs.len());
            assert!(error < f32_tolerance(spec), "{spec}, {what}: {error:.1e}");
        }
    }
}
