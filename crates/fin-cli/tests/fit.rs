//! `fin fit` and `fin eval` together.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Run, Scratch, fin, fixture, names};
use serde_json::Value;

/// `fin fit` on `bert-tiny` with a learning rate that shows on few rows.
fn fit(train: &Path, loss: &str, output: &Path) -> Command {
    let mut command = fin();
    command
        .arg("fit")
        .arg("--model")
        .arg(fixture("text/bert-tiny"));
    command.arg("--train").arg(train).args(["--loss", loss]);
    command.args(["--learning-rate", "1e-3", "--format", "json"]);
    command.arg("--output").arg(output);
    command
}

fn run(command: &mut Command) -> Run {
    command.output().unwrap().into()
}

fn eval(model: &Path, data: &Path, task: &str, more: &[&str]) -> Value {
    let mut command = fin();
    command.arg("eval").arg("--model").arg(model);
    command.arg("--data").arg(data);
    command.args(["--task", task, "--format", "json"]);
    run(command.args(more)).ok().json()
}

/// Pairs whose score says whether both are about the sea.
fn scored(scratch: &Scratch) -> PathBuf {
    let sea = ["the boat sails", "a sailor waits", "gulls over the pier"];
    let home = ["a dog runs", "the clock is broken", "it is raining"];
    let mut content = String::new();
    for (i, a) in sea.iter().chain(&home).enumerate() {
        for (j, b) in sea.iter().chain(&home).enumerate() {
            let score = if i == j {
                5.0
            } else if (i < 3) == (j < 3) {
                4.0
            } else {
                0.5
            };
            content.push_str(&format!("{a},{b},{score}\n"));
        }
    }
    scratch.write("scored.csv", content)
}

/// Questions with answers; one question has two.
const PAIRS: &str = "anchor,positive\n\
    where is the boat,at the pier\n\
    who repairs it,the sailors do\n\
    is it raining,with dogs and cats\n\
    where is the boat,in the harbour\n\
    when do we sail,on the clock\n\
    what about the gulls,over the pier they fly\n";

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn scored_pairs_are_fitted_and_measured() {
    let scratch = Scratch::new();
    let data = scored(&scratch);
    let output = scratch.out("tuned");
    let result = run(fit(&data, "cosine_similarity", &output)
        .args(["--no-header", "--epochs", "40", "--batch-size", "6"])
        .arg("--eval")
        .arg(&data))
    .ok();
    assert!(
        result.stderr.contains("taken as 0..5 and scaled to 0..1"),
        "{}",
        result.stderr
    );
    let result = result.json();
    assert_eq!(
        (&result["examples"], &result["steps"]),
        (&36.into(), &240.into())
    );
    let after = number(&result["after"]["pearson"]);
    assert!(
        after > number(&result["before"]["pearson"]) + 0.2,
        "{result}"
    );
    assert_eq!(result["epochs"].as_array().unwrap().len(), 40);
    assert_eq!(names(&scratch.path("out")), ["tuned"]);

    let base = eval(&fixture("text/bert-tiny"), &data, "sts", &["--no-header"]);
    assert_eq!(base["pairs"], 36);
    assert_eq!(base["spearman"], result["before"]["spearman"]);
    let tuned = eval(&output, &data, "sts", &["--no-header"]);
    for metric in ["spearman", "pearson"] {
        let difference = number(&tuned[metric]) - number(&result["after"][metric]);
        assert!(difference.abs() < 1e-6, "{metric}: {tuned} {result}");
    }
}

#[test]
fn a_frozen_backbone_stays_as_it_is_and_its_head_learns() {
    let scratch = Scratch::new();
    let data = scored(&scratch);
    let fit_head = |output: &Path, more: &[&str]| {
        let mut command = fit(&data, "cosine_similarity", output);
        command.args(["--no-header", "--freeze", "--seed", "3"]);
        run(command.args(more))
    };
    let tuned = scratch.out("tuned");
    fit_head(&tuned, &["--output-dim", "8", "--epochs", "2"]).ok();
    let backbone = |model: &Path| fs::read(model.join("model.safetensors")).unwrap();
    let tensors = |model: &Path| {
        let bytes = backbone(model);
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<_> = file
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, view.data().to_vec()))
            .collect();
        tensors.sort();
        tensors
    };
    assert_eq!(tensors(&tuned), tensors(&fixture("text/bert-tiny")));
    // One more epoch moves the head on.
    let longer = scratch.out("longer");
    fit_head(&longer, &["--output-dim", "8", "--epochs", "3"]).ok();
    let head = |model: &Path| fs::read(model.join("2_Dense/model.safetensors")).unwrap();
    assert_ne!(head(&tuned), head(&longer));
    fit_head(&scratch.out("none"), &[]).fails_with(&["freeze", "output-dim"]);
}

