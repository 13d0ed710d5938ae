#![doc = include_str!("../README.md")]

pub mod config;
mod convert;
mod dialect;
mod embedder;
pub mod layers;
mod network;
pub mod preprocessing;
pub mod text;
pub mod tokenizer;
mod tokens;
pub mod vision;
mod weights;

pub use config::ClipConfig;
pub use convert::ClipConversion;
pub use dialect::{CONFIG_FILE, Dialect, Family, Manifest, is_clip_directory};
pub use embedder::{ClipEmbedder, ClipItem, ClipOptions, EncodedClip};
pub use network::{ClipBatch, ClipNetwork, ImageBatch, TextBatch};
