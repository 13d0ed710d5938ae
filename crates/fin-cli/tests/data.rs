//! `fin check` and `fin split`, and data of every format in `fin encode` and `fin fit`.

mod common;

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, RecordBatch, StringArray};
use common::{Run, Scratch, fin, fixture, names};
use fin_core::output::read_npy_f32;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

fn run(command: &mut Command) -> Run {
    command.output().unwrap().into()
}

/// `fin fit` on `bert-tiny`, all rows in a batch.
fn fit(train: &Path, loss: &str, output: &Path) -> Command {
    let mut command = fin();
    command
        .arg("fit")
        .arg("--model")
        .arg(fixture("text/bert-tiny"));
    command.arg("--train").arg(train).args(["--loss", loss]);
    command.args([
        "--learning-rate",
        "1e-3",
        "--batch-size",
        "8",
        "--format",
        "json",
    ]);
    command.arg("--output").arg(output);
    command
}

/// Columns of texts and, at the end, any of numbers.
fn parquet(path: &Path, texts: &[(&str, Vec<&str>)], numbers: Option<(&str, Vec<f32>)>) {
    let mut columns: Vec<(&str, ArrayRef)> = texts
        .iter()
        .map(|(name, column)| {
            (
                *name,
                Arc::new(StringArray::from(column.clone())) as ArrayRef,
            )
        })
        .collect();
    if let Some((name, column)) = numbers {
        columns.push((name, Arc::new(Float32Array::from(column))));
    }
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

const QUERIES: [&str; 4] = [
    "where is the boat",
    "who repairs it",
    "is it raining",
    "when do we sail",
];
const ANSWERS: [&str; 4] = [
    "at the pier",
    "the sailors do",
    "with dogs and cats",
    "on the clock",
];
const OTHERS: [&str; 4] = [
    "the sailors do",
    "at the pier",
    "on the clock",
    "a dog runs",
];
const MARGINS: [f32; 4] = [0.5, 0.25, 1.5, -0.125];

/// The same triplets with a margin in every format, with an override of the columns where needed.
fn margins(scratch: &Scratch) -> Vec<(PathBuf, &'static [&'static str])> {
    let mut csv = "query,positive,negative,margin\n".to_owned();
    let mut shuffled = "gap,wrong,right,question\n".to_owned();
    let mut jsonl = String::new();
    for i in 0..4 {
        let (query, positive, negative, margin) = (QUERIES[i], ANSWERS[i], OTHERS[i], MARGINS[i]);
        csv.push_str(&format!("{query},{positive},{negative},{margin}\n"));
        shuffled.push_str(&format!("{margin},{negative},{positive},{query}\n"));
        let row =
            json!({"query": query, "positive": positive, "negative": negative, "margin": margin});
        jsonl.push_str(&format!("{row}\n"));
    }
    let columns = [
        ("query", QUERIES.to_vec()),
        ("positive", ANSWERS.to_vec()),
        ("negative", OTHERS.to_vec()),
    ];
    let path = scratch.path("margins.parquet");
    parquet(&path, &columns, Some(("margin", MARGINS.to_vec())));
    vec![
        (scratch.write("margins.csv", csv), &[]),
        (
            scratch.write("shuffled.csv", shuffled),
            &["--columns", "question,right,wrong,gap"],
        ),
        (scratch.write("margins.jsonl", jsonl), &[]),
        (path, &[]),
    ]
}

