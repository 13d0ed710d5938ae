//! Optimisers, and clipping by the global norm.
//!
//! | name | step | source |
//! | --- | --- | --- |
//! | `adamw` | Adam with decoupled weight decay | Loshchilov and Hutter 2019 |
//! | `adam` | gradients over the root of their running squares | Kingma and Ba 2015 |
//! | `sgd` | the gradient, with momentum where asked for | Sutskever et al. 2013 |
//! | `lion` | the sign of a running mean of gradients | Chen et al. 2023 |
//! | `adafactor` | as Adam, with the squares of rows and columns alone | Shazeer and Stern 2018 |
//!
//! Burn's own optimisers key their state by parameter identifiers that a freshly opened model
//! does not share, compute bias corrections in single precision and clip tensor by tensor. Here
//! the state is keyed by parameter path, so that it can be written down and put back; bias
//! corrections are in double precision; and the clipping factor is one for all parameters, as
//! `torch.nn.utils.clip_grad_norm_` has it.
//!
//! A further optimiser is a file here that implements [`Rule`], and a line in the table of names.

mod adafactor;
mod adam;
mod adamw;
mod groups;
mod lion;
mod sgd;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use fin_core::kernels::optimizer::sum_of_squares;
use fin_core::weights::{self, Checkpoint};
use fin_core::{Error, Result};

pub use adafactor::Adafactor;
pub use adam::Adam;
pub use adamw::AdamW;
pub use groups::{Group, groups, is_exempt_from_decay};
pub use lion::Lion;
pub use sgd::Sgd;

use crate::registry::{self, Entry, Options};

/// How an optimiser changes a parameter. Parameters and what is kept of them are flat, `[elements]`.
pub trait Rule: fmt::Debug + Send {
    /// Name in configuration files.
    fn name(&self) -> &'static str;

    /// Every option with its value.
    fn options(&self) -> Options;

    /// Weight decay where none is given.
    fn weight_decay(&self) -> f64 {
        0.0
    }

    /// Name and number of elements of what is kept of a parameter of this shape; it begins as zeros.
    fn state(&self, shape: &[usize]) -> Vec<(&'static str, usize)>;

    /// New values of a parameter, and what is kept of it then, in the order of [`Rule::state`].
    fn update(
        &self,
        values: Tensor<1>,
        gradient: Tensor<1>,
        state: Vec<Tensor<1>>,
        step: &Step<'_>,
    ) -> (Tensor<1>, Vec<Tensor<1>>);
}

/// What a step of one parameter goes by.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Shape of the parameter.
    pub shape: &'a [usize],
    /// Steps of this parameter, this one included.
    pub number: u64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight decay; 0 for parameters that are exempt.
    pub weight_decay: f64,
    /// What the gradient is to be multiplied by, where its norm is limited.
    pub gradient_scale: Option<f64>,
}

impl Step<'_> {
    /// The gradient times [`Step::gradient_scale`].
    pub fn scaled(&self, gradient: Tensor<1>) -> Tensor<1> {
        match self.gradient_scale {
            Some(scale) => gradient.mul_scalar(scale),
            None => gradient,
        }
    }
}

const OPTIMIZERS: [Entry<dyn Rule>; 5] = [
    ("adamw", |name, options| {
        Ok(Box::new(AdamW::from_options(name, options)?))
    }),
    ("adam", |name, options| {
        Ok(Box::new(Adam::from_options(name, options)?))
    }),
    ("sgd", |name, options| {
        Ok(Box::new(Sgd::from_options(name, options)?))
    }),
    ("lion", |name, options| {
        Ok(Box::new(Lion::from_options(name, options)?))
    }),
    ("adafactor", |name, options| {
        Ok(Box::new(Adafactor::from_options(name, options)?))
    }),
];

/// The optimiser of this name.
///
/// # Errors
/// [`Error::Argument`] lists the names, or names an option that cannot be used.
///
/// ```
/// use serde_json::json;
///
/// let options = json!({"momentum": 0.9});
/// let rule = fin_train::optimizer_from_name("sgd", options.as_object().unwrap())?;
/// assert_eq!(rule.options()["momentum"], 0.9);
/// # Ok::<(), fin_core::Error>(())
/// ```
pub fn optimizer_from_name(name: &str, options: &Options) -> Result<Box<dyn Rule>> {
    registry::from_name("optimizer", &OPTIMIZERS, name, options)
}

/// The names that [`optimizer_from_name`] takes.
pub fn optimizer_names() -> impl Iterator<Item = &'static str> {
    OPTIMIZERS.iter().map(|(name, _)| *name)
}

/// Refuses an option that is not a share of less than 1.
fn share(option: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        Ok(())
    } else {
        let reason = format!("{value} is not a number from 0 to below 1");
        Err(Error::argument(option, reason))
    }
}

/// Refuses an option that is not a finite number of at least 0.
fn not_negative(option: &str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        Ok(())
    } else {
        let reason = format!("{value} is not a number of at least 0");
        Err(Error::argument(option, reason))
    }
}

/// Settings of an [`Optimizer`] whatever its rule.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerConfig {
    /// Weight decay; none is given for the rule's own. Biases and the parameters of normalisation
    /// layers have none.
    pub weight_decay: Option<f64>,
    /// Largest global norm of the gradients; 0 for no limit.
    pub max_grad_norm: f64,
}

impl Default for OptimizerConfig {
    /// The decay that the rule has, and a largest norm of 1.
    fn default() -> Self {
        Self {
            weight_decay: None,
            max_grad_norm: 1.0,
        }
    }
}

/// What is kept of one parameter.
#[derive(Debug)]
struct Slot {
    step: u64,
    names: Vec<&'static str>,
    state: Vec<Tensor<1>>,
}

