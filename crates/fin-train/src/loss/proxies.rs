//! What losses with a vector or more of their own for every class share.

use std::f64::consts::TAU;
use std::fmt;
use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use fin_core::weights::{self, Checkpoint};
use fin_core::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::labelled::{EPS, LABELLED, LabelledBatch, join_miner, split_miner};
use super::ops::normalize_rows;
use super::{ExpectedData, Loss, check_batch};
use crate::dataset::BatchTargets;
use crate::miner::Miner;
use crate::registry::{self, Options};

/// What a loss with parameters of its own is made for.
#[derive(Debug, Clone)]
pub struct LossShape {
    /// Number of classes in the data set; 0 where it has no labels.
    pub classes: usize,
    /// Width of an embedding.
    pub dim: usize,
    /// Logarithm of what the network's cosines are multiplied by, where it keeps one.
    pub logit_scale: Option<f32>,
    /// Seed of the initial values, which are the same on every device.
    pub seed: u64,
    /// Where they go.
    pub device: Device,
}

/// Parameters of a loss: one matrix.
#[derive(Module, Debug)]
pub struct LossParameters {
    weight: Param<Tensor<2>>,
}

impl LossParameters {
    /// Of these values.
    pub fn new(weight: Tensor<2>) -> Self {
        Self {
            weight: Param::from_tensor(weight),
        }
    }

    /// The matrix, in the layout that the loss documents.
    pub fn weight(&self) -> Tensor<2> {
        self.weight.val()
    }

    /// With every value between these bounds; what is trained stays so.
    pub(crate) fn clamped(self, (min, max): (f64, f64)) -> Self {
        let (id, weight, mapper) = self.weight.consume();
        let trained = weight.is_require_grad();
        let weight = match trained {
            true => Tensor::from_inner(weight.inner().clamp(min, max)).require_grad(),
            false => weight.clamp(min, max),
        };
        Self {
            weight: Param::from_mapped_value(id, weight, mapper),
        }
    }

    /// Writes the matrix as safetensors under the name that the reference library has for it.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Argument`] where the values cannot be read back or written.
    pub(crate) fn save(&self, name: &str, path: &Path) -> Result<()> {
        let weight = self.weight().detach();
        let shape = weight.dims().to_vec();
        let values = weight
            .into_data()
            .convert::<f32>()
            .try_into_vec()
            .map_err(|e| {
                let reason = format!("parameters of the loss cannot be read back: {e:?}");
                Error::argument("device", reason)
            })?;
        weights::save(path, &[(name.to_string(), shape, values)])
    }

    /// Reads what [`LossParameters::save`] wrote, for a loss whose matrix has the shape of `self`.
    ///
    /// # Errors
    /// Those of opening the file; [`Error::MissingTensors`] or [`Error::ShapeMismatch`] where it
    /// is of another loss or data set.
    pub(crate) fn load(&self, name: &str, path: &Path, device: &Device) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let values = file.read_f32(name)?;
        let found = file.get(name).map(|entry| entry.shape().to_vec());
        let shape = self.weight.lazy_shape().to_vec();
        if found.as_ref() != Some(&shape) {
            return Err(Error::ShapeMismatch {
                path: path.to_path_buf(),
                tensor: name.to_string(),
                expected: shape,
                found: found.unwrap_or_default(),
            });
        }
        Ok(Self::new(Tensor::from_data(
            TensorData::new(values, shape),
            device,
        )))
    }
}

/// How the parameters of a loss begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// Normal, with this standard deviation.
    Normal(f64),
    /// Even between the negative of this bound and the bound.
    Uniform(f64),
}

