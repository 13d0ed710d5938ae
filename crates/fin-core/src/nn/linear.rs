//! Affine map, as `torch.nn.Linear`.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::kernels::{self, Activation};

/// Configuration of [`Linear`].
#[derive(Debug, Clone, PartialEq)]
pub struct LinearConfig {
    /// Size of the last axis of the input.
    pub in_features: usize,
    /// Size of the last axis of the output.
    pub out_features: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// Initialisation of the weight; the bias starts at zero.
    pub initializer: Initializer,
}

impl LinearConfig {
    /// A layer with a bias and weights drawn from N(0, 0.02²), as BERT initialises its own.
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Self {
            in_features,
            out_features,
            bias: true,
            initializer: Initializer::Normal {
                mean: 0.0,
                std: 0.02,
            },
        }
    }

    /// With or without a bias.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// With another initialisation of the weight.
    pub fn with_initializer(mut self, initializer: Initializer) -> Self {
        self.initializer = initializer;
        self
    }

    /// Makes the layer; its parameters take memory when they are first used or loaded.
    pub fn init(&self, device: &Device) -> Linear {
        let shape = [self.out_features, self.in_features];
        Linear {
            weight: self.initializer.init_with(
                shape,
                Some(self.in_features),
                Some(self.out_features),
                device,
            ),
            bias: self
                .bias
                .then(|| Initializer::Zeros.init([self.out_features], device)),
        }
    }
}

/// `y = x·Wᵀ + b`, with parameters laid out as `torch.nn.Linear` does.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out_features, in_features]`.
    pub weight: Param<Tensor<2>>,
    /// `[out_features]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// `[..., in_features]` → `[..., out_features]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.forward_activated(x, Activation::Identity)
    }

    /// [`Linear::forward`] followed by an activation, in one pass where the device has a kernel
    /// for it.
    pub fn forward_activated<const D: usize>(
        &self,
        x: Tensor<D>,
        activation: Activation,
    ) -> Tensor<D> {
        kernels::linear(
            x,
            self.weight.val(),
            self.bias.as_ref().map(Param::val),
            activation,
        )
    }

    /// Size of the last axis of the output.
    pub fn out_features(&self) -> usize {
        self.weight.lazy_shape()[0]
    }
}
