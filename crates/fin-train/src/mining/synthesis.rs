//! Training data from queries and documents that nobody has paired.

use std::collections::HashSet;

use fin_core::{Error, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::evaluate::top_k;

/// Pairs each query with the document closest to it and with negatives, for a loss on margins: what
/// does not belong together after all costs little there, as its margin is small (Wang et al. 2022,
/// "GPL: Generative Pseudo Labeling for Unsupervised Domain Adaptation of Dense Retrieval", where the
/// queries are generated; Finetuner's data synthesis takes the queries that there are).
///
/// Hard negatives are drawn from the ranks after the first, down to `depth`; dissimilar ones from
/// all documents below it.
///
/// ```
/// use fin_train::mining::Synthesis;
///
/// let options = Synthesis { hard: 1, dissimilar: 1, depth: 2, ..Synthesis::default() };
/// let corpus = [0.0, 1.0, 0.8, 0.6, 1.0, 0.0];
/// let relations = options.relate(&[1.0, 0.0], &corpus, 2, &[])?;
/// assert_eq!((relations[0].positive, &relations[0].negatives), (2, &vec![1, 0]));
/// # Ok::<(), fin_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synthesis {
    /// Hard negatives a query. Default: 2.
    pub hard: usize,
    /// Dissimilar negatives a query. Default: 1.
    pub dissimilar: usize,
    /// Rank down to which negatives are hard. Default: 50.
    pub depth: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Synthesis {
    fn default() -> Self {
        Self {
            hard: 2,
            dissimilar: 1,
            depth: 50,
            seed: 42,
        }
    }
}

/// What belongs to a query, and what does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Row of the query.
    pub query: usize,
    /// Row of the closest document.
    pub positive: usize,
    /// Rows of negatives, the hard ones first; fewer where there are not as many documents.
    pub negatives: Vec<usize>,
}

impl Synthesis {
    /// Relates `queries` to `corpus`, both row-major with rows of `dim` numbers of unit length.
    /// `same` has the rows of a query and a document that are one item, which are not paired.
    ///
    /// A query has no relation where no document is left to pair it with and to set it apart from.
    ///
    /// # Errors
    /// [`Error::Argument`] where no negatives are asked for, the depth leaves no room for the hard
    /// ones, or embeddings are not whole rows or give NaN.
    pub fn relate(
        &self,
        queries: &[f32],
        corpus: &[f32],
        dim: usize,
        same: &[(usize, usize)],
    ) -> Result<Vec<Relation>> {
        if self.hard == 0 && self.dissimilar == 0 {
            let reason = "no negatives are asked for; at least 1 is needed";
            return Err(Error::argument("hard", reason));
        }
        if self.depth <= self.hard {
            let reason = format!(
                "{} hard negatives cannot be drawn from ranks 2 to {}",
                self.hard, self.depth
            );
            return Err(Error::argument("depth", reason));
        }
        let same: HashSet<(usize, usize)> = same.iter().copied().collect();
        let rows = corpus.len().checked_div(dim).unwrap_or(0);
        // Documents that are the query itself take ranks of their own.
        let most = {
            let mut counts = std::collections::HashMap::new();
            for (query, _) in &same {
                *counts.entry(*query).or_insert(0usize) += 1;
            }
            counts.into_values().max().unwrap_or(0)
        };
        let ranked = top_k(queries, corpus, dim, self.depth.saturating_add(most))?;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut relations = Vec::with_capacity(ranked.len());
        for (query, ranked) in ranked.into_iter().enumerate() {
            let documents = ranked.into_iter().map(|(document, _)| document);
            let mut close: Vec<usize> = documents
                .filter(|&document| !same.contains(&(query, document)))
                .collect();
            close.truncate(self.depth);
            let Some((&positive, hard)) = close.split_first() else {
                continue;
            };
            let count = self.hard.min(hard.len());
            let mut chosen = rand::seq::index::sample(&mut rng, hard.len(), count).into_vec();
            chosen.sort_unstable();
            let mut negatives: Vec<usize> = chosen.into_iter().map(|at| hard[at]).collect();
            let taken: HashSet<usize> = close.iter().copied().collect();
            let far =
                |document: &usize| !taken.contains(document) && !same.contains(&(query, *document));
            negatives.extend(draw(
                &mut rng,
                rows,
                self.dissimilar,
                rows - taken.len(),
                far,
            ));
            if !negatives.is_empty() {
                relations.push(Relation {
                    query,
                    positive,
                    negatives,
                });
            }
        }
        Ok(relations)
    }
}

