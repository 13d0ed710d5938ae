//! As many pairs of every distance.

use fin_core::{Error, Result};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Matrix, Mined, Miner, MinerBatch};
use crate::registry::{self, Options};

/// The distances of all positive pairs, from the smallest to the largest, are cut into `num_bins`
/// bins of one width, and `pos_per_bin` pairs are drawn with replacement from every bin that has
/// any; likewise the negative pairs with `neg_per_bin` (`UniformHistogramMiner` of
/// pytorch-metric-learning). Defaults: 100, 10, 10, seed 0; see [`MinerBatch::generator`] for what
/// the draws depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UniformHistogramMiner {
    num_bins: usize,
    pos_per_bin: usize,
    neg_per_bin: usize,
    seed: u64,
}

impl Default for UniformHistogramMiner {
    fn default() -> Self {
        Self {
            num_bins: 100,
            pos_per_bin: 10,
            neg_per_bin: 10,
            seed: 0,
        }
    }
}

impl UniformHistogramMiner {
    /// With these numbers of bins and of pairs a bin, and this seed.
    ///
    /// # Errors
    /// [`Error::Argument`] where one is 0.
    pub fn new(num_bins: usize, pos_per_bin: usize, neg_per_bin: usize, seed: u64) -> Result<Self> {
        for (name, value) in [
            ("num_bins", num_bins),
            ("pos_per_bin", pos_per_bin),
            ("neg_per_bin", neg_per_bin),
        ] {
            if value == 0 {
                return Err(Error::argument(name, "0 is too few; 1 or more are needed"));
            }
        }
        Ok(Self {
            num_bins,
            pos_per_bin,
            neg_per_bin,
            seed,
        })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("uniform_histogram", options)?;
        Self::new(
            parsed.num_bins,
            parsed.pos_per_bin,
            parsed.neg_per_bin,
            parsed.seed,
        )
    }

    /// The pairs in every bin, positive ones and negative ones; bins without any are empty.
    pub fn bins(&self, batch: &MinerBatch<'_>) -> [Vec<Vec<[usize; 2]>>; 2] {
        let distances = batch.distances();
        let (positive, negative) = batch.all_pairs().pairs();
        [positive, negative].map(|pairs| self.bins_of(&distances, &pairs))
    }

    fn bins_of(&self, distances: &Matrix, pairs: &[[usize; 2]]) -> Vec<Vec<[usize; 2]>> {
        let values = || pairs.iter().map(|&[a, b]| distances.at(a, b));
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(f64::NEG_INFINITY, f64::max);
        let mut bins = vec![Vec::new(); self.num_bins];
        let edge = |i: usize| low + (high - low) * (i as f64 / self.num_bins as f64);
        for (&pair, value) in pairs.iter().zip(values()) {
            // The last edge at or below the value; the largest value is in the last bin.
            let guess = (value - low) / (high - low) * self.num_bins as f64;
            let mut bin = (guess as usize).min(self.num_bins - 1);
            while bin > 0 && edge(bin) > value {
                bin -= 1;
            }
            while bin + 1 < self.num_bins && edge(bin + 1) <= value {
                bin += 1;
            }
            bins[bin].push(pair);
        }
        bins
    }
}

fn draw(bins: &[Vec<[usize; 2]>], count: usize, rng: &mut ChaCha8Rng) -> Vec<[usize; 2]> {
    let mut drawn = Vec::new();
    for bin in bins.iter().filter(|bin| !bin.is_empty()) {
        drawn.extend((0..count).map(|_| bin[rng.random_range(0..bin.len())]));
    }
    drawn
}

impl Miner for UniformHistogramMiner {
    fn name(&self) -> &'static str {
        "uniform_histogram"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn mine(&self, batch: &MinerBatch<'_>) -> Result<Mined> {
        let mut rng = batch.generator(self.seed);
        let [positive, negative] = self.bins(batch);
        Ok(Mined::Pairs {
            positive: draw(&positive, self.pos_per_bin, &mut rng),
            negative: draw(&negative, self.neg_per_bin, &mut rng),
        })
    }
}
