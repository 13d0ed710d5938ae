//! Which examples come together in a batch, and in what order.
//!
//! | name | batches | for |
//! | --- | --- | --- |
//! | `random` | a shuffle, cut up | anything |
//! | `no_duplicates` | no item twice in a batch | `multiple_negatives_ranking` |
//! | `class_balanced` | some classes, as many items of each | losses over pairs of labelled items |
//!
//! An epoch's batches depend on the data, the batch size, the seed and the epoch's number alone. Of
//! several data sets, [`MultiDatasetSampler`] says whose turn it is.
//! A further sampler is a file here that implements [`Sampler`], and a line in the table of
//! names.

mod class_balanced;
mod multi_dataset;
mod no_duplicates;
mod random;

use std::fmt;

use fin_core::{Error, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use class_balanced::ClassBalancedSampler;
pub(crate) use multi_dataset::about_set;
pub use multi_dataset::{MultiDatasetSampler, SetBatch};
pub use no_duplicates::NoDuplicatesSampler;
pub use random::RandomSampler;

use crate::dataset::Targets;
use crate::registry::{self, Entry, Options};

/// What a sampler sees of a data set.
#[derive(Debug, Clone, Copy)]
pub struct Examples<'a> {
    /// A number an item, column by column; equal items have equal numbers.
    pub columns: &'a [Vec<usize>],
    /// The targets.
    pub targets: &'a Targets,
}

impl Examples<'_> {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }

    /// Whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The order of examples in an epoch.
pub trait Sampler: fmt::Debug + Send {
    /// Name in configuration files.
    fn name(&self) -> &'static str;

    /// Every option with its value.
    fn options(&self) -> Options;

    /// The batches of epoch `epoch`, counted from 0, as indices of examples. None is empty or
    /// larger than `batch_size`.
    ///
    /// # Errors
    /// [`Error::Argument`] where the data is not what the sampler needs or the batch size is too
    /// small for it.
    fn epoch(
        &self,
        examples: &Examples<'_>,
        batch_size: usize,
        seed: u64,
        epoch: usize,
    ) -> Result<Vec<Vec<usize>>>;
}

const SAMPLERS: [Entry<dyn Sampler>; 3] = [
    ("random", |_, options| {
        Ok(Box::new(registry::parse::<RandomSampler>(
            "random", options,
        )?))
    }),
    ("no_duplicates", |_, options| {
        Ok(Box::new(registry::parse::<NoDuplicatesSampler>(
            "no_duplicates",
            options,
        )?))
    }),
    ("class_balanced", |_, options| {
        Ok(Box::new(ClassBalancedSampler::from_options(options)?))
    }),
];

/// The sampler of this name.
///
/// # Errors
/// [`Error::Argument`] lists the names, or names an option that cannot be used.
pub fn sampler_from_name(name: &str, options: &Options) -> Result<Box<dyn Sampler>> {
    registry::from_name("sampler", &SAMPLERS, name, options)
}

/// The names that [`sampler_from_name`] takes.
pub fn sampler_names() -> impl Iterator<Item = &'static str> {
    SAMPLERS.iter().map(|(name, _)| *name)
}

/// The generator of an epoch: ChaCha with 8 rounds, the epoch being its stream.
fn generator(seed: u64, epoch: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch as u64);
    rng
}

fn check_batch_size(batch_size: usize) -> Result<()> {
    if batch_size == 0 {
        return Err(Error::argument(
            "batch_size",
            "0 is not a batch size; 1 or more are needed",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sampler_is_a_function_of_seed_and_epoch() {
        let columns = vec![(0..60).collect::<Vec<_>>(), (60..120).collect()];
        let targets = Targets::Labels {
            ids: (0..60).map(|i| i % 4).collect(),
            names: ["a", "b", "c", "d"].map(String::from).to_vec(),
        };
        let examples = Examples {
            columns: &columns,
            targets: &targets,
        };
        for name in sampler_names() {
            let sampler = sampler_from_name(name, &Options::new()).unwrap();
            assert_eq!(sampler.name(), name);
            let batches = |seed, epoch| sampler.epoch(&examples, 8, seed, epoch).unwrap();
            assert_eq!(batches(1, 0), batches(1, 0), "{name}");
            assert_ne!(batches(1, 0), batches(1, 1), "{name}");
            assert_ne!(batches(1, 0), batches(2, 0), "{name}");
            assert!(sampler.epoch(&examples, 0, 1, 0).is_err(), "{name}");
        }
        let error = sampler_from_name("sorted", &Options::new())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("random, no_duplicates, class_balanced"),
            "{error}"
        );
    }
}
