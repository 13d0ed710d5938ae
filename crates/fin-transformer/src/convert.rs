//! From a checkpoint in any of the forms that are read here to a directory of safetensors, without
//! loading the model.

use std::path::Path;

use burn::tensor::Device;
use fin_core::nn::LinearConfig;
use fin_core::weights::{self, Checkpoint, Mapping, Names};
use fin_core::{Error, Pooling, Result};

use crate::bert::Bert;
use crate::config::BackboneConfig;
use crate::directory::{self, DenseFiles, Layout};
use crate::distilbert::DistilBert;
use crate::embedder::{backbone_names, default_max_length, has_pooler, verbatim_files};
use crate::network::Dense;
use crate::t5::T5Encoder;

/// What of a directory goes where, found without reading a weight.
#[derive(Debug)]
pub struct TextConversion {
    /// Weight files, the transformer's first.
    pub parts: Vec<ConvertedPart>,
    /// Small files, as `(path below the directory, content)`.
    pub files: Vec<(String, Vec<u8>)>,
    /// Directories that are empty, by their path below the directory.
    pub directories: Vec<String>,
    /// The transformer's configuration.
    pub config: BackboneConfig,
    /// Poolings; the vectors of several are concatenated.
    pub pooling: Vec<Pooling>,
    /// Whether embeddings have unit length.
    pub normalize: bool,
    /// Largest number of tokens.
    pub max_length: usize,
    /// Length of an embedding.
    pub output_dim: usize,
}

/// One weight file.
#[derive(Debug)]
pub struct ConvertedPart {
    /// Path below the directory.
    pub target: String,
    /// What is read.
    pub checkpoint: Checkpoint,
    /// What becomes of its tensors.
    pub mapping: Mapping,
}

impl TextConversion {
    /// Plans the conversion of a sentence-transformers directory or a plain Hugging Face one.
    ///
    /// `weights` is the transformer's weight file where it is not one of the usual names;
    /// `pooling` and `normalize` take effect where the directory has no `modules.json`.
    ///
    /// # Errors
    /// Those of opening the model, but missing and unknown tensors are in the mappings.
    pub fn plan(
        directory: &Path,
        weights: Option<&Path>,
        pooling: Option<Vec<Pooling>>,
        normalize: Option<bool>,
    ) -> Result<Self> {
        let mut layout = Layout::read(directory)?;
        if !layout.has_modules {
            layout.pooling = pooling.unwrap_or(layout.pooling);
            layout.normalize = normalize.unwrap_or(layout.normalize);
        }
        let config = BackboneConfig::read(&layout.transformer.join("config.json"))?;
        let checkpoint = match weights {
            Some(path) => Checkpoint::open(path)?,
            None => Checkpoint::open_directory(&layout.transformer)?,
        };
        let mapping = map_backbone(&config, &checkpoint)?;
        let mut parts = vec![ConvertedPart {
            target: "model.safetensors".into(),
            checkpoint,
            mapping,
        }];
        let mut dense = Vec::new();
        let mut width = config.hidden_size() * layout.pooling.len();
        for (i, head) in layout.dense.iter().enumerate() {
            if head.in_features != width {
                let reason = format!("{}, but what comes before gives {width}", head.in_features);
                let path = head.directory.join("config.json");
                return Err(Error::config(path, "in_features", reason));
            }
            width = head.out_features;
            let checkpoint = Checkpoint::open_directory(&head.directory)?;
            let linear = LinearConfig::new(head.in_features, head.out_features)
                .with_bias(head.bias)
                .init(&shapes_only());
            let module = Dense {
                linear,
                activation: head.activation,
            };
            let mapping = weights::map(&module, &checkpoint, &Names::default())?;
            parts.push(ConvertedPart {
                target: format!("{}_Dense/model.safetensors", i + 2),
                checkpoint,
                mapping,
            });
            dense.push(DenseFiles {
                in_features: head.in_features,
                out_features: head.out_features,
                bias: head.bias,
                activation: head.activation,
            });
        }
        let max_length = default_max_length(&layout, &config);
        let small = directory::files(
            &layout,
            &layout.pooling,
            &dense,
            layout.normalize,
            max_length,
            config.hidden_size(),
        );
        let mut files: Vec<(String, Vec<u8>)> = small
            .into_iter()
            .map(|(name, content)| (name, content.into_bytes()))
            .collect();
        for (name, bytes) in verbatim_files(&layout)? {
            files.push((name.to_string(), bytes));
        }
        let normalize = format!("{}_Normalize", dense.len() + 2);
        Ok(Self {
            parts,
            files,
            directories: layout.normalize.then_some(normalize).into_iter().collect(),
            config,
            pooling: layout.pooling,
            normalize: layout.normalize,
            max_length,
            output_dim: width,
        })
    }
}

/// Modules here are made for the shapes of their parameters, which are never computed.
fn shapes_only() -> Device {
    Device::default()
}

fn map_backbone(config: &BackboneConfig, checkpoint: &Checkpoint) -> Result<Mapping> {
    let device = &shapes_only();
    let names = backbone_names(config, checkpoint);
    let pooler = has_pooler(&names, checkpoint);
    match config {
        BackboneConfig::Bert(config) => {
            weights::map::<Bert>(&config.init(pooler, device)?, checkpoint, &names)
        }
        BackboneConfig::DistilBert(config) => {
            weights::map::<DistilBert>(&config.init(device)?, checkpoint, &names)
        }
        BackboneConfig::XlmRoberta(config) => {
            weights::map::<Bert>(&config.init(pooler, device)?, checkpoint, &names)
        }
        BackboneConfig::T5(config) => {
            weights::map::<T5Encoder>(&config.init(device)?, checkpoint, &names)
        }
    }
}
