//! What else happens in the course of training.
//!
//! [`ProgressBar`] shows how far it is, [`Log`] and [`TensorBoard`] write it down, [`Evaluate`]
//! measures in between, [`BestModel`] keeps the network that measured best, and [`EarlyStopping`] ends
//! what no longer improves. A further callback implements [`Callback`], here or elsewhere.

mod best_model;
mod early_stopping;
mod evaluate;
mod log;
mod monitor;
mod progress;
mod tensorboard;

use std::fmt;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use fin_core::{Embedder, Result};
use serde::Serialize;

pub use best_model::BestModel;
pub use early_stopping::EarlyStopping;
pub use evaluate::Evaluate;
pub use log::Log;
pub use monitor::Mode;
pub use progress::ProgressBar;
pub use tensorboard::{TensorBoard, event_files};

use crate::checkpoint::Best;
use crate::loss::Loss;
use crate::metrics::Metrics;

/// How far training is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Optimiser steps done, those before a resumption included.
    pub step: usize,
    /// Optimiser steps in all.
    pub total_steps: usize,
    /// Epochs begun.
    pub epoch: usize,
    /// Epochs in all.
    pub epochs: usize,
    /// Loss of the last step; NaN before the first.
    pub loss: f32,
    /// Learning rate of the last step; 0 before the first.
    pub learning_rate: f64,
    /// Global norm of the gradients of the last step before clipping; NaN before the first.
    pub grad_norm: f64,
    /// Items embedded in this run: examples times columns.
    pub items: usize,
    /// Seconds spent on steps in this run, callbacks and checkpoints not counted.
    pub seconds: f64,
}

impl Progress {
    /// Items embedded a second, 0 before the first step.
    pub fn items_per_second(&self) -> f64 {
        if self.seconds > 0.0 {
            self.items as f64 / self.seconds
        } else {
            0.0
        }
    }
}

/// Metrics and when they were measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricRecord {
    /// Optimiser steps done by then.
    pub step: usize,
    /// Epochs begun by then.
    pub epoch: usize,
    /// Name of the evaluator.
    pub name: String,
    /// What it measured.
    pub metrics: Metrics,
}

/// What a callback sees of training, and its ways to act on it.
pub struct Context<'a, E: Embedder> {
    pub(crate) progress: Progress,
    pub(crate) embedder: &'a E,
    pub(crate) network: &'a E::Network,
    pub(crate) device: &'a Device,
    pub(crate) records: &'a mut Vec<MetricRecord>,
    pub(crate) stop: &'a mut bool,
    pub(crate) loss: &'a dyn Loss,
    pub(crate) best: &'a mut Option<Best>,
}

impl<E: Embedder> Context<'_, E> {
    /// How far training is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The embedder with its weights as they are now, ready for inference on
    /// [`Context::device`].
    pub fn embedder(&self) -> E {
        let network = self.network.valid().materialize();
        self.embedder.clone().with_network(network)
    }

    /// The device that training runs on, without autodiff.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// Metrics recorded so far; of a resumed run, those that the checkpoint has come first.
    pub fn records(&self) -> &[MetricRecord] {
        self.records
    }

    /// Adds metrics to the summary of the run.
    pub fn record(&mut self, name: impl Into<String>, metrics: Metrics) {
        let Progress { step, epoch, .. } = self.progress;
        self.records.push(MetricRecord {
            step,
            epoch,
            name: name.into(),
            metrics,
        });
    }

    /// Asks training to end after this step. Where checkpoints are kept, one is written, from
    /// which training can be resumed.
    pub fn request_stop(&mut self) {
        *self.stop = true;
    }

    /// Writes the network as it is now, whole or not at all.
    fn save_best(
        &self,
        directory: &Path,
        mode: Mode,
        monitor: &str,
        record: &MetricRecord,
    ) -> Result<Best> {
        let best = Best {
            directory: directory.to_path_buf(),
            monitor: monitor.to_owned(),
            mode,
            record: record.clone(),
            logit_scale: self.loss.logit_scale(),
        };
        best.save(self.network, &self.embedder.names())?;
        Ok(best)
    }

    /// Has the run end with this network rather than with the last one.
    fn end_with(&mut self, best: Best) {
        *self.best = Some(best);
    }
}

impl<E: Embedder> fmt::Debug for Context<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// Called at points of training, in the order in which callbacks were added. An error ends
/// training.
pub trait Callback<E: Embedder> {
    /// Before the first step.
    ///
    /// # Errors
    /// The callback's own; training does not begin.
    fn on_train_begin(&mut self, _context: &mut Context<'_, E>) -> Result<()> {
        Ok(())
    }

    /// After every optimiser step.
    ///
    /// # Errors
    /// The callback's own; training ends with it.
    fn on_step_end(&mut self, _context: &mut Context<'_, E>) -> Result<()> {
        Ok(())
    }

    /// After the last step of every epoch.
    ///
    /// # Errors
    /// The callback's own; training ends with it.
    fn on_epoch_end(&mut self, _context: &mut Context<'_, E>) -> Result<()> {
        Ok(())
    }

    /// After the last step, or the one at which a stop was asked for.
    ///
    /// # Errors
    /// The callback's own; training ends with it.
    fn on_train_end(&mut self, _context: &mut Context<'_, E>) -> Result<()> {
        Ok(())
    }
}
