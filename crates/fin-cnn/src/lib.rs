#![doc = include_str!("../README.md")]

pub mod architecture;
mod config;
mod convert;
pub mod efficientnet;
mod embedder;
#[cfg(feature = "flex")]
mod inference;
#[cfg(not(feature = "flex"))]
#[path = "inference/absent.rs"]
mod inference;
pub mod layers;
mod names;
mod network;
mod presets;
pub mod resnet;

pub use architecture::{Architecture, BackboneConfig, Blocked, CnnBackbone};
pub use config::{CONFIG_FILE, Family, ModelConfig};
pub use convert::ImageConversion;
pub use embedder::{EncodedImage, ImageEmbedder, ImageOptions};
pub use names::Dialect;
pub use network::{CnnNetwork, ImageBatch};
pub use presets::{Preset, Scaling};
