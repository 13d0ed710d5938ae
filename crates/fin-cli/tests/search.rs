//! `fin search` and `fin models`.

mod common;

use std::io::Read;
use std::process::Stdio;

use common::{Run, Scratch, fin, fixture, run};

#[test]
fn the_text_that_is_the_query_comes_first() {
    let scratch = Scratch::new();
    let texts = ["a dog runs", "the boat waits\nat the pier", "it is raining"];
    let corpus = scratch.write("corpus.csv", common::csv(&texts.map(String::from), true));
    let queries = scratch.write("queries.txt", "it is raining\n");
    let search = |format: &str| -> Run {
        let mut command = fin();
        command
            .arg("search")
            .arg("--model")
            .arg(fixture("text/bert-tiny"));
        command
            .arg("--corpus")
            .arg(&corpus)
            .args(["--column", "body", "-k", "2"]);
        command.args(["--query", texts[1], "--format", format]);
        command.arg("--queries").arg(&queries);
        Run::from(command.output().unwrap()).ok()
    };
    let found = search("json").json();
    assert_eq!(found[0]["query"], texts[1]);
    for (query, index) in [(0, 1), (1, 2)] {
        let results = found[query]["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        assert_eq!(results[0]["index"], index);
        assert_eq!(results[0]["text"], texts[index]);
        assert_eq!(
            (&results[0]["rank"], &results[1]["rank"]),
            (&1.into(), &2.into())
        );
        let score = |i: usize| results[i]["score"].as_f64().unwrap();
        assert!((score(0) - 1.0).abs() < 1e-5 && score(1) < score(0));
    }
    let table = search("table").stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "the boat waits at the pier");
    assert_eq!(lines[1], "   1  1.0000  the boat waits at the pier");
    assert_eq!((lines[3], lines[4]), ("", "it is raining"));
}

#[test]
fn a_search_needs_a_query() {
    let run = run(["search", "--model", "x", "--corpus", "y.txt"]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("--query"), "{}", run.stderr);
}

#[test]
fn the_catalogue_as_a_table_and_as_json() {
    let table = run(["models"]).ok().stdout;
    assert!(table.contains("fin backbones: text-to-text"), "{table}");
    let rows = run(["models", "--task", "text-to-text", "--format", "json"])
        .ok()
        .json();
    let rows = rows.as_array().unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        for field in ["name", "task", "output_dim", "architecture", "description"] {
            assert!(row.get(field).is_some(), "{field} is not in {row}");
        }
        assert!(table.contains(row["name"].as_str().unwrap()), "{row}");
    }
    let wrong = run(["models", "--task", "text"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("text-to-text"), "{}", wrong.stderr);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut child = fin()
        .args(["models", "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before anything is read.
    drop(child.stdout.take());
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{stderr}");
    assert_eq!(stderr, "");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_is_not_compiled_in_names_its_feature() {
    let scratch = Scratch::new();
    let corpus = scratch.write("corpus.txt", "a boat\n");
    let mut command = fin();
    command.args(["search", "--query", "a", "--device", "cuda:0"]);
    command.arg("--model").arg(fixture("text/bert-tiny"));
    let run = Run::from(command.arg("--corpus").arg(corpus).output().unwrap());
    run.fails_with(&["cuda:0", "--features cuda"]);
}

#[test]
fn rows_of_ones_own_are_listed_and_opened() {
    let scratch = Scratch::new();
    let row = |name: &str| {
        format!(
            "[[model]]\nname = '{name}'\ntask = 'text-to-text'\noutput_dim = 32\n\
             architecture = 'transformer'\ndescription = 'Our own'\nsource = 'us/ours'\n\
             weights = 'model.safetensors'\nlicence = 'MIT'\ndialect = 'bert'\n\
             preprocessing = {{ kind = 'word-piece', lower_case = true }}\npooling = 'mean'\n\
             normalize = true\nmax_length = 32\n"
        )
    };
    let catalogue = scratch.write("models.toml", row("ours"));
    let catalogue = catalogue.to_str().unwrap();
    let listed = run(["models", "--catalogue", catalogue, "--format", "json"]).ok();
    let rows = listed.json();
    let last = rows.as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["name"], &last["output_dim"]),
        (&"ours".into(), &32.into())
    );
    let table = fin().arg("models").env("FIN_CATALOGUE", catalogue).output();
    assert!(Run::from(table.unwrap()).ok().stdout.contains(" ours "));

    let models = scratch.path("models");
    std::fs::create_dir(&models).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(fixture("text/bert-tiny"), models.join("ours")).unwrap();
    let texts = scratch.write("texts.txt", "a boat\n");
    let out = scratch.out("a.npy");
    let mut encode = fin();
    encode.env("FIN_MODELS", &models).arg("encode").arg(texts);
    encode.args(["--model", "ours", "--catalogue", catalogue, "--output"]);
    let done = Run::from(encode.arg(out).output().unwrap()).ok();
    assert!(!done.stderr.contains("warning"), "{}", done.stderr);

    let taken = scratch.write("taken.toml", row("bert-base-en"));
    let taken = taken.to_str().unwrap();
    run(["models", "--catalogue", taken]).fails_with(&["taken.toml", "model[0].name"]);
}
