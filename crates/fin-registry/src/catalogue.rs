//! The rows of the catalogue.

use std::env;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::LazyLock;

use fin_core::image::ImageTransform;
use fin_core::{Error, MapPooling, Pooling, Result};
use serde::{Deserialize, Serialize};

use crate::nearest;

/// What a backbone's embeddings are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Texts with texts.
    TextToText,
    /// Images with images.
    ImageToImage,
    /// Texts with images.
    TextToImage,
    /// 3D meshes with meshes.
    MeshToMesh,
}

impl Task {
    /// Every task.
    pub const ALL: [Self; 4] = [
        Self::TextToText,
        Self::ImageToImage,
        Self::TextToImage,
        Self::MeshToMesh,
    ];

    /// Name, as in `text-to-text`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TextToText => "text-to-text",
            Self::ImageToImage => "image-to-image",
            Self::TextToImage => "text-to-image",
            Self::MeshToMesh => "mesh-to-mesh",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = Error;

    /// # Errors
    /// [`Error::Argument`] listing the names.
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|task| task.name() == text)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                Error::argument(
                    "task",
                    format!("`{text}` is not a task; accepted are {names}"),
                )
            })
    }
}

/// A backbone in the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRow {
    /// What users write.
    pub name: String,
    /// What its embeddings are compared with.
    pub task: Task,
    /// Length of an embedding.
    pub output_dim: usize,
    /// Family of the network.
    pub architecture: Architecture,
    /// Which network of the family, where the checkpoint does not say it itself: a name of
    /// [`fin_cnn::Architecture::names`], or `pointnet2_ssg` or `pointnet2_msg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// One line.
    pub description: String,
    /// Upstream repository, `organisation/name` on huggingface.co; the address of the weights; or
    /// `embedded` of a model that is part of the program.
    pub source: String,
    /// Its name before it moved, which caches may still have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_source: Option<String>,
    /// Branch, tag or commit of the repository; `main` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// File of the repository that holds the weights; another one that is there serves as well. The
    /// last part of an address.
    pub weights: String,
    /// SHA-256 of that file in lower-case hexadecimal, where it is known; where the source is an
    /// address, at least the first 8 digits of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Licence of the weights, as an SPDX expression.
    pub licence: String,
    /// Whose names the checkpoint's keys have: the `model_type` of a text model's configuration, a
    /// name of [`fin_cnn::Dialect`] or of [`fin_clip::Dialect`].
    pub dialect: String,
    /// What is done to an item before the network.
    pub preprocessing: Preprocessing,
    /// Pooling, where the model's directory does not say it in `modules.json` or `fin.json`; of a
    /// model of texts and images, that of its image tower.
    pub pooling: Pooling,
    /// Whether embeddings have unit length, where the model's directory does not say it.
    pub normalize: bool,
    /// Largest number of tokens upstream, of models that read texts; the model's own configuration
    /// decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
}

/// Families of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// Transformer encoders.
    Transformer,
    /// Convolutional networks.
    Cnn,
    /// PointNet and its successors.
    Pointnet,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transformer => "transformer",
            Self::Cnn => "cnn",
            Self::Pointnet => "pointnet",
        })
    }
}

/// What is done to an item before the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Preprocessing {
    /// WordPiece tokens (Schuster and Nakajima 2012), as BERT has them.
    WordPiece {
        /// Whether texts are lower-cased and stripped of accents.
        lower_case: bool,
    },
    /// SentencePiece's unigram tokens (Kudo 2018), as T5 and XLM-RoBERTa have them.
    Unigram,
    /// Pixels, resized, cropped and scaled.
    Image(ImageTransform),
    /// Tokens for texts and pixels for images, as CLIP has them.
    TextImage {
        /// Tokens of texts.
        tokens: Tokens,
        /// Pixels of images.
        image: ImageTransform,
    },
    /// Points sampled on the surface of a mesh, centred and scaled to the unit sphere.
    Points {
        /// Number of points.
        points: usize,
    },
}

/// Tokens of models of texts and images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tokens {
    /// CLIP's byte-pair tokens of lower-case text (Radford et al. 2021, section 2.4).
    BytePair,
    /// SentencePiece's unigram tokens.
    Unigram,
}

