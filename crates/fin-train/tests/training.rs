//! Runs from beginning to end with a small embedder.
#![cfg(feature = "flex")]

mod common;

use std::path::Path;

use burn::tensor::{Device, Tensor};
use common::{Bag, exclusive, questions_and_answers};
use fin_core::{Embedder, Error, Result};
use fin_train::callback::{Callback, Context, Evaluate, ProgressBar};
use fin_train::checkpoint::{TrainState, latest};
use fin_train::dataset::{BatchTargets, Dataset, ScoreRange};
use fin_train::evaluate::{LabelledEvaluator, RetrievalEvaluator, StsEvaluator};
use fin_train::loss::{ExpectedData, Loss};
use fin_train::{
    LossOptimizer, Options, TrainConfig, TrainSummary, Trainer, loss_from_name, sampler_from_name,
};
use serde_json::{Value, json};

fn config() -> TrainConfig {
    TrainConfig {
        epochs: 5,
        batch_size: 6,
        learning_rate: 0.01,
        ..TrainConfig::default()
    }
}

fn pairs() -> Dataset<String> {
    let (questions, answers) = questions_and_answers();
    Dataset::pairs(questions, answers, vec![]).unwrap()
}

fn trainer(config: TrainConfig) -> Trainer<Bag> {
    let loss = loss_from_name("multiple_negatives_ranking", &Options::new()).unwrap();
    Trainer::new(config, loss).unwrap()
}

