//! Runs on data sets whose items lie in a file: those in memory to the bit, in less memory.
#![cfg(feature = "flex")]

mod common;
#[path = "../../fin-core/tests/hostile/counting.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod counting;

use burn::tensor::Device;
use common::{Bag, exclusive, questions_and_answers};
use fin_core::{Embedder, Result};
use fin_train::callback::{Callback, Context};
use fin_train::checkpoint::latest;
use fin_train::dataset::{Dataset, ItemCodec, SpoolWriter, SpooledSets, Targets};
use fin_train::{
    MultiDatasetSampler, Options, TrainConfig, TrainSummary, Trainer, loss_from_name,
    sampler_from_name,
};

/// The same sets with their items in a file.
fn spooled(sets: &[Dataset<String>]) -> SpooledSets<String> {
    let mut writer = SpoolWriter::create(std::env::temp_dir(), ItemCodec::TEXTS).unwrap();
    for set in sets {
        for row in 0..set.len() {
            let items = set.columns().iter().map(|column| column[row].clone());
            writer.push(items.collect()).unwrap();
        }
        writer.end_set(set.targets().clone()).unwrap();
    }
    writer.finish().unwrap()
}

fn trainer(loss: &str) -> Trainer<Bag> {
    let config = TrainConfig {
        epochs: 3,
        batch_size: 8,
        learning_rate: 0.01,
        ..TrainConfig::default()
    };
    Trainer::new(config, loss_from_name(loss, &Options::new()).unwrap()).unwrap()
}

fn in_memory(trainer: Trainer<Bag>, sets: &[Dataset<String>]) -> Result<(Bag, TrainSummary)> {
    let device = Device::flex();
    trainer.fit_all(Bag::new(&device, 4, 0.2), sets, &device)
}

fn in_a_file(trainer: Trainer<Bag>, sets: &[Dataset<String>]) -> Result<(Bag, TrainSummary)> {
    let device = Device::flex();
    trainer.fit_spooled(Bag::new(&device, 4, 0.2), &spooled(sets), &device)
}

/// Two sets of pairs, the second with some items of the first.
fn pairs() -> [Dataset<String>; 2] {
    let (questions, answers) = questions_and_answers();
    let first = Dataset::pairs(questions.clone(), answers.clone(), vec![]).unwrap();
    let answers = answers.into_iter().rev().take(5).collect();
    let second = Dataset::pairs(questions[..5].to_vec(), answers, vec![]).unwrap();
    [first, second]
}

/// Two sets of labelled items with a label in common.
fn topics() -> [Dataset<String>; 2] {
    let (questions, answers) = questions_and_answers();
    let label = |i: usize| format!("topic {i}");
    let labels: Vec<String> = (0..12).chain(0..12).map(label).collect();
    let first = Dataset::labelled([&questions[..], &answers].concat(), &labels).unwrap();
    let labels: Vec<String> = (11..13).chain(11..13).map(label).collect();
    let second = Dataset::labelled([&questions[..2], &answers[..2]].concat(), &labels).unwrap();
    [first, second]
}

