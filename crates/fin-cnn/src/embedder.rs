//! The whole image embedding model.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use burn::nn::DropoutConfig;
use burn::tensor::{Device, Tensor, TensorData};
use fin_core::atomic::AtomicDir;
use fin_core::image::{MAX_PIXELS, RgbImage, read_image};
use fin_core::nn::LinearConfig;
use fin_core::weights::{self, Checkpoint, LoadReport, Names};
use fin_core::{Embedder, Error, MapPooling, Result};
use rayon::prelude::*;

use crate::architecture::BackboneConfig;
use crate::config::{CONFIG_FILE, ModelConfig};
use crate::names::Dialect;
use crate::network::CnnNetwork;

/// What to change of a model as its directory describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageOptions {
    /// Pooling instead of the directory's.
    pub pooling: Option<MapPooling>,
    /// Whether embeddings are scaled to unit length, instead of what the directory says.
    pub normalize: Option<bool>,
    /// Adds a projection to this many components, with new weights that must be trained.
    pub output_dim: Option<usize>,
    /// Height and width that images are cropped to, instead of the directory's; the resizing
    /// before it is scaled along.
    pub image_size: Option<usize>,
    /// Most pixels that an image file may have, instead of [`MAX_PIXELS`].
    pub max_pixels: Option<u64>,
    /// Refuse weights with NaN or infinite values.
    pub check: bool,
}

/// An image embedding model: preprocessing, network, and the directory it is kept in.
///
/// [`fin_core::encode`] runs a copy of the network with batch normalisations taken into the
/// convolutions ([`CnnNetwork::fold`]), made when it is first needed; from then on the weights
/// are in memory twice.
#[derive(Debug, Clone)]
pub struct ImageEmbedder {
    network: CnnNetwork,
    folded: OnceLock<CnnNetwork>,
    backbone: Arc<BackboneConfig>,
    config: Arc<ModelConfig>,
    max_pixels: u64,
    report: LoadReport,
}

/// Weights of the backbone.
const WEIGHTS: &str = "model.safetensors";
/// Weights of the projection, apart so that the other file is upstream's to the last key.
const PROJECTION: &str = "projection.safetensors";

/// Pixels to a unit of [`fin_core::BatchLimits::max_cost`]: a patch of 16 × 16, a transformer's
/// token for images, so that the usual limit means the same for both.
const PIXELS_PER_COST: usize = 256;

impl ImageEmbedder {
    /// Opens a model directory: `fin.json` and weights in any of the three dialects, as
    /// `model.safetensors` or `pytorch_model.bin`.
    ///
    /// # Errors
    /// Where a file is missing, damaged, or describes what is not built here; the error names
    /// the file, the field or tensor, and what is accepted.
    pub fn open(
        directory: impl AsRef<Path>,
        options: &ImageOptions,
        device: &Device,
    ) -> Result<Self> {
        let directory = directory.as_ref();
        let config = ModelConfig::read(&directory.join(CONFIG_FILE))?;
        let checkpoint = Checkpoint::open_directory(directory)?;
        let projection = match config.projection {
            Some(_) => Some(Checkpoint::open(directory.join(PROJECTION))?),
            None => None,
        };
        Self::load(config, &checkpoint, projection.as_ref(), options, device)
    }

    /// Opens a published checkpoint, in any of the three dialects, as what `config` says it is:
    /// [`ModelConfig::preset`].
    ///
    /// # Errors
    /// As [`ImageEmbedder::open`]; [`Error::Argument`] where `config` asks for a projection, which
    /// published checkpoints have not.
    pub fn open_checkpoint(
        path: impl AsRef<Path>,
        config: &ModelConfig,
        options: &ImageOptions,
        device: &Device,
    ) -> Result<Self> {
        let path = path.as_ref();
        config.check(path)?;
        if config.projection.is_some() {
            return Err(Error::argument(
                "projection",
                "a checkpoint alone has no weights for one; ask for an output dimension to add one",
            ));
        }
        Self::load(
            config.clone(),
            &Checkpoint::open(path)?,
            None,
            options,
            device,
        )
    }

