//! `fin convert-weights`.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Run, Scratch, fin, fixture, names};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// Names in the catalogue with fixtures of the same architecture.
const MODELS: [(&str, &str); 6] = [
    ("all-minilm-l6-v2", "bert-tiny"),
    ("bert-base-en", "bert-tiny-plain"),
    ("bert-base-multi", "bert-tiny-sharded"),
    ("distiluse-base-multi", "distilbert-tiny"),
    ("jina-embedding-s-en-v1", "t5-tiny"),
    ("jina-embedding-b-en-v1", "t5-tiny-gated"),
];

fn convert(model: &str, from: &Path, to: &Path) -> Command {
    let mut command = fin();
    command.args(["convert-weights", model, "--format", "json"]);
    command.arg("--from").arg(from).arg("--to").arg(to);
    command
}

fn run(command: &mut Command) -> Run {
    command.output().unwrap().into()
}

fn manifest(directory: &Path) -> Value {
    serde_json::from_slice(&fs::read(directory.join("fin.json")).unwrap()).unwrap()
}

/// The reference's embeddings as a `.npy` file, and its texts as `.jsonl` beside it.
fn reference(scratch: &Scratch, name: &str) -> std::path::PathBuf {
    let bytes = fs::read(fixture(&format!("text/{name}.reference.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("sentence_embedding").unwrap();
    let header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
        tensor.shape()[0],
        tensor.shape()[1]
    );
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.bytes());
    npy.extend(tensor.data());
    let json = fs::read(fixture(&format!("text/{name}.reference.json"))).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let texts = json["texts"].as_array().unwrap();
    let lines: String = texts.iter().map(|text| format!("{text}\n")).collect();
    scratch.write(&format!("{name}.jsonl"), lines);
    scratch.write(&format!("{name}.npy"), npy)
}

#[test]
fn every_kind_of_checkpoint_is_converted_and_verified() {
    let scratch = Scratch::new();
    for (model, name) in MODELS {
        let npy = reference(&scratch, name);
        for (dtype, tolerance) in [("f32", 1e-5), ("f16", 2e-3), ("bf16", 1e-2)] {
            let to = scratch.out(&format!("{name}-{dtype}"));
            let report = run(convert(model, &fixture(&format!("text/{name}")), &to)
                .args(["--dtype", dtype])
                .arg("--verify")
                .arg(&npy)
                .arg("--texts")
                .arg(npy.with_extension("jsonl")))
            .ok();
            let json = report.json();
            let error = json["verify_relative_error"].as_f64().unwrap();
            assert!(error < tolerance, "{name} as {dtype}: {error}");
            assert!(dtype == "f32" || error > 1e-5, "{name} as {dtype} is f32");
            let mapping = &json["report"]["mappings"][0];
            assert_eq!(mapping["missing"], json!([]));
            assert_eq!(mapping["unused"], json!([]));

            let manifest = manifest(&to);
            assert_eq!(manifest["dtype"], dtype);
            assert_eq!(manifest["licence"], "Apache-2.0");
            for part in ["inputs", "outputs"] {
                for file in manifest[part].as_array().unwrap() {
                    assert_eq!(file["sha256"].as_str().unwrap().len(), 64, "{file}");
                }
            }
            let bytes = fs::read(to.join("model.safetensors")).unwrap();
            let expected = match dtype {
                "f32" => Dtype::F32,
                "f16" => Dtype::F16,
                _ => Dtype::BF16,
            };
            for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                assert_eq!(tensor.dtype(), expected, "{name}");
            }
        }
    }
}

/// Key to bytes of every tensor in a safetensors file.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter();
    tensors
        .map(|(name, view)| (name, view.data().to_vec()))
        .collect()
}

#[test]
fn f32_passes_through_to_the_bit_and_back() {
    let scratch = Scratch::new();
    let source = fixture("text/distilbert-tiny");
    let (once, twice) = (scratch.out("once"), scratch.out("twice"));
    run(&mut convert("distiluse-base-multi", &source, &once)).ok();
    let report = run(&mut convert("distiluse-base-multi", &once, &twice)).ok();
    for file in ["model.safetensors", "2_Dense/model.safetensors"] {
        assert_eq!(
            tensors(&once.join(file)),
            tensors(&source.join(file)),
            "{file}"
        );
        assert_eq!(
            fs::read(once.join(file)).unwrap(),
            fs::read(twice.join(file)).unwrap(),
            "{file}"
        );
    }
    assert_eq!(manifest(&once)["outputs"], manifest(&twice)["outputs"]);
    // The small fixture is not what its name promises, and that is said.
    for part in ["output_dim is 512 in the catalogue and 16", "max_length"] {
        assert!(report.stderr.contains(part), "{}", report.stderr);
    }
}

