//! Semantic textual similarity: the correlation of similarity and human score.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use fin_core::{Embedder, Error, Result};

use super::{Evaluator, check_rows, embed};
use crate::metrics::Metrics;

/// Similarity of two vectors, in double precision; larger is more alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Similarity {
    /// Cosine of the angle; each norm is at least 1e-12.
    #[default]
    Cosine,
    /// Dot product.
    Dot,
    /// Negated Euclidean distance.
    Euclidean,
    /// Negated sum of absolute differences.
    Manhattan,
}

impl Similarity {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Cosine, Self::Dot, Self::Euclidean, Self::Manhattan];

    /// Name on the command line and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::Euclidean => "euclidean",
            Self::Manhattan => "manhattan",
        }
    }

    /// Similarity of two vectors of one length.
    pub fn between(self, a: &[f32], b: &[f32]) -> f64 {
        let sum = |term: &dyn Fn(f64, f64) -> f64| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| term(f64::from(*a), f64::from(*b)))
                .sum()
        };
        match self {
            Self::Cosine => {
                let norm = |x: f64| x.sqrt().max(1e-12);
                sum(&|a, b| a * b) / (norm(sum(&|a, _| a * a)) * norm(sum(&|_, b| b * b)))
            }
            Self::Dot => sum(&|a, b| a * b),
            Self::Euclidean => -sum(&|a, b| (a - b) * (a - b)).sqrt(),
            Self::Manhattan => -sum(&|a, b| (a - b).abs()),
        }
    }

    /// Similarities of the rows of two row-major `[rows, dim]` tables.
    ///
    /// # Errors
    /// [`Error::Argument`] where the tables are not whole rows or not of one length.
    pub fn rows(self, a: &[f32], b: &[f32], dim: usize) -> Result<Vec<f64>> {
        check_rows("first", a, dim)?;
        check_rows("second", b, dim)?;
        same_length("rows", a.len() / dim, b.len() / dim)?;
        Ok(a.chunks_exact(dim)
            .zip(b.chunks_exact(dim))
            .map(|(a, b)| self.between(a, b))
            .collect())
    }
}

impl fmt::Display for Similarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Similarity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                Error::argument(
                    "similarity",
                    format!("`{text}` is unknown; accepted are {names}"),
                )
            })
    }
}

fn same_length(what: &str, a: usize, b: usize) -> Result<()> {
    if a == b {
        Ok(())
    } else {
        Err(Error::argument(
            what,
            format!("{a} and {b}; both lists need as many"),
        ))
    }
}

/// Pearson's correlation of two lists; `None` where it is not defined: fewer than two values, a
/// constant list, or values that are not finite.
///
/// # Errors
/// [`Error::Argument`] where the lists differ in length.
pub fn pearson(a: &[f64], b: &[f64]) -> Result<Option<f64>> {
    same_length("values", a.len(), b.len())?;
    if a.len() < 2 || is_constant(a) || is_constant(b) || !a.iter().chain(b).all(|x| x.is_finite())
    {
        return Ok(None);
    }
    let (a, b) = (unit_deviations(a), unit_deviations(b));
    let r: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
    Ok(r.is_finite().then(|| r.clamp(-1.0, 1.0)))
}

/// Spearman's rank correlation of two lists: [`pearson`] of their [`ranks`].
///
/// # Errors
/// As [`pearson`].
pub fn spearman(a: &[f64], b: &[f64]) -> Result<Option<f64>> {
    if a.iter().chain(b).any(|x| x.is_nan()) {
        return same_length("values", a.len(), b.len()).map(|()| None);
    }
    pearson(&ranks(a), &ranks(b))
}

/// Ranks from 1; equal values share the mean of their ranks.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].partial_cmp(&values[b]).unwrap_or(Ordering::Equal));
    let mut ranks = vec![0.0; values.len()];
    let mut done = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = done as f64 + (tied.len() + 1) as f64 / 2.0;
        tied.iter().for_each(|&i| ranks[i] = rank);
        done += tied.len();
    }
    ranks
}

fn is_constant(values: &[f64]) -> bool {
    values.iter().all(|value| *value == values[0])
}

/// Deviations from the mean, scaled to unit length.
fn unit_deviations(values: &[f64]) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let deviations: Vec<f64> = values.iter().map(|value| value - mean).collect();
    let largest = deviations.iter().fold(0.0f64, |max, x| max.max(x.abs()));
    // Scaled first, so that squares neither overflow nor vanish.
    let norm = deviations
        .iter()
        .map(|x| (x / largest).powi(2))
        .sum::<f64>()
        .sqrt();
    deviations.into_iter().map(|x| x / largest / norm).collect()
}

