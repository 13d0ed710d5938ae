//! The training loop.

mod gradients;
mod items;
mod plan;

use std::fmt;
use std::hash::Hash;
use std::path::PathBuf;
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::tensor::Device;
use fin_core::{Embedder, EmbeddingNetwork, Error, Result};
use serde::{Deserialize, Serialize};

use crate::callback::{Callback, Context, MetricRecord, Progress};
use crate::checkpoint::{self, Named, TrainState, Trained};
use crate::config::TrainConfig;
use crate::dataset::{Dataset, RunData, SpooledSets, TargetKind};
use crate::history::History;
use crate::lora::LoraConfig;
use crate::loss::{Loss, LossShape};
use crate::optim::{AdamW, Optimizer, OptimizerConfig, groups};
use crate::registry::Options;
use crate::sampler::{Examples, MultiDatasetSampler, Sampler, about_set, sampler_from_name};
use gradients::{Batch, Items};
use items::Source;
use plan::Plan;

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainSummary {
    /// Optimiser steps done, those before a resumption included.
    pub steps: usize,
    /// Optimiser steps that the run was to have.
    pub total_steps: usize,
    /// Loss of every step of this run, in order.
    pub losses: Vec<f32>,
    /// Loss of every step before a resumption, as far as the checkpoint has them.
    pub earlier_losses: Vec<f32>,
    /// Seconds from the first step to the end, callbacks and checkpoints included.
    pub seconds: f64,
    /// Items embedded a second, callbacks and checkpoints not counted.
    pub items_per_second: f64,
    /// Distinct items that were cut to the model's maximum length.
    pub truncated: usize,
    /// What callbacks measured, before a resumption too.
    pub metrics: Vec<MetricRecord>,
    /// What was measured on the network that came out, where that is the best one rather than the
    /// last.
    pub best: Option<MetricRecord>,
    /// Whether a callback ended the run early.
    pub stopped: bool,
    /// The last checkpoint that was written.
    pub checkpoint: Option<PathBuf>,
}

/// Settings of the optimiser of a loss's own parameters, if it has any: [`AdamW`] without a limit
/// of the gradients' norm, at a learning rate that follows the schedule of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossOptimizer {
    /// Largest learning rate of the schedule. Default: 0.01, as class vectors that begin at random
    /// have farther to go than a pretrained network.
    pub learning_rate: f64,
    /// Weight decay. Default: 0.
    pub weight_decay: f64,
}

impl Default for LossOptimizer {
    fn default() -> Self {
        Self {
            learning_rate: 0.01,
            weight_decay: 0.0,
        }
    }
}

impl LossOptimizer {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what is accepted.
    pub fn validate(&self) -> Result<()> {
        for (field, value) in [
            ("loss_optimizer.learning_rate", self.learning_rate),
            ("loss_optimizer.weight_decay", self.weight_decay),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                let reason = format!("{value} is not a number of at least 0");
                return Err(Error::argument(field, reason));
            }
        }
        Ok(())
    }

    fn optimizer(&self) -> Optimizer {
        let config = OptimizerConfig {
            weight_decay: Some(self.weight_decay),
            max_grad_norm: 0.0,
        };
        Optimizer::new(Box::new(AdamW::default()), &config)
    }
}

/// Where the adapters of a run are written: [`LoraConfig::save_adapters`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapters {
    /// The directory.
    pub directory: PathBuf,
    /// Name or directory of the model that they belong to.
    pub base: String,
}

/// A training run: settings, loss, sampler and callbacks, for any embedder.
///
/// A run is a function of the embedder, the data and the settings: batches depend on the seed and
/// the epoch, dropout on the seed and the step. The random generator of a device is shared by the
/// whole process, so that two runs at a time on one device disturb each other's dropout.
pub struct Trainer<E: Embedder> {
    config: TrainConfig,
    loss: Box<dyn Loss>,
    loss_optimizer: LossOptimizer,
    mini_batch_size: Option<usize>,
    lora: Option<(LoraConfig, Option<Adapters>)>,
    sampler: Box<dyn Sampler>,
    multi_dataset_sampler: MultiDatasetSampler,
    callbacks: Vec<Box<dyn Callback<E>>>,
    checkpoints: Option<PathBuf>,
    resume: Option<PathBuf>,
}

