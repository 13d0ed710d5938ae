//! A record of a run on disk.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use fin_core::{Embedder, Error, Result};
use serde_json::json;

use super::{Callback, Context};

/// Columns of a CSV file.
const COLUMNS: &str = "step,epoch,loss,learning_rate,grad_norm,items_per_second";

/// Writes a line a step, and in JSON a line for what evaluators measure.
///
/// `.jsonl`: `{"step":1,"epoch":1,"loss":…,"learning_rate":…,"grad_norm":…,"items_per_second":…}` and
/// `{"step":8,"epoch":1,"evaluator":"…","metrics":{…}}`. `.csv`: the columns of the former, with a
/// header. Numbers that are not finite are `null`, or empty. A resumed run goes on where the file
/// ends; lines of steps that it repeats stand there twice.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    is_json: bool,
    file: Option<File>,
    records: usize,
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
        })
    }

    /// The file it goes to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, line: &str) -> Result<()> {
        let io = Error::io(&self.path, "write");
        match &mut self.file {
            Some(file) => writeln!(file, "{line}").map_err(io),
            None => Ok(()),
        }
    }

    fn metrics<E: Embedder>(&mut self, context: &Context<'_, E>) -> Result<()> {
        if !self.is_json {
            return Ok(());
        }
        for record in &context.records()[self.records..] {
            let line = json!({
                "step": record.step,
                "epoch": record.epoch,
                "evaluator": record.name,
                "metrics": record.metrics,
            });
            self.write(&line.to_string())?;
        }
        self.records = context.records().len();
        Ok(())
    }
}

impl<E: Embedder> Callback<E> for Log {
    fn on_train_begin(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        let resumes = context.progress().step > 0;
        let mut options = OpenOptions::new();
        options.create(true).write(true);
        options.append(resumes).truncate(!resumes);
        let file = options
            .open(&self.path)
            .map_err(Error::io(&self.path, "open"))?;
        let is_empty = file
            .metadata()
            .map_err(Error::io(&self.path, "read"))?
            .len()
            == 0;
        self.file = Some(file);
        if is_empty && !self.is_json {
            self.write(COLUMNS)?;
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
            let text = |value: f64| match value.is_finite() {
                true => value.to_string(),
                false => String::new(),
            };
            let cells = values.map(text).join(",");
            format!("{},{},{cells}", progress.step, progress.epoch)
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
