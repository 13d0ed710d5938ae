//! The whole model of texts and images.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use fin_core::atomic::AtomicDir;
use fin_core::image::{Augmentation, ImageTransform, MAX_PIXELS, RgbImage, read_image};
use fin_core::weights::{LoadReport, Names};
use fin_core::{
    BatchLimits, Embedder, EmbeddingNetwork, Embeddings, Error, PostProcess, Precision, Result,
    encode,
};
use fin_transformer::TokenizedText;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::config::{ClipConfig, TextConfig};
use crate::dialect::{self, CONFIG_FILE, Dialect, Files, Manifest};
use crate::network::{ClipBatch, ClipNetwork, ImageBatch, TextBatch};
use crate::tokens::Tokenizer;
use crate::weights::{self, Keys};

/// What to change of a model as its directory describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClipOptions {
    /// Which files to read of a directory that holds those of several dialects; `fin.json`'s
    /// choice where unset, else `transformers`' if they are complete.
    pub dialect: Option<Dialect>,
    /// Whether embeddings are scaled to unit length, instead of what the directory says. Plain
    /// directories say nothing and get what upstream's `get_text_features` and
    /// `get_image_features` give, which is not scaled.
    pub normalize: Option<bool>,
    /// Largest number of tokens, up to the model's own.
    pub max_length: Option<usize>,
    /// Height and width of images. Positions belong to the patches of one size, so that this can
    /// only be the model's own.
    pub image_size: Option<usize>,
    /// Most pixels that an image file may have, instead of [`MAX_PIXELS`].
    pub max_pixels: Option<u64>,
    /// Random changes to the images of training.
    pub augmentation: Option<Augmentation>,
    /// Refuse weights with NaN or infinite values.
    pub check: bool,
    /// Keeps the image tower, its projection included, as it is in training (Zhai et al. 2022,
    /// "LiT"). What it gives for an image is then computed once.
    pub lock_image: bool,
    /// The same for the text tower.
    pub lock_text: bool,
    /// Patterns of upstream's key names, those of the directory's dialect: the parameters stay as
    /// they are in training. `*` stands for any characters, `?` for one.
    pub freeze: Vec<String>,
    /// What the towers' weights are held in; patches and projections are in f32.
    pub precision: Precision,
}

/// A text or an image file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClipItem {
    /// A text.
    Text(String),
    /// An image file.
    Image(PathBuf),
}

/// A preprocessed text or image.
#[derive(Debug, Clone)]
pub enum EncodedClip {
    /// Token ids.
    Text(TokenizedText),
    /// Resized and cropped, not yet normalised: a quarter of the size.
    Pixels(Arc<RgbImage>),
    /// A file that is read again for every batch of training.
    File(Arc<Path>),
    /// What a locked text tower gives.
    TextFeatures {
        /// `[projection_dim]`.
        values: Arc<[f32]>,
        /// Whether the text was cut to the maximum length.
        truncated: bool,
    },
    /// What a locked image tower gives, `[projection_dim]`.
    ImageFeatures(Arc<[f32]>),
}

/// An embedding model of texts and images: tokenizer, preprocessing, network, and the directory it
/// is kept in.
#[derive(Debug, Clone)]
pub struct ClipEmbedder {
    network: ClipNetwork,
    tokenizer: Arc<Tokenizer>,
    config: Arc<ClipConfig>,
    files: Arc<Files>,
    dialect: Dialect,
    keys: Keys,
    max_pixels: u64,
    augmentation: Option<Augmentation>,
    lock_image: bool,
    lock_text: bool,
    precision: Precision,
    report: LoadReport,
}

/// Bytes of pixels that are kept in memory for training. Beyond that, files are read again.
const KEPT_PIXELS: usize = 2 << 30;

/// Images that are decoded at a time ahead of the network.
const WINDOW: usize = 64;

/// Items that a locked tower sees at a time.
const LOCKED_BATCH: usize = 16;

/// Two special tokens and one of text.
const MIN_LENGTH: usize = 3;

impl ClipEmbedder {
    /// Opens a model directory of any [`Dialect`], with or without a `fin.json`.
    ///
    /// # Errors
    /// Where a file is missing, damaged, or describes what is not built here; the error names
    /// the file, the field or tensor, and what is accepted.
    pub fn open(
        directory: impl AsRef<Path>,
        options: &ClipOptions,
        device: &Device,
    ) -> Result<Self> {
        let opened = dialect::open(directory.as_ref(), options.dialect)?;
        Self::of(opened, options, true, device)
    }

