//! `fin mine` and `fin synthesize`.

mod common;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Run, Scratch, fin, fixture, names};
use fin_core::output::read_npy_f32;
use serde_json::Value;

fn run(command: &mut Command) -> Run {
    command.output().unwrap().into()
}

/// Embeddings of the column of a file by text, of unit length.
fn embedded(
    scratch: &Scratch,
    file: &Path,
    column: &str,
    model: &Path,
) -> HashMap<String, Vec<f32>> {
    let output = scratch.path("embedded.npy");
    let mut encode = fin();
    encode
        .arg("encode")
        .arg(file)
        .args(["--column", column, "--normalize"]);
    run(encode
        .arg("--model")
        .arg(model)
        .arg("--output")
        .arg(&output))
    .ok();
    let (values, [rows, dim]) = read_npy_f32(&output).unwrap();
    let texts = csv::Reader::from_path(file).unwrap().into_records();
    let headers = csv::Reader::from_path(file)
        .unwrap()
        .headers()
        .unwrap()
        .clone();
    let at = headers.iter().position(|name| name == column).unwrap();
    let texts: Vec<String> = texts.map(|row| row.unwrap()[at].to_owned()).collect();
    assert_eq!(texts.len(), rows);
    texts
        .into_iter()
        .zip(values.chunks(dim).map(<[f32]>::to_vec))
        .collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum::<f64>() as f32
}

fn records(path: &Path) -> Vec<Vec<String>> {
    let rows = csv::Reader::from_path(path).unwrap().into_records();
    rows.map(|row| row.unwrap().iter().map(str::to_owned).collect())
        .collect()
}

const PAIRS: &str = "id,query,answer\n\
    1,where is the boat,at the pier\n\
    2,who repairs it,the sailors do\n\
    3,is it raining,with dogs and cats\n\
    4,where is the boat,in the harbour\n\
    5,when do we sail,on the clock\n\
    6,who repairs it,the sailors do\n";

fn mine(pairs: &Path, output: &Path, more: &[&str]) -> Run {
    let mut command = fin();
    command
        .arg("mine")
        .arg(pairs)
        .args(["--columns", "query,answer", "--format", "json"]);
    command
        .arg("--model")
        .arg(fixture("text/bert-tiny"))
        .arg("--output")
        .arg(output);
    run(command.args(more))
}

#[test]
fn negatives_are_the_closest_that_do_not_belong() {
    let scratch = Scratch::new();
    let model = fixture("text/bert-tiny");
    let pairs = scratch.write("pairs.csv", PAIRS);
    let corpus = scratch.write(
        "corpus.csv",
        "text\nan old dog\nat the pier\nthe gulls\nan old dog\n",
    );
    let output = scratch.out("mined.csv");
    let more = ["--corpus", corpus.to_str().unwrap(), "--negatives", "2"];
    let result = mine(&pairs, &output, &more).ok().json();
    for (name, expected) in [
        ("pairs", 6),
        ("queries", 4),
        ("documents", 7),
        ("rows", 10),
        ("range_max", 4),
    ] {
        assert_eq!(result[name], expected, "{name}: {result}");
    }
    assert_eq!(result["positive"]["count"], 5);

    let queries = embedded(&scratch, &pairs, "query", &model);
    let mut documents = embedded(&scratch, &pairs, "answer", &model);
    documents.extend(embedded(&scratch, &corpus, "text", &model));
    assert_eq!(documents.len(), 7);
    let belonging = |query: &str| -> HashSet<String> {
        let rows = records(&pairs).into_iter().filter(|row| row[1] == query);
        rows.map(|row| row[2].clone()).collect()
    };
    let mut expected = Vec::new();
    for query in [
        "where is the boat",
        "who repairs it",
        "is it raining",
        "when do we sail",
    ] {
        let mut ranked: Vec<&String> = documents.keys().collect();
        let score = |text: &str| cosine(&queries[query], &documents[text]);
        ranked.sort_by(|a, b| score(b).total_cmp(&score(a)));
        ranked.retain(|text| !belonging(query).contains(*text));
        let mut positives: Vec<String> = Vec::new();
        for row in records(&pairs) {
            if row[1] == query && !positives.contains(&row[2]) {
                positives.push(row[2].clone());
            }
        }
        for positive in positives {
            for negative in &ranked[..2] {
                expected.push(vec![
                    query.to_owned(),
                    positive.clone(),
                    (*negative).clone(),
                ]);
            }
        }
    }
    assert_eq!(records(&output), expected);

    // Other forms of the same, which training reads.
    for (form, loss, rows) in [
        ("tuples", "multiple_negatives_ranking", 5),
        ("scored-pairs", "pair_contrastive", 13),
        ("margins", "margin_mse", 10),
    ] {
        let output = scratch.out(&format!("{form}.jsonl"));
        let more = [&more[..], &["--form", form]].concat();
        assert_eq!(
            mine(&pairs, &output, &more).ok().json()["rows"],
            rows,
            "{form}"
        );
        let mut fit = fin();
        fit.arg("fit")
            .arg("--model")
            .arg(&model)
            .arg("--train")
            .arg(&output);
        fit.args(["--loss", loss, "--max-steps", "1", "--format", "json"]);
        let fitted = run(fit.arg("--output").arg(scratch.out(form))).ok().json();
        assert_eq!(fitted["examples"], rows, "{form}");
    }
    let margins = fs::read_to_string(scratch.out("margins.jsonl")).unwrap();
    let row: Value = serde_json::from_str(margins.lines().next().unwrap()).unwrap();
    let query = &queries[row["query"].as_str().unwrap()];
    let text = |name: &str| &documents[row[name].as_str().unwrap()];
    let expected = cosine(query, text("positive")) - cosine(query, text("negative"));
    let found = row["margin"].as_f64().unwrap() as f32;
    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
}

