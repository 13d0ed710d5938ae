//! The whole embedding model of meshes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use fin_core::atomic::AtomicDir;
use fin_core::nn::LinearConfig;
use fin_core::weights::{self, Checkpoint, LoadReport, Names};
use fin_core::{Embedder, EmbeddingNetwork, Error, Precision, Result};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::architecture::{PointBackbone, PointNetConfig};
use crate::augment::PointAugmentation;
use crate::config::{CONFIG_FILE, ModelConfig, points_fault};
use crate::mesh::Mesh;
use crate::names;
use crate::network::{PointBatch, PointNetwork};
use crate::output::PointOutput;
use crate::points::Points;

/// What to change of a model as its directory describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeshOptions {
    /// Which of the network's vectors is the embedding, instead of what the directory says.
    pub output: Option<PointOutput>,
    /// Whether the rectifier after the first stage is kept, instead of what the directory says.
    pub relu: Option<bool>,
    /// Points that are taken of a mesh or cloud, instead of the directory's number.
    pub points: Option<usize>,
    /// Whether embeddings are scaled to unit length, instead of what the directory says.
    pub normalize: Option<bool>,
    /// Adds a projection to this many components, with new weights that must be trained.
    pub output_dim: Option<usize>,
    /// Which points are taken. The same seed gives the same points of the same file.
    pub seed: u64,
    /// Random changes to the clouds of training.
    pub augmentation: Option<PointAugmentation>,
    /// Keeps the backbone, with its running statistics, as it is in training; only the projection
    /// learns. What the backbone gives for a mesh is then computed once.
    pub freeze: bool,
    /// Refuse weights with NaN or infinite values.
    pub check: bool,
    /// What the backbone is held in at inference: f32, f16 or bf16. A projection is in f32.
    pub precision: Precision,
}

/// An embedding model of meshes and point clouds: reading, sampling, network, and the directory it
/// is kept in.
///
/// [`fin_core::encode`] runs the network in the form that is fastest on the device
/// ([`PointNetwork::compile`]), made when it is first needed; from then on the weights are in
/// memory twice.
#[derive(Debug, Clone)]
pub struct MeshEmbedder {
    network: PointNetwork,
    compiled: OnceLock<PointNetwork>,
    shape: Arc<PointNetConfig>,
    config: Arc<ModelConfig>,
    seed: u64,
    augmentation: Option<PointAugmentation>,
    freeze: bool,
    precision: Precision,
    report: LoadReport,
}

/// A preprocessed mesh.
#[derive(Debug, Clone)]
pub enum EncodedPoints {
    /// Points as the network takes them.
    Points(Points),
    /// The features of a frozen backbone.
    Features(Arc<[f32]>),
}

/// Meshes that are read at a time ahead of the network.
const WINDOW: usize = 64;

/// Meshes that a frozen backbone sees at a time.
const FROZEN_BATCH: usize = 16;

/// Weights of the backbone.
const WEIGHTS: &str = "model.safetensors";
/// Weights of the projection, apart so that the other file is upstream's to the last key.
const PROJECTION: &str = "projection.safetensors";

/// Points to a unit of [`fin_core::BatchLimits::max_cost`]: the usual limit of 4,096 is 16 clouds
/// of 2,048 points.
const POINTS_PER_COST: usize = 8;

