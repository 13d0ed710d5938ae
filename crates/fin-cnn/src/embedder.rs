//! The whole image embedding model.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};

use burn::module::Module;
use burn::nn::DropoutConfig;
use burn::tensor::{Device, Tensor, TensorData};
use fin_core::atomic::AtomicDir;
use fin_core::image::{Augmentation, MAX_PIXELS, RgbImage, read_image};
use fin_core::nn::LinearConfig;
use fin_core::weights::{self, Checkpoint, LoadReport, Names};
use fin_core::{Embedder, Error, MapPooling, Precision, Result};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::architecture::BackboneConfig;
use crate::config::{CONFIG_FILE, ModelConfig};
use crate::names::Dialect;
use crate::network::{CnnNetwork, ImageBatch};

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
    /// Random changes to the images of training.
    pub augmentation: Option<Augmentation>,
    /// Keeps the backbone, with its running statistics, as it is in training; only the projection
    /// learns. What the backbone gives for an image is then computed once.
    pub freeze: bool,
    /// Refuse weights with NaN or infinite values.
    pub check: bool,
    /// What the backbone is held in at inference; of int8 most convolutions
    /// ([`CnnBackbone::quantize`](crate::CnnBackbone::quantize)). A projection is in f32.
    pub precision: Precision,
}

/// An image embedding model: preprocessing, network, and the directory it is kept in.
///
/// [`fin_core::encode`] runs a copy of the network with batch normalisations taken into the
/// convolutions, in the form that is fastest on the device ([`CnnNetwork::fold`]), made when it is
/// first needed; from then on the weights are in memory twice.
#[derive(Debug, Clone)]
pub struct ImageEmbedder {
    network: CnnNetwork,
    folded: OnceLock<CnnNetwork>,
    backbone: Arc<BackboneConfig>,
    config: Arc<ModelConfig>,
    max_pixels: u64,
    augmentation: Option<Augmentation>,
    freeze: bool,
    precision: Precision,
    dialect: Dialect,
    report: LoadReport,
}

/// A preprocessed image.
#[derive(Debug, Clone)]
pub enum EncodedImage {
    /// Resized and cropped, not yet normalised: a quarter of the size.
    Pixels(Arc<RgbImage>),
    /// A file that is read again for every batch of training.
    File(Arc<Path>),
    /// The pooled features of a frozen backbone.
    Features(Arc<[f32]>),
}

/// Bytes of pixels that are kept in memory for training. Beyond that, files are read again.
const KEPT_PIXELS: usize = 2 << 30;

