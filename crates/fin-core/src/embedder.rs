//! What every family has in common: items in, vectors out.
//!
//! Three layers, from the inside out. A [`Backbone`] turns a batch into features. An
//! [`EmbeddingNetwork`] is a backbone with its pooling and heads: a batch in, one vector an item
//! out; it is a Burn module and what training changes. An [`Embedder`] adds what comes before
//! the tensors (tokeniser, image transform) and the files around the weights; it is what
//! programs hold.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::batching::{BatchLimits, plan_batches};
use crate::error::{Error, Result};
use crate::weights::Names;

/// A pretrained network without its task head.
pub trait Backbone: Module {
    /// A batch of preprocessed items on a device.
    type Batch;
    /// What comes out: `Tensor<3>` `[batch, seq, hidden]` of a transformer, `Tensor<4>`
    /// `[batch, channels, height, width]` of a convolutional network.
    type Features;

    /// Width of the features: components of a token vector, channels of a feature map.
    fn hidden_size(&self) -> usize;

    /// Features of a batch, before pooling.
    fn forward(&self, batch: &Self::Batch) -> Self::Features;
}

/// A backbone with pooling and heads.
pub trait EmbeddingNetwork: Module {
    /// A batch of preprocessed items on a device.
    type Batch;

    /// Width of an embedding.
    fn output_dim(&self) -> usize;

    /// `[batch, output_dim]`.
    fn embed(&self, batch: &Self::Batch) -> Tensor<2>;

    /// Logarithm of what cosines of embeddings are multiplied by, where the network keeps it beside
    /// its weights: CLIP's `logit_scale`.
    fn logit_scale(&self) -> Option<f32> {
        None
    }

    /// With another [`EmbeddingNetwork::logit_scale`]; of no consequence where it has none.
    fn with_logit_scale(self, _logit_scale: f32) -> Self {
        self
    }
}

/// A whole embedding model: preprocessing, network, and the directory it is kept in.
pub trait Embedder: Clone + Send {
    /// What a user hands in: a text, an image path, a mesh path.
    type Item: Clone + Send + Sync;
    /// A preprocessed item, cheap to keep: token ids.
    type Encoded: Clone + Send + Sync;
    /// A batch of preprocessed items on a device.
    type Batch;
    /// The module.
    type Network: EmbeddingNetwork<Batch = Self::Batch>;

    /// Preprocesses items, in order.
    ///
    /// # Errors
    /// Where an item cannot be used; the error names it.
    fn preprocess(&self, items: &[Self::Item]) -> Result<Vec<Self::Encoded>>;

    /// Preprocesses items, in order, each with its own outcome: one that cannot be used does not
    /// keep the others from being used.
    fn preprocess_each(&self, items: &[Self::Item]) -> Vec<Result<Self::Encoded>> {
        let one = |item: &Self::Item| {
            let mut found = self.preprocess(std::slice::from_ref(item))?;
            found
                .pop()
                .ok_or_else(|| Error::argument("items", "nothing came of preprocessing one"))
        };
        items.iter().map(one).collect()
    }

    /// Number of items that [`encode`] preprocesses at a time, on a thread of its own, while those
    /// before them are embedded. Without a limit all are preprocessed first, which lets batches be
    /// made of items of similar cost.
    fn window(&self) -> usize {
        usize::MAX
    }

    /// [`Embedder::window`] for these items, where they are of more than one kind.
    fn window_for(&self, _items: &[Self::Item]) -> usize {
        self.window()
    }

    /// [`Embedder::preprocess`] for training, where items are seen more than once: it may keep less
    /// than what a batch needs and leave the rest to [`Embedder::collate_training`], or compute
    /// ahead on `device` what training does not change.
    ///
    /// # Errors
    /// As [`Embedder::preprocess`].
    fn preprocess_training(
        &self,
        items: &[Self::Item],
        _device: &Device,
    ) -> Result<Vec<Self::Encoded>> {
        self.preprocess(items)
    }

    /// Whether [`Embedder::preprocess_training`] makes the same of an item, to the bit, whatever other
    /// items it comes with, so that training can preprocess the items of a batch when it needs them.
    /// Features of what is frozen do not hold to that: they are computed for several items at once.
    fn preprocesses_alone(&self) -> bool {
        true
    }

    /// What an item costs in a batch, in the unit of [`BatchLimits::max_cost`]: tokens for text.
    fn cost(&self, item: &Self::Encoded) -> usize;

    /// Whether preprocessing cut the item to the model's maximum length.
    fn is_truncated(&self, _item: &Self::Encoded) -> bool {
        false
    }

