//! The hardest share of all pairs.

use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Mined, Miner, MinerBatch};
use crate::registry::{self, Options};

/// The farthest positive pairs and the nearest negative ones, a share `filter_percentage` of
/// either (Yuan et al. 2017, "Hard-aware deeply cascaded embedding"; `HDCMiner` of
/// pytorch-metric-learning). Hardest first; of equally far pairs the first is taken. Default: 0.5.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HdcMiner {
    filter_percentage: f64,
}

impl Default for HdcMiner {
    fn default() -> Self {
        Self {
            filter_percentage: 0.5,
        }
    }
}

impl HdcMiner {
    /// With this share.
    ///
    /// # Errors
    /// [`Error::Argument`] where it is not above 0 and at most 1.
    pub fn new(filter_percentage: f64) -> Result<Self> {
        if filter_percentage > 0.0 && filter_percentage <= 1.0 {
            Ok(Self { filter_percentage })
        } else {
            Err(Error::argument(
                "filter_percentage",
                format!("{filter_percentage} is not a share above 0 and at most 1"),
            ))
        }
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        Self::new(registry::parse::<Self>("hdc", options)?.filter_percentage)
    }
}

impl Miner for HdcMiner {
    fn name(&self) -> &'static str {
        "hdc"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn mine(&self, batch: &MinerBatch<'_>) -> Result<Mined> {
        let distances = batch.distances();
        let (mut positive, mut negative) = batch.all_pairs().pairs();
        positive.sort_by(|&[a, b], &[c, d]| distances.at(c, d).total_cmp(&distances.at(a, b)));
        negative.sort_by(|&[a, b], &[c, d]| distances.at(a, b).total_cmp(&distances.at(c, d)));
        for pairs in [&mut positive, &mut negative] {
            let count = (self.filter_percentage * pairs.len() as f64).ceil() as usize;
            pairs.truncate(count);
        }
        Ok(Mined::Pairs { positive, negative })
    }
}