    /// Makes a model with random weights from a directory with configuration and tokenizer, whose
    /// weights, if any, are not read. They are drawn as `transformers` draws them, from the device's
    /// generator ([`Device::seed`]).
    ///
    /// # Errors
    /// As [`ClipEmbedder::open`].
    pub fn init(
        directory: impl AsRef<Path>,
        options: &ClipOptions,
        device: &Device,
    ) -> Result<Self> {
        let opened = dialect::open(directory.as_ref(), options.dialect)?;
        Self::of(opened, options, false, device)
    }

    fn of(
        opened: dialect::Opened,
        options: &ClipOptions,
        with_weights: bool,
        device: &Device,
    ) -> Result<Self> {
        let mut config = opened.config;
        config.normalize = options.normalize.unwrap_or(config.normalize);
        check_options(options, &config)?;
        let network = config.init(device)?;
        let (network, report) = match with_weights {
            false => (network, LoadReport::default()),
            true => {
                let checkpoint = opened.checkpoint?;
                if options.check {
                    checkpoint.check_finite()?;
                }
                weights::load(network, &checkpoint, opened.keys, device)?
            }
        };
        let mut network = freeze(network, opened.keys, options)?;
        options.precision.apply(&mut network, device)?;
        let network = network.cast(options.precision);
        let max_length = options.max_length.unwrap_or(config.text.context_length());
        let tokenizer = Tokenizer::open(
            &opened.files.tokenizer,
            opened.files.tokens,
            &config.text,
            max_length,
        )?;
        Ok(Self {
            network,
            tokenizer: Arc::new(tokenizer),
            config: Arc::new(config),
            files: Arc::new(opened.files),
            dialect: opened.dialect,
            keys: opened.keys,
            max_pixels: options.max_pixels.unwrap_or(MAX_PIXELS),
            augmentation: options.augmentation,
            lock_image: options.lock_image,
            lock_text: options.lock_text,
            precision: options.precision,
            report,
        })
    }

