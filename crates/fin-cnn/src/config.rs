//! `fin.json`, which says what the weights beside it are.

use std::path::Path;

use fin_core::image::ImageTransform;
use fin_core::{Error, MapPooling, Result};
use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::presets::Preset;

/// Name of the file.
pub const CONFIG_FILE: &str = "fin.json";

/// What a model directory of this family says of itself.
///
/// ```json
/// {
///   "family": "cnn",
///   "architecture": "resnet50",
///   "preprocessing": {
///     "resize": {"shorter_side": 232},
///     "interpolation": "bilinear",
///     "crop": [224, 224],
///     "mean": [0.485, 0.456, 0.406],
///     "std": [0.229, 0.224, 0.225]
///   },
///   "pooling": "mean",
///   "projection": null,
///   "normalize": false,
///   "source": "torchvision, ResNet50_Weights.IMAGENET1K_V2",
///   "licence": "BSD-3-Clause"
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Which crate's directory this is.
    pub family: Family,
    /// By name or by numbers.
    pub architecture: Architecture,
    /// From an image file to the network's input.
    pub preprocessing: ImageTransform,
    /// From the last feature map to a vector.
    #[serde(default)]
    pub pooling: MapPooling,
    /// Components of the projection after pooling, whose weights are in
    /// `projection.safetensors`; none without.
    #[serde(default)]
    pub projection: Option<usize>,
    /// Whether embeddings are scaled to unit length.
    #[serde(default)]
    pub normalize: bool,
    /// Where the weights come from.
    #[serde(default)]
    pub source: Option<String>,
    /// Their licence.
    #[serde(default)]
    pub licence: Option<String>,
    /// What a conversion says of the files that it read and wrote; for people and other programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<serde_json::Value>,
}

/// The families that write a `fin.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// ResNet and EfficientNet.
    #[default]
    Cnn,
}

impl ModelConfig {
    /// A bare network with the mean of its features.
    pub fn new(architecture: Architecture, preprocessing: ImageTransform) -> Self {
        Self {
            family: Family::Cnn,
            architecture,
            preprocessing,
            pooling: MapPooling::Mean,
            projection: None,
            normalize: false,
            source: None,
            licence: None,
            provenance: None,
        }
    }

    /// The configuration for published weights, by the names of [`Preset`].
    ///
    /// # Errors
    /// [`Error::Argument`] where there is no such preset.
    pub fn preset(architecture: &str, weights: Option<&str>) -> Result<Self> {
        let preset = Preset::find(architecture, weights)?;
        let architecture = Architecture::Named(architecture.into());
        Ok(Self::new(architecture, preset.transform()))
    }

    /// Reads and checks a `fin.json`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::InvalidFile`] where it is no such file,
    /// [`Error::Config`] naming the field that cannot be used.
    pub fn read(path: &Path) -> Result<Self> {
        let config: Self = fin_core::json::read(path)?;
        config.check(path)?;
        Ok(config)
    }

    /// Checks what the rest relies on; `path` is what errors name.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        self.architecture.config().map_err(|error| {
            let reason = match error {
                Error::Argument { reason, .. } => reason,
                other => other.to_string(),
            };
            Error::config(path, "architecture", reason)
        })?;
        if let Some((field, reason)) = self.preprocessing.fault() {
            return Err(Error::config(
                path,
                format!("preprocessing.{field}"),
                reason,
            ));
        }
        if self.preprocessing.output_size().is_none() {
            return Err(Error::config(
                path,
                "preprocessing.crop",
                "images of unequal size do not fit in a batch; give a crop or an exact size",
            ));
        }
        if let Some(size) = self.projection.filter(|n| *n == 0 || *n > 1 << 24) {
            let reason = format!(
                "{size} components; 1 to {} are accepted, or null for no projection",
                1 << 24
            );
            return Err(Error::config(path, "projection", reason));
        }
        Ok(())
    }
}
