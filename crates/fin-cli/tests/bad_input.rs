//! Input that cannot be used: an error that names it, exit code 1, and nothing written.

mod common;

use std::fs;
use std::path::Path;

use common::{Run, Scratch, fin, fixture};

/// Encodes a file with a model into the scratch directory for output.
fn encode(scratch: &Scratch, input: &Path, model: &Path, more: &[&str]) -> Run {
    let mut command = fin();
    command.arg("encode").arg(input).arg("--model").arg(model);
    command.arg("--output").arg(scratch.out("rows.npy"));
    command.args(more).output().unwrap().into()
}

/// Encodes one good text with a model that is expected to be refused.
fn refused(scratch: &Scratch, model: &Path, more: &[&str], parts: &[&str]) {
    let input = scratch.write("texts.txt", "a boat waits");
    encode(scratch, &input, model, more).fails_with(parts);
    scratch.out_is_empty();
}

/// Encodes a file that is expected to be refused with a good model.
fn unreadable(name: &str, content: &[u8], more: &[&str], parts: &[&str]) {
    let scratch = Scratch::new();
    let input = scratch.write(name, content);
    let parts = [parts, &[name]].concat();
    encode(&scratch, &input, &fixture("text/bert-tiny"), more).fails_with(&parts);
    scratch.out_is_empty();
}

/// A copy of `bert-tiny` with other weights.
fn with_weights(scratch: &Scratch, bytes: &[u8]) -> std::path::PathBuf {
    let model = scratch.bert_tiny();
    fs::write(model.join("model.safetensors"), bytes).unwrap();
    model
}

fn bad(name: &str) -> Vec<u8> {
    fs::read(fixture("text/bad").join(name)).unwrap()
}

const TENSOR: &str = "encoder.layer.0.attention.self.query.weight";

#[test]
fn a_missing_input_file() {
    let scratch = Scratch::new();
    let input = scratch.path("nothing.csv");
    let run = encode(&scratch, &input, &fixture("text/bert-tiny"), &[]);
    run.fails_with(&["nothing.csv", "cannot read", "No such file"]);
    scratch.out_is_empty();
}

#[test]
fn a_missing_weight_file() {
    let scratch = Scratch::new();
    let model = scratch.bert_tiny();
    fs::remove_file(model.join("model.safetensors")).unwrap();
    refused(&scratch, &model, &[], &["model", "model.safetensors"]);
}

#[test]
fn truncated_safetensors() {
    let scratch = Scratch::new();
    let whole = fs::read(fixture("text/bert-tiny/model.safetensors")).unwrap();
    for length in [0, 5, 100, whole.len() / 2, whole.len() - 1] {
        let model = with_weights(&scratch, &whole[..length]);
        refused(&scratch, &model, &[], &["model/model.safetensors: "]);
    }
}

