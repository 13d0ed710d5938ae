//! Triplets that violate a margin.

use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::{Mined, Miner, MinerBatch, finite};
use crate::registry::{self, Options};

/// Which triplets [`TripletMarginMiner`] selects, by `d(a, n) − d(a, p)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TripletKind {
    /// At most the margin.
    All,
    /// At most 0 and at most the margin.
    Hard,
    /// Above 0 and at most the margin.
    #[serde(rename = "semihard")]
    SemiHard,
    /// Above the margin.
    Easy,
}

/// All triplets whose negative is not farther from the anchor than the positive by more than
/// `margin`, or the part of them that `type_of_triplets` names (Schroff et al. 2015, "FaceNet",
/// section 3.2; `TripletMarginMiner` of pytorch-metric-learning). Defaults: 0.2, all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TripletMarginMiner {
    margin: f64,
    type_of_triplets: TripletKind,
}

impl Default for TripletMarginMiner {
    fn default() -> Self {
        Self {
            margin: 0.2,
            type_of_triplets: TripletKind::All,
        }
    }
}

impl TripletMarginMiner {
    /// With this margin and kind.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where the margin is not finite.
    pub fn new(margin: f64, kind: TripletKind) -> Result<Self> {
        finite("margin", margin)?;
        Ok(Self {
            margin,
            type_of_triplets: kind,
        })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("triplet_margin", options)?;
        Self::new(parsed.margin, parsed.type_of_triplets)
    }
}

impl Miner for TripletMarginMiner {
    fn name(&self) -> &'static str {
        "triplet_margin"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn mine(&self, batch: &MinerBatch<'_>) -> Result<Mined> {
        let distances = batch.distances();
        Ok(Mined::Triplets(batch.triplets_where(|a, p, n| {
            let gap = distances.at(a, n) - distances.at(a, p);
            match self.type_of_triplets {
                TripletKind::All => gap <= self.margin,
                TripletKind::Hard => gap <= self.margin && gap <= 0.0,
                TripletKind::SemiHard => gap <= self.margin && gap > 0.0,
                TripletKind::Easy => gap > self.margin,
            }
        })))
    }
}
