//! From the keys of either dialect to the parameters here, and back.
//!
//! The parameters are laid out as `transformers` has them. open_clip keeps the maps to queries,
//! keys and values in one tensor, one below the other, and its projections are the transpose. Taken
//! apart and put together again, no value changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use fin_core::weights::{self, Checkpoint, LoadReport, MappedTensor, Mapping, Names, parameters};
use fin_core::{Error, Result};
use fin_transformer::bert::Bert;

use crate::network::ClipNetwork;

/// Whose names the keys of a checkpoint have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// `CLIPModel` of `transformers`.
    Transformers,
    /// open_clip, whose text tower is at the top (`CLIP`) or under `text` (`CustomTextCLIP`).
    OpenClip { custom_text: bool },
}

/// Where a parameter is in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub key: String,
    pub part: Part,
}

/// What of a tensor a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// One of three of equal height.
    Third(usize),
    Transposed,
}

/// Path here, key of `transformers`, key of open_clip, both without what is before the tower's
/// own; `{i}` is the number of a layer.
const VISION: [[&str; 3]; 6] = [
    [
        "embeddings.class_embedding",
        "vision_model.embeddings.class_embedding",
        "class_embedding",
    ],
    [
        "embeddings.patch_embedding.weight",
        "vision_model.embeddings.patch_embedding.weight",
        "conv1.weight",
    ],
    [
        "embeddings.position_embedding.weight",
        "vision_model.embeddings.position_embedding.weight",
        "positional_embedding",
    ],
    ["pre_layrnorm.", "vision_model.pre_layrnorm.", "ln_pre."],
    [
        "post_layernorm.",
        "vision_model.post_layernorm.",
        "ln_post.",
    ],
    ["projection.weight", "visual_projection.weight", "proj"],
];

/// The same for CLIP's text tower.
const TEXT: [[&str; 3]; 4] = [
    [
        "embeddings.token_embedding.weight",
        "text_model.embeddings.token_embedding.weight",
        "token_embedding.weight",
    ],
    [
        "embeddings.position_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        "positional_embedding",
    ],
    [
        "final_layer_norm.",
        "text_model.final_layer_norm.",
        "ln_final.",
    ],
    [
        "projection.weight",
        "text_projection.weight",
        "text_projection",
    ],
];

/// Within a layer, the part of open_clip's tensor among them.
const LAYER: [(&str, &str, Part); 8] = [
    ("self_attn.q_proj.", "attn.in_proj_", Part::Third(0)),
    ("self_attn.k_proj.", "attn.in_proj_", Part::Third(1)),
    ("self_attn.v_proj.", "attn.in_proj_", Part::Third(2)),
    ("self_attn.out_proj.", "attn.out_proj.", Part::Whole),
    ("layer_norm1.", "ln_1.", Part::Whole),
    ("layer_norm2.", "ln_2.", Part::Whole),
    ("mlp.fc1.", "mlp.c_fc.", Part::Whole),
    ("mlp.fc2.", "mlp.c_proj.", Part::Whole),
];

/// Keys that are known and not wanted: buffers that are computed, and what OpenAI's files say of
/// their sizes.
const IGNORED: [&str; 9] = [
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
    "text.transformer.embeddings.position_ids",
    "text.transformer.embeddings.token_type_ids",
    "attn_mask",
    "text.attn_mask",
    "input_resolution",
    "context_length",
    "vocab_size",
];

impl Keys {
    /// The keys of a checkpoint of open_clip.
    pub fn open_clip(checkpoint: &Checkpoint) -> Self {
        let prefix = prefix(checkpoint);
        Self::OpenClip {
            custom_text: checkpoint.has_prefix(&format!("{prefix}text.")),
        }
    }

