//! What a run trains on, and what it holds out to measure on.

use std::path::{Path, PathBuf};

use fin_core::Error;
use fin_core::input::{Column, PairColumns, ReadOptions};
use fin_core::output::read_npy_f32;
use fin_train::Dataset;
use fin_train::dataset::{
    Classes, Columns, FindingKind, Form, ItemCodec, ScoreRange, SpoolWriter, SpooledSets,
    TargetKind, Targets, check, each_labelled, each_pair, each_scored_pair, each_scored_triplet,
};
use fin_train::loss::Loss;

use super::settings::{Settings, columns};
use crate::commands::check::summary;
use crate::commands::split::{largest, split};
use crate::data::{
    EvalSource, EvalTask, Evaluation, Mixed, about, labelled_columns, pair_columns, scored_columns,
    triplet_columns,
};
use crate::family::{Family, Item, Reading, base_of};
use crate::report::{Result, count, note};
use crate::rows::{RawRow, RowSource, Rows, compared};

/// Training data, and what to measure on.
pub struct Data<I> {
    pub train: Train<I>,
    pub evaluation: Option<Evaluation<I>>,
    /// Rows of the training data that are measured on instead.
    pub held_out: usize,
}

/// Training data: a set for each file or directory.
pub enum Train<I> {
    Memory(Vec<Dataset<I>>),
    /// With the items in a file.
    Spooled(SpooledSets<I>),
}

impl<I> Train<I> {
    /// Number of examples of each set.
    pub fn sizes(&self) -> Vec<usize> {
        match self {
            Self::Memory(sets) => sets.iter().map(Dataset::len).collect(),
            Self::Spooled(sets) => sets.sets().iter().map(|set| set.len()).collect(),
        }
    }
}

/// What takes the rows of a set.
type Sink<'a, I> = &'a mut dyn FnMut(Vec<I>) -> Result<(), Error>;

