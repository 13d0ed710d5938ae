//! From a published checkpoint to safetensors, without loading the model.

use std::path::Path;

use burn::tensor::Device;
use fin_core::weights::{self, Checkpoint, Mapping};
use fin_core::{Error, Result};

use crate::config::{CONFIG_FILE, ModelConfig};
use crate::names;
use crate::output::PointOutput;

/// What becomes of a checkpoint's tensors, found without reading a weight.
#[derive(Debug)]
pub struct MeshConversion {
    /// What is read.
    pub checkpoint: Checkpoint,
    /// What becomes of its tensors. Keys stay as they are, but for a prefix before all of them.
    pub mapping: Mapping,
    /// What the model is.
    pub config: ModelConfig,
    /// Length of an embedding.
    pub output_dim: usize,
}

impl MeshConversion {
    /// Plans the conversion of a file, or of a directory's weights, to what `config` says they are.
    /// A directory's own `fin.json` wins over it.
    ///
    /// # Errors
    /// Those of opening the model, but missing and unknown tensors are in the mapping;
    /// [`Error::Config`] where the model has a projection, which is not converted.
    pub fn plan(path: &Path, config: &ModelConfig) -> Result<Self> {
        let own = path.join(CONFIG_FILE);
        let (config, checkpoint) = if path.is_dir() {
            let config = match own.is_file() {
                true => ModelConfig::read(&own)?,
                false => config.clone(),
            };
            (config, Checkpoint::open_directory(path)?)
        } else {
            (config.clone(), Checkpoint::open(path)?)
        };
        if config.projection.is_some() {
            let reason = "a model that was trained here is in safetensors already";
            return Err(Error::config(own, "projection", reason));
        }
        let shape = config.architecture.config()?;
        let names = names::names_in(&checkpoint, &shape)?;
        // Made for the shapes of its parameters, which are never computed.
        let network = shape.init(config.normals, &Device::default());
        let mapping = weights::map(&network, &checkpoint, &names)?;
        let output_dim = match config.output {
            PointOutput::Embedding => shape.embedding_size,
            PointOutput::Global => shape.global_size(),
        };
        Ok(Self {
            checkpoint,
            mapping,
            config,
            output_dim,
        })
    }
}
