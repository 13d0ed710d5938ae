//! A shuffle of the examples.

use fin_core::Result;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Examples, Sampler, check_batch_size, generator};
use crate::registry::{self, Options};

/// Every example once an epoch, in random order; the last batch may be smaller.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomSampler {}

impl Sampler for RandomSampler {
    fn name(&self) -> &'static str {
        "random"
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
        Ok(order.chunks(batch_size).map(<[usize]>::to_vec).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Targets;

    #[test]
    fn every_example_once_in_full_batches() {
        let columns = vec![vec![0; 23]];
        let examples = Examples {
            columns: &columns,
            targets: &Targets::None,
        };
        let batches = RandomSampler::default().epoch(&examples, 5, 3, 0).unwrap();
        assert_eq!(
            batches.iter().map(Vec::len).collect::<Vec<_>>(),
            [5, 5, 5, 5, 3]
        );
        let mut all = batches.concat();
        assert!(!all.is_sorted());
        all.sort_unstable();
        assert_eq!(all, (0..23).collect::<Vec<_>>());
    }
}