impl Settings {
    /// Reads the data of a run with this loss.
    pub fn data<F: Family>(&self, loss: &dyn Loss, train: &[PathBuf]) -> Result<Data<F::Item>> {
        let read = crate::args::read_options(self.no_header.unwrap_or_default(), None);
        let form = self.form(loss)?;
        let targets = self.targets.as_deref().unwrap_or_default();
        if !targets.is_empty() && targets.len() != train.len() {
            let reason = format!(
                "{} for {} of training data; one is needed for each",
                count(targets.len(), "file is given", "files are given"),
                count(train.len(), "set", "sets")
            );
            return Err(Error::argument("targets", reason).into());
        }
        let task = self.evaluation_task(loss);
        if self.validation_fraction.is_some() && self.eval.is_some() {
            let reason = "holds out training data to measure on; leave it out, or --eval";
            return Err(Error::argument("validation_fraction", reason).into());
        }
        if self.validation_by.is_some() && self.validation_fraction.is_none() {
            let reason = "is about what is held out; give --validation-fraction too";
            return Err(Error::argument("validation_by", reason).into());
        }
        for (field, given) in [
            ("validation_fraction", self.validation_fraction.is_some()),
            ("group_pairs", self.group_pairs.unwrap_or_default()),
        ] {
            if given && train.len() > 1 {
                let reason = "looks for items that rows share, in one set of training data";
                return Err(Error::argument(field, reason).into());
            }
        }
        if self.stream.unwrap_or_default() {
            let form = self.streamed_form(form)?;
            let sets = self.spooled::<F>(form, train, read)?;
            let evaluation = match task {
                Some(task) => self.evaluation::<F>(task, read)?,
                None => None,
            };
            return Ok(Data {
                train: Train::Spooled(sets),
                evaluation,
                held_out: 0,
            });
        }
        if self.stream_dir.is_some() {
            let reason = "is where --stream keeps rows; give --stream too";
            return Err(Error::argument("stream_dir", reason).into());
        }
        let sets = train.iter().enumerate();
        let mut sets = sets
            .map(|(number, train)| {
                let targets = targets.get(number).map(PathBuf::as_path);
                self.in_memory::<F>(form, train, targets, read)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut evaluation = match task {
            Some(task) => self.evaluation::<F>(task, read)?,
            None => None,
        };
        if let Some(form) = form {
            for (set, train) in sets.iter().zip(train).filter(|(_, train)| !train.is_dir()) {
                self.note_findings(&rows_of(set, form, train), task, read)?;
            }
        }
        let mut held_out = 0;
        if let ([set], [train]) = (&mut sets[..], train) {
            if let Some(fraction) = self.validation_fraction {
                let [kept, part] = self.split_off::<F>(form, set, fraction, train)?;
                let form = form.unwrap_or(Form::Pairs);
                evaluation = Some(self.held_out::<F>(form, &part, &kept, train, read)?);
                held_out = part.len();
                *set = kept;
            }
            if self.group_pairs.unwrap_or_default() {
                *set = set.group_labels().map_err(|error| about(train, error))?;
                note_groups::<F>(set.len(), set.targets());
            }
        }
        Ok(Data {
            train: Train::Memory(sets),
            evaluation,
            held_out,
        })
    }

    /// What rows are that are read one by one; an error where all of them are needed together.
    fn streamed_form(&self, form: Option<Form>) -> Result<Form> {
        if self.validation_fraction.is_some() {
            let reason = "looks for items that rows share, for which all rows are held in memory; \
                          make two files with `fin split` and give one to --eval, or leave out \
                          --stream";
            return Err(Error::argument("validation_fraction", reason).into());
        }
        form.ok_or_else(|| {
            let reason = "are vectors, which are held in memory; leave out --stream";
            Error::argument("targets", reason).into()
        })
    }

    /// The sets with their items in a file, beside the output unless told otherwise.
    fn spooled<F: Family>(
        &self,
        form: Form,
        train: &[PathBuf],
        read: ReadOptions,
    ) -> Result<SpooledSets<F::Item>> {
        let beside = self.required()?.output.parent();
        let directory = match self.stream_dir.as_deref().or(beside) {
            Some(path) if !path.as_os_str().is_empty() => path,
            _ => Path::new("."),
        };
        let elsewhere = |error: Error| match error {
            Error::Io {
                path,
                action,
                source,
            } if path == directory => {
                let reason = format!("cannot {action}: {source}; --stream-dir names another place");
                Error::invalid(path, reason)
            }
            other => other,
        };
        let codec = ItemCodec {
            write: F::Item::to_bytes,
            read: F::Item::from_bytes,
        };
        let mut writer = SpoolWriter::create(directory, codec).map_err(elsewhere)?;
        for path in train {
            let mut push = |row: Vec<F::Item>| writer.push(row).map_err(elsewhere);
            let targets = self.examples::<F>(form, path, read, &mut push)?;
            writer
                .end_set(targets)
                .map_err(|error| about(path, error))?;
        }
        let mut sets = writer.finish().map_err(elsewhere)?;
        if let ([train], true) = (train, self.group_pairs.unwrap_or_default()) {
            sets = sets.group_labels().map_err(|error| about(train, error))?;
            for set in sets.sets() {
                note_groups::<F>(set.len(), set.targets());
            }
        }
        Ok(sets)
    }

    /// What stays of a set to train on, and a share of it, in groups of rows that share items.
    fn split_off<F: Family>(
        &self,
        form: Option<Form>,
        set: &Dataset<F::Item>,
        fraction: f64,
        train: &Path,
    ) -> Result<[Dataset<F::Item>; 2]> {
        let Some(form) = form else {
            let reason = "is not for items with vectors; give --eval";
            return Err(Error::argument("validation_fraction", reason).into());
        };
        let rows = rows_of(set, form, train);
        let seed = self.train_config()?.seed;
        let by = self.validation_by.unwrap_or_default();
        let examples = compared(&[&rows])?.remove(0);
        let (groups, split) = split(&examples, by, false, fraction, seed)?;
        note!(
            "{} of {} held out, in groups of rows that share items, the largest of {}",
            split.held_out.len(),
            count(rows.rows.len(), "row is", "rows are"),
            count(largest(&groups), "row", "rows")
        );
        Ok([set.select(&split.train)?, set.select(&split.held_out)?])
    }

    /// What rows of the training data are; `None` for items with vectors.
    fn form(&self, loss: &dyn Loss) -> Result<Option<Form>> {
        let accepts = loss.accepts();
        let groups = self.group_pairs.unwrap_or_default();
        if groups && accepts.targets != TargetKind::Labels {
            let reason = format!(
                "makes labels of pairs; `{}` takes {}",
                loss.name(),
                accepts.targets
            );
            return Err(Error::argument("group_pairs", reason).into());
        }
        if self.targets.is_some() && accepts.targets != TargetKind::Vectors {
            let reason = format!(
                "are for the loss mse; `{}` takes {} from the training data",
                loss.name(),
                accepts.targets
            );
            return Err(Error::argument("targets", reason).into());
        }
        Ok(match accepts.targets {
            TargetKind::Scores if accepts.min_columns > 2 => Some(Form::Margins),
            TargetKind::Scores => Some(Form::ScoredPairs),
            TargetKind::Labels if groups => Some(Form::Pairs),
            TargetKind::Labels => Some(Form::Labelled),
            TargetKind::None => Some(Form::Pairs),
            TargetKind::Vectors => None,
        })
    }

    fn in_memory<F: Family>(
        &self,
        form: Option<Form>,
        train: &Path,
        targets: Option<&Path>,
        read: ReadOptions,
    ) -> Result<Dataset<F::Item>> {
        let Some(form) = form else {
            let chosen = columns(self.columns.as_ref());
            return distilled::<F>(targets, train, &chosen, read);
        };
        let mut rows = Columns::default();
        let targets = self.examples::<F>(form, train, read, &mut |row| rows.push(row))?;
        let found = rows.with_targets(targets);
        Ok(found.map_err(|error| about(train, error))?)
    }

    /// Hands on the rows of a set one by one and returns their targets.
    fn examples<F: Family>(
        &self,
        form: Form,
        train: &Path,
        read: ReadOptions,
        row: Sink<'_, F::Item>,
    ) -> Result<Targets> {
        let chosen = columns(self.columns.as_ref());
        let base = base_of(train);
        let mut mixed = Mixed::default();
        let mut cells = |cells: Vec<String>| {
            let items = cells.into_iter();
            let items: Vec<F::Item> = items
                .map(|cell| F::Item::from_cell(cell, &base, None))
                .collect();
            if let [first, second] = &items[..] {
                mixed.look_at(first, second);
            }
            row(items)
        };
        let targets = match form {
            Form::ScoredPairs => {
                let range = self.score_range.as_deref();
                Targets::Scores(scored_pairs(train, &chosen, read, range, &mut cells)?)
            }
            Form::Margins => {
                if self.score_range.is_some() {
                    let reason = "is for scores of pairs; margins stay as they are";
                    return Err(Error::argument("score_range", reason).into());
                }
                let columns = triplet_columns(&chosen)?;
                Targets::Scores(each_scored_triplet(train, &columns, read, cells)?)
            }
            Form::Labelled => match F::by_class(train).transpose()? {
                Some(_) if !chosen.is_empty() => {
                    let reason = "are for files; a directory has none";
                    return Err(Error::argument("columns", reason).into());
                }
                Some(found) => {
                    let mut classes = Classes::default();
                    for (item, label) in found {
                        classes.push(&label);
                        row(vec![item])?;
                    }
                    classes.targets()
                }
                None => each_labelled(train, &labelled_columns(&chosen)?, read, cells)?,
            },
            Form::Pairs => {
                let mut columns = pair_columns(&chosen)?;
                if self.group_pairs.unwrap_or_default() {
                    columns = PairColumns {
                        negatives: Some(Vec::new()),
                        ..columns
                    };
                }
                each_pair(train, &columns, read, cells)?;
                Targets::None
            }
        };
        mixed.note(train);
        Ok(targets)
    }

    /// What to measure, where there is evaluation data.
    pub fn evaluation_task(&self, loss: &dyn Loss) -> Option<EvalTask> {
        self.eval.as_ref()?;
        let accepts = loss.accepts();
        let usual = match accepts.targets {
            TargetKind::Scores if accepts.min_columns > 2 => EvalTask::Retrieval,
            TargetKind::Scores | TargetKind::Vectors => EvalTask::Sts,
            TargetKind::Labels if self.group_pairs.unwrap_or_default() => EvalTask::Retrieval,
            TargetKind::None => EvalTask::Retrieval,
            TargetKind::Labels => EvalTask::Labelled,
        };
        Some(self.eval_task.unwrap_or(usual))
    }

    fn cutoffs(&self) -> &[usize] {
        const CUTOFFS: &[usize] = &fin_train::evaluate::retrieval::DEFAULT_CUTOFFS;
        self.k.as_deref().unwrap_or(CUTOFFS)
    }

    /// Reads the evaluation data, where there is any.
    fn evaluation<F: Family>(
        &self,
        task: EvalTask,
        read: ReadOptions,
    ) -> Result<Option<Evaluation<F::Item>>> {
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
            cutoffs: self.cutoffs(),
        };
        Ok(Some(source.read::<F>()?))
    }

    /// What is measured on rows that are held out. Documents of the others are ranked too, as long
    /// as queries and documents are of one kind.
    fn held_out<F: Family>(
        &self,
        form: Form,
        part: &Dataset<F::Item>,
        kept: &Dataset<F::Item>,
        train: &Path,
        read: ReadOptions,
    ) -> Result<Evaluation<F::Item>> {
        let task = match form {
            Form::Pairs | Form::Margins => EvalTask::Retrieval,
            Form::ScoredPairs => EvalTask::Sts,
            Form::Labelled => EvalTask::Labelled,
        };
        if self.eval_task.is_some_and(|wanted| wanted != task) {
            let reason = format!("rows that are held out of {form} are measured otherwise");
            return Err(Error::argument("eval_task", reason).into());
        }
        if self.corpus.is_some() && task != EvalTask::Retrieval {
            let reason = "a corpus is for the task retrieval on pairs; this data has none";
            return Err(Error::argument("corpus", reason).into());
        }
        let name = format!("{} (held out)", train.display());
        let column = |of: &Dataset<F::Item>, i: usize| of.columns()[i].clone();
        match (task, part.targets()) {
            (EvalTask::Sts, Targets::Scores(scores)) => {
                let scores = scores.iter().copied().map(f64::from).collect();
                let (first, second) = (column(part, 0), column(part, 1));
                Ok(Evaluation::sts(name, first, second, scores)?)
            }
            (EvalTask::Labelled, Targets::Labels { ids, names }) => {
                let labels = ids.iter().map(|&id| names[id].clone());
                let items = column(part, 0).into_iter().zip(labels).collect();
                let found = Evaluation::labelled(name, items, self.cutoffs());
                Ok(found.map_err(|error| about(train, error))?)
            }
            _ => {
                let rows: Vec<(F::Item, F::Item)> =
                    column(part, 0).into_iter().zip(column(part, 1)).collect();
                let mut further = match &self.corpus {
                    Some(path) => {
                        let column = self.corpus_column.as_deref().map(Column::from);
                        let reading = Reading {
                            column: column.as_ref(),
                            options: read,
                            kind: None,
                        };
                        F::read(path, reading)?.collect::<Result<Vec<_>, Error>>()?
                    }
                    None => Vec::new(),
                };
                if rows.iter().all(|(a, b)| a.kind() == b.kind()) {
                    further.extend(column(kept, 1));
                }
                Ok(Evaluation::retrieval(name, rows, further, self.cutoffs())?)
            }
        }
    }

    /// Says in a line what `fin check` would find. That documents are in the evaluation data as
    /// well is usual and is not said.
    fn note_findings(&self, rows: &Rows, task: Option<EvalTask>, read: ReadOptions) -> Result<()> {
        let form = match (task, rows.form) {
            (Some(EvalTask::Retrieval), Form::Pairs | Form::Margins) => Some(Form::Pairs),
            (Some(EvalTask::Sts), Form::ScoredPairs) => Some(Form::ScoredPairs),
            (Some(EvalTask::Labelled), Form::Labelled) => Some(Form::Labelled),
            _ => None,
        };
        let chosen = columns(self.eval_columns.as_ref().or(self.columns.as_ref()));
        let held_out = match (&self.eval, form) {
            (Some(path), Some(form)) if !path.is_dir() => {
                let source = RowSource {
                    path,
                    form: Some(form),
                    columns: &chosen,
                    read,
                };
                Some(source.read()?)
            }
            _ => None,
        };
        let all: Vec<&Rows> = std::iter::once(rows).chain(&held_out).collect();
        let examples = compared(&all)?;
        let found = check(rows.form, &examples[0], examples.get(1).map(Vec::as_slice));
        if let Some(summary) = summary(&found, |kind| kind != FindingKind::SharedDocument) {
            note!(
                "warning: {} has {summary}; `fin check` lists them",
                rows.path.display()
            );
        }
        Ok(())
    }
}

/// Rows of this form as they are compared; items are named as they are found from here.
fn rows_of<I: Item>(data: &Dataset<I>, form: Form, path: &Path) -> Rows {
    let columns = data.columns();
    let positives = columns
        .len()
        .min(if form == Form::Labelled { 1 } else { 2 });
    let rows = (0..data.len()).map(|i| {
        let key = |column: &Vec<I>| column[i].key();
        RawRow {
            line: i as u64 + 1,
            items: columns[..positives].iter().map(key).collect(),
            negatives: columns[positives..].iter().map(key).collect(),
            score: match data.targets() {
                Targets::Scores(scores) => Some(scores[i]),
                _ => None,
            },
            label: match data.targets() {
                Targets::Labels { ids, names } => Some(names[ids[i]].clone()),
                _ => None,
            },
        }
    });
    Rows {
        path: path.to_path_buf(),
        form,
        base: PathBuf::new(),
        rows: rows.collect(),
    }
}

/// Says what groups of pairs came to.
fn note_groups<F: Family>(items: usize, targets: &Targets) {
    note!(
        "{} in {}",
        count(items, F::NAMES[0], F::NAMES[1]),
        count(targets.classes(), "group", "groups")
    );
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

/// Hands on the texts of scored pairs and returns their scores in `[0, 1]`, scaled from `range` or
/// from what they look like.
fn scored_pairs(
    path: &Path,
    chosen: &[Column],
    read: ReadOptions,
    range: Option<&str>,
    row: Sink<'_, String>,
) -> Result<Vec<f32>> {
    let columns = scored_columns(chosen)?;
    if let Some(range) = range {
        let range: ScoreRange = range.parse()?;
        note!("scores are scaled from {range} to 0..1");
        return Ok(each_scored_pair(path, &columns, read, Some(range), row)?);
    }
    let scores = each_scored_pair(path, &columns, read, None, row)?;
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
    Ok(range.scaled(scores)?)
}
