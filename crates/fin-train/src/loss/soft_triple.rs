//! Softmax over classes with several vectors each.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::labelled::LabelledBatch;
use super::ops;
use super::proxies::{self, Initial, ProxyLoss};
use burn::tensor::activation::softmax;
use fin_core::Error;

/// Cross-entropy of logits `la · S`, less `la · margin` for the item's own class, `S` being the
/// mean of the cosines with the class's vectors, weighted by a softmax of the same over `gamma`
/// (Qian et al. 2019, "SoftTriple loss", equations 7 and 8, without the regulariser;
/// `SoftTripleLoss` of pytorch-metric-learning). The vectors of class `c` are the columns `c ·
/// centers_per_class` and following of `fc` `[dim, classes · centers_per_class]`, which begins even
/// within `1 / √(columns)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SoftTripleLoss {
    centers_per_class: usize,
    la: f64,
    gamma: f64,
    margin: f64,
}

impl Default for SoftTripleLoss {
    /// 10 vectors, scale 20, temperature 0.1, margin 0.01.
    fn default() -> Self {
        Self {
            centers_per_class: 10,
            la: 20.0,
            gamma: 0.1,
            margin: 0.01,
        }
    }
}

impl SoftTripleLoss {
    /// With this number of vectors a class, scale, softmax temperature and margin.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(centers_per_class: usize, la: f64, gamma: f64, margin: f64) -> Result<Self> {
        let made = Self {
            centers_per_class,
            la,
            gamma,
            margin,
        };
        made.validate()?;
        Ok(made)
    }
}

impl ProxyLoss for SoftTripleLoss {
    const NAME: &'static str = "soft_triple";
    const WEIGHT: &'static str = "fc";

    fn validate(&self) -> Result<()> {
        if self.centers_per_class == 0 {
            let reason = "0 is too few; 1 or more are needed";
            return Err(Error::argument("centers_per_class", reason));
        }
        ops::positive("la", self.la)?;
        ops::positive("gamma", self.gamma)?;
        ops::finite("margin", self.margin)?;
        Ok(())
    }

    fn initial(&self, classes: usize, dim: usize) -> ([usize; 2], Initial) {
        let columns = classes * self.centers_per_class;
        (
            [dim, columns],
            Initial::Uniform((columns as f64).sqrt().recip()),
        )
    }

    fn compute(&self, weight: Tensor<2>, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let cosines = batch
            .unit()
            .matmul(proxies::unit(weight.transpose()).transpose());
        let [len, columns] = cosines.dims();
        let classes = columns / self.centers_per_class;
        let cosines = cosines.reshape([len, classes, self.centers_per_class]);
        let shares = softmax(cosines.clone().div_scalar(self.gamma), 2);
        let similarity = (shares * cosines).sum_dim(2).reshape([len, classes]);
        let margin = proxies::one_hot(batch, classes).mul_scalar(self.margin);
        proxies::cross_entropy((similarity - margin).mul_scalar(self.la), batch)
    }
}