#[test]
fn margins_are_fitted_from_every_format() {
    let scratch = Scratch::new();
    let mut losses = Vec::new();
    for (i, (path, more)) in margins(&scratch).into_iter().enumerate() {
        let mut command = fit(&path, "margin_mse", &scratch.out(&i.to_string()));
        command.args(more).args(["--epochs", "20"]);
        let result = run(&mut command).ok().json();
        assert_eq!(
            (&result["examples"], &result["steps"]),
            (&4.into(), &20.into())
        );
        let (first, last) = (&result["first_loss"], &result["last_loss"]);
        assert!(last.as_f64() < first.as_f64(), "{result}");
        losses.push((first.clone(), last.clone()));
    }
    assert!(losses.iter().all(|loss| *loss == losses[0]), "{losses:?}");

    let (path, _) = &margins(&scratch)[0];
    // Queries and their positives are what is measured.
    let mut command = fit(path, "margin_mse", &scratch.out("measured"));
    let result = run(command.arg("--eval").arg(path)).ok().json();
    assert!(result["after"]["mrr@10"].is_f64(), "{result}");
    let mut command = fit(path, "margin_mse", &scratch.out("bad"));
    run(command.args(["--score-range", "0..5"])).fails_with(&["score_range", "margins"]);
    let bad = scratch.write(
        "bad.csv",
        "query,positive,negative,margin\nq,a,b,1\nq,a,b,wide\n",
    );
    run(&mut fit(&bad, "margin_mse", &scratch.out("bad")))
        .fails_with(&["bad.csv", "line 3", "wide"]);
    let mut command = fit(path, "margin_mse", &scratch.out("bad"));
    run(command.args(["--columns", "query,positive,negative"])).fails_with(&["4 (query"]);
    assert_eq!(
        names(&scratch.path("out")),
        ["0", "1", "2", "3", "measured"]
    );
}

#[test]
fn parquet_and_jsonl_are_encoded_and_fitted_like_csv() {
    let scratch = Scratch::new();
    let (mut csv, mut jsonl) = ("anchor,positive\n".to_owned(), String::new());
    for (query, answer) in QUERIES.iter().zip(ANSWERS) {
        csv.push_str(&format!("{query},{answer}\n"));
        jsonl.push_str(&format!(
            "{}\n",
            json!({"positive": answer, "anchor": query})
        ));
    }
    let path = scratch.path("pairs.parquet");
    let columns = [("positive", ANSWERS.to_vec()), ("anchor", QUERIES.to_vec())];
    parquet(&path, &columns, None);
    let files = [
        scratch.write("pairs.csv", csv),
        scratch.write("pairs.jsonl", jsonl),
        path,
    ];
    let (mut embeddings, mut losses) = (Vec::new(), Vec::new());
    for (i, file) in files.iter().enumerate() {
        let output = scratch.path(&format!("{i}.npy"));
        let mut encode = fin();
        encode
            .arg("encode")
            .arg(file)
            .args(["--column", "positive"]);
        encode
            .arg("--model")
            .arg(fixture("text/bert-tiny"))
            .arg("--output")
            .arg(&output);
        run(&mut encode).ok();
        embeddings.push(read_npy_f32(&output).unwrap());
        let mut command = fit(
            file,
            "multiple_negatives_ranking",
            &scratch.out(&i.to_string()),
        );
        let result = run(command.args(["--epochs", "2"])).ok().json();
        assert_eq!(result["examples"], 4);
        losses.push((result["first_loss"].clone(), result["last_loss"].clone()));
    }
    assert_eq!(embeddings[0].1[0], 4);
    assert!(embeddings.iter().all(|found| *found == embeddings[0]));
    assert!(losses.iter().all(|found| *found == losses[0]), "{losses:?}");
}

/// Lines of a file without its header.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().skip(1).map(str::to_owned).collect()
}

fn split(data: &Path, train: &Path, validation: &Path, more: &[&str]) -> Run {
    let mut command = fin();
    command.arg("split").arg(data).arg("--train").arg(train);
    command
        .arg("--validation")
        .arg(validation)
        .args(["--format", "json"]);
    run(command.args(more))
}