impl Preprocessing {
    /// The transform of images.
    pub fn image(&self) -> Option<&ImageTransform> {
        match self {
            Self::Image(transform) => Some(transform),
            Self::TextImage { image, .. } => Some(image),
            Self::WordPiece { .. } | Self::Unigram | Self::Points { .. } => None,
        }
    }
}

/// A list of backbones with unique names.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    #[serde(rename = "model", default)]
    rows: Vec<ModelRow>,
}

/// The embedded catalogue; a test checks that it can be read.
static EMBEDDED: LazyLock<Catalogue> = LazyLock::new(|| {
    Catalogue::from_toml(Path::new("catalogue.toml"), include_str!("catalogue.toml"))
        .expect("the embedded catalogue is valid")
});

/// Largest size of a catalogue, in bytes; two hundred rows fit. Tables of dotted keys take up to
/// 550 times their bytes while they are parsed.
const MAX_CATALOGUE: u64 = 96 << 10;

impl Catalogue {
    /// The backbones that come with this library.
    pub fn embedded() -> &'static Self {
        &EMBEDDED
    }

    /// The embedded backbones and those of the file that `$FIN_CATALOGUE` names, where it is set.
    ///
    /// # Errors
    /// Those of [`Catalogue::read`] and [`Catalogue::with`].
    pub fn from_env() -> Result<Self> {
        let embedded = Self::embedded().clone();
        match env::var_os("FIN_CATALOGUE").filter(|path| !path.is_empty()) {
            Some(path) => {
                let path = Path::new(&path);
                embedded.with(Self::read(path)?, path)
            }
            None => Ok(embedded),
        }
    }

    /// Reads a TOML file with a `[[model]]` table a backbone; the keys are the fields of
    /// [`ModelRow`].
    ///
    /// # Errors
    /// [`Error::Io`], and those of [`Catalogue::from_toml`].
    pub fn read(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path)
            .map_err(Error::io(path, "read"))?
            .len();
        check_size(path, size)?;
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
        Self::from_toml(path, &text)
    }

    /// Parses the text of the file `path`, which errors name.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] with the line where it is not the TOML that was expected, or where
    /// it is larger than a catalogue may be, [`Error::Config`] naming the row and field that cannot be.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self> {
        check_size(path, text.len() as u64)?;
        let catalogue: Self = toml::from_str(text).map_err(|e| {
            Error::invalid(
                path,
                format!("not a catalogue of models: {}", e.to_string().trim()),
            )
        })?;
        for (i, row) in catalogue.rows.iter().enumerate() {
            row.check().map_err(|(field, reason)| {
                Error::config(path, format!("model[{i}].{field}"), reason)
            })?;
            if catalogue.rows[..i]
                .iter()
                .any(|other| other.name == row.name)
            {
                let reason = format!("`{}` names two models", row.name);
                return Err(Error::config(path, format!("model[{i}].name"), reason));
            }
        }
        Ok(catalogue)
    }

    /// Adds the rows of another catalogue, which was read from `path`.
    ///
    /// # Errors
    /// [`Error::Config`] where a name is in both.
    pub fn with(mut self, other: Self, path: &Path) -> Result<Self> {
        for (i, row) in other.rows.into_iter().enumerate() {
            if self.rows.iter().any(|known| known.name == row.name) {
                let reason = format!(
                    "`{}` is the name of another model in the catalogue; choose a different one",
                    row.name
                );
                return Err(Error::config(path, format!("model[{i}].name"), reason));
            }
            self.rows.push(row);
        }
        Ok(self)
    }

    /// The backbones of a task, or all, in the catalogue's order.
    pub fn list(&self, task: Option<Task>) -> Vec<&ModelRow> {
        self.rows
            .iter()
            .filter(|row| task.is_none_or(|task| row.task == task))
            .collect()
    }

    /// The backbone of this name.
    ///
    /// # Errors
    /// [`Error::Argument`] suggesting the nearest names.
    pub fn find(&self, name: &str) -> Result<&ModelRow> {
        if let Some(row) = self.rows.iter().find(|row| row.name == name) {
            return Ok(row);
        }
        let quote = |names: Vec<&str>| {
            let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            quoted.join(", ")
        };
        let all = || self.rows.iter().map(|row| row.name.as_str());
        let near = nearest(name, all());
        let hint = if near.is_empty() {
            format!("the catalogue has {}", quote(all().collect()))
        } else {
            format!("did you mean {}?", quote(near))
        };
        Err(Error::argument(
            "model",
            format!("`{name}` is neither a model nor a directory; {hint}"),
        ))
    }
}