impl<E: Embedder> fmt::Debug for Trainer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("config", &self.config)
            .field("loss", &self.loss)
            .field("sampler", &self.sampler)
            .finish_non_exhaustive()
    }
}

impl<E: Embedder> Trainer<E> {
    /// A run with the sampler that suits the loss and without callbacks.
    ///
    /// # Errors
    /// Those of [`TrainConfig::validate`].
    pub fn new(config: TrainConfig, loss: Box<dyn Loss>) -> Result<Self> {
        config.validate()?;
        let sampler = sampler_from_name(loss.default_sampler(), &Options::new())?;
        Ok(Self {
            config,
            loss,
            loss_optimizer: LossOptimizer::default(),
            mini_batch_size: None,
            lora: None,
            sampler,
            multi_dataset_sampler: MultiDatasetSampler::default(),
            callbacks: Vec::new(),
            checkpoints: None,
            resume: None,
        })
    }

    /// With another sampler.
    pub fn with_sampler(mut self, sampler: Box<dyn Sampler>) -> Self {
        self.sampler = sampler;
        self
    }

    /// With another order of turns for [`Trainer::fit_all`].
    pub fn with_multi_dataset_sampler(mut self, sampler: MultiDatasetSampler) -> Self {
        self.multi_dataset_sampler = sampler;
        self
    }

    /// With other settings for the parameters of the loss; of no consequence where it has none.
    ///
    /// # Errors
    /// Those of [`LossOptimizer::validate`].
    pub fn with_loss_optimizer(mut self, settings: LossOptimizer) -> Result<Self> {
        settings.validate()?;
        self.loss_optimizer = settings;
        Ok(self)
    }

    /// With gradient caching (Gao et al. 2021, "Scaling deep contrastive learning batch size under
    /// memory limited setup"): the network sees this many examples at a time, while the loss is over
    /// the whole batch, as in `CachedMultipleNegativesRankingLoss` of sentence-transformers. It goes
    /// for every loss.
    ///
    /// Memory is that of a mini-batch; every item is embedded twice. Gradients are those without,
    /// up to rounding, for networks that treat items apart from each other; dropout is drawn anew
    /// for every mini-batch and is the same both times.
    ///
    /// # Errors
    /// [`Error::Argument`] where the size is 0.
    pub fn with_mini_batches(mut self, size: usize) -> Result<Self> {
        if size == 0 {
            return Err(Error::argument(
                "mini_batch_size",
                "0 is too small; 1 or more are needed",
            ));
        }
        self.mini_batch_size = Some(size);
        Ok(self)
    }

    /// With low-rank adapters on some weights, which alone are trained. The network that comes out of
    /// the run has them added to its weights; `adapters` is where they are written apart as well.
    ///
    /// # Errors
    /// Those of [`LoraConfig::validate`].
    pub fn with_lora(mut self, config: LoraConfig, adapters: Option<Adapters>) -> Result<Self> {
        config.validate()?;
        self.lora = Some((config, adapters));
        Ok(self)
    }

    /// With a further callback; they are called in the order in which they were added.
    pub fn with_callback(mut self, callback: impl Callback<E> + 'static) -> Self {
        self.callbacks.push(Box::new(callback));
        self
    }

    /// With checkpoints in this directory, as `step-00000500`, every
    /// [`TrainConfig::checkpoint_every_steps`] steps and where a callback ends the run.
    pub fn with_checkpoints(mut self, directory: impl Into<PathBuf>) -> Self {
        self.checkpoints = Some(directory.into());
        self
    }

    /// Goes on from this checkpoint, made with the same settings and data;
    /// [`checkpoint::latest`] finds the newest.
    pub fn resume_from(mut self, checkpoint: impl Into<PathBuf>) -> Self {
        self.resume = Some(checkpoint.into());
        self
    }

    /// Trains the embedder's network on `device`. Returns the embedder with the trained network,
    /// in inference mode on the same device without autodiff.
    ///
    /// # Errors
    /// [`Error::Argument`] where data and loss do not fit, or where the loss or its gradient is
    /// not finite: the error names the step. Further those of preprocessing, of callbacks, of
    /// writing checkpoints, and [`Error::Config`] where a checkpoint to resume from was made with
    /// other settings or data.
    pub fn fit(
        self,
        embedder: E,
        dataset: &Dataset<E::Item>,
        device: &Device,
    ) -> Result<(E, TrainSummary)>
    where
        E::Item: Hash + Eq,
    {
        self.fit_all(embedder, std::slice::from_ref(dataset), device)
    }