#[test]
fn parts_share_no_item_and_keep_all_columns() {
    let scratch = Scratch::new();
    let data = fixture("help-desk/train.csv");
    let (train, held_out) = (scratch.out("train.csv"), scratch.out("held-out.csv"));
    let more = [
        "--columns",
        "query,answer",
        "--fraction",
        "0.2",
        "--seed",
        "3",
    ];
    let result = split(&data, &train, &held_out, &more).ok().json();
    assert_eq!(result["parts"]["train"], json!({"rows": 288, "groups": 96}));
    assert_eq!(
        result["parts"]["validation"],
        json!({"rows": 72, "groups": 24})
    );
    let mut rows = csv::Reader::from_path(&train).unwrap();
    assert_eq!(rows.headers().unwrap(), ["query", "answer"].as_slice());
    let answers = |path: &Path| -> HashSet<String> {
        let mut rows = csv::Reader::from_path(path).unwrap();
        rows.records()
            .map(|row| row.unwrap()[1].to_owned())
            .collect()
    };
    assert!(answers(&train).is_disjoint(&answers(&held_out)));
    let first = fs::read(&held_out).unwrap();
    split(&data, &train, &held_out, &more).ok();
    assert_eq!(fs::read(&held_out).unwrap(), first);

    // A row joins two groups, in other letters and spaces; lines of .jsonl stay as they are.
    let content = "{\"anchor\": \"a\", \"positive\": \"x\", \"id\": [1]}\n\
                   {\"anchor\": \"b\", \"positive\": \"y\", \"id\": [2]}\n\
                   {\"anchor\": \"c\", \"positive\": \"z\", \"negative\": [\"x\", \"w\"], \"id\": [3]}\n\n\
                   {\"anchor\": \"A \", \"positive\": \"Y\", \"id\": [4]}\n";
    let data = scratch.write("pairs.jsonl", content);
    let (train, held_out) = (scratch.out("train.jsonl"), scratch.out("held-out.jsonl"));
    let result = split(&data, &train, &held_out, &["--fraction", "0.25"]).ok();
    assert_eq!(result.json()["largest_group"], 3);
    assert_eq!(result.json()["shared_negatives"], 1);
    let line = content.lines().nth(2).unwrap();
    assert_eq!(fs::read_to_string(&held_out).unwrap(), format!("{line}\n"));
    // As .csv, with the columns that training reads.
    split(
        &data,
        &scratch.out("train.csv"),
        &scratch.out("held-out.csv"),
        &["--fraction", "0.25"],
    )
    .ok();
    let text = fs::read_to_string(scratch.out("held-out.csv")).unwrap();
    assert_eq!(text, "anchor,positive,negative_1,negative_2\nc,z,x,w\n");
    let one = split(
        &data,
        &train,
        &held_out,
        &["--fraction", "0.25", "--negatives"],
    );
    one.fails_with(&["pairs.jsonl", "one group"]);
    assert_eq!(fs::read_to_string(&held_out).unwrap(), format!("{line}\n"));
}

#[test]
fn labels_have_their_share_or_stay_together() {
    let scratch = Scratch::new();
    let mut content = "id,text,label\n".to_owned();
    for i in 0..40 {
        let label = ["sea", "home", "sky", "sea"][i % 4];
        content.push_str(&format!("{i},text {i},{label}\n"));
    }
    let data = scratch.write("labels.csv", content);
    let (train, held_out) = (scratch.out("train.csv"), scratch.out("held-out.csv"));
    let labels = |path: &Path| -> Vec<String> {
        let lines = lines(path);
        let labels = lines
            .iter()
            .map(|line| line.rsplit(',').next().unwrap().to_owned());
        let mut labels: Vec<String> = labels.collect();
        labels.sort();
        labels
    };
    let result = split(&data, &train, &held_out, &["--fraction", "0.2"]).ok();
    assert!(
        result.stderr.contains("taken as labelled"),
        "{}",
        result.stderr
    );
    assert_eq!(
        labels(&held_out),
        ["home", "home", "sea", "sea", "sea", "sea", "sky", "sky"]
    );
    let by_label = ["--fraction", "0.25", "--by", "label"];
    let result = split(&data, &train, &held_out, &by_label).ok().json();
    assert_eq!(
        result["parts"]["validation"],
        json!({"rows": 10, "groups": 1})
    );
    let unseen: HashSet<String> = labels(&held_out).into_iter().collect();
    assert!(unseen.is_disjoint(&labels(&train).into_iter().collect()));

    for (train, validation, parts) in [
        (
            data.clone(),
            held_out.clone(),
            ["train", "the file that is split"],
        ),
        (
            held_out.clone(),
            held_out.clone(),
            ["validation", "--train"],
        ),
        (scratch.out("a.txt"), held_out.clone(), ["a.txt", ".jsonl"]),
    ] {
        split(&data, &train, &validation, &[]).fails_with(&parts);
    }
    split(&data, &train, &held_out, &["--fraction", "1.5"]).fails_with(&["1.5", "between 0 and 1"]);
    let pairs = ["--form", "pairs", "--columns", "0,1", "--by", "label"];
    split(&data, &train, &held_out, &pairs).fails_with(&["by", "label"]);
    assert_eq!(names(&scratch.path("out")), ["held-out.csv", "train.csv"]);
}

