//! The hardest triplet of every anchor.

use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::batch_easy_hard::{BatchEasyHardMiner, Strategy};
use super::{Mined, Miner, MinerBatch};
use crate::registry::{self, Options};

/// For every anchor the farthest item of its class and the nearest of another class (Hermans et
/// al. 2017, section 2, "batch hard"; `BatchHardMiner` of pytorch-metric-learning). Anchors
/// without one of the two are left out; of equally far items the first is taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchHardMiner {}

impl Miner for BatchHardMiner {
    fn name(&self) -> &'static str {
        "batch_hard"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn mine(&self, batch: &MinerBatch<'_>) -> Result<Mined> {
        let hard = BatchEasyHardMiner::new(Strategy::Hard, Strategy::Hard)?;
        Ok(Mined::Triplets(hard.mine(batch)?.triplets()))
    }
}
