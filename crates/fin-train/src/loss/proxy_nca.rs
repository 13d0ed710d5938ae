//! Neighbourhood components analysis with a vector a class for a neighbour.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::LabelledBatch;
use super::ops;
use super::proxies::{self, Initial, ProxyLoss};

/// Cross-entropy of logits `−softmax_scale · d²`, `d` being the Euclidean distance of the item to a
/// class's vector, both scaled to unit length (Movshovitz-Attias et al. 2017, "No fuss distance
/// metric learning using proxies", equation 4; `ProxyNCALoss` of pytorch-metric-learning, whose
/// probability, other than the paper's, is over all classes). The class vectors are the rows of
/// `proxies` `[classes, dim]` and begin as normal numbers. A miner's selection weights
/// the items by how often they are anchors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyNcaLoss {
    softmax_scale: f64,
}

impl Default for ProxyNcaLoss {
    /// Scale 1.
    fn default() -> Self {
        Self { softmax_scale: 1.0 }
    }
}

impl ProxyNcaLoss {
    /// With this scale.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(softmax_scale: f64) -> Result<Self> {
        let made = Self { softmax_scale };
        made.validate()?;
        Ok(made)
    }
}

impl ProxyLoss for ProxyNcaLoss {
    const NAME: &'static str = "proxy_nca";
    const WEIGHT: &'static str = "proxies";

    fn validate(&self) -> Result<()> {
        ops::positive("softmax_scale", self.softmax_scale)?;
        Ok(())
    }

    fn initial(&self, classes: usize, dim: usize) -> ([usize; 2], Initial) {
        ([classes, dim], Initial::Normal(1.0))
    }

    fn compute(&self, weight: Tensor<2>, batch: &LabelledBatch<'_>) -> Tensor<1> {
        // Of the squared distance, the square of the item's length is the same for every class.
        let proxies = proxies::unit(weight);
        let squares = proxies.clone().square().sum_dim(1).transpose();
        let logits = batch.unit().matmul(proxies.transpose()).mul_scalar(2.0) - squares;
        let logits = logits.mul_scalar(self.softmax_scale);
        proxies::weighted_cross_entropy(logits, batch, batch.anchor_weights())
    }
}
