//! A loss over embeddings and over their first coordinates alone.

use burn::tensor::Tensor;
use fin_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::labelled::EPS;
use super::ops::normalize_rows;
use super::{ExpectedData, Loss, loss_from_name};
use crate::dataset::BatchTargets;
use crate::registry::{self, Options};

/// The weighted sum of a loss over embeddings cut to their first `matryoshka_dims` coordinates and
/// scaled to unit length, one term a width (Kusupati et al. 2022, "Matryoshka representation
/// learning", equation 1; `MatryoshkaLoss` of sentence-transformers over all widths in every step).
///
/// By name, `loss` is a name or an object with `name` and options. Widths have no default;
/// `matryoshka_weights` are by default 1 each. Terms are summed from the largest width down.
#[derive(Debug)]
pub struct MatryoshkaLoss {
    loss: Box<dyn Loss>,
    /// Widths and weights, the largest width first.
    terms: Vec<(usize, f64)>,
}

impl MatryoshkaLoss {
    /// Of a loss, widths, and weights or `None` for 1 each.
    ///
    /// # Errors
    /// [`Error::Argument`] where there are no widths, one is 0, there is not one weight a width, a
    /// weight is not finite, or the loss has parameters of its own, which are of one width.
    pub fn new(loss: Box<dyn Loss>, dims: &[usize], weights: Option<&[f64]>) -> Result<Self> {
        if dims.is_empty() || dims.contains(&0) {
            let reason = format!("{dims:?} are not one or more widths of at least 1");
            return Err(Error::argument("matryoshka_dims", reason));
        }
        let ones = vec![1.0; dims.len()];
        let weights = weights.unwrap_or(&ones);
        if weights.len() != dims.len() || !weights.iter().all(|weight| weight.is_finite()) {
            let reason = format!("{weights:?} are not {} weights", dims.len());
            return Err(Error::argument("matryoshka_weights", reason));
        }
        if loss.has_parameters() {
            let reason = format!("`{}` has parameters, which are of one width", loss.name());
            return Err(Error::argument("loss", reason));
        }
        if loss.memory().is_some() {
            let reason = format!("`{}` has a memory, which is of one width", loss.name());
            return Err(Error::argument("loss", reason));
        }
        let mut terms: Vec<_> = dims.iter().copied().zip(weights.iter().copied()).collect();
        terms.sort_by_key(|(dim, _)| std::cmp::Reverse(*dim));
        Ok(Self { loss, terms })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Parsed {
            loss: Value,
            matryoshka_dims: Vec<usize>,
            matryoshka_weights: Option<Vec<f64>>,
        }
        impl Default for Parsed {
            fn default() -> Self {
                Self {
                    loss: json!("multiple_negatives_ranking"),
                    matryoshka_dims: Vec::new(),
                    matryoshka_weights: None,
                }
            }
        }
        let parsed: Parsed = registry::parse("matryoshka", options)?;
        let (name, options) = registry::named("loss", &parsed.loss)?;
        Self::new(
            loss_from_name(&name, &options)?,
            &parsed.matryoshka_dims,
            parsed.matryoshka_weights.as_deref(),
        )
    }
}

impl Loss for MatryoshkaLoss {
    fn name(&self) -> &'static str {
        "matryoshka"
    }

    fn options(&self) -> Options {
        let (dims, weights): (Vec<usize>, Vec<f64>) = self.terms.iter().copied().unzip();
        Options::from_iter([
            (
                "loss".into(),
                registry::to_named(self.loss.name(), self.loss.options()),
            ),
            ("matryoshka_dims".into(), json!(dims)),
            ("matryoshka_weights".into(), json!(weights)),
        ])
    }

    fn accepts(&self) -> ExpectedData {
        self.loss.accepts()
    }

    fn default_sampler(&self) -> &'static str {
        self.loss.default_sampler()
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        let mut sum: Option<Tensor<1>> = None;
        for &(dim, weight) in &self.terms {
            let cut = embeddings
                .iter()
                .map(|column| {
                    let width = column.dims()[1];
                    if dim > width {
                        let reason = format!("{dim} is more than the embeddings' width of {width}");
                        return Err(Error::argument("matryoshka_dims", reason));
                    }
                    Ok(normalize_rows(column.clone().narrow(1, 0, dim), EPS))
                })
                .collect::<Result<Vec<_>>>()?;
            let term = self.loss.forward(&cut, targets)?.mul_scalar(weight);
            sum = Some(match sum {
                Some(sum) => sum + term,
                None => term,
            });
        }
        sum.ok_or_else(|| Error::argument("matryoshka_dims", "has no widths"))
    }
}