#[test]
fn duplicates_and_contradictions_are_listed() {
    let scratch = Scratch::new();
    let data = scratch.write(
        "train.csv",
        "anchor,positive,negative\nq,a,n\nr,b,\nq,a,n\nQ,A,n\nq,b,m\nr,c,B\n",
    );
    let held_out = scratch.write("held-out.csv", "anchor,positive\nr,d\nz,a\n");
    let mut command = fin();
    command
        .arg("check")
        .arg(&data)
        .arg("--against")
        .arg(&held_out);
    let found = run(command.args(["--format", "json", "--show", "1"]))
        .ok()
        .json();
    assert_eq!(
        (&found["rows"], &found["against_rows"]),
        (&6.into(), &2.into())
    );
    let findings: Vec<(&str, u64, String, String)> = found["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| {
            let case = &finding["cases"][0];
            let place = |name: &str| {
                let path = Path::new(case[name].as_str().unwrap());
                path.file_name().unwrap().to_str().unwrap().to_owned()
            };
            assert_eq!(finding["cases"].as_array().unwrap().len(), 1);
            let kind = finding["kind"].as_str().unwrap();
            (
                kind,
                finding["count"].as_u64().unwrap(),
                place("place"),
                place("other"),
            )
        })
        .collect();
    let expect =
        |kind, count, place: &str, other: &str| (kind, count, place.to_owned(), other.to_owned());
    assert_eq!(
        findings,
        [
            expect("duplicate_row", 1, "train.csv:4", "train.csv:2"),
            expect("near_duplicate_row", 1, "train.csv:5", "train.csv:2"),
            expect("positive_is_negative", 1, "train.csv:7", "train.csv:3"),
            expect("shared_query", 2, "train.csv:3", "held-out.csv:2"),
            expect("shared_document", 3, "train.csv:2", "held-out.csv:3"),
        ]
    );
    let mut command = fin();
    let table = run(command.arg("check").arg(&data)).ok().stdout;
    assert!(
        table.contains("duplicate rows") && table.contains("train.csv:4"),
        "{table}"
    );
    let mut command = fin();
    command
        .arg("check")
        .arg(&data)
        .args(["--strict", "--form", "pairs"]);
    run(&mut command).fails_with(&["train.csv", "1 duplicate row,"]);

    // Training says it in a line.
    let mut command = fit(&data, "multiple_negatives_ranking", &scratch.out("tuned"));
    command.args(["--columns", "anchor,positive", "--max-steps", "1"]);
    let result = run(command.arg("--eval").arg(&held_out)).ok();
    for part in [
        "1 duplicate row, 1 row that is like an earlier one",
        "2 rows with a query of the held-out data",
        "`fin check`",
    ] {
        assert!(result.stderr.contains(part), "{part}: {}", result.stderr);
    }

    let scored = scratch.write("scored.csv", "sentence1,sentence2,score\na,b,1\nb,a,0\n");
    let labelled = scratch.write("labelled.csv", "text,label\na,x\na,y\nb,x\n");
    for (path, kind) in [(scored, "other_score"), (labelled, "other_label")] {
        let mut command = fin();
        let found = run(command.arg("check").arg(&path).args(["--format", "json"]))
            .ok()
            .json();
        assert_eq!(found["findings"][0]["kind"], kind, "{found}");
        assert_eq!(found["findings"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn images_are_equal_by_their_content() {
    let scratch = Scratch::new();
    let image = fs::read(fixture("clip/images/0.png")).unwrap();
    let other = fs::read(fixture("clip/images/1.png")).unwrap();
    for (path, bytes) in [
        ("train/sea/a.png", &image),
        ("train/sea/b.png", &other),
        ("train/home/c.png", &image),
        ("test/sea/d.png", &other),
    ] {
        let path = scratch.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let mut command = fin();
    command.arg("check").arg(scratch.path("train"));
    command
        .arg("--against")
        .arg(scratch.path("test"))
        .args(["--format", "json"]);
    let found = run(&mut command).ok().json();
    let findings = found["findings"].as_array().unwrap();
    let kinds: Vec<&Value> = findings.iter().map(|finding| &finding["kind"]).collect();
    assert_eq!(kinds, ["other_label", "shared_item"]);
    let place = findings[1]["cases"][0]["other"].as_str().unwrap();
    assert!(place.ends_with("d.png"), "{place}");
    // Equal files stay together, and paths are not taken to where they lead nowhere.
    let (train, held_out) = (scratch.path("train/a.csv"), scratch.path("train/b.csv"));
    let result = split(
        &scratch.path("train"),
        &train,
        &held_out,
        &["--fraction", "0.34"],
    )
    .ok();
    assert_eq!(
        result.json()["parts"]["validation"],
        json!({"rows": 1, "groups": 1})
    );
    assert_eq!(lines(&held_out), ["sea/b.png,sea"]);
    split(
        &scratch.path("train"),
        &scratch.out("a.csv"),
        &held_out,
        &[],
    )
    .fails_with(&["relative to"]);
    scratch.out_is_empty();
}

#[test]
fn training_rows_are_held_out_and_measured() {
    let scratch = Scratch::new();
    let train = fixture("help-desk/train.csv");
    let mut command = fit(&train, "multiple_negatives_ranking", &scratch.out("pairs"));
    command.args([
        "--validation-fraction",
        "0.1",
        "--max-length",
        "24",
        "--k",
        "1,10",
    ]);
    let result = run(command.args(["--monitor", "mrr@10", "--patience", "1"])).ok();
    let found = result.json();
    assert_eq!(
        (&found["examples"], &found["held_out"]),
        (&324.into(), &36.into())
    );
    assert!(
        found["after"]["hit@10"].is_f64() && found["before"]["hit@10"].is_f64(),
        "{found}"
    );
    assert!(
        result.stderr.contains("36 of 360 rows are held out"),
        "{}",
        result.stderr
    );

    // Pairs as groups: losses on labels learn them, and are measured on pairs.
    let mut command = fit(&train, "triplet_margin", &scratch.out("groups"));
    command.args([
        "--group-pairs",
        "--validation-fraction",
        "0.1",
        "--max-length",
        "24",
    ]);
    let result = run(&mut command).ok();
    // 108 answers with three questions each.
    assert_eq!(result.json()["examples"], 432);
    assert!(
        result.stderr.contains("432 texts in 108 groups"),
        "{}",
        result.stderr
    );
    assert!(result.json()["after"]["mrr@10"].is_f64());

    for (loss, more, parts) in [
        (
            "multiple_negatives_ranking",
            &["--group-pairs"][..],
            ["group_pairs", "labels"],
        ),
        (
            "multiple_negatives_ranking",
            &["--validation-by", "items"],
            ["validation_by", "--validation-fraction"],
        ),
        (
            "multiple_negatives_ranking",
            &["--validation-fraction", "2"],
            ["fraction", "between 0 and 1"],
        ),
        (
            "multiple_negatives_ranking",
            &["--validation-fraction", "0.1", "--eval", "x.csv"],
            ["validation_fraction", "--eval"],
        ),
    ] {
        run(fit(&train, loss, &scratch.out("bad")).args(more)).fails_with(&parts);
    }
    assert_eq!(names(&scratch.path("out")), ["groups", "pairs"]);
}
