#![doc = include_str!("../README.md")]

pub mod atomic;
mod batching;
pub mod device;
pub mod embedder;
mod error;
pub mod files;
#[cfg(feature = "image")]
pub mod image;
#[cfg(feature = "text")]
pub mod input;
pub mod json;
pub mod kernels;
mod limits;
pub mod nn;
pub mod npy;
#[cfg(feature = "output")]
pub mod output;
mod pooling;
mod precision;
pub mod weights;

pub use batching::{BatchLimits, plan_batches};
pub use device::DeviceSpec;
pub use embedder::{
    Backbone, Embedder, EmbeddingNetwork, Embeddings, PostProcess, Rejected, encode, encode_each,
    encode_preprocessed,
};
pub use error::{Error, Result};
pub use pooling::{MapPooling, Pooling, l2_normalize};
pub use precision::{Precision, to_f32};