fn retrieval() -> RetrievalEvaluator<String> {
    let (questions, answers) = questions_and_answers();
    let relevant = (0..questions.len()).map(|i| vec![i]).collect();
    RetrievalEvaluator::new("answers", questions, answers, relevant).unwrap()
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

fn fit(trainer: Trainer<Bag>, seed: u64) -> Result<(Bag, TrainSummary)> {
    let device = Device::flex();
    trainer.fit(Bag::new(&device, seed, 0.2), &pairs(), &device)
}

#[test]
fn training_lowers_the_loss_and_lifts_retrieval() {
    let _turn = exclusive();
    let config = TrainConfig {
        epochs: 30,
        ..config()
    };
    let trainer = trainer(config)
        .with_callback(Evaluate::each_epoch(retrieval()).and_at_begin())
        .with_callback(ProgressBar::new());
    let (bag, summary) = fit(trainer, 1).unwrap();
    assert_eq!(
        (summary.steps, summary.total_steps, summary.losses.len()),
        (60, 60, 60)
    );
    assert!(!summary.stopped && summary.items_per_second > 0.0 && summary.truncated == 0);
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let (first, last) = (mean(&summary.losses[..6]), mean(&summary.losses[54..]));
    assert!(last < first / 4.0, "{first} to {last}");
    let mrr: Vec<f64> = summary
        .metrics
        .iter()
        .map(|record| record.metrics.get("mrr@10").unwrap())
        .collect();
    assert_eq!(mrr.len(), 31);
    assert!(mrr[0] < 0.6 && mrr[30] > 0.95, "{mrr:?}");
    // What comes back is the trained network, off autodiff, without dropout.
    let device = Device::flex();
    let again = fin_train::evaluate::Evaluator::evaluate(&retrieval(), &bag, &device).unwrap();
    assert_eq!(again, summary.metrics[30].metrics);
}

#[test]
fn the_other_losses_train_too() {
    let _turn = exclusive();
    let device = Device::flex();
    let (questions, answers) = questions_and_answers();
    let run = |loss: &str, data: &Dataset<String>, batch_size| {
        let config = TrainConfig {
            epochs: 40,
            batch_size,
            ..config()
        };
        let loss = loss_from_name(loss, &Options::new()).unwrap();
        let mut losses = Trainer::new(config, loss)
            .unwrap()
            .fit(Bag::new(&device, 2, 0.0), data, &device)
            .unwrap()
            .1
            .losses;
        let last = losses.split_off(losses.len() - 5);
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        (mean(&losses[..5]), mean(&last))
    };
    let (mut first, mut second, mut scores) = (
        questions.clone(),
        answers.clone(),
        vec![5.0; questions.len()],
    );
    first.extend(questions.clone());
    second.extend(answers.iter().cycle().skip(1).take(answers.len()).cloned());
    scores.extend(vec![0.0; questions.len()]);
    let range: ScoreRange = "0..5".parse().unwrap();
    let data = Dataset::scored_pairs(first.clone(), second.clone(), scores.clone(), range).unwrap();
    let (before, after) = run("cosine_similarity", &data, 8);
    assert!(after < before / 4.0, "{before} to {after}");

    let labels: Vec<String> = (0..questions.len())
        .chain(0..questions.len())
        .map(|i| format!("topic {i}"))
        .collect();
    let data = Dataset::labelled([questions, answers].concat(), &labels).unwrap();
    let run_triplets = || {
        let sampler = sampler_from_name(
            "class_balanced",
            &Options::from_iter([("samples_per_class".into(), 2.into())]),
        );
        let loss = loss_from_name(
            "triplet_margin",
            &Options::from_iter([("margin".into(), 0.5.into())]),
        )
        .unwrap();
        let config = TrainConfig {
            epochs: 40,
            batch_size: 12,
            ..config()
        };
        let trainer = Trainer::new(config, loss)
            .unwrap()
            .with_sampler(sampler.unwrap());
        trainer
            .fit(Bag::new(&device, 3, 0.0), &data, &device)
            .unwrap()
    };
    let (bag, summary) = run_triplets();
    let (before, after) = (summary.losses[0], summary.losses[summary.losses.len() - 1]);
    assert!(after < before / 2.0, "{before} to {after}");

    let scores = scores.into_iter().map(f64::from).collect();
    let sts = StsEvaluator::new("sts", first, second, scores).unwrap();
    let metrics = fin_train::evaluate::Evaluator::evaluate(&sts, &bag, &device).unwrap();
    assert!(metrics.get("spearman").unwrap() > 0.8, "{metrics}");
}

#[test]
fn runs_with_one_seed_are_equal_and_dropout_is_active() {
    let _turn = exclusive();
    let run = |config, dropout| {
        let device = Device::flex();
        trainer(config)
            .fit(Bag::new(&device, 4, dropout), &pairs(), &device)
            .unwrap()
    };
    let ((a, first), (b, second)) = (run(config(), 0.2), run(config(), 0.2));
    assert_eq!(a.weights(), b.weights());
    assert_eq!(first.losses, second.losses);
    assert_ne!(run(config(), 0.0).0.weights(), a.weights());
    assert_ne!(
        run(
            TrainConfig {
                seed: 7,
                ..config()
            },
            0.2
        )
        .0
        .weights(),
        a.weights()
    );
}

/// An unbroken run of 10 steps against one that is stopped after 5 and resumed, with dropout.
#[test]
fn a_resumed_run_ends_with_the_weights_of_an_unbroken_one() {
    let _turn = exclusive();
    let directory = tempfile::tempdir().unwrap();
    let (unbroken, whole) = fit(trainer(config()), 5).unwrap();
    assert_eq!(whole.steps, 10);

    let (half, first) = fit(
        trainer(config())
            .with_checkpoints(directory.path())
            .with_callback(StopAt(5)),
        5,
    )
    .unwrap();
    assert!(first.stopped && first.steps == 5);
    let checkpoint = latest(directory.path()).unwrap().unwrap();
    assert_eq!(first.checkpoint.as_ref(), Some(&checkpoint));
    assert_ne!(half.weights(), unbroken.weights());

    // Started from other weights, which the checkpoint replaces.
    let (resumed, second) = fit(trainer(config()).resume_from(&checkpoint), 99).unwrap();
    assert_eq!((second.steps, second.stopped), (10, false));
    assert_eq!([first.losses, second.losses].concat(), whole.losses);
    assert_eq!(resumed.weights(), unbroken.weights());
}

/// Questions and answers of a topic as a class each.
fn topics() -> Dataset<String> {
    let (questions, answers) = questions_and_answers();
    let labels: Vec<String> = (0..2 * questions.len())
        .map(|i| (i % questions.len()).to_string())
        .collect();
    Dataset::labelled([questions, answers].concat(), &labels).unwrap()
}

fn fit_topics(loss: &str, options: Value, change: Change) -> Result<(Bag, TrainSummary)> {
    let device = Device::flex();
    let loss = loss_from_name(loss, options.as_object().unwrap()).unwrap();
    let config = TrainConfig {
        epochs: 6,
        batch_size: 8,
        ..config()
    };
    change(Trainer::new(config, loss)?).fit(Bag::new(&device, 11, 0.2), &topics(), &device)
}

type Change<'a> = &'a dyn Fn(Trainer<Bag>) -> Trainer<Bag>;

/// The class vectors are trained, written down and put back: a run that is stopped and resumed
/// ends with the losses and weights of an unbroken one.
#[test]
fn a_loss_with_parameters_trains_and_resumes() {
    let _turn = exclusive();
    let options = json!({"scale": 16.0});
    let directory = tempfile::tempdir().unwrap();
    for loss in ["arc_face", "proxy_anchor"] {
        let directory = directory.path().join(loss);
        let options = if loss == "arc_face" {
            options.clone()
        } else {
            json!({})
        };
        let settings = LossOptimizer {
            learning_rate: 0.05,
            weight_decay: 0.01,
        };
        let with = |trainer: Trainer<Bag>| trainer.with_loss_optimizer(settings.clone()).unwrap();
        let (unbroken, whole) = fit_topics(loss, options.clone(), &with).unwrap();
        assert_eq!(whole.steps, 18);
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        let (first, last) = (mean(&whole.losses[..3]), mean(&whole.losses[15..]));
        assert!(last < 0.8 * first, "{loss}: {first} to {last}");

        let (_, half) = fit_topics(loss, options.clone(), &|trainer| {
            with(trainer)
                .with_checkpoints(&directory)
                .with_callback(StopAt(7))
        })
        .unwrap();
        let checkpoint = latest(&directory).unwrap().unwrap();
        let saved = fin_core::weights::Checkpoint::open(checkpoint.join("loss.safetensors"));
        let name = if loss == "arc_face" { "W" } else { "proxies" };
        let shape = if loss == "arc_face" { [8, 12] } else { [12, 8] };
        assert_eq!(saved.unwrap().get(name).unwrap().shape(), shape);
        let (resumed, rest) = fit_topics(loss, options.clone(), &|trainer| {
            with(trainer).resume_from(&checkpoint)
        })
        .unwrap();
        assert_eq!([half.losses, rest.losses].concat(), whole.losses, "{loss}");
        assert_eq!(resumed.weights(), unbroken.weights(), "{loss}");

        // Other settings of the loss's optimiser end another way, and are no resumption.
        let other = fit_topics(loss, options.clone(), &|trainer| trainer).unwrap();
        assert_ne!(other.0.weights(), unbroken.weights());
        let error = fit_topics(loss, options, &|trainer| trainer.resume_from(&checkpoint));
        let error = error.unwrap_err();
        assert!(
            matches!(&error, Error::Config { field, .. } if field == "loss_optimizer"),
            "{error}"
        );
    }
    let settings = LossOptimizer {
        learning_rate: f64::NAN,
        weight_decay: 0.0,
    };
    assert!(settings.validate().is_err());
}

#[test]
fn a_checkpoint_whose_class_vectors_do_not_fit_is_refused() {
    let _turn = exclusive();
    let directory = tempfile::tempdir().unwrap();
    let stop = |trainer: Trainer<Bag>| {
        trainer
            .with_checkpoints(directory.path())
            .with_callback(StopAt(2))
    };
    fit_topics("arc_face", json!({}), &stop).unwrap();
    let checkpoint = latest(directory.path()).unwrap().unwrap();
    let resume = |trainer: Trainer<Bag>| trainer.resume_from(&checkpoint);
    let file = checkpoint.join("loss.safetensors");
    let wrong = [("W".to_string(), vec![2, 2], vec![0.0; 4])];
    fin_core::weights::save(&file, &wrong).unwrap();
    let error = fit_topics("arc_face", json!({}), &resume).unwrap_err();
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
    std::fs::remove_file(&file).unwrap();
    let error = fit_topics("arc_face", json!({}), &resume).unwrap_err();
    assert!(error.to_string().contains("loss.safetensors"), "{error}");
}

/// Gradient caching: without dropout the weights of a run in mini-batches are those of the run in
/// whole batches up to rounding, whatever the loss; with dropout a resumed run is still exact.
#[test]
fn mini_batches_have_the_gradients_of_the_batch() {
    let _turn = exclusive();
    let device = Device::flex();
    let config = TrainConfig {
        max_steps: Some(4),
        ..config()
    };
    let run = |size: Option<usize>| {
        let mut trainer = trainer(config.clone());
        if let Some(size) = size {
            trainer = trainer.with_mini_batches(size).unwrap();
        }
        trainer
            .fit(Bag::new(&device, 3, 0.0), &pairs(), &device)
            .unwrap()
    };
    let values = |bag: &Bag| -> Vec<f32> {
        let weights = bag.weights().into_iter();
        weights
            .flat_map(|(_, bits)| bits.into_iter().map(f32::from_bits))
            .collect()
    };
    let (whole, summary) = run(None);
    let start = values(&Bag::new(&device, 3, 0.0));
    let moved = |bag: &Bag| -> Vec<f32> {
        let values = values(bag);
        values.iter().zip(&start).map(|(a, b)| a - b).collect()
    };
    let expected = moved(&whole);
    let largest = expected.iter().fold(0.0f32, |x, y| x.max(y.abs()));
    assert!(largest > 0.01, "{largest}");
    for size in [1, 4, 6, 100] {
        let (parts, found) = run(Some(size));
        for (a, b) in found.losses.iter().zip(&summary.losses) {
            assert!((a - b).abs() < 1e-4, "{size}: {a} against {b}");
        }
        for (a, b) in moved(&parts).iter().zip(&expected) {
            assert!((a - b).abs() < 1e-3 * largest, "{size}: {a} against {b}");
        }
        if size >= 6 {
            assert_eq!(parts.weights(), whole.weights());
        }
    }

    let directory = tempfile::tempdir().unwrap();
    let cached = || self::trainer(self::config()).with_mini_batches(4).unwrap();
    let (unbroken, _) = fit(cached(), 5).unwrap();
    let first = cached()
        .with_checkpoints(directory.path())
        .with_callback(StopAt(5));
    fit(first, 5).unwrap();
    let checkpoint = latest(directory.path()).unwrap().unwrap();
    let (resumed, _) = fit(cached().resume_from(&checkpoint), 5).unwrap();
    assert_eq!(resumed.weights(), unbroken.weights());
    let error = fit(self::trainer(self::config()).resume_from(&checkpoint), 5).unwrap_err();
    assert!(
        matches!(&error, Error::Config { field, .. } if field == "mini_batch_size"),
        "{error}"
    );
}

#[test]
fn mined_losses_train_and_lift_retrieval_of_classes() {
    let _turn = exclusive();
    let device = Device::flex();
    let labels: Vec<String> = (0..24).map(|i| (i % 12).to_string()).collect();
    let (questions, answers) = questions_and_answers();
    let items = [questions, answers].concat();
    let evaluator = LabelledEvaluator::new("topics", items, &labels).unwrap();
    for (loss, options) in [
        (
            "triplet_margin",
            json!({"margin": 0.2, "miner": "batch_hard"}),
        ),
        (
            "multi_similarity",
            json!({"miner": {"name": "multi_similarity", "epsilon": 0.2}}),
        ),
        ("margin", json!({"miner": "distance_weighted"})),
    ] {
        let options = options.as_object().unwrap();
        let sampler = json!({"samples_per_class": 2});
        let config = TrainConfig {
            epochs: 40,
            batch_size: 8,
            ..config()
        };
        let (_, summary) = Trainer::new(config, loss_from_name(loss, options).unwrap())
            .unwrap()
            .with_sampler(
                sampler_from_name("class_balanced", sampler.as_object().unwrap()).unwrap(),
            )
            .with_callback(Evaluate::each_epoch(evaluator.clone()).and_at_begin())
            .fit(Bag::new(&device, 5, 0.0), &topics(), &device)
            .unwrap();
        let found: Vec<f64> = summary
            .metrics
            .iter()
            .map(|record| record.metrics.get("r_precision").unwrap())
            .collect();
        assert!(found[0] < 0.3 && found[40] > 0.8, "{loss}: {found:?}");
    }
}

#[test]
fn checkpoints_come_every_so_many_steps_and_old_ones_go() {
    let _turn = exclusive();
    let directory = tempfile::tempdir().unwrap();
    let config = TrainConfig {
        checkpoint_every_steps: Some(3),
        max_steps: Some(9),
        ..config()
    };
    let (bag, summary) = fit(
        trainer(config.clone()).with_checkpoints(directory.path()),
        6,
    )
    .unwrap();
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["step-00000006", "step-00000009"]);
    let last = summary.checkpoint.unwrap();
    assert_eq!(TrainState::read(&last).unwrap().step, 9);
    // Weights are there under upstream names.
    let weights = fin_core::weights::Checkpoint::open(last.join("model.safetensors")).unwrap();
    assert_eq!(weights.iter().map(|(name, _)| name).collect::<Vec<_>>(), {
        let mut names: Vec<_> = bag.weights().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    });
    assert!(weights.get("dense.weight").is_some());

    // At the end there is nothing left to do; a new run does not write among an old one's.
    let rest = trainer(config.clone())
        .with_checkpoints(directory.path())
        .resume_from(&last);
    let (same, summary) = fit(rest, 6).unwrap();
    assert!(summary.losses.is_empty() && same.weights() == bag.weights());
    let error = fit(
        trainer(config.clone()).with_checkpoints(directory.path()),
        6,
    )
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("step-00000009") && error.contains("earlier run"),
        "{error}"
    );
    let error = fit(trainer(config), 6).unwrap_err().to_string();
    assert!(error.starts_with("checkpoint_every_steps"), "{error}");
}

