//! What a run writes down, and how a resumed one goes on with it.
#![cfg(feature = "flex")]

mod common;

use std::cell::RefCell;
use std::path::Path;

use burn::tensor::Device;
use common::{Bag, exclusive, questions_and_answers};
use fin_core::{Embedder, Error, Result};
use fin_train::callback::{Callback, Context, Evaluate, Log, TensorBoard, event_files};
use fin_train::checkpoint::latest;
use fin_train::evaluate::Evaluator;
use fin_train::{Dataset, Metrics, Options, TrainConfig, TrainSummary, Trainer, loss_from_name};
use prost::Message;
use serde_json::Value;

/// The parts of TensorFlow's `event.proto` and `summary.proto` that are written.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// CRC-32C bit by bit, masked.
fn masked_crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The events of a file, whose checksums have to be right.
fn events(path: &Path) -> Vec<Event> {
    let content = std::fs::read(path).unwrap();
    let mut rest = &content[..];
    let mut events = Vec::new();
    while !rest.is_empty() {
        let number = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(number(8), masked_crc(&rest[..8]));
        let event = &rest[12..12 + length];
        assert_eq!(number(12 + length), masked_crc(event));
        events.push(Event::decode(event).unwrap());
        rest = &rest[16 + length..];
    }
    events
}

/// Steps and values of a tag, with what later files drop of earlier ones taken out.
fn curve(files: &[Vec<Event>], tag: &str) -> Vec<(i64, f32)> {
    let mut curve: Vec<(i64, f32)> = Vec::new();
    for event in files.iter().flatten() {
        if event
            .session_log
            .as_ref()
            .is_some_and(|log| log.status == 1)
        {
            curve.retain(|(step, _)| *step < event.step);
        }
        for value in event.summary.iter().flat_map(|summary| &summary.value) {
            if value.tag == tag {
                curve.push((event.step, value.simple_value.unwrap()));
            }
        }
    }
    curve
}

/// Measures what it is told to.
struct Scripted(&'static str, RefCell<Vec<f64>>);

impl Evaluator<Bag> for Scripted {
    fn name(&self) -> &str {
        self.0
    }

    fn evaluate(&self, _: &Bag, _: &Device) -> Result<Metrics> {
        let mut metrics = Metrics::default();
        metrics.insert("map", self.1.borrow_mut().remove(0));
        Ok(metrics)
    }
}

fn evaluate(name: &'static str, values: &[f64]) -> Evaluate<Bag> {
    Evaluate::each_epoch(Scripted(name, RefCell::new(values.to_vec())))
}

/// Fails after a step, as a run does that is killed then.
struct FailAt(usize);

impl<E: Embedder> Callback<E> for FailAt {
    fn on_step_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        match context.progress().step == self.0 {
            true => Err(Error::argument("test", "fails here")),
            false => Ok(()),
        }
    }
}

/// A run of five epochs of two steps each, with a checkpoint every four steps.
fn trainer(checkpoints: &Path) -> Trainer<Bag> {
    let config = TrainConfig {
        epochs: 5,
        batch_size: 6,
        learning_rate: 0.01,
        checkpoint_every_steps: Some(4),
        ..TrainConfig::default()
    };
    let loss = loss_from_name("multiple_negatives_ranking", &Options::new()).unwrap();
    let trainer = Trainer::new(config, loss).unwrap();
    trainer.with_checkpoints(checkpoints)
}

fn fit(trainer: Trainer<Bag>) -> Result<TrainSummary> {
    let device = Device::flex();
    let (questions, answers) = questions_and_answers();
    let data = Dataset::pairs(questions, answers, vec![]).unwrap();
    let (_, summary) = trainer.fit(Bag::new(&device, 5, 0.2), &data, &device)?;
    Ok(summary)
}