impl MeshEmbedder {
    /// Opens a model directory: `fin.json` and weights with upstream's keys, as
    /// `model.safetensors` or `pytorch_model.bin`.
    ///
    /// # Errors
    /// Where a file is missing, damaged, or describes what is not built here; the error names
    /// the file, the field or tensor, and what is accepted.
    pub fn open(
        directory: impl AsRef<Path>,
        options: &MeshOptions,
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

    /// Opens a checkpoint as upstream's training saves it (`best_model.pth`), or its state
    /// dictionary, as what `config` says it is: [`ModelConfig::detect`] or [`ModelConfig::preset`].
    ///
    /// # Errors
    /// As [`MeshEmbedder::open`]; [`Error::Argument`] where `config` asks for a projection, which
    /// published checkpoints have not.
    pub fn open_checkpoint(
        path: impl AsRef<Path>,
        config: &ModelConfig,
        options: &MeshOptions,
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

    /// A model with random weights, drawn as PyTorch draws them, to be trained from the beginning;
    /// `device.seed` says which.
    ///
    /// # Errors
    /// [`Error::Argument`] or [`Error::Config`] where `config` or `options` cannot be used.
    pub fn init(config: &ModelConfig, options: &MeshOptions, device: &Device) -> Result<Self> {
        config.check(Path::new(CONFIG_FILE))?;
        let mut config = config.clone();
        let shape = config.architecture.config()?;
        let network = shape.init(config.normals, device);
        let head = config.projection.take().or(options.output_dim);
        let options = MeshOptions {
            output_dim: head,
            ..options.clone()
        };
        let backbone = PointBackbone::Full(network);
        Self::assemble(
            config,
            shape,
            backbone,
            None,
            LoadReport::default(),
            &options,
            device,
        )
    }

    fn load(
        config: ModelConfig,
        checkpoint: &Checkpoint,
        projection: Option<&Checkpoint>,
        options: &MeshOptions,
        device: &Device,
    ) -> Result<Self> {
        for checkpoint in [Some(checkpoint), projection].into_iter().flatten() {
            if options.check {
                checkpoint.check_finite()?;
            }
        }
        let shape = config.architecture.config()?;
        let names = names::names_in(checkpoint, &shape)?;
        let network = shape.init(config.normals, device);
        let (network, mut report) = weights::load(network, checkpoint, &names, device)?;
        let mut head = None;
        if let (Some(checkpoint), Some(width)) = (projection, config.projection) {
            // What was trained is a projection of the directory's own output.
            let features = features(&shape, config.output);
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
        let backbone = PointBackbone::Full(network);
        Self::assemble(config, shape, backbone, head, report, options, device)
    }

    fn assemble(
        mut config: ModelConfig,
        shape: PointNetConfig,
        backbone: PointBackbone,
        mut head: Option<fin_core::nn::Linear>,
        report: LoadReport,
        options: &MeshOptions,
        device: &Device,
    ) -> Result<Self> {
        options.precision.check_whole(device)?;
        if let Some(output) = options.output.filter(|output| *output != config.output) {
            if let Some(width) = config.projection {
                let reason = format!(
                    "the model has a projection to {width} components, of the output `{}`",
                    config.output
                );
                return Err(Error::argument("pooling", reason));
            }
            config.output = output;
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
                let features = features(&shape, config.output);
                head = Some(LinearConfig::new(features, width).init(device));
                config.projection = Some(width);
            }
        }
        config.relu = options.relu.unwrap_or(config.relu);
        config.normalize = options.normalize.unwrap_or(config.normalize);
        config.points = options.points.unwrap_or(config.points);
        if let Some(reason) = points_fault(config.points) {
            return Err(Error::argument("points", reason));
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
            let reason = "a frozen backbone sees every mesh once, so that random changes would be \
                          the same in every epoch; leave out one of freeze and augmentation";
            return Err(Error::argument("augmentation", reason));
        }
        let backbone = if options.freeze {
            backbone.no_grad()
        } else {
            backbone
        };
        let network = PointNetwork {
            backbone,
            projection: head,
            output: config.output,
            relu: config.relu,
            normalize: config.normalize,
        };
        Ok(Self {
            network,
            compiled: OnceLock::new(),
            shape: Arc::new(shape),
            config: Arc::new(config),
            seed: options.seed,
            augmentation: options.augmentation,
            freeze: options.freeze,
            precision: options.precision,
            report,
        })
    }

    /// What became of every tensor of the checkpoint.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// Components of the network's vector, before any projection.
    pub fn hidden_size(&self) -> usize {
        self.network.feature_size()
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

    /// A cloud in memory as the network takes it: without normals it does not see, and in the unit
    /// sphere where the model asks for it. All its points are taken, however many.
    ///
    /// # Errors
    /// [`Error::Argument`] where the network sees normals and the cloud has none.
    pub fn prepare(&self, points: &Points) -> Result<EncodedPoints> {
        let columns = self.config.columns();
        let found = points.with_columns(columns).ok_or_else(|| {
            let reason = "3 values a point; this model takes 6, coordinates and normals";
            Error::argument("points", reason)
        })?;
        Ok(EncodedPoints::Points(match self.config.unit_sphere {
            true => found.in_unit_sphere(),
            false => found,
        }))
    }

    /// Embeddings of clouds in memory, row-major `[clouds, output_dim]`. Neighbours of the same
    /// number of points are embedded together.
    ///
    /// # Errors
    /// As [`MeshEmbedder::prepare`].
    pub fn embed_points(&self, clouds: &[Points], device: &Device) -> Result<Vec<f32>> {
        let encoded: Vec<EncodedPoints> = clouds
            .iter()
            .map(|cloud| self.prepare(cloud))
            .collect::<Result<_>>()?;
        let network = self.inference_network();
        let mut values = Vec::with_capacity(encoded.len() * network.output_dim());
        let count = |item: &EncodedPoints| match item {
            EncodedPoints::Points(points) => points.len(),
            EncodedPoints::Features(_) => 0,
        };
        let same = |a: &EncodedPoints, b: &EncodedPoints| count(a) == count(b);
        for run in encoded.chunk_by(same) {
            for batch in run.chunks(FROZEN_BATCH) {
                let batch = self.collate(&batch.iter().collect::<Vec<_>>(), device)?;
                values.extend(read_back(network.embed(&batch))?);
            }
        }
        Ok(values)
    }

    /// A file's points as the network takes them.
    fn read(&self, path: &Path) -> Result<EncodedPoints> {
        let mesh = Mesh::open(path)?;
        let (count, seed) = (self.config.points, self.seed);
        let points = if self.config.normals {
            let found = mesh.sample_oriented(count, seed).ok_or_else(|| {
                Error::invalid(
                    path,
                    "a cloud without normals, which this model takes beside coordinates; add \
                     them, or use a model of coordinates alone",
                )
            })?;
            Points::from_oriented(&found.points, &found.normals)
        } else {
            Points::from_positions(&mesh.sample(count, seed))
        };
        let prepared = points.and_then(|points| self.prepare(&points));
        prepared.map_err(|error| match error {
            Error::Argument { reason, .. } => Error::invalid(path, reason),
            other => other,
        })
    }

    fn read_all(&self, items: &[PathBuf]) -> Vec<Result<EncodedPoints>> {
        readers().install(|| items.par_iter().map(|path| self.read(path)).collect())
    }

    /// `[batch, points, columns]`.
    fn tensor(&self, clouds: &[Points], device: &Device) -> Result<Tensor<3>> {
        let columns = self.config.columns();
        let count = clouds.first().map_or(0, Points::len);
        let odd = |cloud: &&Points| cloud.len() != count || cloud.columns() != columns;
        if let Some(other) = clouds.iter().find(odd) {
            let reason = format!(
                "clouds of [{count}, {columns}] and [{}, {}] values do not fit in a batch",
                other.len(),
                other.columns()
            );
            return Err(Error::argument("points", reason));
        }
        let values: Vec<f32> = clouds.iter().flat_map(Points::values).copied().collect();
        let data = TensorData::new(values, [clouds.len(), count, columns]);
        Ok(Tensor::from_data(data, device))
    }

    /// What the backbone gives for files, computed once.
    fn frozen_features(&self, items: &[PathBuf], device: &Device) -> Result<Vec<EncodedPoints>> {
        let network = self.inference_network();
        let mut features = Vec::with_capacity(items.len());
        for window in items.chunks(FROZEN_BATCH) {
            let clouds: Vec<EncodedPoints> =
                self.read_all(window).into_iter().collect::<Result<_>>()?;
            let batch = self.collate(&clouds.iter().collect::<Vec<_>>(), device)?;
            let found = match &batch {
                PointBatch::Points(points) => network.features(points),
                PointBatch::Features(features) => features.clone(),
            };
            let values = read_back(found)?;
            let rows = values.chunks_exact(network.feature_size());
            features.extend(rows.map(|row| EncodedPoints::Features(row.into())));
        }
        Ok(features)
    }

    fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(CONFIG_FILE);
        let config = ModelConfig {
            output: self.network.output,
            relu: self.network.relu,
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

fn features(shape: &PointNetConfig, output: PointOutput) -> usize {
    match output {
        PointOutput::Embedding => shape.embedding_size,
        PointOutput::Global => shape.global_size(),
    }
}

fn read_back(rows: Tensor<2>) -> Result<Vec<f32>> {
    let values = rows.into_data().convert::<f32>().try_into_vec::<f32>();
    values.map_err(|e| Error::argument("device", format!("values cannot be read back: {e:?}")))
}

/// Threads for reading, apart from those that compute: a reader in the way of a layer would hold up
/// all threads that take part in it.
fn readers() -> &'static ThreadPool {
    static READERS: LazyLock<ThreadPool> = LazyLock::new(|| {
        ThreadPoolBuilder::new()
            .thread_name(|i| format!("fin-mesh-{i}"))
            .build()
            .expect("threads can be started")
    });
    &READERS
}

/// The seed for one cloud of a batch.
fn seed_of(seed: u64, place: usize) -> u64 {
    // Neighbouring seeds give unrelated generators; an odd factor keeps places apart.
    seed.wrapping_add((place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Embedder for MeshEmbedder {
    type Item = PathBuf;
    type Encoded = EncodedPoints;
    type Batch = PointBatch;
    type Network = PointNetwork;

    /// Reads mesh or point-cloud files and takes points of them, several files at a time.
    fn preprocess(&self, items: &[PathBuf]) -> Result<Vec<EncodedPoints>> {
        // The first in the list's order, whichever was found first.
        self.preprocess_each(items).into_iter().collect()
    }

    fn preprocess_each(&self, items: &[PathBuf]) -> Vec<Result<EncodedPoints>> {
        self.read_all(items)
    }

    fn window(&self) -> usize {
        WINDOW
    }

    /// Reads every file. What is kept is the points, or the features of a frozen backbone.
    fn preprocess_training(
        &self,
        items: &[PathBuf],
        device: &Device,
    ) -> Result<Vec<EncodedPoints>> {
        if self.freeze {
            return self.frozen_features(items, device);
        }
        let mut encoded = Vec::with_capacity(items.len());
        for window in items.chunks(WINDOW) {
            for points in self.read_all(window) {
                encoded.push(points?);
            }
        }
        Ok(encoded)
    }

    fn preprocesses_alone(&self) -> bool {
        !self.freeze
    }

    fn cost(&self, item: &EncodedPoints) -> usize {
        match item {
            EncodedPoints::Points(points) => points.len().div_ceil(POINTS_PER_COST),
            EncodedPoints::Features(_) => 1,
        }
    }

    fn collate(&self, items: &[&EncodedPoints], device: &Device) -> Result<PointBatch> {
        let is_features = |item: &&&EncodedPoints| matches!(item, EncodedPoints::Features(_));
        match items.iter().filter(is_features).count() {
            0 => {}
            count if count == items.len() => {
                let rows = items.iter().flat_map(|item| match item {
                    EncodedPoints::Features(row) => &row[..],
                    EncodedPoints::Points(_) => &[],
                });
                let values: Vec<f32> = rows.copied().collect();
                let shape = [count, values.len() / count];
                let data = TensorData::new(values, shape);
                return Ok(PointBatch::Features(Tensor::from_data(data, device)));
            }
            _ => {
                return Err(Error::argument(
                    "points",
                    "points and features in one batch",
                ));
            }
        }
        let clouds: Vec<Points> = items
            .iter()
            .filter_map(|item| match item {
                EncodedPoints::Points(points) => Some(points.clone()),
                EncodedPoints::Features(_) => None,
            })
            .collect();
        Ok(PointBatch::Points(self.tensor(&clouds, device)?))
    }

    fn collate_training(
        &self,
        items: &[&EncodedPoints],
        seed: u64,
        device: &Device,
    ) -> Result<PointBatch> {
        let Some(augmentation) = &self.augmentation else {
            return self.collate(items, device);
        };
        let changed: Vec<EncodedPoints> = items
            .par_iter()
            .enumerate()
            .map(|(place, item)| match item {
                EncodedPoints::Points(points) => {
                    EncodedPoints::Points(points.augmented(augmentation, seed_of(seed, place)))
                }
                features => (*features).clone(),
            })
            .collect();
        self.collate(&changed.iter().collect::<Vec<_>>(), device)
    }

    fn network(&self) -> &PointNetwork {
        &self.network
    }

    fn inference_network(&self) -> &PointNetwork {
        self.compiled
            .get_or_init(|| self.network.compile_in(self.precision))
    }

    fn with_network(mut self, network: PointNetwork) -> Self {
        self.network = network;
        self.compiled = OnceLock::new();
        self
    }

    fn names(&self) -> Names {
        names::names(&self.shape)
    }

    /// Writes `fin.json`, `model.safetensors` with upstream's keys, and `projection.safetensors`
    /// where there is one. The rest of the classifier is not there: load it upstream with
    /// `strict=False`.
    fn save(&self, directory: &Path) -> Result<()> {
        self.precision.check_save()?;
        let target = AtomicDir::create(directory)?;
        self.write(target.path())?;
        target.commit()
    }
}
