//! Checkpoints of a training run.
//!
//! A checkpoint is a directory that appears whole or not at all:
//!
//! | file | content |
//! | --- | --- |
//! | `model.safetensors` | weights under upstream key names |
//! | `optimizer.safetensors` | state of the [`Optimizer`], by parameter path |
//! | `loss.safetensors` | parameters of the loss, if it has any |
//! | `loss_optimizer.safetensors` | their [`Optimizer`] |
//! | `memory.safetensors` | embeddings of earlier batches, if the loss has a [`Memory`] |
//! | `state.json` | [`TrainState`] |
//! | `history.json` | losses and metrics up to there |
//!
//! A run resumed from it ends with the weights that it would have had unbroken, bit for bit on a
//! device with deterministic kernels (`flex`): batches, dropout and learning rates depend on the
//! seed and the step alone. What callbacks measured comes back with it, so that early stopping and the
//! best network are those of an unbroken run, too.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use fin_core::atomic::{AtomicDir, recover, write};
use fin_core::weights::{self, Checkpoint, Names};
use fin_core::{Embedder, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::callback::{MetricRecord, Mode};
use crate::config::TrainConfig;
use crate::history::{History, StoredRecord};
use crate::lora::LoraConfig;
use crate::loss::{LossParameters, Memory};
use crate::optim::Optimizer;
use crate::registry::Options;
use crate::sampler::MultiDatasetSampler;
use crate::trainer::LossOptimizer;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const LOSS: &str = "loss.safetensors";
const LOSS_OPTIMIZER: &str = "loss_optimizer.safetensors";
const MEMORY: &str = "memory.safetensors";
const STATE: &str = "state.json";
const HISTORY: &str = "history.json";
const BEST: &str = "best.json";
/// Version of the layout.
const FORMAT: u32 = 1;
/// Start of a checkpoint's directory name, followed by the step in decimal.
const PREFIX: &str = "step-";

/// A name with options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Name.
    pub name: String,
    /// Every option with its value.
    pub options: Options,
}

/// Where a run stands and what it was started with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// Version of the layout.
    pub format: u32,
    /// Optimiser steps done.
    pub step: usize,
    /// Settings.
    pub config: TrainConfig,
    /// Loss.
    pub loss: Named,
    /// Settings of the optimiser of the loss's parameters; none where it has no parameters.
    #[serde(default)]
    pub loss_optimizer: Option<LossOptimizer>,
    /// Examples that the network sees at a time; none for whole batches.
    #[serde(default)]
    pub mini_batch_size: Option<usize>,
    /// Adapters; none where the network itself is trained. With them, `model.safetensors` has the
    /// weights beneath and the adapters' matrices.
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    /// Sampler.
    pub sampler: Named,
    /// Whose turn it is of several data sets; none where there is one.
    #[serde(default)]
    pub multi_dataset_sampler: Option<MultiDatasetSampler>,
    /// [`crate::dataset::Dataset::fingerprint`] in hexadecimal; of several data sets a digest of all.
    pub dataset: String,
    /// Optimiser steps of the whole run.
    pub total_steps: usize,
}

impl TrainState {
    pub(crate) fn new(
        config: TrainConfig,
        loss: Named,
        sampler: Named,
        dataset: u64,
        total_steps: usize,
    ) -> Self {
        Self {
            format: FORMAT,
            step: 0,
            config,
            loss,
            loss_optimizer: None,
            mini_batch_size: None,
            lora: None,
            sampler,
            multi_dataset_sampler: None,
            dataset: format!("{dataset:016x}"),
            total_steps,
        }
    }

    /// Reads the state in a checkpoint's directory.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::InvalidFile`] where it is not there, not a state, or of another
    /// format.
    pub fn read(directory: impl AsRef<Path>) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let path = directory.as_ref().join(STATE);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let invalid = |e: serde_json::Error| {
            Error::invalid(&path, format!("is not the state of a training run: {e}"))
        };
        let version: Version = serde_json::from_str(&text).map_err(invalid)?;
        if version.format != FORMAT {
            let reason = format!(
                "has format {}, this version reads format {FORMAT}",
                version.format
            );
            return Err(Error::invalid(&path, reason));
        }
        serde_json::from_str(&text).map_err(invalid)
    }

    /// Checks that a run with the settings of `self` may go on from the checkpoint in
    /// `directory`, and returns the steps done there.
    ///
    /// # Errors
    /// Those of [`TrainState::read`]; [`Error::Config`] names the first setting that differs.
    pub(crate) fn verify(&self, directory: &Path) -> Result<usize> {
        let saved = Self::read(directory)?;
        let path = directory.join(STATE);
        let differs = |field: String, there: &Value, here: &Value| {
            let reason = format!(
                "the checkpoint was made with {there}, this run has {here}; resume with the same settings and data, \
                 or start anew"
            );
            Err(Error::config(&path, field, reason))
        };
        let (there, here) = (flatten(&saved), flatten(self));
        for ((field, there), (_, here)) in there.iter().zip(&here) {
            let name = field.rsplit('.').next().unwrap_or(field);
            if there != here && name != "step" && !TrainConfig::FREE_ON_RESUME.contains(&name) {
                return differs(field.clone(), there, here);
            }
        }
        if saved.step > saved.total_steps {
            let reason = format!(
                "{} is beyond the {} steps of the run",
                saved.step, saved.total_steps
            );
            return Err(Error::config(&path, "step", reason));
        }
        Ok(saved.step)
    }
}