    /// What became of every tensor of the checkpoint.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// Whose files the directory has.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What the model is, with the options applied.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Largest number of tokens of a text, special tokens included.
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// With a record of where the weights come from and under what licence, for
    /// [`Embedder::save`].
    pub fn with_origin(mut self, source: &str, licence: &str) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.source = Some(source.into());
        config.licence = Some(licence.into());
        self
    }

    /// Embeds texts, in order.
    ///
    /// # Errors
    /// Those of [`encode`].
    pub fn encode_text(
        &self,
        texts: &[String],
        device: &Device,
        limits: BatchLimits,
    ) -> Result<Embeddings> {
        let items: Vec<ClipItem> = texts.iter().cloned().map(ClipItem::Text).collect();
        encode(self, &items, device, limits, PostProcess::default(), |_| {})
    }

    /// Embeds image files, in order.
    ///
    /// # Errors
    /// Those of [`encode`].
    pub fn encode_image(
        &self,
        paths: &[PathBuf],
        device: &Device,
        limits: BatchLimits,
    ) -> Result<Embeddings> {
        let items: Vec<ClipItem> = paths.iter().cloned().map(ClipItem::Image).collect();
        encode(self, &items, device, limits, PostProcess::default(), |_| {})
    }

    /// The logarithm of what cosines are multiplied by: `logit_scale` of the checkpoint.
    pub fn logit_scale(&self) -> f32 {
        EmbeddingNetwork::logit_scale(&self.network).unwrap_or_default()
    }

    /// What cosines are divided by: `exp(-logit_scale)`.
    pub fn temperature(&self) -> f32 {
        (-self.logit_scale()).exp()
    }

    /// Sets [`ClipEmbedder::logit_scale`].
    ///
    /// # Errors
    /// [`Error::Argument`] where it is no finite number.
    pub fn set_logit_scale(&mut self, logit_scale: f32) -> Result<()> {
        if !logit_scale.is_finite() {
            let reason = format!("{logit_scale} is no finite number");
            return Err(Error::argument("logit-scale", reason));
        }
        self.network = self.network.clone().with_logit_scale(logit_scale);
        Ok(())
    }

    /// Cosines of texts and images times `exp(logit_scale)`, row-major `[texts, images]`:
    /// `logits_per_text` of `transformers`. A softmax over a row gives the share of each image.
    ///
    /// # Errors
    /// [`Error::Argument`] where the embeddings are not of the same length.
    pub fn similarity(&self, texts: &Embeddings, images: &Embeddings) -> Result<Vec<f32>> {
        if texts.dim != images.dim {
            let reason = format!(
                "texts of {} components and images of {} cannot be compared",
                texts.dim, images.dim
            );
            return Err(Error::argument("embeddings", reason));
        }
        let scale = f64::from(self.logit_scale()).exp();
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum()
        };
        let norms = |rows: &Embeddings| -> Vec<f64> {
            let norm = |i| dot(rows.row(i), rows.row(i)).sqrt().max(1e-12);
            (0..rows.rows()).map(norm).collect()
        };
        let (text_norms, image_norms) = (norms(texts), norms(images));
        let mut logits = Vec::with_capacity(texts.rows() * images.rows());
        for (i, text_norm) in text_norms.iter().enumerate() {
            for (j, image_norm) in image_norms.iter().enumerate() {
                let cosine = dot(texts.row(i), images.row(j)) / (text_norm * image_norm);
                logits.push((scale * cosine) as f32);
            }
        }
        Ok(logits)
    }

    /// [`Embedder::save`] in another dialect. The crop of images that are an odd number of pixels
    /// too large is then the other library's ([`crate::preprocessing`]), and so is what it does to
    /// a text before its tokens are taken.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Argument`] where the dialect has no words for what the model is,
    /// as `transformers` has none for an XLM-RoBERTa text tower.
    pub fn save_as(&self, dialect: Dialect, directory: &Path) -> Result<()> {
        self.precision.check_save()?;
        let is_open_clip = |dialect| dialect == Dialect::OpenClip;
        let is_own = is_open_clip(dialect) == is_open_clip(self.dialect);
        let own = is_own.then_some(&*self.files);
        let config = ClipConfig {
            normalize: self.network.normalize,
            ..ClipConfig::clone(&self.config)
        };
        let (mut files, weights) = dialect::files(dialect, &config, own, &self.files)?;
        let keys = match (is_own, dialect) {
            (true, _) => self.keys,
            (false, Dialect::OpenClip) => Keys::OpenClip { custom_text: false },
            (false, _) => Keys::Transformers,
        };
        let manifest = Manifest {
            dialect: Some(dialect),
            normalize: config.normalize,
            source: config.source,
            licence: config.licence,
            ..Manifest::default()
        };
        let text = serde_json::to_string_pretty(&manifest)
            .map_err(|e| Error::invalid(directory.join(CONFIG_FILE), e))?;
        files.push((CONFIG_FILE.into(), (text + "\n").into_bytes()));

        let target = AtomicDir::create(directory)?;
        for (name, bytes) in files {
            let path = target.path().join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
            }
            std::fs::write(&path, bytes).map_err(Error::io(&path, "write"))?;
        }
        if dialect == Dialect::SentenceTransformers && config.normalize {
            let path = target.path().join("1_Normalize");
            std::fs::create_dir_all(&path).map_err(Error::io(&path, "create"))?;
        }
        weights::save(&target.path().join(weights), &self.network, keys)?;
        target.commit()
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
        let preprocessing = &self.config.preprocessing;
        let changed = match augmentation.crop {
            // The crop takes the place of resizing.
            Some(_) => {
                let image = read_image(path, self.max_pixels)?;
                augmentation.apply(&image, &preprocessing.transform, seed)
            }
            None => {
                let none = ImageTransform {
                    resize: None,
                    crop: None,
                    ..preprocessing.transform.clone()
                };
                augmentation.apply(&self.read(path)?, &none, seed)
            }
        };
        about(path, changed)
    }

    /// The images of files, several at a time.
    fn decode(&self, items: &[&Path]) -> Vec<Result<Arc<RgbImage>>> {
        let read = |path: &&Path| self.read(path).map(Arc::new);
        decoders().install(|| items.par_iter().map(read).collect())
    }

    /// `[batch, 3, height, width]`.
    fn pixels(&self, images: &[Arc<RgbImage>], device: &Device) -> Result<Tensor<4>> {
        let size = self.config.vision.image_size;
        let is_other = |image: &&Arc<RgbImage>| [image.height(), image.width()] != [size, size];
        if let Some(other) = images.iter().find(is_other) {
            let reason = format!(
                "{} × {} pixels, where the model takes {size} × {size}",
                other.width(),
                other.height()
            );
            return Err(Error::argument("images", reason));
        }
        let mut values = vec![0.0; images.len() * 3 * size * size];
        let transform = &self.config.preprocessing.transform;
        values
            .par_chunks_mut((3 * size * size).max(1))
            .zip(images)
            .for_each(|(values, image)| transform.normalize_into(image, values));
        let data = TensorData::new(values, [images.len(), 3, size, size]);
        Ok(Tensor::from_data(data, device))
    }

    fn text_batch(&self, ids: &[&[u32]], device: &Device) -> TextBatch {
        let pad_id = self.tokenizer.pad_id();
        TextBatch::Tokens(self.config.text.collate(ids, pad_id, device))
    }

    /// What a locked tower gives for items, computed once.
    fn locked_features(
        &self,
        encoded: Vec<EncodedClip>,
        device: &Device,
    ) -> Result<Vec<EncodedClip>> {
        let mut found = Vec::with_capacity(encoded.len());
        for window in encoded.chunks(LOCKED_BATCH) {
            let items: Vec<&EncodedClip> = window.iter().collect();
            let batch = self.collate(&items, device)?;
            let rows = self.network.embed_unnormalized(&batch);
            let rows = rows.into_data().convert::<f32>().try_into_vec::<f32>();
            let rows = rows.map_err(|e| {
                Error::argument("device", format!("features cannot be read back: {e:?}"))
            })?;
            let rows = rows.chunks_exact(self.network.output_dim());
            found.extend(window.iter().zip(rows).map(|(item, row)| match item {
                EncodedClip::Text(text) => EncodedClip::TextFeatures {
                    values: row.into(),
                    truncated: text.truncated,
                },
                _ => EncodedClip::ImageFeatures(row.into()),
            }));
        }
        Ok(found)
    }

    /// The ids of texts among items, each with its place.
    fn tokenize(&self, items: &[ClipItem]) -> Vec<(usize, Result<EncodedClip>)> {
        let texts = items.iter().enumerate().filter_map(|(i, item)| match item {
            ClipItem::Text(text) => Some((i, text.clone())),
            ClipItem::Image(_) => None,
        });
        let (places, texts): (Vec<usize>, Vec<String>) = texts.unzip();
        match self.tokenizer.encode(&texts) {
            Ok(found) => {
                let found = found.into_iter().map(|text| Ok(EncodedClip::Text(text)));
                places.into_iter().zip(found).collect()
            }
            Err(_) => {
                let one = |text: &String| -> Result<EncodedClip> {
                    let mut found = self.tokenizer.encode(std::slice::from_ref(text))?;
                    let text = found.pop();
                    text.map(EncodedClip::Text)
                        .ok_or_else(|| Error::argument("texts", "nothing came of tokenising one"))
                };
                places.into_iter().zip(texts.iter().map(one)).collect()
            }
        }
    }
}

