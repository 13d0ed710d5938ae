//! What the families of fin share.
//!
//! - [`Device`](device::DeviceSpec): `flex`, `tch`, `wgpu`, `cuda`, chosen at run time.
//! - [`weights`]: safetensors and PyTorch files into Burn modules and back, every tensor
//!   accounted for.
//! - [`nn`] and [`kernels`]: layers with upstream's names and layouts over operations with a
//!   portable and a fast form.
//! - [`Pooling`], [`embedder`]: token vectors to embeddings, and the traits that training,
//!   evaluation and programs are written against.
//! - `input` (feature `text`) and `output` (feature `output`): readers of text data and writers
//!   of embeddings.
//! - `image` (feature `image`): image files to pixels, and preprocessing as data.
//! - [`atomic`]: files that appear whole or not at all.
//!
//! This crate knows no architecture. Pick a family crate (`fin-transformer`) to get one.
//!
//! ```
//! use fin_core::{BatchLimits, Pooling, plan_batches};
//!
//! let pooling: Pooling = "mean".parse()?;
//! assert_eq!(pooling, Pooling::Mean);
//! let batches = plan_batches(&[3, 120, 5, 118], BatchLimits { max_items: 2, max_cost: 256 });
//! assert_eq!(batches, [vec![1, 3], vec![2, 0]]);
//! # Ok::<(), fin_core::Error>(())
//! ```

pub mod atomic;
mod batching;
pub mod device;
pub mod embedder;
mod error;
#[cfg(feature = "image")]
pub mod image;
#[cfg(feature = "text")]
pub mod input;
pub mod kernels;
pub mod nn;
#[cfg(feature = "output")]
pub mod output;
mod pooling;
pub mod weights;

pub use batching::{BatchLimits, plan_batches};
pub use device::DeviceSpec;
pub use embedder::{
    Backbone, Embedder, EmbeddingNetwork, Embeddings, PostProcess, encode, encode_preprocessed,
};
pub use error::{Error, Result};
pub use pooling::{MapPooling, Pooling, l2_normalize};