    /// Makes a batch on a device, padding as needed.
    ///
    /// # Errors
    /// Where the items cannot be batched.
    fn collate(&self, items: &[&Self::Encoded], device: &Device) -> Result<Self::Batch>;

    /// Makes a batch for a training step of items from [`Embedder::preprocess_training`]. What is
    /// random about it, such as augmentation, is a function of `seed` and of the item's place.
    ///
    /// # Errors
    /// As [`Embedder::collate`]; where an item is read only now, the error names it.
    fn collate_training(
        &self,
        items: &[&Self::Encoded],
        _seed: u64,
        device: &Device,
    ) -> Result<Self::Batch> {
        self.collate(items, device)
    }

    /// The network.
    fn network(&self) -> &Self::Network;

    /// A network that computes the same at inference, and may do so faster: with batch
    /// normalisations taken into convolutions, say. [`encode`] runs this one.
    fn inference_network(&self) -> &Self::Network {
        self.network()
    }

    /// The same embedder around another network of the same architecture.
    fn with_network(self, network: Self::Network) -> Self;

    /// How the network's parameter paths map to upstream key names.
    fn names(&self) -> Names;

    /// Writes a model directory that opens here and in the family's reference library.
    ///
    /// # Errors
    /// [`Error::Io`]; an existing directory is then as it was before.
    fn save(&self, directory: &Path) -> Result<()>;
}

/// Embeddings of a list of items, in the list's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// Row-major `[rows, dim]`.
    pub values: Vec<f32>,
    /// Width of a row.
    pub dim: usize,
    /// Number of items that were cut to the model's maximum length.
    pub truncated: usize,
}

impl Embeddings {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.dim).unwrap_or(0)
    }

    /// One row.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }
}

/// Changes to embeddings after the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PostProcess {
    /// Keep the first N components (Matryoshka representations, Kusupati et al. 2022).
    pub dim: Option<usize>,
    /// Scale rows to unit length, after the truncation.
    pub normalize: bool,
}

impl PostProcess {
    /// Width of an embedding after the truncation of one of `dim` components.
    ///
    /// # Errors
    /// [`Error::Argument`] where more components are asked for than there are, or none.
    pub fn output_dim(self, dim: usize) -> Result<usize> {
        match self.dim {
            Some(n) if n == 0 || n > dim => Err(Error::argument(
                "dim",
                format!("{n} components asked for; the model gives 1 to {dim}"),
            )),
            Some(n) => Ok(n),
            None => Ok(dim),
        }
    }

    /// Applies both to row-major rows of `dim` components.
    ///
    /// # Errors
    /// As [`PostProcess::output_dim`].
    pub fn apply(self, values: Vec<f32>, dim: usize) -> Result<Vec<f32>> {
        let n = self.output_dim(dim)?;
        let mut values = if n == dim {
            values
        } else {
            values
                .chunks_exact(dim)
                .flat_map(|row| &row[..n])
                .copied()
                .collect()
        };
        if self.normalize {
            for row in values.chunks_exact_mut(n) {
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
                row.iter_mut().for_each(|x| *x /= norm);
            }
        }
        Ok(values)
    }
}

/// An item that could not be preprocessed.
#[derive(Debug)]
pub struct Rejected {
    /// Its place in the list.
    pub index: usize,
    /// Why; the error names the item.
    pub error: Error,
}

/// Embeds a list of items in length-sorted batches and returns rows in the list's order.
///
/// Items are preprocessed [`Embedder::window`] at a time, ahead of the network. `progress` is told
/// the number of items done after every batch.
///
/// # Errors
/// Where an item cannot be preprocessed, the first in the list's order; and
/// [`PostProcess::output_dim`]'s.
pub fn encode<E: Embedder>(
    embedder: &E,
    items: &[E::Item],
    device: &Device,
    limits: BatchLimits,
    post: PostProcess,
    progress: impl FnMut(usize),
) -> Result<Embeddings> {
    if items.len() <= embedder.window_for(items) {
        let encoded = embedder.preprocess(items)?;
        return encode_preprocessed(embedder, &encoded, device, limits, post, progress);
    }
    let preprocess = |embedder: &E, window: &[E::Item]| embedder.preprocess(window);
    let outcome = |found: Result<Vec<E::Encoded>>, _, _: &mut Vec<Rejected>| found;
    let found = encode_windows(
        embedder, items, device, limits, post, progress, preprocess, outcome,
    )?;
    Ok(found.0)
}

