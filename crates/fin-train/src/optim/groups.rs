//! Parameters that are trained differently from the others.

use std::collections::BTreeMap;

use burn::module::Module;
use fin_core::weights::{Names, is_match, parameters};

/// How one parameter is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// What the learning rate is multiplied by.
    pub rate: f64,
    /// Whether weight decay holds for it.
    pub decays: bool,
}

/// Parts of a network above its layers, by the first component of their path.
const HEADS: [&str; 5] = ["dense", "projection", "pooler", "classifier", "logit_scale"];

/// Towers side by side, each with layers of its own.
const TOWERS: [&str; 2] = ["text", "vision"];

/// How every parameter of a network is trained, by path.
///
/// `layer_decay` makes learning rates smaller from layer to layer (Clark et al. 2020, "ELECTRA"; Bao et
/// al. 2022, "BEiT"): with `n` layers, layer `i`, counted from 1, has a rate of `layer_decayⁿ⁺¹⁻ⁱ`, what
/// comes before the first layer `layer_decayⁿ⁺¹`, and what comes after the last one, heads and final
/// norms, 1. A layer is what has a number in upstream's name of a parameter, as in `encoder.layer.3` or
/// `layer2.0`, in order; a numbered convolution, norm or linear map that is part of none, such as `conv1`
/// and `bn1` of a ResNet, comes before or after the layers. Towers of a model of texts and images are
/// counted apart. For networks of which timm has a division (`param_groups_layer_decay`), this is it.
///
/// Weight decay leaves alone what [`is_exempt_from_decay`] says, and parameters whose upstream name one
/// of the patterns `no_decay` matches (`*` for any characters, `?` for one).
pub fn groups<M: Module>(
    module: &M,
    names: &Names,
    layer_decay: f64,
    no_decay: &[String],
) -> BTreeMap<String, Group> {
    let paths: Vec<Vec<String>> = parameters(module)
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    // Layers of each tower in order, and the place of every parameter among them.
    let mut layers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let places: Vec<(&str, Place)> = paths
        .iter()
        .map(|path| {
            let first = path.first().map_or("", String::as_str);
            let tower = TOWERS.into_iter().find(|tower| *tower == first);
            let tower = tower.unwrap_or_default();
            let found = layers.entry(tower).or_default();
            let inner = if tower.is_empty() { path } else { &path[1..] };
            let is_head = inner
                .first()
                .is_some_and(|name| HEADS.contains(&name.as_str()));
            let place = match layer(&names.key(path)) {
                _ if is_head => Place::Above,
                None if found.is_empty() => Place::Below,
                None => Place::Above,
                Some(name) => match found.iter().position(|other| *other == name) {
                    Some(number) => Place::Layer(number),
                    None => {
                        found.push(name);
                        Place::Layer(found.len() - 1)
                    }
                },
            };
            (tower, place)
        })
        .collect();
    let group = |(path, (tower, place)): (&Vec<String>, &(&str, Place))| {
        let count = layers.get(tower).map_or(0, Vec::len);
        let depth = match place {
            Place::Below => count + 1,
            Place::Layer(number) => count - number,
            Place::Above => 0,
        };
        let key = names.key(path);
        let group = Group {
            rate: layer_decay.powi(depth as i32),
            decays: !is_exempt_from_decay(path)
                && !no_decay.iter().any(|pattern| is_match(pattern, &key)),
        };
        (path.join("."), group)
    };
    paths.iter().zip(&places).map(group).collect()
}

enum Place {
    Below,
    Layer(usize),
    Above,
}

/// The beginning of a name up to its first number, and one that follows at once; `None` where there is
/// no number, and where it numbers what holds the parameter itself, as in `conv1.weight` or
/// `features.0.1.weight`, other than a place in a list of layers.
fn layer(key: &str) -> Option<String> {
    let parts: Vec<&str> = key.split('.').collect();
    let ends_in_digit = |part: &&str| part.ends_with(|c: char| c.is_ascii_digit());
    let first = parts.iter().position(ends_in_digit)?;
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let last = match parts.get(first + 1) {
        Some(next) if is_number(next) => first + 1,
        _ => first,
    };
    let holds_the_parameter = last + 2 >= parts.len();
    let is_place = last == first && is_number(parts[first]);
    (is_place || !holds_the_parameter).then(|| parts[..=last].join("."))
}

/// Whether weight decay leaves this parameter alone: a bias, or part of a normalisation layer by its
/// name.
pub fn is_exempt_from_decay(path: &[String]) -> bool {
    path.last().is_some_and(|name| name == "bias")
        || path
            .iter()
            .any(|part| part.to_ascii_lowercase().contains("norm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(String::from).collect()
    }

    #[test]
    fn biases_and_normalisation_are_exempt_from_decay() {
        for exempt in [
            "encoder.0.dense.bias",
            "embeddings.layer_norm.weight",
            "x.LayerNorm.weight",
            "norm1.weight",
        ] {
            assert!(is_exempt_from_decay(&path(exempt)), "{exempt}");
        }
        for decayed in [
            "encoder.0.dense.weight",
            "bias_proj.weight",
            "word_embeddings.weight",
        ] {
            assert!(!is_exempt_from_decay(&path(decayed)), "{decayed}");
        }
    }

    #[test]
    fn layers_are_what_has_a_number() {
        for (key, expected) in [
            (
                "encoder.layer.11.output.dense.weight",
                Some("encoder.layer.11"),
            ),
            (
                "encoder.block.0.layer.1.layer_norm.weight",
                Some("encoder.block.0"),
            ),
            ("layer1.0.conv2.weight", Some("layer1.0")),
            ("layers.2.weight", Some("layers.2")),
            ("layer1.0.downsample.0.weight", Some("layer1.0")),
            ("features.3.1.block.0.0.weight", Some("features.3.1")),
            ("blocks.0.0.bn1.weight", Some("blocks.0.0")),
            ("sa2.mlp_convs.0.weight", Some("sa2")),
            ("conv1.weight", None),
            ("bn1.bias", None),
            ("features.0.1.weight", None),
            ("fc1.weight", None),
            ("embeddings.word_embeddings.weight", None),
            ("encoder.final_layer_norm.weight", None),
        ] {
            assert_eq!(layer(key).as_deref(), expected, "{key}");
        }
    }
}