fn check_size(path: &Path, size: u64) -> Result<()> {
    if size > MAX_CATALOGUE {
        let reason = format!(
            "{size} bytes are too many for a catalogue of models; {MAX_CATALOGUE} are accepted"
        );
        return Err(Error::invalid(path, reason));
    }
    Ok(())
}

impl ModelRow {
    /// Whether the model is part of the program.
    pub fn is_embedded(&self) -> bool {
        self.source == crate::embedded::SOURCE
    }

    /// The field that cannot be, and why.
    fn check(&self) -> std::result::Result<(), (&'static str, String)> {
        let part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let plain =
            |text: &str| !text.is_empty() && text.chars().all(part) && !text.starts_with('.');
        if !plain(&self.name) {
            let reason = format!(
                "`{}` is not a name; accepted: letters, digits, `-`, `_` and `.`, not first",
                self.name
            );
            return Err(("name", reason));
        }
        for (field, source) in [
            ("source", Some(&self.source)),
            ("former_source", self.former_source.as_ref()),
        ] {
            let Some(source) = source else { continue };
            if field == "source" && self.is_address() {
                continue;
            }
            let parts: Vec<&str> = source.split('/').collect();
            // Old repositories have no organisation.
            if parts.len() > 2 || !parts.iter().all(|part| plain(part)) {
                let reason = format!(
                    "`{source}` is neither a repository, as in organisation/name, nor an address \
                     that begins with https://"
                );
                return Err((field, reason));
            }
        }
        if self.is_address() {
            self.check_address(plain)?;
        }
        if self.revision.as_deref().is_some_and(|revision| {
            revision.is_empty() || !revision.chars().all(|c| part(c) || c == '/')
        }) {
            return Err(("revision", "not a branch, tag or commit".into()));
        }
        let relative = |file: &str| file.split('/').all(plain);
        if !relative(&self.weights) {
            let reason = format!("`{}` is not a file of a repository", self.weights);
            return Err(("weights", reason));
        }
        let fewest = if self.is_address() { 8 } else { 64 };
        if let Some(digest) = &self.sha256
            && (!(fewest..=64).contains(&digest.len())
                || !digest.bytes().all(|b| b"0123456789abcdef".contains(&b)))
        {
            let digits = if fewest == 64 { "64" } else { "8 to 64" };
            let reason = format!("not a SHA-256 in {digits} lower-case hexadecimal digits");
            return Err(("sha256", reason));
        }
        if self.output_dim == 0 || self.output_dim > 1 << 24 {
            let reason = format!("{} is not a usable length", self.output_dim);
            return Err(("output_dim", reason));
        }
        match (self.architecture, self.task) {
            (Architecture::Transformer, Task::TextToText) => self.check_text(),
            (Architecture::Transformer, Task::TextToImage) => self.check_text_image(),
            (Architecture::Cnn, Task::ImageToImage) => self.check_image(),
            (Architecture::Pointnet, Task::MeshToMesh) => self.check_mesh(),
            (architecture, task) => {
                let accepted = match task {
                    Task::TextToText | Task::TextToImage => "transformer",
                    Task::ImageToImage => "cnn",
                    Task::MeshToMesh => "pointnet",
                };
                let reason =
                    format!("`{architecture}` is not built for {task}; accepted: {accepted}");
                Err(("architecture", reason))
            }
        }
    }