#[test]
fn pairs_are_fitted_and_measured() {
    let scratch = Scratch::new();
    let data = scratch.write("pairs.csv", PAIRS);
    let output = scratch.out("tuned");
    let result = run(fit(&data, "multiple_negatives_ranking", &output)
        .args(["--epochs", "20", "--batch-size", "3", "--k", "1,3"])
        .arg("--eval")
        .arg(&data))
    .ok()
    .json();
    let after = number(&result["after"]["ndcg@3"]);
    assert!(after > number(&result["before"]["ndcg@3"]), "{result}");
    let tuned = eval(&output, &data, "retrieval", &["--k", "1,3"]);
    assert_eq!(
        (&tuned["queries"], &tuned["documents"]),
        (&5.into(), &6.into())
    );
    for metric in ["hit", "precision", "recall", "f1", "mrr", "map", "ndcg"] {
        for k in [1, 3] {
            let key = format!("{metric}@{k}");
            let difference = number(&tuned[&key]) - number(&result["after"][&key]);
            assert!(difference.abs() < 1e-9, "{key}: {tuned} {result}");
        }
    }

    // A further corpus makes it harder, and documents that are there already do not.
    let corpus = scratch.write("corpus.csv", "id,answer\n1,at the pier\n2,a third one\n");
    let corpus = corpus.to_str().unwrap();
    let more = ["--corpus", corpus, "--corpus-column", "answer"];
    let wider = eval(&output, &data, "retrieval", &more);
    assert_eq!(wider["documents"], 7);
    assert!(wider.get("recall@10").is_some(), "{wider}");
}

#[test]
fn labels_are_fitted_and_measured_as_the_user_says() {
    let scratch = Scratch::new();
    let mut content = "label,text\n".to_owned();
    for text in ["the boat", "a sailor", "pier and harbour", "we sail"] {
        content.push_str(&format!("sea,{text}\n"));
    }
    for text in ["a dog", "the clock", "old cloth", "it rains"] {
        content.push_str(&format!("home,{text}\n"));
    }
    let data = scratch.write("labels.csv", content);
    let pairs = scratch.write("pairs.csv", PAIRS);
    let output = scratch.out("tuned");
    let mut command = fit(&data, "triplet_margin", &output);
    command.args([
        "--epochs",
        "5",
        "--batch-size",
        "8",
        "--loss-option",
        "margin=0.2",
    ]);
    run(fit(&data, "triplet_margin", &output)
        .arg("--eval")
        .arg(&pairs))
    .fails_with(&["pairs.csv", "alone in its class"]);
    let result = run(command
        .args(["--eval-task", "retrieval"])
        .arg("--eval")
        .arg(&pairs))
    .ok()
    .json();
    assert!(number(&result["steps"]) >= 5.0, "{result}");
    let tuned = eval(&output, &pairs, "retrieval", &[]);
    let difference = number(&tuned["mrr@10"]) - number(&result["after"]["mrr@10"]);
    assert!(difference.abs() < 1e-9, "{tuned} {result}");
    let (old, new) = (
        fs::read(fixture("text/bert-tiny/model.safetensors")).unwrap(),
        fs::read(output.join("model.safetensors")).unwrap(),
    );
    assert_ne!(old, new);
    let labelled = eval(&output, &data, "labelled", &["--k", "3"]);
    assert!(number(&labelled["recall@3"]) > 0.0, "{labelled}");
}

/// The run that the resumption test breaks off: some 270 steps.
fn long_run(output: &Path) -> Command {
    let train = fixture("help-desk/train.csv");
    let mut command = fit(&train, "multiple_negatives_ranking", output);
    command.args(["--epochs", "3", "--batch-size", "4", "--max-length", "24"]);
    command.args(["--checkpoint-every", "20", "--seed", "7"]);
    command
}

