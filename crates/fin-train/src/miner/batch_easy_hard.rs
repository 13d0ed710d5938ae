//! A positive and a negative of every anchor, by how hard they are.

use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Matrix, Mined, Miner, MinerBatch};
use crate::registry::{self, Options};

/// How hard the selected item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The farthest positive, the nearest negative.
    Hard,
    /// The hardest one that still lies on the right side of the other kind's: the farthest
    /// positive nearer than the negative, the nearest negative farther than the positive.
    #[serde(rename = "semihard")]
    SemiHard,
    /// The nearest positive, the farthest negative.
    Easy,
    /// Every one.
    All,
}

/// A positive and a negative of every anchor, each chosen by a [`Strategy`] (Xuan et al. 2020,
/// "Improved embeddings with easy positive triplet mining"; `BatchEasyHardMiner` of
/// pytorch-metric-learning).
///
/// Without `all`, anchors that have both are kept, and of equally far items the first is taken.
/// With `all` on one side or both, the two kinds of pairs are selected apart from each other.
/// Items whose distance is outside `allowed_pos_range` or `allowed_neg_range` are passed over,
/// except by `all`. Defaults: easy positives, semi-hard negatives, no ranges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchEasyHardMiner {
    pos_strategy: Strategy,
    neg_strategy: Strategy,
    allowed_pos_range: Option<[f64; 2]>,
    allowed_neg_range: Option<[f64; 2]>,
}

impl Default for BatchEasyHardMiner {
    fn default() -> Self {
        Self {
            pos_strategy: Strategy::Easy,
            neg_strategy: Strategy::SemiHard,
            allowed_pos_range: None,
            allowed_neg_range: None,
        }
    }
}

impl BatchEasyHardMiner {
    /// With these strategies for positives and negatives, without ranges.
    ///
    /// # Errors
    /// [`Error::Argument`] where both are semi-hard, or one is and the other is `all`: there is
    /// then nothing to be semi-hard against.
    pub fn new(positive: Strategy, negative: Strategy) -> Result<Self> {
        Self {
            pos_strategy: positive,
            neg_strategy: negative,
            ..Self::default()
        }
        .checked()
    }

    fn checked(self) -> Result<Self> {
        use Strategy::{All, SemiHard};
        match (self.pos_strategy, self.neg_strategy) {
            (SemiHard, SemiHard | All) | (All, SemiHard) => Err(Error::argument(
                "pos_strategy",
                "`semihard` goes with `easy` or `hard` on the other side",
            )),
            _ => Ok(self),
        }
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        registry::parse::<Self>("batch_easy_hard", options)?.checked()
    }
}

/// Which end of the distances is looked for.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Nearest,
    Farthest,
}

/// The nearest or farthest candidate of an anchor, beyond its threshold where there is one.
fn pick(
    distances: &Matrix,
    anchor: usize,
    end: End,
    range: Option<[f64; 2]>,
    threshold: Option<f64>,
    candidate: impl Fn(usize) -> bool,
) -> Option<(usize, f64)> {
    let mut best: Option<(usize, f64)> = None;
    for (other, &distance) in distances.row(anchor).iter().enumerate() {
        let beyond = threshold.is_none_or(|threshold| match end {
            End::Nearest => distance > threshold,
            End::Farthest => distance < threshold,
        });
        let within = range.is_none_or(|[low, high]| distance >= low && distance <= high);
        if !(candidate(other) && beyond && within) {
            continue;
        }
        let better = best.is_none_or(|(_, found)| match end {
            End::Nearest => distance < found,
            End::Farthest => distance > found,
        });
        if better {
            best = Some((other, distance));
        }
    }
    best
}

impl Miner for BatchEasyHardMiner {
    fn name(&self) -> &'static str {
        "batch_easy_hard"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn mine(&self, batch: &MinerBatch<'_>) -> Result<Mined> {
        use Strategy::{All, Easy, SemiHard};
        let distances = batch.distances();
        let positive_of = |a: usize, threshold: Option<f64>| {
            let end = if self.pos_strategy == Easy {
                End::Nearest
            } else {
                End::Farthest
            };
            pick(&distances, a, end, self.allowed_pos_range, threshold, |p| {
                batch.positive(a, p)
            })
        };
        let negative_of = |a: usize, threshold: Option<f64>| {
            let end = if self.neg_strategy == Easy {
                End::Farthest
            } else {
                End::Nearest
            };
            pick(&distances, a, end, self.allowed_neg_range, threshold, |n| {
                batch.negative(a, n)
            })
        };
        let (mut positive, mut negative) = batch.all_pairs().pairs();
        let anchors = 0..batch.len();
        match (self.pos_strategy, self.neg_strategy) {
            (All, All) => {}
            (All, _) => {
                negative = anchors
                    .filter_map(|a| Some([a, negative_of(a, None)?.0]))
                    .collect();
            }
            (_, All) => {
                positive = anchors
                    .filter_map(|a| Some([a, positive_of(a, None)?.0]))
                    .collect();
            }
            (pos, neg) => {
                let triplets: Vec<[usize; 3]> = anchors
                    .filter_map(|a| {
                        let (p, n) = if pos == SemiHard {
                            let n = negative_of(a, None)?;
                            (positive_of(a, Some(n.1))?, n)
                        } else {
                            let p = positive_of(a, None)?;
                            let threshold = (neg == SemiHard).then_some(p.1);
                            (p, negative_of(a, threshold)?)
                        };
                        Some([a, p.0, n.0])
                    })
                    .collect();
                (positive, negative) = Mined::Triplets(triplets).pairs();
            }
        }
        Ok(Mined::Pairs { positive, negative })
    }
}
