//! Steps of several batches.
#![cfg(feature = "flex")]

mod common;

use burn::tensor::Device;
use common::{Bag, exclusive, questions_and_answers};
use fin_core::{Embedder, Error, Result};
use fin_train::callback::{Callback, Context};
use fin_train::checkpoint::latest;
use fin_train::dataset::{Dataset, ScoreRange};
use fin_train::sampler::{Examples, Sampler};
use fin_train::{
    LoraConfig, Options, TrainConfig, TrainSummary, Trainer, loss_from_name, sampler_from_name,
};
use serde_json::json;

fn config(batch_size: usize, steps: usize) -> TrainConfig {
    TrainConfig {
        epochs: 3,
        batch_size,
        gradient_accumulation_steps: steps,
        learning_rate: 0.5,
        optimizer: "sgd".into(),
        ..TrainConfig::default()
    }
}

fn scored() -> Dataset<String> {
    let (questions, answers) = questions_and_answers();
    let scores = (0..questions.len()).map(|i| (i % 4) as f32 / 3.0).collect();
    Dataset::scored_pairs(questions, answers, scores, ScoreRange::default()).unwrap()
}

fn topics() -> Dataset<String> {
    let (questions, answers) = questions_and_answers();
    let labels: Vec<String> = (0..2 * questions.len())
        .map(|i| (i % questions.len()).to_string())
        .collect();
    Dataset::labelled([questions, answers].concat(), &labels).unwrap()
}

type Change<'a> = &'a dyn Fn(Trainer<Bag>) -> Trainer<Bag>;

fn fit_scored(config: TrainConfig, change: Change) -> (Bag, TrainSummary) {
    let device = Device::flex();
    let loss = loss_from_name("cosine_similarity", &Options::new()).unwrap();
    change(Trainer::new(config, loss).unwrap())
        .fit(Bag::new(&device, 3, 0.0), &scored(), &device)
        .unwrap()
}

fn values(bag: &Bag) -> Vec<f32> {
    let weights = bag.weights().into_iter();
    weights
        .flat_map(|(_, bits)| bits.into_iter().map(f32::from_bits))
        .collect()
}

/// The weights of two runs agree, as far as they moved at all.
fn agree(a: &Bag, b: &Bag, what: &str) {
    let start = values(&Bag::new(&Device::flex(), 3, 0.0));
    let (a, b) = (values(a), values(b));
    let moved = |x: &[f32]| {
        let moved = x.iter().zip(&start).map(|(x, start)| (x - start).abs());
        moved.fold(0.0f32, f32::max)
    };
    assert!(moved(&a) > 0.1, "{what}: {}", moved(&a));
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 1e-5, "{what}: {a} against {b}");
    }
}

/// Joins groups of a shuffle's batches.
#[derive(Debug)]
struct Joined(usize);

impl Sampler for Joined {
    fn name(&self) -> &'static str {
        "joined"
    }

    fn options(&self) -> Options {
        Options::new()
    }

    fn epoch(
        &self,
        examples: &Examples<'_>,
        batch_size: usize,
        seed: u64,
        epoch: usize,
    ) -> Result<Vec<Vec<usize>>> {
        let random = sampler_from_name("random", &Options::new())?;
        let batches = random.epoch(examples, batch_size, seed, epoch)?;
        Ok(batches.chunks(self.0).map(<[_]>::concat).collect())
    }
}

/// A loss that is a mean over examples has the same gradients over a batch and over its parts; where
/// the parts of an epoch do not fill the last step, the mean is over those that there are.
#[test]
fn a_step_of_several_batches_is_a_step_of_their_mean() {
    let _turn = exclusive();
    for (size, count, steps) in [(4, 3, 1), (3, 2, 2), (4, 2, 2), (2, 4, 2), (6, 8, 1)] {
        let what = format!("{count} batches of {size}");
        let (parts, found) = fit_scored(config(size, count), &|trainer| trainer);
        let (whole, expected) = fit_scored(config(size, 1), &|trainer| {
            trainer.with_sampler(Box::new(Joined(count)))
        });
        assert_eq!((found.steps, found.losses.len()), (3 * steps, 3 * steps));
        assert_eq!(expected.total_steps, found.total_steps);
        for (a, b) in found.losses.iter().zip(&expected.losses) {
            assert!((a - b).abs() < 1e-5, "{what}: {a} against {b}");
        }
        agree(&parts, &whole, &what);
        // In parts of parts, too.
        let (cached, _) = fit_scored(config(size, count), &|trainer| {
            trainer.with_mini_batches(2).unwrap()
        });
        agree(&cached, &whole, &what);
    }
    // Without it a step is a batch, and the run another.
    let (single, summary) = fit_scored(config(4, 1), &|trainer| trainer);
    assert_eq!(summary.steps, 9);
    let (parts, _) = fit_scored(config(4, 3), &|trainer| trainer);
    assert_ne!(single.weights(), parts.weights());
}

