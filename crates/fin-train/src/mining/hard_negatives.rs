//! Hard negatives: documents close to a query that do not belong to it.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use fin_core::{Error, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::score;
use crate::evaluate::top_k;

/// Which of the documents that are left become negatives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Those closest to the query.
    #[default]
    Top,
    /// Any of them, at random.
    Random,
}

impl Sampling {
    const ALL: [(Self, &str); 2] = [(Self::Top, "top"), (Self::Random, "random")];
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(sampling, _)| sampling == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Sampling {
    type Err = Error;

    /// # Errors
    /// [`Error::Argument`] listing the accepted names.
    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.iter().find(|(_, name)| *name == text);
        known.map(|(sampling, _)| *sampling).ok_or_else(|| {
            let reason = format!("`{text}` is unknown; accepted are top, random");
            Error::argument("sampling", reason)
        })
    }
}

/// Mines hard negatives as `mine_hard_negatives` of sentence-transformers 6.2.0
/// (`util/hard_negatives.py`) does: the documents closest to each query, without those that belong
/// to it, filtered by their scores, the first few left out as they are the likeliest to belong to it
/// after all.
///
/// The documents ranked for a query are as many as `range_max` and the most documents that belong
/// to any query. Filters come first; of what they leave, the first `range_min` are left out, and
/// what follows up to rank `range_max` is drawn from.
///
/// ```
/// use fin_train::mining::HardNegatives;
///
/// // One query; the first document belongs to it, the second is close, the third is not.
/// let mined = HardNegatives { negatives: 1, ..HardNegatives::default() }
///     .mine(&[1.0, 0.0], &[1.0, 0.0, 0.8, 0.6, 0.0, 1.0], 2, &[(0, 0)])?;
/// assert_eq!(mined.negatives, [[(1, 0.8)]]);
/// # Ok::<(), fin_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HardNegatives {
    /// Negatives a query, at most. Default: 3.
    pub negatives: usize,
    /// Documents to leave out at the top of what the filters leave. Default: 0.
    pub range_min: usize,
    /// Rank, among what the filters leave, up to which negatives are taken. Default: `range_min`,
    /// the number of negatives (ten times that where there is a margin or a largest score) and the
    /// most documents that belong to any query.
    pub range_max: Option<usize>,
    /// Largest score of a negative.
    pub max_score: Option<f32>,
    /// Smallest score of a negative.
    pub min_score: Option<f32>,
    /// By how much a negative's score is below that of the documents that belong to the query, of
    /// which the lowest counts.
    pub absolute_margin: Option<f32>,
    /// The same as a share of that score's size: negatives above `score − |score| · margin` are
    /// left out.
    pub relative_margin: Option<f32>,
    /// Which of the rest become negatives. Default: the closest.
    pub sampling: Sampling,
    /// Seed of [`Sampling::Random`].
    pub seed: u64,
}

impl Default for HardNegatives {
    fn default() -> Self {
        Self {
            negatives: 3,
            range_min: 0,
            range_max: None,
            max_score: None,
            min_score: None,
            absolute_margin: None,
            relative_margin: None,
            sampling: Sampling::Top,
            seed: 42,
        }
    }
}

/// How many ranked documents each filter left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// They belong to the query.
    pub positives: usize,
    /// Too close to what belongs to the query.
    pub absolute_margin: usize,
    /// The same, by the share.
    pub relative_margin: usize,
    /// Above the largest score.
    pub max_score: usize,
    /// Below the smallest score.
    pub min_score: usize,
}

/// What was mined, a list a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Mined {
    /// Documents that belong to the query, each once, with their scores.
    pub positives: Vec<Vec<(usize, f32)>>,
    /// Negatives with their scores, best first.
    pub negatives: Vec<Vec<(usize, f32)>>,
    /// What the filters left out.
    pub skipped: Skipped,
    /// Rank up to which negatives were taken.
    pub range_max: usize,
}