/// Leaf values in order, by dotted name. Loss and sampler are leaves, so that two states have the
/// same names in the same order.
fn flatten(state: &TrainState) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    let Ok(Value::Object(fields)) = serde_json::to_value(state) else {
        return leaves;
    };
    for (name, value) in fields {
        match value {
            Value::Object(config) if name == "config" => {
                leaves.extend(
                    config
                        .into_iter()
                        .map(|(field, value)| (format!("config.{field}"), value)),
                );
            }
            value => leaves.push((name, value)),
        }
    }
    leaves
}

/// What a run has trained so far.
pub(crate) struct Trained<'a, N> {
    pub network: &'a N,
    pub optimizer: &'a Optimizer,
    /// Name and values of the loss's parameters.
    pub loss: Option<(&'static str, LossParameters)>,
    pub loss_optimizer: &'a Optimizer,
    pub memory: Option<&'a Memory>,
    /// Loss of every step, those before a resumption included.
    pub losses: &'a [f32],
    pub records: &'a [MetricRecord],
}

/// Writes a checkpoint into `parent` and deletes all but the newest `keep`. Returns its directory.
pub(crate) fn save<E: Embedder>(
    parent: &Path,
    embedder: &E,
    trained: Trained<'_, E::Network>,
    state: &TrainState,
    keep: usize,
) -> Result<PathBuf> {
    let directory = parent.join(format!("{PREFIX}{:08}", state.step));
    let new = AtomicDir::create(&directory)?;
    weights::save_module(new.path().join(MODEL), trained.network, &embedder.names())?;
    trained.optimizer.save(new.path().join(OPTIMIZER))?;
    if let Some((name, parameters)) = &trained.loss {
        parameters.save(name, &new.path().join(LOSS))?;
        trained
            .loss_optimizer
            .save(new.path().join(LOSS_OPTIMIZER))?;
    }
    if let Some(memory) = trained.memory {
        memory.save(&new.path().join(MEMORY))?;
    }
    History::save(&new.path().join(HISTORY), trained.losses, trained.records)?;
    let text = serde_json::to_string_pretty(state)
        .map_err(|e| Error::invalid(&directory, format!("the state cannot be written: {e}")))?;
    write(new.path().join(STATE), text.as_bytes())?;
    new.commit()?;
    let mut old = list(parent)?;
    old.retain(|(step, _)| *step <= state.step);
    old.truncate(old.len().saturating_sub(keep.max(1)));
    for (_, old) in old {
        std::fs::remove_dir_all(&old).map_err(Error::io(&old, "remove"))?;
    }
    Ok(directory)
}

/// Refuses a directory with checkpoints of an earlier run for a run that starts anew.
pub(crate) fn check_unused(parent: &Path) -> Result<()> {
    match latest(parent)? {
        Some(found) => {
            let reason = "is there from an earlier run; resume from it, or choose another directory for checkpoints";
            Err(Error::invalid(found, reason))
        }
        None => Ok(()),
    }
}

/// The network and optimiser of a checkpoint, on `device`.
pub(crate) fn load<E: Embedder>(
    directory: &Path,
    embedder: &E,
    network: E::Network,
    optimizer: Optimizer,
    device: &Device,
) -> Result<(E::Network, Optimizer)> {
    let network = load_network(directory, network, &embedder.names(), device)?;
    let optimizer = optimizer.load(directory.join(OPTIMIZER), &network, device)?;
    Ok((network, optimizer))
}

/// The network alone.
fn load_network<M: Module>(
    directory: &Path,
    network: M,
    names: &Names,
    device: &Device,
) -> Result<M> {
    let weights = Checkpoint::open(directory.join(MODEL))?;
    let (network, report) = weights::load(network, &weights, names, device)?;
    if !report.unused.is_empty() {
        return Err(Error::UnusedTensors {
            path: weights.path().to_path_buf(),
            names: report.unused,
        });
    }
    Ok(network)
}

