//! Runs of `fin fit` that are killed again and again, while they train, write checkpoints, adapters and
//! the model; and conversions of weights that are.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, Scratch, fin, fixture, names};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

/// A run of 90 steps with 45 checkpoints; with adapters, where there is a directory for them.
fn fit(output: &Path, adapters: Option<&Path>) -> Command {
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
    if let Some(adapters) = adapters {
        command.args(["--lora", "2", "--lora-output"]).arg(adapters);
    }
    command.arg("--output").arg(output);
    command
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

/// Numbers in `[0, 1)`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }
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
/// made the same bytes, and so have adapters wherever there are any.
fn survive(kills: usize, seed: u64, has_adapters: bool) {
    let scratch = Scratch::new();
    let given = |path: PathBuf| has_adapters.then_some(path);
    let (unbroken, apart) = (scratch.path("unbroken"), given(scratch.path("apart")));
    let begin = Instant::now();
    let mut whole = fit(&unbroken, apart.as_deref());
    Run::from(whole.output().unwrap()).ok();
    let whole = begin.elapsed();
    let expected = contents(&unbroken);
    assert!(expected.contains_key(Path::new("model.safetensors")));
    let expected_adapters = apart.as_deref().map(contents);

    let output = scratch.out("tuned");
    let adapters = given(scratch.out("adapters"));
    let checkpoints = scratch.out("tuned.checkpoint");
    let mut random = Random(seed);
    let (mut killed, mut ended) = (0, 0);
    while killed < kills || ended == 0 {
        let before = newest(&checkpoints);
        let mut command = fit(&output, adapters.as_deref());
        if before.is_some() {
            command.arg("--resume");
        }
        command.stdout(Stdio::null()).stderr(Stdio::inherit());
        // Some at once, some near the end of a run from the last checkpoint on.
        let share = if killed < kills {
            0.7 * random.next()
        } else {
            100.0
        };
        let mut child = command.spawn().unwrap();
        let was_killed = kill_after(&mut child, whole.mul_f64(share));
        killed += usize::from(was_killed);
        if let Some(adapters) = &adapters
            && adapters.exists()
        {
            let found = contents(adapters);
            assert_eq!(
                Some(&found),
                expected_adapters.as_ref(),
                "after {killed} kills"
            );
        }
        if output.exists() {
            // Written whole, whether the run was killed after that or not.
            assert_eq!(contents(&output), expected, "after {killed} kills");
            ended += 1;
            // Adapters come first. Every second time they are left for the next run to replace.
            if let Some(adapters) = &adapters {
                assert!(adapters.exists(), "there is a model and no adapters");
                if ended % 2 == 0 {
                    fs::remove_dir_all(adapters).unwrap();
                }
            }
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

/// A BERT whose table of words makes writing it take a while: a directory with 12 MB of weights.
fn bert(scratch: &Scratch) -> PathBuf {
    const WORDS: usize = 100_000;
    let model = scratch.bert_tiny();
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["vocab_size"] = WORDS.into();
    fs::write(&path, config.to_string()).unwrap();
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    const TABLE: &str = "embeddings.word_embeddings.weight";
    let width = tensors.tensor(TABLE).unwrap().shape()[1];
    let values = (0..WORDS * width).flat_map(|i| (i as f32 * 0.37).sin().to_le_bytes());
    let values: Vec<u8> = values.collect();
    let table = TensorView::new(Dtype::F32, vec![WORDS, width], &values).unwrap();
    let mut all: Vec<(String, TensorView)> = tensors.tensors();
    all.retain(|(name, _)| name != TABLE);
    all.push((TABLE.to_owned(), table));
    let file = safetensors::serialize(all, None).unwrap();
    fs::write(&path, file).unwrap();
    model
}

/// Kills conversions at random moments. Where they were to write is then what it was before, nothing,
/// or the whole conversion.
fn survive_conversions(kills: usize, seed: u64) {
    let scratch = Scratch::new();
    let from = bert(&scratch);
    let convert = |to: &Path, dtype: &str| {
        let mut command = fin();
        command.args(["convert-weights", "bert-base-en", "--dtype", dtype]);
        command.arg("--from").arg(&from).arg("--to").arg(to);
        command.arg("--overwrite");
        command
    };
    let whole = ["f32", "f16"].map(|dtype| {
        let to = scratch.path(dtype);
        let begin = Instant::now();
        Run::from(convert(&to, dtype).output().unwrap()).ok();
        (contents(&to), begin.elapsed())
    });
    assert_ne!(whole[0].0, whole[1].0);

    let to = scratch.out("model");
    let mut random = Random(seed);
    let (mut killed, mut absent, mut ended) = (0, 0, 0);
    while killed < kills {
        let old = to.exists().then(|| contents(&to));
        let turn = (killed + ended) % 2;
        let (new, time) = &whole[turn];
        let mut command = convert(&to, ["f32", "f16"][turn]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let was_killed = kill_after(&mut child, time.mul_f64(1.1 * random.next()));
        killed += usize::from(was_killed);
        ended += usize::from(!was_killed);
        match to.exists().then(|| contents(&to)) {
            Some(found) if found == *new => {
                // Every third time the next one has a place of its own.
                if ended % 3 == 2 {
                    fs::remove_dir_all(&to).unwrap();
                }
            }
            found => {
                assert!(was_killed, "a conversion ended without its model");
                let is_as_before = found.is_none() || found == old;
                assert!(is_as_before, "half a model, after {killed} kills");
                absent += usize::from(found.is_none());
            }
        }
    }
    println!("{killed} conversions killed, {absent} of them left nothing; {ended} at their end");
}

#[test]
fn killed_runs_lose_nothing() {
    survive(5, 1, false);
}

#[test]
fn killed_runs_lose_no_adapters() {
    survive(5, 3, true);
}

#[test]
fn killed_conversions_leave_nothing_half_written() {
    survive_conversions(20, 5);
}

#[test]
#[ignore = "minutes; the same with 50 kills"]
fn fifty_killed_runs_lose_nothing() {
    survive(50, 2, false);
}

#[test]
#[ignore = "minutes; the same with 50 kills"]
fn fifty_killed_runs_lose_no_adapters() {
    survive(50, 4, true);
}

#[test]
#[ignore = "the same with 200 kills"]
fn two_hundred_killed_conversions_leave_nothing_half_written() {
    survive_conversions(200, 6);
}
