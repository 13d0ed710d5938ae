//! Root-mean-square normalisation, as `T5LayerNorm` in `transformers`' `models/t5/modeling_t5.py`
//! (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>).

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::kernels;

/// Configuration of [`RmsNorm`].
#[derive(Debug, Clone, PartialEq)]
pub struct RmsNormConfig {
    /// Size of the last axis.
    pub hidden_size: usize,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNormConfig {
    /// Normalisation of the last axis.
    pub fn new(hidden_size: usize, eps: f64) -> Self {
        Self { hidden_size, eps }
    }

    /// Makes the layer with weight one.
    pub fn init(&self, device: &Device) -> RmsNorm {
        RmsNorm {
            weight: Initializer::Ones.init([self.hidden_size], device),
            eps: self.eps,
        }
    }
}

/// `y = x / √(mean(x²) + eps) · weight` over the last axis.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[hidden_size]`.
    pub weight: Param<Tensor<1>>,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// `[..., hidden_size]` → the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        kernels::rms_norm(x, self.weight.val(), self.eps)
    }
}
