//! Batches of several data sets.

use std::fmt;
use std::str::FromStr;

use fin_core::{Error, Result};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Examples, Sampler, generator};

/// Whose turn it is where there are several data sets. Every batch is of one set, drawn by the
/// [`Sampler`] of the run (`MultiDatasetBatchSamplers` of sentence-transformers).
///
/// ```
/// use fin_train::Options;
/// use fin_train::dataset::Targets;
/// use fin_train::sampler::{Examples, MultiDatasetSampler, sampler_from_name};
///
/// let columns = [vec![(0..6).collect()], vec![(0..2).collect()]];
/// let sets = [0, 1].map(|i: usize| Examples { columns: &columns[i], targets: &Targets::None });
/// let random = sampler_from_name("random", &Options::new())?;
/// let batches = MultiDatasetSampler::RoundRobin.epoch(random.as_ref(), &sets, 2, 42, 0)?;
/// assert_eq!(batches.iter().map(|batch| batch.dataset).collect::<Vec<_>>(), [0, 1]);
/// let batches = MultiDatasetSampler::Proportional.epoch(random.as_ref(), &sets, 2, 42, 0)?;
/// assert_eq!(batches.len(), 4);
/// # Ok::<(), fin_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MultiDatasetSampler {
    /// A batch of every set in turn, in the order of the sets, until one has no more: all sets count
    /// the same, and larger ones are not seen whole.
    RoundRobin,
    /// All batches of all sets, whose turns are shuffled: every example has its turn, and larger sets
    /// come more often. The default.
    #[default]
    Proportional,
}

/// A batch of one of several data sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetBatch {
    /// Number of the data set.
    pub dataset: usize,
    /// Examples of it.
    pub examples: Vec<usize>,
}

impl MultiDatasetSampler {
    /// Every way with its name.
    const NAMES: [(&str, Self); 2] = [
        ("round_robin", Self::RoundRobin),
        ("proportional", Self::Proportional),
    ];

    /// Name in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Proportional => "proportional",
        }
    }

    /// The batches of epoch `epoch`, counted from 0, a function of the sets, the batch size, the seed
    /// and the epoch alone. Of a single set they are those of `sampler`.
    ///
    /// # Errors
    /// Those of [`Sampler::epoch`], with the number of the set, counted from 1, where there are
    /// several.
    pub fn epoch(
        self,
        sampler: &dyn Sampler,
        sets: &[Examples<'_>],
        batch_size: usize,
        seed: u64,
        epoch: usize,
    ) -> Result<Vec<SetBatch>> {
        let draw = |dataset: usize| {
            let seed = seed_of(seed, dataset);
            let batches = sampler
                .epoch(&sets[dataset], batch_size, seed, epoch)
                .map_err(|error| about_set(dataset, sets.len(), error))?;
            let batches = batches
                .into_iter()
                .map(move |examples| SetBatch { dataset, examples });
            Ok(batches)
        };
        let mut drawn = (0..sets.len()).map(draw).collect::<Result<Vec<_>>>()?;
        let turns: Vec<usize> = match self {
            Self::RoundRobin => {
                let rounds = drawn.iter().map(ExactSizeIterator::len).min().unwrap_or(0);
                (0..rounds).flat_map(|_| 0..sets.len()).collect()
            }
            Self::Proportional => {
                let turns = drawn.iter().enumerate();
                let mut turns: Vec<usize> = turns
                    .flat_map(|(dataset, batches)| std::iter::repeat_n(dataset, batches.len()))
                    .collect();
                // A generator that no set's sampler has.
                turns.shuffle(&mut generator(seed_of(seed, sets.len()), epoch));
                turns
            }
        };
        Ok(turns
            .into_iter()
            .filter_map(|set| drawn[set].next())
            .collect())
    }
}

impl fmt::Display for MultiDatasetSampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MultiDatasetSampler {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::NAMES.iter().find(|(name, _)| *name == text) {
            Some((_, found)) => Ok(*found),
            None => {
                let names = Self::NAMES.map(|(name, _)| name).join(", ");
                let reason = format!("`{text}` is unknown; accepted are {names}");
                Err(Error::argument("multi_dataset_sampler", reason))
            }
        }
    }
}

