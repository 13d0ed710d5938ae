//! Pairs beyond fixed distances.

use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::{Mined, Miner, MinerBatch, finite};
use crate::registry::{self, Options};

/// Positive pairs farther apart than `pos_margin` and negative pairs nearer than `neg_margin`
/// (`PairMarginMiner` of pytorch-metric-learning). Defaults: 0.2 and 0.8.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PairMarginMiner {
    pos_margin: f64,
    neg_margin: f64,
}

impl Default for PairMarginMiner {
    fn default() -> Self {
        Self {
            pos_margin: 0.2,
            neg_margin: 0.8,
        }
    }
}

impl PairMarginMiner {
    /// With these distances.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is not finite.
    pub fn new(pos_margin: f64, neg_margin: f64) -> Result<Self> {
        finite("pos_margin", pos_margin)?;
        finite("neg_margin", neg_margin)?;
        Ok(Self {
            pos_margin,
            neg_margin,
        })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("pair_margin", options)?;
        Self::new(parsed.pos_margin, parsed.neg_margin)
    }
}

impl Miner for PairMarginMiner {
    fn name(&self) -> &'static str {
        "pair_margin"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn mine(&self, batch: &MinerBatch<'_>) -> Result<Mined> {
        let distances = batch.distances();
        let (mut positive, mut negative) = batch.all_pairs().pairs();
        positive.retain(|&[a, p]| distances.at(a, p) > self.pos_margin);
        negative.retain(|&[a, n]| distances.at(a, n) < self.neg_margin);
        Ok(Mined::Pairs { positive, negative })
    }
}