impl HardNegatives {
    /// Mines for `queries` in `corpus`, both row-major with rows of `dim` numbers of unit length;
    /// `pairs` has the rows of queries and of documents that belong together, one for each row of the
    /// data, repetitions included.
    ///
    /// # Errors
    /// [`Error::Argument`] where options contradict each other, embeddings are not whole rows or
    /// give NaN, a pair names a row that does not exist, or a query has none.
    pub fn mine(
        &self,
        queries: &[f32],
        corpus: &[f32],
        dim: usize,
        pairs: &[(usize, usize)],
    ) -> Result<Mined> {
        let none = None::<fn(&[(usize, usize)]) -> Result<Vec<f32>>>;
        self.mine_with(queries, corpus, dim, pairs, none)
    }

    /// [`HardNegatives::mine`] with scores by another model, such as a cross-encoder: embeddings
    /// say which documents are ranked for a query, and all else goes by `rescore`, which gives a
    /// score for each of a list of queries and documents. Margins, the largest and the smallest
    /// score are compared with those scores, ranks are by them, and they are what is returned.
    ///
    /// Where there is no margin and no largest or smallest score nothing is rescored, as in the
    /// library; where there is a smallest score, the default of `range_max` is the larger one.
    ///
    /// ```
    /// use fin_train::mining::HardNegatives;
    ///
    /// let options = HardNegatives {
    ///     negatives: 1,
    ///     max_score: Some(0.5),
    ///     ..HardNegatives::default()
    /// };
    /// // The second document is the closest, but answers the query all the same.
    /// let corpus = [1.0, 0.0, 0.8, 0.6, 0.0, 1.0];
    /// let rescore = |pairs: &[(usize, usize)]| {
    ///     Ok(pairs.iter().map(|(_, document)| [0.9, 0.8, 0.1][*document]).collect())
    /// };
    /// let mined = options.mine_rescored(&[1.0, 0.0], &corpus, 2, &[(0, 0)], rescore)?;
    /// assert_eq!(mined.negatives, [[(2, 0.1)]]);
    /// # Ok::<(), fin_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`HardNegatives::mine`], those of `rescore`, and [`Error::Argument`] where it gives
    /// another number of scores or NaN.
    pub fn mine_rescored(
        &self,
        queries: &[f32],
        corpus: &[f32],
        dim: usize,
        pairs: &[(usize, usize)],
        rescore: impl FnOnce(&[(usize, usize)]) -> Result<Vec<f32>>,
    ) -> Result<Mined> {
        self.mine_with(queries, corpus, dim, pairs, Some(rescore))
    }

    fn mine_with(
        &self,
        queries: &[f32],
        corpus: &[f32],
        dim: usize,
        pairs: &[(usize, usize)],
        rescore: Option<impl FnOnce(&[(usize, usize)]) -> Result<Vec<f32>>>,
    ) -> Result<Mined> {
        let count = queries.len().checked_div(dim).unwrap_or(0);
        let mut belonging: Vec<Vec<usize>> = vec![Vec::new(); count];
        let mut rows = vec![0; count];
        for &(query, document) in pairs {
            let Some(documents) = belonging.get_mut(query) else {
                let reason = format!("there is no query {query} among {count}");
                return Err(Error::argument("pairs", reason));
            };
            rows[query] += 1;
            if !documents.contains(&document) {
                documents.push(document);
            }
        }
        if let Some(query) = belonging.iter().position(Vec::is_empty) {
            let reason = format!("no document belongs to query {query}");
            return Err(Error::argument("pairs", reason));
        }
        let most = rows.into_iter().max().unwrap_or(0);
        let range_max = self.range_max_of(most, rescore.is_some())?;
        let mut positives = belonging
            .iter()
            .enumerate()
            .map(|(query, documents)| {
                let documents = documents
                    .iter()
                    .map(|&document| Ok((document, score(queries, corpus, dim, query, document)?)));
                documents.collect()
            })
            .collect::<Result<Vec<Vec<(usize, f32)>>>>()?;
        let mut ranked = top_k(queries, corpus, dim, range_max.saturating_add(most))?;
        if let Some(rescore) = rescore
            && self.is_filtered()
        {
            replace_scores(&mut positives, &mut ranked, rescore)?;
        }

        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut skipped = Skipped::default();
        let negatives = ranked
            .into_iter()
            .zip(&positives)
            .map(|(ranked, positives)| {
                let mut left = self.filter(ranked, positives, &mut skipped);
                left.truncate(range_max);
                left.drain(..self.range_min.min(left.len()));
                let wanted = self.negatives.min(left.len());
                match self.sampling {
                    Sampling::Top => left.truncate(wanted),
                    Sampling::Random => {
                        let mut chosen =
                            rand::seq::index::sample(&mut rng, left.len(), wanted).into_vec();
                        chosen.sort_unstable();
                        left = chosen.into_iter().map(|at| left[at]).collect();
                    }
                }
                left
            });
        let negatives = negatives.collect();
        Ok(Mined {
            positives,
            negatives,
            skipped,
            range_max,
        })
    }

