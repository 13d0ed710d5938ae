//! Adam.

use burn::tensor::Tensor;
use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::adamw::means;
use super::{AdamW, Rule, Step};
use crate::registry::{self, Options};

/// Adam (Kingma and Ba 2015, algorithm 1), with the order of operations of `torch.optim.Adam`; weight
/// decay, of which there is none unless told otherwise, is added to the gradient.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Adam(AdamW);

impl Adam {
    pub(super) fn from_options(name: &str, options: &Options) -> Result<Self> {
        AdamW::from_options(name, options).map(Self)
    }
}

impl Rule for Adam {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn options(&self) -> Options {
        registry::to_options(self)
    }

    fn state(&self, shape: &[usize]) -> Vec<(&'static str, usize)> {
        means(shape)
    }

    fn update(
        &self,
        values: Tensor<1>,
        gradient: Tensor<1>,
        state: Vec<Tensor<1>>,
        step: &Step<'_>,
    ) -> (Tensor<1>, Vec<Tensor<1>>) {
        let undecayed = Step {
            weight_decay: 0.0,
            ..*step
        };
        if step.weight_decay == 0.0 {
            return self.0.step(values, gradient, state, &undecayed);
        }
        let gradient = step.scaled(gradient) + values.clone().mul_scalar(step.weight_decay);
        let undecayed = Step {
            gradient_scale: None,
            ..undecayed
        };
        self.0.step(values, gradient, state, &undecayed)
    }
}