#[test]
fn a_checkpoint_of_other_settings_or_data_names_what_differs() {
    let _turn = exclusive();
    let directory = tempfile::tempdir().unwrap();
    let first = trainer(config())
        .with_checkpoints(directory.path())
        .with_callback(StopAt(2));
    let checkpoint = fit(first, 7).unwrap().1.checkpoint.unwrap();
    let resume = |trainer: Trainer<Bag>, data: &Dataset<String>, from: &Path| {
        let device = Device::flex();
        trainer
            .resume_from(from)
            .fit(Bag::new(&device, 7, 0.2), data, &device)
            .map(drop)
    };
    let fails = |trainer, data: &Dataset<String>, field: &str| {
        let error = resume(trainer, data, &checkpoint).unwrap_err();
        assert!(
            matches!(&error, Error::Config { field: found, .. } if found == field),
            "{error}"
        );
    };
    fails(
        trainer(TrainConfig {
            learning_rate: 0.02,
            ..config()
        }),
        &pairs(),
        "config.learning_rate",
    );
    fails(
        trainer(TrainConfig {
            max_steps: Some(8),
            ..config()
        }),
        &pairs(),
        "config.max_steps",
    );
    let sampler = sampler_from_name("random", &Options::new()).unwrap();
    fails(trainer(config()).with_sampler(sampler), &pairs(), "sampler");
    let loss = loss_from_name(
        "multiple_negatives_ranking",
        &Options::from_iter([("scale".into(), 5.0.into())]),
    );
    fails(
        Trainer::new(config(), loss.unwrap()).unwrap(),
        &pairs(),
        "loss",
    );
    let (mut questions, answers) = questions_and_answers();
    questions[3].push('?');
    fails(
        trainer(config()),
        &Dataset::pairs(questions, answers, vec![]).unwrap(),
        "dataset",
    );

    let free = TrainConfig {
        keep_checkpoints: 9,
        ..config()
    };
    resume(trainer(free), &pairs(), &checkpoint).unwrap();

    let damaged = directory.path().join("damaged");
    std::fs::create_dir(&damaged).unwrap();
    assert!(matches!(
        resume(trainer(config()), &pairs(), &damaged),
        Err(Error::Io { .. })
    ));
    std::fs::write(damaged.join("state.json"), "{\"format\": 2}").unwrap();
    let error = resume(trainer(config()), &pairs(), &damaged)
        .unwrap_err()
        .to_string();
    assert!(error.contains("format 2"), "{error}");
}