/// [`encode`] without the items that cannot be preprocessed. They have no row, and are listed
/// beside the embeddings, in order.
///
/// # Errors
/// [`PostProcess::output_dim`]'s.
pub fn encode_each<E: Embedder>(
    embedder: &E,
    items: &[E::Item],
    device: &Device,
    limits: BatchLimits,
    post: PostProcess,
    progress: impl FnMut(usize),
) -> Result<(Embeddings, Vec<Rejected>)> {
    let preprocess = |embedder: &E, window: &[E::Item]| embedder.preprocess_each(window);
    let outcome = |found: Vec<Result<E::Encoded>>, first: usize, rejected: &mut Vec<Rejected>| {
        let mut usable = Vec::with_capacity(found.len());
        for (i, item) in found.into_iter().enumerate() {
            match item {
                Ok(item) => usable.push(item),
                Err(error) => rejected.push(Rejected {
                    index: first + i,
                    error,
                }),
            }
        }
        Ok(usable)
    };
    encode_windows(
        embedder, items, device, limits, post, progress, preprocess, outcome,
    )
}

/// Runs `preprocess` over windows of the items on a thread of its own, at most one window ahead of
/// the network, and `outcome` over what it gives: the items to embed, of a window that begins at
/// the place that it is told.
#[allow(clippy::too_many_arguments)]
fn encode_windows<E: Embedder, P: Send>(
    embedder: &E,
    items: &[E::Item],
    device: &Device,
    limits: BatchLimits,
    post: PostProcess,
    mut progress: impl FnMut(usize),
    preprocess: impl Fn(&E, &[E::Item]) -> P + Send,
    mut outcome: impl FnMut(P, usize, &mut Vec<Rejected>) -> Result<Vec<E::Encoded>>,
) -> Result<(Embeddings, Vec<Rejected>)> {
    let window = embedder.window_for(items).max(1);
    let mut all = Embeddings {
        values: Vec::new(),
        dim: post.output_dim(embedder.inference_network().output_dim())?,
        truncated: 0,
    };
    let mut rejected = Vec::new();
    let worker = embedder.clone();
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel(0);
        scope.spawn(move || {
            for window in items.chunks(window) {
                // The other side is gone after an error.
                if sender.send(preprocess(&worker, window)).is_err() {
                    break;
                }
            }
        });
        for (i, found) in receiver.into_iter().enumerate() {
            let first = i.saturating_mul(window);
            let before = rejected.len();
            let encoded = outcome(found, first, &mut rejected)?;
            let done = first - before;
            let told = |n: usize| progress(done + n);
            let found = encode_preprocessed(embedder, &encoded, device, limits, post, told)?;
            all.values.extend(found.values);
            all.truncated += found.truncated;
        }
        Ok(())
    })
    .map(|()| (all, rejected))
}

/// [`encode`] for items that are preprocessed already.
///
/// # Errors
/// As [`encode`].
pub fn encode_preprocessed<E: Embedder>(
    embedder: &E,
    encoded: &[E::Encoded],
    device: &Device,
    limits: BatchLimits,
    post: PostProcess,
    mut progress: impl FnMut(usize),
) -> Result<Embeddings> {
    let network = embedder.inference_network();
    let full = network.output_dim();
    let dim = post.output_dim(full)?;
    let truncated = encoded
        .iter()
        .filter(|item| embedder.is_truncated(item))
        .count();
    let costs: Vec<usize> = encoded.iter().map(|item| embedder.cost(item)).collect();
    let mut values = vec![0.0f32; encoded.len() * dim];
    let mut done = 0;
    for indices in plan_batches(&costs, limits) {
        let items: Vec<&E::Encoded> = indices.iter().map(|&i| &encoded[i]).collect();
        let batch = embedder.collate(&items, device)?;
        let rows = network
            .embed(&batch)
            .into_data()
            .convert::<f32>()
            .try_into_vec::<f32>();
        let rows = rows.map_err(|e| {
            Error::argument("device", format!("embeddings cannot be read back: {e:?}"))
        })?;
        let rows = post.apply(rows, full)?;
        for (row, &i) in rows.chunks_exact(dim).zip(&indices) {
            values[i * dim..(i + 1) * dim].copy_from_slice(row);
        }
        done += indices.len();
        progress(done);
    }
    Ok(Embeddings {
        values,
        dim,
        truncated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_comes_before_normalisation() {
        let post = PostProcess {
            dim: Some(2),
            normalize: true,
        };
        assert_eq!(post.apply(vec![3.0, 4.0, 12.0], 3).unwrap(), [0.6, 0.8]);
        let error = PostProcess {
            dim: Some(4),
            normalize: false,
        }
        .apply(vec![0.0; 3], 3)
        .unwrap_err();
        assert!(error.to_string().contains("1 to 3"));
    }
}