    /// Where the parameter of this path is.
    pub fn place(self, path: &[String]) -> Place {
        let whole = |key: String| Place {
            key,
            part: Part::Whole,
        };
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["vision", rest @ ..] => {
                self.of_tower(&rest.join("."), &VISION, "vision_model.", "visual.")
            }
            ["text", "Clip", rest @ ..] => {
                let custom = self == Self::OpenClip { custom_text: true };
                let before = if custom { "text." } else { "" };
                self.of_tower(&rest.join("."), &TEXT, "text_model.", before)
            }
            ["text", "XlmRoberta", "transformer", rest @ ..] => {
                let rest: Vec<String> = rest.iter().map(|part| part.to_string()).collect();
                whole(format!("text.transformer.{}", Bert::names().key(&rest)))
            }
            ["text", "XlmRoberta", "proj", "Linear", parameter] => {
                whole(format!("text.proj.{parameter}"))
            }
            // Of three modules of upstream the one between has no parameters.
            ["text", "XlmRoberta", "proj", "Mlp", place, parameter] => {
                let number = if *place == "first" { 0 } else { 2 };
                whole(format!("text.proj.{number}.{parameter}"))
            }
            other => whole(other.join(".")),
        }
    }

    fn of_tower(
        self,
        path: &str,
        table: &[[&str; 3]],
        transformers: &str,
        open_clip: &str,
    ) -> Place {
        let whole = |key| Place {
            key,
            part: Part::Whole,
        };
        if let Some(rest) = path.strip_prefix("encoder.layers.")
            && let Some((number, rest)) = rest.split_once('.')
        {
            if self == Self::Transformers {
                return whole(format!("{transformers}encoder.layers.{number}.{rest}"));
            }
            for (ours, theirs, part) in LAYER {
                if let Some(parameter) = rest.strip_prefix(ours) {
                    let before = format!("{open_clip}transformer.resblocks.{number}.");
                    return Place {
                        key: format!("{before}{theirs}{parameter}"),
                        part,
                    };
                }
            }
        }
        for [ours, theirs, short] in table {
            let Some(rest) = path.strip_prefix(ours) else {
                continue;
            };
            return match self {
                Self::Transformers => whole(format!("{theirs}{rest}")),
                Self::OpenClip { .. } => Place {
                    key: format!("{open_clip}{short}{rest}"),
                    part: if *ours == "projection.weight" {
                        Part::Transposed
                    } else {
                        Part::Whole
                    },
                },
            };
        }
        whole(path.to_string())
    }

    /// A key of its own for every parameter, for what a training run writes down: upstream's, and
    /// names after upstream's where one tensor there is several here.
    pub fn training_names(self, network: &ClipNetwork) -> Names {
        let mut modules = BTreeMap::new();
        for (path, _) in parameters(network) {
            let Some((parameter, module)) = path.split_last() else {
                continue;
            };
            let Place { key, part } = self.place(&path);
            let theirs = match (part, key.strip_suffix(&format!(".{parameter}"))) {
                (Part::Whole, Some(module)) => module.to_string(),
                (Part::Third(i), _) => {
                    let start = key.find("in_proj_").unwrap_or(key.len());
                    format!("{}{}_proj", &key[..start], ["q", "k", "v"][i])
                }
                _ => key,
            };
            if !module.is_empty() {
                modules.insert(module.join("."), theirs);
            }
        }
        Names {
            modules,
            ..Names::default()
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

/// Puts a checkpoint's tensors into a network on `device`.
///
/// # Errors
/// Those of [`fin_core::weights::load`].
pub(crate) fn load(
    network: ClipNetwork,
    checkpoint: &Checkpoint,
    keys: Keys,
    device: &Device,
) -> Result<(ClipNetwork, LoadReport)> {
    let mut loader = Loader {
        checkpoint,
        keys,
        prefix: prefix(checkpoint),
        device,
        path: Vec::new(),
        fused: BTreeMap::new(),
        used: Vec::new(),
        missing: Vec::new(),
        error: None,
    };
    let network = network.map(&mut loader);
    if let Some(error) = loader.error {
        return Err(error);
    }
    if !loader.missing.is_empty() {
        return Err(Error::MissingTensors {
            path: checkpoint.path().to_path_buf(),
            names: loader.missing,
        });
    }
    let used = loader.used;
    let taken: BTreeSet<&str> = used.iter().map(String::as_str).collect();
    let rest = checkpoint.iter().map(|(name, _)| name);
    let (ignored, unused) = rest
        .filter(|name| !taken.contains(name))
        .map(str::to_string)
        .partition(|name: &String| is_known(name.strip_prefix(loader.prefix).unwrap_or(name)));
    let report = LoadReport {
        used,
        ignored,
        unused,
    };
    Ok((network, report))
}

/// Whether a key that is no parameter is known and not wanted.
fn is_known(key: &str) -> bool {
    IGNORED.contains(&key) || key.starts_with("text.transformer.pooler.")
}

/// What becomes of a checkpoint's tensors when it is written anew in its own dialect: keys lose what
/// is before all of them, and shapes stay. `network` may never have been used; no weight is read.
///
/// # Errors
/// [`Error::ShapeMismatch`] where a tensor is not of the shape that the network has for it.
pub(crate) fn map(network: &ClipNetwork, checkpoint: &Checkpoint, keys: Keys) -> Result<Mapping> {
    // Key and shape on disk.
    let placed = |(path, mut shape): (Vec<String>, Vec<usize>)| {
        let Place { key, part } = keys.place(&path);
        match part {
            Part::Whole => {}
            Part::Transposed => shape.reverse(),
            Part::Third(0) => shape[0] *= 3,
            Part::Third(_) => return None,
        }
        Some((key, shape))
    };
    let prefix = prefix(checkpoint);
    let mut mapping = Mapping::default();
    for (key, shape) in parameters(network).into_iter().filter_map(placed) {
        let source = format!("{prefix}{key}");
        let Some(entry) = checkpoint.get(&source) else {
            mapping.missing.push(source);
            continue;
        };
        if entry.shape() != shape && !(entry.shape().is_empty() && shape == [1]) {
            return Err(Error::ShapeMismatch {
                path: checkpoint.path().to_path_buf(),
                tensor: source,
                expected: shape,
                found: entry.shape().to_vec(),
            });
        }
        mapping.tensors.push(MappedTensor {
            shape: entry.shape().to_vec(),
            dtype: entry.dtype(),
            source,
            target: key,
        });
    }
    let taken: BTreeSet<&str> = mapping.tensors.iter().map(|t| t.source.as_str()).collect();
    let rest = checkpoint.iter().map(|(name, _)| name);
    (mapping.ignored, mapping.unused) = rest
        .filter(|name| !taken.contains(name))
        .map(str::to_string)
        .partition(|name: &String| is_known(name.strip_prefix(prefix).unwrap_or(name)));
    Ok(mapping)
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    keys: Keys,
    prefix: &'static str,
    device: &'a Device,
    path: Vec<String>,
    /// Tensors of which not all three parts have been taken.
    fused: BTreeMap<String, (Vec<f32>, usize)>,
    used: Vec<String>,
    missing: Vec<String>,
    error: Option<Error>,
}

impl Loader<'_> {
    /// The values for the current path, or `None` where there are none to be had.
    fn read(&mut self, expected: &[usize]) -> Option<Vec<f32>> {
        let Place { key, part } = self.keys.place(&self.path);
        let key = format!("{}{key}", self.prefix);
        let Some(entry) = self.checkpoint.get(&key) else {
            if !self.missing.contains(&key) {
                self.missing.push(key);
            }
            return None;
        };
        let mut shape = expected.to_vec();
        match part {
            Part::Whole => {}
            Part::Third(_) => shape[0] *= 3,
            Part::Transposed => shape.reverse(),
        }
        let is_scalar = entry.shape().is_empty() && shape == [1];
        if entry.shape() != shape && !is_scalar {
            self.error.get_or_insert(Error::ShapeMismatch {
                path: self.checkpoint.path().to_path_buf(),
                tensor: key,
                expected: shape,
                found: entry.shape().to_vec(),
            });
            return None;
        }
        let values = match part {
            Part::Third(third) => self.third(&key, third),
            Part::Whole | Part::Transposed => {
                let values = self.checkpoint.read_f32(&key);
                values.inspect(|_| self.used.push(key))
            }
        };
        match (values, part) {
            (Ok(values), Part::Transposed) => Some(transposed(&values, shape[0], shape[1])),
            (Ok(values), _) => Some(values),
            (Err(error), _) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    fn third(&mut self, key: &str, third: usize) -> Result<Vec<f32>> {
        let (values, left) = match self.fused.remove(key) {
            Some(found) => found,
            None => {
                let values = self.checkpoint.read_f32(key)?;
                self.used.push(key.to_string());
                (values, 3)
            }
        };
        let size = values.len() / 3;
        let part = values[third * size..(third + 1) * size].to_vec();
        if left > 1 {
            self.fused.insert(key.to_string(), (values, left - 1));
        }
        Ok(part)
    }
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        let shape = param.lazy_shape().to_vec();
        match self.read(&shape) {
            Some(values) => {
                let tensor = Tensor::from_data(TensorData::new(values, shape), self.device);
                let id: ParamId = param.id;
                param.transform_for_load(tensor, id)
            }
            None => param,
        }
    }
}

/// Row-major `[rows, columns]` as `[columns, rows]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let column = |column| (0..rows).map(move |row| values[row * columns + column]);
    (0..columns).flat_map(column).collect()
}

/// Upstream's key, shape and values in row-major order.
type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// The parameters under upstream's key names, read back to the CPU as f32.
pub(crate) fn state_dict(network: &ClipNetwork, keys: Keys) -> Vec<NamedTensor> {
    let mut collector = Collector {
        keys,
        path: Vec::new(),
        tensors: Vec::new(),
        places: BTreeMap::new(),
    };
    network.visit(&mut collector);
    collector.tensors
}

/// Writes a network as one safetensors file under upstream's key names.
///
/// # Errors
/// [`Error::Io`]; the destination is then as it was before.
pub(crate) fn save(path: &Path, network: &ClipNetwork, keys: Keys) -> Result<()> {
    weights::save(path, &state_dict(network, keys))
}

struct Collector {
    keys: Keys,
    path: Vec<String>,
    tensors: Vec<NamedTensor>,
    /// Where in `tensors` the tensor of a key is of which not all parts are there.
    places: BTreeMap<String, usize>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let mut shape = tensor.dims().to_vec();
        let data = tensor.into_data().convert::<f32>();
        let mut values: Vec<f32> = data.try_into_vec().unwrap_or_default();
        let Place { key, part } = self.keys.place(&self.path);
        match part {
            Part::Whole => {
                if key == "logit_scale" {
                    shape.clear();
                }
            }
            Part::Transposed => {
                values = transposed(&values, shape[0], shape[1]);
                shape.reverse();
            }
            // The parts come in order: the fields of the module are in the order of the parts.
            Part::Third(_) => match self.places.get(&key) {
                Some(place) => {
                    let (_, whole, joined) = &mut self.tensors[*place];
                    whole[0] += shape[0];
                    joined.append(&mut values);
                    return;
                }
                None => {
                    self.places.insert(key.clone(), self.tensors.len());
                }
            },
        }
        self.tensors.push((key, shape, values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(keys: Keys, path: &str) -> (String, Part) {
        let path: Vec<String> = path.split('.').map(String::from).collect();
        let Place { key, part } = keys.place(&path);
        (key, part)
    }

    #[test]
    fn places_in_both_dialects() {
        let plain = Keys::OpenClip { custom_text: false };
        let custom = Keys::OpenClip { custom_text: true };
        for (keys, path, key, part) in [
            (
                Keys::Transformers,
                "vision.encoder.layers.3.self_attn.q_proj.bias",
                "vision_model.encoder.layers.3.self_attn.q_proj.bias",
                Part::Whole,
            ),
            (
                plain,
                "vision.encoder.layers.3.self_attn.v_proj.bias",
                "visual.transformer.resblocks.3.attn.in_proj_bias",
                Part::Third(2),
            ),
            (
                Keys::Transformers,
                "text.Clip.projection.weight",
                "text_projection.weight",
                Part::Whole,
            ),
            (
                plain,
                "text.Clip.projection.weight",
                "text_projection",
                Part::Transposed,
            ),
            (
                custom,
                "text.Clip.encoder.layers.0.mlp.fc2.weight",
                "text.transformer.resblocks.0.mlp.c_proj.weight",
                Part::Whole,
            ),
            (
                custom,
                "text.XlmRoberta.transformer.encoder.layer.0.output.layer_norm.bias",
                "text.transformer.encoder.layer.0.output.LayerNorm.bias",
                Part::Whole,
            ),
            (
                custom,
                "text.XlmRoberta.proj.Mlp.second.weight",
                "text.proj.2.weight",
                Part::Whole,
            ),
            (plain, "logit_scale", "logit_scale", Part::Whole),
        ] {
            assert_eq!(place(keys, path), (key.to_string(), part));
        }
    }

    #[test]
    fn a_transpose_of_a_transpose() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let other = transposed(&values, 2, 3);
        assert_eq!(other, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(transposed(&other, 3, 2), values);
    }
}