/// A loss that compares items with vectors of its own for the classes; [`WithProxies`] makes it a
/// [`Loss`].
pub trait ProxyLoss: fmt::Debug + Send + Default + Serialize + DeserializeOwned + 'static {
    /// Name in configuration files.
    const NAME: &'static str;

    /// Name of the matrix in files, that of the reference library.
    const WEIGHT: &'static str;

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Argument`] names the option.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Shape of the matrix for this many classes and embeddings of this width, and how it begins.
    fn initial(&self, classes: usize, dim: usize) -> ([usize; 2], Initial);

    /// The loss of a batch: `[1]`.
    fn compute(&self, weight: Tensor<2>, batch: &LabelledBatch<'_>) -> Tensor<1>;
}

/// A loss with parameters of its own, which are made for a data set by [`Loss::prepare`] and
/// trained beside the network. A miner's selection weights the items.
#[derive(Debug)]
pub struct WithProxies<L> {
    loss: L,
    miner: Option<Box<dyn Miner>>,
    parameters: Option<(usize, LossParameters)>,
}

impl<L: ProxyLoss> WithProxies<L> {
    /// Without parameters yet.
    pub fn new(loss: L) -> Self {
        Self {
            loss,
            miner: None,
            parameters: None,
        }
    }

    /// With items weighted by how often this miner selects them.
    pub fn with_miner(mut self, miner: Box<dyn Miner>) -> Self {
        self.miner = Some(miner);
        self
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let (options, miner) = split_miner(options)?;
        if options.contains_key("memory") {
            let reason = format!(
                "`{}` does not go with it: it compares items with vectors of the classes, not with \
                 each other",
                L::NAME
            );
            return Err(Error::argument("memory", reason));
        }
        let loss: L = registry::parse(L::NAME, &options)?;
        loss.validate()?;
        Ok(Self {
            miner,
            ..Self::new(loss)
        })
    }
}

impl<L: ProxyLoss> Loss for WithProxies<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn options(&self) -> Options {
        join_miner(registry::to_options(&self.loss), self.miner.as_deref())
    }

    fn accepts(&self) -> ExpectedData {
        LABELLED
    }

    fn forward(&self, embeddings: &[Tensor<2>], targets: &BatchTargets) -> Result<Tensor<1>> {
        let [_, dim] = check_batch(self, embeddings, targets)?;
        let Some((classes, parameters)) = &self.parameters else {
            let reason = format!("`{}` was not prepared for a data set", L::NAME);
            return Err(Error::argument("loss", reason));
        };
        let batch = LabelledBatch::new(&embeddings[0], targets, self.miner.as_deref(), None)?;
        if let Some(label) = batch.labels().iter().find(|label| *label >= classes) {
            let reason = format!("label {label} is not one of {classes} classes");
            return Err(Error::argument("batch", reason));
        }
        let weight = parameters.weight();
        let (shape, _) = self.loss.initial(*classes, dim);
        if weight.dims() != shape {
            let reason = format!(
                "embeddings of width {dim} need parameters of shape {shape:?}, the loss has {:?}",
                weight.dims()
            );
            return Err(Error::argument("batch", reason));
        }
        Ok(self.loss.compute(weight, &batch))
    }

    fn has_parameters(&self) -> bool {
        true
    }

    fn prepare(&mut self, shape: &LossShape) -> Result<()> {
        if shape.classes == 0 {
            return Err(Error::argument("dataset", "has no classes"));
        }
        let (dims, initial) = self.loss.initial(shape.classes, shape.dim);
        let mut rng = ChaCha8Rng::seed_from_u64(shape.seed);
        let values: Vec<f32> = (0..dims[0] * dims[1])
            .map(|_| match initial {
                // Box and Muller 1958.
                Initial::Normal(deviation) => {
                    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
                    (deviation * radius * (TAU * rng.random::<f64>()).cos()) as f32
                }
                Initial::Uniform(bound) => (bound * (2.0 * rng.random::<f64>() - 1.0)) as f32,
            })
            .collect();
        let weight = Tensor::from_data(TensorData::new(values, dims), &shape.device);
        self.parameters = Some((shape.classes, LossParameters::new(weight)));
        Ok(())
    }

    fn parameters(&self) -> Option<(&'static str, LossParameters)> {
        let (_, parameters) = self.parameters.as_ref()?;
        Some((L::WEIGHT, parameters.clone()))
    }

    fn set_parameters(&mut self, new: LossParameters) {
        if let Some((_, parameters)) = &mut self.parameters {
            *parameters = new;
        }
    }
}

/// Rows of a matrix scaled to unit length.
pub(super) fn unit(x: Tensor<2>) -> Tensor<2> {
    normalize_rows(x, EPS)
}

/// 1 at the class of every item, else 0: `[batch, classes]`.
pub(super) fn one_hot(batch: &LabelledBatch<'_>, classes: usize) -> Tensor<2> {
    let mut values = vec![0.0f32; batch.len() * classes];
    for (row, &label) in batch.labels().iter().enumerate() {
        values[row * classes + label] = 1.0;
    }
    let data = TensorData::new(values, [batch.len(), classes]);
    Tensor::from_data(data, &batch.device())
}

/// Mean cross-entropy of logits `[batch, classes]`, each item being weighted by
/// [`LabelledBatch::weights`] where a miner is used.
pub(super) fn cross_entropy(logits: Tensor<2>, batch: &LabelledBatch<'_>) -> Tensor<1> {
    weighted_cross_entropy(logits, batch, batch.weights())
}

/// Mean cross-entropy of logits `[batch, classes]`, each item being weighted where there are
/// weights.
pub(super) fn weighted_cross_entropy(
    logits: Tensor<2>,
    batch: &LabelledBatch<'_>,
    weights: Option<Tensor<1>>,
) -> Tensor<1> {
    let [len, classes] = logits.dims();
    let own = (log_softmax(logits, 1) * one_hot(batch, classes)).sum_dim(1);
    let own = match weights {
        Some(weights) => own * weights.reshape([len, 1]),
        None => own,
    };
    own.mean().neg()
}

/// Softmax over the cosines of items and columns of `weight`, with another value in place of the
/// cosine of the item's own class and logits scaled by `scale`.
pub(super) fn large_margin_softmax(
    weight: Tensor<2>,
    batch: &LabelledBatch<'_>,
    own: impl FnOnce(Tensor<2>) -> Tensor<2>,
    scale: impl FnOnce(Tensor<2>) -> Tensor<2>,
) -> Tensor<1> {
    let cosines = batch.unit().matmul(unit(weight.transpose()).transpose());
    let mask = one_hot(batch, cosines.dims()[1]);
    let cosine = (cosines.clone() * mask.clone()).sum_dim(1);
    let changed = own(cosine.clone()) - cosine;
    cross_entropy(scale(cosines + mask * changed), batch)
}
