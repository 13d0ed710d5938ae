//! From a name or a directory to a model.

use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use fin_clip::{ClipEmbedder, ClipOptions};
use fin_cnn::{Architecture as Network, CONFIG_FILE, ImageEmbedder, ImageOptions, ModelConfig};
use fin_core::image::Augmentation;
use fin_core::weights;
use fin_core::{
    BatchLimits, DeviceSpec, Embedder, EmbeddingNetwork, Embeddings, Error, Precision, Result,
};
use fin_pointnet::{MeshEmbedder, MeshOptions, PointAugmentation};
use fin_transformer::{TextEmbedder, TextOptions};
use serde::{Deserialize, Serialize};

use crate::catalogue::{Architecture, Catalogue, ModelRow, Preprocessing, Task};
use crate::embedder::AnyEmbedder;
use crate::locations::Locations;

/// How a model is opened.
///
/// ```
/// use fin_registry::ModelOptions;
///
/// let options = ModelOptions { output_dim: Some(128), freeze: true, ..ModelOptions::default() };
/// assert_eq!(options.device, fin_core::DeviceSpec::Flex);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelOptions {
    /// Where to compute.
    pub device: DeviceSpec,
    /// How much is computed at a time by [`Model::encode_text`] and its like.
    pub limits: BatchLimits,
    /// Pooling instead of the model's: what [`fin_transformer::TextPooling`],
    /// [`fin_core::MapPooling`] or [`fin_pointnet::PointOutput`] is parsed from.
    pub pooling: Option<String>,
    /// Whether embeddings are scaled to unit length, instead of what the model says.
    pub normalize: Option<bool>,
    /// Adds a projection head to this many components, with new weights that must be trained.
    pub output_dim: Option<usize>,
    /// Keeps the backbone as it is in training; only heads learn.
    pub freeze: bool,
    /// Refuse weights with NaN or infinite values.
    pub check: bool,
    /// What weights are held in; int8 is not for meshes.
    pub precision: Precision,
    /// Largest number of tokens, instead of the model's; for texts.
    pub max_length: Option<usize>,
    /// Name of the prompt that is put before every text, instead of the model's default.
    pub prompt: Option<String>,
    /// Height and width that images are cropped to, instead of the model's; the resizing before it
    /// is scaled along.
    pub image_size: Option<usize>,
    /// Most pixels that an image file may have, instead of [`fin_core::image::MAX_PIXELS`].
    pub max_pixels: Option<u64>,
    /// Random changes to the images of training.
    pub augmentation: Option<Augmentation>,
    /// Points that are sampled of a mesh, instead of the model's number.
    pub points: Option<usize>,
    /// Random changes to the points of training.
    pub point_augmentation: Option<PointAugmentation>,
    /// Towers of a model of texts and images that are kept as they are in training (Zhai et al.
    /// 2022, "LiT").
    pub lock: Vec<Tower>,
    /// Parameters that are kept as they are in training, by patterns of their names in the
    /// weights file: `*` stands for any characters, `?` for one.
    pub freeze_patterns: Vec<String>,
}

/// A tower of a model of texts and images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tower {
    /// The encoder of texts.
    Text,
    /// The encoder of images.
    Image,
}

impl ModelOptions {
    /// Refuses what says nothing to a model that reads `modality`.
    fn check(&self, modality: Modality) -> Result<()> {
        use Modality::{Image, Mesh, Text, TextImage};
        let options: [(&str, bool, &[Modality]); 11] = [
            ("pooling", self.pooling.is_some(), &[Text, Image, Mesh]),
            (
                "output-dim",
                self.output_dim.is_some(),
                &[Text, Image, Mesh],
            ),
            ("freeze", self.freeze, &[Text, Image, Mesh]),
            ("max-length", self.max_length.is_some(), &[Text, TextImage]),
            ("prompt", self.prompt.is_some(), &[Text]),
            ("image-size", self.image_size.is_some(), &[Image, TextImage]),
            ("max-pixels", self.max_pixels.is_some(), &[Image, TextImage]),
            (
                "augment",
                self.augmentation.is_some() || self.point_augmentation.is_some(),
                &[Image, TextImage, Mesh],
            ),
            ("points", self.points.is_some(), &[Mesh]),
            ("lock", !self.lock.is_empty(), &[TextImage]),
            (
                "precision",
                self.precision == Precision::Int8,
                &[Text, Image, TextImage],
            ),
        ];
        let meaningless =
            |(_, given, of): &&(&str, bool, &[Modality])| *given && !of.contains(&modality);
        match options.iter().find(meaningless) {
            Some((name, ..)) => {
                let reason = format!("means nothing to a model of {modality}; leave it out");
                Err(Error::argument(*name, reason))
            }
            None => Ok(()),
        }
    }

