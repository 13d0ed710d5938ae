//! A training run from its settings to the saved model.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use fin_core::atomic::{self, AtomicDir, AtomicFile};
use fin_core::image::MAX_PIXELS;
use fin_core::input::{Column, ReadOptions, read_scored_pairs};
use fin_core::output::read_npy_f32;
use fin_core::{Embedder, EmbeddingNetwork, Error};
use fin_registry::{Modality, Registry};
use fin_train::callback::{BestModel, EarlyStopping, Evaluate, Log, ProgressBar, TensorBoard};
use fin_train::dataset::{
    ScoreRange, TargetKind, Targets, pairs_from_file, scored_pairs_from_file,
};
use fin_train::evaluate::Rankings;
use fin_train::loss::Loss;
use fin_train::{
    Adapters, Dataset, LossOptimizer, Metrics, Trainer, loss_from_name, sampler_from_name,
};
use serde_json::json;

use super::FitArgs;
use super::outcome::Outcome;
use super::settings::{Settings, columns, options};
use super::workspace::Workspace;
use crate::args::read_options;
use crate::card;
use crate::data::{
    EvalSource, EvalTask, Evaluation, about, labelled_items, metric_rows, note_mixed, pair_columns,
    scored_columns,
};
use crate::family::{Family, Item, Reading, base_of, for_family};
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
    let evaluation_source = settings.evaluation_task(loss.as_ref());

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

    let read = read_options(settings.no_header.unwrap_or_default(), None);
    let chosen = columns(settings.columns.as_ref());
    let kind = loss.accepts().targets;
    let targets = settings.targets.as_deref().unwrap_or_default();
    if !targets.is_empty() && kind != TargetKind::Vectors {
        let reason = format!(
            "are for the loss mse; `{}` takes {kind} from the training data",
            required.loss
        );
        return Err(Error::argument("targets", reason).into());
    }
    if !targets.is_empty() && targets.len() != required.train.len() {
        let reason = format!(
            "{} for {} of training data; one is needed for each",
            count(targets.len(), "file is given", "files are given"),
            count(required.train.len(), "set", "sets")
        );
        return Err(Error::argument("targets", reason).into());
    }
    let sets = required.train.iter().enumerate();
    let datasets = sets
        .map(|(number, train)| {
            let targets = targets.get(number).map(PathBuf::as_path);
            examples::<F>(kind, settings, train, targets, &chosen, read)
        })
        .collect::<Result<Vec<_>>>()?;
    if settings.multi_dataset_sampler.is_some() && datasets.len() == 1 {
        let reason = "is for several sets of training data; give --train for each";
        return Err(Error::argument("multi_dataset_sampler", reason).into());
    }
    let evaluation = match evaluation_source {
        Some(task) => settings.evaluation::<F>(task, read)?,
        None => None,
    };

    let device = settings.device()?.open()?;
    // New weights, where there are any, depend on the seed too.
    device.seed(seed);
    let OpenModel {
        embedder: model,
        max_length,
        ..
    } = OpenModel::<F>::by_name(required.model, &model_options, registry)?;
    for (dataset, train) in datasets.iter().zip(required.train) {
        let examples = count(dataset.len(), "example", "examples");
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
    let (model, summary) = trainer
        .fit_all(model, &datasets, &device)
        .inspect_err(|_| {
            if workspace.keep_what_can_be_resumed() {
                let directory = workspace.checkpoints().display();
                note!("checkpoints to go on from with --resume are in {directory}");
            }
        })?;
    let after = summary.best.as_ref().or(summary.metrics.last());
    let after = after.map(|record| &record.metrics);
    // What goes with the model appears with it.
    let output = AtomicDir::create(workspace.output())?;
    model.save(output.path())?;
    let outcome = Outcome {
        settings,
        required,
        modality,
        examples: datasets.iter().map(Dataset::len).sum(),
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
            "examples": datasets.iter().map(Dataset::len).sum::<usize>(),
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
        if self.eval.is_none() {
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

    /// What to measure, where there is evaluation data.
    fn evaluation_task(&self, loss: &dyn Loss) -> Option<EvalTask> {
        self.eval.as_ref()?;
        let usual = match loss.accepts().targets {
            TargetKind::Scores | TargetKind::Vectors => EvalTask::Sts,
            TargetKind::None => EvalTask::Retrieval,
            TargetKind::Labels => EvalTask::Labelled,
        };
        Some(self.eval_task.unwrap_or(usual))
    }

    /// Reads the evaluation data, where there is any.
    fn evaluation<F: Family>(
        &self,
        task: EvalTask,
        read: ReadOptions,
    ) -> Result<Option<Evaluation<F::Item>>> {
        const CUTOFFS: &[usize] = &fin_train::evaluate::retrieval::DEFAULT_CUTOFFS;
        let Some(data) = &self.eval else {
            return Ok(None);
        };
        let chosen = columns(self.eval_columns.as_ref().or(self.columns.as_ref()));
        let corpus_column = self.corpus_column.as_deref().map(Column::from);
        let source = EvalSource {
            data,
            task,
            columns: &chosen,
            read,
            corpus: self.corpus.as_deref(),
            corpus_column: corpus_column.as_ref(),
            cutoffs: self.k.as_deref().unwrap_or(CUTOFFS),
        };
        Ok(Some(source.read::<F>()?))
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

/// Items of the cells of a file.
fn items<F: Family>(texts: Dataset<String>, path: &Path) -> Result<Dataset<F::Item>> {
    let base = base_of(path);
    let targets: Targets = texts.targets().clone();
    let item = |cell: &String| F::Item::from_cell(cell.clone(), &base, None);
    let columns = texts.columns().iter();
    let columns: Vec<Vec<F::Item>> = columns
        .map(|column| column.iter().map(item).collect())
        .collect();
    if let [first, second] = &columns[..] {
        let rows = first.iter().cloned().zip(second.iter().cloned());
        note_mixed(path, &rows.collect::<Vec<_>>());
    }
    Ok(Dataset::new(columns, targets)?)
}

/// The examples of a file or directory for a loss of this kind; `targets` is a file of vectors.
fn examples<F: Family>(
    kind: TargetKind,
    settings: &Settings,
    train: &Path,
    targets: Option<&Path>,
    chosen: &[Column],
    read: ReadOptions,
) -> Result<Dataset<F::Item>> {
    match kind {
        TargetKind::Scores => {
            let range = settings.score_range.as_deref();
            items::<F>(scored_pairs(train, chosen, read, range)?, train)
        }
        TargetKind::Labels => {
            let found = match F::by_class(train).transpose()? {
                Some(_) if !chosen.is_empty() => {
                    let reason = "are for files; a directory has none";
                    return Err(Error::argument("columns", reason).into());
                }
                Some(found) => found,
                None => labelled_items::<F>(train, chosen, read)?,
            };
            let (items, labels): (Vec<F::Item>, Vec<String>) = found.into_iter().unzip();
            Ok(Dataset::labelled(items, &labels).map_err(|error| about(train, error))?)
        }
        TargetKind::None => {
            let texts = pairs_from_file(train, &pair_columns(chosen)?, read)?;
            items::<F>(texts, train)
        }
        TargetKind::Vectors => distilled::<F>(targets, train, chosen, read),
    }
}

/// Items with a teacher's embedding each.
fn distilled<F: Family>(
    targets: Option<&Path>,
    train: &Path,
    chosen: &[Column],
    read: ReadOptions,
) -> Result<Dataset<F::Item>> {
    let Some(targets) = targets else {
        let reason = "are missing; give a .npy file with a row an item, as `fin encode` writes it";
        return Err(Error::argument("targets", reason).into());
    };
    let column = match chosen {
        [] => None,
        [column] => Some(column),
        _ => {
            let reason = format!("1 (item) is needed, {} are given", chosen.len());
            return Err(Error::argument("columns", reason).into());
        }
    };
    let reading = Reading {
        column,
        options: read,
        kind: None,
    };
    let items: Vec<F::Item> = F::read(train, reading)?.collect::<Result<_, Error>>()?;
    let (values, [rows, dim]) = read_npy_f32(targets)?;
    if rows != items.len() {
        let reason = format!(
            "has {}, and {} has {}",
            count(rows, "row", "rows"),
            train.display(),
            count(items.len(), F::NAMES[0], F::NAMES[1])
        );
        return Err(Error::invalid(targets, reason).into());
    }
    Dataset::with_vectors(vec![items], values, dim).map_err(|error| about(targets, error).into())
}

/// Scored pairs with their scores in `[0, 1]`, scaled from `range` or from what they look like.
fn scored_pairs(
    path: &Path,
    chosen: &[Column],
    read: ReadOptions,
    range: Option<&str>,
) -> Result<Dataset<String>> {
    let columns = scored_columns(chosen)?;
    if let Some(range) = range {
        let range: ScoreRange = range.parse()?;
        note!("scores are scaled from {range} to 0..1");
        return Ok(scored_pairs_from_file(path, &columns, read, range)?);
    }
    let (mut first, mut second, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    for row in read_scored_pairs(path, &columns, read)? {
        first.push(row.sentence1);
        second.push(row.sentence2);
        scores.push(row.score);
    }
    let smallest = scores.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if smallest < 0.0 || largest > 5.0 {
        let reason = format!(
            "has scores from {smallest} to {largest}; give the range that they can have, as in \
             --score-range {}..{}",
            smallest.floor(),
            largest.ceil()
        );
        return Err(Error::invalid(path, reason).into());
    }
    let range = if largest > 1.0 {
        note!(
            "scores go up to {largest}: taken as 0..5 and scaled to 0..1; --score-range says \
             otherwise"
        );
        ScoreRange::new(0.0, 5.0)?
    } else {
        note!("scores are taken as 0..1; --score-range says otherwise");
        ScoreRange::default()
    };
    Ok(Dataset::scored_pairs(first, second, scores, range)?)
}
