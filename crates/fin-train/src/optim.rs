//! AdamW with decoupled weight decay, and clipping by the global norm.
//!
//! Burn's own optimisers key their state by parameter identifiers that a freshly opened model
//! does not share, compute bias corrections in single precision and clip tensor by tensor. Here
//! the state is keyed by parameter path, so that it can be written down and put back; bias
//! corrections are in double precision; and the clipping factor is one for all parameters, as
//! `torch.nn.utils.clip_grad_norm_` has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use fin_core::weights::{self, Checkpoint};
use fin_core::{Error, Result};

/// Settings of [`AdamW`].
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the latter.
    pub eps: f64,
    /// Share of a weight, times the learning rate, that a step takes off; 0 for biases and the
    /// parameters of normalisation layers.
    pub weight_decay: f64,
    /// Largest global norm of the gradients; 0 for no limit.
    pub max_grad_norm: f64,
}

impl Default for AdamWConfig {
    /// Those of PyTorch, with a decay of 0.01 and a largest norm of 1.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
        }
    }
}

/// Running means of one parameter, flattened.
#[derive(Debug, Clone)]
struct Moments {
    step: u64,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), with the order of
/// operations of `torch.optim.AdamW`.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    state: BTreeMap<String, Moments>,
}

impl AdamW {
    /// An optimiser without state.
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            state: BTreeMap::new(),
        }
    }

    /// Whether weight decay leaves this parameter alone: a bias, or part of a normalisation layer
    /// by its name.
    pub fn is_exempt_from_decay(path: &[String]) -> bool {
        path.last().is_some_and(|name| name == "bias")
            || path
                .iter()
                .any(|part| part.to_ascii_lowercase().contains("norm"))
    }

    /// One step down the gradients at this learning rate.
    ///
    /// Returns the module and the global norm of the gradients before clipping. Where that norm
    /// is not finite, the module and the state are left as they were.
    ///
    /// # Errors
    /// [`Error::Argument`] where no parameter has a gradient or the gradients cannot be read back
    /// from the device.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        mut gradients: GradientsParams,
        learning_rate: f64,
    ) -> Result<(M, f64)> {
        let norm = global_norm(&module, &gradients)?;
        if !norm.is_finite() {
            return Ok((module, norm));
        }
        let limit = self.config.max_grad_norm;
        let factor = if limit > 0.0 {
            limit / (norm + 1e-6)
        } else {
            1.0
        };
        let mut stepper = Stepper {
            config: &self.config,
            state: &mut self.state,
            gradients: &mut gradients,
            learning_rate,
            factor: (factor < 1.0).then_some(factor),
            path: Vec::new(),
        };
        Ok((module.map(&mut stepper), norm))
    }

    /// Writes the state as safetensors: `<path>.exp_avg`, `<path>.exp_avg_sq` and `<path>.step`.
    ///
    /// # Errors
    /// [`Error::Io`]; an existing file is then as it was before.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut tensors = Vec::with_capacity(3 * self.state.len());
        for (name, moments) in &self.state {
            // Step numbers are exact in f32 up to 2^24, and are stored as PyTorch stores them.
            tensors.push((format!("{name}.step"), vec![1], vec![moments.step as f32]));
            for (part, tensor) in [
                ("exp_avg", &moments.exp_avg),
                ("exp_avg_sq", &moments.exp_avg_sq),
            ] {
                let values = read(tensor.clone())?;
                tensors.push((format!("{name}.{part}"), vec![values.len()], values));
            }
        }
        weights::save(path, &tensors)
    }

    /// Puts a written state back for a module of the same form, on `device`.
    ///
    /// # Errors
    /// Those of opening the file; [`Error::UnusedTensors`] or [`Error::ShapeMismatch`] where it
    /// belongs to another module, [`Error::MissingTensors`] where it is incomplete.
    pub fn load<M: Module>(
        config: AdamWConfig,
        path: impl AsRef<Path>,
        module: &M,
        device: &Device,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let mut sizes = Sizes::default();
        module.visit(&mut sizes);
        let names: BTreeSet<&str> = checkpoint
            .iter()
            .filter_map(|(name, _)| name.rsplit_once('.').map(|(parameter, _)| parameter))
            .collect();
        let mut state = BTreeMap::new();
        for name in names {
            let Some(&size) = sizes.sizes.get(name) else {
                return Err(Error::UnusedTensors {
                    path: checkpoint.path().to_path_buf(),
                    names: vec![name.to_string()],
                });
            };
            let part = |part: &str, size: usize| {
                let tensor = format!("{name}.{part}");
                let values = checkpoint.read_f32(&tensor)?;
                if values.len() != size {
                    return Err(Error::ShapeMismatch {
                        path: checkpoint.path().to_path_buf(),
                        tensor,
                        expected: vec![size],
                        found: vec![values.len()],
                    });
                }
                Ok(values)
            };
            let moment = |name| {
                part(name, size)
                    .map(|values| Tensor::from_data(TensorData::new(values, [size]), device))
            };
            let moments = Moments {
                step: part("step", 1)?[0] as u64,
                exp_avg: moment("exp_avg")?,
                exp_avg_sq: moment("exp_avg_sq")?,
            };
            state.insert(name.to_string(), moments);
        }
        Ok(Self { config, state })
    }
}

