//! A training run from its settings to the saved model.

use std::sync::Arc;
use std::time::Instant;

use fin_core::atomic::{self, AtomicDir, AtomicFile};
use fin_core::image::MAX_PIXELS;
use fin_core::{Embedder, EmbeddingNetwork, Error};
use fin_registry::{Modality, Registry};
use fin_train::callback::{BestModel, EarlyStopping, Evaluate, Log, ProgressBar, TensorBoard};
use fin_train::evaluate::Rankings;
use fin_train::{Adapters, LossOptimizer, Metrics, Trainer, loss_from_name, sampler_from_name};
use serde_json::json;

use super::FitArgs;
use super::data::{Data, Train};
use super::outcome::Outcome;
use super::settings::{Settings, options};
use super::workspace::Workspace;
use crate::card;
use crate::data::{Evaluation, metric_rows};
use crate::family::{Family, for_family};
use crate::html;
use crate::model::OpenModel;
use crate::report::{self, Format, Result, count, note, rounded};

/// Queries of a report, and what was found for each.
const SHOWN_QUERIES: usize = 12;
const SHOWN_HITS: usize = 5;

pub fn run(args: &FitArgs, registry: &Registry) -> Result<()> {
    let settings = match &args.config {
        Some(path) => args.settings.over_file(path)?,
        None => args.settings.clone(),
    };
    let modality = registry.modality(settings.required()?.model)?;
    for_family!(modality, run_with(args, &settings, registry, modality))
}