#[test]
fn filters_leave_out_and_are_counted() {
    let scratch = Scratch::new();
    let pairs = scratch.write("pairs.csv", PAIRS);
    let output = scratch.out("mined.csv");
    let all = mine(
        &pairs,
        &output,
        &["--negatives", "4", "--form", "scored-pairs"],
    )
    .ok()
    .json();
    assert_eq!(all["negative"]["count"], 15);
    let middle = all["negative"]["median"].as_f64().unwrap().to_string();
    let found = mine(
        &pairs,
        &output,
        &["--negatives", "4", "--max-score", &middle],
    )
    .ok()
    .json();
    let skipped = found["skipped"]["max_score"].as_u64().unwrap();
    assert_eq!(found["negative"]["count"].as_u64().unwrap() + skipped, 15);
    assert!((6..=8).contains(&skipped), "{found}");
    assert!(found["negative"]["max"].as_f64() <= all["negative"]["median"].as_f64());
    // As a table, with what was asked for alone.
    let mut command = fin();
    command
        .arg("mine")
        .arg(&pairs)
        .args(["--columns", "query,answer", "--max-score", "-1"]);
    command
        .arg("--model")
        .arg(fixture("text/bert-tiny"))
        .arg("--output")
        .arg(&output);
    let table = run(&mut command).ok().stdout;
    assert!(
        table.contains("left out: max score") && !table.contains("min score"),
        "{table}"
    );
    assert!(table.contains("queries with none"), "{table}");

    let drawn = |seed: &str| {
        mine(
            &pairs,
            &output,
            &[
                "--negatives",
                "1",
                "--range-max",
                "3",
                "--sampling",
                "random",
                "--seed",
                seed,
            ],
        )
        .ok();
        fs::read(&output).unwrap()
    };
    let first = drawn("0");
    assert_eq!(drawn("0"), first);
    assert!((1..8).any(|seed| drawn(&seed.to_string()) != first));

    let before = fs::read(&output).unwrap();
    for (more, parts) in [
        (
            &["--range-min", "3", "--range-max", "4"][..],
            ["negatives", "of which there are 1"],
        ),
        (&["--corpus", "none.csv"], ["none.csv", "cannot"]),
        (&["--columns", "query"], ["columns", "query, document"]),
    ] {
        let mut command = fin();
        command.arg("mine").arg(&pairs).arg("--output").arg(&output);
        if more[0] != "--columns" {
            command.args(["--columns", "query,answer"]);
        }
        command.arg("--model").arg(fixture("text/bert-tiny"));
        run(command.args(more)).fails_with(&parts);
    }
    assert_eq!(fs::read(&output).unwrap(), before);
    mine(&pairs, &scratch.out("a.npy"), &[]).fails_with(&["a.npy", ".jsonl"]);
    assert_eq!(names(&scratch.path("out")), ["mined.csv"]);
}