/// Losses and metrics up to a checkpoint; of one that an earlier version made, none.
pub(crate) fn history(directory: &Path) -> Result<History> {
    History::read(&directory.join(HISTORY))
}

/// The network that measured best, in a directory that is replaced as a whole.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Best {
    pub directory: PathBuf,
    /// Metric that it was chosen by.
    pub monitor: String,
    pub mode: Mode,
    /// What was measured on it.
    pub record: MetricRecord,
    /// Temperature that the loss had learnt by then.
    pub logit_scale: Option<f32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredBest {
    format: u32,
    monitor: String,
    mode: Mode,
    record: StoredRecord,
    logit_scale: Option<f32>,
}

impl Best {
    /// The value that it was chosen by.
    pub fn value(&self) -> Option<f64> {
        self.record.metrics.get(&self.monitor)
    }

    /// The file beside the network.
    pub fn record_path(&self) -> PathBuf {
        self.directory.join(BEST)
    }

    /// Writes the network and the record.
    pub fn save<M: Module>(&self, network: &M, names: &Names) -> Result<()> {
        let new = AtomicDir::create(&self.directory)?;
        weights::save_module(new.path().join(MODEL), network, names)?;
        let stored = StoredBest {
            format: FORMAT,
            monitor: self.monitor.clone(),
            mode: self.mode,
            record: StoredRecord::from(&self.record),
            logit_scale: self.logit_scale,
        };
        let text = serde_json::to_string_pretty(&stored).map_err(|e| {
            let reason = format!("the record cannot be written: {e}");
            Error::invalid(&self.directory, reason)
        })?;
        write(new.path().join(BEST), text.as_bytes())?;
        new.commit()
    }

    /// The record in a directory, if there is one.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        recover(directory)?;
        let path = directory.join(BEST);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&path, "read")(e)),
        };
        let stored: StoredBest = serde_json::from_str(&text).map_err(|e| {
            let reason = format!("is not the record of the best network of a run: {e}");
            Error::invalid(&path, reason)
        })?;
        if stored.format != FORMAT {
            let reason = format!(
                "has format {}, this version reads format {FORMAT}",
                stored.format
            );
            return Err(Error::invalid(&path, reason));
        }
        Ok(Some(Self {
            directory: directory.to_path_buf(),
            monitor: stored.monitor,
            mode: stored.mode,
            record: stored.record.record(&path)?,
            logit_scale: stored.logit_scale,
        }))
    }

    /// The network, in place of `network`, which has its form.
    pub fn network<M: Module>(&self, network: M, names: &Names, device: &Device) -> Result<M> {
        load_network(&self.directory, network, names, device)
    }

    /// Removes what an earlier run left in a directory.
    pub fn remove(directory: &Path) -> Result<()> {
        recover(directory)?;
        if directory.join(BEST).is_file() {
            std::fs::remove_dir_all(directory).map_err(Error::io(directory, "remove"))?;
        }
        Ok(())
    }
}

/// The parameters of a loss in a checkpoint and their optimiser, on `device`; `parameters` are
/// those that the loss began with.
pub(crate) fn load_loss(
    directory: &Path,
    name: &str,
    parameters: &LossParameters,
    optimizer: Optimizer,
    device: &Device,
) -> Result<(LossParameters, Optimizer)> {
    let parameters = parameters.load(name, &directory.join(LOSS), device)?;
    let path = directory.join(LOSS_OPTIMIZER);
    let optimizer = optimizer.load(path, &parameters, device)?;
    Ok((parameters, optimizer))
}

/// The memory of a loss in a checkpoint; `memory` is the one that it began with.
pub(crate) fn load_memory(
    directory: &Path,
    memory: &Memory,
    dim: usize,
    classes: usize,
) -> Result<Memory> {
    memory.load(&directory.join(MEMORY), dim, classes)
}

/// The newest checkpoint in a directory of checkpoints, if there are any.
///
/// # Errors
/// [`Error::Io`] where the directory exists and cannot be read.
pub fn latest(parent: impl AsRef<Path>) -> Result<Option<PathBuf>> {
    Ok(list(parent.as_ref())?.pop().map(|(_, directory)| directory))
}

/// Checkpoints and their steps, oldest first.
fn list(parent: &Path) -> Result<Vec<(usize, PathBuf)>> {
    if !parent.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(parent).map_err(Error::io(parent, "read"))? {
        let entry = entry.map_err(Error::io(parent, "read"))?;
        let name = entry.file_name();
        let step = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|step| step.parse().ok());
        if let Some(step) = step
            && entry.path().join(STATE).is_file()
        {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}
