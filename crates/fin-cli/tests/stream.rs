//! `fin fit --stream`: the models of runs in memory to the bit, and what is said where it cannot be
//! had.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Float32Array, RecordBatch, StringArray};
use common::{Run, Scratch, fin, fixture, names};
use parquet::arrow::ArrowWriter;

fn fit(model: &str, loss: &str, output: &Path) -> Command {
    let mut command = fin();
    command.args(["fit", "--loss", loss, "--format", "json"]);
    command.arg("--model").arg(fixture(model));
    command.args(["--learning-rate", "1e-3", "--batch-size", "4"]);
    command.arg("--output").arg(output);
    command
}

fn run(command: &mut Command) -> Run {
    command.output().unwrap().into()
}

/// Every file below a directory by its path.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for name in names(directory) {
        let path = directory.join(&name);
        if path.is_dir() {
            let below = contents(&path).into_iter();
            found.extend(below.map(|(inner, bytes)| (Path::new(&name).join(inner), bytes)));
        } else {
            found.insert(PathBuf::from(name), fs::read(path).unwrap());
        }
    }
    found
}

/// Runs with these arguments, with and without `--stream`: the directories are equal byte by byte.
fn expect_the_same(model: &str, loss: &str, train: &[&Path], more: &[&str]) {
    let scratch = Scratch::new();
    let made = |name: &str, stream: &[&str]| {
        let output = scratch.out(name);
        let mut command = fit(model, loss, &output);
        for path in train {
            command.arg("--train").arg(path);
        }
        let found = run(command.args(more).args(stream)).ok().json();
        let told = ["examples", "steps", "truncated", "first_loss", "last_loss"];
        (contents(&output), told.map(|key| found[key].clone()))
    };
    let (memory, expected) = made("memory", &[]);
    let (stream, found) = made("stream", &["--stream"]);
    assert_eq!(names(&scratch.path("out")), ["memory", "stream"]);
    let what = format!("{loss}, {train:?}, {more:?}");
    assert_eq!(found, expected, "{what}");
    // The name of the model's directory is in its card.
    let plain = |files: BTreeMap<PathBuf, Vec<u8>>, name: &str| {
        let files = files.into_iter().map(|(path, bytes)| {
            let card = path == Path::new("README.md");
            let text = || {
                String::from_utf8(bytes.clone())
                    .unwrap()
                    .replace(name, "NAME")
            };
            let bytes = if card {
                text().into_bytes()
            } else {
                bytes.clone()
            };
            (path, bytes)
        });
        files.collect::<BTreeMap<_, _>>()
    };
    let (memory, stream) = (plain(memory, "memory"), plain(stream, "stream"));
    assert!(
        memory.contains_key(Path::new("model.safetensors")),
        "{what}"
    );
    assert!(memory.keys().eq(stream.keys()), "{what}");
    for (path, bytes) in &memory {
        assert!(stream[path] == *bytes, "{what}: {} differs", path.display());
    }
}

const TEXT: &str = "text/bert-tiny";

/// Questions and answers, some of which are there twice.
const PAIRS: [[&str; 3]; 8] = [
    ["where is the boat", "at the pier", "on the clock"],
    ["who repairs it", "the sailors do", "a dog runs"],
    ["is it raining", "with dogs and cats", "at the pier"],
    ["where is the boat", "in the harbour", "the sailors do"],
    ["when do we sail", "on the clock", "in the harbour"],
    [
        "what about the gulls",
        "over the pier they fly",
        "a dog runs",
    ],
    ["who waits", "the sailors do", "with dogs and cats"],
    ["is it late", "on the clock", "over the pier they fly"],
];

const NUMBERS: [f32; 8] = [0.5, 0.25, 1.5, 0.0, 4.5, 5.0, 2.25, 3.0];

fn delimited(header: &str, columns: usize, delimiter: &str) -> String {
    let mut text = format!("{}\n", header.replace(',', delimiter));
    for row in PAIRS {
        writeln!(text, "{}", row[..columns].join(delimiter)).unwrap();
    }
    text
}

