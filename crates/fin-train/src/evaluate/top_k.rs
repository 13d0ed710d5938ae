//! Exact nearest neighbours by dot product.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use fin_core::{Error, Result};
use rayon::prelude::*;

use super::check_rows;

/// Rows of the corpus that are scored against a query at a time, so that they stay in the cache
/// while all queries of a block pass over them.
const TILE: usize = 64;
/// Queries of a block.
const QUERIES: usize = 64;
/// Candidates that a block of queries may hold before they are merged.
const CANDIDATES: usize = 1 << 22;

/// A document and its score; the greater one is the worse one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    score: f32,
    index: usize,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = other
            .score
            .partial_cmp(&self.score)
            .unwrap_or(Ordering::Equal);
        by_score.then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// For each query the `k` rows of `corpus` with the largest dot product, best first, as
/// `(row, score)`; of equal scores the earlier row comes first. Fewer than `k` where the corpus is
/// smaller. With rows of unit length the score is the cosine similarity.
///
/// `queries` and `corpus` are row-major with rows of `dim` numbers. The search is exact, runs on
/// all threads of the current rayon pool, and holds a bounded number of candidates beside its
/// result.
///
/// # Errors
/// [`Error::Argument`] where the values are not whole rows, `k` is 0, or a score is NaN.
///
/// ```
/// let corpus = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
/// let found = fin_train::top_k(&[0.0, 1.0], &corpus, 2, 2)?;
/// assert_eq!(found, [[(1, 1.0), (2, 0.8)]]);
/// # Ok::<(), fin_core::Error>(())
/// ```
pub fn top_k(
    queries: &[f32],
    corpus: &[f32],
    dim: usize,
    k: usize,
) -> Result<Vec<Vec<(usize, f32)>>> {
    let count = check_rows("queries", queries, dim)?;
    let rows = check_rows("corpus", corpus, dim)?;
    if k == 0 {
        return Err(Error::argument(
            "k",
            "0 neighbours cannot be searched for; 1 or more are needed",
        ));
    }
    let k = k.min(rows);
    // A few parts a thread even out their speeds.
    let parts = (4 * rayon::current_num_threads())
        .min(rows.div_ceil(TILE))
        .max(1);
    let part = rows.div_ceil(parts).max(1);
    let block = (CANDIDATES / (parts * k.min(part)).max(1)).clamp(1, QUERIES);
    let mut found = Vec::with_capacity(count);
    for (number, queries) in queries.chunks(block * dim).enumerate() {
        let by_part = corpus
            .par_chunks(part * dim)
            .enumerate()
            .map(|(i, corpus)| search_part(queries, corpus, dim, k, i * part))
            .collect::<Result<Vec<_>, NotANumber>>()
            .map_err(|NotANumber { query, row }| {
                let query = number * block + query;
                Error::argument(
                    "embeddings",
                    format!("the score of query {query} and row {row} is NaN"),
                )
            })?;
        let merged = (0..queries.len() / dim).into_par_iter().map(|query| {
            let mut all: Vec<Candidate> = by_part
                .iter()
                .flat_map(|part| part[query].iter().copied())
                .collect();
            all.sort_unstable();
            all.truncate(k);
            all.into_iter()
                .map(|candidate| (candidate.index, candidate.score))
                .collect::<Vec<_>>()
        });
        found.par_extend(merged);
    }
    Ok(found)
}

/// Where a score is NaN.
struct NotANumber {
    query: usize,
    row: usize,
}

