//! Training data made with a model: negatives that are hard, and pairs where there are none.
//!
//! | maker | from | makes |
//! | --- | --- | --- |
//! | [`HardNegatives`] | queries with documents that belong to them, and a corpus | for each query the documents that lie close to it and do not belong to it |
//! | [`Synthesis`] | queries and a corpus, without a word on what belongs together | for each query a positive and negatives |
//!
//! Both work on embeddings, rows of unit length, so that any embedder's will do, and give indices
//! and scores. [`HardNegatives::mine_rescored`] goes by the scores of another model than the
//! embedder, which may be one that reads a query and a document together.

mod distribution;
mod hard_negatives;
mod synthesis;

pub use distribution::Distribution;
pub use hard_negatives::{HardNegatives, Mined, Sampling, Skipped};
pub use synthesis::{Relation, Synthesis};

use fin_core::{Error, Result};

/// Dot product of a row of `queries` and one of `corpus`, both with rows of `dim` numbers, summed
/// in double precision.
///
/// # Errors
/// [`Error::Argument`] where there is no such row.
pub fn score(
    queries: &[f32],
    corpus: &[f32],
    dim: usize,
    query: usize,
    document: usize,
) -> Result<f32> {
    let a = row("queries", queries, dim, query)?;
    let b = row("corpus", corpus, dim, document)?;
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    Ok(products.sum::<f64>() as f32)
}

fn row<'a>(name: &str, values: &'a [f32], dim: usize, row: usize) -> Result<&'a [f32]> {
    let start = row.saturating_mul(dim);
    values.get(start..start.saturating_add(dim)).ok_or_else(|| {
        let rows = values.len().checked_div(dim).unwrap_or(0);
        Error::argument(name, format!("there is no row {row} among {rows}"))
    })
}
