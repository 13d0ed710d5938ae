//! The catalogue of pretrained backbones, and the way from a name to a model.
//!
//! The catalogue is data: `catalogue.toml`, a table a backbone, embedded in the library.
//! [`list_models`] and [`find`] look into it, [`describe_models`] prints it, [`build_model`] opens
//! a model by its name or from a directory. [`Locations`] says where the files of a name are looked
//! for; what is in none of these places is downloaded by [`Hub`].
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
mod describe;
mod hub;
mod locations;
mod nearest;

pub use build::{ModelOptions, build_model, build_model_from};
pub use catalogue::{ModelRow, Task, find, list_models};
pub use describe::describe_models;
pub use hub::{DEFAULT_ENDPOINT, FileSet, Hub, HubConfig, HubSource, Token};
pub use locations::Locations;
pub use nearest::nearest;