    fn text(&self) -> Result<TextOptions> {
        Ok(TextOptions {
            pooling: self.pooling.as_deref().map(str::parse).transpose()?,
            normalize: self.normalize,
            max_length: self.max_length,
            output_dim: self.output_dim,
            prompt: self.prompt.clone(),
            freeze: self.freeze,
            check: self.check,
            precision: self.precision,
        })
    }

    fn image(&self) -> Result<ImageOptions> {
        Ok(ImageOptions {
            pooling: self.pooling.as_deref().map(str::parse).transpose()?,
            normalize: self.normalize,
            output_dim: self.output_dim,
            image_size: self.image_size,
            max_pixels: self.max_pixels,
            augmentation: self.augmentation,
            freeze: self.freeze,
            check: self.check,
            precision: self.precision,
        })
    }

    fn clip(&self) -> Result<ClipOptions> {
        Ok(ClipOptions {
            normalize: self.normalize,
            max_length: self.max_length,
            image_size: self.image_size,
            max_pixels: self.max_pixels,
            augmentation: self.augmentation,
            lock_text: self.lock.contains(&Tower::Text),
            lock_image: self.lock.contains(&Tower::Image),
            freeze: self.freeze_patterns.clone(),
            check: self.check,
            precision: self.precision,
            ..ClipOptions::default()
        })
    }

    fn mesh(&self) -> Result<MeshOptions> {
        Ok(MeshOptions {
            output: self.pooling.as_deref().map(str::parse).transpose()?,
            points: self.points,
            normalize: self.normalize,
            output_dim: self.output_dim,
            augmentation: self.point_augmentation,
            freeze: self.freeze,
            check: self.check,
            precision: self.precision,
            ..MeshOptions::default()
        })
    }
}

/// The options of a family.
enum FamilyOptions {
    Text(TextOptions),
    Image(ImageOptions),
    TextImage(ClipOptions),
    Mesh(MeshOptions),
}

/// An open model.
#[derive(Debug, Clone)]
pub struct Model {
    /// Preprocessing and network.
    pub embedder: AnyEmbedder,
    /// Where the network is.
    pub device: Device,
    /// How much is computed at a time.
    pub limits: BatchLimits,
    /// The catalogue's row, where the model was opened by its name.
    pub row: Option<ModelRow>,
    /// Where the checkpoint and the catalogue's row disagree. The checkpoint holds.
    pub contradictions: Vec<Contradiction>,
}

impl Model {
    /// Length of an embedding.
    pub fn output_dim(&self) -> usize {
        self.embedder.output_dim()
    }

    /// Embeds texts, in order.
    ///
    /// ```no_run
    /// use fin_registry::{ModelOptions, build_model};
    ///
    /// let model = build_model("all-minilm-l6-v2", &ModelOptions::default())?;
    /// let embeddings = model.encode_text(&["A boat waits at the pier.".to_string()])?;
    /// assert_eq!(embeddings.dim, 384);
    /// # Ok::<(), fin_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Argument`] where the model reads something else; those of [`fin_core::encode`].
    pub fn encode_text(&self, texts: &[String]) -> Result<Embeddings> {
        self.embedder.encode_text(texts, &self.device, self.limits)
    }

    /// Embeds image files, in order.
    ///
    /// ```no_run
    /// use fin_registry::{ModelOptions, build_model};
    ///
    /// let model = build_model("resnet-base", &ModelOptions::default())?;
    /// let embeddings = model.encode_image(&["pier.jpg".into(), "boat.png".into()])?;
    /// assert_eq!(embeddings.dim, 2048);
    /// # Ok::<(), fin_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Argument`] where the model reads something else; those of [`fin_core::encode`].
    pub fn encode_image(&self, paths: &[PathBuf]) -> Result<Embeddings> {
        self.embedder.encode_image(paths, &self.device, self.limits)
    }