/// A loss that is NaN from its third batch on.
#[derive(Debug)]
struct Diverging(std::cell::Cell<usize>);

impl Loss for Diverging {
    fn name(&self) -> &'static str {
        "diverging"
    }

    fn options(&self) -> Options {
        Options::new()
    }

    fn accepts(&self) -> ExpectedData {
        loss_from_name("multiple_negatives_ranking", &Options::new())
            .unwrap()
            .accepts()
    }

    fn forward(&self, embeddings: &[Tensor<2>], _targets: &BatchTargets) -> Result<Tensor<1>> {
        self.0.set(self.0.get() + 1);
        let factor = if self.0.get() < 3 { 1.0 } else { f32::NAN };
        Ok(embeddings[0].clone().mean() * factor)
    }
}

#[test]
fn a_loss_that_is_not_a_number_names_its_step() {
    let _turn = exclusive();
    let trainer = Trainer::new(config(), Box::new(Diverging(Default::default()))).unwrap();
    let error = fit(trainer, 8).unwrap_err().to_string();
    assert!(
        error.contains("step 3") && error.contains("learning_rate"),
        "{error}"
    );
}

#[test]
fn data_that_does_not_fit_is_refused_before_anything_runs() {
    let _turn = exclusive();
    let device = Device::flex();
    let data = Dataset::labelled(vec!["a".to_string(), "b".to_string()], &["x", "y"]).unwrap();
    let error = trainer(config())
        .fit(Bag::new(&device, 9, 0.0), &data, &device)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`multiple_negatives_ranking` needs 2 or more columns"),
        "{error}"
    );
    let data = Dataset::pairs(vec!["a".to_string()], vec![" ".to_string()], vec![]).unwrap();
    let error = trainer(config())
        .fit(Bag::new(&device, 9, 0.0), &data, &device)
        .unwrap_err()
        .to_string();
    assert!(error.contains("has no words"), "{error}");
    let bad = TrainConfig {
        batch_size: 0,
        ..config()
    };
    let loss = loss_from_name("multiple_negatives_ranking", &Options::new()).unwrap();
    assert!(
        Trainer::<Bag>::new(bad, loss)
            .unwrap_err()
            .to_string()
            .starts_with("batch_size")
    );
}
