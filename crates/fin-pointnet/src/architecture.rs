//! Architectures by name, and the network in the forms that it runs in.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fin_core::weights::Names;
use fin_core::{Backbone, Error, Result};
use serde::{Deserialize, Serialize};

use crate::inference::Plan;
use crate::layers::PointNet2;
use crate::names::names;

/// An architecture: by name, or by its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Architecture {
    /// One of [`Architecture::NAMES`].
    Named(String),
    /// Numbers of one's own.
    Custom(PointNetConfig),
}

/// How a level looks at the neighbourhood of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// Within one radius (SSG): `mlp_convs` and `mlp_bns` upstream, where coordinates come before
    /// features.
    SingleScale,
    /// Within several radii (MSG): `conv_blocks` and `bn_blocks` upstream, where features come
    /// before coordinates.
    MultiScale,
}

/// The numbers that shape a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointNetConfig {
    /// The same for all levels.
    pub grouping: Grouping,
    /// Set abstractions, from all points to fewer.
    pub levels: Vec<LevelConfig>,
    /// Widths of the layers that see all points of the last level.
    pub global: Vec<usize>,
    /// Width of the classifier's first stage.
    pub embedding_size: usize,
}

/// A set abstraction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelConfig {
    /// Points that are kept.
    pub points: usize,
    /// Neighbourhoods, of which single-scale grouping has one.
    pub scales: Vec<ScaleConfig>,
}

/// A neighbourhood and its layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleConfig {
    /// How far it reaches; clouds have radius 1.
    pub radius: f64,
    /// Most points of it that are taken.
    pub neighbours: usize,
    /// Widths of its layers.
    pub mlp: Vec<usize>,
}

/// Limits on numbers from files, far beyond any published network: memory is taken by them before
/// weights are read.
const MOST_LEVELS: usize = 8;
const MOST_SCALES: usize = 8;
const MOST_LAYERS: usize = 8;
const MOST_CHANNELS: usize = 1 << 12;
const MOST_NEIGHBOURS: usize = 1 << 12;
pub(crate) const MOST_POINTS: usize = 1 << 20;

type Scale<'a> = (f64, usize, &'a [usize]);

fn level(points: usize, scales: &[Scale]) -> LevelConfig {
    let scale = |&(radius, neighbours, mlp): &Scale| ScaleConfig {
        radius,
        neighbours,
        mlp: mlp.to_vec(),
    };
    LevelConfig {
        points,
        scales: scales.iter().map(scale).collect(),
    }
}

impl Architecture {
    /// Every name: those of upstream's files `pointnet2_cls_ssg.py` and `pointnet2_cls_msg.py`.
    pub const NAMES: [&str; 2] = ["pointnet2_ssg", "pointnet2_msg"];

    /// The numbers behind the name.
    ///
    /// # Errors
    /// [`Error::Argument`] lists the names where there is none such, and names the field where
    /// no network can be made of one's own numbers.
    pub fn config(&self) -> Result<PointNetConfig> {
        match self {
            Self::Named(name) if name == Self::NAMES[0] => Ok(PointNetConfig::single_scale()),
            Self::Named(name) if name == Self::NAMES[1] => Ok(PointNetConfig::multi_scale()),
            Self::Named(name) => Err(Error::argument(
                "architecture",
                format!(
                    "`{name}` is not known; known are: {}",
                    Self::NAMES.join(", ")
                ),
            )),
            Self::Custom(config) => match config.fault() {
                None => Ok(config.clone()),
                Some((field, reason)) => Err(Error::argument(
                    "architecture",
                    format!("field `{field}`: {reason}"),
                )),
            },
        }
    }
}

impl PointNetConfig {
    /// Single-scale grouping, `pointnet2_cls_ssg.py` upstream.
    pub fn single_scale() -> Self {
        Self {
            grouping: Grouping::SingleScale,
            levels: vec![
                level(512, &[(0.2, 32, &[64, 64, 128])]),
                level(128, &[(0.4, 64, &[128, 128, 256])]),
            ],
            global: vec![256, 512, 1024],
            embedding_size: 512,
        }
    }

    /// Multi-scale grouping, `pointnet2_cls_msg.py` upstream.
    pub fn multi_scale() -> Self {
        let near: [Scale; 3] = [
            (0.1, 16, &[32, 32, 64]),
            (0.2, 32, &[64, 64, 128]),
            (0.4, 128, &[64, 96, 128]),
        ];
        let far: [Scale; 3] = [
            (0.2, 32, &[64, 64, 128]),
            (0.4, 64, &[128, 128, 256]),
            (0.8, 128, &[128, 128, 256]),
        ];
        Self {
            grouping: Grouping::MultiScale,
            levels: vec![level(512, &near), level(128, &far)],
            global: vec![256, 512, 1024],
            embedding_size: 512,
        }
    }

    /// Components of the global feature.
    pub fn global_size(&self) -> usize {
        self.global.last().copied().unwrap_or(0)
    }

    /// Makes the network, with or without normals beside the coordinates.
    pub fn init(&self, normals: bool, device: &Device) -> PointNet2 {
        PointNet2::init(self, normals, device)
    }

