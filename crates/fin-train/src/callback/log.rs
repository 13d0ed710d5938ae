//! A record of a run on disk.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use fin_core::atomic::AtomicFile;
use fin_core::{Embedder, Error, Result};
use serde_json::{Value, json};

use super::monitor::FlatNames;
use super::{Callback, Context};

/// Columns of a CSV file before those of metrics.
const COLUMNS: [&str; 6] = [
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "items_per_second",
];

/// Writes a line a step, and a line for what evaluators measure.
///
/// `.jsonl`: `{"step":1,"epoch":1,"loss":…,"learning_rate":…,"grad_norm":…,"items_per_second":…}` and
/// `{"step":8,"epoch":1,"evaluator":"…","metrics":{…}}`. `.csv`: the columns of the former, and a column
/// a metric behind them; lines of either kind leave those of the other empty. Columns are added when
/// they are first needed, by writing the file anew, whole or not at all. Metrics of further evaluators
/// than the first have its name before their own.
///
/// Numbers that are not finite are `null`, or empty. A resumed run goes on where its checkpoint is:
/// what the file has beyond that step is taken out first.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    is_json: bool,
    file: Option<File>,
    records: usize,
    names: FlatNames,
    /// Columns of metrics of a CSV file.
    metrics: Vec<String>,
}

impl Log {
    /// Into this file.
    ///
    /// # Errors
    /// [`Error::Argument`] where its name ends in neither `.jsonl` nor `.csv`.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let is_json = match path.extension().and_then(|end| end.to_str()) {
            Some("jsonl") => true,
            Some("csv") => false,
            _ => {
                let reason = format!(
                    "`{}` ends in neither .jsonl nor .csv, which are the formats of logs",
                    path.display()
                );
                return Err(Error::argument("log", reason));
            }
        };
        Ok(Self {
            path,
            is_json,
            file: None,
            records: 0,
            names: FlatNames::default(),
            metrics: Vec::new(),
        })
    }

    /// The file it goes to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first line of a CSV file.
    fn header(&self) -> String {
        let metrics = self.metrics.iter().map(String::as_str);
        COLUMNS
            .into_iter()
            .chain(metrics)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Begins a file with nothing in it.
    fn begin(&mut self) -> Result<()> {
        let file = File::create(&self.path).map_err(Error::io(&self.path, "create"))?;
        self.file = Some(file);
        match self.is_json {
            true => Ok(()),
            false => self.write(&self.header()),
        }
    }

    /// Opens the file behind its last line.
    fn open(&mut self) -> Result<()> {
        let mut options = OpenOptions::new();
        let file = options.append(true).open(&self.path);
        self.file = Some(file.map_err(Error::io(&self.path, "open"))?);
        Ok(())
    }

    /// Goes on with a file after so many steps; begins one where there is none.
    fn go_on(&mut self, step: usize) -> Result<()> {
        if !self.path.exists() {
            return self.begin();
        }
        if self.is_json {
            self.rewrite(|line| {
                let value: Value = serde_json::from_str(line).ok()?;
                (value.get("step")?.as_u64()? <= step as u64).then(|| line.to_owned())
            })?;
            return self.open();
        }
        let file = File::open(&self.path).map_err(Error::io(&self.path, "open"))?;
        let mut header = String::new();
        BufReader::new(file)
            .read_line(&mut header)
            .map_err(Error::io(&self.path, "read"))?;
        let mut columns = header.trim_end().split(',').map(str::to_owned);
        if !columns.by_ref().take(COLUMNS.len()).eq(COLUMNS) {
            let reason = format!(
                "does not begin with the columns {}, so that it is not the log of this run; give \
                 another file",
                COLUMNS.join(",")
            );
            return Err(Error::invalid(&self.path, reason));
        }
        self.metrics = columns.collect();
        let (header, width) = (self.header(), COLUMNS.len() + self.metrics.len());
        self.rewrite(|line| {
            if line == header {
                return Some(header.clone());
            }
            let mut cells = line.split(',');
            let is_earlier = cells.next()?.parse::<usize>().ok()? <= step;
            // The last line of a run that was killed may be half a line.
            (is_earlier && cells.count() + 1 == width).then(|| line.to_owned())
        })?;
        self.open()
    }

    /// Adds columns to a CSV file.
    fn widen(&mut self, new: Vec<String>) -> Result<()> {
        let (old, empty) = (self.header(), ",".repeat(new.len()));
        self.metrics.extend(new);
        let header = self.header();
        self.rewrite(|line| {
            Some(match line == old {
                true => header.clone(),
                false => format!("{line}{empty}"),
            })
        })?;
        self.open()
    }

    /// Writes the file anew, with what `change` makes of its lines, whole or not at all.
    fn rewrite(&mut self, mut change: impl FnMut(&str) -> Option<String>) -> Result<()> {
        self.file = None;
        let file = File::open(&self.path).map_err(Error::io(&self.path, "open"))?;
        let mut new = AtomicFile::create(&self.path)?;
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(Error::io(&self.path, "read"))?;
            if let Some(line) = std::str::from_utf8(&line).ok().and_then(&mut change) {
                writeln!(new, "{line}").map_err(Error::io(&self.path, "write"))?;
            }
        }
        new.commit()
    }

    fn write(&mut self, line: &str) -> Result<()> {
        let io = Error::io(&self.path, "write");
        match &mut self.file {
            Some(file) => file.write_all(format!("{line}\n").as_bytes()).map_err(io),
            None => Ok(()),
        }
    }

    fn metrics<E: Embedder>(&mut self, context: &Context<'_, E>) -> Result<()> {
        for record in &context.records()[self.records..] {
            let values = self.names.of(record);
            if self.is_json {
                let line = json!({
                    "step": record.step,
                    "epoch": record.epoch,
                    "evaluator": record.name,
                    "metrics": record.metrics,
                });
                self.write(&line.to_string())?;
                continue;
            }
            let column = |name: &str| name.replace([',', '"', '\n', '\r'], " ");
            let values: Vec<(String, f64)> = values
                .into_iter()
                .map(|(name, value)| (column(&name), value))
                .collect();
            let names = values.iter().map(|(name, _)| name.clone());
            let new: Vec<String> = names.filter(|name| !self.metrics.contains(name)).collect();
            if !new.is_empty() {
                self.widen(new)?;
            }
            let cells = self.metrics.iter().map(|column| {
                let value = values.iter().find(|(name, _)| name == column);
                cell(value.map_or(f64::NAN, |(_, value)| *value))
            });
            let cells: Vec<String> = cells.collect();
            let line = format!("{},{},,,,,{}", record.step, record.epoch, cells.join(","));
            self.write(&line)?;
        }
        self.records = context.records().len();
        Ok(())
    }
}

