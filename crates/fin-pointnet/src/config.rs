//! `fin.json`, which says what the weights beside it are.

use std::path::Path;

use fin_core::weights::Checkpoint;
use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, MOST_POINTS};
use crate::names;
use crate::output::PointOutput;

/// Name of the file.
pub const CONFIG_FILE: &str = "fin.json";

/// What a model directory of this family says of itself.
///
/// ```json
/// {
///   "family": "pointnet",
///   "architecture": "pointnet2_ssg",
///   "points": 2048,
///   "normals": false,
///   "unit_sphere": true,
///   "output": "embedding",
///   "relu": false,
///   "projection": null,
///   "normalize": false,
///   "source": "https://github.com/yanx27/Pointnet_Pointnet2_pytorch",
///   "licence": "MIT"
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Which crate's directory this is.
    pub family: Family,
    /// By name or by numbers.
    pub architecture: Architecture,
    /// Points that are taken of a mesh or cloud.
    #[serde(default = "default_points")]
    pub points: usize,
    /// Whether the network sees normals beside coordinates.
    #[serde(default)]
    pub normals: bool,
    /// Whether points are centred on their mean and scaled so that the farthest has distance 1, as
    /// the published networks expect.
    #[serde(default = "yes")]
    pub unit_sphere: bool,
    /// Which of the network's vectors is the embedding.
    #[serde(default)]
    pub output: PointOutput,
    /// Whether the rectifier after the first stage is kept, for [`PointOutput::Embedding`]. Not by
    /// default: rectified vectors lie within 90° of each other, and a component that is zero for
    /// all items of a batch learns nothing; the normalised values carry the sign as well.
    #[serde(default)]
    pub relu: bool,
    /// Components of the projection after it, whose weights are in `projection.safetensors`; none
    /// without.
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

/// The families that write a `fin.json` of this form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// PointNet++.
    #[default]
    Pointnet,
}

fn default_points() -> usize {
    2048
}

fn yes() -> bool {
    true
}

impl ModelConfig {
    /// A network on 2,048 points of the unit sphere, with the classifier's first stage as the
    /// embedding.
    pub fn new(architecture: Architecture, normals: bool) -> Self {
        Self {
            family: Family::Pointnet,
            architecture,
            points: default_points(),
            normals,
            unit_sphere: true,
            output: PointOutput::Embedding,
            relu: false,
            projection: None,
            normalize: false,
            source: None,
            licence: None,
            provenance: None,
        }
    }

    /// [`ModelConfig::new`] by one of [`Architecture::NAMES`].
    ///
    /// # Errors
    /// [`Error::Argument`] where there is no such architecture.
    pub fn preset(architecture: &str, normals: bool) -> Result<Self> {
        let architecture = Architecture::Named(architecture.into());
        architecture.config()?;
        Ok(Self::new(architecture, normals))
    }

    /// What a published checkpoint is, by its keys and the shape of its first weight.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where it is not of PointNet++'s classifiers.
    pub fn detect(checkpoint: &Checkpoint) -> Result<Self> {
        let (name, normals) = names::detect(checkpoint)?;
        Ok(Self::new(Architecture::Named(name.into()), normals))
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
        if let Some(reason) = points_fault(self.points) {
            return Err(Error::config(path, "points", reason));
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

    /// Values a point: 3, or 6 with normals.
    pub fn columns(&self) -> usize {
        if self.normals { 6 } else { 3 }
    }
}

/// Why a number of points cannot be used.
pub(crate) fn points_fault(points: usize) -> Option<String> {
    (points == 0 || points > MOST_POINTS)
        .then(|| format!("{points} points asked for; 1 to {MOST_POINTS} are accepted"))
}