/// Draws up to `count` different numbers below `rows` of the about `allowed` that are allowed.
fn draw(
    rng: &mut ChaCha8Rng,
    rows: usize,
    count: usize,
    allowed: usize,
    is_allowed: impl Fn(&usize) -> bool,
) -> Vec<usize> {
    // Where most are allowed, a few draws more than needed find them without a list of all.
    let tries = count.saturating_mul(2).saturating_add(16).min(rows);
    if allowed > rows / 2 && tries < rows {
        let drawn = rand::seq::index::sample(rng, rows, tries).into_iter();
        let found: Vec<usize> = drawn.filter(&is_allowed).take(count).collect();
        if found.len() == count {
            return found;
        }
    }
    let all: Vec<usize> = (0..rows).filter(is_allowed).collect();
    let count = count.min(all.len());
    let drawn = rand::seq::index::sample(rng, all.len(), count).into_iter();
    drawn.map(|at| all[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documents at falling cosines to the first axis.
    fn corpus(rows: usize) -> Vec<f32> {
        (0..rows)
            .flat_map(|i| {
                let angle = 1.5 * i as f32 / rows as f32;
                [angle.cos(), angle.sin()]
            })
            .collect()
    }

    #[test]
    fn negatives_are_hard_and_dissimilar() {
        let queries = [1.0, 0.0].repeat(30);
        for rows in [40, 400] {
            let options = Synthesis {
                hard: 3,
                dissimilar: 2,
                depth: 10,
                seed: 1,
            };
            let relations = options.relate(&queries, &corpus(rows), 2, &[]).unwrap();
            assert_eq!(relations.len(), 30);
            let mut seen = HashSet::new();
            for (query, relation) in relations.iter().enumerate() {
                assert_eq!((relation.query, relation.positive), (query, 0));
                let [hard @ .., a, b] = &relation.negatives[..] else {
                    panic!("{relation:?}");
                };
                assert_eq!(hard.len(), 3);
                assert!(hard.is_sorted() && hard.iter().all(|row| (1..10).contains(row)));
                assert!(a != b && *a >= 10 && *b >= 10 && *a < rows && *b < rows);
                seen.extend(relation.negatives.iter().copied());
            }
            // The draws differ from query to query and reach all ranks.
            assert!((1..10).all(|row| seen.contains(&row)) && seen.len() > 25);
            assert_eq!(
                relations,
                options.relate(&queries, &corpus(rows), 2, &[]).unwrap()
            );
        }
    }

    #[test]
    fn a_query_is_not_paired_with_itself() {
        let options = Synthesis {
            hard: 2,
            dissimilar: 5,
            depth: 3,
            seed: 1,
        };
        let relations = options
            .relate(&[1.0, 0.0], &corpus(6), 2, &[(0, 0)])
            .unwrap();
        assert_eq!((relations[0].positive, relations.len()), (1, 1));
        assert_eq!(relations[0].negatives[..2], [2, 3]);
        let mut rest = relations[0].negatives[2..].to_vec();
        rest.sort_unstable();
        assert_eq!(rest, [4, 5]);
        // Nothing to set it apart from.
        let none = options.relate(&[1.0, 0.0], &corpus(1), 2, &[]).unwrap();
        assert!(none.is_empty());
    }

    #[test]
    fn options_that_leave_nothing() {
        for (hard, dissimilar, depth, part) in [(0, 0, 5, "at least 1"), (5, 0, 5, "ranks 2 to 5")]
        {
            let options = Synthesis {
                hard,
                dissimilar,
                depth,
                seed: 1,
            };
            let error = options
                .relate(&[1.0, 0.0], &corpus(9), 2, &[])
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
