//! Losses over the embeddings of a batch.
//!
//! | name | data | source |
//! | --- | --- | --- |
//! | `cosine_similarity` | pairs with a score | Reimers and Gurevych 2019 |
//! | `multiple_negatives_ranking` | pairs, hard negatives optional | Henderson et al. 2017 |
//! | `triplet_margin` | items with a label | Hermans et al. 2017 |
//!
//! A further loss is a file here that implements [`Loss`], and a line in the table of names.

mod cosine_similarity;
mod multiple_negatives_ranking;
mod triplet_margin;

use std::fmt;

use burn::tensor::Tensor;
use fin_core::{Error, Result};

pub use cosine_similarity::CosineSimilarityLoss;
pub use multiple_negatives_ranking::MultipleNegativesRankingLoss;
pub use triplet_margin::TripletMarginLoss;

use crate::dataset::{BatchTargets, TargetKind};
use crate::registry::{self, Entry, Options};

/// A function of a batch's embeddings and targets that training makes small.
pub trait Loss: fmt::Debug + Send {
    /// Name in configuration files.
    fn name(&self) -> &'static str;

    /// Every option with its value.
    fn options(&self) -> Options;

    /// The data it is defined on.
    fn accepts(&self) -> ExpectedData;

    /// The sampler that suits it, by name.
    fn default_sampler(&self) -> &'static str {
        "random"
    }

    /// The loss of a batch: an embedding matrix `[batch, dim]` a column → `[1]`.
    ///
    /// # Errors
    /// [`Error::Argument`] where the columns, their shapes or the targets are not what
    /// [`Loss::accepts`] says.
    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>>;
}

/// The data a loss is defined on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedData {
    /// Smallest number of columns.
    pub min_columns: usize,
    /// Largest number of columns; `None` for any.
    pub max_columns: Option<usize>,
    /// Kind of targets.
    pub targets: TargetKind,
    /// What the columns are, as in "anchor, positive".
    pub roles: &'static str,
}

impl ExpectedData {
    /// Checks a data set's or batch's form against what the loss `name` needs.
    ///
    /// # Errors
    /// [`Error::Argument`] says what is needed and what there is.
    pub fn check(&self, name: &str, columns: usize, targets: TargetKind) -> Result<()> {
        let fits = columns >= self.min_columns && self.max_columns.is_none_or(|max| columns <= max);
        if fits && targets == self.targets {
            return Ok(());
        }
        let plural = if columns == 1 { "" } else { "s" };
        Err(Error::argument(
            "loss",
            format!("`{name}` needs {self}; the data has {columns} column{plural} and {targets}"),
        ))
    }
}

impl fmt::Display for ExpectedData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.min_columns == 1 { "" } else { "s" };
        match self.max_columns {
            Some(max) if max == self.min_columns => write!(f, "{max} column{plural}")?,
            Some(max) => write!(f, "{} to {max} columns", self.min_columns)?,
            None => write!(f, "{} or more columns", self.min_columns)?,
        }
        write!(f, " ({}) and {}", self.roles, self.targets)
    }
}

const LOSSES: [Entry<dyn Loss>; 3] = [
    ("cosine_similarity", |_, options| {
        Ok(Box::new(CosineSimilarityLoss::from_options(options)?))
    }),
    ("multiple_negatives_ranking", |_, options| {
        Ok(Box::new(MultipleNegativesRankingLoss::from_options(
            options,
        )?))
    }),
    ("triplet_margin", |_, options| {
        Ok(Box::new(TripletMarginLoss::from_options(options)?))
    }),
];

/// The loss of this name.
///
/// # Errors
/// [`Error::Argument`] lists the names, or names an option that cannot be used.
///
/// ```
/// use serde_json::json;
///
/// let options = json!({"scale": 30.0});
/// let loss = fin_train::loss_from_name("multiple_negatives_ranking", options.as_object().unwrap())?;
/// assert_eq!(loss.options()["scale"], 30.0);
/// # Ok::<(), fin_core::Error>(())
/// ```
pub fn loss_from_name(name: &str, options: &Options) -> Result<Box<dyn Loss>> {
    registry::from_name("loss", &LOSSES, name, options)
}

/// The names that [`loss_from_name`] takes.
pub fn loss_names() -> impl Iterator<Item = &'static str> {
    LOSSES.iter().map(|(name, _)| *name)
}

/// Checks a batch against what a loss accepts; returns `[batch, dim]`.
fn check_batch(
    loss: &dyn Loss,
    embeddings: &[Tensor<2>],
    targets: &BatchTargets,
) -> Result<[usize; 2]> {
    loss.accepts()
        .check(loss.name(), embeddings.len(), targets.kind())?;
    let dims = embeddings[0].dims();
    let invalid = |reason: String| Err(Error::argument("batch", reason));
    if dims[0] == 0 || dims[1] == 0 {
        return invalid(format!("embeddings of shape {dims:?} are empty"));
    }
    if let Some(other) = embeddings
        .iter()
        .map(Tensor::dims)
        .find(|other| *other != dims)
    {
        return invalid(format!(
            "columns have embeddings of shapes {dims:?} and {other:?}"
        ));
    }
    let count = match targets {
        BatchTargets::None => dims[0],
        BatchTargets::Scores(scores) => scores.len(),
        BatchTargets::Labels(labels) => labels.len(),
    };
    if count != dims[0] {
        return invalid(format!("{} embeddings have {count} targets", dims[0]));
    }
    Ok(dims)
}

/// Rows of `[batch, dim]` divided by `max(‖row‖, eps)`; where the bound holds, its gradient is
/// that of a division by `eps`, as in PyTorch, and never NaN.
fn normalize_rows(x: Tensor<2>, eps: f64) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).clamp_min(eps * eps).sqrt();
    x / norm
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_name_makes_its_loss_and_keeps_its_options() {
        for name in loss_names() {
            let loss = loss_from_name(name, &Options::new()).unwrap();
            assert_eq!(loss.name(), name);
            let again = loss_from_name(name, &loss.options()).unwrap();
            assert_eq!(again.options(), loss.options());
            crate::sampler::sampler_from_name(loss.default_sampler(), &Options::new()).unwrap();
        }
    }

    #[test]
    fn errors_list_names_and_name_options() {
        let error = loss_from_name("mse", &Options::new())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cosine_similarity, multiple_negatives_ranking, triplet_margin"),
            "{error}"
        );
        for (name, options, what) in [
            ("triplet_margin", json!({"scale": 1}), "scale"),
            ("triplet_margin", json!({"margin": "wide"}), "wide"),
            ("triplet_margin", json!({"margin": -1.0}), "margin"),
            ("multiple_negatives_ranking", json!({"scale": 0.0}), "scale"),
        ] {
            let error = loss_from_name(name, options.as_object().unwrap())
                .unwrap_err()
                .to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn data_of_another_form_is_told_what_is_needed() {
        let loss = CosineSimilarityLoss::default();
        let error = loss
            .accepts()
            .check(loss.name(), 1, TargetKind::Labels)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "loss: `cosine_similarity` needs 2 columns (first, second) and a score each; \
             the data has 1 column and a label each"
        );
        let loss = MultipleNegativesRankingLoss::default();
        loss.accepts()
            .check(loss.name(), 4, TargetKind::None)
            .unwrap();
        let error = loss
            .accepts()
            .check(loss.name(), 2, TargetKind::Scores)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("2 or more columns (anchor, positive, hard negatives) and no targets"),
            "{error}"
        );
    }
}
