//! Triplets with a wide angle at the negative.

use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::{Mined, Miner, MinerBatch, finite};
use crate::registry::{self, Options};

/// Triplets whose angle `atan(‖a − p‖ / (2 ‖n − (a + p)/2‖))` is greater than `angle` degrees
/// (the angle of Wang et al. 2017, "Deep metric learning with angular loss", equation 5;
/// `AngularMiner` of pytorch-metric-learning). Vectors are taken as they
/// are, as the reference does in spite of its distance. Default: 20.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AngularMiner {
    angle: f64,
}

impl Default for AngularMiner {
    fn default() -> Self {
        Self { angle: 20.0 }
    }
}

impl AngularMiner {
    /// With this angle in degrees.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where it is not finite.
    pub fn new(angle: f64) -> Result<Self> {
        finite("angle", angle)?;
        Ok(Self { angle })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        Self::new(registry::parse::<Self>("angular", options)?.angle)
    }
}

impl Miner for AngularMiner {
    fn name(&self) -> &'static str {
        "angular"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn mine(&self, batch: &MinerBatch<'_>) -> Result<Mined> {
        let distances = batch.unscaled_distances();
        let others = batch.unscaled_distances_of_columns();
        let threshold = self.angle.to_radians();
        // The distance of a vertex from the middle of the opposite side, by the theorem of
        // Apollonius.
        Ok(Mined::Triplets(batch.triplets_where(|a, p, n| {
            let (ap, an, pn) = (distances.at(a, p), distances.at(a, n), others.at(p, n));
            let centre = (2.0 * (an * an + pn * pn) - ap * ap).max(0.0).sqrt() / 2.0;
            (ap / (2.0 * centre)).atan() > threshold
        })))
    }
}