/// A number in a CSV file; empty where it is not finite.
fn cell(value: f64) -> String {
    match value.is_finite() {
        true => value.to_string(),
        false => String::new(),
    }
}

impl<E: Embedder> Callback<E> for Log {
    fn on_train_begin(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        match context.progress().step {
            0 => self.begin()?,
            step => {
                self.go_on(step)?;
                // What the checkpoint has of them is in the file.
                if let Some(first) = context.records().first() {
                    self.names.of(first);
                }
                self.records = context.records().len();
            }
        }
        self.metrics(context)
    }

    fn on_step_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        let progress = *context.progress();
        let values = [
            f64::from(progress.loss),
            progress.learning_rate,
            progress.grad_norm,
            progress.items_per_second(),
        ];
        let line = if self.is_json {
            let [loss, learning_rate, grad_norm, items_per_second] = values;
            json!({
                "step": progress.step,
                "epoch": progress.epoch,
                "loss": loss,
                "learning_rate": learning_rate,
                "grad_norm": grad_norm,
                "items_per_second": items_per_second,
            })
            .to_string()
        } else {
            let cells = values.map(cell).join(",");
            let rest = ",".repeat(self.metrics.len());
            format!("{},{},{cells}{rest}", progress.step, progress.epoch)
        };
        self.write(&line)?;
        self.metrics(context)
    }

    fn on_epoch_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.metrics(context)
    }

    fn on_train_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.metrics(context)
    }
}