#[test]
fn what_is_left_aside_is_listed() {
    let scratch = Scratch::new();
    let to = scratch.out("plain");
    let mut command = fin();
    command.args(["convert-weights", "bert-base-en", "--from"]);
    command.arg(fixture("text/bert-tiny-plain/pytorch_model.bin"));
    let report = run(command.arg("--to").arg(&to)).ok();
    for part in [
        "bert.embeddings.word_embeddings.weight                 -> embeddings.word_embeddings.weight",
        "cls.predictions.bias  left aside",
        "bert.embeddings.position_ids  left aside",
        " 0 unknown, 0 missing",
        "sha256",
    ] {
        assert!(report.stdout.contains(part), "{part}: {}", report.stdout);
    }
}

/// A copy of `bert-tiny` with these bytes for weights.
fn with_weights(scratch: &Scratch, name: &str, weights: &[u8]) -> std::path::PathBuf {
    let config = fs::read(fixture("text/bert-tiny/config.json")).unwrap();
    let tokenizer = fs::read(fixture("text/bert-tiny/tokenizer.json")).unwrap();
    let directory = scratch.path(name);
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("config.json"), config).unwrap();
    fs::write(directory.join("tokenizer.json"), tokenizer).unwrap();
    fs::write(directory.join("model.safetensors"), weights).unwrap();
    directory
}

#[test]
fn incomplete_and_unknown_tensors_are_refused_unless_allowed() {
    let scratch = Scratch::new();
    let missing = fs::read(fixture("text/bad/missing_tensor.safetensors")).unwrap();
    let missing = with_weights(&scratch, "missing", &missing);
    let to = scratch.out("converted");
    run(&mut convert("bert-base-en", &missing, &to))
        .fails_with(&["encoder.layer.0.attention.self.query.weight"]);
    run(convert("bert-base-en", &missing, &to).arg("--allow-missing")).ok();
    fs::remove_dir_all(&to).unwrap();

    let whole = fs::read(fixture("text/bert-tiny/model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&whole).unwrap();
    let mut all = file.tensors();
    let extra = all[0].1.clone();
    all.push(("adapters.0.weight".into(), extra));
    let unknown = safetensors::serialize(all, None).unwrap();
    let unknown = with_weights(&scratch, "unknown", &unknown);
    run(&mut convert("bert-base-en", &unknown, &to)).fails_with(&["adapters.0.weight"]);
    let report = run(convert("bert-base-en", &unknown, &to).arg("--allow-unused")).ok();
    let unused = &report.json()["report"]["mappings"][0]["unused"];
    assert_eq!(unused, &json!(["adapters.0.weight"]));
    assert!(!tensors(&to.join("model.safetensors")).contains_key("adapters.0.weight"));
    // What is there is not replaced without being asked.
    run(&mut convert("bert-base-en", &unknown, &to)).fails_with(&["--overwrite"]);
}

#[test]
fn a_conversion_that_fails_leaves_nothing() {
    let scratch = Scratch::new();
    let npy = reference(&scratch, "bert-tiny");
    let to = scratch.out("converted");
    let verify = |from: &str, texts: &Path| {
        let from = fixture(&format!("text/{from}"));
        let mut command = convert("bert-base-en", &from, &to);
        command.arg("--verify").arg(&npy).arg("--texts").arg(texts);
        run(&mut command)
    };
    // Another model's embeddings, then other texts.
    let texts = npy.with_extension("jsonl");
    verify("bert-tiny-plain", &texts).fails_with(&["bert-tiny.npy", "relative error"]);
    let one = scratch.write("one.txt", "a boat\n");
    verify("bert-tiny", &one).fails_with(&["bert-tiny.npy", "18 rows", "1 texts"]);
    verify("distilbert-tiny", &texts).fails_with(&["bert-tiny.npy", "rows of 32", "16"]);
    let evil = fixture("text/bad/evil.bin");
    run(&mut convert("bert-base-en", &evil, &to)).fails_with(&["config.json"]);
    run(&mut convert("bert-base-e", &evil, &to)).fails_with(&["`bert-base-en`"]);
    run(&mut convert("bert-base-en", &scratch.path("none"), &to)).fails_with(&["none"]);
    assert!(names(&scratch.path("out")).is_empty());
}
