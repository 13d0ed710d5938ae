//! Information retrieval: how high the relevant documents rank.

use std::collections::HashSet;

use burn::tensor::Device;
use fin_core::{Embedder, Error, Result};

use super::{Evaluator, Rankings, embed, normalize, top_k, without_scores};
use crate::metrics::Metrics;

/// The cut-offs that [`RetrievalEvaluator`] reports unless told otherwise.
pub const DEFAULT_CUTOFFS: [usize; 4] = [1, 3, 5, 10];

/// Metrics of rankings at each cut-off `k`, means over the queries that have relevant documents,
/// defined as in `InformationRetrievalEvaluator` of sentence-transformers:
///
/// - `accuracy@k`: whether any of the first `k` documents is relevant (also called hit rate).
/// - `precision@k`: relevant ones among the first `k`, divided by `k`, also where there are fewer
///   than `k` documents.
/// - `recall@k`: relevant ones among the first `k`, divided by the number of relevant ones.
/// - `f1@k`: harmonic mean of a query's precision and recall, 0 where both are.
/// - `mrr@k`: reciprocal rank of the first relevant document, 0 where it is beyond `k`.
/// - `map@k`: sum of the precisions at the ranks of relevant documents up to `k`, divided by the
///   smaller of `k` and the number of relevant ones.
/// - `ndcg@k`: sum of `1 / log2(rank + 1)` over the relevant documents up to `k`, divided by the
///   largest sum there could be.
///
/// `rankings` has the documents of each query, best first; `relevant` those that are relevant.
///
/// # Errors
/// [`Error::Argument`] where the lists differ in length, no query has relevant documents, or a
/// cut-off is 0.
pub fn ranking_metrics(
    rankings: &[Vec<usize>],
    relevant: &[HashSet<usize>],
    cutoffs: &[usize],
) -> Result<Metrics> {
    if rankings.len() != relevant.len() {
        let reason = format!("{} rankings for {} queries", rankings.len(), relevant.len());
        return Err(Error::argument("rankings", reason));
    }
    if cutoffs.is_empty() || cutoffs.contains(&0) {
        return Err(Error::argument(
            "cutoffs",
            "one or more numbers of at least 1 are needed",
        ));
    }
    let counted: Vec<(&Vec<usize>, &HashSet<usize>)> = rankings
        .iter()
        .zip(relevant)
        .filter(|(_, wanted)| !wanted.is_empty())
        .collect();
    if counted.is_empty() {
        return Err(Error::argument(
            "relevant",
            "no query has a relevant document",
        ));
    }
    const NAMES: [&str; 7] = [
        "accuracy",
        "precision",
        "recall",
        "f1",
        "mrr",
        "map",
        "ndcg",
    ];
    let mut metrics = Metrics::default();
    for (i, name) in NAMES.iter().enumerate() {
        for &k in cutoffs {
            let sum: f64 = counted
                .iter()
                .map(|(ranking, wanted)| at_cutoff(ranking, wanted, k)[i])
                .sum();
            metrics.insert(format!("{name}@{k}"), sum / counted.len() as f64);
        }
    }
    Ok(metrics)
}

/// The metrics of one query, in the order of their names above.
fn at_cutoff(ranking: &[usize], wanted: &HashSet<usize>, k: usize) -> [f64; 7] {
    let gain = |rank: usize| 1.0 / ((rank + 1) as f64).log2();
    let (mut hits, mut first, mut precisions, mut gained) = (0usize, 0.0, 0.0, 0.0);
    for (i, document) in ranking.iter().take(k).enumerate() {
        let rank = i + 1;
        if wanted.contains(document) {
            hits += 1;
            if hits == 1 {
                first = 1.0 / rank as f64;
            }
            precisions += hits as f64 / rank as f64;
            gained += gain(rank);
        }
    }
    let reachable = wanted.len().min(k);
    let precision = hits as f64 / k as f64;
    let recall = hits as f64 / wanted.len() as f64;
    let f1 = if hits == 0 {
        0.0
    } else {
        2.0 * precision * recall / (precision + recall)
    };
    let best: f64 = (1..=reachable).map(gain).sum();
    let accuracy = f64::from(u8::from(hits > 0));
    [
        accuracy,
        precision,
        recall,
        f1,
        first,
        precisions / reachable as f64,
        gained / best,
    ]
}

/// [`ranking_metrics`] of the documents nearest to each query by cosine similarity; of equally
/// similar documents the earlier one ranks higher.
#[derive(Debug, Clone)]
pub struct RetrievalEvaluator<I> {
    name: String,
    queries: Vec<I>,
    corpus: Vec<I>,
    relevant: Vec<HashSet<usize>>,
    cutoffs: Vec<usize>,
}

impl<I> RetrievalEvaluator<I> {
    /// Of queries and documents; `relevant` has the indices of each query's relevant documents.
    /// Queries without any are left out of every mean.
    ///
    /// # Errors
    /// [`Error::Argument`] where there are no queries or documents, there is not one list of
    /// relevant documents a query, a list names a document that does not exist, or all are empty.
    pub fn new(
        name: impl Into<String>,
        queries: Vec<I>,
        corpus: Vec<I>,
        relevant: Vec<Vec<usize>>,
    ) -> Result<Self> {
        if queries.is_empty() || corpus.is_empty() {
            let reason = format!(
                "{} queries and {} documents; both are needed",
                queries.len(),
                corpus.len()
            );
            return Err(Error::argument("queries", reason));
        }
        if relevant.len() != queries.len() {
            let reason = format!("{} lists for {} queries", relevant.len(), queries.len());
            return Err(Error::argument("relevant", reason));
        }
        for (query, wanted) in relevant.iter().enumerate() {
            if let Some(document) = wanted.iter().find(|&&document| document >= corpus.len()) {
                let reason = format!(
                    "query {query}: there is no document {document} among {}",
                    corpus.len()
                );
                return Err(Error::argument("relevant", reason));
            }
        }
        if relevant.iter().all(Vec::is_empty) {
            return Err(Error::argument(
                "relevant",
                "no query has a relevant document",
            ));
        }
        let relevant = relevant
            .into_iter()
            .map(|wanted| wanted.into_iter().collect())
            .collect();
        Ok(Self {
            name: name.into(),
            queries,
            corpus,
            relevant,
            cutoffs: DEFAULT_CUTOFFS.to_vec(),
        })
    }

