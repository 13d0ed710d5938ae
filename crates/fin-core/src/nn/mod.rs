//! Layers with upstream's parameter names and layouts.
//!
//! PyTorch stores a linear layer's weight as `[out, in]` and calls a layer norm's parameters
//! `weight` and `bias`. These layers do the same, so that a checkpoint's keys and shapes are the
//! module's paths and shapes, gradients and optimiser states included, and nothing is transposed
//! or renamed on the way in or out. The forward passes of the layers that transformers are made
//! of go through [`crate::kernels`].

mod batch_norm;
mod buffer;
mod conv2d;
mod embedding;
mod layer_norm;
mod linear;
mod rms_norm;

pub use batch_norm::{BatchNorm2d, BatchNorm2dConfig};
pub use buffer::{Buffer, Counter};
pub use conv2d::{Conv2d, Conv2dConfig, ConvPadding};
pub use embedding::{Embedding, EmbeddingConfig};
pub use layer_norm::{LayerNorm, LayerNormConfig};
pub use linear::{Linear, LinearConfig, LinearLayers};
pub use rms_norm::{RmsNorm, RmsNormConfig};