    /// Embeds files of meshes or point clouds, in order.
    ///
    /// ```no_run
    /// use fin_registry::{ModelOptions, build_model};
    ///
    /// let model = build_model("pointnet-base", &ModelOptions::default())?;
    /// let embeddings = model.encode_mesh(&["teapot.obj".into(), "cow.ply".into()])?;
    /// assert_eq!(embeddings.dim, 512);
    /// # Ok::<(), fin_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Argument`] where the model reads something else; those of [`fin_core::encode`].
    pub fn encode_mesh(&self, paths: &[PathBuf]) -> Result<Embeddings> {
        self.embedder.encode_mesh(paths, &self.device, self.limits)
    }
}

/// A field in which a checkpoint is not what the catalogue says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// Field of [`ModelRow`].
    pub field: &'static str,
    /// Its value in the catalogue.
    pub catalogue: String,
    /// What the checkpoint has; this is what holds.
    pub checkpoint: String,
}

/// The fields, as `(name, in the catalogue, in the checkpoint)`, that are not the same in both.
pub(crate) fn differing<const N: usize>(
    fields: [(&'static str, String, String); N],
) -> impl Iterator<Item = Contradiction> {
    fields
        .into_iter()
        .filter(|(_, catalogue, checkpoint)| catalogue != checkpoint)
        .map(|(field, catalogue, checkpoint)| Contradiction {
            field,
            catalogue,
            checkpoint,
        })
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is {} in the catalogue and {} in the checkpoint; the checkpoint holds",
            self.field, self.catalogue, self.checkpoint
        )
    }
}

/// A catalogue and the places where the files of its models are.
#[derive(Debug, Clone)]
pub struct Registry {
    /// The models that are known by name.
    pub catalogue: Catalogue,
    /// Where their files are looked for.
    pub locations: Locations,
}

impl Registry {
    /// As the environment has it: [`Catalogue::from_env`] and [`Locations::from_env`].
    ///
    /// # Errors
    /// Those of [`Catalogue::from_env`].
    pub fn from_env() -> Result<Self> {
        Ok(Self {
            catalogue: Catalogue::from_env()?,
            locations: Locations::from_env(),
        })
    }

    /// The directory of a model, or its file of weights: a path as it is, a name by way of the
    /// catalogue.
    ///
    /// What contains a path separator, or exists as a directory, is a path. What is in none of the
    /// places on this machine is downloaded.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where the name is unknown; those of [`Locations::fetch`].
    pub fn locate(&self, name_or_dir: &str) -> Result<(PathBuf, Option<&ModelRow>)> {
        let path = Path::new(name_or_dir);
        if name_or_dir.contains(std::path::is_separator) || path.is_dir() {
            return Ok((path.to_path_buf(), None));
        }
        let row = self.catalogue.find(name_or_dir)?;
        Ok((self.locations.fetch(row)?, Some(row)))
    }

    /// What a model reads, from its row or from its directory, without opening it.
    ///
    /// # Errors
    /// [`Error::Argument`] where the name is unknown; [`Error::Config`] where the directory says
    /// that it is of a family that is not known here.
    pub fn modality(&self, name_or_dir: &str) -> Result<Modality> {
        let path = Path::new(name_or_dir);
        if name_or_dir.contains(std::path::is_separator) || path.is_dir() {
            return modality_of(path);
        }
        let row = self.catalogue.find(name_or_dir)?;
        Ok(match (row.architecture, row.task) {
            (Architecture::Cnn, _) => Modality::Image,
            (Architecture::Pointnet, _) => Modality::Mesh,
            (Architecture::Transformer, Task::TextToImage) => Modality::TextImage,
            (Architecture::Transformer, _) => Modality::Text,
        })
    }

