//! What `fin fit` makes of a run beside the last weights: the best network, the model card,
//! the report.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Run, Scratch, fin, fixture, names};
use serde_json::Value;

/// Three epochs on the help-desk's questions, measured on others after each.
fn fit(output: &Path) -> Command {
    let mut command = tune(&fixture("text/bert-tiny"));
    command.arg("--output").arg(output);
    command
}

fn tune(model: &Path) -> Command {
    let mut command = fin();
    command.args(["fit", "--model"]).arg(model);
    command.arg("--train").arg(fixture("help-desk/train.csv"));
    command.arg("--eval").arg(fixture("help-desk/eval.csv"));
    command.args(["--loss", "multiple_negatives_ranking", "--max-length", "16"]);
    command.args(["--epochs", "3", "--batch-size", "8", "--seed", "11"]);
    command.args(["--learning-rate", "1e-3", "--format", "json"]);
    command
}

fn run(command: &mut Command) -> Run {
    command.output().unwrap().into()
}

fn eval(model: &Path) -> Value {
    let mut command = fin();
    command.arg("eval").arg("--model").arg(model);
    command.arg("--data").arg(fixture("help-desk/eval.csv"));
    command.args(["--task", "retrieval", "--max-length", "16"]);
    run(command.args(["--format", "json"])).ok().json()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

/// The epoch with the best value of a metric, from 1.
fn best_epoch(result: &Value, metric: &str, is_better: fn(f64, f64) -> bool) -> usize {
    let epochs = result["epochs"].as_array().unwrap();
    let value = |epoch: usize| number(&epochs[epoch]["metrics"][metric]);
    let better = |best, epoch| match is_better(value(epoch), value(best)) {
        true => epoch,
        false => best,
    };
    (0..epochs.len()).reduce(better).unwrap() + 1
}

#[test]
fn the_best_network_is_what_is_saved_and_survives_a_kill() {
    let scratch = Scratch::new();
    // The smallest value is that of an early epoch, so that the last network is not the best.
    let lowest = |output: &Path| {
        let mut command = fit(output);
        command.args(["--monitor", "mrr@10", "--mode", "min", "--load-best"]);
        command.args(["--checkpoint-every", "3"]);
        command
    };
    let unbroken = scratch.path("unbroken");
    let result = run(&mut lowest(&unbroken)).ok();
    assert!(
        result.stderr.contains("the model is that of step"),
        "{}",
        result.stderr
    );
    let whole = result.json();
    let epoch = best_epoch(&whole, "mrr@10", |a, b| a < b);
    assert!(epoch < 3, "{whole}");
    assert_eq!(number(&whole["best"]["epoch"]), epoch as f64);
    assert_eq!(whole["after"], whole["epochs"][epoch - 1]["metrics"]);
    let found = eval(&unbroken);
    for metric in ["mrr@10", "hit@1", "ndcg@5"] {
        let difference = number(&found[metric]) - number(&whole["after"][metric]);
        assert!(difference.abs() < 1e-6, "{metric}: {found} {whole}");
    }

    let output = scratch.out("tuned");
    let checkpoints = scratch.out("tuned.checkpoint");
    let best = checkpoints.join("best/best.json");
    let mut child = lowest(&output)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(300);
    while !best.is_file() {
        assert!(Instant::now() < deadline, "no best network appeared");
        assert!(child.try_wait().unwrap().is_none(), "ended before one");
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(!output.exists());

    let other = run(fit(&output).args(["--monitor", "map@10", "--load-best", "--resume"]));
    other.fails_with(&["best.json", "`mrr@10`", "`map@10`"]);
    let resumed = run(lowest(&output).arg("--resume")).ok().json();
    assert_eq!(resumed["best"], whole["best"]);
    assert_eq!(resumed["epochs"], whole["epochs"]);
    let weights = |model: &Path| fs::read(model.join("model.safetensors")).unwrap();
    assert!(weights(&output) == weights(&unbroken), "weights differ");
    assert_eq!(names(&scratch.path("out")), ["tuned"]);
}

#[test]
fn the_best_adapters_are_saved_by_a_file_of_settings() {
    let scratch = Scratch::new();
    let apart = scratch.out("adapters");
    let config = scratch.write(
        "fit.toml",
        format!(
            "monitor = \"mrr@10\"\nmode = \"min\"\nload_best = true\npatience = 1\nlora = 2\n\
             lora-output = {apart:?}\ncheckpoint_every = 0\n"
        ),
    );
    let output = scratch.out("tuned");
    let result = run(fit(&output).arg("--config").arg(config)).ok().json();
    let epoch = best_epoch(&result, "mrr@10", |a, b| a < b);
    let epochs = result["epochs"].as_array().unwrap().len();
    assert!(epoch < epochs, "{result}");
    let found = eval(&output);
    let difference = number(&found["mrr@10"]) - number(&result["after"]["mrr@10"]);
    assert!(difference.abs() < 1e-6, "{found} {result}");
    assert_eq!(names(&scratch.path("out")), ["adapters", "tuned"]);
}

#[test]
fn a_baseline_has_to_be_passed_in_time() {
    let scratch = Scratch::new();
    let stopped = |name: &str, baseline: &str| {
        let mut command = fit(&scratch.out(name));
        command.args(["--monitor", "mrr@10", "--patience", "2"]);
        let result = run(command.args(["--baseline", baseline])).ok().json();
        result["epochs"].as_array().unwrap().len()
    };
    assert_eq!(stopped("never", "1.5"), 2);
    // Passed by the first measurement, so that two more may fall behind it.
    assert_eq!(stopped("always", "-1"), 3);
    for (options, parts) in [
        (&["--load-best"][..], &["load_best", "--monitor"][..]),
        (&["--mode", "min", "--monitor", "mrr@10"], &["--patience"]),
        (&["--monitor", "mrr", "--load-best"], &["`mrr`", "mrr@10"]),
    ] {
        run(fit(&scratch.out("bad")).args(options)).fails_with(parts);
    }
    let wrong = run(fit(&scratch.out("bad")).args(["--monitor", "mrr@10", "--mode", "largest"]));
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("max, min"), "{}", wrong.stderr);
    assert_eq!(names(&scratch.path("out")), ["always", "never"]);
}

#[test]
fn a_model_card_says_what_the_model_is() {
    let scratch = Scratch::new();
    // The card of the base is not that of the tuned model.
    let base = scratch.bert_tiny();
    let card = "---\nlicense: bsd-3-clause\n---\n# The card of the base\n";
    fs::write(base.join("README.md"), card).unwrap();
    let tuned = scratch.out("tuned");
    let fit =
        |output: &Path, more: &[&str]| run(tune(&base).args(more).arg("--output").arg(output));
    let result = fit(&tuned, &["--warmup", "0.1"]).ok().json();
    let card = fs::read_to_string(tuned.join("README.md")).unwrap();
    let number = |value: &Value| format!("{:.4}", number(value));
    let metric = format!(
        "| mrr@10 | {} | {} |",
        number(&result["before"]["mrr@10"]),
        number(&result["after"]["mrr@10"])
    );
    let first = format!(
        "| loss at the first step | {} |",
        number(&result["first_loss"])
    );
    for part in [
        "---\nlicense: bsd-3-clause\nlibrary_name: sentence-transformers\n",
        "- loss:multiple_negatives_ranking\n- dataset_size:360\n---\n",
        "# model, fine-tuned\n",
        "- Source: unknown\n- Licence of its weights: bsd-3-clause\n",
        "vectors of 32 numbers",
        "| training | train.csv | 360 examples |\n| evaluation | eval.csv | 120 queries, ",
        "| learning_rate | 0.001 |",
        &metric,
        &first,
        concat!("Made by fin ", env!("CARGO_PKG_VERSION"), ".\n"),
    ] {
        assert!(card.contains(part), "{part} is not in: {card}");
    }
    // Defaults and where files are do not belong there.
    for part in ["The card of the base", "| warmup", "help-desk/", "/out"] {
        assert!(!card.contains(part), "{part} is in: {card}");
    }
    // Equal runs have equal cards; none is written where none is wanted, not the base's either.
    let again = scratch.out("again");
    fit(&again, &[]).ok();
    assert_eq!(fs::read_to_string(again.join("README.md")).unwrap(), card);
    let without = scratch.out("without");
    fit(&without, &["--no-model-card"]).ok();
    assert!(!without.join("README.md").exists());
    assert!(without.join("model.safetensors").exists());
}

#[test]
fn a_report_shows_the_course_of_the_run() {
    let scratch = Scratch::new();
    let report = scratch.out("report.html");
    let mut command = fit(&scratch.out("tuned"));
    command.args([
        "--monitor",
        "mrr@10",
        "--mode",
        "min",
        "--load-best",
        "--k",
        "1,10",
    ]);
    let result = run(command.arg("--report").arg(&report)).ok();
    let page = fs::read_to_string(&report).unwrap();
    let after = format!("{:.4}", number(&result.json()["after"]["mrr@10"]));
    for part in [
        "<h1 dir=\"auto\">Training on train.csv</h1>",
        "<dt>Training</dt><dd dir=\"auto\">train.csv, 360 examples</dd>",
        "<dt>learning_rate</dt><dd dir=\"auto\">0.001</dd>",
        "<figcaption dir=\"auto\">loss</figcaption>",
        "<figcaption dir=\"auto\">mrr</figcaption>",
        "running mean",
        ">kept</text>",
        "<h2>Metrics</h2>",
        &format!("<td>{after}</td>"),
        "12 of 120 queries",
        "<h4>Before</h4>",
        "<h4>After</h4>",
    ] {
        assert!(page.contains(part), "{part} is not in the report");
    }
    // hit, precision, recall, f1, mrr, map and ndcg, each at two cut-offs, and the loss.
    assert_eq!(page.matches("<svg ").count(), 8);
    // Before the first step and after each of three epochs.
    assert_eq!(page.matches("<circle ").count(), 7 * 2 * 4);
    assert!(!page.contains("NaN") && !page.contains("<script"));

    // Without anything to evaluate on there is the loss.
    let plain = scratch.out("plain.html");
    let mut command = fin();
    command.args([
        "fit",
        "--loss",
        "multiple_negatives_ranking",
        "--max-steps",
        "2",
    ]);
    command.arg("--model").arg(fixture("text/bert-tiny"));
    command.arg("--train").arg(fixture("help-desk/train.csv"));
    command.arg("--output").arg(scratch.out("other"));
    run(command.arg("--report").arg(&plain)).ok();
    let page = fs::read_to_string(&plain).unwrap();
    assert_eq!(page.matches("<svg ").count(), 1);
    assert!(!page.contains("<h2>Queries") && !page.contains("<h2>Metrics"));

    let nowhere = scratch.path("nowhere/report.html");
    run(fit(&scratch.out("bad")).arg("--report").arg(nowhere)).fails_with(&["report.html"]);
    assert!(!scratch.out("bad").exists());
}
