//! Cross-encoders in `fin mine`, `fin synthesize` and `fin search`.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Run, Scratch, fin, fixture};
use fin_core::{BatchLimits, DeviceSpec};
use fin_transformer::{CrossEncoder, CrossEncoderOptions};

fn run(command: &mut Command) -> Run {
    command.output().unwrap().into()
}

/// One whose scores are not bounded.
fn scorer() -> PathBuf {
    fixture("cross-encoders/bert")
}

/// Scores by the library for every query with every document.
fn scores(queries: &[&str], documents: &[&str]) -> HashMap<(String, String), f32> {
    let device = DeviceSpec::Flex.open().unwrap();
    let options = CrossEncoderOptions::default();
    let model = CrossEncoder::open(scorer(), &options, &device).unwrap();
    let pairs: Vec<(&str, &str)> = queries
        .iter()
        .flat_map(|query| documents.iter().map(|document| (*query, *document)))
        .collect();
    let limits = BatchLimits::default();
    let scores = model.score(&pairs, limits, |_| {}).unwrap().values;
    let owned = pairs.iter().map(|(a, b)| (a.to_string(), b.to_string()));
    owned.zip(scores).collect()
}

fn records(path: &Path) -> Vec<Vec<String>> {
    let rows = csv::Reader::from_path(path).unwrap().into_records();
    rows.map(|row| row.unwrap().iter().map(str::to_owned).collect())
        .collect()
}

const QUERIES: [&str; 3] = ["where is the boat", "who repairs it", "is it raining"];
const DOCUMENTS: [&str; 7] = [
    "at the pier",
    "the sailors do",
    "with dogs and cats",
    "in the harbour",
    "an old dog",
    "the gulls follow it",
    "on the clock",
];
/// Rows of queries and documents that belong together.
const PAIRS: [(usize, usize); 4] = [(0, 0), (1, 1), (2, 2), (0, 3)];

fn near(found: &str, expected: f32) {
    let found: f32 = found.parse().unwrap();
    assert!((found - expected).abs() < 1e-4, "{found} {expected}");
}

/// `fin COMMAND --model bert-tiny` with the files of this test.
fn command(name: &str) -> Command {
    let mut command = fin();
    command.arg(name);
    command.arg("--model").arg(fixture("text/bert-tiny"));
    command
}