    /// Opens a model by its name in the catalogue, or from a directory.
    ///
    /// # Errors
    /// Those of [`Registry::locate`], of [`DeviceSpec::open`], and of opening a model of the family;
    /// [`Error::Argument`] where an option means nothing to it.
    pub fn build_model(&self, name_or_dir: &str, options: &ModelOptions) -> Result<Model> {
        let device = options.device.open()?;
        // Options that mean nothing are found before anything is downloaded.
        let modality = self.modality(name_or_dir)?;
        options.check(modality)?;
        let family = match modality {
            Modality::Text => FamilyOptions::Text(options.text()?),
            Modality::Image => FamilyOptions::Image(options.image()?),
            Modality::TextImage => FamilyOptions::TextImage(options.clip()?),
            Modality::Mesh => FamilyOptions::Mesh(options.mesh()?),
        };
        let (path, row) = self.locate(name_or_dir)?;
        let (embedder, contradictions) = match family {
            FamilyOptions::Text(mut text) => {
                if let Some(row) = row {
                    default_to(row, &path, &mut text);
                }
                let embedder = TextEmbedder::open(&path, &text, &device)?;
                let embedder = frozen(embedder, &options.freeze_patterns)?;
                let found = row.map(|row| contradictions(row, options, &embedder));
                (AnyEmbedder::Text(Box::new(embedder)), found)
            }
            FamilyOptions::Image(image) => {
                let embedder = open_image(&path, row, &image, &device)?;
                let embedder = frozen(embedder, &options.freeze_patterns)?;
                let found = row.map(|row| image_contradictions(row, options, &embedder));
                (AnyEmbedder::Image(Box::new(embedder)), found)
            }
            FamilyOptions::TextImage(clip) => {
                let mut embedder = ClipEmbedder::open(&path, &clip, &device)?;
                if let Some(row) = row {
                    embedder = embedder.with_origin(&row.source, &row.licence);
                }
                let found = row.map(|row| clip_contradictions(row, options, &embedder));
                (AnyEmbedder::Clip(Box::new(embedder)), found)
            }
            FamilyOptions::Mesh(mesh) => {
                let embedder = open_mesh(&path, row, &mesh, &device)?;
                let embedder = frozen(embedder, &options.freeze_patterns)?;
                let found = row.map(|row| mesh_contradictions(row, options, &embedder));
                (AnyEmbedder::Mesh(Box::new(embedder)), found)
            }
        };
        Ok(Model {
            embedder,
            device,
            limits: options.limits,
            row: row.cloned(),
            contradictions: contradictions.unwrap_or_default(),
        })
    }
}

/// With the parameters that `patterns` stand for left as they are in training.
fn frozen<E: Embedder>(embedder: E, patterns: &[String]) -> Result<E> {
    if patterns.is_empty() {
        return Ok(embedder);
    }
    let network = weights::freeze(embedder.network().clone(), &embedder.names(), patterns)?;
    Ok(embedder.with_network(network))
}

impl Registry {
    /// Makes a model with random weights, which depend on `seed` and the device: a model of meshes by
    /// its name, or one of texts and images from a directory with its configuration and tokenizer,
    /// whose weights, if any, are not read.
    ///
    /// # Errors
    /// [`Error::Argument`] for models of other kinds, which are made from published weights; those of
    /// [`Registry::build_model`].
    pub fn init_model(
        &self,
        name_or_dir: &str,
        options: &ModelOptions,
        seed: u64,
    ) -> Result<Model> {
        let device = options.device.open()?;
        let modality = self.modality(name_or_dir)?;
        options.check(modality)?;
        let is_path =
            name_or_dir.contains(std::path::is_separator) || Path::new(name_or_dir).is_dir();
        device.seed(seed);
        let (embedder, row) = match modality {
            Modality::TextImage if is_path => {
                let embedder = ClipEmbedder::init(name_or_dir, &options.clip()?, &device)?;
                (AnyEmbedder::Clip(Box::new(embedder)), None)
            }
            Modality::Mesh if !is_path => {
                let row = self.catalogue.find(name_or_dir)?;
                let embedder = MeshEmbedder::init(&mesh_config(row)?, &options.mesh()?, &device)?;
                (AnyEmbedder::Mesh(Box::new(embedder)), Some(row.clone()))
            }
            _ => {
                let reason = format!(
                    "`{name_or_dir}` is a model of {modality}, which is made from published \
                     weights; without training there are models of meshes by name, and of texts \
                     and images from a directory with their configuration"
                );
                return Err(Error::argument("model", reason));
            }
        };
        Ok(Model {
            embedder,
            device,
            limits: options.limits,
            row,
            contradictions: Vec::new(),
        })
    }
}

/// What a model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modality {
    /// Texts.
    Text,
    /// Image files.
    Image,
    /// Texts and image files, compared with each other.
    TextImage,
    /// Files of meshes and point clouds.
    Mesh,
}

impl fmt::Display for Modality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "texts",
            Self::Image => "images",
            Self::TextImage => "texts and images",
            Self::Mesh => "meshes",
        })
    }
}

