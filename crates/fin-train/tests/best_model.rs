//! The best network of a run, early stopping, and what a resumed run knows of either.
#![cfg(feature = "flex")]

mod common;

use std::cell::RefCell;
use std::path::Path;

use burn::tensor::Device;
use common::{Bag, exclusive, questions_and_answers};
use fin_core::{Embedder, Result};
use fin_train::callback::{BestModel, Callback, Context, EarlyStopping, Evaluate, Mode};
use fin_train::checkpoint::latest;
use fin_train::evaluate::Evaluator;
use fin_train::{Dataset, Metrics, Options, TrainConfig, TrainSummary, Trainer, loss_from_name};

/// Measures what it is told to, and nothing else.
struct Scripted(RefCell<Vec<f64>>);

impl Evaluator<Bag> for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn evaluate(&self, _: &Bag, _: &Device) -> Result<Metrics> {
        let mut metrics = Metrics::default();
        metrics.insert("map", self.0.borrow_mut().remove(0));
        metrics.insert("mrr", 0.5);
        Ok(metrics)
    }
}

fn evaluate(values: &[f64]) -> Evaluate<Bag> {
    Evaluate::each_epoch(Scripted(RefCell::new(values.to_vec())))
}

/// Asks for a stop after a step.
struct StopAt(usize);

impl<E: Embedder> Callback<E> for StopAt {
    fn on_step_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        if context.progress().step == self.0 {
            context.request_stop();
        }
        Ok(())
    }
}

/// A run of five epochs of two steps each.
fn trainer() -> Trainer<Bag> {
    let config = TrainConfig {
        epochs: 5,
        batch_size: 6,
        learning_rate: 0.01,
        ..TrainConfig::default()
    };
    let loss = loss_from_name("multiple_negatives_ranking", &Options::new()).unwrap();
    Trainer::new(config, loss).unwrap()
}

fn fit(trainer: Trainer<Bag>) -> Result<(Bag, TrainSummary)> {
    let device = Device::flex();
    let (questions, answers) = questions_and_answers();
    let data = Dataset::pairs(questions, answers, vec![]).unwrap();
    trainer.fit(Bag::new(&device, 5, 0.2), &data, &device)
}

