//! Distances on either side of a boundary.

use burn::tensor::Tensor;
use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::labelled::{LabelledBatch, LabelledLoss};
use super::ops;
use burn::tensor::activation::relu;

/// Over triplets `max(d(a, p) − beta + margin, 0) + max(beta − d(a, n) + margin, 0)`, the sum being
/// divided by the number of terms above zero (Wu et al. 2017, "Sampling matters in deep embedding
/// learning", section 4; `MarginLoss` of pytorch-metric-learning). `d` is the Euclidean distance of
/// vectors scaled to unit length. The paper selects triplets with the miner `distance_weighted`.
///
/// With `learn_beta`, `beta` is where a parameter begins that is trained beside the network; with
/// `per_class`, every class has its own (the reference's `num_classes`), which is that of the anchor.
/// `nu` times it is added then: times a single one once, where there is a triplet, times those of
/// classes for every triplet, divided by the number above.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MarginLoss {
    margin: f64,
    beta: f64,
    nu: f64,
    learn_beta: bool,
    per_class: bool,
}

impl Default for MarginLoss {
    /// Margin 0.2 around 1.2, which stays.
    fn default() -> Self {
        Self {
            margin: 0.2,
            beta: 1.2,
            nu: 0.0,
            learn_beta: false,
            per_class: false,
        }
    }
}

impl MarginLoss {
    /// With this margin around this boundary.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where one is out of its range.
    pub fn new(margin: f64, beta: f64) -> Result<Self> {
        let made = Self {
            margin,
            beta,
            ..Self::default()
        };
        made.validate()?;
        Ok(made)
    }

    /// With a boundary that is learned, for all classes or for each its own, and `nu`, what it weighs
    /// in the loss.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where `nu` is negative or not finite.
    pub fn learned(self, per_class: bool, nu: f64) -> Result<Self> {
        let made = Self {
            nu,
            learn_beta: true,
            per_class,
            ..self
        };
        made.validate()?;
        Ok(made)
    }
}

impl LabelledLoss for MarginLoss {
    const NAME: &'static str = "margin";

    fn validate(&self) -> Result<()> {
        ops::finite("margin", self.margin)?;
        ops::finite("beta", self.beta)?;
        ops::not_negative("nu", self.nu)?;
        for (name, given) in [("nu", self.nu > 0.0), ("per_class", self.per_class)] {
            if given && !self.learn_beta {
                let reason = "is about a beta that is learned; set learn_beta too";
                return Err(Error::argument(name, reason));
            }
        }
        Ok(())
    }

    fn initial(&self, classes: usize) -> Option<(&'static str, Vec<f32>)> {
        let rows = if self.per_class { classes } else { 1 };
        self.learn_beta
            .then(|| ("beta", vec![self.beta as f32; rows]))
    }

    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1> {
        let (d, pairs) = (batch.distances(), batch.pairs_in_triplets());
        if pairs.positives == 0 {
            return batch.zero();
        }
        // That of each anchor, or one for all.
        let beta = batch.parameters().map(|beta| match self.per_class {
            true => beta.select(0, batch.indices(batch.labels().iter().copied())),
            false => beta,
        });
        let (near, far) = match &beta {
            None => (
                d.clone().add_scalar(self.margin - self.beta),
                d.neg().add_scalar(self.margin + self.beta),
            ),
            Some(beta) => (
                (d.clone() - beta.clone()).add_scalar(self.margin),
                (beta.clone() - d).add_scalar(self.margin),
            ),
        };
        let (near, far) = (relu(near), relu(far));
        let above = |losses: &Tensor<2>, counts: &Tensor<2>| {
            (losses.clone().detach().greater_elem(0.0).float() * counts.clone()).sum()
        };
        let number = above(&near, &pairs.positive) + above(&far, &pairs.negative);
        let any = number.clone().greater_elem(0.0).float();
        let number = number.clamp_min(1.0);
        // Every triplet has one positive pair, and is counted with it.
        let triplets = pairs.positive.clone().sum_dim(1);
        let losses = (near * pairs.positive).sum() + (far * pairs.negative).sum();
        let losses = losses / number.clone();
        match beta {
            Some(beta) if self.nu > 0.0 && self.per_class => {
                losses + (beta * triplets).sum().mul_scalar(self.nu) * any / number
            }
            Some(beta) if self.nu > 0.0 => losses + beta.sum().mul_scalar(self.nu),
            _ => losses,
        }
    }
}