/// What a directory says of itself that its model reads.
fn modality_of(directory: &Path) -> Result<Modality> {
    #[derive(Deserialize)]
    struct Kind {
        family: Option<String>,
    }
    if !directory.is_dir() {
        let missing = std::io::ErrorKind::NotFound.into();
        return Err(Error::io(directory, "open the model directory")(missing));
    }
    let path = directory.join(CONFIG_FILE);
    let kind: Kind = match path.is_file() {
        true => fin_core::json::read(&path)?,
        false => Kind { family: None },
    };
    match kind.family.as_deref() {
        Some("cnn") => Ok(Modality::Image),
        Some("clip") => Ok(Modality::TextImage),
        Some("pointnet") => Ok(Modality::Mesh),
        Some("transformer") => Ok(Modality::Text),
        // Directories of earlier versions and of upstream say nothing.
        None if fin_clip::is_clip_directory(directory)? => Ok(Modality::TextImage),
        None => Ok(Modality::Text),
        Some(other) => Err(Error::config(
            &path,
            "family",
            format!("`{other}` is not known here; accepted: transformer, cnn, clip, pointnet"),
        )),
    }
}

/// Opens what [`Registry::locate`] found of a model of meshes.
fn open_mesh(
    path: &Path,
    row: Option<&ModelRow>,
    options: &MeshOptions,
    device: &Device,
) -> Result<MeshEmbedder> {
    match row {
        Some(row) if path.is_file() || !path.join(CONFIG_FILE).is_file() => {
            let weights = weights_of(path, row)?;
            let config = mesh_config(row)?;
            Ok(
                MeshEmbedder::open_checkpoint(&weights, &config, options, device)?
                    .with_origin(&row.source, &row.licence),
            )
        }
        _ => MeshEmbedder::open(path, options, device),
    }
}

/// What a row says of its point network.
pub(crate) fn mesh_config(row: &ModelRow) -> Result<fin_pointnet::ModelConfig> {
    let (Some(network), Preprocessing::Points { points }) = (&row.network, &row.preprocessing)
    else {
        let reason = format!(
            "the catalogue's row of `{}` does not say its network",
            row.name
        );
        return Err(Error::argument("model", reason));
    };
    let mut config = fin_pointnet::ModelConfig::preset(network, false)?;
    config.points = *points;
    config.normalize = row.normalize;
    Ok(config)
}

/// Opens what [`Registry::locate`] found of an image model.
fn open_image(
    path: &Path,
    row: Option<&ModelRow>,
    options: &ImageOptions,
    device: &Device,
) -> Result<ImageEmbedder> {
    match row {
        Some(row) if path.is_file() || !path.join(CONFIG_FILE).is_file() => {
            let weights = weights_of(path, row)?;
            let config = image_config(row)?;
            Ok(
                ImageEmbedder::open_checkpoint(&weights, &config, options, device)?
                    .with_origin(&row.source, &row.licence),
            )
        }
        _ => ImageEmbedder::open(path, options, device),
    }
}

/// The file with the weights of an image row: `path` itself, or one in this directory.
pub(crate) fn weights_of(path: &Path, row: &ModelRow) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    let names = [
        row.weights.as_str(),
        "model.safetensors",
        "pytorch_model.bin",
    ];
    let found = names
        .iter()
        .map(|name| path.join(name))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        let reason = format!("has no weights; looked for {}", names.join(", "));
        Error::invalid(path, reason)
    })
}

/// What a row says of its network.
pub(crate) fn image_config(row: &ModelRow) -> Result<ModelConfig> {
    let missing = |field: &str| {
        let reason = format!(
            "the catalogue's row of `{}` has no usable `{field}`",
            row.name
        );
        Error::argument("model", reason)
    };
    let network = row.network.clone().ok_or_else(|| missing("network"))?;
    let transform = row
        .preprocessing
        .image()
        .ok_or_else(|| missing("preprocessing"))?;
    let mut config = ModelConfig::new(Network::Named(network), transform.clone());
    config.pooling = row.map_pooling().ok_or_else(|| missing("pooling"))?;
    config.normalize = row.normalize;
    Ok(config)
}

/// Opens a model by its name in the catalogue, or from a directory, with the catalogue and the
/// places that the environment names. What is in none of these places is downloaded.
///
/// # Errors
/// Those of [`Registry::from_env`] and [`Registry::build_model`].
pub fn build_model(name_or_dir: &str, options: &ModelOptions) -> Result<Model> {
    Registry::from_env()?.build_model(name_or_dir, options)
}

