//! Retrieval among items with a class each: how high the others of an item's class rank.

use std::collections::HashMap;

use burn::tensor::Device;
use fin_core::{Embedder, Error, Result};

use super::retrieval::DEFAULT_CUTOFFS;
use super::{Evaluator, Rankings, embed, normalize, top_k, without_scores};
use crate::metrics::Metrics;

/// Metrics of rankings of labelled items, each item being searched for among the others; means
/// over the items that are not alone in their class.
///
/// With `R` the number of other items of the class, at each cut-off `k`:
///
/// - `precision@k`: items of the class among the first `k`, divided by `k`, also where there are
///   fewer than `k` others.
/// - `recall@k`: items of the class among the first `k`, divided by `R`.
/// - `mrr@k`: reciprocal rank of the first item of the class, 0 where it is beyond `k`.
/// - `map@k`: sum of the precisions at the ranks of items of the class up to `k`, divided by the
///   smaller of `k` and `R`.
/// - `ndcg@k`: sum of `1 / log2(rank + 1)` over the items of the class up to `k`, divided by the
///   largest sum there could be.
///
/// And without a cut-off:
///
/// - `r_precision`: items of the class among the first `R`, divided by `R`.
/// - `map@r`: `map@k` with the item's own `R` for `k` (Musgrave et al. 2020, "A metric learning
///   reality check", section 3.2).
///
/// `precision@1`, `r_precision` and `map@r` are `precision_at_1`, `r_precision` and
/// `mean_average_precision_at_r` of pytorch-metric-learning's `AccuracyCalculator`; the others are
/// those of [`ranking_metrics`](super::retrieval::ranking_metrics).
///
/// `rankings` has for each item the others, best first, without the item itself: as many as the
/// largest cut-off and the largest `R` need, or all of them.
///
/// # Errors
/// [`Error::Argument`] where there is not one ranking a label, a ranking names an item that does
/// not exist or the item itself, or is too short, every item is alone in its class, or a cut-off is
/// 0.
pub fn labelled_metrics(
    rankings: &[Vec<usize>],
    labels: &[usize],
    cutoffs: &[usize],
) -> Result<Metrics> {
    if rankings.len() != labels.len() {
        let reason = format!("{} rankings for {} items", rankings.len(), labels.len());
        return Err(Error::argument("rankings", reason));
    }
    check_cutoffs(cutoffs)?;
    let sizes = class_sizes(labels);
    const NAMES: [&str; 5] = ["precision", "recall", "mrr", "map", "ndcg"];
    let mut sums = vec![[0.0; NAMES.len()]; cutoffs.len()];
    let (mut r_precision, mut map_at_r, mut counted) = (0.0, 0.0, 0usize);
    let largest = cutoffs.iter().copied().max().unwrap_or(1);
    for (item, (ranking, label)) in rankings.iter().zip(labels).enumerate() {
        let others = sizes[label] - 1;
        if others == 0 {
            continue;
        }
        if let Some(bad) = ranking
            .iter()
            .find(|&&other| other == item || other >= labels.len())
        {
            let reason = format!("that of item {item} has item {bad}");
            return Err(Error::argument("rankings", reason));
        }
        let needed = largest.max(others).min(labels.len() - 1);
        if ranking.len() < needed {
            let reason = format!(
                "that of item {item} has {} items, {needed} are needed",
                ranking.len()
            );
            return Err(Error::argument("rankings", reason));
        }
        let hits: Vec<bool> = ranking
            .iter()
            .map(|&other| labels[other] == *label)
            .collect();
        for (sums, &k) in sums.iter_mut().zip(cutoffs) {
            let found = at_cutoff(&hits, others, k);
            sums.iter_mut().zip(found).for_each(|(sum, x)| *sum += x);
        }
        // Precision and recall are the same there.
        let [precision, _, _, map, _] = at_cutoff(&hits, others, others);
        r_precision += precision;
        map_at_r += map;
        counted += 1;
    }
    if counted == 0 {
        return Err(alone());
    }
    let mut metrics = Metrics::default();
    for (i, name) in NAMES.iter().enumerate() {
        for (sums, k) in sums.iter().zip(cutoffs) {
            metrics.insert(format!("{name}@{k}"), sums[i] / counted as f64);
        }
    }
    metrics.insert("r_precision", r_precision / counted as f64);
    metrics.insert("map@r", map_at_r / counted as f64);
    Ok(metrics)
}

/// The metrics of one item, in the order of their names above.
fn at_cutoff(hits: &[bool], others: usize, k: usize) -> [f64; 5] {
    let gain = |rank: usize| 1.0 / ((rank + 1) as f64).log2();
    let (mut count, mut first, mut precisions, mut gained) = (0usize, 0.0, 0.0, 0.0);
    let ranks = (1..).zip(hits).take(k).filter(|(_, hit)| **hit);
    for (rank, _) in ranks {
        count += 1;
        if count == 1 {
            first = 1.0 / rank as f64;
        }
        precisions += count as f64 / rank as f64;
        gained += gain(rank);
    }
    let reachable = others.min(k);
    let best: f64 = (1..=reachable).map(gain).sum();
    [
        count as f64 / k as f64,
        count as f64 / others as f64,
        first,
        precisions / reachable as f64,
        gained / best,
    ]
}