/// Texts in these columns and, where it has a name, a column of numbers.
fn parquet(path: &Path, texts: &[&str], number: Option<&str>) {
    let column = |i: usize| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            PAIRS.iter().map(|row| row[i]),
        ))
    };
    let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
    columns.extend(texts.iter().enumerate().map(|(i, name)| (*name, column(i))));
    let numbers: ArrayRef = Arc::new(Float32Array::from(NUMBERS.to_vec()));
    columns.extend(number.map(|name| (name, numbers)));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn pairs_train_the_same_model() {
    const LOSS: &str = "multiple_negatives_ranking";
    let scratch = Scratch::new();
    let csv = scratch.write("pairs.csv", delimited("anchor,positive", 2, ","));
    let tsv = scratch.write(
        "triplets.tsv",
        delimited("anchor,positive,negative", 3, "\t"),
    );
    let jsonl: String = PAIRS
        .map(|[a, b, c]| {
            format!("{{\"anchor\": {a:?}, \"positive\": {b:?}, \"negative\": [{c:?}]}}\n")
        })
        .concat();
    let jsonl = scratch.write("triplets.jsonl", jsonl);
    let columns = scratch.path("pairs.parquet");
    parquet(&columns, &["anchor", "positive"], None);
    let long = fixture("help-desk/train.csv");
    let two = ["--epochs", "2"];
    for train in [&csv, &tsv, &jsonl, &columns] {
        expect_the_same(TEXT, LOSS, &[train], &two);
    }
    let more = [
        "--max-length",
        "16",
        "--max-steps",
        "12",
        "--mini-batch-size",
        "3",
    ];
    expect_the_same(TEXT, LOSS, &[&long], &more);
    for how in ["round_robin", "proportional"] {
        let more = [
            "--multi-dataset-sampler",
            how,
            "--gradient-accumulation",
            "2",
        ];
        expect_the_same(TEXT, LOSS, &[&csv, &jsonl, &columns], &more);
    }
    let more = ["--group-pairs", "--sampler", "random", "--epochs", "2"];
    expect_the_same(TEXT, "triplet_margin", &[&csv], &more);
}

#[test]
fn scores_margins_and_labels_train_the_same_model() {
    let scratch = Scratch::new();
    let mut scored = String::new();
    let mut margins = "query,positive,negative,margin\n".to_owned();
    let mut labelled = "label,text\n".to_owned();
    let mut jsonl = String::new();
    for ([a, b, c], number) in PAIRS.iter().zip(NUMBERS) {
        writeln!(scored, "{a},{b},{number}").unwrap();
        writeln!(margins, "{a},{b},{c},{number}").unwrap();
        let label = if number > 1.0 { "sea" } else { "home" };
        writeln!(labelled, "{label},{a}\n{label},{b}").unwrap();
        writeln!(jsonl, "[{b:?}, {:?}]", number > 2.0).unwrap();
    }
    let scored = scratch.write("scored.csv", scored);
    let columns = scratch.path("scored.parquet");
    parquet(&columns, &["sentence1", "sentence2"], Some("score"));
    let margins = scratch.write("margins.csv", margins);
    let triplets = scratch.path("margins.parquet");
    parquet(
        &triplets,
        &["query", "positive", "negative"],
        Some("margin"),
    );
    let labelled = scratch.write("labelled.csv", labelled);
    let jsonl = scratch.write("labelled.jsonl", jsonl);

    expect_the_same(TEXT, "cosine_similarity", &[&scored], &["--no-header"]);
    let range = ["--score-range", "0..10", "--epochs", "2"];
    expect_the_same(TEXT, "co_sent", &[&columns], &range);
    for train in [&margins, &triplets] {
        expect_the_same(TEXT, "margin_mse", &[train], &["--epochs", "2"]);
    }
    let balanced = [
        "--sampler-option",
        "samples_per_class=2",
        "--sampler",
        "class_balanced",
    ];
    expect_the_same(TEXT, "triplet_margin", &[&labelled], &balanced);
    // Classes of two sets are numbered together.
    expect_the_same(
        TEXT,
        "arc_face",
        &[&labelled, &jsonl],
        &["--sampler", "random"],
    );
}