/// A directory without modules has the pooling and normalisation of its row. Its length is in its
/// own configuration.
fn default_to(row: &ModelRow, directory: &Path, options: &mut TextOptions) {
    if !directory.join("modules.json").is_file() {
        options.pooling.get_or_insert_with(|| row.pooling.into());
        options.normalize.get_or_insert(row.normalize);
    }
}

/// The fields of a row that an opened checkpoint has otherwise, where they were not asked for
/// otherwise.
fn contradictions(
    row: &ModelRow,
    options: &ModelOptions,
    embedder: &TextEmbedder,
) -> Vec<Contradiction> {
    let dialect = embedder.config().model_type();
    let mut found: Vec<_> = differing([("dialect", row.dialect.clone(), dialect.into())]).collect();
    if options.output_dim.is_none() && options.pooling.is_none() {
        let (said, built) = (row.output_dim, embedder.network().output_dim());
        found.extend(differing([(
            "output_dim",
            said.to_string(),
            built.to_string(),
        )]));
    }
    if let Some(pooling) = embedder.directory_pooling() {
        let names: Vec<&str> = pooling.iter().map(|pooling| pooling.name()).collect();
        found.extend(differing([(
            "pooling",
            row.pooling.to_string(),
            names.join(","),
        )]));
    }
    if let Some(normalize) = embedder.directory_normalize() {
        let said = row.normalize.to_string();
        found.extend(differing([("normalize", said, normalize.to_string())]));
    }
    if let (None, Some(said)) = (options.max_length, row.max_length) {
        let built = embedder.tokenizer().max_length();
        found.extend(differing([(
            "max_length",
            said.to_string(),
            built.to_string(),
        )]));
    }
    found
}

/// The same for an image model. What was asked for is not compared.
fn image_contradictions(
    row: &ModelRow,
    options: &ModelOptions,
    embedder: &ImageEmbedder,
) -> Vec<Contradiction> {
    let config = embedder.config();
    let network = match &config.architecture {
        Network::Named(name) => name.clone(),
        Network::Custom(_) => "one with numbers of its own".into(),
    };
    let said = row.network.clone().unwrap_or_default();
    let mut found: Vec<_> = differing([
        ("network", said, network),
        (
            "dialect",
            row.dialect.clone(),
            embedder.dialect().name().into(),
        ),
    ])
    .collect();
    if options.output_dim.is_none() {
        let built = config.projection.unwrap_or(embedder.hidden_size());
        let said = row.output_dim.to_string();
        found.extend(differing([("output_dim", said, built.to_string())]));
    }
    if options.pooling.is_none() {
        let (said, built) = (row.pooling.to_string(), config.pooling.to_string());
        found.extend(differing([("pooling", said, built)]));
    }
    if options.normalize.is_none() {
        let (said, built) = (row.normalize.to_string(), config.normalize.to_string());
        found.extend(differing([("normalize", said, built)]));
    }
    if options.image_size.is_none()
        && let Some(said) = row.preprocessing.image()
        && *said != config.preprocessing
    {
        let text = |transform| serde_json::to_string(transform).unwrap_or_default();
        let (said, built) = (text(said), text(&config.preprocessing));
        found.extend(differing([("preprocessing", said, built)]));
    }
    found
}

/// The same for a model of texts and images.
fn clip_contradictions(
    row: &ModelRow,
    options: &ModelOptions,
    embedder: &ClipEmbedder,
) -> Vec<Contradiction> {
    let built = embedder.network().output_dim();
    let mut found: Vec<_> = differing([
        (
            "dialect",
            row.dialect.clone(),
            embedder.dialect().name().into(),
        ),
        ("output_dim", row.output_dim.to_string(), built.to_string()),
    ])
    .collect();
    if let (None, Some(said)) = (options.max_length, row.max_length) {
        let built = embedder.max_length();
        found.extend(differing([(
            "max_length",
            said.to_string(),
            built.to_string(),
        )]));
    }
    if options.image_size.is_none()
        && let Some(said) = row.preprocessing.image()
        && *said != embedder.config().preprocessing.transform
    {
        let text = |transform| serde_json::to_string(transform).unwrap_or_default();
        let built = text(&embedder.config().preprocessing.transform);
        let said = text(said);
        found.extend(differing([("preprocessing", said, built)]));
    }
    found
}

