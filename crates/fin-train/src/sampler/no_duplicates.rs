//! Batches in which no item occurs twice.

use fin_core::Result;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Examples, Sampler, check_batch_size, generator};
use crate::registry::{self, Options};

/// Every example once an epoch; two examples with an equal item in any of their columns are never
/// in one batch (`NoDuplicatesBatchSampler` of sentence-transformers).
///
/// Examples are shuffled, and each batch takes the first of those left that fit. Towards the end
/// of an epoch of many duplicates batches may be small. Time grows with the square of the number
/// of examples where most of them share an item, and in proportion to it where few do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NoDuplicatesSampler {}

impl Sampler for NoDuplicatesSampler {
    fn name(&self) -> &'static str {
        "no_duplicates"
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
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.shuffle(&mut generator(seed, epoch));
        let items = examples
            .columns
            .iter()
            .flatten()
            .max()
            .map_or(0, |max| max + 1);
        // The batch, counted from 1, that an item was last put into.
        let mut last = vec![0; items];
        let mut batches: Vec<Vec<usize>> = Vec::new();
        // Examples that were passed over come before those not looked at yet, in shuffled order.
        let mut passed: Vec<usize> = Vec::new();
        let mut rest = order.into_iter();
        loop {
            let number = batches.len() + 1;
            let mut batch = Vec::with_capacity(batch_size);
            let mut take = |example: usize, batch: &mut Vec<usize>| {
                let fits = batch.len() < batch_size
                    && examples
                        .columns
                        .iter()
                        .all(|column| last[column[example]] != number);
                if fits {
                    examples
                        .columns
                        .iter()
                        .for_each(|column| last[column[example]] = number);
                    batch.push(example);
                }
                fits
            };
            passed.retain(|&example| !take(example, &mut batch));
            while batch.len() < batch_size
                && let Some(example) = rest.next()
            {
                if !take(example, &mut batch) {
                    passed.push(example);
                }
            }
            if batch.is_empty() {
                return Ok(batches);
            }
            batches.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Targets;
    use std::collections::HashSet;

    #[test]
    fn no_item_twice_in_a_batch_and_every_example_once() {
        // Anchors repeat, positives repeat, and some positives are anchors elsewhere.
        let columns = vec![
            (0..200).map(|i| i * 7 % 60).collect::<Vec<_>>(),
            (0..200).map(|i| 50 + i * 11 % 90).collect(),
        ];
        let examples = Examples {
            columns: &columns,
            targets: &Targets::None,
        };
        let batches = NoDuplicatesSampler::default()
            .epoch(&examples, 16, 5, 0)
            .unwrap();
        for batch in &batches {
            assert!(!batch.is_empty() && batch.len() <= 16);
            let mut seen = HashSet::new();
            for &example in batch {
                let own: HashSet<usize> = columns.iter().map(|column| column[example]).collect();
                assert!(own.into_iter().all(|item| seen.insert(item)));
            }
        }
        let mut all = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..200).collect::<Vec<_>>());
        assert!(batches.len() <= 20, "{} batches", batches.len());
    }

    #[test]
    fn a_pair_of_equal_items_is_one_example_and_clashes_only_with_others() {
        let columns = vec![vec![0, 0], vec![0, 1]];
        let examples = Examples {
            columns: &columns,
            targets: &Targets::None,
        };
        let batches = NoDuplicatesSampler::default()
            .epoch(&examples, 2, 0, 0)
            .unwrap();
        assert_eq!(batches.len(), 2);
    }
}