/// Weights after so many steps.
fn weights_at(step: usize) -> Vec<(String, Vec<u32>)> {
    let (bag, summary) = fit(trainer().with_callback(StopAt(step))).unwrap();
    assert_eq!((summary.steps, summary.best), (step, None));
    bag.weights()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_run_ends_with_the_network_that_measured_best() {
    let _turn = exclusive();
    let directory = tempfile::tempdir().unwrap();
    let best = directory.path().join("best");
    // Of equal values the first counts, and what is not a number does not.
    let values = [0.2, 0.5, 0.5, 0.1, f64::NAN];
    for (mode, step) in [(Mode::Max, 4), (Mode::Min, 8)] {
        let (bag, summary) = fit(trainer()
            .with_callback(evaluate(&values))
            .with_callback(BestModel::new(&best, "map", mode).and_load_it()))
        .unwrap();
        assert_eq!(bag.weights(), weights_at(step), "{mode:?}");
        let record = summary.best.unwrap();
        assert_eq!((record.step, record.epoch), (step, step / 2));
        assert_eq!((summary.steps, summary.metrics.len()), (10, 5));
        assert_eq!(record, summary.metrics[step / 2 - 1]);
        assert_eq!(names(directory.path()), ["best"]);
        assert_eq!(names(&best), ["best.json", "model.safetensors"]);
    }
    // Kept, not loaded.
    let (bag, summary) = fit(trainer()
        .with_callback(evaluate(&values))
        .with_callback(BestModel::new(&best, "map", Mode::Max)))
    .unwrap();
    assert_eq!((bag.weights(), summary.best), (weights_at(10), None));
    // Never a number: there is no best, and the one of the run before is gone.
    let (bag, summary) = fit(trainer()
        .with_callback(evaluate(&[f64::NAN; 5]))
        .with_callback(BestModel::new(&best, "map", Mode::Max).and_load_it()))
    .unwrap();
    assert_eq!((bag.weights(), summary.best), (weights_at(10), None));
    assert!(!best.exists());

    let unknown = fit(trainer()
        .with_callback(evaluate(&values))
        .with_callback(BestModel::new(&best, "ndcg", Mode::Max)));
    let error = unknown.unwrap_err().to_string();
    assert!(
        error.contains("`ndcg`") && error.contains("map, mrr"),
        "{error}"
    );
    // What is not of a run is left alone.
    std::fs::create_dir(&best).unwrap();
    std::fs::write(best.join("notes.txt"), "mine").unwrap();
    let started = trainer().with_callback(BestModel::new(&best, "map", Mode::Max));
    fit(started).unwrap();
    assert_eq!(names(&best), ["notes.txt"]);
}

#[test]
fn a_resumed_run_knows_the_best_and_stops_where_an_unbroken_one_does() {
    let _turn = exclusive();
    let directory = tempfile::tempdir().unwrap();
    let best = directory.path().join("best");
    let values = [0.2, 0.5, 0.5, 0.1, 0.9];
    let watched = |values: &[f64], monitor: &str, mode| {
        trainer()
            .with_callback(evaluate(values))
            .with_callback(BestModel::new(&best, monitor, mode).and_load_it())
            .with_callback(EarlyStopping::new(monitor, mode, 2).unwrap())
    };
    let (unbroken, whole) = fit(watched(&values, "map", Mode::Max)).unwrap();
    assert_eq!((whole.steps, whole.metrics.len()), (8, 4));
    assert_eq!(unbroken.weights(), weights_at(4));

    let broken = watched(&values[..3], "map", Mode::Max)
        .with_callback(StopAt(6))
        .with_checkpoints(directory.path());
    fit(broken).unwrap();
    let checkpoint = latest(directory.path()).unwrap().unwrap();
    let resume = |trainer: Trainer<Bag>| fit(trainer.resume_from(&checkpoint));

    // A crash between the two renames of a replacement.
    let moved = directory.path().join(".fin-old-best");
    std::fs::rename(&best, &moved).unwrap();
    let (resumed, rest) = resume(watched(&values[3..], "map", Mode::Max)).unwrap();
    assert_eq!(resumed.weights(), unbroken.weights());
    assert_eq!((rest.steps, &rest.metrics), (8, &whole.metrics));
    assert_eq!(rest.best, whole.best);
    assert_eq!([rest.earlier_losses, rest.losses].concat(), whole.losses);
    assert!(best.is_dir() && !moved.exists());

    // A better one that comes later takes its place.
    let (resumed, rest) = resume(watched(&[0.6, 0.4], "map", Mode::Max)).unwrap();
    assert_eq!(rest.best.unwrap().step, 8);
    assert_eq!(resumed.weights(), weights_at(8));

    for (monitor, mode) in [("mrr", Mode::Max), ("map", Mode::Min)] {
        let error = resume(watched(&values[3..], monitor, mode)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("best.json") && error.contains("the max of `map`"),
            "{error}"
        );
    }
    std::fs::remove_dir_all(&best).unwrap();
    let error = resume(watched(&values[3..], "map", Mode::Max)).unwrap_err();
    assert!(error.to_string().contains("was not kept"), "{error}");

    // Stopping early leaves a checkpoint, from which there is nothing to go on to.
    let other = tempfile::tempdir().unwrap();
    let stopped = watched(&values, "map", Mode::Max).with_checkpoints(other.path());
    let (bag, summary) = fit(stopped).unwrap();
    let again = watched(&[], "map", Mode::Max).resume_from(summary.checkpoint.unwrap());
    let (same, summary) = fit(again).unwrap();
    assert!(summary.losses.is_empty() && summary.stopped);
    assert_eq!((same.weights(), summary.steps), (bag.weights(), 8));
}