/// The seed of a set: that of the run for the first, so that it does not matter whether others come
/// after it, and unrelated ones for those.
fn seed_of(seed: u64, dataset: usize) -> u64 {
    match dataset {
        0 => seed,
        // The increment of SplitMix64 (Steele et al. 2014), whose multiples are all different.
        _ => seed.wrapping_add((dataset as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
    }
}

/// An error about a set, which names it where there are several.
pub(crate) fn about_set(dataset: usize, sets: usize, error: Error) -> Error {
    match error {
        Error::Argument { name, reason } if sets > 1 => Error::argument(
            name,
            format!("data set {} of {sets}: {reason}", dataset + 1),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Targets;
    use crate::sampler::{ClassBalancedSampler, NoDuplicatesSampler, RandomSampler};

    fn columns(sizes: &[usize]) -> Vec<Vec<Vec<usize>>> {
        sizes
            .iter()
            .map(|&size| vec![(0..size).collect()])
            .collect()
    }

    fn draw(how: MultiDatasetSampler, sizes: &[usize], seed: u64, epoch: usize) -> Vec<SetBatch> {
        let columns = columns(sizes);
        let sets: Vec<Examples<'_>> = columns
            .iter()
            .map(|columns| Examples {
                columns,
                targets: &Targets::None,
            })
            .collect();
        how.epoch(&RandomSampler::default(), &sets, 4, seed, epoch)
            .unwrap()
    }

    fn sets_of(batches: &[SetBatch]) -> Vec<usize> {
        batches.iter().map(|batch| batch.dataset).collect()
    }

    /// Examples of a set in order.
    fn seen(batches: &[SetBatch], dataset: usize) -> Vec<usize> {
        let batches = batches.iter().filter(|batch| batch.dataset == dataset);
        let mut seen: Vec<usize> = batches.flat_map(|batch| batch.examples.clone()).collect();
        seen.sort_unstable();
        seen
    }

    #[test]
    fn round_robin_takes_turns_until_the_smallest_ends() {
        for sizes in [[20, 9, 40], [9, 20, 40], [40, 20, 9]] {
            let batches = draw(MultiDatasetSampler::RoundRobin, &sizes, 7, 0);
            // The smallest has 3 batches, of 4, 4 and 1.
            assert_eq!(sets_of(&batches), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
            for (set, &size) in sizes.iter().enumerate() {
                let seen = seen(&batches, set);
                assert_eq!(seen.len(), if size == 9 { 9 } else { 12 });
                assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
            }
        }
        // What is left of a larger set is another part of it in another epoch.
        let epochs = [0, 1].map(|epoch| {
            let batches = draw(MultiDatasetSampler::RoundRobin, &[20, 9, 40], 7, epoch);
            seen(&batches, 2)
        });
        assert_ne!(epochs[0], epochs[1]);
    }

    #[test]
    fn proportional_has_every_batch_once_in_shuffled_turns() {
        let sizes = [20, 9, 41];
        let batches = draw(MultiDatasetSampler::Proportional, &sizes, 7, 0);
        let count = |set| batches.iter().filter(|batch| batch.dataset == set).count();
        assert_eq!([0, 1, 2].map(count), [5, 3, 11]);
        for (set, &size) in sizes.iter().enumerate() {
            assert_eq!(seen(&batches, set), (0..size).collect::<Vec<_>>());
        }
        assert!(!sets_of(&batches).is_sorted());
        assert!(batches.iter().all(|batch| batch.examples.len() <= 4));
        // Turns are drawn anew every epoch and for every seed; the largest set comes first in as many
        // epochs as its share of the batches says.
        let turns = |seed, epoch| {
            sets_of(&draw(
                MultiDatasetSampler::Proportional,
                &sizes,
                seed,
                epoch,
            ))
        };
        assert_ne!(turns(7, 0), turns(7, 1));
        assert_ne!(turns(7, 0), turns(8, 0));
        let first = (0..400).filter(|&epoch| turns(7, epoch)[0] == 2).count();
        assert!((190..=270).contains(&first), "{first} of 400, 232 expected");
    }

    #[test]
    fn batches_are_a_function_of_seed_and_epoch_and_sets_differ() {
        for (_, how) in MultiDatasetSampler::NAMES {
            let batches = |seed, epoch| draw(how, &[24, 24], seed, epoch);
            assert_eq!(batches(1, 0), batches(1, 0));
            assert_ne!(batches(1, 0), batches(1, 1));
            assert_ne!(batches(1, 0), batches(2, 0));
            let order = |set| -> Vec<usize> {
                let batches = batches(1, 0).into_iter();
                batches
                    .filter(|batch| batch.dataset == set)
                    .flat_map(|batch| batch.examples)
                    .collect()
            };
            assert_ne!(order(0), order(1), "{how}: two sets have one order");
            // Alone, a set has the batches that its sampler gives it.
            let columns = columns(&[24]);
            let examples = Examples {
                columns: &columns[0],
                targets: &Targets::None,
            };
            let expected = RandomSampler::default().epoch(&examples, 4, 1, 0).unwrap();
            let alone = draw(how, &[24], 1, 0);
            let mut alone: Vec<_> = alone.into_iter().map(|batch| batch.examples).collect();
            assert_eq!(alone.len(), expected.len());
            if how == MultiDatasetSampler::Proportional {
                // A shuffle of turns that are all one set's.
                assert_eq!(alone, expected);
            }
            alone.sort();
            assert!(alone.iter().all(|batch| expected.contains(batch)), "{how}");
        }
    }

    #[test]
    fn every_set_goes_by_the_sampler_of_the_run() {
        // Two sets of pairs with a column more in the second; an item that is there twice in each.
        let columns = [
            vec![vec![0, 0, 1, 2], vec![3, 4, 5, 6]],
            vec![vec![0, 1, 2, 2], vec![3, 4, 5, 6], vec![7, 8, 9, 10]],
        ];
        let sets = [0, 1].map(|set: usize| Examples {
            columns: &columns[set],
            targets: &Targets::None,
        });
        let how = MultiDatasetSampler::Proportional;
        let batches = how
            .epoch(&NoDuplicatesSampler::default(), &sets, 4, 3, 0)
            .unwrap();
        assert_eq!(batches.len(), 4);
        for set in [0, 1] {
            assert_eq!(seen(&batches, set), [0, 1, 2, 3]);
        }
        let error = how.epoch(&ClassBalancedSampler::default(), &sets, 8, 3, 0);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("data set 1 of 2") && error.contains("label"),
            "{error}"
        );
    }

    #[test]
    fn names_are_read_back_and_others_are_refused() {
        for (name, how) in MultiDatasetSampler::NAMES {
            assert_eq!((how.name(), how.to_string()), (name, name.to_string()));
            assert_eq!(name.parse::<MultiDatasetSampler>().unwrap(), how);
            assert_eq!(serde_json::to_value(how).unwrap(), name);
        }
        let error = "size"
            .parse::<MultiDatasetSampler>()
            .unwrap_err()
            .to_string();
        assert!(error.contains("round_robin, proportional"), "{error}");
    }
}