    /// What only addresses can have wrong.
    fn check_address(
        &self,
        plain: impl Fn(&str) -> bool,
    ) -> std::result::Result<(), (&'static str, String)> {
        let source = &self.source;
        let odd = |c: char| c.is_whitespace() || c.is_control() || "\"'<>`@?#\\".contains(c);
        let rest = source.split_once("://").map_or("", |(_, rest)| rest);
        let host = rest.split('/').next().unwrap_or_default();
        if host.is_empty() || rest.chars().any(odd) || rest.len() > 1000 {
            let reason = format!("`{source}` is not an address of a file");
            return Err(("source", reason));
        }
        // The file's name becomes one on this machine.
        if !plain(&self.weights) || !source.ends_with(&format!("/{}", self.weights)) {
            let reason = format!(
                "`{}` is not the last part of the address {source}",
                self.weights
            );
            return Err(("weights", reason));
        }
        if self.revision.is_some() || self.former_source.is_some() {
            let field = match self.revision {
                Some(_) => "revision",
                None => "former_source",
            };
            return Err((field, "an address has none; leave it out".into()));
        }
        // Without one it is told where it is, and not downloaded.
        if self.sha256.is_none() && self.architecture != Architecture::Pointnet {
            let reason = "is missing; what comes from an address is checked by its digest, of which \
                          at least 8 digits are needed";
            return Err(("sha256", reason.into()));
        }
        Ok(())
    }

    fn check_text(&self) -> std::result::Result<(), (&'static str, String)> {
        if self.network.is_some() {
            let reason = "a transformer's is in its config.json; leave it out";
            return Err(("network", reason.into()));
        }
        if self.is_address() {
            let reason = "a transformer is more than one file; a repository is needed";
            return Err(("source", reason.into()));
        }
        if !matches!(
            self.preprocessing,
            Preprocessing::WordPiece { .. } | Preprocessing::Unigram
        ) {
            let reason = "a transformer reads texts; accepted kinds: word-piece, unigram";
            return Err(("preprocessing", reason.into()));
        }
        self.check_max_length()
    }

    fn check_max_length(&self) -> std::result::Result<(), (&'static str, String)> {
        match self.max_length {
            Some(0) => Err(("max_length", "0 tokens are none".into())),
            Some(_) => Ok(()),
            None => Err(("max_length", "is missing".into())),
        }
    }

    fn check_text_image(&self) -> std::result::Result<(), (&'static str, String)> {
        if self.network.is_some() {
            let reason = "a model of texts and images has it in its configuration; leave it out";
            return Err(("network", reason.into()));
        }
        if self.is_address() {
            let reason =
                "a model of texts and images is more than one file; a repository is needed";
            return Err(("source", reason.into()));
        }
        if fin_clip::Dialect::from_name(&self.dialect).is_none() {
            let names = fin_clip::Dialect::ALL
                .map(fin_clip::Dialect::name)
                .join(", ");
            let reason = format!("`{}` is not one of {names}", self.dialect);
            return Err(("dialect", reason));
        }
        let Preprocessing::TextImage { image, .. } = &self.preprocessing else {
            let reason = "the kind of a model of texts and images is text-image";
            return Err(("preprocessing", reason.into()));
        };
        if let Some((field, reason)) = image.fault() {
            return Err(("preprocessing", format!("field `image.{field}`: {reason}")));
        }
        self.check_max_length()
    }

    fn check_mesh(&self) -> std::result::Result<(), (&'static str, String)> {
        if self.max_length.is_some() {
            let reason = "a mesh has no tokens; leave it out";
            return Err(("max_length", reason.into()));
        }
        let names = fin_pointnet::Architecture::NAMES;
        match &self.network {
            Some(network) if names.contains(&network.as_str()) => {}
            Some(network) => {
                let reason = format!("`{network}` is not one of {}", names.join(", "));
                return Err(("network", reason));
            }
            None => {
                return Err((
                    "network",
                    format!("is missing; one of {}", names.join(", ")),
                ));
            }
        }
        match self.preprocessing {
            Preprocessing::Points { points: 0 } => {
                Err(("preprocessing", "field `points`: 0 are none".into()))
            }
            Preprocessing::Points { .. } => Ok(()),
            _ => Err((
                "preprocessing",
                "the kind of a point network is points".into(),
            )),
        }
    }