/// Images that are decoded at a time ahead of the network.
const WINDOW: usize = 64;

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
        options.precision.check_device(device)?;
        for checkpoint in [Some(checkpoint), projection].into_iter().flatten() {
            if options.check {
                checkpoint.check_finite()?;
            }
        }
        let shape = config.architecture.config()?;
        let dialect = Dialect::detect(checkpoint, &shape)?;
        let names = dialect.names_in(checkpoint, &shape);
        let (backbone, mut report) = weights::load(shape.init(device), checkpoint, &names, device)?;
        let backbone = match options.precision {
            Precision::Int8 => backbone.quantize()?,
            // The half ones apply to what is run.
            Precision::F32 | Precision::F16 | Precision::Bf16 => backbone,
        };
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
        if options.freeze && head.is_none() {
            let reason = "with the backbone frozen there is nothing left to train; ask for a \
                          projection with output-dim";
            return Err(Error::argument("freeze", reason));
        }
        if let Some((field, reason)) = options.augmentation.and_then(|a| a.fault()) {
            return Err(Error::argument(format!("augmentation.{field}"), reason));
        }
        if options.freeze && options.augmentation.is_some() {
            let reason = "a frozen backbone sees every image once, so that random changes would be \
                          the same in every epoch; leave out one of freeze and augmentation";
            return Err(Error::argument("augmentation", reason));
        }
        let backbone = if options.freeze {
            backbone.no_grad()
        } else {
            backbone
        };
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
            augmentation: options.augmentation,
            freeze: options.freeze,
            precision: options.precision,
            dialect,
            report,
        })
    }

    /// What became of every tensor of the checkpoint.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// Whose names the checkpoint's keys have.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Components of the backbone's features, before any projection.
    pub fn hidden_size(&self) -> usize {
        self.backbone.hidden_size()
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

    /// A file's image in the network's size.
    fn read(&self, path: &Path) -> Result<RgbImage> {
        let image = read_image(path, self.max_pixels)?;
        about(path, self.config.preprocessing.apply(&image))
    }

    /// A file's image in the network's size, with the random changes of training.
    fn read_augmented(&self, path: &Path, seed: u64) -> Result<RgbImage> {
        let Some(augmentation) = &self.augmentation else {
            return self.read(path);
        };
        let image = read_image(path, self.max_pixels)?;
        let changed = augmentation.apply(&image, &self.config.preprocessing, seed);
        about(path, changed)
    }

    /// `[batch, 3, height, width]`.
    fn pixels(&self, images: &[Arc<RgbImage>], device: &Device) -> Result<Tensor<4>> {
        let size = images.first().map_or([0, 0], |i| [i.height(), i.width()]);
        let [height, width] = size;
        if let Some(other) = images.iter().find(|i| [i.height(), i.width()] != size) {
            let reason = format!(
                "{} × {} and {width} × {height} pixels do not fit in a batch",
                other.width(),
                other.height()
            );
            return Err(Error::argument("images", reason));
        }
        let mut values = vec![0.0; images.len() * 3 * height * width];
        let transform = &self.config.preprocessing;
        values
            .par_chunks_mut((3 * height * width).max(1))
            .zip(images)
            .for_each(|(values, image)| transform.normalize_into(image, values));
        let data = TensorData::new(values, [images.len(), 3, height, width]);
        Ok(Tensor::from_data(data, device))
    }

    /// What the backbone gives for files, computed once.
    fn frozen_features(&self, items: &[PathBuf], device: &Device) -> Result<Vec<EncodedImage>> {
        let network = self.inference_network();
        let mut features = Vec::with_capacity(items.len());
        for window in items.chunks(FROZEN_BATCH) {
            let images: Vec<Arc<RgbImage>> =
                self.decode(window).into_iter().collect::<Result<_>>()?;
            let found = network.features(&self.pixels(&images, device)?);
            let values = found.into_data().convert::<f32>().try_into_vec::<f32>();
            let values = values.map_err(|e| {
                Error::argument("device", format!("features cannot be read back: {e:?}"))
            })?;
            let rows = values.chunks_exact(self.backbone.hidden_size());
            features.extend(rows.map(|row| EncodedImage::Features(row.into())));
        }
        Ok(features)
    }

    /// The images of files, several at a time.
    fn decode(&self, items: &[PathBuf]) -> Vec<Result<Arc<RgbImage>>> {
        decoders().install(|| {
            items
                .par_iter()
                .map(|path| self.read(path).map(Arc::new))
                .collect()
        })
    }

    fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(CONFIG_FILE);
        let config = ModelConfig {
            pooling: self.network.pooling,
            normalize: self.network.normalize,
            // These weights are not the ones that were converted.
            provenance: None,
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

/// Images that a frozen backbone sees at a time.
const FROZEN_BATCH: usize = 16;

/// Threads for decoding, apart from those that compute: a decoder in the way of a matrix product
/// would hold up all threads that take part in it.
fn decoders() -> &'static ThreadPool {
    static DECODERS: LazyLock<ThreadPool> = LazyLock::new(|| {
        ThreadPoolBuilder::new()
            .thread_name(|i| format!("fin-decode-{i}"))
            .build()
            .expect("threads can be started")
    });
    &DECODERS
}

/// A transform's error, about the file that it was applied to.
fn about(path: &Path, outcome: Result<RgbImage>) -> Result<RgbImage> {
    outcome.map_err(|error| match error {
        Error::Argument { reason, .. } => Error::invalid(path, reason),
        other => other,
    })
}

/// The seed for one image of a batch.
fn seed_of(seed: u64, place: usize) -> u64 {
    // Neighbouring seeds give unrelated generators; an odd factor keeps places apart.
    seed.wrapping_add((place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Embedder for ImageEmbedder {
    type Item = PathBuf;
    type Encoded = EncodedImage;
    type Batch = ImageBatch;
    type Network = CnnNetwork;

    /// Reads, resizes and crops image files, several at a time.
    fn preprocess(&self, items: &[PathBuf]) -> Result<Vec<EncodedImage>> {
        // The first in the list's order, whichever was found first.
        self.preprocess_each(items).into_iter().collect()
    }

    fn preprocess_each(&self, items: &[PathBuf]) -> Vec<Result<EncodedImage>> {
        let images = self.decode(items).into_iter();
        images
            .map(|image| image.map(EncodedImage::Pixels))
            .collect()
    }

    fn window(&self) -> usize {
        WINDOW
    }

    /// Reads every file, so that a bad one is found now and not in the midst of training. What is
    /// kept is the features of a frozen backbone; the pixels where they do not change from epoch to
    /// epoch and there is room; else the path.
    fn preprocess_training(&self, items: &[PathBuf], device: &Device) -> Result<Vec<EncodedImage>> {
        if self.freeze {
            return self.frozen_features(items, device);
        }
        let [height, width] = self.config.preprocessing.output_size().unwrap_or([0, 0]);
        let keeps = self.augmentation.is_none()
            && items.len().saturating_mul(height * width * 3) <= KEPT_PIXELS;
        let mut encoded = Vec::with_capacity(items.len());
        for window in items.chunks(WINDOW) {
            for (path, image) in window.iter().zip(self.decode(window)) {
                let image = image?;
                encoded.push(match keeps {
                    true => EncodedImage::Pixels(image),
                    false => EncodedImage::File(path.as_path().into()),
                });
            }
        }
        Ok(encoded)
    }

    fn preprocesses_alone(&self) -> bool {
        !self.freeze
    }

    fn cost(&self, _: &EncodedImage) -> usize {
        let size = self.config.preprocessing.output_size();
        size.map_or(1, |[height, width]| {
            (width * height).div_ceil(PIXELS_PER_COST)
        })
    }

    fn collate(&self, items: &[&EncodedImage], device: &Device) -> Result<ImageBatch> {
        self.collate_training(items, 0, device)
    }

    fn collate_training(
        &self,
        items: &[&EncodedImage],
        seed: u64,
        device: &Device,
    ) -> Result<ImageBatch> {
        let is_features = |item: &&&EncodedImage| matches!(item, EncodedImage::Features(_));
        match items.iter().filter(is_features).count() {
            0 => {}
            count if count == items.len() => {
                let rows = items.iter().flat_map(|item| match item {
                    EncodedImage::Features(row) => &row[..],
                    _ => &[],
                });
                let values: Vec<f32> = rows.copied().collect();
                let shape = [count, values.len() / count];
                let data = TensorData::new(values, shape);
                return Ok(ImageBatch::Features(Tensor::from_data(data, device)));
            }
            _ => {
                return Err(Error::argument(
                    "images",
                    "pixels and features in one batch",
                ));
            }
        }
        let image = |(place, item): (usize, &&EncodedImage)| match item {
            EncodedImage::Pixels(image) => Ok(image.clone()),
            EncodedImage::File(path) => {
                let image = self.read_augmented(path, seed_of(seed, place))?;
                Ok(Arc::new(image))
            }
            EncodedImage::Features(_) => Err(Error::argument("images", "features, not pixels")),
        };
        let images: Vec<Result<Arc<RgbImage>>> =
            decoders().install(|| items.par_iter().enumerate().map(image).collect());
        let images: Vec<Arc<RgbImage>> = images.into_iter().collect::<Result<_>>()?;
        Ok(ImageBatch::Pixels(self.pixels(&images, device)?))
    }

    fn network(&self) -> &CnnNetwork {
        &self.network
    }

    fn inference_network(&self) -> &CnnNetwork {
        self.folded
            .get_or_init(|| self.network.fold_in(self.precision))
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
        self.precision.check_save()?;
        let target = AtomicDir::create(directory)?;
        self.write(target.path())?;
        target.commit()
    }
}
