//! Models of images: encode, search, eval, fit, convert.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, Scratch, fin, fixture, run};
use fin_core::output::read_npy_f32;
use serde_json::Value;

/// A small EfficientNet with a projection.
fn model() -> PathBuf {
    fixture("images/efficientnet")
}

/// Pictures of two kinds that a network can be told to keep apart: stripes across and stripes
/// down, in colours that say nothing.
fn stripes(scratch: &Scratch, name: &str, each: u8) -> PathBuf {
    let root = scratch.path(name);
    for (class, is_across) in [("across", true), ("down", false)] {
        let directory = root.join(class);
        fs::create_dir_all(&directory).unwrap();
        for i in 0..each {
            let colour = [i.wrapping_mul(67), i.wrapping_mul(151), i.wrapping_mul(29)];
            let image = image::RgbImage::from_fn(40, 36, |x, y| {
                let place = if is_across { y } else { x };
                let is_dark = (place + u32::from(i)) / 4 % 2 == 0;
                image::Rgb(colour.map(|value| if is_dark { value / 3 } else { 255 - value / 3 }))
            });
            image.save(directory.join(format!("{i:02}.png"))).unwrap();
        }
    }
    root
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn encode(input: &Path, output: &Path, more: &[&str]) -> Run {
    let mut command = fin();
    command.args(["encode", text(input), "--output", text(output), "--model"]);
    command.arg(model()).args(["--format", "json"]).args(more);
    command.output().unwrap().into()
}

#[test]
fn directories_patterns_and_lists_give_the_same_rows_under_their_paths() {
    let scratch = Scratch::new();
    let photos = stripes(&scratch, "photos", 3);
    let npy = scratch.out("all.npy");
    let summary = encode(&photos, &npy, &[]).ok().json();
    assert_eq!(
        (&summary["rows"], &summary["skipped"]),
        (&6.into(), &Value::Array(vec![]))
    );
    let (values, [rows, dim]) = read_npy_f32(&npy).unwrap();
    assert_eq!(rows, 6);
    let paths = fs::read_to_string(scratch.out("all.paths.txt")).unwrap();
    let paths: Vec<&str> = paths.lines().collect();
    let expected: Vec<String> = ["across", "down"]
        .iter()
        .flat_map(|class| (0..3).map(move |i| format!("{class}/{i:02}.png")))
        .map(|name| photos.join(name).display().to_string())
        .collect();
    assert_eq!(paths, expected);

    // Rows of a list are in its order, and its paths relative to it.
    let list = scratch.write(
        "list.csv",
        "label,path\na,photos/down/01.png\nb,photos/across/00.png\n",
    );
    let jsonl = scratch.out("list.jsonl");
    encode(&list, &jsonl, &["--batch-size", "1"]).ok();
    let lines = fs::read_to_string(&jsonl).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (line, row) in lines.iter().zip([4, 0]) {
        assert_eq!(line["path"], expected[row].as_str());
        let found = line["embedding"].as_array().unwrap().iter();
        let found: Vec<f32> = found.map(|value| value.as_f64().unwrap() as f32).collect();
        for (a, b) in found.iter().zip(&values[row * dim..(row + 1) * dim]) {
            assert!((a - b).abs() < 1e-5, "{found:?}");
        }
    }
    let some = scratch.out("some.npy");
    let pattern = photos.join("*/0[12].png");
    assert_eq!(encode(&pattern, &some, &[]).ok().json()["rows"], 4);
    let error = ["photos", "has no class", "no images", "matches no file"];
    encode(&photos.join("*.gif"), &scratch.out("x.npy"), &[]).fails_with(&error[3..]);
    encode(&scratch.path("out"), &scratch.out("x.npy"), &[]).fails_with(&error[2..3]);
}

#[test]
fn every_kind_of_bad_image_is_named_and_left_out_or_ends_the_run() {
    let scratch = Scratch::new();
    let bad = fixture("images/bad");
    let mut names: Vec<String> = fs::read_dir(&bad)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "reasons.json")
        .collect();
    names.sort();
    assert!(names.len() >= 20, "{}", names.len());
    let photos = stripes(&scratch, "photos", 1);
    for name in &names {
        fs::copy(bad.join(name), photos.join(name)).unwrap();
    }
    fs::create_dir(photos.join("directory.png")).unwrap();
    let output = scratch.out("all.jsonl");
    let run = encode(&photos, &output, &["--on-error", "skip"]).ok();
    let summary = run.json();
    assert_eq!(summary["rows"], 2);
    let skipped = summary["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), names.len());
    for (name, found) in names.iter().zip(skipped) {
        assert!(found.as_str().unwrap().ends_with(name), "{found}");
        let line = run.stderr.lines().find(|line| line.contains(name.as_str()));
        assert!(line.unwrap().starts_with("skipped: "), "{line:?}");
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);

    fs::remove_file(&output).unwrap();
    for name in &names {
        encode(&photos.join(name), &output, &[]).fails_with(&[name.as_str()]);
        encode(&photos.join(name), &output, &["--on-error", "skip"])
            .fails_with(&["none of 1 image"]);
    }
    encode(&photos, &output, &["--on-error", "fail"]).fails_with(&[names[0].as_str()]);
    scratch.out_is_empty();
    let bomb = photos.join("across/00.png");
    encode(&bomb, &output, &["--max-pixels", "100"]).fails_with(&["00.png", "40 × 36", "100"]);
    encode(&photos.join("no.png"), &output, &[]).fails_with(&["no.png"]);
    let list = scratch.write("list.txt", "photos/across/00.png\nphotos/none.png\n");
    encode(&list, &output, &[]).fails_with(&["photos/none.png"]);
    scratch.out_is_empty();
}

#[test]
fn an_image_finds_itself_and_those_like_it() {
    let scratch = Scratch::new();
    let photos = stripes(&scratch, "photos", 4);
    let query = photos.join("down/02.png");
    let run = run([
        "search",
        "--model",
        text(&model()),
        "--corpus",
        text(&photos),
        "--query",
        text(&query),
        "-k",
        "3",
        "--format",
        "json",
    ])
    .ok();
    let found = run.json();
    assert_eq!(found[0]["query"], text(&query));
    let hits = found[0]["results"].as_array().unwrap();
    assert_eq!(hits.len(), 3);
    assert_eq!(hits[0]["path"], text(&query));
    assert!((hits[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
}

fn fit(train: &Path, output: &Path, more: &[&str]) -> Run {
    let mut command = fin();
    command.args(["fit", "--train", text(train), "--output", text(output)]);
    command.arg("--model").arg(model());
    command.args(["--format", "json", "--loss", "triplet_margin"]);
    command.args(["--loss-option", "miner=batch_hard"]);
    command.args(["--batch-size", "8", "--learning-rate", "1e-3"]);
    command.args(more).output().unwrap().into()
}

#[test]
fn classes_are_learned_measured_and_shown() {
    let scratch = Scratch::new();
    let train = stripes(&scratch, "train", 8);
    let test = stripes(&scratch, "test", 6);
    let output = scratch.out("tuned");
    let more = ["--eval", text(&test), "--epochs", "6", "--k", "1,5"];
    let result = fit(&train, &output, &more).ok().json();
    let map = |metrics: &Value| metrics["map@r"].as_f64().unwrap();
    assert!(map(&result["after"]) > map(&result["before"]), "{result}");
    assert_eq!(result["examples"], 16);

    let report = scratch.out("report.html");
    let mut command = fin();
    command
        .args(["eval", "--model", text(&output), "--before"])
        .arg(model());
    command.args(["--data", text(&test), "--task", "retrieval", "--k", "1,5"]);
    command.args([
        "--format",
        "json",
        "--report",
        text(&report),
        "--report-queries",
        "5",
    ]);
    let run: Run = command.output().unwrap().into();
    let measured = run.ok().json();
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{measured} {result}");
    near(map(&measured), map(&result["after"]));
    near(map(&measured["before"]["metrics"]), map(&result["before"]));
    assert_eq!(
        (&measured["items"], &measured["classes"]),
        (&12.into(), &2.into())
    );
    let page = fs::read_to_string(report).unwrap();
    assert_eq!(
        page.matches("data:image/").count(),
        5 * 6,
        "a query and five hits, five times"
    );
    for part in ["before", "after", "across", "down/"] {
        assert!(page.contains(part), "{part}");
    }

    // The same by a list of paths and labels.
    let mut list = "path,label\n".to_owned();
    for class in ["across", "down"] {
        for i in 0..6 {
            list.push_str(&format!("test/{class}/{i:02}.png,{class}\n"));
        }
    }
    let list = scratch.write("list.csv", list);
    let mut command = fin();
    command.args(["eval", "--model", text(&output), "--data", text(&list)]);
    command.args(["--task", "labelled", "--k", "1,5", "--format", "json"]);
    let run: Run = command.output().unwrap().into();
    near(map(&run.ok().json()), map(&result["after"]));
}

#[test]
fn augmented_frozen_and_paired_runs() {
    let scratch = Scratch::new();
    let train = stripes(&scratch, "train", 6);
    let weights = |name: &str, more: &[&str]| {
        let output = scratch.out(name);
        fit(&train, &output, &[&["--max-steps", "2"], more].concat()).ok();
        fs::read(output.join("model.safetensors")).unwrap()
    };
    let plain = weights("plain", &[]);
    assert_eq!(plain, weights("again", &[]));
    let augmented = weights("augmented", &["--augment"]);
    assert_ne!(plain, augmented);
    assert_eq!(augmented, weights("augmented-again", &["--augment"]));
    let frozen = weights("frozen", &["--freeze"]);
    let kept = weights("frozen-longer", &["--freeze", "--epochs", "3"]);
    assert_eq!(frozen, kept, "the backbone stays as it is");
    let head = |name: &str| fs::read(scratch.out(name).join("projection.safetensors")).unwrap();
    assert_ne!(
        head("frozen"),
        fs::read(model().join("projection.safetensors")).unwrap()
    );
    fit(&train, &scratch.out("both"), &["--freeze", "--augment"]).fails_with(&["augmentation"]);
    fit(&train, &scratch.out("both"), &["--max-length", "3"]).fails_with(&["max-length"]);
    fit(&train, &scratch.out("both"), &["--columns", "0,1"]).fails_with(&["columns"]);

    let mut pairs = "anchor,positive\n".to_owned();
    for i in 0..6 {
        pairs.push_str(&format!("train/down/{i:02}.png,train/across/{i:02}.png\n"));
    }
    let pairs = scratch.write("pairs.csv", pairs);
    let output = scratch.out("paired");
    let mut command = fin();
    command.args([
        "fit",
        "--train",
        text(&pairs),
        "--output",
        text(&output),
        "--model",
    ]);
    command
        .arg(model())
        .args(["--loss", "multiple_negatives_ranking", "--eval"]);
    command
        .arg(&pairs)
        .args(["--batch-size", "3", "--format", "json"]);
    let run: Run = command.output().unwrap().into();
    let result = run.ok().json();
    assert!(result["after"].get("hit@1").is_some(), "{result}");

    // One bad image is found before any step.
    fs::write(train.join("down/99.png"), "no image").unwrap();
    let output = scratch.out("bad");
    fit(&train, &output, &[]).fails_with(&["down/99.png"]);
    assert!(!output.exists());
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_weights() {
    let scratch = Scratch::new();
    let train = stripes(&scratch, "train", 8);
    let more = ["--augment", "--epochs", "4", "--checkpoint-every", "3"];
    let whole = scratch.out("whole");
    fit(&train, &whole, &more).ok();
    let cut = scratch.out("cut");
    let mut child = fin()
        .args(["fit", "--train", text(&train), "--output", text(&cut)])
        .arg("--model")
        .arg(model())
        .args(["--format", "json", "--loss", "triplet_margin"])
        .args(["--loss-option", "miner=batch_hard"])
        .args(["--batch-size", "8", "--learning-rate", "1e-3"])
        .args(more)
        .spawn()
        .unwrap();
    let checkpoints = scratch.out("cut.checkpoint");
    for _ in 0..6000 {
        let has_one = fs::read_dir(&checkpoints).is_ok_and(|entries| {
            let names = entries.flatten().map(|entry| entry.file_name());
            names
                .into_iter()
                .any(|name| name.to_string_lossy().starts_with("step-"))
        });
        if has_one || child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // A machine so fast that the run was over has its result all the same.
    if !cut.exists() {
        fit(&train, &cut, &[&more[..], &["--resume"]].concat()).ok();
    }
    for name in ["model.safetensors", "projection.safetensors", "fin.json"] {
        assert_eq!(
            fs::read(whole.join(name)).unwrap(),
            fs::read(cut.join(name)).unwrap(),
            "{name}"
        );
    }
}
