//! Measures of what embeddings are good for.
//!
//! | evaluator | data | metrics |
//! | --- | --- | --- |
//! | [`StsEvaluator`] | pairs with a score | Spearman and Pearson correlation |
//! | [`RetrievalEvaluator`] | queries, documents, which are relevant | accuracy, precision, recall, F1, MRR, MAP, nDCG |
//! | [`LabelledEvaluator`] | items with a label | precision, recall, MRR, MAP, nDCG, R-precision, MAP@R |
//!
//! [`top_k`] is the exact search beneath the last two.

pub mod labelled;
pub mod retrieval;
pub mod sts;
mod top_k;

use std::sync::Arc;

use burn::tensor::Device;
use fin_core::{BatchLimits, Embedder, Error, PostProcess, Result, encode};

pub use labelled::LabelledEvaluator;
pub use retrieval::RetrievalEvaluator;
pub use sts::StsEvaluator;
pub use top_k::top_k;

use crate::metrics::Metrics;

/// A measure of an embedder on data of its own.
pub trait Evaluator<E: Embedder> {
    /// Name to report under.
    fn name(&self) -> &str;

    /// Embeds the data on `device`, where the embedder's network is, and measures.
    ///
    /// # Errors
    /// Where the data cannot be embedded.
    fn evaluate(&self, embedder: &E, device: &Device) -> Result<Metrics>;
}

/// One evaluator can serve several callbacks.
impl<E: Embedder, T: Evaluator<E> + ?Sized> Evaluator<E> for Arc<T> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn evaluate(&self, embedder: &E, device: &Device) -> Result<Metrics> {
        (**self).evaluate(embedder, device)
    }
}

/// For each query the items found, best first, each with its similarity.
pub type Rankings = Vec<Vec<(usize, f32)>>;

fn without_scores(rankings: &Rankings) -> Vec<Vec<usize>> {
    let items = |row: &Vec<(usize, f32)>| row.iter().map(|(item, _)| *item).collect();
    rankings.iter().map(items).collect()
}

/// Embeddings as the network gives them, row-major, and their width.
fn embed<E: Embedder>(
    embedder: &E,
    items: &[E::Item],
    device: &Device,
) -> Result<(Vec<f32>, usize)> {
    let found = encode(
        embedder,
        items,
        device,
        BatchLimits::default(),
        PostProcess::default(),
        |_| {},
    )?;
    Ok((found.values, found.dim))
}

/// Scales rows of `dim` numbers to unit length; rows shorter than 1e-12 are divided by 1e-12.
///
/// # Errors
/// [`Error::Argument`] where the values are not whole rows.
pub fn normalize(mut values: Vec<f32>, dim: usize) -> Result<Vec<f32>> {
    check_rows("values", &values, dim)?;
    for row in values.chunks_exact_mut(dim) {
        let norm = row
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt()
            .max(1e-12);
        row.iter_mut()
            .for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
    Ok(values)
}

/// Number of rows.
fn check_rows(name: &str, values: &[f32], dim: usize) -> Result<usize> {
    if dim == 0 || !values.len().is_multiple_of(dim) {
        let reason = format!("{} numbers are not rows of {dim}", values.len());
        return Err(Error::argument(name, reason));
    }
    Ok(values.len() / dim)
}