#[test]
fn a_run_on_a_file_is_that_in_memory() {
    let _turn = exclusive();
    let two_of_a_class = || {
        let options = Options::from_iter([("samples_per_class".into(), 2.into())]);
        sampler_from_name("class_balanced", &options).unwrap()
    };
    type Make<'a> = &'a dyn Fn() -> Trainer<Bag>;
    let cases: [(Make<'_>, &[Dataset<String>]); 4] = [
        (&|| trainer("multiple_negatives_ranking"), &pairs()),
        (
            &|| {
                trainer("multiple_negatives_ranking")
                    .with_multi_dataset_sampler(MultiDatasetSampler::RoundRobin)
                    .with_mini_batches(3)
                    .unwrap()
            },
            &pairs(),
        ),
        (
            &|| trainer("triplet_margin").with_sampler(two_of_a_class()),
            &topics(),
        ),
        (
            &|| trainer("arc_face").with_sampler(two_of_a_class()),
            &topics()[..1],
        ),
    ];
    for (make, sets) in cases {
        let (memory, expected) = in_memory(make(), sets).unwrap();
        let (file, found) = in_a_file(make(), sets).unwrap();
        assert_eq!(found.losses, expected.losses);
        assert_eq!(found.steps, expected.steps);
        assert_eq!(file.weights(), memory.weights());
    }
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

type Fit = fn(Trainer<Bag>, &[Dataset<String>]) -> Result<(Bag, TrainSummary)>;

/// A checkpoint knows its data by what it is, wherever it is.
#[test]
fn a_run_resumes_from_memory_on_a_file_and_the_other_way_round() {
    let _turn = exclusive();
    let sets = pairs();
    let make = || trainer("multiple_negatives_ranking");
    let (unbroken, whole) = in_memory(make(), &sets).unwrap();
    let ways: [[Fit; 2]; 3] = [
        [in_memory, in_a_file],
        [in_a_file, in_memory],
        [in_a_file, in_a_file],
    ];
    for [before, after] in ways {
        let directory = tempfile::tempdir().unwrap();
        let stopped = make()
            .with_checkpoints(directory.path())
            .with_callback(StopAt(4));
        let (_, first) = before(stopped, &sets).unwrap();
        let checkpoint = latest(directory.path()).unwrap().unwrap();
        let (resumed, second) = after(make().resume_from(&checkpoint), &sets).unwrap();
        assert_eq!([first.losses, second.losses].concat(), whole.losses);
        assert_eq!(resumed.weights(), unbroken.weights());
        let error = after(make().resume_from(&checkpoint), &sets[..1]).unwrap_err();
        assert!(error.to_string().contains("state.json"), "{error}");
    }
}

#[test]
fn an_item_that_cannot_be_used_is_found_before_the_first_step() {
    let _turn = exclusive();
    let (mut questions, answers) = questions_and_answers();
    questions[11] = " ".into();
    let sets = [Dataset::pairs(questions, answers, vec![]).unwrap()];
    let make = || trainer("multiple_negatives_ranking").with_callback(NoStep);
    let expected = in_memory(make(), &sets).unwrap_err().to_string();
    assert_eq!(in_a_file(make(), &sets).unwrap_err().to_string(), expected);
}

struct NoStep;

impl<E: Embedder> Callback<E> for NoStep {
    fn on_step_end(&mut self, _: &mut Context<'_, E>) -> Result<()> {
        panic!("a step was made")
    }
}

/// What stays in memory of a row is the numbers of its items and what they are known again by.
#[test]
fn memory_does_not_grow_with_the_length_of_rows() {
    const ROWS: usize = 50_000;
    const LENGTH: usize = 500;
    let _turn = exclusive();
    let text = |side: &str, row: usize| format!("{side}{row} {:1$}", "word", LENGTH - 10);
    let run = || {
        let mut writer = SpoolWriter::create(std::env::temp_dir(), ItemCodec::TEXTS).unwrap();
        for row in 0..ROWS {
            writer.push(vec![text("q", row), text("a", row)]).unwrap();
        }
        writer.end_set(Targets::None).unwrap();
        let sets = writer.finish().unwrap();
        let config = TrainConfig {
            max_steps: Some(3),
            ..TrainConfig::default()
        };
        let loss = loss_from_name("multiple_negatives_ranking", &Options::new()).unwrap();
        let device = Device::flex();
        let trainer = Trainer::new(config, loss).unwrap();
        let bag = Bag::new(&device, 4, 0.0);
        trainer.fit_spooled(bag, &sets, &device).unwrap().1.steps
    };
    let (steps, peak) = counting::peak(run);
    assert_eq!(steps, 3);
    println!("{peak} bytes for {} bytes of rows", ROWS * 2 * LENGTH);
    assert!(peak < ROWS * 2 * LENGTH / 3, "{peak} bytes");
}