/// Unlabelled questions and the corpus of the help desk, by the embedded model.
#[cfg(feature = "tiny")]
#[test]
fn data_are_made_of_questions_and_documents_and_fitted() {
    let scratch = Scratch::new();
    let cache = scratch.path("cache");
    let (queries, corpus) = (
        fixture("help-desk/eval.csv"),
        fixture("help-desk/corpus.csv"),
    );
    let output = scratch.out("margins.csv");
    let scorer = fixture("text/bert-tiny");
    let synthesize = |output: &Path, more: &[&str]| {
        let mut command = fin();
        command
            .env("FIN_CACHE", &cache)
            .arg("synthesize")
            .arg("--queries")
            .arg(&queries);
        command.args(["--query-column", "query", "--corpus-column", "answer"]);
        command
            .arg("--corpus")
            .arg(&corpus)
            .arg("--output")
            .arg(output);
        run(command.args(["--format", "json"]).args(more))
    };
    let more = ["--depth", "10", "--hard", "3", "--dissimilar", "1"];
    let result = synthesize(&output, &more).ok().json();
    for (name, expected) in [
        ("queries", 120),
        ("documents", 120),
        ("rows", 480),
        ("queries_without_rows", 0),
    ] {
        assert_eq!(result[name], expected, "{name}: {result}");
    }
    // Scored by the model that found them, the positive is the closest.
    assert_eq!(result["rows_with_negative_margin"], 0);
    let rows = records(&output);
    let answers: HashSet<String> = records(&corpus)
        .into_iter()
        .map(|row| row[1].clone())
        .collect();
    for row in &rows {
        assert!(answers.contains(&row[1]) && answers.contains(&row[2]) && row[1] != row[2]);
    }

    // By another scorer: the same rows with the difference of its cosines.
    let scored = scratch.out("scored.csv");
    let scorer_name = scorer.to_str().unwrap();
    synthesize(&scored, &[&more[..], &["--scorer", scorer_name]].concat()).ok();
    let (asked, found) = (
        embedded(&scratch, &queries, "query", &scorer),
        embedded(&scratch, &corpus, "answer", &scorer),
    );
    let rescored = records(&scored);
    assert_eq!(rescored.len(), rows.len());
    for (row, old) in rescored.iter().zip(&rows) {
        assert_eq!(row[..3], old[..3]);
        let margin: f32 = row[3].parse().unwrap();
        let query = &asked[&row[0]];
        let expected = cosine(query, &found[&row[1]]) - cosine(query, &found[&row[2]]);
        assert!((margin - expected).abs() < 1e-5, "{row:?}: {expected}");
    }

    let mut fit = fin();
    fit.env("FIN_CACHE", &cache)
        .arg("fit")
        .arg("--train")
        .arg(&scored);
    fit.args([
        "--loss",
        "margin_mse",
        "--max-steps",
        "3",
        "--format",
        "json",
    ]);
    let fitted = run(fit.arg("--output").arg(scratch.out("tuned")))
        .ok()
        .json();
    assert_eq!(
        (&fitted["examples"], &fitted["steps"]),
        (&480.into(), &3.into())
    );

    // A text on both sides is not paired with itself.
    let texts = scratch.write("texts.txt", "the boat\na boat\nthe dog\na dog\n");
    let itself = scratch.out("itself.csv");
    let mut command = fin();
    command
        .env("FIN_CACHE", &cache)
        .arg("synthesize")
        .arg("--queries")
        .arg(&texts);
    run(command
        .arg("--corpus")
        .arg(&texts)
        .arg("--output")
        .arg(&itself))
    .ok();
    let rows = records(&itself);
    assert_eq!(rows.len(), 8);
    assert!(rows.iter().all(|row| row[0] != row[1] && row[0] != row[2]));
    synthesize(&scratch.out("bad.csv"), &["--hard", "50"]).fails_with(&["depth", "ranks 2 to 50"]);
    assert_eq!(
        names(&scratch.path("out")),
        ["itself.csv", "margins.csv", "scored.csv", "tuned"]
    );
}
