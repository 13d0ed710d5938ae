//! From a published checkpoint to safetensors in the same dialect, without loading the model.

use std::path::Path;

use burn::tensor::Device;
use fin_core::Result;
use fin_core::weights::{Checkpoint, Mapping};

use crate::config::ClipConfig;
use crate::dialect::{self, Dialect, Manifest};
use crate::weights;

/// What of a directory goes where, found without reading a weight.
#[derive(Debug)]
pub struct ClipConversion {
    /// What is read.
    pub checkpoint: Checkpoint,
    /// What becomes of its tensors. Keys stay as they are, but for a prefix before all of them.
    pub mapping: Mapping,
    /// File for the weights, below the directory.
    pub target: &'static str,
    /// Configuration and tokenizer, as `(path below the directory, content)`.
    pub files: Vec<(String, Vec<u8>)>,
    /// What the directory says of itself.
    pub manifest: Manifest,
    /// Whose names the keys are.
    pub dialect: Dialect,
    /// What the model is.
    pub config: ClipConfig,
}

impl ClipConversion {
    /// Plans the conversion of a directory of any [`Dialect`]; `weights` is its weight file where
    /// it is not one of the usual names.
    ///
    /// # Errors
    /// Those of opening the model, but missing and unknown tensors are in the mapping.
    pub fn plan(directory: &Path, weights: Option<&Path>) -> Result<Self> {
        let opened = dialect::open(directory, None)?;
        let checkpoint = match weights {
            Some(path) => Checkpoint::open(path)?,
            None => opened.checkpoint?,
        };
        // Made for the shapes of its parameters, which are never computed.
        let network = opened.config.init(&Device::default())?;
        let mapping = weights::map(&network, &checkpoint, opened.keys)?;
        let (files, target) = dialect::files(
            opened.dialect,
            &opened.config,
            Some(&opened.files),
            &opened.files,
        )?;
        let manifest = Manifest {
            dialect: Some(opened.dialect),
            normalize: opened.config.normalize,
            source: opened.config.source.clone(),
            licence: opened.config.licence.clone(),
            ..Manifest::default()
        };
        Ok(Self {
            checkpoint,
            mapping,
            target,
            files,
            manifest,
            dialect: opened.dialect,
            config: opened.config,
        })
    }
}