/// Spearman's and Pearson's correlation of the cosine similarity of pairs and their scores, as
/// `EmbeddingSimilarityEvaluator` of sentence-transformers.
///
/// Metrics: `spearman` and `pearson`; NaN where they are not defined, as with equal scores.
#[derive(Debug, Clone)]
pub struct StsEvaluator<I> {
    name: String,
    first: Vec<I>,
    second: Vec<I>,
    scores: Vec<f64>,
    similarity: Similarity,
}

impl<I> StsEvaluator<I> {
    /// Of pairs with a score each, in any range.
    ///
    /// # Errors
    /// [`Error::Argument`] where the lists differ in length, hold fewer than two pairs, or a
    /// score is not finite.
    pub fn new(
        name: impl Into<String>,
        first: Vec<I>,
        second: Vec<I>,
        scores: Vec<f64>,
    ) -> Result<Self> {
        same_length("pairs", first.len(), second.len())?;
        same_length("scores", first.len(), scores.len())?;
        if first.len() < 2 {
            return Err(Error::argument(
                "pairs",
                format!("{} is too few; a correlation needs 2", first.len()),
            ));
        }
        if let Some(row) = scores.iter().position(|score| !score.is_finite()) {
            return Err(Error::argument(
                "scores",
                format!("row {}: {} is not finite", row + 1, scores[row]),
            ));
        }
        Ok(Self {
            name: name.into(),
            first,
            second,
            scores,
            similarity: Similarity::default(),
        })
    }

    /// With another similarity than the cosine.
    pub fn with_similarity(mut self, similarity: Similarity) -> Self {
        self.similarity = similarity;
        self
    }
}

impl<E: Embedder> Evaluator<E> for StsEvaluator<E::Item> {
    fn name(&self) -> &str {
        &self.name
    }

    fn evaluate(&self, embedder: &E, device: &Device) -> Result<Metrics> {
        let (first, dim) = embed(embedder, &self.first, device)?;
        let (second, _) = embed(embedder, &self.second, device)?;
        let similarities = self.similarity.rows(&first, &second, dim)?;
        let mut metrics = Metrics::default();
        metrics.insert(
            "spearman",
            spearman(&similarities, &self.scores)?.unwrap_or(f64::NAN),
        );
        metrics.insert(
            "pearson",
            pearson(&similarities, &self.scores)?.unwrap_or(f64::NAN),
        );
        Ok(metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_their_mean_rank() {
        assert_eq!(
            ranks(&[0.5, -1.0, 0.5, 2.0, 0.5]),
            [3.0, 1.0, 3.0, 5.0, 3.0]
        );
        assert_eq!(ranks(&[0.0, -0.0]), [1.5, 1.5]);
        assert!(ranks(&[]).is_empty());
    }

    #[test]
    fn what_is_not_defined_is_none() {
        for (a, b) in [
            (vec![], vec![]),
            (vec![1.0], vec![1.0]),
            (vec![1.0, 1.0], vec![1.0, 2.0]),
            (vec![1.0, f64::NAN], vec![1.0, 2.0]),
        ] {
            assert_eq!(pearson(&a, &b).unwrap(), None);
            assert_eq!(spearman(&a, &b).unwrap(), None);
        }
        assert!(pearson(&[1.0], &[]).is_err());
        assert!(spearman(&[f64::NAN], &[]).is_err());
        let found = spearman(&[1.0, f64::INFINITY], &[3.0, 4.0]).unwrap();
        assert!(found.is_some_and(|r| (r - 1.0).abs() < 1e-12), "{found:?}");
    }

    #[test]
    fn bad_data_is_refused() {
        assert!(StsEvaluator::new("x", vec![1, 2], vec![1], vec![0.0, 1.0]).is_err());
        assert!(StsEvaluator::new("x", vec![1], vec![1], vec![0.0]).is_err());
        let error =
            StsEvaluator::new("x", vec![1, 2], vec![1, 2], vec![0.0, f64::NAN]).unwrap_err();
        assert!(error.to_string().contains("row 2"));
        assert!(
            "angle"
                .parse::<Similarity>()
                .unwrap_err()
                .to_string()
                .contains("cosine, dot")
        );
    }
}