    /// With other cut-offs than 1, 3, 5 and 10.
    ///
    /// # Errors
    /// [`Error::Argument`] where there are none or one is 0.
    pub fn with_cutoffs(mut self, cutoffs: &[usize]) -> Result<Self> {
        if cutoffs.is_empty() || cutoffs.contains(&0) {
            return Err(Error::argument(
                "cutoffs",
                "one or more numbers of at least 1 are needed",
            ));
        }
        self.cutoffs = cutoffs.to_vec();
        Ok(self)
    }
}

impl<I: Clone + Send + Sync> RetrievalEvaluator<I> {
    /// The queries.
    pub fn queries(&self) -> &[I] {
        &self.queries
    }

    /// The documents.
    pub fn corpus(&self) -> &[I] {
        &self.corpus
    }

    /// Indices of each query's relevant documents.
    pub fn relevant(&self) -> &[HashSet<usize>] {
        &self.relevant
    }

    /// The documents nearest to each query, with their cosine similarity, best first: as many as
    /// the largest cut-off.
    ///
    /// # Errors
    /// Where the data cannot be embedded.
    pub fn rank<E: Embedder<Item = I>>(&self, embedder: &E, device: &Device) -> Result<Rankings> {
        let (queries, corpus, dim) = self.embed(embedder, device)?;
        self.rank_embedded(&queries, &corpus, dim)
    }

    /// The embeddings of queries and documents, rows of unit length, and their width.
    ///
    /// # Errors
    /// Where the data cannot be embedded.
    pub fn embed<E: Embedder<Item = I>>(
        &self,
        embedder: &E,
        device: &Device,
    ) -> Result<(Vec<f32>, Vec<f32>, usize)> {
        let (queries, dim) = embed(embedder, &self.queries, device)?;
        let (corpus, _) = embed(embedder, &self.corpus, device)?;
        Ok((normalize(queries, dim)?, normalize(corpus, dim)?, dim))
    }

    /// [`RetrievalEvaluator::rank`] of what [`RetrievalEvaluator::embed`] gave.
    ///
    /// # Errors
    /// [`Error::Argument`] where the rows are not of width `dim`.
    pub fn rank_embedded(&self, queries: &[f32], corpus: &[f32], dim: usize) -> Result<Rankings> {
        let k = self.cutoffs.iter().copied().max().unwrap_or(1);
        top_k(queries, corpus, dim, k)
    }

    /// [`ranking_metrics`] of what [`RetrievalEvaluator::rank`] found.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is not one ranking a query.
    pub fn measure(&self, rankings: &Rankings) -> Result<Metrics> {
        ranking_metrics(&without_scores(rankings), &self.relevant, &self.cutoffs)
    }
}

impl<E: Embedder> Evaluator<E> for RetrievalEvaluator<E::Item> {
    fn name(&self) -> &str {
        &self.name
    }

    fn evaluate(&self, embedder: &E, device: &Device) -> Result<Metrics> {
        self.measure(&self.rank(embedder, device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_by_hand() {
        // Relevant at ranks 2 and 4 of 3 relevant in all, and a query that does not count.
        let rankings = [vec![9, 1, 8, 2], vec![1]];
        let relevant = [HashSet::from([1, 2, 3]), HashSet::new()];
        let metrics = ranking_metrics(&rankings, &relevant, &[2, 4]).unwrap();
        let near = |name: &str, expected: f64| {
            let found = metrics.get(name).unwrap();
            assert!(
                (found - expected).abs() < 1e-12,
                "{name}: {found} against {expected}"
            );
        };
        let log = f64::log2;
        near("accuracy@2", 1.0);
        near("precision@4", 0.5);
        near("recall@2", 1.0 / 3.0);
        near("f1@2", 0.4);
        near("mrr@4", 0.5);
        near("map@4", (0.5 + 0.5) / 3.0);
        near("map@2", 0.25);
        near(
            "ndcg@4",
            (1.0 / log(3.0) + 1.0 / log(5.0)) / (1.0 + 1.0 / log(3.0) + 0.5),
        );
    }

    #[test]
    fn bad_data_is_refused() {
        let make = |relevant| RetrievalEvaluator::new("x", vec!["q"], vec!["d"], relevant);
        assert!(
            make(vec![vec![1]])
                .unwrap_err()
                .to_string()
                .contains("no document 1")
        );
        assert!(make(vec![vec![]]).is_err());
        assert!(make(vec![]).is_err());
        assert!(make(vec![vec![0]]).unwrap().with_cutoffs(&[0]).is_err());
        assert!(RetrievalEvaluator::<&str>::new("x", vec![], vec![], vec![]).is_err());
        assert!(ranking_metrics(&[], &[], &[1]).is_err());
    }
}
