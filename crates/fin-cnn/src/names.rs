//! The names that checkpoints give to the parameters, as tables: torchvision's, timm's, and those
//! of EfficientNet-PyTorch (<https://github.com/lukemelas/EfficientNet-PyTorch>) and its
//! descendants.
//!
//! timm's ResNets have torchvision's names.

use std::collections::BTreeMap;

use fin_core::weights::{Checkpoint, Names};
use fin_core::{Error, Result};

use crate::architecture::BackboneConfig;
use crate::efficientnet::{EfficientNetConfig, Padding};
use crate::resnet::ResNetConfig;

/// Whose names a checkpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `torchvision.models`.
    Torchvision,
    /// `timm` (pytorch-image-models).
    Timm,
    /// `efficientnet_pytorch` and `efficientnet_lite_pytorch`.
    EfficientNetPytorch,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 3] = [Self::Torchvision, Self::Timm, Self::EfficientNetPytorch];

    /// Name in the catalogue.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Torchvision => "torchvision",
            Self::Timm => "timm",
            Self::EfficientNetPytorch => "efficientnet-pytorch",
        }
    }

    /// The dialect of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }
}

/// Classifier heads in the three, which are left aside.
const HEADS: [&str; 3] = ["fc.*", "classifier.*", "_fc.*"];

/// Path here, name upstream; `{stage}`, `{block}` and `{conv}` count from 0, `{stage1}` and
/// `{conv1}` from 1.
const RESNET_STEM: [[&str; 2]; 2] = [["stem.conv", "conv1"], ["stem.norm", "bn1"]];
const RESNET_CONV: [[&str; 2]; 2] = [
    [
        "stages.{stage}.{block}.convs.{conv}.conv",
        "layer{stage1}.{block}.conv{conv1}",
    ],
    [
        "stages.{stage}.{block}.convs.{conv}.norm",
        "layer{stage1}.{block}.bn{conv1}",
    ],
];
const RESNET_BLOCK: [[&str; 2]; 2] = [
    [
        "stages.{stage}.{block}.downsample.conv",
        "layer{stage1}.{block}.downsample.0",
    ],
    [
        "stages.{stage}.{block}.downsample.norm",
        "layer{stage1}.{block}.downsample.1",
    ],
];

/// Path here, torchvision, timm, EfficientNet-PyTorch; `{last}` is the number of stages plus one.
const EFFICIENTNET_ENDS: [[&str; 4]; 4] = [
    ["stem.conv", "features.0.0", "conv_stem", "_conv_stem"],
    ["stem.norm", "features.0.1", "bn1", "_bn0"],
    ["head.conv", "features.{last}.0", "conv_head", "_conv_head"],
    ["head.norm", "features.{last}.1", "bn2", "_bn1"],
];

/// The same within a block, under [`EFFICIENTNET_PLACES`]. torchvision numbers what is there:
/// `{d}` is 1 after an expansion and 0 without, `{s}` and `{p}` are the next numbers after it.
const EFFICIENTNET_BLOCK: [[&str; 4]; 8] = [
    ["expand.conv", "0.0", "conv_pw", "_expand_conv"],
    ["expand.norm", "0.1", "bn1", "_bn0"],
    ["depthwise.conv", "{d}.0", "conv_dw", "_depthwise_conv"],
    ["depthwise.norm", "{d}.1", "bn2", "_bn1"],
    [
        "squeeze_excite.reduce",
        "{s}.fc1",
        "se.conv_reduce",
        "_se_reduce",
    ],
    [
        "squeeze_excite.expand",
        "{s}.fc2",
        "se.conv_expand",
        "_se_expand",
    ],
    ["project.conv", "{p}.0", "conv_pwl", "_project_conv"],
    ["project.norm", "{p}.1", "bn3", "_bn2"],
];

/// Where timm names a block without an expansion otherwise.
const TIMM_WITHOUT_EXPANSION: [[&str; 2]; 3] = [
    ["depthwise.norm", "bn1"],
    ["project.conv", "conv_pw"],
    ["project.norm", "bn2"],
];

/// Where the blocks are; `{number}` counts them through all stages.
const EFFICIENTNET_PLACES: [&str; 4] = [
    "stages.{stage}.{block}",
    "features.{stage1}.{block}.block",
    "blocks.{stage}.{block}",
    "_blocks.{number}",
];

/// Puts numbers in the place of names in braces.
fn fill(template: &str, numbers: &[(&str, usize)]) -> String {
    numbers
        .iter()
        .fold(template.to_string(), |text, (name, number)| {
            text.replace(&format!("{{{name}}}"), &number.to_string())
        })
}

fn resnet(config: &ResNetConfig) -> BTreeMap<String, String> {
    let mut modules = BTreeMap::new();
    let mut put = |rows: &[[&str; 2]], numbers: &[(&str, usize)]| {
        for [ours, theirs] in rows {
            modules.insert(fill(ours, numbers), fill(theirs, numbers));
        }
    };
    put(&RESNET_STEM, &[]);
    for (stage, &blocks) in config.layers.iter().enumerate() {
        for block in 0..blocks {
            let place = [("stage", stage), ("stage1", stage + 1), ("block", block)];
            put(&RESNET_BLOCK, &place);
            for conv in 0..3 {
                let conv = [("conv", conv), ("conv1", conv + 1)];
                put(&RESNET_CONV, &[&place[..], &conv].concat());
            }
        }
    }
    modules
}

