//! Keeping the network that measured best.

use std::path::PathBuf;

use fin_core::{Embedder, Error, Result};

use super::monitor::measured;
use super::{Callback, Context, Mode};
use crate::checkpoint::Best;

/// Writes the network to a directory after each measurement that is the best so far, as Keras'
/// `ModelCheckpoint` with `save_best_only` does, and with [`BestModel::and_load_it`] ends the run with
/// that network, as `load_best_model_at_end` of transformers does.
///
/// The metric is what an evaluator before this callback records. Of equal values the first is the
/// best; what a run measures before its first step does not count. The directory holds
/// `model.safetensors`, adapters included where there are any, and `best.json`; it is replaced as a
/// whole. A resumed run goes on with what is there, and one that starts anew removes it.
#[derive(Debug)]
pub struct BestModel {
    directory: PathBuf,
    monitor: String,
    mode: Mode,
    loads: bool,
    best: Option<Best>,
    seen: usize,
}

impl BestModel {
    /// In this directory, by the metric `monitor`, such as `mrr@10`.
    pub fn new(directory: impl Into<PathBuf>, monitor: impl Into<String>, mode: Mode) -> Self {
        Self {
            directory: directory.into(),
            monitor: monitor.into(),
            mode,
            loads: false,
            best: None,
            seen: 0,
        }
    }

    /// The run ends with the best network. Where the metric was never a number, there is none, and it
    /// ends with the last.
    pub fn and_load_it(mut self) -> Self {
        self.loads = true;
        self
    }

    fn look<E: Embedder>(&mut self, context: &Context<'_, E>) -> Result<()> {
        let new = &context.records()[self.seen..];
        for (record, value) in measured(new, &self.monitor)? {
            let best = self.best.as_ref().and_then(Best::value);
            if record.step > 0 && self.mode.is_better(value, best, 0.0) {
                self.best =
                    Some(context.save_best(&self.directory, self.mode, &self.monitor, record)?);
            }
        }
        self.seen = context.records().len();
        Ok(())
    }
}

impl<E: Embedder> Callback<E> for BestModel {
    fn on_train_begin(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        if context.progress().step == 0 {
            Best::remove(&self.directory)?;
            return self.look(context);
        }
        self.best = Best::read(&self.directory)?;
        self.seen = context.records().len();
        let reason = |there: &str| {
            format!(
                "the best network so far {there}, this run has {} of `{}`; resume with the same \
                 settings, or start anew",
                self.mode.name(),
                self.monitor
            )
        };
        match &self.best {
            Some(best) if (&best.monitor, best.mode) != (&self.monitor, self.mode) => {
                let there = format!(
                    "is that with the {} of `{}`",
                    best.mode.name(),
                    best.monitor
                );
                Err(Error::config(best.record_path(), "monitor", reason(&there)))
            }
            // Networks that were measured before this callback was there are gone.
            None if context.records().iter().any(|record| {
                let value = record.metrics.get(&self.monitor);
                record.step > 0 && value.is_some_and(|value| !value.is_nan())
            }) =>
            {
                Err(Error::invalid(&self.directory, reason("was not kept")))
            }
            _ => Ok(()),
        }
    }

    fn on_step_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.look(context)
    }

    fn on_epoch_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.look(context)
    }

    fn on_train_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.look(context)?;
        if let (true, Some(best)) = (self.loads, &self.best) {
            context.end_with(best.clone());
        }
        Ok(())
    }
}