fn run_with<F: Family>(
    args: &FitArgs,
    settings: &Settings,
    registry: &Registry,
    modality: Modality,
) -> Result<()> {
    let required = settings.required()?;
    let config = settings.train_config()?;
    let seed = config.seed;
    let keeps_checkpoints = config.checkpoint_every_steps.is_some();
    let model_options = settings.model_options(modality)?;
    let loss_options = options("loss_option", settings.loss_option.as_ref())?;
    let loss = loss_from_name(required.loss, &loss_options)?;

    if let Some(path) = &settings.report {
        drop(AtomicFile::create(path)?);
    }
    let log = settings.log.as_ref().map(Log::new).transpose()?;
    let stopping = settings.early_stopping()?;
    let lora = settings.lora()?;
    let workspace = Workspace::new(required.output, args.overwrite, settings)?;
    let best = settings.best_model(&workspace);
    let resume = if args.resume {
        let newest = workspace.newest()?;
        match &newest {
            Some(checkpoint) => note!("going on from {}", checkpoint.display()),
            None => note!(
                "no checkpoint in {}; starting from the beginning",
                workspace.checkpoints().display()
            ),
        }
        newest
    } else {
        workspace.expect_no_checkpoints()?;
        None
    };

    let Data {
        train,
        evaluation,
        held_out,
    } = settings.data::<F>(loss.as_ref(), required.train)?;
    let sizes_of_sets = train.sizes();
    let examples: usize = sizes_of_sets.iter().sum();
    if settings.multi_dataset_sampler.is_some() && sizes_of_sets.len() == 1 {
        let reason = "is for several sets of training data; give --train for each";
        return Err(Error::argument("multi_dataset_sampler", reason).into());
    }

    let device = settings.device()?.open()?;
    // New weights, where there are any, depend on the seed too.
    device.seed(seed);
    let OpenModel {
        embedder: model,
        max_length,
        ..
    } = OpenModel::<F>::by_name(required.model, &model_options, registry)?;
    for (&size, train) in sizes_of_sets.iter().zip(required.train) {
        let examples = count(size, "example", "examples");
        note!("{examples} of {}", train.display());
    }

    let sizes = match &evaluation {
        Some(evaluation) => evaluation.sizes.clone(),
        None => Vec::new(),
    };
    let evaluation = evaluation.map(Arc::new);
    let begin = Instant::now();
    let mut rankings = Vec::new();
    let before = match &evaluation {
        Some(evaluation) => {
            rankings = evaluation.rank(&model, &device)?;
            Some(evaluation.measure(&rankings, &model, &device)?)
        }
        None => None,
    };
    if let (Some(monitor), Some(before)) = (&settings.monitor, &before) {
        check_measured(monitor, before)?;
    }
    let mut trainer = Trainer::new(config, loss)?;
    if let Some(sampler) = settings.multi_dataset_sampler {
        trainer = trainer.with_multi_dataset_sampler(sampler);
    }
    if let Some(size) = settings.mini_batch_size {
        trainer = trainer.with_mini_batches(size)?;
    }
    if let Some(lora) = lora {
        let adapters = settings.lora_output.as_ref().map(|directory| Adapters {
            directory: directory.clone(),
            base: required.model.into(),
        });
        trainer = trainer.with_lora(lora, adapters)?;
    }
    if let Some(sampler) = &settings.sampler {
        let sampler_options = options("sampler_option", settings.sampler_option.as_ref())?;
        trainer = trainer.with_sampler(sampler_from_name(sampler, &sampler_options)?);
    } else if settings.sampler_option.is_some() {
        return Err(
            Error::argument("sampler_option", "is for a sampler; give --sampler too").into(),
        );
    }
    let usual = LossOptimizer::default();
    trainer = trainer.with_loss_optimizer(LossOptimizer {
        learning_rate: settings.loss_learning_rate.unwrap_or(usual.learning_rate),
        weight_decay: settings.loss_weight_decay.unwrap_or(usual.weight_decay),
    })?;
    if let Some(evaluation) = &evaluation {
        trainer = trainer.with_callback(Evaluate::each_epoch(Arc::clone(evaluation)));
    }
    if let Some(log) = log {
        trainer = trainer.with_callback(log);
    }
    if let Some(directory) = &settings.tensorboard {
        trainer = trainer.with_callback(TensorBoard::new(directory));
    }
    if let Some(best) = best {
        trainer = trainer.with_callback(best);
        workspace.begin()?;
    }
    if let Some(stopping) = stopping {
        trainer = trainer.with_callback(stopping);
    }
    trainer = trainer.with_callback(ProgressBar::new());
    if keeps_checkpoints {
        trainer = trainer.with_checkpoints(workspace.checkpoints());
        workspace.begin()?;
    }
    if let Some(checkpoint) = resume {
        trainer = trainer.resume_from(checkpoint);
    }
    let fitted = match &train {
        Train::Memory(sets) => trainer.fit_all(model, sets, &device),
        Train::Spooled(sets) => trainer.fit_spooled(model, sets, &device),
    };
    let (model, summary) = fitted.inspect_err(|_| {
        if workspace.keep_what_can_be_resumed() {
            let directory = workspace.checkpoints().display();
            note!("checkpoints to go on from with --resume are in {directory}");
        }
    })?;
    drop(train);
    let after = summary.best.as_ref().or(summary.metrics.last());
    let after = after.map(|record| &record.metrics);
    // What goes with the model appears with it.
    let output = AtomicDir::create(workspace.output())?;
    model.save(output.path())?;
    let outcome = Outcome {
        settings,
        required,
        modality,
        examples,
        dim: model.network().output_dim(),
        sizes,
        before: before.as_ref(),
        after,
        summary: &summary,
    };
    if !settings.no_model_card.unwrap_or_default() {
        let card = outcome.card(output.path(), registry)?;
        atomic::write(output.path().join(card::FILE), card.as_bytes())?;
    }
    output.commit()?;
    workspace.end()?;
    if let Some(path) = &settings.report {
        let (queries, selection) = match &evaluation {
            Some(evaluation) => {
                let earlier = rankings.first();
                let later = evaluation.rank(&model, &device)?;
                let max_pixels = model_options.max_pixels.unwrap_or(MAX_PIXELS);
                shown::<F>(evaluation, earlier, later.first(), max_pixels)
            }
            None => (Vec::new(), String::new()),
        };
        let page = outcome.report(registry, queries, selection).html();
        atomic::write(path, page.as_bytes())?;
        note!("the report is in {}", path.display());
    }

    let seconds = begin.elapsed().as_secs_f64();
    report::note_truncated(summary.truncated, max_length);
    note!(
        "{} in {seconds:.1} s, {:.0} {}/s; the model is in {}",
        count(summary.losses.len(), "step", "steps"),
        summary.items_per_second,
        F::NAMES[1],
        workspace.output().display()
    );
    match (&summary.best, &settings.monitor) {
        (Some(best), Some(monitor)) => note!(
            "the model is that of step {}, epoch {}, with {monitor} {:.4}",
            best.step,
            best.epoch,
            best.metrics.get(monitor).unwrap_or(f64::NAN)
        ),
        (None, Some(monitor)) if settings.load_best == Some(true) => {
            note!("warning: {monitor} was never a number; the model is that of the last step");
        }
        _ => {}
    }
    match args.format {
        Format::Table => match (&before, after) {
            (Some(before), Some(after)) => {
                let rows = metric_rows(&[("before", before), ("after", after)]);
                report::print(&report::columns(&rows))
            }
            _ => Ok(()),
        },
        Format::Json => report::print_json(&json!({
            "model": required.model,
            "train": match required.train {
                [train] => json!(train),
                several => json!(several),
            },
            "examples": examples,
            "held_out": held_out,
            "loss": required.loss,
            "steps": summary.steps,
            "first_loss": summary.losses.first(),
            "last_loss": summary.losses.last(),
            "truncated": summary.truncated,
            "max_length": max_length,
            "seconds": rounded(seconds, 3),
            "items_per_second": rounded(summary.items_per_second, 1),
            "before": before,
            "after": after,
            "epochs": summary.metrics,
            "best": summary.best,
            "output": workspace.output(),
        })),
    }
}