    fn load(
        mut config: ModelConfig,
        checkpoint: &Checkpoint,
        projection: Option<&Checkpoint>,
        options: &ImageOptions,
        device: &Device,
    ) -> Result<Self> {
        for checkpoint in [Some(checkpoint), projection].into_iter().flatten() {
            if options.check {
                checkpoint.check_finite()?;
            }
        }
        let shape = config.architecture.config()?;
        let dialect = Dialect::detect(checkpoint, &shape)?;
        let names = dialect.names_in(checkpoint, &shape);
        let (backbone, mut report) = weights::load(shape.init(device), checkpoint, &names, device)?;
        let features = shape.hidden_size();
        let mut head = None;
        if let (Some(checkpoint), Some(width)) = (projection, config.projection) {
            let linear = LinearConfig::new(features, width)
                .with_bias(checkpoint.get("bias").is_some())
                .init(device);
            let (linear, loaded) = weights::load(linear, checkpoint, &Names::default(), device)?;
            let under = |names: Vec<String>| {
                names
                    .into_iter()
                    .map(|name| format!("projection/{name}"))
                    .collect::<Vec<_>>()
            };
            report.used.extend(under(loaded.used));
            report.unused.extend(under(loaded.unused));
            head = Some(linear);
        }
        match (options.output_dim, config.projection) {
            (None, _) => {}
            (Some(0), _) => {
                return Err(Error::argument(
                    "output-dim",
                    "0 components asked for; at least 1 is needed",
                ));
            }
            (Some(_), Some(width)) => {
                return Err(Error::argument(
                    "output-dim",
                    format!("the model has a projection already, to {width} components"),
                ));
            }
            (Some(width), None) => {
                head = Some(LinearConfig::new(features, width).init(device));
                config.projection = Some(width);
            }
        }
        config.pooling = options.pooling.unwrap_or(config.pooling);
        config.normalize = options.normalize.unwrap_or(config.normalize);
        match options.image_size {
            None => {}
            Some(0) => {
                return Err(Error::argument(
                    "image-size",
                    "0 pixels asked for; at least 1 is needed",
                ));
            }
            Some(size) => config.preprocessing = config.preprocessing.with_output_size(size),
        }
        let network = CnnNetwork {
            backbone,
            dropout: DropoutConfig::new(shape.dropout()).init(),
            projection: head,
            pooling: config.pooling,
            normalize: config.normalize,
        };
        Ok(Self {
            network,
            folded: OnceLock::new(),
            backbone: Arc::new(shape),
            config: Arc::new(config),
            max_pixels: options.max_pixels.unwrap_or(MAX_PIXELS),
            report,
        })
    }

    /// What became of every tensor of the checkpoint.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// What the model is, with the options applied.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// With a record of where the weights come from and under what licence, for
    /// [`Embedder::save`].
    pub fn with_origin(mut self, source: &str, licence: &str) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.source = Some(source.into());
        config.licence = Some(licence.into());
        self
    }

    fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(CONFIG_FILE);
        let config = ModelConfig {
            pooling: self.network.pooling,
            normalize: self.network.normalize,
            ..ModelConfig::clone(&self.config)
        };
        let text = serde_json::to_string_pretty(&config)
            .map_err(|e| Error::invalid(&path, format!("cannot be written: {e}")))?;
        std::fs::write(&path, text + "\n").map_err(Error::io(&path, "write"))?;
        let network = &self.network;
        weights::save_module(directory.join(WEIGHTS), &network.backbone, &self.names())?;
        if let Some(projection) = &network.projection {
            let path = directory.join(PROJECTION);
            weights::save_module(path, projection, &Names::default())?;
        }
        Ok(())
    }
}

impl Embedder for ImageEmbedder {
    type Item = PathBuf;
    /// Resized and cropped, not yet normalised: a quarter of the size.
    type Encoded = Arc<RgbImage>;
    type Batch = Tensor<4>;
    type Network = CnnNetwork;

    /// Reads, resizes and crops image files, several at a time.
    fn preprocess(&self, items: &[PathBuf]) -> Result<Vec<Arc<RgbImage>>> {
        let read = |path: &PathBuf| {
            let image = read_image(path, self.max_pixels)?;
            match self.config.preprocessing.apply(&image) {
                Ok(cropped) => Ok(Arc::new(cropped)),
                Err(Error::Argument { reason, .. }) => Err(Error::invalid(path, reason)),
                Err(other) => Err(other),
            }
        };
        let images: Vec<Result<Arc<RgbImage>>> = items.par_iter().map(read).collect();
        // The first in the list's order, whichever was found first.
        images.into_iter().collect()
    }

    fn cost(&self, item: &Arc<RgbImage>) -> usize {
        (item.width() * item.height()).div_ceil(PIXELS_PER_COST)
    }

    fn collate(&self, items: &[&Arc<RgbImage>], device: &Device) -> Result<Tensor<4>> {
        let size = items.first().map_or([0, 0], |i| [i.height(), i.width()]);
        let [height, width] = size;
        let mut values = Vec::with_capacity(items.len() * 3 * height * width);
        for item in items {
            if [item.height(), item.width()] != size {
                let reason = format!(
                    "{} × {} and {width} × {height} pixels do not fit in a batch",
                    item.width(),
                    item.height()
                );
                return Err(Error::argument("images", reason));
            }
            values.extend(self.config.preprocessing.normalize(item));
        }
        let data = TensorData::new(values, [items.len(), 3, height, width]);
        Ok(Tensor::from_data(data, device))
    }

    fn network(&self) -> &CnnNetwork {
        &self.network
    }

    fn inference_network(&self) -> &CnnNetwork {
        self.folded.get_or_init(|| self.network.fold())
    }

    fn with_network(mut self, network: CnnNetwork) -> Self {
        self.network = network;
        self.folded = OnceLock::new();
        self
    }

    fn names(&self) -> Names {
        Dialect::of_saved(&self.backbone).names(&self.backbone)
    }

    /// Writes `fin.json`, `model.safetensors` with the keys of [`Dialect::of_saved`], and
    /// `projection.safetensors` where there is one. The classifier is not there: in torchvision,
    /// replace it by `torch.nn.Identity()` or load with `strict=False`.
    fn save(&self, directory: &Path) -> Result<()> {
        let target = AtomicDir::create(directory)?;
        self.write(target.path())?;
        target.commit()
    }
}