#[test]
fn safetensors_with_a_lying_header() {
    let scratch = Scratch::new();
    for name in [
        "lying_header",
        "overlapping_offsets",
        "out_of_range_offsets",
        "backward_offsets",
        "wrong_byte_count",
        "shape_overflow",
        "unknown_dtype",
        "bad_json",
        "bad_utf8",
    ] {
        let model = with_weights(&scratch, &bad(&format!("{name}.safetensors")));
        refused(&scratch, &model, &[], &["model/model.safetensors: "]);
    }
    // A header that claims more than there is, before otherwise sound weights.
    let mut whole = fs::read(fixture("text/bert-tiny/model.safetensors")).unwrap();
    whole[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let model = with_weights(&scratch, &whole);
    refused(&scratch, &model, &[], &["model/model.safetensors: "]);
}

#[test]
fn a_pickle_that_asks_to_run_code() {
    let mark = Path::new("/tmp/fin-pwned");
    let existed = mark.exists();
    for name in ["evil.bin", "evil_zip.bin"] {
        let scratch = Scratch::new();
        let model = scratch.bert_tiny();
        fs::remove_file(model.join("model.safetensors")).unwrap();
        fs::write(model.join("pytorch_model.bin"), bad(name)).unwrap();
        let parts = ["pytorch_model.bin", "refused", "system", "safetensors"];
        refused(&scratch, &model, &[], &parts);
    }
    assert_eq!(mark.exists(), existed, "the pickle ran its command");
}

#[test]
fn a_tensor_of_another_shape() {
    let scratch = Scratch::new();
    let model = with_weights(&scratch, &bad("wrong_shape.safetensors"));
    let parts = ["model.safetensors", TENSOR, "[32, 31]", "[32, 32]"];
    refused(&scratch, &model, &[], &parts);
}

#[test]
fn a_missing_tensor() {
    let scratch = Scratch::new();
    let model = with_weights(&scratch, &bad("missing_tensor.safetensors"));
    refused(&scratch, &model, &[], &["model.safetensors", TENSOR]);
}

#[test]
fn weights_that_are_not_a_number_on_request() {
    let scratch = Scratch::new();
    let model = with_weights(&scratch, &bad("nan.safetensors"));
    let parts = ["model.safetensors", TENSOR, "NaN"];
    refused(&scratch, &model, &["--check"], &parts);
    // Without the request, the embeddings give them away.
    refused(&scratch, &model, &[], &["rows.npy", "row 0", "NaN"]);
    // Sound weights pass.
    let input = scratch.path("texts.txt");
    encode(&scratch, &input, &fixture("text/bert-tiny"), &["--check"]).ok();
}

#[test]
fn an_empty_csv() {
    unreadable("empty.csv", b"", &[], &["holds no rows"]);
    unreadable("header.csv", b"text\n", &[], &["holds no rows"]);
}

#[test]
fn a_row_short_of_columns() {
    let content = b"id,text\n1,a boat\n2\n3,a pier\n";
    let parts = ["line 3", "expected 2 columns, found 1 column"];
    unreadable("short.csv", content, &[], &parts);
    unreadable(
        "short.tsv",
        b"a\tb\nc\n",
        &["--no-header", "--column", "1"],
        &["line 2"],
    );
}

#[test]
fn a_bad_row_after_many_good_ones() {
    let mut content = "text,id\n".to_owned() + &"a boat,1\n".repeat(5000);
    content.push_str("a pier\n");
    let parts = ["line 5002", "expected 2 columns"];
    unreadable("late.csv", content.as_bytes(), &[], &parts);
}

#[test]
fn invalid_utf8() {
    let parts = ["line 2", "0xe9"];
    unreadable("latin1.csv", b"text\ncaf\xe9\n", &[], &parts);
    unreadable("latin1.txt", b"tea\ncaf\xe9\n", &[], &parts);
    unreadable("latin1.jsonl", b"\"tea\"\n\"caf\xe9\"\n", &[], &parts);
}

#[test]
fn a_column_that_does_not_exist() {
    let content = b"id,body\n1,a boat\n";
    let parts = ["no column `text2`", "id, body"];
    unreadable("a.csv", content, &["--column", "text2"], &parts);
    let parts = ["no column `2`", "id, body"];
    unreadable("a.csv", content, &["--column", "2"], &parts);
}

#[test]
fn a_text_longer_than_the_maximum_is_cut_and_counted() {
    let scratch = Scratch::new();
    let words: Vec<&str> = ["boat", "pier"].repeat(40);
    let content = format!("a boat\n{}\n{}\n", words.join(" "), words.join(" "));
    let input = scratch.write("texts.txt", content);
    let run = encode(&scratch, &input, &fixture("text/bert-tiny"), &[]).ok();
    let expected = "2 texts longer than 32 tokens were cut";
    assert!(run.stderr.contains(expected), "{}", run.stderr);
    let more = ["--max-length", "10"];
    let run = encode(&scratch, &input, &fixture("text/bert-tiny"), &more).ok();
    let expected = "2 texts longer than 10 tokens were cut";
    assert!(run.stderr.contains(expected), "{}", run.stderr);
    let input = scratch.write("short.txt", "a boat\n");
    let run = encode(&scratch, &input, &fixture("text/bert-tiny"), &[]).ok();
    assert!(!run.stderr.contains("cut"), "{}", run.stderr);
}

#[test]
fn an_output_that_cannot_be_written() {
    let scratch = Scratch::new();
    let input = scratch.write("texts.txt", "a boat");
    // Found before the model is opened: the model that is named does not exist.
    let encode_to = |output: &Path| -> Run {
        let mut command = fin();
        command
            .arg("encode")
            .arg(&input)
            .arg("--output")
            .arg(output);
        command
            .args(["--model", "./nowhere"])
            .output()
            .unwrap()
            .into()
    };
    let missing = scratch.out("missing").join("rows.npy");
    encode_to(&missing).fails_with(&["missing/rows.npy", "cannot create"]);
    encode_to(&scratch.path("out")).fails_with(&["output", ".npy, .parquet, .jsonl"]);
    encode_to(&scratch.out("rows.csv")).fails_with(&["rows.csv", ".npy, .parquet, .jsonl"]);
    fs::create_dir(scratch.path("rows.npy")).unwrap();
    encode_to(&scratch.path("rows.npy")).fails_with(&["rows.npy", "is a directory"]);
    scratch.out_is_empty();
}

#[test]
fn a_failure_leaves_an_older_output_alone() {
    let scratch = Scratch::new();
    fs::write(scratch.out("rows.npy"), "older").unwrap();
    let input = scratch.write("bad.csv", "text,id\na boat,1\na pier\n");
    let run = encode(&scratch, &input, &fixture("text/bert-tiny"), &[]);
    run.fails_with(&["bad.csv", "line 3"]);
    assert_eq!(common::names(&scratch.path("out")), ["rows.npy"]);
    assert_eq!(fs::read(scratch.out("rows.npy")).unwrap(), b"older");
}

#[test]
fn a_model_that_is_not_there() {
    let scratch = Scratch::new();
    let input = scratch.write("texts.txt", "a boat");
    let open = |name: &str| encode(&scratch, &input, Path::new(name), &[]);
    open("bert-bas-en").fails_with(&["`bert-bas-en`", "did you mean `bert-base-en`"]);
    open("bert-base-en").fails_with(&[
        "`bert-base-en`",
        "/nonexistent-fin-cache/bert-base-en",
        "config.json",
        "https://huggingface.co/google-bert/bert-base-cased",
    ]);
    open("./nowhere").fails_with(&["./nowhere"]);
    scratch.out_is_empty();
}

#[test]
fn options_out_of_range() {
    let scratch = Scratch::new();
    let input = scratch.write("texts.txt", "a boat");
    let model = fixture("text/bert-tiny");
    for (options, parts) in [
        (&["--dim", "33"][..], &["dim", "33", "1 to 32"][..]),
        (&["--max-length", "2"], &["max-length", "2"]),
        (&["--prompt", "nothing"], &["nothing", "query"]),
        (&["--column", "3"], &["texts.txt", "no column `3`"]),
    ] {
        encode(&scratch, &input, &model, options).fails_with(parts);
    }
    for options in [
        &["--device", "gpu"][..],
        &["--batch-size", "0"],
        &["--pooling", "avg"],
        &["--dim", "0"],
    ] {
        let run = encode(&scratch, &input, &model, options);
        assert_eq!(run.code, Some(2), "{options:?}: {}", run.stderr);
        assert!(run.stderr.contains(options[0]), "{}", run.stderr);
    }
    scratch.out_is_empty();
}
