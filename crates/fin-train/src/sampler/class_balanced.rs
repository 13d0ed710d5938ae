//! Batches with as many items of each of their classes.

use fin_core::{Error, Result};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Examples, Sampler, check_batch_size, generator};
use crate::dataset::Targets;
use crate::registry::{self, Options};

/// `batch_size / samples_per_class` classes a batch, with `samples_per_class` items of each
/// ("PK batches", Hermans et al. 2017, section 2).
///
/// Every class is shuffled and cut into groups; a class's last group is filled up with other
/// items of that class. A class of fewer items than a group has all of them in it. Batches take
/// groups of classes with the most groups left first, so that every batch has at least two
/// classes; groups of a single class that are left over at the end sit the epoch out, as they
/// would have nothing to be told from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassBalancedSampler {
    samples_per_class: usize,
}

impl Default for ClassBalancedSampler {
    /// 4 items of a class.
    fn default() -> Self {
        Self {
            samples_per_class: 4,
        }
    }
}

impl ClassBalancedSampler {
    /// With this many items of a class.
    ///
    /// # Errors
    /// [`Error::Argument`] where it is less than 2: an item alone of its class has no positive.
    pub fn new(samples_per_class: usize) -> Result<Self> {
        if samples_per_class >= 2 {
            Ok(Self { samples_per_class })
        } else {
            Err(Error::argument(
                "samples_per_class",
                format!("{samples_per_class} is too few; 2 or more are needed"),
            ))
        }
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("class_balanced", options)?;
        Self::new(parsed.samples_per_class)
    }
}

impl Sampler for ClassBalancedSampler {
    fn name(&self) -> &'static str {
        "class_balanced"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn epoch(
        &self,
        examples: &Examples<'_>,
        batch_size: usize,
        seed: u64,
        epoch: usize,
    ) -> Result<Vec<Vec<usize>>> {
        check_batch_size(batch_size)?;
        let size = self.samples_per_class;
        let Targets::Labels { ids, names } = examples.targets else {
            return Err(Error::argument(
                "sampler",
                "`class_balanced` needs a label for every example",
            ));
        };
        let per_batch = batch_size / size;
        if per_batch < 2 {
            return Err(Error::argument(
                "batch_size",
                format!(
                    "{batch_size} holds fewer than two classes of {size} items; at least {} are needed, or a \
                     smaller samples_per_class",
                    2 * size
                ),
            ));
        }
        let mut classes: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
        for (example, &id) in ids.iter().enumerate() {
            classes[id].push(example);
        }
        if classes.iter().filter(|class| !class.is_empty()).count() < 2 {
            return Err(Error::argument(
                "dataset",
                "`class_balanced` needs examples of two classes or more",
            ));
        }
        let mut rng = generator(seed, epoch);
        let mut groups: Vec<Vec<Vec<usize>>> = Vec::with_capacity(classes.len());
        for class in &mut classes {
            class.shuffle(&mut rng);
            let mut cut: Vec<Vec<usize>> = class.chunks(size).map(<[usize]>::to_vec).collect();
            if let Some(last) = cut.last_mut() {
                let missing = size.min(class.len()) - last.len();
                last.extend_from_slice(&class[..missing]);
            }
            groups.push(cut);
        }
        let mut batches = Vec::new();
        loop {
            // Most groups left first; equal numbers in random order.
            let mut order: Vec<(usize, u32, usize)> = groups
                .iter()
                .enumerate()
                .filter(|(_, groups)| !groups.is_empty())
                .map(|(class, groups)| (usize::MAX - groups.len(), rng.random::<u32>(), class))
                .collect();
            if order.len() < 2 {
                break;
            }
            order.sort_unstable();
            let chosen = order
                .iter()
                .take(per_batch)
                .filter_map(|&(_, _, class)| groups[class].pop());
            batches.push(chosen.flatten().collect::<Vec<usize>>());
        }
        batches.shuffle(&mut rng);
        Ok(batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};

    fn run(
        counts: &[usize],
        batch_size: usize,
        size: usize,
    ) -> Result<(Vec<usize>, Vec<Vec<usize>>)> {
        let ids: Vec<usize> = counts
            .iter()
            .enumerate()
            .flat_map(|(class, &count)| std::iter::repeat_n(class, count))
            .collect();
        let names = counts
            .iter()
            .enumerate()
            .map(|(class, _)| class.to_string())
            .collect();
        let columns = vec![(0..ids.len()).collect()];
        let targets = Targets::Labels {
            ids: ids.clone(),
            names,
        };
        let examples = Examples {
            columns: &columns,
            targets: &targets,
        };
        Ok((
            ids,
            ClassBalancedSampler::new(size)?.epoch(&examples, batch_size, 9, 0)?,
        ))
    }

    #[test]
    fn every_batch_has_full_groups_of_two_classes_or_more() {
        let (ids, batches) = run(&[10, 7, 4, 9, 12], 12, 4).unwrap();
        let mut seen: HashSet<usize> = HashSet::new();
        for batch in &batches {
            assert_eq!(
                batch.iter().collect::<HashSet<_>>().len(),
                batch.len(),
                "an example twice in {batch:?}"
            );
            let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
            batch
                .iter()
                .for_each(|&example| *counts.entry(ids[example]).or_default() += 1);
            assert!(
                counts.len() >= 2 && counts.values().all(|&count| count == 4),
                "{counts:?}"
            );
            seen.extend(batch);
        }
        assert_eq!(seen.len(), 42, "every example has its turn");
    }

    #[test]
    fn small_classes_take_part_whole_and_a_giant_one_stops_with_the_others() {
        let (ids, batches) = run(&[1, 100, 2], 8, 4).unwrap();
        assert_eq!(batches.len(), 2);
        let all = batches.concat();
        assert_eq!(all.iter().filter(|&&example| ids[example] != 1).count(), 3);
        assert_eq!(all.iter().filter(|&&example| ids[example] == 1).count(), 8);
    }

    #[test]
    fn what_cannot_make_triplets_is_refused() {
        assert!(
            run(&[4, 4], 8, 1)
                .unwrap_err()
                .to_string()
                .contains("samples_per_class")
        );
        assert!(
            run(&[4, 4], 7, 4)
                .unwrap_err()
                .to_string()
                .contains("at least 8")
        );
        assert!(
            run(&[9, 0], 8, 4)
                .unwrap_err()
                .to_string()
                .contains("two classes")
        );
        let columns = vec![vec![0, 1]];
        let examples = Examples {
            columns: &columns,
            targets: &Targets::None,
        };
        let error = ClassBalancedSampler::default()
            .epoch(&examples, 8, 0, 0)
            .unwrap_err();
        assert!(error.to_string().contains("label"), "{error}");
    }
}