/// Refuses options that the model cannot have.
fn check_options(options: &ClipOptions, config: &ClipConfig) -> Result<()> {
    let size = config.vision.image_size;
    if let Some(asked) = options.image_size.filter(|asked| *asked != size) {
        let reason = format!(
            "{asked} pixels asked for; the positions of this image tower belong to patches of \
             {size} × {size} pixels"
        );
        return Err(Error::argument("image-size", reason));
    }
    let longest = config.text.context_length();
    if let Some(asked) = options.max_length
        && !(MIN_LENGTH..=longest).contains(&asked)
    {
        let reason = format!("{asked} tokens asked for; the model takes {MIN_LENGTH} to {longest}");
        return Err(Error::argument("max-length", reason));
    }
    if let Some((field, reason)) = options.augmentation.and_then(|a| a.fault()) {
        return Err(Error::argument(format!("augmentation.{field}"), reason));
    }
    if options.lock_image && options.augmentation.is_some() {
        let reason = "a locked image tower sees every image once, so that random changes would be \
                      the same in every epoch; leave out one of lock-image and augmentation";
        return Err(Error::argument("augmentation", reason));
    }
    if options.lock_image && options.lock_text {
        let reason = "with both towers locked there is nothing left to train";
        return Err(Error::argument("lock-text", reason));
    }
    Ok(())
}