#[test]
fn negatives_are_limited_and_ranked_by_the_cross_encoder() {
    let scratch = Scratch::new();
    let rows =
        PAIRS.map(|(query, document)| format!("{},{}\n", QUERIES[query], DOCUMENTS[document]));
    let pairs = scratch.write("pairs.csv", format!("query,answer\n{}", rows.concat()));
    let corpus = scratch.write("corpus.txt", DOCUMENTS.join("\n"));
    let output = scratch.out("mined.csv");
    let mine = |more: &[&str]| {
        let mut command = command("mine");
        command.arg(&pairs).arg("--corpus").arg(&corpus);
        command.arg("--output").arg(&output).arg("--cross-encoder");
        run(command.arg(scorer()).args(more))
    };
    let scores = scores(&QUERIES, &DOCUMENTS);
    let score = |query: &str, document: &str| scores[&(query.to_owned(), document.to_owned())];
    let mut sorted: Vec<f32> = scores.values().copied().collect();
    sorted.sort_by(f32::total_cmp);
    let most = (sorted[14] + sorted[15]) / 2.0;

    let result = mine(&[
        "--max-score",
        &most.to_string(),
        "--negatives",
        "2",
        "--form",
        "margins",
        "--format",
        "json",
    ])
    .ok()
    .json();
    assert_eq!(result["cross_encoder"], scorer().to_str().unwrap());
    let mut expected = Vec::new();
    let mut above = 0;
    for (number, query) in QUERIES.iter().enumerate() {
        let belongs = |document: &str| {
            let mut own = PAIRS.iter().filter(|(query, _)| *query == number);
            own.any(|(_, own)| DOCUMENTS[*own] == document)
        };
        let mut ranked: Vec<&str> = DOCUMENTS.into_iter().filter(|it| !belongs(it)).collect();
        above += ranked.len();
        ranked.retain(|document| score(query, document) <= most);
        above -= ranked.len();
        ranked.sort_by(|a, b| score(query, b).total_cmp(&score(query, a)));
        for (_, positive) in PAIRS.iter().filter(|(query, _)| *query == number) {
            for negative in ranked.iter().take(2) {
                expected.push((*query, DOCUMENTS[*positive], *negative));
            }
        }
    }
    assert!(above > 0 && expected.len() >= 4);
    assert_eq!(result["skipped"]["max_score"], above);
    let found = records(&output);
    assert_eq!(found.len(), expected.len());
    for (row, (query, positive, negative)) in found.iter().zip(expected) {
        assert_eq!(row[..3], [query, positive, negative]);
        near(&row[3], score(query, positive) - score(query, negative));
    }

    // Nothing goes by scores without a limit.
    let before = fs::read(&output).unwrap();
    let refused = mine(&[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    for part in ["--max-score", "--min-score", "--margin"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    assert_eq!(fs::read(&output).unwrap(), before);
}

#[test]
fn margins_of_made_data_are_those_of_the_cross_encoder() {
    let scratch = Scratch::new();
    let queries = scratch.write("queries.txt", QUERIES.join("\n"));
    let corpus = scratch.write("corpus.txt", DOCUMENTS.join("\n"));
    let synthesize = |output: &Path, more: &[&str]| {
        let mut command = command("synthesize");
        command.arg("--queries").arg(&queries);
        command.arg("--corpus").arg(&corpus);
        command.args(["--depth", "4", "--hard", "2", "--dissimilar", "1"]);
        command.args(["--format", "json", "--output"]).arg(output);
        run(command.args(more))
    };
    let (plain, scored) = (scratch.out("plain.csv"), scratch.out("scored.csv"));
    synthesize(&plain, &[]).ok();
    let scorer = scorer();
    let scorer = scorer.to_str().unwrap();
    let result = synthesize(&scored, &["--cross-encoder", scorer])
        .ok()
        .json();
    assert_eq!(result["scorer"], scorer);
    let (plain, scored) = (records(&plain), records(&scored));
    assert_eq!((plain.len(), scored.len()), (9, 9));
    let scores = scores(&QUERIES, &DOCUMENTS);
    for (row, other) in scored.iter().zip(&plain) {
        assert_eq!(row[..3], other[..3]);
        let score = |document: &String| scores[&(row[0].clone(), document.clone())];
        near(&row[3], score(&row[1]) - score(&row[2]));
    }
    assert!(
        scored
            .iter()
            .zip(&plain)
            .any(|(row, other)| row[3] != other[3])
    );

    let both = synthesize(
        &scratch.out("both.csv"),
        &["--cross-encoder", scorer, "--scorer", scorer],
    );
    assert_eq!(both.code, Some(2), "{}", both.stderr);
}

#[test]
fn what_was_found_is_ranked_again() {
    let scratch = Scratch::new();
    let corpus = scratch.write("corpus.txt", DOCUMENTS.join("\n"));
    let search = |more: &[&str]| {
        let mut command = command("search");
        command.arg("--corpus").arg(&corpus);
        command.args(["--query", QUERIES[0], "--format", "json"]);
        let found = run(command.args(more)).ok().json();
        let hits = found[0]["results"].as_array().unwrap().clone();
        let hit = |hit: &serde_json::Value| {
            let text = hit["text"].as_str().unwrap().to_owned();
            (text, hit["score"].as_f64().unwrap() as f32)
        };
        hits.iter().map(hit).collect::<Vec<(String, f32)>>()
    };
    let scorer = scorer();
    let rerank = ["--rerank", scorer.to_str().unwrap()];
    let scores = scores(&QUERIES[..1], &DOCUMENTS);
    let score = |document: &str| scores[&(QUERIES[0].to_owned(), document.to_owned())];

    let similar = search(&["-k", "7"]);
    let reranked = search(&[&rerank[..], &["-k", "3"]].concat());
    let mut expected = DOCUMENTS.to_vec();
    expected.sort_by(|a, b| score(b).total_cmp(&score(a)));
    assert_eq!(reranked.len(), 3);
    for ((text, found), expected) in reranked.iter().zip(&expected) {
        assert_eq!(text, expected);
        assert!((found - score(expected)).abs() < 1e-4);
    }
    // Of the four most similar ones alone.
    let few = search(&[&rerank[..], &["-k", "2", "--rerank-depth", "4"]].concat());
    let candidates: BTreeSet<&str> = similar[..4].iter().map(|(text, _)| &**text).collect();
    expected.retain(|document| candidates.contains(document));
    let few: Vec<&str> = few.iter().map(|(text, _)| &**text).collect();
    assert_eq!(few, expected[..2]);
}

#[test]
fn directories_and_items_that_do_not_fit() {
    let scratch = Scratch::new();
    let corpus = scratch.write("corpus.txt", DOCUMENTS.join("\n"));
    let mut synthesize = command("synthesize");
    synthesize.arg("--queries").arg(&corpus);
    synthesize.arg("--corpus").arg(&corpus);
    synthesize.arg("--output").arg(scratch.out("margins.csv"));
    synthesize.arg("--cross-encoder");
    // An embedding model has no score of two texts.
    run(synthesize.arg(fixture("text/bert-tiny"))).fails_with(&[
        "bert-tiny/config.json",
        "`architectures`",
        "BertForSequenceClassification",
    ]);
    scratch.out_is_empty();

    let mut search = fin();
    search.args(["search", "--model"]);
    search.arg(fixture("images/efficientnet"));
    let image = fixture("images/files/rgb.png");
    search.arg("--query").arg(&image);
    let images = scratch.path("images");
    fs::create_dir(&images).unwrap();
    fs::copy(&image, images.join("rgb.png")).unwrap();
    search.arg("--corpus").arg(&images);
    run(search.arg("--rerank").arg(scorer())).fails_with(&["reads texts", "rgb.png"]);
}
