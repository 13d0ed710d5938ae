//! What losses on labelled items share: pairs and triplets of a batch, and a miner in front.

use std::fmt;

use burn::tensor::{Device, Int, Tensor, TensorData};
use fin_core::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ops::{distances, normalize_rows, squared_distances};
use super::{ExpectedData, Loss, LossParameters, LossShape, Memory, check_batch};
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

    /// Why it cannot compare a batch with earlier ones, where it cannot.
    fn refuses_memory(&self) -> Option<&'static str> {
        None
    }

    /// Name in files and initial values of parameters of its own for this many classes, a column, if
    /// it has any; [`LabelledBatch::parameters`] are what becomes of them.
    fn initial(&self, _classes: usize) -> Option<(&'static str, Vec<f32>)> {
        None
    }

    /// The loss of a batch: `[1]`.
    fn compute(&self, batch: &LabelledBatch<'_>) -> Tensor<1>;
}

/// A loss on labelled items, over all pairs or triplets of a batch or those that a miner selects.
///
/// By name, the miner is the option `miner` beside the loss's own: a name, or an object with
/// `name` and the miner's options. The option `memory` is the size of a [`Memory`] of earlier batches,
/// which the items of a batch are then compared with.
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
    memory: Option<Memory>,
    parameters: Option<LossParameters>,
}

impl<L: LabelledLoss> Labelled<L> {
    /// Over all pairs or triplets.
    pub fn new(loss: L) -> Self {
        Self {
            loss,
            miner: None,
            memory: None,
            parameters: None,
        }
    }

    /// Over those that this miner selects.
    pub fn with_miner(mut self, miner: Box<dyn Miner>) -> Self {
        self.miner = Some(miner);
        self
    }

    /// Over pairs or triplets of an item of the batch and the newest `size` items, the batch's own
    /// being among them.
    ///
    /// # Errors
    /// [`Error::Argument`] where the size is 0, or the loss is none over pairs with others.
    pub fn with_memory(mut self, size: usize) -> Result<Self> {
        if let Some(reason) = self.loss.refuses_memory() {
            let reason = format!("`{}` does not go with it: {reason}", L::NAME);
            return Err(Error::argument("memory", reason));
        }
        self.memory = Some(Memory::new(size)?);
        Ok(self)
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let (mut options, miner) = split_miner(options)?;
        let memory = options.remove("memory").filter(|value| !value.is_null());
        let loss: L = registry::parse(L::NAME, &options)?;
        loss.validate()?;
        let made = Self {
            miner,
            ..Self::new(loss)
        };
        match memory {
            None => Ok(made),
            Some(value) => match value.as_u64().and_then(|size| usize::try_from(size).ok()) {
                Some(size) => made.with_memory(size),
                None => {
                    let reason = format!("{value} is not a number of items");
                    Err(Error::argument("memory", reason))
                }
            },
        }
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
        let mut options = join_miner(registry::to_options(&self.loss), self.miner.as_deref());
        if let Some(memory) = &self.memory {
            options.insert("memory".into(), memory.size().into());
        }
        options
    }

    fn accepts(&self) -> ExpectedData {
        LABELLED
    }

    fn default_sampler(&self) -> &'static str {
        "class_balanced"
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        check_batch(self, embeddings, targets)?;
        let (miner, memory) = (self.miner.as_deref(), self.memory.as_ref());
        let mut batch = LabelledBatch::new(&embeddings[0], targets, miner, memory)?;
        if self.has_parameters() {
            let Some(parameters) = &self.parameters else {
                let reason = format!("`{}` was not prepared for a data set", L::NAME);
                return Err(Error::argument("loss", reason));
            };
            let [rows, _] = parameters.weight().dims();
            if let Some(label) = batch
                .labels()
                .iter()
                .find(|label| rows > 1 && **label >= rows)
            {
                let reason = format!("label {label} is not one of {rows} classes");
                return Err(Error::argument("batch", reason));
            }
            batch.parameters = Some(parameters.weight());
        }
        Ok(self.loss.compute(&batch))
    }

    fn has_parameters(&self) -> bool {
        self.loss.initial(1).is_some()
    }

    fn prepare(&mut self, shape: &LossShape) -> Result<()> {
        if self.has_parameters() && shape.classes == 0 {
            return Err(Error::argument("dataset", "has no classes"));
        }
        self.parameters = self.loss.initial(shape.classes).map(|(_, values)| {
            let rows = values.len();
            let data = TensorData::new(values, [rows, 1]);
            LossParameters::new(Tensor::from_data(data, &shape.device))
        });
        Ok(())
    }

    fn parameters(&self) -> Option<(&'static str, LossParameters)> {
        let (name, _) = self.loss.initial(1)?;
        Some((name, self.parameters.clone()?))
    }

    fn set_parameters(&mut self, parameters: LossParameters) {
        if self.has_parameters() {
            self.parameters = Some(parameters);
        }
    }

    fn observe(&mut self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<()> {
        if let (Some(memory), [embeddings], BatchTargets::Labels(labels)) =
            (&mut self.memory, embeddings, targets)
        {
            memory.push(&read(embeddings)?, labels)?;
        }
        Ok(())
    }

    fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    fn set_memory(&mut self, memory: Memory) {
        if self.memory.is_some() {
            self.memory = Some(memory);
        }
    }
}