/// Takes gradients from what is to stay as it is.
fn freeze(network: ClipNetwork, keys: Keys, options: &ClipOptions) -> Result<ClipNetwork> {
    let mut network = network;
    if options.lock_image {
        network.vision = network.vision.no_grad();
    }
    if options.lock_text {
        network.text = network.text.no_grad();
    }
    fin_core::weights::freeze_by(network, |path| keys.place(path).key, &options.freeze)
}

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

/// Rows of features as a tensor.
fn features(rows: &[&[f32]], device: &Device) -> Tensor<2> {
    let width = rows.first().map_or(0, |row| row.len());
    let data = TensorData::new(rows.concat(), [rows.len(), width]);
    Tensor::from_data(data, device)
}

impl Embedder for ClipEmbedder {
    type Item = ClipItem;
    type Encoded = EncodedClip;
    type Batch = ClipBatch;
    type Network = ClipNetwork;

    /// Takes texts apart into tokens; reads, resizes and crops image files, several at a time.
    fn preprocess(&self, items: &[ClipItem]) -> Result<Vec<EncodedClip>> {
        // The first in the list's order, whichever was found first.
        self.preprocess_each(items).into_iter().collect()
    }

    fn preprocess_each(&self, items: &[ClipItem]) -> Vec<Result<EncodedClip>> {
        let images = items.iter().enumerate().filter_map(|(i, item)| match item {
            ClipItem::Image(path) => Some((i, path.as_path())),
            ClipItem::Text(_) => None,
        });
        let (places, paths): (Vec<usize>, Vec<&Path>) = images.unzip();
        let images = self.decode(&paths).into_iter();
        let images = images.map(|image| image.map(EncodedClip::Pixels));
        let mut found = self.tokenize(items);
        found.extend(places.into_iter().zip(images));
        found.sort_by_key(|(place, _)| *place);
        found.into_iter().map(|(_, item)| item).collect()
    }

    fn window(&self) -> usize {
        WINDOW
    }

    /// Texts alone are all looked at first, so that those of similar length come together.
    fn window_for(&self, items: &[ClipItem]) -> usize {
        match items.iter().any(|item| matches!(item, ClipItem::Image(_))) {
            true => WINDOW,
            false => usize::MAX,
        }
    }

    /// Reads every file, so that a bad one is found now and not in the midst of training. What is
    /// kept is the features of a locked tower; the pixels where they do not change from epoch to
    /// epoch and there is room; else the path.
    fn preprocess_training(&self, items: &[ClipItem], device: &Device) -> Result<Vec<EncodedClip>> {
        let size = self.config.vision.image_size;
        let is_image = |item: &&ClipItem| matches!(item, ClipItem::Image(_));
        let images = items.iter().filter(is_image).count();
        let keeps =
            self.augmentation.is_none() && images.saturating_mul(size * size * 3) <= KEPT_PIXELS;
        let mut encoded: Vec<EncodedClip> = Vec::with_capacity(items.len());
        for window in items.chunks(WINDOW) {
            let mut locked = Vec::new();
            for (item, found) in window.iter().zip(self.preprocess(window)?) {
                let is_locked = match item {
                    ClipItem::Text(_) => self.lock_text,
                    ClipItem::Image(_) => self.lock_image,
                };
                if is_locked {
                    locked.push((encoded.len(), found.clone()));
                }
                encoded.push(match item {
                    ClipItem::Image(path) if !is_locked && !keeps => {
                        EncodedClip::File(path.as_path().into())
                    }
                    _ => found,
                });
            }
            let (places, locked): (Vec<usize>, Vec<EncodedClip>) = locked.into_iter().unzip();
            let features = self.locked_features(locked, device)?;
            for (place, features) in places.into_iter().zip(features) {
                encoded[place] = features;
            }
        }
        Ok(encoded)
    }

    fn preprocesses_alone(&self) -> bool {
        !(self.lock_image || self.lock_text)
    }

    fn cost(&self, item: &EncodedClip) -> usize {
        match item {
            EncodedClip::Text(text) => text.ids.len(),
            EncodedClip::Pixels(_) | EncodedClip::File(_) => self.config.vision.tokens(),
            EncodedClip::TextFeatures { .. } | EncodedClip::ImageFeatures(_) => 1,
        }
    }

