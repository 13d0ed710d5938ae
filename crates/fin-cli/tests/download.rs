//! `fin download`, and models by name.

mod common;
#[path = "../../fin-registry/tests/common/mod.rs"]
mod hub;

use std::path::Path;
use std::process::Command;

use common::{Run, Scratch, fin};
use hub::{FakeHub, fixture};

/// The program with a hub.
fn online(server: &FakeHub, home: &Path) -> Command {
    let mut command = fin();
    command
        .env_remove("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", &server.endpoint)
        .env("HF_HOME", home);
    command
}

fn run(command: &mut Command, args: &[&str]) -> Run {
    command.args(args).output().unwrap().into()
}

#[test]
fn a_repository_is_downloaded_and_its_directory_is_a_model() {
    let server = FakeHub::start().with("tiny/bert", "bert-tiny");
    let scratch = Scratch::new();
    let home = scratch.path("home");
    let downloaded = run(&mut online(&server, &home), &["download", "tiny/bert"]).ok();
    // Stderr is no terminal: no bars.
    assert_eq!(downloaded.stderr, "");
    let directory = downloaded.stdout.trim();
    assert!(
        Path::new(directory).starts_with(home.join("hub")),
        "{directory}"
    );

    let texts = scratch.write("texts.txt", "A boat waits at the pier.\n");
    let encode = |model: &str, out: &str| {
        let out = scratch.out(out);
        common::run([
            "encode".as_ref(),
            texts.as_os_str(),
            "--model".as_ref(),
            model.as_ref(),
            "--output".as_ref(),
            out.as_os_str(),
        ])
        .ok();
        std::fs::read(out).unwrap()
    };
    let fixture = fixture("text/bert-tiny");
    let expected = encode(fixture.to_str().unwrap(), "fixture.npy");
    assert_eq!(encode(directory, "downloaded.npy"), expected);

    // Offline, the same directory without a request.
    server.seen();
    let again = run(
        &mut online(&server, &home),
        &["--offline", "download", "tiny/bert"],
    )
    .ok();
    assert_eq!(again.stdout.trim(), directory);
    assert_eq!(server.seen().len(), 0);
    run(
        &mut online(&server, &home),
        &["download", "tiny/bert", "--revision", "v9"],
    )
    .fails_with(&["tiny/bert", "no revision `v9`", &server.endpoint]);
}

#[test]
fn a_model_by_name_is_downloaded_when_it_is_needed() {
    let server = FakeHub::start()
        .with("google-bert/bert-base-cased", "bert-tiny")
        .with_token("hf_right");
    let scratch = Scratch::new();
    let home = scratch.path("home");
    let texts = scratch.write("texts.txt", "A boat waits at the pier.\n");
    let out = scratch.out("a.npy");
    let args = [
        "encode",
        texts.to_str().unwrap(),
        "--model",
        "bert-base-en",
        "--pooling",
        "mean",
        "--output",
        out.to_str().unwrap(),
    ];
    let parts = ["bert-base-en", "model.safetensors", "HF_HUB_OFFLINE"];
    run(online(&server, &home).arg("--offline"), &args).fails_with(&parts);
    assert_eq!(server.seen().len(), 0);

    let refused = run(online(&server, &home).env("HF_TOKEN", "hf_wrong"), &args);
    assert!(!refused.stderr.contains("hf_wrong"), "{}", refused.stderr);
    refused.fails_with(&["401", "The token of HF_TOKEN", "google-bert/"]);
    scratch.out_is_empty();

    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join("token"), "hf_right\n").unwrap();
    run(&mut online(&server, &home), &args).ok();
    assert!(out.is_file());
}

#[test]
fn a_checkpoint_is_converted_straight_from_the_hub() {
    let server = FakeHub::start().with("google-bert/bert-base-cased", "bert-tiny-plain");
    let scratch = Scratch::new();
    let home = scratch.path("home");
    let to = scratch.out("converted");
    let args = ["convert-weights", "bert-base-en", "--from", "hub", "--to"];
    let args = args.iter().copied().chain([to.to_str().unwrap()]);
    let args: Vec<&str> = args.collect();
    let report = run(&mut online(&server, &home), &args).ok();
    assert!(
        report
            .stdout
            .contains("bert.embeddings.word_embeddings.weight"),
        "{}",
        report.stdout
    );
    assert!(to.join("model.safetensors").is_file() && to.join("fin.json").is_file());
}
