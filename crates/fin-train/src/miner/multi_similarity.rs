//! Pairs that are hard against the hardest pair of the other kind.

use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::{Mined, Miner, MinerBatch, finite};
use crate::registry::{self, Options};

/// Of every anchor, the positives less similar than its most similar negative plus `epsilon`, and
/// the negatives more similar than its least similar positive less `epsilon` (Wang et al. 2019,
/// "Multi-similarity loss with general pair weighting", section 3.3; `MultiSimilarityMiner` of
/// pytorch-metric-learning). Similarities are cosines; an anchor's
/// pairs come in their order, the least similar first. Default: 0.1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MultiSimilarityMiner {
    epsilon: f64,
}

impl Default for MultiSimilarityMiner {
    fn default() -> Self {
        Self { epsilon: 0.1 }
    }
}

impl MultiSimilarityMiner {
    /// With this margin between similarities.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where it is not finite.
    pub fn new(epsilon: f64) -> Result<Self> {
        finite("epsilon", epsilon)?;
        Ok(Self { epsilon })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        Self::new(registry::parse::<Self>("multi_similarity", options)?.epsilon)
    }
}

impl Miner for MultiSimilarityMiner {
    fn name(&self) -> &'static str {
        "multi_similarity"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn mine(&self, batch: &MinerBatch<'_>) -> Result<Mined> {
        let cosines = batch.cosines();
        let (mut positive, mut negative) = (Vec::new(), Vec::new());
        for a in 0..batch.len() {
            let row = cosines.row(a);
            let positives = (0..batch.columns()).filter(|&p| batch.positive(a, p));
            let negatives = (0..batch.columns()).filter(|&n| batch.negative(a, n));
            let nearest = negatives
                .clone()
                .fold(f64::NEG_INFINITY, |x, n| x.max(row[n]));
            let farthest = positives.clone().fold(f64::INFINITY, |x, p| x.min(row[p]));
            let mut hard: Vec<usize> = positives
                .filter(|&p| row[p] - self.epsilon < nearest)
                .collect();
            hard.sort_by(|&i, &j| row[i].total_cmp(&row[j]));
            positive.extend(hard.into_iter().map(|p| [a, p]));
            let mut hard: Vec<usize> = negatives
                .filter(|&n| row[n] + self.epsilon > farthest)
                .collect();
            hard.sort_by(|&i, &j| row[i].total_cmp(&row[j]));
            negative.extend(hard.into_iter().map(|n| [a, n]));
        }
        Ok(Mined::Pairs { positive, negative })
    }
}
