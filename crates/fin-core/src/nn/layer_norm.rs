//! Layer normalisation, as `torch.nn.LayerNorm` over the last axis (Ba et al. 2016).

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::kernels;

/// Configuration of [`LayerNorm`].
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNormConfig {
    /// Size of the last axis.
    pub hidden_size: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNormConfig {
    /// Normalisation of the last axis.
    pub fn new(hidden_size: usize, eps: f64) -> Self {
        Self { hidden_size, eps }
    }

    /// Makes the layer with weight one and bias zero.
    pub fn init(&self, device: &Device) -> LayerNorm {
        LayerNorm {
            weight: Initializer::Ones.init([self.hidden_size], device),
            bias: Initializer::Zeros.init([self.hidden_size], device),
            eps: self.eps,
        }
    }
}

/// `y = (x − mean) / √(var + eps) · weight + bias` over the last axis, with the biased variance.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[hidden_size]`.
    pub weight: Param<Tensor<1>>,
    /// `[hidden_size]`.
    pub bias: Param<Tensor<1>>,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// `[..., hidden_size]` → the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        kernels::layer_norm(x, None, self.weight.val(), self.bias.val(), self.eps)
    }

    /// Normalises `x + residual`, in one pass where the device has a kernel for it.
    pub fn forward_residual<const D: usize>(&self, x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
        kernels::layer_norm(
            x,
            Some(residual),
            self.weight.val(),
            self.bias.val(),
            self.eps,
        )
    }
}