    fn check_image(&self) -> std::result::Result<(), (&'static str, String)> {
        if self.max_length.is_some() {
            let reason = "an image has no tokens; leave it out";
            return Err(("max_length", reason.into()));
        }
        let Some(network) = &self.network else {
            return Err(("network", "is missing, as in network = \"resnet50\"".into()));
        };
        let architecture = fin_cnn::Architecture::Named(network.clone());
        if let Err(error) = architecture.config() {
            let reason = match error {
                Error::Argument { reason, .. } => reason,
                other => other.to_string(),
            };
            return Err(("network", reason));
        }
        if fin_cnn::Dialect::from_name(&self.dialect).is_none() {
            let names = fin_cnn::Dialect::ALL.map(fin_cnn::Dialect::name).join(", ");
            let reason = format!("`{}` is not one of {names}", self.dialect);
            return Err(("dialect", reason));
        }
        let Some(transform) = self.preprocessing.image() else {
            let reason = "a convolutional network reads images; the kind is image";
            return Err(("preprocessing", reason.into()));
        };
        if let Some((field, reason)) = transform.fault() {
            return Err(("preprocessing", format!("field `{field}`: {reason}")));
        }
        if transform.output_size().is_none() {
            let reason =
                "images of unequal size do not fit in a batch; give a crop or an exact size";
            return Err(("preprocessing", reason.into()));
        }
        match self.map_pooling() {
            Some(_) => Ok(()),
            None => {
                let names = MapPooling::ALL.map(MapPooling::name).join(", ");
                let reason = format!("`{}` is for tokens; accepted: {names}", self.pooling);
                Err(("pooling", reason))
            }
        }
    }

    /// Whether the source is the address of a file, rather than a repository.
    pub fn is_address(&self) -> bool {
        self.source.starts_with("https://") || is_of_this_machine(&self.source)
    }

    /// The pooling of an image model.
    pub fn map_pooling(&self) -> Option<MapPooling> {
        self.pooling.name().parse().ok()
    }
}

/// Without encryption, which is for servers on this machine alone.
fn is_of_this_machine(address: &str) -> bool {
    ["http://127.0.0.1:", "http://localhost:", "http://[::1]:"]
        .iter()
        .any(|start| address.starts_with(start))
}

/// The embedded backbones of a task, or all, in the catalogue's order.
pub fn list_models(task: Option<Task>) -> Vec<&'static ModelRow> {
    Catalogue::embedded().list(task)
}