/// Two classes of images, and a list of images with texts.
fn images(scratch: &Scratch) -> [PathBuf; 2] {
    let root = scratch.path("photos");
    let mut list = "text,image\n".to_owned();
    for (class, is_across) in [("across", true), ("down", false)] {
        fs::create_dir_all(root.join(class)).unwrap();
        for i in 0..4u8 {
            let image = image::RgbImage::from_fn(40, 36, |x, y| {
                let place = if is_across { y } else { x };
                let is_dark = (place + u32::from(i)) / 4 % 2 == 0;
                image::Rgb(if is_dark {
                    [i * 9, 20, 30]
                } else {
                    [200, 220, 9 * i]
                })
            });
            image.save(root.join(format!("{class}/{i}.png"))).unwrap();
            writeln!(list, "{i} stripes {class},photos/{class}/{i}.png").unwrap();
        }
    }
    [root, scratch.write("captions.csv", list)]
}

#[test]
fn images_train_the_same_model_and_what_is_frozen_is_refused() {
    const IMAGES: &str = "images/efficientnet";
    const BOTH: &str = "clip/transformers";
    let scratch = Scratch::new();
    let [photos, captions] = images(&scratch);
    let balanced = [
        "--sampler-option",
        "samples_per_class=2",
        "--sampler",
        "class_balanced",
    ];
    let augmented = [&balanced[..], &["--augment"]].concat();
    expect_the_same(IMAGES, "triplet_margin", &[&photos], &balanced);
    expect_the_same(IMAGES, "triplet_margin", &[&photos], &augmented);
    expect_the_same(BOTH, "clip", &[&captions], &["--epochs", "2"]);

    let refused = |model: &str, loss: &str, train: &Path, more: &[&str]| {
        let mut command = fit(model, loss, &scratch.out("none"));
        command.arg("--train").arg(train).arg("--stream");
        run(command.args(more)).fails_with(&["stream", "frozen or locked"]);
    };
    let frozen = [&balanced[..], &["--freeze"]].concat();
    refused(IMAGES, "triplet_margin", &photos, &frozen);
    refused(BOTH, "clip", &captions, &["--lock", "image"]);
    fs::write(photos.join("down/3.png"), "no image").unwrap();
    let mut command = fit(IMAGES, "triplet_margin", &scratch.out("none"));
    command.arg("--train").arg(&photos).arg("--stream");
    run(command.args(balanced)).fails_with(&["down/3.png"]);
    scratch.out_is_empty();
}

/// The run that is broken off: some 270 steps.
fn long_run(output: &Path, stream: bool) -> Command {
    let mut command = fit(TEXT, "multiple_negatives_ranking", output);
    command.arg("--train").arg(fixture("help-desk/train.csv"));
    command.args([
        "--epochs",
        "3",
        "--max-length",
        "24",
        "--checkpoint-every",
        "20",
    ]);
    if stream {
        command.arg("--stream");
    }
    command
}