    fn is_truncated(&self, item: &EncodedClip) -> bool {
        match item {
            EncodedClip::Text(text) => text.truncated,
            EncodedClip::TextFeatures { truncated, .. } => *truncated,
            _ => false,
        }
    }

    fn collate(&self, items: &[&EncodedClip], device: &Device) -> Result<ClipBatch> {
        self.collate_training(items, 0, device)
    }

    fn collate_training(
        &self,
        items: &[&EncodedClip],
        seed: u64,
        device: &Device,
    ) -> Result<ClipBatch> {
        if items.is_empty() {
            return Err(Error::argument(
                "items",
                "there are none to make a batch of",
            ));
        }
        let (mut ids, mut text_features) = (Vec::new(), Vec::new());
        let (mut images, mut image_features) = (Vec::new(), Vec::new());
        // Row of each item among those of its kind.
        let mut rows = Vec::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            let is_text = match item {
                EncodedClip::Text(text) => {
                    ids.push(text.ids.as_slice());
                    true
                }
                EncodedClip::TextFeatures { values, .. } => {
                    text_features.push(&values[..]);
                    true
                }
                EncodedClip::Pixels(_) | EncodedClip::File(_) => {
                    images.push((place, *item));
                    false
                }
                EncodedClip::ImageFeatures(values) => {
                    image_features.push(&values[..]);
                    false
                }
            };
            rows.push(is_text);
        }
        let mixed = |kind| Error::argument(kind, "some with features and some without in a batch");
        let texts = match (ids.is_empty(), text_features.is_empty()) {
            (true, true) => None,
            (false, true) => Some(self.text_batch(&ids, device)),
            (true, false) => Some(TextBatch::Features(features(&text_features, device))),
            (false, false) => return Err(mixed("texts")),
        };
        let image = |(place, item): &(usize, &EncodedClip)| match item {
            EncodedClip::Pixels(image) => Ok(image.clone()),
            EncodedClip::File(path) => {
                let image = self.read_augmented(path, seed_of(seed, *place))?;
                Ok(Arc::new(image))
            }
            _ => Err(Error::argument("images", "not an image")),
        };
        let images: Vec<Result<Arc<RgbImage>>> =
            decoders().install(|| images.par_iter().map(image).collect());
        let images: Vec<Arc<RgbImage>> = images.into_iter().collect::<Result<_>>()?;
        let images = match (images.is_empty(), image_features.is_empty()) {
            (true, true) => None,
            (false, true) => Some(ImageBatch::Pixels(self.pixels(&images, device)?)),
            (true, false) => Some(ImageBatch::Features(features(&image_features, device))),
            (false, false) => return Err(mixed("images")),
        };
        let order = (texts.is_some() && images.is_some()).then(|| order(&rows, device));
        Ok(ClipBatch {
            texts,
            images,
            order,
        })
    }

    fn network(&self) -> &ClipNetwork {
        &self.network
    }

    fn with_network(mut self, network: ClipNetwork) -> Self {
        self.network = network;
        self
    }

    /// Upstream's key names, and names after them for parameters that upstream has in one tensor.
    fn names(&self) -> Names {
        self.keys.training_names(&self.network)
    }

    /// Writes the files of the directory's dialect with the weights as safetensors under
    /// upstream's key names, and a `fin.json`.
    fn save(&self, directory: &Path) -> Result<()> {
        self.save_as(self.dialect, directory)
    }
}

/// For every item its row in texts followed by images; `is_text` says what each is.
fn order(is_text: &[bool], device: &Device) -> Tensor<1, Int> {
    let texts = is_text.iter().filter(|is_text| **is_text).count() as i64;
    let (mut text, mut image) = (0, texts);
    let rows = is_text.iter().map(|is_text| {
        let next = if *is_text { &mut text } else { &mut image };
        *next += 1;
        *next - 1
    });
    let rows: Vec<i64> = rows.collect();
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

impl ClipEmbedder {
    /// Whether the text tower is XLM-RoBERTa, which reads many languages.
    pub fn is_multilingual(&self) -> bool {
        matches!(self.config.text, TextConfig::XlmRoberta(_))
    }
}