    /// [`Trainer::fit`] on several data sets with one loss. Every batch is of one set; whose turn it
    /// is says [`Trainer::with_multi_dataset_sampler`]. Sets may differ in their number of columns
    /// where the loss takes either; labels of one name are one class in all sets.
    ///
    /// # Errors
    /// Those of [`Trainer::fit`], with the number of the set, counted from 1; [`Error::Argument`]
    /// where there is no set.
    pub fn fit_all(
        self,
        embedder: E,
        datasets: &[Dataset<E::Item>],
        device: &Device,
    ) -> Result<(E, TrainSummary)>
    where
        E::Item: Hash + Eq,
    {
        let shape = |set: &Dataset<E::Item>| (set.columns().len(), set.targets().kind());
        let shapes: Vec<_> = datasets.iter().map(shape).collect();
        self.check(&shapes)?;
        self.run(embedder, RunData::of(datasets), device)
    }

    /// [`Trainer::fit_all`] on data sets whose items lie in a file: the same batches, and the same
    /// network to the bit. Items are preprocessed when their batch comes; before the first step all
    /// of them once, so that one that cannot be used is found.
    ///
    /// # Errors
    /// Those of [`Trainer::fit_all`]; [`Error::Argument`] where the embedder is not
    /// [`Embedder::preprocesses_alone`].
    pub fn fit_spooled(
        self,
        embedder: E,
        sets: &SpooledSets<E::Item>,
        device: &Device,
    ) -> Result<(E, TrainSummary)>
    where
        E::Item: Hash + Eq,
    {
        let sets_of = sets.sets().iter();
        let shapes: Vec<_> = sets_of
            .map(|set| (set.columns().len(), set.targets().kind()))
            .collect();
        self.check(&shapes)?;
        self.run(embedder, RunData::spooled(sets)?, device)
    }

    /// Checks that sets of so many columns and such targets can be trained on, and that checkpoints
    /// can be written.
    fn check(&self, sets: &[(usize, TargetKind)]) -> Result<()> {
        if sets.is_empty() {
            return Err(Error::argument("dataset", "none is given; one is needed"));
        }
        for (number, &(columns, targets)) in sets.iter().enumerate() {
            self.loss
                .accepts()
                .check(self.loss.name(), columns, targets)
                .map_err(|error| about_set(number, sets.len(), error))?;
        }
        if self.config.checkpoint_every_steps.is_some() && self.checkpoints.is_none() {
            return Err(Error::argument(
                "checkpoint_every_steps",
                "no directory for checkpoints is given",
            ));
        }
        if let (Some(directory), None) = (&self.checkpoints, &self.resume) {
            checkpoint::check_unused(directory)?;
        }
        Ok(())
    }