#[test]
fn a_killed_run_leaves_nothing_but_its_checkpoints_and_resumes_to_the_same_model() {
    let scratch = Scratch::new();
    let unbroken = scratch.path("unbroken");
    run(&mut long_run(&unbroken, false)).ok();
    let output = scratch.out("tuned");
    let checkpoints = scratch.out("tuned.checkpoint");
    for (before, after) in [(true, true), (false, true), (true, false)] {
        let mut command = long_run(&output, before);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(300);
        let has_one = || {
            let names = checkpoints.is_dir().then(|| names(&checkpoints));
            names.is_some_and(|names| names.iter().any(|name| name.starts_with("step-")))
        };
        while !has_one() {
            assert!(Instant::now() < deadline, "no checkpoint appeared");
            assert!(
                child.try_wait().unwrap().is_none(),
                "ended before a checkpoint"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        assert_eq!(names(&scratch.path("out")), ["tuned.checkpoint"]);
        let resumed = run(long_run(&output, after).arg("--resume")).ok();
        assert!(
            resumed.stderr.contains("going on from"),
            "{}",
            resumed.stderr
        );
        assert_eq!(names(&scratch.path("out")), ["tuned"]);
        assert!(
            contents(&output) == contents(&unbroken),
            "{before}, {after}"
        );
        fs::remove_dir_all(&output).unwrap();
    }
}

#[test]
fn what_cannot_be_streamed_is_told_and_nothing_is_left() {
    const LOSS: &str = "multiple_negatives_ranking";
    let scratch = Scratch::new();
    let pairs = scratch.write("pairs.csv", delimited("anchor,positive", 2, ","));
    let output = scratch.out("tuned");
    let streamed = |train: &Path, loss: &str, more: &[&str]| {
        let mut command = fit(TEXT, loss, &output);
        command.arg("--train").arg(train).arg("--stream");
        run(command.args(more))
    };
    streamed(&pairs, LOSS, &["--validation-fraction", "0.5"]).fails_with(&[
        "validation_fraction",
        "`fin split`",
        "--stream",
    ]);
    streamed(&pairs, "mse", &["--targets", "teacher.npy"]).fails_with(&["targets", "--stream"]);
    let mut command = fit(TEXT, LOSS, &output);
    command.arg("--train").arg(&pairs);
    run(command.args(["--stream-dir", "/tmp"])).fails_with(&["stream_dir", "--stream"]);

    // A bad row late in a file.
    let mut late = delimited("anchor,positive", 2, ",").repeat(4000);
    let line = late.lines().count() + 1;
    late.push_str("is it one,or two,or three\nand one more,that is well\n");
    let late = scratch.write("late.csv", late);
    let line = format!("line {line}");
    let parts = ["late.csv", &line, "expected 2 columns, found 3 columns"];
    streamed(&late, LOSS, &[]).fails_with(&parts);
    let scores = scratch.write("scores.csv", "a,b,0.5\nc,d,0.25\ne,f,7\n");
    let more = ["--no-header", "--score-range", "0..5"];
    streamed(&scores, "cosine_similarity", &more).fails_with(&["scores.csv", "line 3", "0..5"]);
    streamed(&scores, "cosine_similarity", &more[..1]).fails_with(&[
        "scores.csv",
        "from 0.25 to 7",
        "--score-range",
    ]);

    // A place that cannot be written.
    for place in [scratch.path("missing"), pairs.clone()] {
        let place = place.to_str().unwrap();
        let parts = [
            place,
            "cannot hold the rows of training data",
            "--stream-dir",
        ];
        streamed(&pairs, LOSS, &["--stream-dir", place]).fails_with(&parts);
    }
    scratch.out_is_empty();
}

/// A limit of the size of files stands in for a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    let scratch = Scratch::new();
    let mut rows = String::from("anchor,positive\n");
    for i in 0..2000 {
        writeln!(rows, "question {i} {0},answer {i} {0}", "word ".repeat(20)).unwrap();
    }
    let rows = scratch.write("pairs.csv", rows);
    let fit = fit(TEXT, "multiple_negatives_ranking", &scratch.out("tuned"));
    let mut limited = Command::new("sh");
    // Without a handler the signal would end the program.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh"]);
    limited.arg(fit.get_program()).args(fit.get_args());
    for (name, value) in fit.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.arg("--train").arg(&rows).arg("--stream");
    let out = scratch.path("out");
    let parts = [
        out.to_str().unwrap(),
        "cannot hold the rows of training data",
        "--stream-dir",
    ];
    run(&mut limited).fails_with(&parts);
    scratch.out_is_empty();
}
