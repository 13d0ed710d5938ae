#![doc = include_str!("../README.md")]

pub mod architecture;
mod augment;
mod config;
mod convert;
mod embedder;
#[cfg(feature = "flex")]
mod inference;
#[cfg(not(feature = "flex"))]
#[path = "inference/absent.rs"]
mod inference;
pub mod layers;
pub mod mesh;
mod names;
mod network;
mod output;
mod points;
pub mod query;

pub use architecture::{Architecture, Compiled, PointBackbone, PointNetConfig};
pub use augment::{Axis, Jitter, PointAugmentation};
pub use config::{CONFIG_FILE, Family, ModelConfig};
pub use convert::MeshConversion;
pub use embedder::{EncodedPoints, MeshEmbedder, MeshOptions};
pub use layers::PointNet2;
pub use network::{PointBatch, PointNetwork};
pub use output::PointOutput;
pub use points::Points;
