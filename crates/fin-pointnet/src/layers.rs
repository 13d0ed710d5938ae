//! PointNet++ (Qi et al. 2017, *Deep Hierarchical Feature Learning on Point Sets in a Metric
//! Space*) as <https://github.com/yanx27/Pointnet_Pointnet2_pytorch> has it
//! (`models/pointnet2_utils.py`), up to the classifier's first stage.
//!
//! This is the portable form: Burn operations on every device, differentiable, with batch
//! statistics in training. Layers run on `[1, channels, rows, 1]`, a row for every neighbour of
//! every kept point of every cloud.

use burn::module::{Initializer, Module};
use burn::tensor::{Device, Int, Tensor};
use fin_core::kernels::Activation;
use fin_core::nn::{BatchNorm2d, BatchNorm2dConfig, Conv2d, ConvPadding, Linear};

use crate::architecture::{Grouping, LevelConfig, PointNetConfig};
use crate::query::{self, Start};

/// Weights and bias as `torch.nn.Linear` and `torch.nn.Conv2d` draw them: uniformly within
/// `1/√in`.
fn initializer(inputs: usize) -> Initializer {
    let bound = 1.0 / (inputs.max(1) as f64).sqrt();
    Initializer::Uniform {
        min: -bound,
        max: bound,
    }
}

/// Convolution by one, batch normalisation, ReLU.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// `[out, in, 1, 1]`, with a bias.
    pub conv: Conv2d,
    /// Of its output.
    pub norm: BatchNorm2d,
}

impl ConvNorm {
    fn init(inputs: usize, outputs: usize, device: &Device) -> Self {
        let initializer = initializer(inputs);
        Self {
            conv: Conv2d {
                weight: initializer.init([outputs, inputs, 1, 1], device),
                bias: Some(initializer.init([outputs], device)),
                stride: 1,
                padding: ConvPadding::Fixed(0),
                groups: 1,
            },
            norm: BatchNorm2dConfig::new(outputs).init(device),
        }
    }

    /// `[in, rows]` → `[out, rows]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [inputs, rows] = x.dims();
        let y = self.conv.forward(x.reshape([1, inputs, rows, 1]));
        let y = self.norm.forward_activated(y, Activation::Relu);
        y.reshape([self.conv.out_channels(), rows])
    }
}

/// Layers that all points share.
#[derive(Module, Debug)]
pub struct SharedMlp {
    /// One after the other.
    pub layers: Vec<ConvNorm>,
}

impl SharedMlp {
    fn init(inputs: usize, widths: &[usize], device: &Device) -> Self {
        let mut inputs = inputs;
        let layer = |&width: &usize| {
            let layer = ConvNorm::init(inputs, width, device);
            inputs = width;
            layer
        };
        Self {
            layers: widths.iter().map(layer).collect(),
        }
    }

    /// Layers and the maximum over each group of `neighbours` rows:
    /// `[groups · neighbours, in]` → `[groups, out]`.
    fn forward(&self, rows: Tensor<2>, neighbours: usize) -> Tensor<2> {
        let groups = rows.dims()[0] / neighbours.max(1);
        let x = rows.swap_dims(0, 1);
        let x = self.layers.iter().fold(x, |x, layer| layer.forward(x));
        let outputs = x.dims()[0];
        let largest = x.reshape([outputs, groups, neighbours]).max_dim(2);
        largest.reshape([outputs, groups]).swap_dims(0, 1)
    }

    fn outputs(&self) -> usize {
        let last = self.layers.last();
        last.map_or(0, |layer| layer.conv.out_channels())
    }
}

/// Set abstraction: keeps some of the points, each with what its neighbourhoods show.
#[derive(Module, Debug)]
pub struct SetAbstraction {
    /// Layers of each neighbourhood.
    pub scales: Vec<SharedMlp>,
    /// Points, radii, numbers of neighbours.
    #[module(skip)]
    pub config: LevelConfig,
    /// Order of coordinates and features.
    #[module(skip)]
    pub grouping: Grouping,
}

/// Clouds on the way through the network.
struct Level {
    /// `[batch, points, 3]`.
    xyz: Tensor<3>,
    /// `[batch · points, channels]`; none at the first level without normals.
    features: Option<Tensor<2>>,
}

impl SetAbstraction {
    fn init(config: &LevelConfig, grouping: Grouping, channels: usize, device: &Device) -> Self {
        let scales = config.scales.iter();
        Self {
            scales: scales
                .map(|scale| SharedMlp::init(3 + channels, &scale.mlp, device))
                .collect(),
            config: config.clone(),
            grouping,
        }
    }

    fn outputs(&self) -> usize {
        self.scales.iter().map(SharedMlp::outputs).sum()
    }

