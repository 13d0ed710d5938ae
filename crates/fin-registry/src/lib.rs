#![doc = include_str!("../README.md")]

mod build;
mod catalogue;
mod convert;
mod describe;
mod embedded;
mod embedder;
mod hub;
mod locations;
mod nearest;

pub use build::{Contradiction, Modality, Model, ModelOptions, Registry, Tower, build_model};
pub use catalogue::{
    Architecture, Catalogue, ModelRow, Preprocessing, Task, Tokens, find, list_models,
};
pub use convert::{
    ConvertOptions, ConvertReport, FileDigest, FileMapping, MANIFEST, TensorMapping,
};
pub use describe::describe_models;
pub use embedder::AnyEmbedder;
pub use hub::{DEFAULT_ENDPOINT, FileSet, Hub, HubConfig, HubSource, Token};
pub use locations::Locations;
pub use nearest::nearest;
