//! `fin encode` against the reference, in every format.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use common::{Scratch, csv, fin, fixture, jsonl, max_difference, names, reference, run};
use fin_core::output::read_npy_f32;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

/// Largest absolute difference from the reference for rows of unit length.
const TOLERANCE: f32 = 2e-5;

fn npy(path: &Path) -> Vec<Vec<f32>> {
    let (values, [rows, dim]) = read_npy_f32(path).unwrap();
    let table: Vec<_> = values.chunks(dim).map(<[f32]>::to_vec).collect();
    assert_eq!(table.len(), rows);
    table
}

fn encode(scratch: &Scratch, input: &Path, model: &str, more: &[&str]) -> Vec<Vec<f32>> {
    let output = scratch.out("rows.npy");
    let model = fixture(model);
    let mut command = fin();
    command.arg("encode").arg(input).arg("--model").arg(model);
    command.arg("--output").arg(&output).args(more);
    common::Run::from(command.output().unwrap()).ok();
    assert_eq!(names(&scratch.path("out")), ["rows.npy"]);
    npy(&output)
}

#[test]
fn every_output_format_equals_the_reference_row_by_row() {
    let (texts, expected) = reference("bert-tiny", "sentence_embedding");
    let scratch = Scratch::new();
    let input = scratch.write("texts.jsonl", jsonl(&texts));
    let model = fixture("text/bert-tiny");
    for extension in ["npy", "parquet", "jsonl"] {
        let output = scratch.out(&format!("rows.{extension}"));
        run([
            "encode".as_ref(),
            input.as_os_str(),
            "--model".as_ref(),
            model.as_os_str(),
            "--output".as_ref(),
            output.as_os_str(),
        ])
        .ok();
    }
    assert!(max_difference(&npy(&scratch.out("rows.npy")), &expected) < TOLERANCE);

    let lines = fs::read_to_string(scratch.out("rows.jsonl")).unwrap();
    let mut rows = Vec::new();
    for (i, line) in lines.lines().enumerate() {
        let row: Value = serde_json::from_str(line).unwrap();
        assert_eq!(row["id"], i);
        assert_eq!(row["text"], texts[i]);
        let embedding = row["embedding"].as_array().unwrap();
        rows.push(
            embedding
                .iter()
                .map(|x| x.as_f64().unwrap() as f32)
                .collect(),
        );
    }
    assert!(max_difference(&rows, &expected) < TOLERANCE);

    let file = File::open(scratch.out("rows.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let ids = batch["id"].as_primitive::<Int64Type>();
        let keys = batch["text"].as_string::<i32>();
        let embeddings = batch["embedding"].as_fixed_size_list();
        for i in 0..batch.num_rows() {
            assert_eq!(ids.value(i), rows.len() as i64);
            assert_eq!(keys.value(i), texts[rows.len()]);
            let row = embeddings.value(i);
            rows.push(row.as_primitive::<Float32Type>().values().to_vec());
        }
    }
    assert!(max_difference(&rows, &expected) < TOLERANCE);
}

#[test]
fn a_column_by_name_and_by_index_with_and_without_header() {
    let (texts, expected) = reference("bert-tiny", "sentence_embedding");
    let scratch = Scratch::new();
    let headed = scratch.write("headed.csv", csv(&texts, true));
    let bare = scratch.write("bare.csv", csv(&texts, false));
    for (input, options) in [
        (&headed, &["--column", "body"][..]),
        (&headed, &["--column", "1"]),
        (&bare, &["--column", "1", "--no-header"]),
    ] {
        let rows = encode(&scratch, input, "text/bert-tiny", options);
        let difference = max_difference(&rows, &expected);
        assert!(difference < TOLERANCE, "{options:?}: {difference}");
    }
    // The header is a row where it is said to be none.
    let rows = encode(
        &scratch,
        &headed,
        "text/bert-tiny",
        &["--column", "1", "--no-header"],
    );
    assert_eq!(rows.len(), texts.len() + 1);
    assert!(max_difference(&rows[1..], &expected) < TOLERANCE);
}

#[test]
fn batches_of_any_size_give_the_same_rows() {
    let (texts, expected) = reference("distilbert-tiny", "sentence_embedding");
    let scratch = Scratch::new();
    let input = scratch.write("texts.jsonl", jsonl(&texts));
    let scale = expected
        .iter()
        .flatten()
        .fold(0.0f32, |max, x| max.max(x.abs()));
    for options in [
        &[][..],
        &["--batch-size", "1"],
        &["--max-tokens", "50"],
        &["--batch-size", "3", "--max-tokens", "100000"],
    ] {
        let rows = encode(&scratch, &input, "text/distilbert-tiny", options);
        let difference = max_difference(&rows, &expected);
        assert!(
            difference < TOLERANCE * scale.max(1.0),
            "{options:?}: {difference}"
        );
    }
}

#[test]
fn unnormalised_prompted_pooled_and_shortened_rows() {
    let scratch = Scratch::new();
    let (texts, unnormalised) = reference("bert-tiny", "sentence_embedding_unnormalized");
    let input = scratch.write("texts.jsonl", jsonl(&texts));
    let encode = |options: &[&str]| encode(&scratch, &input, "text/bert-tiny", options);
    let relative = |found: &[Vec<f32>], expected: &[Vec<f32>]| {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let norm: f64 = expected.iter().flatten().map(|x| square(*x)).sum();
        let pairs = found.iter().flatten().zip(expected.iter().flatten());
        let error: f64 = pairs.map(|(a, b)| square(a - b)).sum();
        assert_eq!(found.len(), expected.len());
        (error / norm).sqrt()
    };
    assert!(relative(&encode(&["--no-normalize"]), &unnormalised) < 1e-4);

    let (_, cls) = reference("bert-tiny", "pooled.cls");
    let found = encode(&["--no-normalize", "--pooling", "cls"]);
    assert!(relative(&found, &cls) < 1e-4);

    let (_, prompted) = reference("bert-tiny", "sentence_embedding.query");
    let found = encode(&["--prompt", "query"]);
    assert!(max_difference(&found, &prompted) < TOLERANCE);

    let cut: Vec<Vec<f32>> = unnormalised.iter().map(|row| row[..5].to_vec()).collect();
    assert!(relative(&encode(&["--no-normalize", "--dim", "5"]), &cut) < 1e-4);
    let unit: Vec<Vec<f32>> = cut
        .iter()
        .map(|row| {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter().map(|x| x / norm).collect()
        })
        .collect();
    assert!(max_difference(&encode(&["--dim", "5"]), &unit) < TOLERANCE);
}

#[test]
fn stdin_and_a_summary_for_programs() {
    let scratch = Scratch::new();
    let output = scratch.out("rows.npy");
    let mut child = fin()
        .args(["encode", "-", "--format", "json", "--model"])
        .arg(fixture("text/bert-tiny"))
        .arg("--output")
        .arg(&output)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let long = "boat ".repeat(200);
    let mut stdin = child.stdin.take().unwrap();
    write!(stdin, "the pier\n{long}\nthe pier\n").unwrap();
    drop(stdin);
    let run = common::Run::from(child.wait_with_output().unwrap()).ok();
    let summary = run.json();
    for (field, value) in [
        ("rows", 3),
        ("dim", 32),
        ("truncated", 1),
        ("max_length", 32),
    ] {
        assert_eq!(summary[field], value, "{summary}");
    }
    assert_eq!(summary["tensors"]["unknown"], serde_json::json!([]));
    let rows = npy(&output);
    assert!(max_difference(&rows[..1], &rows[2..]) < 1e-6);
}

/// More texts than are held in memory at a time.
#[test]
fn rows_stay_in_order_over_windows() {
    let scratch = Scratch::new();
    let words = ["pier", "boat", "the gulls", "seven sailors wait"];
    let texts: Vec<String> = (0..9001).map(|i| words[i % 4].to_owned()).collect();
    let input = scratch.write("texts.txt", texts.join("\n"));
    let rows = encode(&scratch, &input, "text/bert-tiny", &[]);
    assert_eq!(rows.len(), texts.len());
    for (i, row) in rows.iter().enumerate() {
        let row = std::slice::from_ref(row);
        assert!(max_difference(row, &rows[i % 4..i % 4 + 1]) < 1e-5, "{i}");
        let other = (i + 1) % 4;
        assert!(max_difference(row, &rows[other..other + 1]) > 1e-3, "{i}");
    }
}

#[test]
fn tensors_without_a_place_are_told() {
    let scratch = Scratch::new();
    let model = scratch.bert_tiny();
    let weights = fs::read(model.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let mut tensors = tensors.tensors();
    let (_, first) = tensors[0].clone();
    tensors.push(("encoder.surplus".into(), first));
    let bytes = safetensors::serialize(tensors, None).unwrap();
    fs::write(model.join("model.safetensors"), bytes).unwrap();
    let input = scratch.write("texts.txt", "a boat");
    let run = run([
        "encode".as_ref(),
        input.as_os_str(),
        "--model".as_ref(),
        model.as_os_str(),
        "--output".as_ref(),
        scratch.out("rows.npy").as_os_str(),
    ])
    .ok();
    assert!(run.stderr.contains("encoder.surplus"), "{}", run.stderr);
}

#[test]
fn int8_is_close_to_f32_and_refused_where_it_means_nothing() {
    let (texts, expected) = reference("bert-tiny", "sentence_embedding");
    let scratch = Scratch::new();
    let input = scratch.write("texts.jsonl", jsonl(&texts));
    let found = encode(&scratch, &input, "text/bert-tiny", &["--precision", "int8"]);
    let difference = max_difference(&found, &expected);
    assert!((1e-5..0.05).contains(&difference), "{difference}");

    let output = scratch.out("other.npy");
    let mut command = fin();
    command
        .arg("encode")
        .arg(fixture("meshes"))
        .arg("--output")
        .arg(&output);
    command.args(["--model", "pointnet-base", "--precision", "int8"]);
    common::Run::from(command.output().unwrap()).fails_with(&["precision"]);
    assert!(!output.exists());
}

#[test]
fn half_precision_is_refused_where_the_device_has_it_not() {
    let scratch = Scratch::new();
    let input = scratch.write("texts.txt", "a boat");
    let output = scratch.out("rows.npy");
    for precision in ["bf16", "f16"] {
        let mut command = fin();
        command
            .arg("encode")
            .arg(&input)
            .arg("--output")
            .arg(&output);
        command.arg("--model").arg(fixture("text/bert-tiny"));
        command.args(["--precision", precision]);
        let run = common::Run::from(command.output().unwrap());
        run.fails_with(&[precision, "`flex`", "f32 and int8"]);
        assert!(!output.exists());
    }
}
