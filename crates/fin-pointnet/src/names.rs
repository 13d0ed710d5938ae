//! The names that upstream's checkpoints give to the parameters
//! (<https://github.com/yanx27/Pointnet_Pointnet2_pytorch>), as a table.

use std::collections::BTreeMap;

use fin_core::weights::{Checkpoint, Names};
use fin_core::{Error, Result};

use crate::architecture::{Architecture, Grouping, PointNetConfig};

/// The rest of the classifier, which is left aside.
const HEAD: [&str; 3] = ["fc2.*", "bn2.*", "fc3.*"];

/// How the parameter paths of a network map to upstream's keys.
pub(crate) fn names(config: &PointNetConfig) -> Names {
    let mut modules = BTreeMap::new();
    let mut put = |ours: String, theirs: String| modules.insert(ours, theirs);
    for (i, level) in config.levels.iter().enumerate() {
        let sa = i + 1;
        for (j, scale) in level.scales.iter().enumerate() {
            for k in 0..scale.mlp.len() {
                let (conv, norm) = match config.grouping {
                    Grouping::SingleScale => (format!("mlp_convs.{k}"), format!("mlp_bns.{k}")),
                    Grouping::MultiScale => {
                        (format!("conv_blocks.{j}.{k}"), format!("bn_blocks.{j}.{k}"))
                    }
                };
                let layer = format!("levels.{i}.scales.{j}.layers.{k}");
                put(format!("{layer}.conv"), format!("sa{sa}.{conv}"));
                put(format!("{layer}.norm"), format!("sa{sa}.{norm}"));
            }
        }
    }
    let sa = config.levels.len() + 1;
    for k in 0..config.global.len() {
        let layer = format!("global.layers.{k}");
        put(format!("{layer}.conv"), format!("sa{sa}.mlp_convs.{k}"));
        put(format!("{layer}.norm"), format!("sa{sa}.mlp_bns.{k}"));
    }
    for name in ["fc1", "bn1"] {
        put(name.into(), name.into());
    }
    Names {
        modules,
        ignored: HEAD.map(String::from).to_vec(),
        ..Names::default()
    }
}

/// [`names`] for a checkpoint.
///
/// # Errors
/// [`Error::InvalidFile`] where it is not of this architecture.
pub(crate) fn names_in(checkpoint: &Checkpoint, config: &PointNetConfig) -> Result<Names> {
    let found = grouping(checkpoint)?;
    if found != config.grouping {
        let say = |grouping| match grouping {
            Grouping::SingleScale => "single-scale (SSG, `sa1.mlp_convs.0.weight`)",
            Grouping::MultiScale => "multi-scale (MSG, `sa1.conv_blocks.0.0.weight`)",
        };
        return Err(Error::invalid(
            checkpoint.path(),
            format!(
                "weights of {} grouping, but the architecture is of {}",
                say(found),
                say(config.grouping)
            ),
        ));
    }
    Ok(Names {
        prefix: prefix(checkpoint).into(),
        ..names(config)
    })
}

/// Name of the architecture of a published checkpoint, and whether it sees normals.
pub(crate) fn detect(checkpoint: &Checkpoint) -> Result<(&'static str, bool)> {
    let grouping = grouping(checkpoint)?;
    let (name, key) = match grouping {
        Grouping::SingleScale => (Architecture::NAMES[0], KEYS[0].0),
        Grouping::MultiScale => (Architecture::NAMES[1], KEYS[1].0),
    };
    let key = format!("{}{key}", prefix(checkpoint));
    let shape = checkpoint.get(&key).map_or(&[][..], |entry| entry.shape());
    match shape {
        [_, 3, ..] => Ok((name, false)),
        [_, 6, ..] => Ok((name, true)),
        _ => Err(Error::invalid(
            checkpoint.path(),
            format!(
                "tensor `{key}` has shape {shape:?}; networks of coordinates have 3 on the \
                 second axis, those with normals 6"
            ),
        )),
    }
}

/// What tells the groupings apart.
const KEYS: [(&str, Grouping); 2] = [
    ("sa1.mlp_convs.0.weight", Grouping::SingleScale),
    ("sa1.conv_blocks.0.0.weight", Grouping::MultiScale),
];

fn grouping(checkpoint: &Checkpoint) -> Result<Grouping> {
    let prefix = prefix(checkpoint);
    let has = |key: &str| checkpoint.get(&format!("{prefix}{key}")).is_some();
    let found = KEYS.into_iter().find(|(key, _)| has(key));
    found.map(|(_, grouping)| grouping).ok_or_else(|| {
        let there = checkpoint.iter().map(|(key, _)| format!("`{key}`"));
        Error::invalid(
            checkpoint.path(),
            format!(
                "not the weights of a PointNet++ classifier: no `{}` or `{}`; the first tensors \
                 are {}",
                KEYS[0].0,
                KEYS[1].0,
                there.take(3).collect::<Vec<_>>().join(", ")
            ),
        )
    })
}

/// What `torch.nn.DataParallel` puts before every key.
fn prefix(checkpoint: &Checkpoint) -> &'static str {
    if checkpoint.has_prefix("module.") {
        "module."
    } else {
        ""
    }
}