    /// How the parameter paths of [`PointNet2`] map to upstream's keys.
    pub fn names(&self) -> Names {
        names(self)
    }

    /// The first field that cannot be used, and why.
    pub fn fault(&self) -> Option<(String, String)> {
        let range = |field: String, number: usize, most: usize| {
            let wrong = number == 0 || number > most;
            let reason = || format!("{number} is not usable; accepted: 1 to {most}");
            wrong.then(|| (field, reason()))
        };
        let widths = |field: &str, widths: &[usize]| {
            range(format!("{field} (layers)"), widths.len(), MOST_LAYERS).or_else(|| {
                let widths = widths.iter();
                widths
                    .into_iter()
                    .find_map(|width| range(field.to_string(), *width, MOST_CHANNELS))
            })
        };
        let count = range("levels (number)".into(), self.levels.len(), MOST_LEVELS);
        if count.is_some() {
            return count;
        }
        for (i, level) in self.levels.iter().enumerate() {
            let name = format!("levels.{i}");
            let most = match self.grouping {
                Grouping::SingleScale => 1,
                Grouping::MultiScale => MOST_SCALES,
            };
            let scales = level.scales.len();
            let fault = range(format!("{name}.points"), level.points, MOST_POINTS)
                .or_else(|| range(format!("{name}.scales (number)"), scales, most));
            if fault.is_some() {
                return fault;
            }
            for (j, scale) in level.scales.iter().enumerate() {
                let name = format!("{name}.scales.{j}");
                if !(scale.radius > 0.0 && scale.radius.is_finite()) {
                    let reason = format!("{}; a number above 0 is accepted", scale.radius);
                    return Some((format!("{name}.radius"), reason));
                }
                let neighbours = format!("{name}.neighbours");
                let fault = range(neighbours, scale.neighbours, MOST_NEIGHBOURS)
                    .or_else(|| widths(&format!("{name}.mlp"), &scale.mlp));
                if fault.is_some() {
                    return fault;
                }
            }
        }
        widths("global", &self.global)
            .or_else(|| range("embedding_size".into(), self.embedding_size, MOST_CHANNELS))
    }
}

/// The network in one of its forms.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum PointBackbone {
    /// Layers and parameters as upstream has them, for training and saving; runs on every device.
    Full(PointNet2),
    /// For inference on `flex`: [`PointBackbone::compile`].
    Compiled(Compiled),
}

/// A network for inference on `flex`, with its own form of the weights and no parameters. It takes
/// points that are f32 on `flex` outside of autodiff, and panics for others.
#[derive(Module, Debug)]
pub struct Compiled {
    #[module(skip)]
    plan: Arc<Plan>,
}

fn refuse<const D: usize>(x: &Tensor<D>) -> ! {
    panic!(
        "values are {:?} on {:?}; a network that was compiled for inference takes f32 on flex \
         outside of autodiff",
        x.dtype(),
        x.device()
    )
}

impl PointBackbone {
    /// The same function at inference, in the form that is fastest where the weights are: packed
    /// on `flex`, with batch normalisations taken into the layers before them, else as it is.
    pub fn compile(&self) -> Self {
        match Plan::new(self) {
            Some(plan) => Self::Compiled(Compiled {
                plan: Arc::new(plan),
            }),
            None => self.clone(),
        }
    }

    /// `[batch, points, 3]`, or 6 with normals → `[batch, global]`.
    pub fn global(&self, points: &Tensor<3>) -> Tensor<2> {
        match self {
            Self::Full(model) => model.global(points),
            Self::Compiled(model) => {
                let found = model.plan.global(points);
                found.unwrap_or_else(|| refuse(points))
            }
        }
    }

    /// The classifier's first stage, batch normalisation included: `[batch, global]` →
    /// `[batch, embedding_size]`.
    pub fn first_stage(&self, global: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Full(model) => model.first_stage(global),
            Self::Compiled(model) => {
                let found = model.plan.first_stage(&global);
                found.unwrap_or_else(|| refuse(&global))
            }
        }
    }

    /// Components of what [`PointBackbone::first_stage`] gives.
    pub fn embedding_size(&self) -> usize {
        match self {
            Self::Full(model) => model.fc1.out_features(),
            Self::Compiled(model) => model.plan.embedding_size(),
        }
    }

    /// Values a point: 3, or 6 with normals.
    pub fn columns(&self) -> usize {
        match self {
            Self::Full(model) => model.columns,
            Self::Compiled(model) => model.plan.columns(),
        }
    }
}

impl Backbone for PointBackbone {
    /// `[batch, points, 3]`, or 6 with normals.
    type Batch = Tensor<3>;
    /// The global feature, `[batch, global]`.
    type Features = Tensor<2>;

    fn hidden_size(&self) -> usize {
        match self {
            Self::Full(model) => model.global_size(),
            Self::Compiled(model) => model.plan.global_size(),
        }
    }

    fn forward(&self, points: &Tensor<3>) -> Tensor<2> {
        self.global(points)
    }
}