#[test]
fn the_limit_of_the_norm_is_on_the_mean_and_steps_end_the_run() {
    let _turn = exclusive();
    let clipped = |size, count| TrainConfig {
        max_grad_norm: 0.2,
        max_steps: Some(2),
        ..config(size, count)
    };
    let (parts, found) = fit_scored(clipped(3, 2), &|trainer| trainer);
    let (whole, _) = fit_scored(clipped(6, 1), &|trainer| trainer);
    assert_eq!((found.steps, found.total_steps), (2, 2));
    let (a, b) = (values(&parts), values(&whole));
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 1e-5, "{a} against {b}");
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

/// With dropout, class vectors, gradient caching and adapters: a run that is cut off in the middle of
/// an epoch and resumed has the losses and the weights of an unbroken one, to the bit.
#[test]
fn a_resumed_run_of_several_batches_a_step_is_exact() {
    let _turn = exclusive();
    let device = Device::flex();
    let run = |steps: usize, loss: &str, change: Change| {
        let loss = loss_from_name(loss, &Options::new()).unwrap();
        let config = TrainConfig {
            optimizer: "adamw".into(),
            learning_rate: 0.01,
            ..config(5, steps)
        };
        change(Trainer::new(config, loss).unwrap()).fit(
            Bag::new(&device, 11, 0.2),
            &topics(),
            &device,
        )
    };
    let lora = LoraConfig {
        rank: 2,
        targets: vec!["dense".into()],
        ..LoraConfig::default()
    };
    let kinds: [(&str, &str, Change); 3] = [
        ("plain", "arc_face", &|trainer| trainer),
        ("cached", "arc_face", &|trainer| {
            trainer.with_mini_batches(2).unwrap()
        }),
        ("adapters", "proxy_anchor", &|trainer| {
            trainer.with_lora(lora.clone(), None).unwrap()
        }),
    ];
    for (what, loss, change) in kinds {
        let directory = tempfile::tempdir().unwrap();
        let (unbroken, whole) = run(2, loss, change).unwrap();
        // 24 items are 5 batches, which are 3 steps.
        assert_eq!(whole.steps, 9, "{what}");
        let (_, half) = run(2, loss, &|trainer| {
            change(trainer)
                .with_checkpoints(directory.path())
                .with_callback(StopAt(4))
        })
        .unwrap();
        let checkpoint = latest(directory.path()).unwrap().unwrap();
        let resume = |trainer| change(trainer).resume_from(&checkpoint);
        let (resumed, rest) = run(2, loss, &resume).unwrap();
        assert_eq!(half.steps, 4);
        assert_eq!([half.losses, rest.losses].concat(), whole.losses, "{what}");
        assert_eq!(resumed.weights(), unbroken.weights(), "{what}");

        let error = run(3, loss, &resume).unwrap_err();
        let field = "config.gradient_accumulation_steps";
        assert!(
            matches!(&error, Error::Config { field: found, .. } if found == field),
            "{error}"
        );
    }
}

/// Batches of a step draw their dropout apart from each other.
#[test]
fn dropout_differs_from_batch_to_batch_of_a_step() {
    let _turn = exclusive();
    let device = Device::flex();
    let (questions, answers) = questions_and_answers();
    let same = |texts: &[String]| vec![texts[0].clone(); 2];
    let data = Dataset::scored_pairs(
        same(&questions),
        same(&answers),
        vec![0.5; 2],
        ScoreRange::default(),
    )
    .unwrap();
    let loss_of = |options: serde_json::Value| {
        let config: TrainConfig = serde_json::from_value(options).unwrap();
        let loss = loss_from_name("cosine_similarity", &Options::new()).unwrap();
        let trainer = Trainer::new(config, loss).unwrap();
        let bag = Bag::new(&device, 5, 0.5);
        trainer.fit(bag, &data, &device).unwrap().1.losses[0]
    };
    // Both examples are equal: were the masks too, the mean would be the first batch's loss.
    let first = loss_of(json!({"batch_size": 1, "max_steps": 1}));
    let mean = loss_of(json!({"batch_size": 1, "gradient_accumulation_steps": 2}));
    assert!((first - mean).abs() > 1e-6, "{first} and {mean}");
}
