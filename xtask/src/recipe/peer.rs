//! The PyTorch script of a recipe, with the recipe's settings.

use std::ffi::OsString;

use serde_json::Value;

use super::number;
use crate::{cache, capture, command, root};

/// How a script does what a configuration says.
pub struct Peer {
    /// File in `scripts/reference`.
    script: &'static str,
    /// Modules that it needs.
    modules: &'static str,
    /// Every setting that a configuration may have, options of the loss as `loss_option.NAME`.
    settings: &'static [(&'static str, There)],
}

/// What a setting is in a script.
enum There {
    /// The value of this flag.
    Flag(&'static str),
    /// What the script does in any case.
    Fixed(&'static str),
    /// What its other arguments say: the model, and where the data is.
    Material,
}

use There::{Fixed, Flag, Material};

pub const TEXT: Peer = Peer {
    script: "train_sts.py",
    modules: "scipy, sentence_transformers",
    settings: &[
        ("model", Material),
        ("loss", Fixed("cosine_similarity")),
        ("no_header", Fixed("true")),
        ("score_range", Fixed("0..5")),
        ("epochs", Flag("--epochs")),
        ("batch_size", Flag("--batch-size")),
        ("learning_rate", Flag("--learning-rate")),
        ("warmup", Flag("--warmup")),
        ("weight_decay", Flag("--weight-decay")),
        ("max_grad_norm", Flag("--max-grad-norm")),
        ("seed", Flag("--seed")),
    ],
};

pub const IMAGE: Peer = Peer {
    script: "fit_images.py",
    modules: "efficientnet_lite_pytorch, pytorch_metric_learning, torchvision",
    settings: &[
        ("model", Material),
        ("image_size", Flag("--image-size")),
        ("loss", Flag("--loss")),
        ("loss_option.margin", Flag("--margin")),
        ("epochs", Flag("--epochs")),
        ("batch_size", Flag("--batch-size")),
        ("learning_rate", Flag("--lr")),
        ("seed", Flag("--seed")),
    ],
};

pub const CLIP: Peer = Peer {
    script: "fit_clip.py",
    modules: "open_clip, transformers",
    settings: &[
        ("loss", Fixed("clip")),
        ("loss_option.learn_temperature", Fixed("true")),
        ("epochs", Flag("--epochs")),
        ("batch_size", Flag("--batch-size")),
        ("learning_rate", Flag("--learning-rate")),
        ("seed", Flag("--seed")),
    ],
};

pub const MESH: Peer = Peer {
    script: "fit_meshes.py",
    modules: "pytorch_metric_learning, safetensors, efficientnet_lite_pytorch, torchvision",
    settings: &[
        ("points", Material),
        ("loss", Fixed("triplet_margin")),
        ("loss_option.margin", Flag("--margin")),
        ("epochs", Flag("--epochs")),
        ("batch_size", Flag("--batch-size")),
        ("learning_rate", Flag("--lr")),
        ("seed", Flag("--seed")),
    ],
};

/// Every setting as text, each option of the loss by itself.
fn values(settings: &toml::Table) -> Result<Vec<(String, String)>, String> {
    let text = |value: &toml::Value| match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    let mut values = Vec::new();
    for (key, value) in settings {
        let Some(options) = value.as_array() else {
            values.push((key.clone(), text(value)));
            continue;
        };
        for option in options {
            let option = text(option);
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| format!("`{option}` of {key} is not of the form name=value"))?;
            values.push((format!("{key}.{name}"), value.to_owned()));
        }
    }
    Ok(values)
}

/// Refuses settings that the script would not follow.
pub fn check(peer: &Peer, settings: &toml::Table) -> Result<(), String> {
    for (key, value) in values(settings)? {
        match peer.settings.iter().find(|(name, _)| *name == key) {
            None => return Err(format!("{} knows no setting `{key}`", peer.script)),
            Some((_, Fixed(fixed))) if value != *fixed => {
                return Err(format!("{} has `{key}` {fixed}, not {value}", peer.script));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Runs the script; `material` are its arguments about model and data.
pub fn run(
    peer: &Peer,
    settings: &toml::Table,
    seed: &str,
    material: &[OsString],
) -> Result<Value, String> {
    check(peer, settings)?;
    let python = cache()?.join("libtorch-2.9.0/bin/python");
    let mut missing = command(&python);
    missing.args(["-c", &format!("import {}", peer.modules)]);
    if capture(&mut missing).is_err() {
        return Err(format!(
            "{} lacks one of {}; run scripts/setup-reference.sh, and install with pip the packages \
             that fixtures/README.md names",
            python.display(),
            peer.modules
        ));
    }
    let mut script = command(&python);
    script.arg(root().join("scripts/reference").join(peer.script));
    script.args(material);
    for (key, value) in values(settings)? {
        let found = peer.settings.iter().find(|(name, _)| *name == key);
        if let Some((_, Flag(flag))) = found {
            let value = if key == "seed" { seed } else { &value };
            script.arg(flag).arg(value);
        }
    }
    serde_json::from_str(&capture(&mut script)?).map_err(|e| format!("{}: {e}", peer.script))
}

/// Seconds of training that a script reports.
pub fn seconds(report: &Value) -> Result<f64, String> {
    number(report, "training_seconds").or_else(|_| number(report, "seconds"))
}