fn read(tensor: Tensor<1>) -> Result<Vec<f32>> {
    tensor
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .map_err(|e| Error::argument("device", format!("values cannot be read back: {e:?}")))
}

/// The Euclidean norm of all gradients as one vector.
fn global_norm<M: Module>(module: &M, gradients: &GradientsParams) -> Result<f64> {
    struct Squares<'a> {
        gradients: &'a GradientsParams,
        sums: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                self.sums.push(gradient.square().sum());
            }
        }
    }
    let mut squares = Squares {
        gradients,
        sums: Vec::new(),
    };
    module.visit(&mut squares);
    if squares.sums.is_empty() {
        return Err(Error::argument(
            "model",
            "no parameter has a gradient; are all of them frozen?",
        ));
    }
    let sums = read(Tensor::cat(squares.sums, 0))?;
    Ok(sums.into_iter().map(f64::from).sum::<f64>().sqrt())
}

/// Number of elements of every parameter, by path.
#[derive(Default)]
struct Sizes {
    path: Vec<String>,
    sizes: BTreeMap<String, usize>,
}

impl ModuleVisitor for Sizes {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.sizes
            .insert(self.path.join("."), param.lazy_shape().num_elements());
    }
}

struct Stepper<'a> {
    config: &'a AdamWConfig,
    state: &'a mut BTreeMap<String, Moments>,
    gradients: &'a mut GradientsParams,
    learning_rate: f64,
    factor: Option<f64>,
    path: Vec<String>,
}

impl Stepper<'_> {
    /// New values of a flattened parameter.
    fn update(&mut self, values: Tensor<1>, gradient: Tensor<1>) -> Tensor<1> {
        let AdamWConfig {
            beta1,
            beta2,
            eps,
            weight_decay,
            ..
        } = *self.config;
        let key = self.path.join(".");
        let (step, exp_avg, exp_avg_sq) = match self.state.remove(&key) {
            Some(Moments {
                step,
                exp_avg,
                exp_avg_sq,
            }) => (
                step + 1,
                exp_avg.mul_scalar(beta1) + gradient.clone().mul_scalar(1.0 - beta1),
                exp_avg_sq.mul_scalar(beta2) + gradient.square().mul_scalar(1.0 - beta2),
            ),
            None => (
                1,
                gradient.clone().mul_scalar(1.0 - beta1),
                gradient.square().mul_scalar(1.0 - beta2),
            ),
        };
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        let values = if weight_decay == 0.0 || AdamW::is_exempt_from_decay(&self.path) {
            values
        } else {
            values.mul_scalar(1.0 - self.learning_rate * weight_decay)
        };
        let root = exp_avg_sq
            .clone()
            .sqrt()
            .mul_scalar(correction(beta2).sqrt().recip())
            .add_scalar(eps);
        let direction = exp_avg.clone() / root;
        self.state.insert(
            key,
            Moments {
                step,
                exp_avg,
                exp_avg_sq,
            },
        );
        values - direction.mul_scalar(self.learning_rate / correction(beta1))
    }
}

impl ModuleMapper for Stepper<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            return param;
        };
        let gradient = match self.factor {
            Some(factor) => gradient.mul_scalar(factor),
            None => gradient,
        };
        let (id, tensor, mapper) = param.consume();
        let strategy = tensor.gradient_checkpointing_strategy();
        let values = tensor.inner();
        let shape = values.dims();
        let size: usize = shape.iter().product();
        let updated = self
            .update(values.reshape([size]), gradient.reshape([size]))
            .reshape(shape);
        let mut updated = Tensor::from_inner(updated);
        if let Some(strategy) = strategy {
            updated = updated.with_gradient_checkpointing_strategy(strategy);
        }
        // It had a gradient, so it asks for one.
        Param::from_mapped_value(id, updated.require_grad(), mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(String::from).collect()
    }

    #[test]
    fn biases_and_normalisation_are_exempt_from_decay() {
        for exempt in [
            "encoder.0.dense.bias",
            "embeddings.layer_norm.weight",
            "x.LayerNorm.weight",
            "norm1.weight",
        ] {
            assert!(AdamW::is_exempt_from_decay(&path(exempt)), "{exempt}");
        }
        for decayed in [
            "encoder.0.dense.weight",
            "bias_proj.weight",
            "word_embeddings.weight",
        ] {
            assert!(!AdamW::is_exempt_from_decay(&path(decayed)), "{decayed}");
        }
    }
}
