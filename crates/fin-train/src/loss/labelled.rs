//! What losses on labelled items share: pairs and triplets of a batch, and a miner in front.

use std::fmt;

use burn::tensor::{Device, Int, Tensor, TensorData};
use fin_core::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ops::{distances, normalize_rows, squared_distances};
use super::{ExpectedData, Loss, check_batch};
use crate::dataset::{BatchTargets, TargetKind};
use crate::miner::{self, Mined, Miner, MinerBatch};
use crate::registry::{self, Options};

/// Smallest norm a vector is divided by, as in `torch.nn.functional.normalize`.
pub(super) const EPS: f64 = 1e-12;

/// A loss over pairs or triplets of items with a label each; [`Labelled`] makes it a [`Loss`].
pub trait LabelledLoss:
    fmt::Debug + Send + Default + Serialize + DeserializeOwned + 'static
{
    /// Name in configuration files.
    const NAME: &'static str;

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Argument`] names the option.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// The loss of a batch: `[1]`.
    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1>;
}

/// A loss on labelled items, over all pairs or triplets of a batch or those that a miner selects.
///
/// By name, the miner is the option `miner` beside the loss's own: a name, or an object with
/// `name` and the miner's options.
///
/// ```
/// use fin_train::loss::{Labelled, TripletMarginLoss};
/// use fin_train::miner::BatchHardMiner;
///
/// let loss = TripletMarginLoss::new(0.2, false)?;
/// let loss = Labelled::new(loss).with_miner(Box::new(BatchHardMiner::default()));
/// # Ok::<(), fin_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Labelled<L> {
    loss: L,
    miner: Option<Box<dyn Miner>>,
}

impl<L: LabelledLoss> Labelled<L> {
    /// Over all pairs or triplets.
    pub fn new(loss: L) -> Self {
        Self { loss, miner: None }
    }

    /// Over those that this miner selects.
    pub fn with_miner(mut self, miner: Box<dyn Miner>) -> Self {
        self.miner = Some(miner);
        self
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let (options, miner) = split_miner(options)?;
        let loss: L = registry::parse(L::NAME, &options)?;
        loss.validate()?;
        Ok(Self { loss, miner })
    }
}

/// Takes the option `miner` out of a loss's options.
pub(super) fn split_miner(options: &Options) -> Result<(Options, Option<Box<dyn Miner>>)> {
    let mut options = options.clone();
    let miner = match options.remove("miner") {
        None | Some(Value::Null) => None,
        Some(value) => Some(miner::from_value(&value)?),
    };
    Ok((options, miner))
}

/// The reverse of [`split_miner`]; without a miner the option is left out.
pub(super) fn join_miner(mut options: Options, miner: Option<&dyn Miner>) -> Options {
    if let Some(miner) = miner {
        options.insert("miner".into(), miner::to_value(miner));
    }
    options
}

/// The data of every loss on labelled items.
pub(super) const LABELLED: ExpectedData = ExpectedData {
    min_columns: 1,
    max_columns: Some(1),
    targets: TargetKind::Labels,
    roles: "item",
};

impl<L: LabelledLoss> Loss for Labelled<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn options(&self) -> Options {
        join_miner(registry::to_options(&self.loss), self.miner.as_deref())
    }

    fn accepts(&self) -> ExpectedData {
        LABELLED
    }

    fn default_sampler(&self) -> &'static str {
        "class_balanced"
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        check_batch(self, embeddings, targets)?;
        let batch = LabelledBatch::new(&embeddings[0], targets, self.miner.as_deref())?;
        Ok(self.loss.compute(&batch))
    }
}

/// Embeddings of a batch with their labels and, where a miner is used, its selection.
#[derive(Debug)]
pub struct LabelledBatch<'a> {
    embeddings: Tensor<2>,
    labels: &'a [usize],
    mined: Option<Mined>,
}

/// How often each pair counts, `[batch, batch]` with anchors as rows.
#[derive(Debug, Clone)]
pub struct PairCounts {
    /// Pairs of one class.
    pub positive: Tensor<2>,
    /// Pairs of two classes.
    pub negative: Tensor<2>,
    /// Sum of the former.
    pub positives: usize,
    /// Sum of the latter.
    pub negatives: usize,
}

impl<'a> LabelledBatch<'a> {
    /// Of embeddings `[batch, dim]` whose targets are labels.
    ///
    /// # Errors
    /// [`Error::Argument`] where the embeddings cannot be read back for the miner; those of the
    /// miner.
    pub(super) fn new(
        embeddings: &Tensor<2>,
        targets: &'a BatchTargets,
        miner: Option<&dyn Miner>,
    ) -> Result<Self> {
        let labels: &[usize] = match targets {
            BatchTargets::Labels(labels) => labels,
            // Refused by `check_batch`.
            _ => &[],
        };
        let mined = match miner {
            None => None,
            Some(miner) => {
                let unread = |reason: String| {
                    Error::argument(
                        "device",
                        format!("embeddings cannot be read back: {reason}"),
                    )
                };
                let data = embeddings.clone().detach().try_into_data();
                let values: Vec<f32> = data
                    .map_err(|e| unread(e.to_string()))?
                    .convert::<f32>()
                    .try_into_vec()
                    .map_err(|e| unread(format!("{e:?}")))?;
                let device = embeddings.device();
                let batch = MinerBatch::new(&values, embeddings.dims()[1], labels)?.on(&device);
                Some(miner.mine(&batch)?)
            }
        };
        Ok(Self {
            embeddings: embeddings.clone(),
            labels,
            mined,
        })
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The embeddings as they are: `[batch, dim]`.
    pub fn embeddings(&self) -> Tensor<2> {
        self.embeddings.clone()
    }

    /// A class an item.
    pub fn labels(&self) -> &'a [usize] {
        self.labels
    }

