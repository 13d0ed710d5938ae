//! Negatives drawn so that all distances are as likely.

use fin_core::{Error, Result};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{Mined, Miner, MinerBatch};
use crate::registry::{self, Options};

/// Triplets whose negative is drawn with a weight that undoes how often its distance comes about
/// by chance (Wu et al. 2017, "Sampling matters in deep embedding learning", section 4;
/// `DistanceWeightedMiner` of pytorch-metric-learning).
///
/// On a sphere in `dim` dimensions the distance `d` has density `d^(dim−2) (1 − d²/4)^((dim−3)/2)`;
/// the weight is its inverse at `max(d, cutoff)`, and 0 from `nonzero_loss_cutoff` on. An anchor
/// has as many triplets as its class has items in the batch, each with a positive drawn evenly.
/// Anchors without positives or without negatives of a weight are left out. Defaults: 0.5, 1.4,
/// seed 0; see [`MinerBatch::generator`] for what the draws depend on.
///
/// Weights are scaled row by row, so that no row is lost to underflow where dimensions are many;
/// the reference scales them by the batch's largest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistanceWeightedMiner {
    cutoff: f64,
    nonzero_loss_cutoff: f64,
    seed: u64,
}

impl Default for DistanceWeightedMiner {
    fn default() -> Self {
        Self {
            cutoff: 0.5,
            nonzero_loss_cutoff: 1.4,
            seed: 0,
        }
    }
}

impl DistanceWeightedMiner {
    /// With these distances and this seed.
    ///
    /// # Errors
    /// [`Error::Argument`] where a distance is not a positive number.
    pub fn new(cutoff: f64, nonzero_loss_cutoff: f64, seed: u64) -> Result<Self> {
        for (name, value) in [
            ("cutoff", cutoff),
            ("nonzero_loss_cutoff", nonzero_loss_cutoff),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                let reason = format!("{value} is not a positive number");
                return Err(Error::argument(name, reason));
            }
        }
        Ok(Self {
            cutoff,
            nonzero_loss_cutoff,
            seed,
        })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("distance_weighted", options)?;
        Self::new(parsed.cutoff, parsed.nonzero_loss_cutoff, parsed.seed)
    }

    /// The probability of every item as the negative of every anchor, row by row; 0 throughout
    /// where an anchor has none.
    pub fn weights(&self, batch: &MinerBatch<'_>) -> Vec<Vec<f64>> {
        let distances = batch.distances();
        let dim = batch.dim() as f64;
        let log_weight = |a: usize, n: usize| {
            let d = distances.at(a, n).max(self.cutoff);
            let value = (2.0 - dim) * d.ln() - (dim - 3.0) / 2.0 * (1.0 - 0.25 * d * d).ln();
            (batch.negative(a, n) && d < self.nonzero_loss_cutoff && value.is_finite())
                .then_some(value)
        };
        (0..batch.len())
            .map(|a| {
                let logs: Vec<Option<f64>> =
                    (0..batch.columns()).map(|n| log_weight(a, n)).collect();
                let largest = logs
                    .iter()
                    .flatten()
                    .fold(f64::NEG_INFINITY, |x, y| x.max(*y));
                let weights: Vec<f64> = logs
                    .iter()
                    .map(|log| log.map_or(0.0, |log| (log - largest).exp()))
                    .collect();
                let sum: f64 = weights.iter().sum();
                if sum > 0.0 {
                    weights.into_iter().map(|weight| weight / sum).collect()
                } else {
                    weights
                }
            })
            .collect()
    }
}

impl Miner for DistanceWeightedMiner {
    fn name(&self) -> &'static str {
        "distance_weighted"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn mine(&self, batch: &MinerBatch<'_>) -> Result<Mined> {
        let mut rng = batch.generator(self.seed);
        let mut triplets = Vec::new();
        for (a, weights) in self.weights(batch).iter().enumerate() {
            let positives: Vec<usize> = (0..batch.columns())
                .filter(|&p| batch.positive(a, p))
                .collect();
            let Some(last) = weights.iter().rposition(|&weight| weight > 0.0) else {
                continue;
            };
            if positives.is_empty() {
                continue;
            }
            // As often as there are items of the class, which the anchor itself is one of.
            let own = usize::from(!batch.has_others());
            for _ in 0..positives.len() + own {
                let p = positives[rng.random_range(0..positives.len())];
                let mut rest = rng.random::<f64>();
                let drawn = weights[..last].iter().position(|&weight| {
                    rest -= weight;
                    rest < 0.0
                });
                triplets.push([a, p, drawn.unwrap_or(last)]);
            }
        }
        Ok(Mined::Triplets(triplets))
    }
}