impl Settings {
    /// When to end before the last epoch, where that is asked for.
    fn early_stopping(&self) -> Result<Option<EarlyStopping>> {
        let fail = |field: &str, reason| Err(Error::argument(field, reason).into());
        let loads_best = self.load_best.unwrap_or_default();
        let Some(monitor) = &self.monitor else {
            let given = [
                ("patience", self.patience.is_some()),
                ("load_best", loads_best),
                ("mode", self.mode.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((field, _)) => fail(field, "is about a metric; give --monitor too"),
                None => Ok(None),
            };
        };
        if self.patience.is_none() && !loads_best {
            return fail("monitor", "is for --patience and --load-best; give either");
        }
        if self.eval.is_none() && self.validation_fraction.is_none() {
            return fail("monitor", "there is nothing to measure; give --eval too");
        }
        let Some(patience) = self.patience else {
            let given = [
                ("min_delta", self.min_delta.is_some()),
                ("baseline", self.baseline.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((field, _)) => fail(field, "is about ending early; give --patience too"),
                None => Ok(None),
            };
        };
        let mut stopping = EarlyStopping::new(monitor, self.mode.unwrap_or_default(), patience)?
            .with_min_delta(self.min_delta.unwrap_or(0.0))?;
        if let Some(baseline) = self.baseline {
            stopping = stopping.with_baseline(baseline)?;
        }
        Ok(Some(stopping))
    }

    /// The best network of the run, where it is what is asked for.
    fn best_model(&self, workspace: &Workspace) -> Option<BestModel> {
        let monitor = self
            .monitor
            .as_ref()
            .filter(|_| self.load_best == Some(true))?;
        let mode = self.mode.unwrap_or_default();
        Some(BestModel::new(workspace.best(), monitor, mode).and_load_it())
    }
}

/// Queries with what was found for them before and after, and a sentence about them.
fn shown<F: Family>(
    evaluation: &Evaluation<F::Item>,
    before: Option<&Rankings>,
    after: Option<&Rankings>,
    max_pixels: u64,
) -> (Vec<html::Query>, String) {
    let (Some(before), Some(after)) = (before, after) else {
        return (Vec::new(), String::new());
    };
    let (earlier, _) = evaluation.examples(before, SHOWN_QUERIES, SHOWN_HITS);
    let (later, of) = evaluation.examples(after, SHOWN_QUERIES, SHOWN_HITS);
    let shown = earlier.into_iter().zip(later).map(|(earlier, later)| {
        let earlier = html::query::<F>(earlier, max_pixels).hits;
        html::Query {
            earlier: Some(earlier),
            ..html::query::<F>(later, max_pixels)
        }
    });
    let queries: Vec<html::Query> = shown.collect();
    let selection = format!(
        "{} of {of} queries, spread evenly, each with the nearest {SHOWN_HITS} {} before training \
         and after.",
        queries.len(),
        F::NAMES[1]
    );
    (queries, selection)
}

/// Says before training that a metric is not measured.
fn check_measured(monitor: &str, measured: &Metrics) -> Result<()> {
    if measured.get(monitor).is_some() {
        return Ok(());
    }
    let names: Vec<&str> = measured.iter().map(|(name, _)| name).collect();
    let reason = format!(
        "`{monitor}` is not measured; measured are {}",
        names.join(", ")
    );
    Err(Error::argument("monitor", reason).into())
}