#[test]
fn every_log_of_a_broken_run_goes_on_without_a_step_twice() {
    let _turn = exclusive();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let logs = |trainer: Trainer<Bag>| {
        trainer
            .with_callback(Log::new(path("run.csv")).unwrap())
            .with_callback(Log::new(path("run.jsonl")).unwrap())
            .with_callback(TensorBoard::new(path("board")))
    };
    let broken = trainer(&path("checkpoints"))
        .with_callback(evaluate("one", &[0.1, 0.2, 0.25]))
        .with_callback(evaluate("two, too", &[0.5, f64::NAN, 0.75]));
    fit(logs(broken).with_callback(FailAt(7))).unwrap_err();
    // Killed in the middle of a line.
    for (name, half) in [("run.csv", "8,4,0.2"), ("run.jsonl", "{\"step\":8,\"epo")] {
        let whole = std::fs::read_to_string(path(name)).unwrap();
        assert_eq!(
            whole.lines().count(),
            if name == "run.csv" { 14 } else { 13 }
        );
        std::fs::write(path(name), whole + half).unwrap();
    }
    let checkpoint = latest(path("checkpoints")).unwrap().unwrap();
    assert!(checkpoint.ends_with("step-00000004"));
    let rest = trainer(&path("checkpoints"))
        .with_callback(evaluate("one", &[0.3, 0.4, 0.5]))
        .with_callback(evaluate("two, too", &[0.8, 0.9, 1.0]))
        .resume_from(checkpoint);
    let summary = fit(logs(rest)).unwrap();
    let losses = [&summary.earlier_losses[..], &summary.losses].concat();
    assert_eq!((losses.len(), summary.metrics.len()), (10, 10));

    let text = std::fs::read_to_string(path("run.csv")).unwrap();
    let mut lines = text.lines();
    let header = "step,epoch,loss,learning_rate,grad_norm,items_per_second,map,two  too/map";
    assert_eq!(lines.next(), Some(header));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == 8), "{text}");
    let (steps, measured): (Vec<_>, Vec<_>) = rows.iter().partition(|row| !row[2].is_empty());
    for (i, row) in steps.iter().enumerate() {
        assert_eq!(row[0], (i + 1).to_string());
        assert_eq!(row[1], (i / 2 + 1).to_string());
        assert_eq!(row[2].parse::<f64>().unwrap() as f32, losses[i]);
        assert!(row[3].parse::<f64>().unwrap() >= 0.0 && row[6..] == ["", ""]);
    }
    let measured: Vec<[&str; 3]> = measured
        .iter()
        .map(|row| [row[0], row[6], row[7]])
        .collect();
    assert_eq!(
        measured,
        [
            ["2", "0.1", ""],
            ["2", "", "0.5"],
            ["4", "0.2", ""],
            ["4", "", ""],
            ["6", "0.3", ""],
            ["6", "", "0.8"],
            ["8", "0.4", ""],
            ["8", "", "0.9"],
            ["10", "0.5", ""],
            ["10", "", "1"],
        ]
    );

    let text = std::fs::read_to_string(path("run.jsonl")).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps = lines.iter().filter(|line| line["loss"].is_f64());
    let steps: Vec<u64> = steps.map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=10).collect::<Vec<_>>());
    let measured = lines.iter().filter(|line| line["metrics"].is_object());
    assert_eq!(measured.count(), 10);

    let files = event_files(path("board")).unwrap();
    let files: Vec<Vec<Event>> = files.iter().map(|file| events(file)).collect();
    assert_eq!(files.len(), 2);
    for (file, step) in files.iter().zip([0, 5]) {
        assert_eq!(file[0].file_version.as_deref(), Some("brain.Event:2"));
        assert!(file[0].wall_time > 1.6e9);
        let start = file[1].session_log.as_ref().unwrap();
        assert_eq!((start.status, file[1].step), (1, step));
    }
    // The first file has what the second one repeats.
    assert_eq!(curve(&files[..1], "loss").len(), 7);
    let expected: Vec<(i64, f32)> = (1..).zip(losses).collect();
    assert_eq!(curve(&files, "loss"), expected);
    for tag in ["learning_rate", "grad_norm"] {
        let found = curve(&files, tag);
        assert_eq!(found.len(), 10, "{tag}");
        // The first step of the warm-up has the learning rate 0.
        assert!(found[1].1 > 0.0, "{tag}: {found:?}");
    }
    let map = [(2, 0.1), (4, 0.2), (6, 0.3), (8, 0.4), (10, 0.5)];
    assert_eq!(curve(&files, "map"), map);
    let other = curve(&files, "two, too/map");
    assert_eq!(other.len(), 5);
    assert!(other[1].1.is_nan() && other[4] == (10, 1.0), "{other:?}");
}

#[test]
fn a_log_of_something_else_is_left_alone() {
    let _turn = exclusive();
    let directory = tempfile::tempdir().unwrap();
    let checkpoints = directory.path().join("checkpoints");
    fit(trainer(&checkpoints).with_callback(FailAt(5))).unwrap_err();
    let path = directory.path().join("other.csv");
    std::fs::write(&path, "question,answer\n1,2\n").unwrap();
    let checkpoint = latest(&checkpoints).unwrap().unwrap();
    let rest = trainer(&checkpoints)
        .with_callback(Log::new(&path).unwrap())
        .resume_from(&checkpoint);
    let error = fit(rest).unwrap_err().to_string();
    assert!(
        error.contains("other.csv") && error.contains("step,epoch"),
        "{error}"
    );
    let left = std::fs::read_to_string(&path).unwrap();
    assert_eq!(left, "question,answer\n1,2\n");
}