    fn run(
        mut self,
        embedder: E,
        data: RunData<'_, E::Item>,
        device: &Device,
    ) -> Result<(E, TrainSummary)> {
        let plain = device.clone().without_autodiff();
        let RunData {
            columns,
            targets,
            fingerprint,
            items,
        } = data;
        let examples: Vec<Examples<'_>> = columns
            .iter()
            .zip(&targets)
            .map(|(columns, targets)| Examples { columns, targets })
            .collect();
        let draw = |epoch| {
            let (size, seed) = (self.config.batch_size, self.config.seed);
            let sampler = self.sampler.as_ref();
            self.multi_dataset_sampler
                .epoch(sampler, &examples, size, seed, epoch)
        };
        let plan = Plan::new(&self.config, self.sampler.name(), |epoch| {
            draw(epoch).map(|batches| batches.len())
        })?;
        let schedule = self.config.schedule()?;

        let mut state = TrainState::new(
            self.config.clone(),
            Named {
                name: self.loss.name().into(),
                options: self.loss.options(),
            },
            Named {
                name: self.sampler.name().into(),
                options: self.sampler.options(),
            },
            fingerprint,
            plan.total,
        );
        self.loss.prepare(&LossShape {
            classes: targets[0].classes(),
            dim: embedder.network().output_dim(),
            logit_scale: embedder.network().logit_scale(),
            seed: self.config.seed,
            device: plain.clone(),
        })?;
        let mut loss_optimizer = self.loss_optimizer.optimizer();
        state.mini_batch_size = self.mini_batch_size;
        state.multi_dataset_sampler = (examples.len() > 1).then_some(self.multi_dataset_sampler);
        if self.loss.has_parameters() {
            state.loss_optimizer = Some(self.loss_optimizer.clone());
        }
        let mut network = embedder.network().clone().fork(&plain);
        if let Some((lora, _)) = &self.lora {
            state.lora = Some(lora.clone());
            network = lora.attach(network, &embedder.names(), self.config.seed)?;
        }
        let groups = groups(
            &network,
            &embedder.names(),
            self.config.layer_decay,
            &self.config.no_decay,
        );
        let optimizer = self.config.optimizer()?.with_groups(groups);
        let (network, mut optimizer) = match &self.resume {
            None => (network, optimizer),
            Some(directory) => {
                state.step = state.verify(directory)?;
                if let Some((name, parameters)) = self.loss.parameters() {
                    let (parameters, restored) = checkpoint::load_loss(
                        directory,
                        name,
                        &parameters,
                        loss_optimizer,
                        &plain,
                    )?;
                    self.loss.set_parameters(parameters);
                    loss_optimizer = restored;
                }
                if let Some(memory) = self.loss.memory() {
                    let dim = embedder.network().output_dim();
                    let classes = targets[0].classes();
                    let memory = checkpoint::load_memory(directory, memory, dim, classes)?;
                    self.loss.set_memory(memory);
                }
                checkpoint::load(directory, &embedder, network, optimizer, &plain)?
            }
        };
        let mut network = network.train();
        if let Some((_, parameters)) = self.loss.parameters() {
            self.loss.set_parameters(parameters.train());
        }

        let (source, truncated) = Source::new(items, &embedder, &plain)?;
        let items = Items {
            embedder: &embedder,
            source,
            device: &plain,
            mini_batch_size: self.mini_batch_size,
        };
        let mut progress = Progress {
            step: state.step,
            total_steps: plan.total,
            epoch: plan.epoch_of(state.step),
            epochs: self.config.epochs,
            loss: f32::NAN,
            learning_rate: 0.0,
            grad_norm: f64::NAN,
            items: 0,
            seconds: 0.0,
        };
        let history = self.resume.as_deref().map(checkpoint::history);
        let History {
            mut losses,
            mut records,
        } = history.transpose()?.unwrap_or_default();
        let earlier = losses.len();
        let (mut stop, mut best, mut written) = (false, None, None);
        let begin = Instant::now();
        macro_rules! call {
            ($method:ident) => {
                for callback in &mut self.callbacks {
                    callback.$method(&mut Context {
                        progress,
                        embedder: &embedder,
                        network: &network,
                        device: &plain,
                        records: &mut records,
                        stop: &mut stop,
                        loss: self.loss.as_ref(),
                        best: &mut best,
                    })?;
                }
            };
        }

        call!(on_train_begin);
        for epoch in progress.epoch.saturating_sub(1)..self.config.epochs {
            let first = plan.starts[epoch];
            if stop || state.step >= plan.total || first.step >= plan.total {
                break;
            }
            progress.epoch = epoch + 1;
            let batches = draw(epoch)?;
            let groups = batches.chunks(self.config.gradient_accumulation_steps);
            let ended = first.step + groups.len();
            for (number, group) in groups.enumerate().skip(state.step - first.step) {
                let start = Instant::now();
                let step = state.step;
                let before = first.batch + number * self.config.gradient_accumulation_steps;
                let mut sum = GradientsAccumulator::new();
                let mut sum_of_loss = GradientsAccumulator::new();
                let (mut value, mut rows) = (0.0, 0);
                for (batch, number) in group.iter().zip(before..) {
                    let set = &examples[batch.dataset];
                    let column = |column: &Vec<usize>| {
                        let examples = batch.examples.iter();
                        examples.map(|&example| column[example]).collect()
                    };
                    let made = Batch {
                        columns: set.columns.iter().map(column).collect(),
                        targets: set.targets.select(&batch.examples),
                        seed: mix(self.config.seed, number as u64),
                        step,
                        batches: group.len(),
                    };
                    let found = items.gradients(&network, self.loss.as_ref(), &made)?;
                    self.loss.observe(&found.embeddings, &made.targets)?;
                    value += found.loss;
                    rows += batch.examples.len() * set.columns.len();
                    sum.accumulate(&network, found.network);
                    if let (Some(gradients), Some((_, parameters))) =
                        (found.parameters, self.loss.parameters())
                    {
                        sum_of_loss.accumulate(&parameters, gradients);
                    }
                }
                let value = value / group.len() as f32;
                let factor = schedule.factor(step, plan.total);
                if let Some((_, parameters)) = self.loss.parameters() {
                    let gradients = sum_of_loss.grads();
                    let rate = self.loss_optimizer.learning_rate * factor;
                    let (updated, norm) = loss_optimizer.step(parameters, gradients, rate)?;
                    self.loss.set_parameters(match self.loss.bounds() {
                        Some(bounds) => updated.clamped(bounds),
                        None => updated,
                    });
                    if !norm.is_finite() {
                        return Err(diverged("norm of the loss's gradients", step, norm));
                    }
                }
                let learning_rate = self.config.learning_rate * factor;
                let (updated, norm) = optimizer.step(network, sum.grads(), learning_rate)?;
                network = updated;
                if !norm.is_finite() {
                    return Err(diverged("norm of the gradients", step, norm));
                }
                losses.push(value);
                state.step += 1;
                progress = Progress {
                    step: state.step,
                    loss: value,
                    learning_rate,
                    grad_norm: norm,
                    items: progress.items + rows,
                    seconds: progress.seconds + start.elapsed().as_secs_f64(),
                    ..progress
                };
                call!(on_step_end);
                if state.step == ended {
                    call!(on_epoch_end);
                }
                let last = state.step == plan.total;
                let due = self
                    .config
                    .checkpoint_every_steps
                    .is_some_and(|every| state.step.is_multiple_of(every));
                if let Some(directory) = &self.checkpoints
                    && (due || (stop && !last))
                {
                    let keep = self.config.keep_checkpoints;
                    let trained = Trained {
                        network: &network,
                        optimizer: &optimizer,
                        loss: self.loss.parameters(),
                        loss_optimizer: &loss_optimizer,
                        memory: self.loss.memory(),
                        losses: &losses,
                        records: &records,
                    };
                    written = Some(checkpoint::save(
                        directory, &embedder, trained, &state, keep,
                    )?);
                }
                if stop || last {
                    break;
                }
            }
        }
        call!(on_train_end);
        let summary = TrainSummary {
            steps: state.step,
            total_steps: plan.total,
            losses: losses.split_off(earlier),
            earlier_losses: losses,
            seconds: begin.elapsed().as_secs_f64(),
            items_per_second: progress.items_per_second(),
            truncated,
            metrics: records,
            best: best.as_ref().map(|best| best.record.clone()),
            stopped: state.step < plan.total,
            checkpoint: written,
        };
        let mut network = network.valid();
        let scale = match best {
            None => self.loss.logit_scale(),
            Some(best) => {
                network = best.network(network, &embedder.names(), &plain)?;
                best.logit_scale
            }
        };
        if let Some((lora, adapters)) = &self.lora {
            if let Some(Adapters { directory, base }) = adapters {
                lora.save_adapters(&network, &embedder.names(), base, directory)?;
            }
            network = network.materialize();
        }
        let network = with_scale(network, scale);
        Ok((embedder.with_network(network), summary))
    }
}

/// A network with the temperature that the loss has learnt, if it has one and the network keeps it.
fn with_scale<N: EmbeddingNetwork>(network: N, learnt: Option<f32>) -> N {
    match (network.logit_scale(), learnt) {
        (Some(_), Some(scale)) => network.with_logit_scale(scale),
        _ => network,
    }
}

/// The error for a loss or gradient that is not finite at a step counted from 0.
fn diverged(what: &str, step: usize, value: f64) -> Error {
    Error::argument(
        "training",
        format!(
            "step {}: the {what} is {value}; try a smaller learning_rate, a longer warmup or a smaller max_grad_norm, \
             and check that the model's weights and the data are sound",
            step + 1
        ),
    )
}

/// SplitMix64's output function (Steele et al. 2014) over the seed and the step, so that
/// neighbouring steps have unrelated generators.
fn mix(seed: u64, step: u64) -> u64 {
    let mut z = seed ^ step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