/// The same for a model of meshes.
fn mesh_contradictions(
    row: &ModelRow,
    options: &ModelOptions,
    embedder: &MeshEmbedder,
) -> Vec<Contradiction> {
    let config = embedder.config();
    let mut found = Vec::new();
    if options.output_dim.is_none() && options.pooling.is_none() {
        let built = embedder.network().output_dim();
        found.extend(differing([(
            "output_dim",
            row.output_dim.to_string(),
            built.to_string(),
        )]));
    }
    if let (None, Preprocessing::Points { points }) = (options.points, &row.preprocessing) {
        let (said, built) = (points.to_string(), config.points.to_string());
        found.extend(differing([("points", said, built)]));
    }
    found
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use fin_core::Pooling;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fixtures/text")
            .join(name)
    }

    fn copy(source: &Path, target: &Path) {
        std::fs::create_dir_all(target).unwrap();
        for entry in std::fs::read_dir(source).unwrap() {
            let entry = entry.unwrap();
            let to = target.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    /// A registry whose only place has this fixture under this name.
    fn registry(dir: &Path, source: &str, name: &str) -> Registry {
        copy(&fixture(source), &dir.join(name));
        Registry {
            catalogue: Catalogue::embedded().clone(),
            locations: Locations {
                by_name: vec![dir.to_path_buf()],
                ..Locations::default()
            },
        }
    }

    #[test]
    fn a_directory_is_opened_as_it_is() {
        let path = fixture("bert-tiny");
        let options = ModelOptions::default();
        let model = build_model(path.to_str().unwrap(), &options).unwrap();
        assert_eq!(model.output_dim(), 32);
        assert!(model.embedder.normalizes());
        assert!(model.row.is_none() && model.contradictions.is_empty());
        let embeddings = model.encode_text(&["a boat".to_string()]).unwrap();
        assert_eq!((embeddings.rows(), embeddings.dim), (1, 32));
        let error = build_model("./no/such/model", &options)
            .unwrap_err()
            .to_string();
        assert!(error.contains("./no/such/model"), "{error}");
    }

    #[test]
    fn a_checkpoint_wins_over_its_row_and_the_difference_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry(dir.path(), "distilbert-tiny", "all-minilm-l6-v2");
        let model = registry
            .build_model("all-minilm-l6-v2", &ModelOptions::default())
            .unwrap();
        assert_eq!(model.output_dim(), 16);
        let found: Vec<String> = model
            .contradictions
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            [
                "dialect is bert in the catalogue and distilbert in the checkpoint; the \
                 checkpoint holds",
                "output_dim is 384 in the catalogue and 16 in the checkpoint; the checkpoint holds",
                "normalize is true in the catalogue and false in the checkpoint; the checkpoint \
                 holds",
                "max_length is 256 in the catalogue and 40 in the checkpoint; the checkpoint holds",
            ]
        );
        let asked = ModelOptions {
            output_dim: Some(8),
            max_length: Some(20),
            ..ModelOptions::default()
        };
        let model = registry.build_model("all-minilm-l6-v2", &asked).unwrap();
        assert_eq!(model.output_dim(), 8);
        let fields: Vec<_> = model.contradictions.iter().map(|c| c.field).collect();
        assert_eq!(fields, ["dialect", "normalize"]);
    }

    #[test]
    fn a_row_speaks_where_the_directory_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = registry(dir.path(), "bert-tiny-plain", "ours");
        let row = r#"
            [[model]]
            name = "ours"
            task = "text-to-text"
            output_dim = 32
            architecture = "transformer"
            description = "A model of our own"
            source = "us/ours"
            weights = "pytorch_model.bin"
            licence = "MIT"
            dialect = "bert"
            preprocessing = { kind = "word-piece", lower_case = true }
            pooling = "max"
            normalize = true
            max_length = 64
        "#;
        let path = Path::new("models.toml");
        let ours = Catalogue::from_toml(path, row).unwrap();
        registry.catalogue = registry.catalogue.with(ours, path).unwrap();
        let model = registry
            .build_model("ours", &ModelOptions::default())
            .unwrap();
        let network = model.embedder.text().unwrap().network();
        assert_eq!(
            (&network.pooling[..], network.normalize),
            (&[Pooling::Max][..], true)
        );
        assert_eq!(model.contradictions, []);
        let chosen = ModelOptions {
            pooling: Some("cls".into()),
            normalize: Some(false),
            ..ModelOptions::default()
        };
        let model = registry.build_model("ours", &chosen).unwrap();
        let network = model.embedder.text().unwrap().network();
        assert_eq!(
            (&network.pooling[..], network.normalize),
            (&[Pooling::Cls][..], false)
        );
    }
}