    fn forward(&self, level: Level) -> Level {
        let [batch, points, _] = level.xyz.dims();
        let kept = self.config.points;
        let plain = level.xyz.clone().without_autodiff();
        let flat = level.xyz.clone().reshape([batch * points, 3]);
        let chosen = query::farthest_points(&plain, kept, Start::default());
        let centroids = flat.clone().select(0, flatten(chosen, points));
        let xyz = centroids.clone().reshape([batch, kept, 3]);
        let plain_centroids = xyz.clone().without_autodiff();
        let mut found = Vec::with_capacity(self.scales.len());
        for (scale, mlp) in self.config.scales.iter().zip(&self.scales) {
            let neighbours = scale.neighbours;
            let groups = query::ball_query(&plain, &plain_centroids, scale.radius, neighbours);
            let index = flatten(groups.reshape([batch, kept * neighbours]), points);
            let own = flat.clone().select(0, index.clone());
            let own = own.reshape([batch * kept, neighbours, 3])
                - centroids.clone().reshape([batch * kept, 1, 3]);
            let own = own.reshape([batch * kept * neighbours, 3]);
            let rows = match &level.features {
                None => own,
                Some(features) => {
                    let features = features.clone().select(0, index);
                    let own = own.cast(features.dtype());
                    let columns = match self.grouping {
                        Grouping::SingleScale => vec![own, features],
                        Grouping::MultiScale => vec![features, own],
                    };
                    Tensor::cat(columns, 1)
                }
            };
            found.push(mlp.forward(rows, neighbours));
        }
        Level {
            xyz,
            features: Some(Tensor::cat(found, 1)),
        }
    }
}

/// Indices within clouds as indices into all points: `[batch, n]` → `[batch · n]`.
fn flatten(index: Tensor<2, Int>, points: usize) -> Tensor<1, Int> {
    let [batch, n] = index.dims();
    let first = Tensor::arange(0..batch as i64, &index.device()) * points as i64;
    (index + first.reshape([batch, 1])).reshape([batch * n])
}

/// PointNet++ without the end of its classifier.
#[derive(Module, Debug)]
pub struct PointNet2 {
    /// `sa1` and so on but the last.
    pub levels: Vec<SetAbstraction>,
    /// The last set abstraction, of all points at once.
    pub global: SharedMlp,
    /// `[embedding_size, global]`.
    pub fc1: Linear,
    /// Of its output.
    pub bn1: BatchNorm2d,
    /// Values a point: 3, or 6 with normals.
    pub columns: usize,
}

impl PointNet2 {
    /// Makes the network, with random weights until others are loaded.
    pub fn init(config: &PointNetConfig, normals: bool, device: &Device) -> Self {
        let mut channels = if normals { 3 } else { 0 };
        let level = |level: &LevelConfig| {
            let level = SetAbstraction::init(level, config.grouping, channels, device);
            channels = level.outputs();
            level
        };
        let levels: Vec<SetAbstraction> = config.levels.iter().map(level).collect();
        let global = SharedMlp::init(3 + channels, &config.global, device);
        let (inputs, outputs) = (config.global_size(), config.embedding_size);
        let initializer = initializer(inputs);
        Self {
            levels,
            global,
            fc1: Linear::of(
                initializer.init([outputs, inputs], device),
                Some(initializer.init([outputs], device)),
            ),
            bn1: BatchNorm2dConfig::new(outputs).init(device),
            columns: if normals { 6 } else { 3 },
        }
    }

    /// Components of the global feature.
    pub fn global_size(&self) -> usize {
        self.global.outputs()
    }

    /// What every level gives: points that are kept, `[batch, points, 3]`, and their features,
    /// `[batch, points, channels]`. Of points `[batch, points, 3]`, or 6 with normals; normals are
    /// not looked at where the network does not see them.
    pub fn levels(&self, points: &Tensor<3>) -> Vec<(Tensor<3>, Tensor<3>)> {
        let [batch, _, _] = points.dims();
        let mut level = self.first(points);
        let mut found = Vec::with_capacity(self.levels.len());
        for abstraction in &self.levels {
            level = abstraction.forward(level);
            if let Some(features) = &level.features {
                let channels = features.dims()[1];
                let features = features
                    .clone()
                    .reshape([batch, level.xyz.dims()[1], channels]);
                found.push((level.xyz.clone(), features));
            }
        }
        found
    }

    fn first(&self, points: &Tensor<3>) -> Level {
        let [batch, count, columns] = points.dims();
        assert!(
            columns >= self.columns && count > 0,
            "points are [{batch}, {count}, {columns}]; at least one a cloud, of {} values, is needed",
            self.columns
        );
        let features = (self.columns == 6).then(|| {
            let normals = points.clone().slice([0..batch, 0..count, 3..6]);
            normals.reshape([batch * count, 3])
        });
        Level {
            xyz: points.clone().slice([0..batch, 0..count, 0..3]),
            features,
        }
    }

    /// `[batch, points, 3]`, or 6 with normals → `[batch, global]`.
    ///
    /// Panics where there are fewer values a point than the network takes, or no points.
    pub fn global(&self, points: &Tensor<3>) -> Tensor<2> {
        let levels = self.levels.iter();
        let last = levels.fold(self.first(points), |level, next| next.forward(level));
        let [batch, count, _] = last.xyz.dims();
        let xyz = last.xyz.reshape([batch * count, 3]);
        let rows = match last.features {
            Some(features) => Tensor::cat(vec![xyz.cast(features.dtype()), features], 1),
            None => xyz,
        };
        self.global.forward(rows, count)
    }

    /// The classifier's first stage, batch normalisation included: `[batch, global]` →
    /// `[batch, embedding_size]`.
    pub fn first_stage(&self, global: Tensor<2>) -> Tensor<2> {
        let x = self.fc1.forward(global);
        let [batch, width] = x.dims();
        let x = self.bn1.forward(x.reshape([batch, width, 1, 1]));
        x.reshape([batch, width])
    }
}
