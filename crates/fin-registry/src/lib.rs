//! The catalogue of pretrained backbones, and the way from a name to a model.
//!
//! The catalogue is data: `catalogue.toml`, a table a backbone, embedded in the library; a user's
//! file in the same form adds to it ([`Catalogue::with`]). [`list_models`] and [`find`] look into
//! it, [`describe_models`] prints it, [`build_model`] opens a model by its name or from a
//! directory. Nothing is downloaded: [`Locations`] says where the
//! files of a name are looked for.
//!
//! ```
//! use fin_registry::{Task, find, list_models};
//!
//! assert!(list_models(Some(Task::TextToText)).iter().any(|row| row.name == "bert-base-en"));
//! assert_eq!(find("all-minilm-l6-v2")?.output_dim, 384);
//! let error = find("all-minilm").unwrap_err();
//! assert!(error.to_string().contains("`all-minilm-l6-v2`"));
//! # Ok::<(), fin_core::Error>(())
//! ```

mod build;
mod catalogue;
mod convert;
mod describe;
mod locations;
mod nearest;

pub use build::{Contradiction, Model, ModelOptions, Registry, build_model};
pub use catalogue::{Architecture, Catalogue, ModelRow, Preprocessing, Task, find, list_models};
pub use convert::{
    ConvertOptions, ConvertReport, FileDigest, FileMapping, MANIFEST, TensorMapping,
};
pub use describe::describe_models;
pub use locations::Locations;
pub use nearest::nearest;