/// The embedded backbone of this name.
///
/// # Errors
/// [`Error::Argument`] suggesting the nearest names.
pub fn find(name: &str) -> Result<&'static ModelRow> {
    Catalogue::embedded().find(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_is_whole_and_every_name_is_found() {
        let rows = list_models(None);
        assert!(!rows.is_empty());
        let names: HashSet<_> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.len(), rows.len());
        for row in rows {
            assert_eq!(find(&row.name).unwrap(), row);
            assert!(row.output_dim > 0, "{}", row.name);
            assert!(!row.description.is_empty() && !row.licence.is_empty());
            let parts = row.source.split('/').count();
            assert!(
                row.is_address() || row.is_embedded() || parts == 2,
                "{}",
                row.source
            );
        }
    }

    /// What the catalogue promises by name: width, length and how the vector is made.
    #[test]
    fn the_text_rows() {
        let rows: Vec<_> = list_models(Some(Task::TextToText))
            .into_iter()
            .map(|row| {
                (
                    row.name.as_str(),
                    row.output_dim,
                    row.dialect.as_str(),
                    row.max_length.unwrap(),
                )
            })
            .collect();
        assert_eq!(
            rows,
            [
                ("fin-tiny-en", 128, "bert", 256),
                ("jina-embedding-t-en-v1", 312, "bert", 512),
                ("jina-embedding-s-en-v1", 512, "t5", 512),
                ("jina-embedding-b-en-v1", 768, "t5", 512),
                ("jina-embedding-l-en-v1", 1024, "t5", 512),
                ("bert-base-en", 768, "bert", 512),
                ("bert-base-multi", 768, "bert", 512),
                ("distiluse-base-multi", 512, "distilbert", 128),
                ("sbert-base-en", 768, "distilbert", 510),
                ("all-minilm-l6-v2", 384, "bert", 256),
            ]
        );
    }

    /// Every image row has the preprocessing of the preset that it names, and the width of its
    /// network.
    #[test]
    fn the_image_rows() {
        let rows = list_models(Some(Task::ImageToImage));
        let expected = [
            ("resnet-base", 2048, Some("IMAGENET1K_V2")),
            ("resnet-large", 2048, Some("IMAGENET1K_V2")),
            ("efficientnet-base", 1792, Some("IMAGENET1K_V1")),
            ("efficientnet-large", 2560, Some("IMAGENET1K_V1")),
            ("resnet-base-v1", 2048, Some("IMAGENET1K_V1")),
            ("resnet-large-v1", 2048, Some("IMAGENET1K_V1")),
            ("efficientnet-lite0", 1280, None),
            ("efficientnet-lite1", 1280, None),
            ("efficientnet-lite2", 1280, None),
            ("efficientnet-lite3", 1280, None),
            ("efficientnet-lite4", 1280, None),
        ];
        assert_eq!(rows.len(), expected.len());
        for (row, (name, output_dim, weights)) in rows.into_iter().zip(expected) {
            assert_eq!((row.name.as_str(), row.output_dim), (name, output_dim));
            let network = row.network.as_deref().unwrap();
            let preset = fin_cnn::Preset::find(network, weights).unwrap();
            let transform = row.preprocessing.image().unwrap();
            assert_eq!(*transform, preset.transform(), "{name}");
            let architecture = fin_cnn::Architecture::Named(network.into());
            let width = architecture.config().unwrap().hidden_size();
            assert_eq!(width, output_dim, "{name}");
        }
    }

    /// What the catalogue promises of models of texts and images, and of meshes.
    #[test]
    fn the_clip_and_mesh_rows() {
        let rows = list_models(Some(Task::TextToImage));
        let found: Vec<_> = rows
            .iter()
            .map(|row| (row.name.as_str(), row.output_dim, row.dialect.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("clip-base-en", 512, "transformers"),
                ("clip-large-en", 768, "transformers"),
                ("clip-base-multi", 512, "open_clip"),
                ("clip-huge-en", 1024, "transformers"),
            ]
        );
        for row in rows {
            let transform = row.preprocessing.image().unwrap();
            assert_eq!(transform.output_size(), Some([224, 224]), "{}", row.name);
        }
        let rows = list_models(Some(Task::MeshToMesh));
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].name.as_str(), rows[0].output_dim),
            ("pointnet-base", 512)
        );
        assert_eq!(
            rows[0].preprocessing,
            Preprocessing::Points { points: 2048 }
        );
    }

    const ROW: &str = r#"
        [[model]]
        name = "ours"
        task = "text-to-text"
        output_dim = 32
        architecture = "transformer"
        description = "A model of our own"
        source = "us/ours"
        weights = "model.safetensors"
        licence = "MIT"
        dialect = "bert"
        preprocessing = { kind = "word-piece", lower_case = true }
        pooling = "mean"
        normalize = true
        max_length = 64
    "#;

    #[test]
    fn users_add_rows() {
        let path = Path::new("models.toml");
        let ours = Catalogue::from_toml(path, ROW).unwrap();
        let both = Catalogue::embedded()
            .clone()
            .with(ours.clone(), path)
            .unwrap();
        assert_eq!(both.find("ours").unwrap().output_dim, 32);
        assert_eq!(both.list(None).len(), list_models(None).len() + 1);
        let error = both.with(ours, path).unwrap_err().to_string();
        for part in ["models.toml", "model[0].name", "`ours`"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn rows_that_cannot_be_are_refused_by_field() {
        let path = Path::new("models.toml");
        for (from, to, expected) in [
            ("\"ours\"", "\"../ours\"", "model[0].name"),
            ("us/ours", "us/../ours", "model[0].source"),
            ("us/ours", "us", ""),
            (
                "model.safetensors",
                "../model.safetensors",
                "model[0].weights",
            ),
            ("output_dim = 32", "output_dim = 0", "model[0].output_dim"),
            ("output_dim = 32", "output_dim = -1", "output_dim"),
            ("licence", "license", "license"),
            ("normalize = true", "", "normalize"),
            ("\"mean\"", "\"average\"", "average"),
            ("word-piece", "words", "words"),
            ("lower_case", "lowercase", "lowercase"),
            ("licence", "sha256 = \"12\"\nlicence", "model[0].sha256"),
            (
                "licence",
                "revision = \"a b\"\nlicence",
                "model[0].revision",
            ),
            ("max_length = 64", "max_length = 64\n[model", "models.toml"),
        ] {
            assert!(ROW.contains(from));
            let result = Catalogue::from_toml(path, &ROW.replacen(from, to, 1));
            if expected.is_empty() {
                result.unwrap();
                continue;
            }
            let error = result.unwrap_err().to_string();
            assert!(error.contains("models.toml"), "{error}");
            assert!(error.contains(expected), "{expected} is not in: {error}");
        }
        let twice = format!("{ROW}{ROW}");
        let error = Catalogue::from_toml(path, &twice).unwrap_err().to_string();
        assert!(error.contains("model[1].name"), "{error}");
    }

    const IMAGE_ROW: &str = r#"
        [[model]]
        name = "ours"
        task = "image-to-image"
        output_dim = 512
        architecture = "cnn"
        network = "resnet18"
        description = "A model of our own"
        source = "https://example.org/models/resnet18-0123abcd.pth"
        weights = "resnet18-0123abcd.pth"
        sha256 = "0123abcd"
        licence = "MIT"
        dialect = "torchvision"
        pooling = "gem"
        normalize = true
        preprocessing = { kind = "image", resize = { shorter_side = 64 }, interpolation = "bilinear", crop = [56, 56], mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }
    "#;

    #[test]
    fn image_rows_that_cannot_be_are_refused_by_field() {
        let path = Path::new("models.toml");
        let ours = Catalogue::from_toml(path, IMAGE_ROW).unwrap();
        assert_eq!(
            ours.find("ours").unwrap().map_pooling(),
            Some(MapPooling::Gem)
        );
        for (from, to, expected) in [
            ("network = \"resnet18\"", "", "model[0].network"),
            ("\"resnet18\"", "\"resnet19\"", "resnet50"),
            ("https://", "http://", "model[0].source"),
            ("https://example.org", "https://", "model[0].source"),
            ("example.org", "a@example.org", "model[0].source"),
            (
                "\"resnet18-0123abcd.pth\"",
                "\"other.pth\"",
                "model[0].weights",
            ),
            ("sha256 = \"0123abcd\"", "", "model[0].sha256"),
            (
                "sha256 = \"0123abcd\"",
                "sha256 = \"0123abc\"",
                "model[0].sha256",
            ),
            ("\"torchvision\"", "\"keras\"", "torchvision, timm"),
            ("\"gem\"", "\"cls\"", "mean, max, gem"),
            ("licence", "max_length = 3\nlicence", "model[0].max_length"),
            (
                "licence",
                "revision = \"main\"\nlicence",
                "model[0].revision",
            ),
            ("crop = [56, 56],", "crop = [0, 56],", "`crop`"),
            ("crop = [56, 56],", "", "unequal size"),
            ("\"cnn\"", "\"transformer\"", "model[0].architecture"),
            ("\"cnn\"", "\"pointnet\"", "model[0].architecture"),
            ("image-to-image", "text-to-text", "model[0].architecture"),
            ("std = [0.5, 0.5, 0.5]", "std = [0.5, 0.5]", "models.toml"),
        ] {
            assert!(IMAGE_ROW.contains(from), "{from}");
            let row = IMAGE_ROW.replacen(from, to, 1);
            let error = Catalogue::from_toml(path, &row).unwrap_err().to_string();
            assert!(error.contains("models.toml"), "{error}");
            assert!(error.contains(expected), "{expected} is not in: {error}");
        }
        let local = IMAGE_ROW.replacen("https://example.org", "http://127.0.0.1:80", 1);
        Catalogue::from_toml(path, &local).unwrap();
    }

    #[test]
    fn the_filter_is_by_task() {
        assert_eq!(
            list_models(Some(Task::TextToText)),
            list_models(None)
                .into_iter()
                .filter(|row| row.task == Task::TextToText)
                .collect::<Vec<_>>()
        );
        for task in Task::ALL {
            assert_eq!(task.name().parse::<Task>().unwrap(), task);
        }
        let error = "text".parse::<Task>().unwrap_err().to_string();
        assert!(
            error.ends_with("text-to-text, image-to-image, text-to-image, mesh-to-mesh"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_name_suggests_near_ones_or_lists_all() {
        let error = find("bert-base").unwrap_err().to_string();
        assert!(error.contains("did you mean `bert-base-en`"), "{error}");
        let error = find("qqq").unwrap_err().to_string();
        for row in list_models(None) {
            assert!(error.contains(&format!("`{}`", row.name)), "{error}");
        }
    }
}