/// The values of embeddings, row-major.
fn read(embeddings: &Tensor<2>) -> Result<Vec<f32>> {
    let unread = |reason: String| {
        let reason = format!("embeddings cannot be read back: {reason}");
        Error::argument("device", reason)
    };
    let data = embeddings.clone().detach().try_into_data();
    data.map_err(|e| unread(e.to_string()))?
        .convert::<f32>()
        .try_into_vec()
        .map_err(|e| unread(format!("{e:?}")))
}

/// Embeddings of a batch with their labels and, where a miner is used, its selection. Items are
/// compared with each other, or with those of a [`Memory`].
#[derive(Debug)]
pub struct LabelledBatch<'a> {
    embeddings: Tensor<2>,
    labels: &'a [usize],
    others: Option<(Tensor<2>, Vec<usize>)>,
    mined: Option<Mined>,
    parameters: Option<Tensor<2>>,
}

/// How often each pair counts, `[batch, others]` with anchors as rows; without a memory, the others
/// are the batch.
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
        memory: Option<&Memory>,
    ) -> Result<Self> {
        let labels: &[usize] = match targets {
            BatchTargets::Labels(labels) => labels,
            // Refused by `check_batch`.
            _ => &[],
        };
        let (device, [_, dim]) = (embeddings.device(), embeddings.dims());
        let values = match (miner, memory) {
            (None, None) => Vec::new(),
            _ => read(embeddings)?,
        };
        // The batch is in the memory before it is compared with it.
        let pushed = match memory {
            None => None,
            Some(memory) => {
                let mut memory = memory.clone();
                let own = memory.push(&values, labels)?;
                Some((memory, own))
            }
        };
        let mined = match (miner, &pushed) {
            (None, None) => None,
            (None, Some((memory, own))) => {
                Some(Mined::pairs_with(labels, memory.labels()).without_own(own))
            }
            (Some(miner), pushed) => {
                let batch = MinerBatch::new(&values, dim, labels)?.on(&device);
                Some(match pushed {
                    None => miner.mine(&batch)?,
                    Some((memory, own)) => {
                        let batch = batch.against(memory.values(), memory.labels())?;
                        miner.mine(&batch)?.without_own(own)
                    }
                })
            }
        };
        let others = pushed.map(|(memory, _)| {
            let data = TensorData::new(memory.values().to_vec(), [memory.len(), dim]);
            (Tensor::from_data(data, &device), memory.labels().to_vec())
        });
        Ok(Self {
            embeddings: embeddings.clone(),
            labels,
            others,
            mined,
            parameters: None,
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

    /// The embeddings that those of the batch are compared with, as they are: `[others, dim]`.
    pub fn others(&self) -> Tensor<2> {
        match &self.others {
            None => self.embeddings(),
            Some((embeddings, _)) => embeddings.clone(),
        }
    }

    /// A class an item of [`LabelledBatch::others`].
    pub fn other_labels(&self) -> &[usize] {
        match &self.others {
            None => self.labels,
            Some((_, labels)) => labels,
        }
    }

    /// The parameters of the loss, as in [`LabelledLoss::initial`]: `[rows, 1]`.
    pub fn parameters(&self) -> Option<Tensor<2>> {
        self.parameters.clone()
    }

    /// The device of the embeddings.
    pub fn device(&self) -> Device {
        self.embeddings.device()
    }

    /// The embeddings scaled to unit length: `[batch, dim]`.
    pub fn unit(&self) -> Tensor<2> {
        normalize_rows(self.embeddings(), EPS)
    }

    /// [`LabelledBatch::unit`] and [`LabelledBatch::others`] scaled to unit length.
    pub fn both_unit(&self) -> (Tensor<2>, Tensor<2>) {
        let unit = self.unit();
        let others = match &self.others {
            None => unit.clone(),
            Some((others, _)) => normalize_rows(others.clone(), EPS),
        };
        (unit, others)
    }

    /// Cosine similarities: `[batch, others]`.
    pub fn cosines(&self) -> Tensor<2> {
        let (unit, others) = self.both_unit();
        unit.matmul(others.transpose())
    }

    /// Euclidean distances of vectors of unit length: `[batch, others]`. The gradient of a distance
    /// of 0 is 0.
    pub fn distances(&self) -> Tensor<2> {
        let (unit, others) = self.both_unit();
        distances(unit, others)
    }

    /// Squares of [`LabelledBatch::distances`].
    pub fn squared_distances(&self) -> Tensor<2> {
        let (unit, others) = self.both_unit();
        squared_distances(unit, others)
    }

    /// A loss of 0 whose gradients are 0, and NaN where an embedding is not finite.
    pub fn zero(&self) -> Tensor<1> {
        let zero = self.embeddings().mul_scalar(0.0).sum();
        match self.parameters() {
            None => zero,
            Some(parameters) => zero + parameters.mul_scalar(0.0).sum(),
        }
    }

    /// The selection of the miner, if there is one; with a memory, all pairs where there is none.
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
        let (mut positive, mut negative) = self.pair_lists();
        // As in the reference, a selection of at most one pair of either kind is none.
        if positive.len() <= 1 && negative.len() <= 1 {
            positive.clear();
            negative.clear();
        }
        self.count(&positive, &negative)
    }

    /// How often each pair is in these lists.
    pub fn count(&self, positive: &[[usize; 2]], negative: &[[usize; 2]]) -> PairCounts {
        self.counts(positive, negative, |_| 1, |_| 1)
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
        let (positive, negative) = self.pair_lists();
        if let Some(Mined::Triplets(_)) = &self.mined {
            return self.count(&positive, &negative);
        }
        // Triplets are every positive pair with every negative one of its anchor.
        let per_anchor = |pairs: &[[usize; 2]]| {
            let mut counts = vec![0; self.len()];
            pairs.iter().for_each(|&[a, _]| counts[a] += 1);
            counts
        };
        let (positives, negatives) = (per_anchor(&positive), per_anchor(&negative));
        self.counts(&positive, &negative, |a| negatives[a], |a| positives[a])
    }

    /// The pairs, each counted as often as the functions of its anchor say.
    fn counts(
        &self,
        positive: &[[usize; 2]],
        negative: &[[usize; 2]],
        positive_times: impl Fn(usize) -> usize,
        negative_times: impl Fn(usize) -> usize,
    ) -> PairCounts {
        let shape = [self.len(), self.other_labels().len()];
        let matrix = |pairs: &[[usize; 2]], times: &dyn Fn(usize) -> usize| {
            let (mut values, mut sum) = (vec![0.0f32; shape[0] * shape[1]], 0);
            for &[a, b] in pairs {
                values[a * shape[1] + b] += times(a) as f32;
                sum += times(a);
            }
            let data = TensorData::new(values, shape);
            (Tensor::<2>::from_data(data, &self.device()), sum)
        };
        let (positive, positives) = matrix(positive, &positive_times);
        let (negative, negatives) = matrix(negative, &negative_times);
        PairCounts {
            positive,
            negative,
            positives,
            negatives,
        }
    }

    /// A weight an item, `[batch]`: how often it is selected against the one selected most, as an
    /// anchor where others are of a memory; `None` without a miner.
    pub fn weights(&self) -> Option<Tensor<1>> {
        match &self.others {
            None => Some(self.row(self.mined.as_ref()?.weights(self.len()))),
            Some(_) => self.anchor_weights(),
        }
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
