//! Runs of `fin fit` that are killed again and again, while they train, write checkpoints and write
//! the model.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, Scratch, fin, fixture, names};

/// A run of 90 steps with 45 checkpoints.
fn fit(output: &Path) -> Command {
    let mut command = fin();
    command
        .args(["fit", "--model"])
        .arg(fixture("text/bert-tiny"));
    command.arg("--train").arg(fixture("help-desk/train.csv"));
    command.args(["--loss", "multiple_negatives_ranking", "--max-length", "16"]);
    command.args([
        "--batch-size",
        "4",
        "--max-steps",
        "90",
        "--checkpoint-every",
        "2",
    ]);
    command.args(["--learning-rate", "1e-3", "--seed", "11"]);
    command.arg("--output").arg(output);
    command
}

/// Steps of the newest checkpoint in a directory that may not be there.
fn newest(checkpoints: &Path) -> Option<u64> {
    let found = checkpoints.is_dir().then(|| names(checkpoints))?;
    let steps = found.iter().filter_map(|name| name.strip_prefix("step-"));
    steps.filter_map(|step| step.parse().ok()).max()
}

/// Kills the child after a time, or waits for its end where that comes first; whether it was killed.
fn kill_after(child: &mut Child, time: Duration) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < time {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "a run failed: {status}");
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    // One that ended just before was not killed.
    !child.wait().unwrap().success()
}

/// Kills runs at random moments until this many have been killed; every run that gets to its end has
/// made the same bytes.
fn survive(kills: usize, seed: u64) {
    let scratch = Scratch::new();
    let unbroken = scratch.path("unbroken");
    let begin = Instant::now();
    Run::from(fit(&unbroken).output().unwrap()).ok();
    let whole = begin.elapsed();
    let files = |model: &Path| {
        let mut files = names(model);
        files.sort();
        let read = |name: &String| fs::read(model.join(name)).ok();
        files
            .iter()
            .map(|name| (name.clone(), read(name)))
            .collect::<Vec<_>>()
    };
    let expected = files(&unbroken);
    assert!(expected.iter().any(|(name, _)| name == "model.safetensors"));

    let output = scratch.out("tuned");
    let checkpoints = scratch.out("tuned.checkpoint");
    let mut state = seed;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    let (mut killed, mut ended) = (0, 0);
    while killed < kills || ended == 0 {
        let before = newest(&checkpoints);
        let mut command = fit(&output);
        if before.is_some() {
            command.arg("--resume");
        }
        command.stdout(Stdio::null()).stderr(Stdio::inherit());
        // Some at once, some near the end of a run from the last checkpoint on.
        let share = if killed < kills {
            0.7 * random()
        } else {
            100.0
        };
        let mut child = command.spawn().unwrap();
        let was_killed = kill_after(&mut child, whole.mul_f64(share));
        killed += usize::from(was_killed);
        if output.exists() {
            // Written whole, whether the run was killed after that or not.
            assert_eq!(files(&output), expected, "after {killed} kills");
            ended += 1;
            fs::remove_dir_all(&output).unwrap();
            if checkpoints.exists() {
                fs::remove_dir_all(&checkpoints).unwrap();
            }
        } else {
            assert!(was_killed, "a run ended without a model");
            let after = newest(&checkpoints);
            assert!(after >= before, "{before:?} was lost, {after:?} is left");
        }
    }
    println!("{killed} runs killed, {ended} at their end, {whole:?} unbroken");
}

#[test]
fn killed_runs_lose_nothing() {
    survive(5, 1);
}

#[test]
#[ignore = "minutes; the same with 50 kills"]
fn fifty_killed_runs_lose_nothing() {
    survive(50, 2);
}
