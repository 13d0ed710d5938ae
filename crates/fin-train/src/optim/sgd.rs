//! Gradient descent, with momentum where asked for.

use burn::tensor::Tensor;
use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Rule, Step, share};
use crate::registry::{self, Options};

/// Stochastic gradient descent as `torch.optim.SGD` has it: momentum (Sutskever et al. 2013) begins with
/// the first gradient, and weight decay, of which there is none unless told otherwise, is added to the
/// gradient.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sgd {
    /// Share of the earlier direction that is kept; 0 for none.
    pub momentum: f64,
    /// Share of a gradient that the direction does not take up.
    pub dampening: f64,
    /// Whether the gradient is looked at from where the momentum leads.
    pub nesterov: bool,
}

impl Sgd {
    pub(super) fn from_options(name: &str, options: &Options) -> Result<Self> {
        let made: Self = registry::parse(name, options)?;
        share("momentum", made.momentum)?;
        share("dampening", made.dampening)?;
        if made.nesterov && (made.momentum == 0.0 || made.dampening != 0.0) {
            let reason = "needs a momentum above 0 and a dampening of 0";
            return Err(Error::argument("nesterov", reason));
        }
        Ok(made)
    }
}

impl Rule for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn state(&self, shape: &[usize]) -> Vec<(&'static str, usize)> {
        match self.momentum {
            0.0 => Vec::new(),
            _ => vec![("momentum_buffer", shape.iter().product())],
        }
    }

    fn update(
        &self,
        values: Tensor<1>,
        gradient: Tensor<1>,
        state: Vec<Tensor<1>>,
        step: &Step<'_>,
    ) -> (Tensor<1>, Vec<Tensor<1>>) {
        let mut gradient = step.scaled(gradient);
        if step.weight_decay != 0.0 {
            gradient = gradient + values.clone().mul_scalar(step.weight_decay);
        }
        let (direction, state) = match state.into_iter().next() {
            None => (gradient, Vec::new()),
            Some(buffer) => {
                let buffer = match step.number {
                    1 => gradient.clone(),
                    _ => {
                        buffer.mul_scalar(self.momentum)
                            + gradient.clone().mul_scalar(1.0 - self.dampening)
                    }
                };
                let direction = match self.nesterov {
                    true => gradient + buffer.clone().mul_scalar(self.momentum),
                    false => buffer.clone(),
                };
                (direction, vec![buffer])
            }
        };
        (values - direction.mul_scalar(step.learning_rate), state)
    }
}
