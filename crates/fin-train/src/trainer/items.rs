//! The items of a run, preprocessed: all of them ahead, or those of a batch when it needs them.

use std::borrow::Cow;

use burn::tensor::Device;
use fin_core::{Embedder, Error, Result};

use crate::dataset::{RunItems, Spool};

/// Items of a file that are preprocessed at a time, at most.
const WINDOW: usize = 4096;

/// Where the items of batches come from.
pub(super) enum Source<'a, E: Embedder> {
    /// All of them, preprocessed.
    Kept(Vec<E::Encoded>),
    /// A file.
    Spooled(&'a Spool<E::Item>),
}

/// What the columns of a batch are made of.
pub(super) struct BatchItems<'a, E: Embedder> {
    /// Preprocessed items.
    pub encoded: Cow<'a, [E::Encoded]>,
    /// Items of each column, as indices into `encoded`.
    pub columns: Cow<'a, [Vec<usize>]>,
}

impl<'a, E: Embedder> Source<'a, E> {
    /// Preprocesses the items of a run, and says how many of them were cut to the model's maximum
    /// length. Those of a file are preprocessed too, so that one that cannot be used is found before
    /// the first step, and then let go.
    pub fn new(
        items: RunItems<'a, E::Item>,
        embedder: &E,
        device: &Device,
    ) -> Result<(Self, usize)> {
        let truncated = |encoded: &[E::Encoded]| {
            let encoded = encoded.iter();
            encoded.filter(|item| embedder.is_truncated(item)).count()
        };
        match items {
            RunItems::Memory(items) => {
                let encoded = embedder.preprocess_training(&items, device)?;
                let truncated = truncated(&encoded);
                Ok((Self::Kept(encoded), truncated))
            }
            RunItems::Spooled(spool) => {
                if !embedder.preprocesses_alone() {
                    let reason = "features of what is frozen or locked are computed ahead for all \
                                  items and kept in memory; train on a data set in memory, or \
                                  freeze nothing";
                    return Err(Error::argument("stream", reason));
                }
                let mut sum = 0;
                let most = embedder.window().clamp(1, WINDOW);
                spool.windows(most, |items| {
                    sum += truncated(&embedder.preprocess_training(items, device)?);
                    Ok(())
                })?;
                Ok((Self::Spooled(spool), sum))
            }
        }
    }

    /// The items of a batch, whose columns have these numbers.
    pub fn of_batch<'b>(
        &'b self,
        columns: &'b [Vec<usize>],
        embedder: &E,
        device: &Device,
    ) -> Result<BatchItems<'b, E>> {
        match self {
            Self::Kept(encoded) => Ok(BatchItems {
                encoded: Cow::Borrowed(encoded),
                columns: Cow::Borrowed(columns),
            }),
            Self::Spooled(spool) => {
                let mut numbers = columns.concat();
                numbers.sort_unstable();
                numbers.dedup();
                let encoded = embedder.preprocess_training(&spool.items(&numbers)?, device)?;
                let place = |number: &usize| numbers.partition_point(|other| other < number);
                let columns = columns.iter();
                let columns = columns.map(|column| column.iter().map(place).collect());
                Ok(BatchItems {
                    encoded: Cow::Owned(encoded),
                    columns: columns.collect(),
                })
            }
        }
    }
}