/// Number of items of each class.
fn class_sizes(labels: &[usize]) -> HashMap<usize, usize> {
    let mut sizes = HashMap::new();
    for &label in labels {
        *sizes.entry(label).or_insert(0) += 1;
    }
    sizes
}

fn check_cutoffs(cutoffs: &[usize]) -> Result<()> {
    if cutoffs.is_empty() || cutoffs.contains(&0) {
        return Err(Error::argument(
            "cutoffs",
            "one or more numbers of at least 1 are needed",
        ));
    }
    Ok(())
}

fn alone() -> Error {
    Error::argument("labels", "every item is alone in its class")
}

/// Rankings of all rows of `values` but the row itself, by dot product, which is beside each, best
/// first; of equal ones the earlier row ranks higher. As many as [`labelled_metrics`] needs.
///
/// # Errors
/// Those of [`top_k`].
pub fn rank_others(
    values: &[f32],
    dim: usize,
    labels: &[usize],
    cutoffs: &[usize],
) -> Result<Rankings> {
    let largest_class = class_sizes(labels).into_values().max().unwrap_or(1);
    let largest = cutoffs.iter().copied().max().unwrap_or(1);
    // One more, for the row itself; it need not come first where vectors are equal.
    let k = largest
        .max(largest_class.saturating_sub(1))
        .saturating_add(1);
    let found = top_k(values, values, dim, k)?;
    Ok(found
        .into_iter()
        .enumerate()
        .map(|(item, row)| {
            row.into_iter()
                .filter(|&(other, _)| other != item)
                .take(k - 1)
                .collect()
        })
        .collect())
}

/// [`labelled_metrics`] of items ranked by cosine similarity.
#[derive(Debug, Clone)]
pub struct LabelledEvaluator<I> {
    name: String,
    items: Vec<I>,
    labels: Vec<usize>,
    cutoffs: Vec<usize>,
}

impl<I> LabelledEvaluator<I> {
    /// Of items with a class each. Items alone in their class are there to be found instead of
    /// others, and are not searched for.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is not one label an item, or every item is alone in its
    /// class.
    pub fn new(name: impl Into<String>, items: Vec<I>, labels: &[impl AsRef<str>]) -> Result<Self> {
        if items.len() != labels.len() {
            let reason = format!("{} labels for {} items", labels.len(), items.len());
            return Err(Error::argument("labels", reason));
        }
        let mut ids = HashMap::new();
        let labels: Vec<usize> = labels
            .iter()
            .map(|label| {
                let next = ids.len();
                *ids.entry(label.as_ref()).or_insert(next)
            })
            .collect();
        if class_sizes(&labels).values().all(|&size| size < 2) {
            return Err(alone());
        }
        Ok(Self {
            name: name.into(),
            items,
            labels,
            cutoffs: DEFAULT_CUTOFFS.to_vec(),
        })
    }

    /// With other cut-offs than 1, 3, 5 and 10.
    ///
    /// # Errors
    /// [`Error::Argument`] where there are none or one is 0.
    pub fn with_cutoffs(mut self, cutoffs: &[usize]) -> Result<Self> {
        check_cutoffs(cutoffs)?;
        self.cutoffs = cutoffs.to_vec();
        Ok(self)
    }
}

impl<I: Clone + Send + Sync> LabelledEvaluator<I> {
    /// The items.
    pub fn items(&self) -> &[I] {
        &self.items
    }

    /// The class of each item, as a number; equal ones are equal classes.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The others nearest to each item, with their cosine similarity, best first.
    ///
    /// # Errors
    /// Where the items cannot be embedded.
    pub fn rank<E: Embedder<Item = I>>(&self, embedder: &E, device: &Device) -> Result<Rankings> {
        let (values, dim) = embed(embedder, &self.items, device)?;
        let values = normalize(values, dim)?;
        rank_others(&values, dim, &self.labels, &self.cutoffs)
    }

    /// [`labelled_metrics`] of what [`LabelledEvaluator::rank`] found.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is not one ranking an item.
    pub fn measure(&self, rankings: &Rankings) -> Result<Metrics> {
        labelled_metrics(&without_scores(rankings), &self.labels, &self.cutoffs)
    }
}

impl<E: Embedder> Evaluator<E> for LabelledEvaluator<E::Item> {
    fn name(&self) -> &str {
        &self.name
    }

    fn evaluate(&self, embedder: &E, device: &Device) -> Result<Metrics> {
        self.measure(&self.rank(embedder, device)?)
    }
}