/// A rule with its state.
#[derive(Debug)]
pub struct Optimizer {
    rule: Box<dyn Rule>,
    weight_decay: f64,
    max_grad_norm: f64,
    groups: BTreeMap<String, Group>,
    slots: BTreeMap<String, Slot>,
}

impl Optimizer {
    /// An optimiser without state.
    pub fn new(rule: Box<dyn Rule>, config: &OptimizerConfig) -> Self {
        Self {
            weight_decay: config.weight_decay.unwrap_or(rule.weight_decay()),
            max_grad_norm: config.max_grad_norm,
            rule,
            groups: BTreeMap::new(),
            slots: BTreeMap::new(),
        }
    }

    /// With parameters that are trained in a way of their own, by path; see [`groups()`].
    pub fn with_groups(mut self, groups: BTreeMap<String, Group>) -> Self {
        self.groups = groups;
        self
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
        let factor = if self.max_grad_norm > 0.0 {
            self.max_grad_norm / (norm + 1e-6)
        } else {
            1.0
        };
        let mut stepper = Stepper {
            optimizer: self,
            gradients: &mut gradients,
            learning_rate,
            factor: (factor < 1.0).then_some(factor),
            path: Vec::new(),
        };
        Ok((module.map(&mut stepper), norm))
    }

    /// Writes the state as safetensors: `<path>.step`, and what the rule keeps, as in
    /// `<path>.exp_avg`.
    ///
    /// # Errors
    /// [`Error::Io`]; an existing file is then as it was before.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut tensors = Vec::new();
        for (name, slot) in &self.slots {
            // Step numbers are exact in f32 up to 2^24, and are stored as PyTorch stores them.
            tensors.push((format!("{name}.step"), vec![1], vec![slot.step as f32]));
            for (part, tensor) in slot.names.iter().zip(&slot.state) {
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
    /// belongs to another module or rule, [`Error::MissingTensors`] where it is incomplete.
    pub fn load<M: Module>(
        mut self,
        path: impl AsRef<Path>,
        module: &M,
        device: &Device,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let shapes = weights::parameters(module).into_iter();
        let shapes: BTreeMap<String, Vec<usize>> = shapes
            .map(|(path, shape)| (path.join("."), shape))
            .collect();
        let names: BTreeSet<&str> = checkpoint
            .iter()
            .filter_map(|(name, _)| name.rsplit_once('.').map(|(parameter, _)| parameter))
            .collect();
        let mut known = BTreeSet::new();
        for name in names {
            let Some(shape) = shapes.get(name) else {
                return Err(Error::UnusedTensors {
                    path: checkpoint.path().to_path_buf(),
                    names: vec![name.to_string()],
                });
            };
            let mut part = |part: &str, size: usize| {
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
                known.insert(tensor);
                Ok(values)
            };
            let (mut names, mut state) = (Vec::new(), Vec::new());
            for (name, size) in self.rule.state(shape) {
                let data = TensorData::new(part(name, size)?, [size]);
                state.push(Tensor::from_data(data, device));
                names.push(name);
            }
            let slot = Slot {
                step: part("step", 1)?[0] as u64,
                names,
                state,
            };
            self.slots.insert(name.to_string(), slot);
        }
        let unknown: Vec<String> = checkpoint
            .iter()
            .filter(|(name, _)| !known.contains(*name))
            .map(|(name, _)| name.to_string())
            .collect();
        if !unknown.is_empty() {
            return Err(Error::UnusedTensors {
                path: checkpoint.path().to_path_buf(),
                names: unknown,
            });
        }
        Ok(self)
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
                self.sums.push(sum_of_squares(gradient));
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

struct Stepper<'a> {
    optimizer: &'a mut Optimizer,
    gradients: &'a mut GradientsParams,
    learning_rate: f64,
    factor: Option<f64>,
    path: Vec<String>,
}

impl Stepper<'_> {
    /// New values of a flattened parameter.
    fn update(&mut self, values: Tensor<1>, gradient: Tensor<1>, shape: &[usize]) -> Tensor<1> {
        let key = self.path.join(".");
        let optimizer = &mut *self.optimizer;
        let group = optimizer.groups.get(&key).copied().unwrap_or(Group {
            rate: 1.0,
            decays: !is_exempt_from_decay(&self.path),
        });
        let slot = optimizer.slots.remove(&key).unwrap_or_else(|| {
            let (names, state) = optimizer
                .rule
                .state(shape)
                .into_iter()
                .map(|(name, size)| (name, Tensor::zeros([size], &values.device())))
                .unzip();
            Slot {
                step: 0,
                names,
                state,
            }
        });
        let step = Step {
            shape,
            number: slot.step + 1,
            learning_rate: self.learning_rate * group.rate,
            weight_decay: match group.decays {
                true => optimizer.weight_decay,
                false => 0.0,
            },
            gradient_scale: self.factor,
        };
        let (values, state) = optimizer.rule.update(values, gradient, slot.state, &step);
        let slot = Slot {
            step: step.number,
            names: slot.names,
            state,
        };
        optimizer.slots.insert(key, slot);
        values
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
        let (id, tensor, mapper) = param.consume();
        let strategy = tensor.gradient_checkpointing_strategy();
        let values = tensor.inner();
        let shape = values.dims();
        let size: usize = shape.iter().product();
        let updated = self
            .update(values.reshape([size]), gradient.reshape([size]), &shape)
            .reshape(shape);
        let mut updated = Tensor::from_inner(updated);
        if let Some(strategy) = strategy {
            updated = updated.with_gradient_checkpointing_strategy(strategy);
        }
        // It had a gradient, so it asks for one.
        Param::from_mapped_value(id, updated.require_grad(), mapper)
    }
}
