//! The embedded model, and distillation into it.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Run, Scratch, fin, fixture};
use fin_core::output::read_npy_f32;

const TEXTS: [&str; 4] = [
    "How do I reset my password?",
    "The ferry leaves the pier at noon.",
    "Refunds are paid within a week.",
    "A dog is barking at the postman.",
];

fn run(command: &mut Command) -> Run {
    command.output().unwrap().into()
}

#[cfg(feature = "tiny")]
#[test]
fn without_a_model_the_embedded_one_searches() {
    let scratch = Scratch::new();
    let corpus = scratch.write("corpus.txt", TEXTS.join("\n"));
    let mut search = fin();
    search.env("FIN_CACHE", scratch.path("cache"));
    search.arg("search").arg("--corpus").arg(&corpus);
    search.args(["--format", "json", "-k", "1"]);
    search.args(["--query", "when does the boat depart?"]);
    search.args(["--query", "I forgot my login"]);
    let found = run(&mut search).ok().json();
    assert_eq!(found[0]["results"][0]["index"], 1);
    assert_eq!(found[1]["results"][0]["index"], 0);
    let mut download = fin();
    download.env("FIN_CACHE", scratch.path("cache"));
    let printed = run(download.args(["download", "fin-tiny-en"])).ok().stdout;
    assert!(Path::new(printed.trim_end()).starts_with(scratch.path("cache")));
}

/// A student that begins as its teacher's weights changed comes nearer to the teacher.
#[test]
fn a_student_learns_its_teachers_vectors() {
    let scratch = Scratch::new();
    let train = scratch.write("texts.txt", TEXTS.join("\n"));
    let encode = |model: &Path, pooling: &str, name: &str| {
        let output = scratch.path(name);
        let mut encode = fin();
        encode.arg("encode").arg(&train).arg("--model").arg(model);
        encode
            .args(["--pooling", pooling])
            .arg("--output")
            .arg(&output);
        run(&mut encode).ok();
        output
    };
    let student = fixture("text/bert-tiny");
    let teacher = encode(&student, "max", "teacher.npy");
    let tuned = scratch.out("tuned");
    let fit = |targets: Option<&Path>| {
        let mut fit = fin();
        fit.arg("fit")
            .arg("--model")
            .arg(&student)
            .arg("--train")
            .arg(&train);
        fit.args(["--loss", "mse", "--pooling", "mean"]);
        fit.args([
            "--epochs",
            "30",
            "--learning-rate",
            "1e-2",
            "--format",
            "json",
        ]);
        fit.args(["--overwrite"]).arg("--output").arg(&tuned);
        if let Some(targets) = targets {
            fit.arg("--targets").arg(targets);
        }
        run(&mut fit)
    };
    let report = fit(Some(&teacher)).ok().json();
    let loss = |name: &str| report[name].as_f64().unwrap();
    assert!(loss("last_loss") < 0.5 * loss("first_loss"), "{report}");
    let distance = |vectors: &Path| -> f32 {
        let [(a, _), (b, _)] = [vectors, &teacher].map(|path| read_npy_f32(path).unwrap());
        a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum()
    };
    let before = distance(&encode(&student, "mean", "before.npy"));
    let after = distance(&encode(&tuned, "mean", "after.npy"));
    assert!(after < 0.5 * before, "{before} and then {after}");

    fit(None).fails_with(&["targets", "are missing", ".npy"]);
    let fewer = scratch.write("fewer.txt", TEXTS[..3].join("\n"));
    let mut other = fin();
    other
        .arg("fit")
        .arg("--model")
        .arg(&student)
        .arg("--train")
        .arg(&fewer);
    other
        .args(["--loss", "mse", "--overwrite"])
        .arg("--targets")
        .arg(&teacher);
    let other = run(other.arg("--output").arg(&tuned));
    other.fails_with(&["teacher.npy", "has 4 rows", "fewer.txt has 3 texts"]);
    let mut misplaced = fin();
    misplaced
        .arg("fit")
        .arg("--model")
        .arg(&student)
        .arg("--train")
        .arg(&train);
    misplaced.args(["--loss", "multiple_negatives_ranking", "--overwrite"]);
    misplaced.arg("--targets").arg(&teacher);
    let misplaced = run(misplaced.arg("--output").arg(&tuned));
    misplaced.fails_with(&["targets", "loss mse"]);
}