    /// Rank up to which negatives are taken where `most` documents belong to a query at most.
    fn range_max_of(&self, most: usize, is_rescored: bool) -> Result<usize> {
        if self.negatives == 0 {
            return Err(Error::argument("negatives", "at least 1 is needed"));
        }
        for (name, value) in [
            ("max_score", self.max_score),
            ("min_score", self.min_score),
            ("absolute_margin", self.absolute_margin),
            ("relative_margin", self.relative_margin),
        ] {
            if let Some(value) = value
                && !value.is_finite()
            {
                return Err(Error::argument(name, format!("{value} is not finite")));
            }
        }
        let is_likely_short = self.absolute_margin.is_some()
            || self.relative_margin.is_some()
            || self.max_score.is_some()
            || is_rescored && self.min_score.is_some();
        let spare = if is_likely_short { 10 } else { 1 };
        let usual = self.negatives.saturating_mul(spare);
        let usual = usual.saturating_add(self.range_min).saturating_add(most);
        let range_max = self.range_max.unwrap_or(usual);
        if range_max.saturating_sub(self.range_min) < self.negatives {
            let reason = format!(
                "{} cannot be taken from ranks {} to {range_max}, of which there are {}; take \
                 fewer, or a wider range",
                self.negatives,
                self.range_min,
                range_max.saturating_sub(self.range_min)
            );
            return Err(Error::argument("negatives", reason));
        }
        Ok(range_max)
    }

    /// Whether any filter goes by scores.
    fn is_filtered(&self) -> bool {
        let limits = [
            self.absolute_margin,
            self.relative_margin,
            self.max_score,
            self.min_score,
        ];
        limits.iter().any(Option::is_some)
    }

    /// What of the ranked documents may be a negative of a query.
    fn filter(
        &self,
        ranked: Vec<(usize, f32)>,
        positives: &[(usize, f32)],
        skipped: &mut Skipped,
    ) -> Vec<(usize, f32)> {
        let belonging: HashSet<usize> = positives.iter().map(|(document, _)| *document).collect();
        let lowest = positives
            .iter()
            .map(|(_, score)| *score)
            .fold(f32::INFINITY, f32::min);
        let below = self
            .relative_margin
            .map(|margin| lowest - lowest.abs() * margin);
        let is_allowed = |&(document, score): &(usize, f32)| {
            let counter = if belonging.contains(&document) {
                &mut skipped.positives
            } else if self
                .absolute_margin
                .is_some_and(|margin| score + margin > lowest)
            {
                &mut skipped.absolute_margin
            } else if below.is_some_and(|below| score > below) {
                &mut skipped.relative_margin
            } else if self.max_score.is_some_and(|max| score > max) {
                &mut skipped.max_score
            } else if self.min_score.is_some_and(|min| score < min) {
                &mut skipped.min_score
            } else {
                return true;
            };
            *counter += 1;
            false
        };
        ranked.into_iter().filter(is_allowed).collect()
    }
}