#[test]
fn a_killed_run_resumes_to_the_same_weights() {
    let scratch = Scratch::new();
    let unbroken = scratch.path("unbroken");
    run(&mut long_run(&unbroken)).ok();

    let output = scratch.out("tuned");
    let checkpoints = scratch.out("tuned.checkpoint");
    let mut child = long_run(&output)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(300);
    while !checkpoints.is_dir()
        || !names(&checkpoints)
            .iter()
            .any(|name| name.starts_with("step-"))
    {
        assert!(Instant::now() < deadline, "no checkpoint appeared");
        assert!(
            child.try_wait().unwrap().is_none(),
            "ended before a checkpoint"
        );
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(!output.exists());

    let again = run(&mut long_run(&output));
    again.fails_with(&["tuned.checkpoint", "--resume"]);
    let other = run(long_run(&output).args(["--resume", "--warmup", "0.2"]));
    other.fails_with(&["state.json", "warmup", "0.1", "0.2"]);
    let other = run(long_run(&output).args(["--resume", "--pooling", "cls"]));
    other.fails_with(&["model.json", "pooling", "null", "cls"]);

    let resumed = run(long_run(&output).arg("--resume")).ok();
    assert!(
        resumed.stderr.contains("going on from"),
        "{}",
        resumed.stderr
    );
    assert_eq!(names(&scratch.path("out")), ["tuned"]);
    assert_eq!(names(&output), names(&unbroken));
    for file in ["model.safetensors", "modules.json", "config.json"] {
        let (a, b) = (fs::read(output.join(file)), fs::read(unbroken.join(file)));
        assert!(a.unwrap() == b.unwrap(), "{file} differs");
    }
}

#[test]
fn a_projection_is_seeded_saved_and_resumable_from_a_file() {
    let scratch = Scratch::new();
    let data = scratch.write("pairs.csv", PAIRS);
    let config = scratch.write(
        "fit.toml",
        format!(
            "model = {:?}\ntrain = {data:?}\nloss = \"multiple_negatives_ranking\"\n\
             epochs = 2\nbatch-size = 2\noutput_dim = 8\nlearning_rate = 1e-3\n",
            fixture("text/bert-tiny")
        ),
    );
    let fit = |output: &str, more: &[&str]| {
        let mut command = fin();
        command.arg("fit").arg("--config").arg(&config);
        command.args(["--format", "json", "--output"]);
        run(command.arg(scratch.out(output)).args(more)).ok().json()
    };
    let first = fit("a", &[]);
    let again = fit("b", &[]);
    let other = fit("c", &["--seed", "1", "--epochs", "3"]);
    assert!(number(&other["steps"]) > number(&first["steps"]), "{other}");
    assert_eq!(first["last_loss"], again["last_loss"]);
    let head = |output: &str| {
        let path = scratch.out(output).join("2_Dense/model.safetensors");
        fs::read(path).unwrap()
    };
    assert!(head("a") == head("b"));
    assert!(head("a") != head("c"));
    let rows = scratch.path("rows.jsonl");
    let mut command = fin();
    command
        .arg("encode")
        .arg(&data)
        .args(["--column", "anchor"]);
    command.arg("--model").arg(scratch.out("a"));
    run(command.arg("--output").arg(&rows)).ok();
    let text = fs::read_to_string(rows).unwrap();
    let row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(row["embedding"].as_array().unwrap().len(), 8);
}

#[test]
fn what_cannot_be_fitted_is_told_and_nothing_is_written() {
    let scratch = Scratch::new();
    let pairs = scratch.write("pairs.csv", PAIRS);
    let scores = scratch.write("scores.csv", "a,b,7\nc,d,-1\n");
    let output = scratch.out("tuned");
    let unscored = run(fit(&pairs, "cosine_similarity", &output).args(["--columns", "0,1,0"]));
    unscored.fails_with(&["pairs.csv", "line 2", "is not a finite number"]);
    let unknown = run(&mut fit(&pairs, "cosine", &output));
    unknown.fails_with(&["loss", "`cosine`", "cosine_similarity"]);
    let range = run(fit(&scores, "cosine_similarity", &output).arg("--no-header"));
    range.fails_with(&["scores.csv", "from -1 to 7", "--score-range -1..7"]);
    let range = run(fit(&scores, "cosine_similarity", &output).args([
        "--no-header",
        "--score-range",
        "0..5",
    ]));
    range.fails_with(&["scores.csv", "line 1", "7", "0..5"]);
    let option =
        run(fit(&pairs, "multiple_negatives_ranking", &output).args(["--loss-option", "margin=1"]));
    option.fails_with(&["multiple_negatives_ranking", "margin"]);
    let mut missing = fin();
    missing.args(["fit", "--model", "x"]);
    let missing = run(&mut missing);
    assert_eq!(missing.code, Some(2), "{}", missing.stderr);
    assert!(
        missing.stderr.contains("`train` is missing"),
        "{}",
        missing.stderr
    );
    let batch = run(fit(&pairs, "multiple_negatives_ranking", &output).args(["--batch-size", "0"]));
    batch.fails_with(&["batch_size"]);
    let config = scratch.write("fit.toml", "epoch = 1\n");
    let unknown = run(fit(&pairs, "multiple_negatives_ranking", &output)
        .arg("--config")
        .arg(config));
    unknown.fails_with(&["fit.toml", "`epoch`", "`epochs`"]);
    let diverged = run(fit(&pairs, "multiple_negatives_ranking", &output).args([
        "--loss-option",
        "scale=1e38",
        "--warmup",
        "0",
    ]));
    diverged.fails_with(&["training: step"]);
    scratch.out_is_empty();

    fs::create_dir(&output).unwrap();
    fs::write(output.join("notes.txt"), "mine").unwrap();
    let taken = run(fit(&pairs, "multiple_negatives_ranking", &output).arg("--overwrite"));
    taken.fails_with(&["tuned", "something other than a model"]);
    assert_eq!(names(&output), ["notes.txt"]);
}

#[test]
fn a_run_is_logged_and_ends_when_nothing_improves() {
    let scratch = Scratch::new();
    let data = scored(&scratch);
    let log = scratch.path("run.jsonl");
    // Steps too small to change a ranking.
    let mut command = fin();
    command.args(["fit", "--loss", "cosine_similarity", "--format", "json"]);
    command.args(["--learning-rate", "1e-12", "--epochs", "9", "--no-header"]);
    command.arg("--model").arg(fixture("text/bert-tiny"));
    command
        .arg("--train")
        .arg(&data)
        .arg("--output")
        .arg(scratch.out("tuned"));
    command.args([
        "--batch-size",
        "18",
        "--monitor",
        "spearman",
        "--patience",
        "2",
    ]);
    command.args(["--schedule", "polynomial", "--schedule-option", "power=3"]);
    let result = run(command.arg("--eval").arg(&data).arg("--log").arg(&log)).ok();
    // The first measurement is the best, two more are no better.
    assert_eq!(result.json()["steps"], 6);
    let lines = fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps: Vec<&Value> = lines.iter().filter(|line| line["loss"].is_f64()).collect();
    assert_eq!(steps.len(), 6);
    assert_eq!(
        (&steps[5]["step"], &steps[5]["epoch"]),
        (&6.into(), &3.into())
    );
    let measured = lines
        .iter()
        .filter(|line| line["metrics"]["spearman"].is_f64());
    assert_eq!(measured.count(), 3);

    let csv = scratch.path("run.csv");
    let mut command = fit(&data, "cosine_similarity", &scratch.out("other"));
    run(command
        .args(["--no-header", "--max-steps", "2", "--log"])
        .arg(&csv))
    .ok();
    let text = fs::read_to_string(&csv).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert!(text.starts_with("step,epoch,loss,"), "{text}");

    for (options, part) in [
        (&["--patience", "2"][..], "--monitor"),
        (&["--patience", "2", "--monitor", "mrr@10"], "--eval"),
        (&["--log", "run.txt"], ".jsonl"),
        (
            &["--schedule", "polynomial", "--schedule-option", "power=0"],
            "power",
        ),
        (
            &["--schedule", "cosine", "--schedule-option", "power=1"],
            "power",
        ),
    ] {
        let mut command = fit(&data, "cosine_similarity", &scratch.out("bad"));
        run(command.arg("--no-header").args(options)).fails_with(&[part]);
    }
    let mut command = fit(&data, "cosine_similarity", &scratch.out("bad"));
    command.args(["--no-header", "--patience", "1", "--monitor", "mrr"]);
    run(command.arg("--eval").arg(&data)).fails_with(&["`mrr`", "spearman"]);
    assert_eq!(names(&scratch.path("out")), ["other", "tuned"]);
}

#[test]
fn adapters_are_trained_and_written_apart() {
    let scratch = Scratch::new();
    let data = scored(&scratch);
    let (tuned, apart) = (scratch.out("tuned"), scratch.out("adapters"));
    let mut command = fit(&data, "cosine_similarity", &tuned);
    command.args([
        "--no-header",
        "--lora",
        "2",
        "--lora-targets",
        "query,dense",
    ]);
    let result = run(command
        .arg("--lora-output")
        .arg(&apart)
        .arg("--eval")
        .arg(&data))
    .ok();
    assert_eq!(
        names(&apart),
        ["adapter_config.json", "adapter_model.safetensors"]
    );
    let config: Value =
        serde_json::from_slice(&fs::read(apart.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&2.into(), &16.0.into())
    );
    // The tuned model has them within.
    let found = eval(&tuned, &data, "sts", &["--no-header"]);
    let after = number(&result.json()["after"]["pearson"]);
    assert!((number(&found["pearson"]) - after).abs() < 1e-5, "{found}");

    let mut command = fit(&data, "cosine_similarity", &scratch.out("bad"));
    command.args(["--no-header", "--lora", "2", "--lora-targets", "q_proj"]);
    run(&mut command).fails_with(&["q_proj", "query"]);
    let mut command = fit(&data, "cosine_similarity", &scratch.out("bad"));
    assert_eq!(run(command.args(["--lora-alpha", "2"])).code, Some(2));
    assert_eq!(names(&scratch.path("out")), ["adapters", "tuned"]);
}

/// Two sets of pairs, the second with hard negatives, whose batches take turns; a step is of two
/// batches.
#[test]
fn several_sets_of_training_data_take_turns() {
    let scratch = Scratch::new();
    let pairs = scratch.write("pairs.csv", PAIRS);
    let more = "anchor,positive,negative\nis it late,the clock says so,the boat sails\n\
                who waits,a sailor at the pier,gulls\n";
    let more = scratch.write("more.csv", more);
    for (how, steps) in [("round_robin", 2), ("proportional", 4)] {
        let output = scratch.out(how);
        let mut command = fit(&pairs, "multiple_negatives_ranking", &output);
        command.arg("--train").arg(&more);
        command.args(["--multi-dataset-sampler", how, "--sampler", "random"]);
        command.args([
            "--batch-size",
            "2",
            "--gradient-accumulation",
            "2",
            "--epochs",
            "2",
        ]);
        let result = run(&mut command).ok();
        assert!(
            result.stderr.contains("2 examples of") && result.stderr.contains("more.csv"),
            "{}",
            result.stderr
        );
        let result = result.json();
        assert_eq!(
            (&result["examples"], &result["steps"]),
            (&8.into(), &steps.into()),
            "{how}"
        );
        assert_eq!(result["train"].as_array().unwrap().len(), 2);
        assert!(output.join("config.json").exists());
    }

    let single = |more: &[&str]| {
        let mut command = fit(&pairs, "multiple_negatives_ranking", &scratch.out("none"));
        run(command.args(more))
    };
    single(&["--multi-dataset-sampler", "round_robin"])
        .fails_with(&["multi_dataset_sampler", "--train"]);
    let unknown = single(&["--multi-dataset-sampler", "size"]);
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
    assert!(
        unknown.stderr.contains("round_robin, proportional"),
        "{}",
        unknown.stderr
    );
    single(&["--gradient-accumulation", "0"]).fails_with(&["gradient_accumulation", "1 or more"]);
    let labelled = scratch.write("labelled.csv", "text,label\na boat,sea\na dog,home\n");
    let mut command = fit(&labelled, "arc_face", &scratch.out("none"));
    run(command.args(["--loss-option", "memory=8"])).fails_with(&["memory", "arc_face"]);
    assert!(!scratch.out("none").exists());
}
