//! Invariance of pairs, variance and covariance of coordinates.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::{ExpectedData, Loss, check_batch, ops};
use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Options};
use burn::tensor::activation::relu;
use fin_core::Error;

/// `invariance_lambda · mean((a − b)²)`, plus for either column `variance_mu · mean_j(max(1 −
/// √(var_j + eps), 0)) / 2` and `covariance_v · Σ_{i≠j} cov_ij² / dim` (Bardes et al. 2022,
/// "VICReg", equations 1 to 6; `VICRegLoss` of pytorch-metric-learning). Variances and covariances
/// are over the batch, of which two rows or more are needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VicRegLoss {
    invariance_lambda: f64,
    variance_mu: f64,
    covariance_v: f64,
    eps: f64,
}

impl Default for VicRegLoss {
    /// Weights of 25, 25 and 1, 1e-4.
    fn default() -> Self {
        Self {
            invariance_lambda: 25.0,
            variance_mu: 25.0,
            covariance_v: 1.0,
            eps: 1e-4,
        }
    }
}

impl VicRegLoss {
    /// With these weights of the three parts and what is added to variances.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(
        invariance_lambda: f64,
        variance_mu: f64,
        covariance_v: f64,
        eps: f64,
    ) -> Result<Self> {
        ops::not_negative("invariance_lambda", invariance_lambda)?;
        ops::not_negative("variance_mu", variance_mu)?;
        ops::not_negative("covariance_v", covariance_v)?;
        ops::positive("eps", eps)?;
        Ok(Self {
            invariance_lambda,
            variance_mu,
            covariance_v,
            eps,
        })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let Self {
            invariance_lambda,
            variance_mu,
            covariance_v,
            eps,
        } = registry::parse("vicreg", options)?;
        Self::new(invariance_lambda, variance_mu, covariance_v, eps)
    }
}

impl Loss for VicRegLoss {
    fn name(&self) -> &'static str {
        "vicreg"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn accepts(&self) -> ExpectedData {
        ExpectedData {
            min_columns: 2,
            max_columns: Some(2),
            targets: TargetKind::None,
            roles: "first, second",
        }
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        let [batch, dim] = check_batch(self, embeddings, targets)?;
        if batch < 2 {
            let reason = "`vicreg` needs two rows or more, there is one";
            return Err(Error::argument("batch", reason));
        }
        let invariance = (embeddings[0].clone() - embeddings[1].clone())
            .square()
            .mean();
        let mut loss = invariance.mul_scalar(self.invariance_lambda);
        for column in embeddings {
            let centred = column.clone() - column.clone().mean_dim(0);
            let covariance = centred.clone().transpose().matmul(centred.clone());
            let covariance = covariance.div_scalar((batch - 1) as f64);
            let variance = centred.square().sum_dim(0).div_scalar((batch - 1) as f64);
            let deviation = variance.add_scalar(self.eps).sqrt();
            let short = relu(deviation.neg().add_scalar(1.0)).mean();
            let off_diagonal = Tensor::<2>::eye(dim, &column.device())
                .neg()
                .add_scalar(1.0);
            let shared = (covariance * off_diagonal)
                .square()
                .sum()
                .div_scalar(dim as f64);
            loss = loss
                + short.mul_scalar(self.variance_mu / 2.0)
                + shared.mul_scalar(self.covariance_v);
        }
        Ok(loss)
    }
}
