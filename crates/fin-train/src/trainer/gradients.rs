//! The gradients of a batch, with gradient caching where that is asked for.

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use fin_core::{Embedder, EmbeddingNetwork, Error, Result};

use super::items::Source;
use super::{diverged, mix};
use crate::dataset::BatchTargets;
use crate::loss::Loss;

/// What embeds the items of a run.
pub(super) struct Items<'a, E: Embedder> {
    pub embedder: &'a E,
    /// Where they come from.
    pub source: Source<'a, E>,
    /// The device without autodiff.
    pub device: &'a Device,
    /// Rows that the network sees at a time; none for whole batches.
    pub mini_batch_size: Option<usize>,
}

/// A batch of a step.
pub(super) struct Batch {
    /// Numbers of the items of each column.
    pub columns: Vec<Vec<usize>>,
    pub targets: BatchTargets,
    /// What its dropout and augmentation depend on.
    pub seed: u64,
    /// The step it is of, counted from 0.
    pub step: usize,
    /// Number of batches of the step, by which its loss is divided.
    pub batches: usize,
}

/// Loss of a batch, and the gradients of its share in the loss of the step.
pub(super) struct BatchGradients {
    /// The loss, undivided.
    pub loss: f32,
    /// The embeddings of the columns, detached.
    pub embeddings: Vec<Tensor<2>>,
    pub network: GradientsParams,
    /// Those of the parameters of the loss, if it has any.
    pub parameters: Option<GradientsParams>,
}

impl<E: Embedder> Items<'_, E> {
    /// The gradients of a batch.
    pub fn gradients(
        &self,
        network: &E::Network,
        loss: &dyn Loss,
        batch: &Batch,
    ) -> Result<BatchGradients> {
        let items = self
            .source
            .of_batch(&batch.columns, self.embedder, self.device)?;
        let (encoded, columns) = (&*items.encoded, &*items.columns);
        let parts = Part::cut(columns, self.mini_batch_size);
        let embeddings: Vec<Tensor<2>> = match &parts {
            None => self.embed(network, encoded, &Part::whole(columns), batch.seed)?,
            Some(parts) => {
                // Nothing is recorded: a graph that no one goes back through would stay in memory
                // until the loss's own is done with.
                let untracked = network.clone().no_grad();
                let mut columns: Vec<Vec<Tensor<2>>> = vec![Vec::new(); batch.columns.len()];
                for part in parts {
                    let found = self.embed(&untracked, encoded, part, batch.seed)?;
                    columns
                        .iter_mut()
                        .zip(found)
                        .for_each(|(column, part)| column.push(part.inner()));
                }
                columns
                    .into_iter()
                    .map(|column| Tensor::from_inner(Tensor::cat(column, 0)).require_grad())
                    .collect()
            }
        };
        let value = loss.forward(&embeddings, &batch.targets)?;
        let number = value.clone().try_into_scalar::<f32>().map_err(|e| {
            let reason = format!("step {}: the loss cannot be read: {e}", batch.step + 1);
            Error::argument("device", reason)
        })?;
        if !number.is_finite() {
            return Err(diverged("loss", batch.step, f64::from(number)));
        }
        let share = match batch.batches {
            1 => value,
            batches => value.div_scalar(batches as f64),
        };
        let mut gradients = share.backward();
        let parameters = loss
            .parameters()
            .map(|(_, parameters)| GradientsParams::from_module(&mut gradients, &parameters));
        let network = match &parts {
            None => GradientsParams::from_grads(gradients, network),
            Some(parts) => {
                let outer: Vec<Option<Tensor<2>>> = embeddings
                    .iter()
                    .map(|column| column.grad(&gradients))
                    .collect();
                let mut sum = GradientsAccumulator::new();
                for part in parts {
                    let found = self.embed(network, encoded, part, batch.seed)?;
                    let terms = found.into_iter().zip(&outer);
                    let terms = terms.filter_map(|(found, outer)| {
                        let rows = found.dims()[0];
                        let outer = outer.clone()?.narrow(0, part.first, rows);
                        Some((found * Tensor::from_inner(outer)).sum())
                    });
                    let Some(surrogate) = terms.reduce(|a, b| a + b) else {
                        continue;
                    };
                    let gradients = surrogate.backward();
                    sum.accumulate(network, GradientsParams::from_grads(gradients, network));
                }
                sum.grads()
            }
        };
        Ok(BatchGradients {
            loss: number,
            embeddings: embeddings.into_iter().map(Tensor::detach).collect(),
            network,
            parameters,
        })
    }

    /// Embeddings of the columns of a part of a batch: `[rows, dim]` each.
    fn embed(
        &self,
        network: &E::Network,
        encoded: &[E::Encoded],
        part: &Part<'_>,
        seed: u64,
    ) -> Result<Vec<Tensor<2>>> {
        let seed = part.number.map_or(seed, |part| mix(seed, part));
        self.device.seed(seed);
        let autodiff = self.device.clone().autodiff();
        part.items
            .iter()
            .enumerate()
            .map(|(column, items)| {
                let items: Vec<_> = items.iter().map(|&item| &encoded[item]).collect();
                let seed = mix(seed, column as u64);
                let batch = self.embedder.collate_training(&items, seed, &autodiff)?;
                Ok(network.embed(&batch))
            })
            .collect()
    }
}

/// Items of a batch that are embedded together.
struct Part<'a> {
    /// Number that its dropout depends on; `None` for a whole batch.
    number: Option<u64>,
    /// Row of the batch at which it begins.
    first: usize,
    /// Items of each column.
    items: Vec<&'a [usize]>,
}

impl<'a> Part<'a> {
    /// All items of the columns of a batch.
    fn whole(columns: &'a [Vec<usize>]) -> Self {
        Self {
            number: None,
            first: 0,
            items: columns.iter().map(Vec::as_slice).collect(),
        }
    }

    /// Parts of `size` rows, where that is fewer than there are.
    fn cut(columns: &'a [Vec<usize>], size: Option<usize>) -> Option<Vec<Self>> {
        let rows = columns.first().map_or(0, Vec::len);
        let size = size.filter(|&size| size < rows)?;
        let parts = (0..rows).step_by(size).enumerate();
        let part = |(number, first): (usize, usize)| Self {
            number: Some(number as u64),
            first,
            items: columns
                .iter()
                .map(|column| &column[first..(first + size).min(rows)])
                .collect(),
        };
        Some(parts.map(part).collect())
    }
}
