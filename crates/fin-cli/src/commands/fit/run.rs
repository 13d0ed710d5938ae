//! A training run from its settings to the saved model.

use std::time::Instant;

use fin_core::{Embedder, Error};
use fin_registry::{Modality, Registry};
use fin_train::callback::{EarlyStopping, Evaluate, Log, Mode, ProgressBar};
use fin_train::evaluate::Evaluator;
use fin_train::{Adapters, LossOptimizer, Trainer, loss_from_name, sampler_from_name};
use serde_json::json;

use super::FitArgs;
use super::data::Data;
use super::settings::{Settings, options};
use super::workspace::Workspace;
use crate::data::metric_rows;
use crate::family::{Family, for_family};
use crate::model::OpenModel;
use crate::report::{self, Format, Result, count, note, rounded};

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

    let log = settings.log.as_ref().map(Log::new).transpose()?;
    let stopping = settings.early_stopping()?;
    let lora = settings.lora()?;
    let workspace = Workspace::new(required.output, args.overwrite, settings)?;
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
        train: dataset,
        evaluation,
        held_out,
    } = settings.data::<F>(loss.as_ref(), required.train)?;

    let device = settings.device()?.open()?;
    // New weights, where there are any, depend on the seed too.
    device.seed(seed);
    let OpenModel {
        embedder: model,
        max_length,
        ..
    } = OpenModel::<F>::by_name(required.model, &model_options, registry)?;
    note!(
        "{} of {}",
        count(dataset.len(), "example", "examples"),
        required.train.display()
    );

    let begin = Instant::now();
    let before = match &evaluation {
        Some(evaluation) => Some(evaluation.evaluate(&model, &device)?),
        None => None,
    };
    let mut trainer = Trainer::new(config, loss)?;
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
    if let Some(evaluation) = evaluation {
        trainer = trainer.with_callback(Evaluate::each_epoch(evaluation));
    }
    if let Some(log) = log {
        trainer = trainer.with_callback(log);
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
    let (model, summary) = trainer.fit(model, &dataset, &device).inspect_err(|_| {
        if workspace.keep_what_can_be_resumed() {
            let directory = workspace.checkpoints().display();
            note!("checkpoints to go on from with --resume are in {directory}");
        }
    })?;
    model.save(workspace.output())?;
    workspace.end()?;

    let seconds = begin.elapsed().as_secs_f64();
    report::note_truncated(summary.truncated, max_length);
    note!(
        "{} in {seconds:.1} s, {:.0} {}/s; the model is in {}",
        count(summary.losses.len(), "step", "steps"),
        summary.items_per_second,
        F::NAMES[1],
        workspace.output().display()
    );
    let after = summary.metrics.last().map(|record| &record.metrics);
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
            "train": required.train,
            "examples": dataset.len(),
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
            "output": workspace.output(),
        })),
    }
}

impl Settings {
    /// When to end before the last epoch, where that is asked for.
    fn early_stopping(&self) -> Result<Option<EarlyStopping>> {
        let fail = |reason| Err(Error::argument("patience", reason).into());
        match (&self.monitor, self.patience) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) if self.eval.is_none() && self.validation_fraction.is_none() => {
                fail("there is nothing to measure; give --eval too")
            }
            (Some(monitor), Some(patience)) => {
                let stopping = EarlyStopping::new(monitor, Mode::Max, patience)?;
                Ok(Some(
                    stopping.with_min_delta(self.min_delta.unwrap_or(0.0))?,
                ))
            }
            _ => fail("--monitor and --patience belong together; give both"),
        }
    }
}
