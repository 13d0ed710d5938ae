//! The part of a batch with the largest loss.

use burn::tensor::{Tensor, TensorData};
use fin_core::{Error, Result};
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use super::{Mined, Miner, MinerBatch};
use crate::dataset::{BatchTargets, TargetKind};
use crate::loss::{Loss, loss_from_name};
use crate::registry::{self, Options};

/// All pairs among `output_batch_size` items of the batch: of `num_trials` sets drawn at random,
/// those with the largest loss (`MaximumLossMiner` of pytorch-metric-learning up to version 0.9.99).
///
/// `loss` is the loss by which sets are compared, a name or an object with `name` and options; it
/// takes labelled items and has no parameters of its own.
/// `output_batch_size` is by default half of the batch, rounded up. Defaults: `triplet_margin`, 5
/// trials, seed 0; see [`MinerBatch::generator`] for what the draws depend on.
#[derive(Debug)]
pub struct MaximumLossMiner {
    loss: Box<dyn Loss>,
    output_batch_size: Option<usize>,
    num_trials: usize,
    seed: u64,
}

impl MaximumLossMiner {
    /// With this loss, size of a set, number of sets, and seed.
    ///
    /// # Errors
    /// [`Error::Argument`] where the loss does not take labelled items or has parameters of its
    /// own, or a number is 0.
    pub fn new(
        loss: Box<dyn Loss>,
        output_batch_size: Option<usize>,
        num_trials: usize,
        seed: u64,
    ) -> Result<Self> {
        let accepted = loss.accepts();
        if accepted.targets != TargetKind::Labels || accepted.min_columns != 1 {
            let reason = format!("`{}` does not take items with a label each", loss.name());
            return Err(Error::argument("loss", reason));
        }
        if loss.has_parameters() {
            let reason = format!("`{}` has parameters of its own", loss.name());
            return Err(Error::argument("loss", reason));
        }
        if loss.memory().is_some() {
            let reason = format!("`{}` has a memory, which is for training", loss.name());
            return Err(Error::argument("loss", reason));
        }
        for (name, value) in [
            ("output_batch_size", output_batch_size),
            ("num_trials", Some(num_trials)),
        ] {
            if value == Some(0) {
                return Err(Error::argument(name, "0 is too few; 1 or more are needed"));
            }
        }
        Ok(Self {
            loss,
            output_batch_size,
            num_trials,
            seed,
        })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Parsed {
            loss: Value,
            output_batch_size: Option<usize>,
            num_trials: usize,
            seed: u64,
        }
        impl Default for Parsed {
            fn default() -> Self {
                Self {
                    loss: json!("triplet_margin"),
                    output_batch_size: None,
                    num_trials: 5,
                    seed: 0,
                }
            }
        }
        let parsed: Parsed = registry::parse("maximum_loss", options)?;
        let (name, options) = registry::named("loss", &parsed.loss)?;
        Self::new(
            loss_from_name(&name, &options)?,
            parsed.output_batch_size,
            parsed.num_trials,
            parsed.seed,
        )
    }
}

impl Miner for MaximumLossMiner {
    fn name(&self) -> &'static str {
        "maximum_loss"
    }

    fn options(&self) -> Options {
        Options::from_iter([
            (
                "loss".into(),
                registry::to_named(self.loss.name(), self.loss.options()),
            ),
            ("output_batch_size".into(), json!(self.output_batch_size)),
            ("num_trials".into(), json!(self.num_trials)),
            ("seed".into(), json!(self.seed)),
        ])
    }

    fn mine(&self, batch: &MinerBatch<'_>) -> Result<Mined> {
        if batch.has_others() {
            let reason = "`maximum_loss` selects parts of a batch; it does not go with a memory";
            return Err(Error::argument("miner", reason));
        }
        let mut rng = batch.generator(self.seed);
        let size = self
            .output_batch_size
            .unwrap_or_else(|| batch.len().div_ceil(2))
            .min(batch.len());
        let dim = batch.dim();
        let mut items: Vec<usize> = (0..batch.len()).collect();
        let mut best: Option<(f32, Vec<usize>)> = None;
        for _ in 0..self.num_trials {
            items.shuffle(&mut rng);
            let mut chosen = items[..size].to_vec();
            chosen.sort_unstable();
            let rows: Vec<f32> = chosen
                .iter()
                .flat_map(|&i| &batch.values()[i * dim..(i + 1) * dim])
                .copied()
                .collect();
            let labels = chosen.iter().map(|&i| batch.labels()[i]).collect();
            let rows = Tensor::<2>::from_data(TensorData::new(rows, [size, dim]), batch.device());
            let loss = self.loss.forward(&[rows], &BatchTargets::Labels(labels))?;
            let loss = loss.try_into_scalar::<f32>().map_err(|e| {
                Error::argument("device", format!("the miner's loss cannot be read: {e}"))
            })?;
            if best.as_ref().is_none_or(|(largest, _)| loss > *largest) {
                best = Some((loss, chosen));
            }
        }
        let chosen = best.map(|(_, chosen)| chosen).unwrap_or_default();
        let labels: Vec<usize> = chosen.iter().map(|&i| batch.labels()[i]).collect();
        let (positive, negative) = Mined::all_pairs(&labels).pairs();
        let back = |pairs: Vec<[usize; 2]>| {
            pairs
                .into_iter()
                .map(|pair| pair.map(|i| chosen[i]))
                .collect()
        };
        Ok(Mined::Pairs {
            positive: back(positive),
            negative: back(negative),
        })
    }
}