/// Puts other scores in the place of those of `positives` and `ranked`, a list a query each, and ranks
/// by them; equal ones stay in their order.
fn replace_scores(
    positives: &mut [Vec<(usize, f32)>],
    ranked: &mut [Vec<(usize, f32)>],
    rescore: impl FnOnce(&[(usize, usize)]) -> Result<Vec<f32>>,
) -> Result<()> {
    let mut pairs = Vec::new();
    for (query, (positives, ranked)) in positives.iter().zip(&*ranked).enumerate() {
        let belongs = |document| positives.iter().any(|(other, _)| *other == document);
        let others = ranked.iter().filter(|(document, _)| !belongs(*document));
        pairs.extend(positives.iter().chain(others).map(|it| (query, it.0)));
    }
    let scores = rescore(&pairs)?;
    if scores.len() != pairs.len() {
        let reason = format!("{} for {} pairs", scores.len(), pairs.len());
        return Err(Error::argument("scores", reason));
    }
    if let Some(at) = scores.iter().position(|score| score.is_nan()) {
        let (query, document) = pairs[at];
        let reason = format!("that of query {query} and document {document} is NaN");
        return Err(Error::argument("scores", reason));
    }
    let mut scores = scores.into_iter();
    for (positives, ranked) in positives.iter_mut().zip(ranked) {
        for ((_, score), new) in positives.iter_mut().zip(&mut scores) {
            *score = new;
        }
        for (document, score) in ranked.iter_mut() {
            let own = positives.iter().find(|(other, _)| other == document);
            if let Some(new) = own.map(|(_, own)| *own).or_else(|| scores.next()) {
                *score = new;
            }
        }
        ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query along the first axis, and documents at these cosines.
    fn at(cosines: &[f32]) -> Vec<f32> {
        cosines
            .iter()
            .flat_map(|&x| [x, (1.0 - x * x).max(0.0).sqrt()])
            .collect()
    }

    fn mine(options: &HardNegatives, cosines: &[f32], positives: &[usize]) -> Vec<usize> {
        let pairs: Vec<(usize, usize)> = positives.iter().map(|&document| (0, document)).collect();
        let mined = options.mine(&[1.0, 0.0], &at(cosines), 2, &pairs).unwrap();
        mined.negatives[0]
            .iter()
            .map(|(document, _)| *document)
            .collect()
    }

    const COSINES: [f32; 8] = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, -0.2, -0.5];

    #[test]
    fn what_belongs_to_the_query_is_no_negative() {
        let options = HardNegatives::default();
        assert_eq!(mine(&options, &COSINES, &[2]), [0, 1, 3]);
        assert_eq!(mine(&options, &COSINES, &[0, 1, 3, 0]), [2, 4, 5]);
    }

    #[test]
    fn the_range_counts_what_filters_leave() {
        let options = HardNegatives {
            negatives: 2,
            range_min: 1,
            max_score: Some(0.75),
            ..HardNegatives::default()
        };
        assert_eq!(mine(&options, &COSINES, &[0]), [3, 4]);
        let options = HardNegatives {
            range_max: Some(3),
            max_score: None,
            ..options
        };
        // Ranks 2 and 3 of those that do not belong to the query.
        assert_eq!(mine(&options, &COSINES, &[0]), [2, 3]);
        // The ranked documents are four, two of which are left.
        let options = HardNegatives {
            max_score: Some(0.75),
            ..options
        };
        assert_eq!(mine(&options, &COSINES, &[0]), [3]);
    }

    #[test]
    fn margins_count_from_the_lowest_that_belongs() {
        let options = HardNegatives {
            absolute_margin: Some(0.15),
            ..HardNegatives::default()
        };
        assert_eq!(mine(&options, &COSINES, &[0, 3]), [5, 6, 7]);
        let options = HardNegatives {
            relative_margin: Some(0.5),
            ..HardNegatives::default()
        };
        assert_eq!(mine(&options, &COSINES, &[1]), [5, 6, 7]);
        // Of a negative score, the threshold is below it too: -0.2 - 0.1.
        assert_eq!(mine(&options, &COSINES, &[6]), [7]);
        let options = HardNegatives {
            min_score: Some(0.0),
            ..options
        };
        assert_eq!(mine(&options, &COSINES, &[1]), [5]);
    }

    #[test]
    fn random_negatives_come_from_the_range_and_the_seed() {
        let cosines: Vec<f32> = (0..50).map(|i| 0.9 - 0.01 * i as f32).collect();
        let options = |seed| HardNegatives {
            negatives: 4,
            range_min: 5,
            range_max: Some(25),
            sampling: Sampling::Random,
            seed,
            ..HardNegatives::default()
        };
        let drawn: Vec<Vec<usize>> = (0..8)
            .map(|seed| mine(&options(seed), &cosines, &[0]))
            .collect();
        for negatives in &drawn {
            assert_eq!(negatives.len(), 4);
            assert!(negatives.is_sorted(), "{negatives:?}");
            assert!(negatives.iter().all(|document| (6..=25).contains(document)));
        }
        assert_ne!(drawn[0], drawn[1]);
        assert_eq!(mine(&options(0), &cosines, &[0]), drawn[0]);
        // Fewer are left than wanted: all of them.
        let options = HardNegatives {
            range_min: 0,
            min_score: Some(0.88),
            ..options(0)
        };
        assert_eq!(mine(&options, &cosines[..3], &[0]), [1, 2]);
    }

    #[test]
    fn options_that_contradict_each_other() {
        let run = |options: HardNegatives, pairs: &[(usize, usize)]| {
            let error = options
                .mine(&[1.0, 0.0], &at(&COSINES), 2, pairs)
                .unwrap_err();
            error.to_string()
        };
        let default = HardNegatives::default;
        for (options, pairs, part) in [
            (
                HardNegatives {
                    negatives: 0,
                    ..default()
                },
                [(0, 0)],
                "at least 1",
            ),
            (
                HardNegatives {
                    range_min: 3,
                    range_max: Some(5),
                    ..default()
                },
                [(0, 0)],
                "of which there are 2",
            ),
            (
                HardNegatives {
                    max_score: Some(f32::NAN),
                    ..default()
                },
                [(0, 0)],
                "max_score",
            ),
            (default(), [(1, 0)], "no query 1"),
            (default(), [(0, 8)], "no row 8 among 8"),
        ] {
            let error = run(options, &pairs);
            assert!(error.contains(part), "{error}");
        }
        assert!(run(default(), &[]).contains("no document belongs to query 0"));
    }

    #[test]
    fn other_scores_rank_and_are_asked_for_once() {
        let options = HardNegatives {
            negatives: 2,
            min_score: Some(0.15),
            ..HardNegatives::default()
        };
        let scores = [0.5, 0.2, 0.9, 0.2, 0.1, 0.3, 0.0, 0.4];
        let mine = |options: &HardNegatives, scores: &[f32]| {
            let mut asked = Vec::new();
            let rescore = |pairs: &[(usize, usize)]| {
                asked.extend(pairs.iter().map(|(_, document)| *document));
                let scores = pairs.iter().map_while(|(_, at)| scores.get(*at).copied());
                Ok(scores.collect())
            };
            let pairs = [(0, 2), (0, 0), (0, 2)];
            let mined = options.mine_rescored(&[1.0, 0.0], &at(&COSINES), 2, &pairs, rescore);
            (mined, asked)
        };
        let (mined, asked) = mine(&options, &scores);
        let mined = mined.unwrap();
        // Those that belong to the query first, then the others by their cosines.
        assert_eq!(asked, [2, 0, 1, 3, 4, 5, 6, 7]);
        assert_eq!(mined.positives[0], [(2, 0.9), (0, 0.5)]);
        assert_eq!(mined.negatives[0], [(7, 0.4), (5, 0.3)]);
        assert_eq!((mined.skipped.positives, mined.skipped.min_score), (2, 2));
        // Ten times the negatives, as only by other scores, and three rows.
        assert_eq!(mined.range_max, 23);
        // Of equal scores the closer document comes first.
        let options = HardNegatives {
            negatives: 4,
            ..options
        };
        let (mined, _) = mine(&options, &scores);
        let negatives = [(7, 0.4), (5, 0.3), (1, 0.2), (3, 0.2)];
        assert_eq!(mined.unwrap().negatives[0], negatives);
        // Without a filter nothing is asked for.
        let options = HardNegatives {
            min_score: None,
            ..options
        };
        let (mined, asked) = mine(&options, &scores);
        assert_eq!((asked.len(), mined.unwrap().negatives[0][0].0), (0, 1));

        let options = HardNegatives {
            max_score: Some(1.0),
            ..options
        };
        let not_a_number = [&[f32::NAN], &scores[1..]].concat();
        for (scores, part) in [
            (&not_a_number[..], "query 0 and document 0 is NaN"),
            (&scores[..5], "5 for 8 pairs"),
        ] {
            let error = mine(&options, scores).0.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
