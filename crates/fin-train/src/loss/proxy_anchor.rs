//! Class vectors as anchors, the items of a batch as positives and negatives.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::LabelledBatch;
use super::ops;
use super::proxies::{self, Initial, ProxyLoss};

/// The mean over the classes in the batch of `log(1 + Σ_p exp(−alpha (s − margin)))` over their
/// items, plus the mean over all classes of `log(1 + Σ_n exp(alpha (s + margin)))` over the other
/// items (Kim et al. 2020, "Proxy anchor loss for deep metric learning", equation 4;
/// `ProxyAnchorLoss` of pytorch-metric-learning). `s` is the cosine of a class's vector and an
/// item. The class vectors are the rows of `proxies` `[classes, dim]` and begin as normal numbers
/// of variance `2 / classes`. A miner's selection adds its weights less 1 to the exponents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyAnchorLoss {
    margin: f64,
    alpha: f64,
}

impl Default for ProxyAnchorLoss {
    /// Margin 0.1, scale 32.
    fn default() -> Self {
        Self {
            margin: 0.1,
            alpha: 32.0,
        }
    }
}

impl ProxyAnchorLoss {
    /// With this margin and scale.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(margin: f64, alpha: f64) -> Result<Self> {
        let made = Self { margin, alpha };
        made.validate()?;
        Ok(made)
    }
}

impl ProxyLoss for ProxyAnchorLoss {
    const NAME: &'static str = "proxy_anchor";
    const WEIGHT: &'static str = "proxies";

    fn validate(&self) -> Result<()> {
        ops::finite("margin", self.margin)?;
        ops::positive("alpha", self.alpha)?;
        Ok(())
    }

    fn initial(&self, classes: usize, dim: usize) -> ([usize; 2], Initial) {
        (
            [classes, dim],
            Initial::Normal((2.0 / classes as f64).sqrt()),
        )
    }

    fn compute(&self, weight: Tensor<2>, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let cosines = proxies::unit(weight).matmul(batch.unit().transpose());
        let [classes, len] = cosines.dims();
        let own = proxies::one_hot(batch, classes).transpose();
        let other = own.clone().neg().add_scalar(1.0);
        let near = cosines
            .clone()
            .sub_scalar(self.margin)
            .mul_scalar(-self.alpha);
        let far = cosines.add_scalar(self.margin).mul_scalar(self.alpha);
        let weighted = |x: Tensor<2>| match batch.weights() {
            Some(weights) => x + weights.reshape([1, len]).sub_scalar(1.0),
            None => x,
        };
        let present = ops::any_in_row(&own).sum();
        let near = ops::masked_logsumexp(weighted(near), &own, true).sum();
        let far = ops::masked_logsumexp(weighted(far), &other, true).sum();
        near / present + far.div_scalar(classes as f64)
    }
}