    /// The device of the embeddings.
    pub fn device(&self) -> Device {
        self.embeddings.device()
    }

    /// The embeddings scaled to unit length: `[batch, dim]`.
    pub fn unit(&self) -> Tensor<2> {
        normalize_rows(self.embeddings(), EPS)
    }

    /// Cosine similarities: `[batch, batch]`.
    pub fn cosines(&self) -> Tensor<2> {
        let unit = self.unit();
        unit.clone().matmul(unit.transpose())
    }

    /// Euclidean distances of vectors of unit length: `[batch, batch]`. The gradient of a distance
    /// of 0 is 0.
    pub fn distances(&self) -> Tensor<2> {
        distances(self.unit())
    }

    /// Squares of [`LabelledBatch::distances`].
    pub fn squared_distances(&self) -> Tensor<2> {
        squared_distances(self.unit())
    }

    /// A loss of 0 whose gradient is 0, and NaN where an embedding is not finite.
    pub fn zero(&self) -> Tensor<1> {
        self.embeddings().mul_scalar(0.0).sum()
    }

    /// The selection of the miner, if there is one.
    pub fn mined(&self) -> Option<&Mined> {
        self.mined.as_ref()
    }

    /// Positive and negative pairs: those selected, or all.
    pub fn pair_lists(&self) -> (Vec<[usize; 2]>, Vec<[usize; 2]>) {
        match &self.mined {
            Some(mined) => mined.pairs(),
            None => Mined::all_pairs(self.labels).pairs(),
        }
    }

    /// How often each pair is selected, or once each.
    pub fn pairs(&self) -> PairCounts {
        let (positive, negative) = self.pair_lists();
        self.count(&positive, &negative)
    }

    /// How often each pair is in these lists.
    pub fn count(&self, positive: &[[usize; 2]], negative: &[[usize; 2]]) -> PairCounts {
        self.counts(positive, negative, |_| 1)
    }

    /// [`LabelledBatch::pairs`], every pair that is selected being counted once.
    pub fn pair_masks(&self) -> PairCounts {
        let pairs = self.pairs();
        PairCounts {
            positive: pairs.positive.sign(),
            negative: pairs.negative.sign(),
            ..pairs
        }
    }

    /// In how many triplets each pair of an anchor and another item is.
    pub fn pairs_in_triplets(&self) -> PairCounts {
        match &self.mined {
            Some(mined) => {
                let (positive, negative) = Mined::Triplets(mined.triplets()).pairs();
                self.count(&positive, &negative)
            }
            None => {
                let (positive, negative) = Mined::all_pairs(self.labels).pairs();
                let count = |pairs: &[[usize; 2]], a: usize| {
                    pairs.iter().filter(|pair| pair[0] == a).count()
                };
                let per_anchor: Vec<[usize; 2]> = (0..self.len())
                    .map(|a| [count(&positive, a), count(&negative, a)])
                    .collect();
                self.counts(&positive, &negative, |[a, other]| {
                    let same = self.labels[a] == self.labels[other];
                    per_anchor[a][usize::from(same)]
                })
            }
        }
    }

    fn counts(
        &self,
        positive: &[[usize; 2]],
        negative: &[[usize; 2]],
        times: impl Fn([usize; 2]) -> usize,
    ) -> PairCounts {
        let len = self.len();
        let matrix = |pairs: &[[usize; 2]]| {
            let (mut values, mut sum) = (vec![0.0f32; len * len], 0);
            for &[a, b] in pairs {
                let times = times([a, b]);
                values[a * len + b] += times as f32;
                sum += times;
            }
            let data = TensorData::new(values, [len, len]);
            (Tensor::<2>::from_data(data, &self.device()), sum)
        };
        let ((positive, positives), (negative, negatives)) = (matrix(positive), matrix(negative));
        PairCounts {
            positive,
            negative,
            positives,
            negatives,
        }
    }

    /// A weight an item, `[batch]`: how often it is selected against the one selected most; `None`
    /// without a miner.
    pub fn weights(&self) -> Option<Tensor<1>> {
        Some(self.row(self.mined.as_ref()?.weights(self.len())))
    }

    /// [`LabelledBatch::weights`] by how often each item is selected as an anchor.
    pub fn anchor_weights(&self) -> Option<Tensor<1>> {
        Some(self.row(self.mined.as_ref()?.anchor_weights(self.len())))
    }

    fn row(&self, values: Vec<f32>) -> Tensor<1> {
        let data = TensorData::new(values, [self.len()]);
        Tensor::from_data(data, &self.device())
    }

    /// Indices as a tensor.
    pub fn indices(&self, indices: impl Iterator<Item = usize>) -> Tensor<1, Int> {
        let indices: Vec<i64> = indices.map(|i| i as i64).collect();
        let len = indices.len();
        Tensor::from_data(TensorData::new(indices, [len]), &self.device())
    }
}