/// The best candidates of each query among some rows, the first of which is row `first`.
fn search_part(
    queries: &[f32],
    corpus: &[f32],
    dim: usize,
    k: usize,
    first: usize,
) -> Result<Vec<Vec<Candidate>>, NotANumber> {
    let mut heaps: Vec<BinaryHeap<Candidate>> = queries
        .chunks_exact(dim)
        .map(|_| BinaryHeap::new())
        .collect();
    let mut scores = [0.0; TILE];
    for (tile, rows) in corpus.chunks(TILE * dim).enumerate() {
        let base = first + tile * TILE;
        for ((number, query), heap) in queries.chunks_exact(dim).enumerate().zip(&mut heaps) {
            let scores = &mut scores[..rows.len() / dim];
            score_rows(query, rows, scores);
            for (offset, &score) in scores.iter().enumerate() {
                let index = base + offset;
                if score.is_nan() {
                    return Err(NotANumber {
                        query: number,
                        row: index,
                    });
                }
                let candidate = Candidate { score, index };
                if heap.len() < k {
                    heap.push(candidate);
                } else if let Some(mut worst) = heap.peek_mut()
                    && candidate < *worst
                {
                    *worst = candidate;
                }
            }
        }
    }
    Ok(heaps.into_iter().map(BinaryHeap::into_vec).collect())
}

/// Dot products of a query with rows, with the widest vectors that the processor has.
fn score_rows(query: &[f32], rows: &[f32], scores: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions that the function is compiled with.
        return unsafe { score_rows_avx2(query, rows, scores) };
    }
    score_rows_portable(query, rows, scores);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn score_rows_avx2(query: &[f32], rows: &[f32], scores: &mut [f32]) {
    score_rows_portable(query, rows, scores);
}

/// Every product is summed in the same order whatever the row's place, so that equal rows have
/// equal scores, and without fused operations, so that every processor gives the same.
#[inline(always)]
fn score_rows_portable(query: &[f32], rows: &[f32], scores: &mut [f32]) {
    const LANES: usize = 32;
    let (query, query_tail) = query.as_chunks::<LANES>();
    for (row, score) in rows
        .chunks_exact(query.len() * LANES + query_tail.len())
        .zip(scores)
    {
        let (row, row_tail) = row.as_chunks::<LANES>();
        let mut lanes = [0.0f32; LANES];
        for (q, r) in query.iter().zip(row) {
            for lane in 0..LANES {
                lanes[lane] += q[lane] * r[lane];
            }
        }
        let tail: f32 = query_tail.iter().zip(row_tail).map(|(q, r)| q * r).sum();
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        *score = lanes[0] + tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers, whose dot products are exact and tie often.
    fn whole(count: usize, dim: usize, seed: usize) -> Vec<f32> {
        (0..count * dim)
            .map(|i| ((i * 7919 + seed * 104_729) / 13 % 7) as f32 - 3.0)
            .collect()
    }

    #[test]
    fn agrees_with_sorting_everything() {
        for (count, rows, dim, k) in [
            (1, 1, 1, 1),
            (3, 200, 5, 7),
            (70, 1000, 33, 10),
            (2, 50, 64, 500),
        ] {
            let (queries, corpus) = (whole(count, dim, 1), whole(rows, dim, 2));
            let found = top_k(&queries, &corpus, dim, k).unwrap();
            for (query, found) in queries.chunks(dim).zip(found) {
                let mut expected: Vec<(usize, f32)> = corpus
                    .chunks(dim)
                    .map(|row| query.iter().zip(row).map(|(q, r)| q * r).sum())
                    .enumerate()
                    .collect();
                expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                expected.truncate(k);
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn an_empty_corpus_or_no_queries_find_nothing() {
        assert_eq!(top_k(&[1.0, 2.0], &[], 2, 3).unwrap(), [[]]);
        assert!(top_k(&[], &[1.0, 2.0], 2, 3).unwrap().is_empty());
    }

    #[test]
    fn bad_input_is_named() {
        for (queries, corpus, dim, k, what) in [
            (vec![1.0; 3], vec![1.0; 4], 2, 1, "queries"),
            (vec![1.0; 4], vec![1.0; 3], 2, 1, "corpus"),
            (vec![], vec![], 0, 1, "queries"),
            (vec![1.0; 2], vec![1.0; 2], 2, 0, "k: 0"),
            (
                vec![1.0; 2],
                vec![1.0, 0.0, f32::NAN, 0.0],
                2,
                1,
                "query 0 and row 1",
            ),
        ] {
            let error = top_k(&queries, &corpus, dim, k).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