fn efficientnet(config: &EfficientNetConfig, dialect: Dialect) -> BTreeMap<String, String> {
    let column = match dialect {
        Dialect::Torchvision => 1,
        Dialect::Timm => 2,
        Dialect::EfficientNetPytorch => 3,
    };
    let mut modules = BTreeMap::new();
    for row in EFFICIENTNET_ENDS {
        let numbers = [("last", config.stages.len() + 1)];
        modules.insert(row[0].to_string(), fill(row[column], &numbers));
    }
    let mut number = 0;
    for (stage, shape) in config.stages.iter().enumerate() {
        for block in 0..shape.layers {
            let expands = config.expands(stage, block);
            let depthwise = usize::from(expands);
            let numbers = [
                ("stage", stage),
                ("stage1", stage + 1),
                ("block", block),
                ("number", number),
                ("d", depthwise),
                ("s", depthwise + 1),
                ("p", depthwise + 1 + usize::from(config.squeeze_excite)),
            ];
            for row in EFFICIENTNET_BLOCK {
                let other = TIMM_WITHOUT_EXPANSION
                    .iter()
                    .find(|[ours, _]| !expands && dialect == Dialect::Timm && *ours == row[0]);
                let name = other.map_or(row[column], |[_, name]| name);
                let join = |place, name| fill(&format!("{place}.{name}"), &numbers);
                modules.insert(
                    join(EFFICIENTNET_PLACES[0], row[0]),
                    join(EFFICIENTNET_PLACES[column], name),
                );
            }
            number += 1;
        }
    }
    modules
}

impl Dialect {
    /// Whose names a checkpoint of this architecture has, by its keys.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where it has none of those known, [`Error::Config`] where the
    /// names come from a library whose networks of that name compute something else.
    pub fn detect(checkpoint: &Checkpoint, config: &BackboneConfig) -> Result<Self> {
        let prefix = prefix(checkpoint);
        let has = |key: &str| checkpoint.get(&format!("{prefix}{key}.weight")).is_some();
        let known: &[(&str, Self)] = match config {
            BackboneConfig::ResNet(_) => &[("conv1", Self::Torchvision)],
            BackboneConfig::EfficientNet(_) => &[
                ("features.0.0", Self::Torchvision),
                ("conv_stem", Self::Timm),
                ("_conv_stem", Self::EfficientNetPytorch),
            ],
        };
        let Some((_, dialect)) = known.iter().find(|(key, _)| has(key)) else {
            let looked = known.iter().map(|(key, _)| format!("`{key}.weight`"));
            let there = checkpoint.iter().map(|(key, _)| format!("`{key}`"));
            return Err(Error::invalid(
                checkpoint.path(),
                format!(
                    "not the weights of this architecture: no {}; the first tensors are {}",
                    looked.collect::<Vec<_>>().join(" or "),
                    there.take(3).collect::<Vec<_>>().join(", ")
                ),
            ));
        };
        if let BackboneConfig::EfficientNet(config) = config
            && *dialect == Self::EfficientNetPytorch
            && config.padding != Padding::Same
        {
            return Err(Error::config(
                checkpoint.path(),
                "architecture",
                "the weights are of EfficientNet-PyTorch, whose padding and batch normalisation are TensorFlow's; \
                 the architectures that have them are named `tf_efficientnet_b0` and so on",
            ));
        }
        Ok(*dialect)
    }

    /// The dialect that an architecture is saved in: that of the library whose network of that
    /// name computes the same. torchvision's, and timm's for what TensorFlow's numbers need.
    pub fn of_saved(config: &BackboneConfig) -> Self {
        match config {
            BackboneConfig::EfficientNet(config) if config.padding == Padding::Same => Self::Timm,
            _ => Self::Torchvision,
        }
    }

    /// How the parameter paths of an architecture's backbone map to this dialect's keys.
    pub fn names(self, config: &BackboneConfig) -> Names {
        Names {
            modules: match config {
                BackboneConfig::ResNet(config) => resnet(config),
                BackboneConfig::EfficientNet(config) => efficientnet(config, self),
            },
            ignored: HEADS.map(String::from).to_vec(),
            ..Names::default()
        }
    }

    /// [`Dialect::names`] for a checkpoint of this dialect.
    pub fn names_in(self, checkpoint: &Checkpoint, config: &BackboneConfig) -> Names {
        Names {
            prefix: prefix(checkpoint).into(),
            ..self.names(config)
        }
    }
}

/// What `torch.nn.DataParallel` puts before every key.
fn prefix(checkpoint: &Checkpoint) -> &'static str {
    if checkpoint.has_prefix("module.") {
        "module."
    } else {
        ""
    }
}
