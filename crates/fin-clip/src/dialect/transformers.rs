//! `config.json`, `preprocessor_config.json` and `model.safetensors` of `transformers`
//! (`models/clip/configuration_clip.py`).

use std::path::Path;

use fin_core::kernels::Activation;
use fin_core::weights::Checkpoint;
use fin_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dialect, Files, Opened, VOCABULARY, preprocessor, section, verbatim};
use crate::config::{
    ClipConfig, ClipTextConfig, EncoderConfig, Fields, TextConfig, TextPooling, VisionConfig,
};
use crate::tokens::Tokens;
use crate::weights::Keys;

pub(super) const CONFIG: &str = "config.json";

/// Configuration files that are carried over as they are.
const CONFIGURATION: [&str; 3] = [CONFIG, preprocessor::FILE, preprocessor::PROCESSOR];

/// The fields that change the numbers, with upstream's defaults.
#[derive(Debug, Deserialize)]
struct ModelJson {
    model_type: Option<String>,
    #[serde(default = "default_width")]
    projection_dim: usize,
    text_config: Option<Value>,
    vision_config: Option<Value>,
    /// Where there is one, it holds instead of the other, whatever that says.
    text_config_dict: Option<Value>,
    vision_config_dict: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct TextJson {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    attention_dropout: f64,
    eos_token_id: u32,
}

impl Default for TextJson {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: default_width(),
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            attention_dropout: 0.0,
            eos_token_id: 49_407,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct VisionJson {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: Side,
    patch_size: Side,
    hidden_act: String,
    layer_norm_eps: f64,
    attention_dropout: f64,
}

impl Default for VisionJson {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: Side::One(224),
            patch_size: Side::One(32),
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            attention_dropout: 0.0,
        }
    }
}

fn default_width() -> usize {
    512
}

/// A square's side, or height and width.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub(super) enum Side {
    One(usize),
    Two([usize; 2]),
}

impl Side {
    /// The side of a square.
    pub fn square(self, fields: &Fields, field: &str) -> Result<usize> {
        match self {
            Self::One(side) => Ok(side),
            Self::Two([height, width]) if height == width => Ok(height),
            Self::Two([height, width]) => {
                let reason = format!("{height} by {width} is not supported; supported: squares");
                Err(fields.error(field, reason))
            }
        }
    }
}

/// What `eos_token_id` is in the files that were written before it had a meaning.
const OLD_EOS: u32 = 2;

/// Whether a directory has a `config.json` of a CLIP model.
pub(super) fn is_in(directory: &Path) -> Result<bool> {
    #[derive(Deserialize)]
    struct Kind {
        model_type: Option<String>,
    }
    let path = directory.join(CONFIG);
    if !path.is_file() {
        return Ok(false);
    }
    let kind: Kind = fin_core::json::read(&path)?;
    Ok(kind.model_type.as_deref() == Some("clip"))
}

pub(super) fn open(directory: &Path) -> Result<Opened> {
    let config = read(directory)?;
    let tokens = Tokens::Clip;
    Ok(Opened {
        dialect: Dialect::Transformers,
        config,
        keys: Keys::Transformers,
        checkpoint: Checkpoint::open_directory(directory),
        files: Files {
            tokenizer: directory.to_path_buf(),
            tokens,
            configuration: verbatim(directory, &CONFIGURATION)?,
            vocabulary: verbatim(directory, &VOCABULARY)?,
        },
    })
}

/// A tower's section, or what stands in its place.
fn tower<T: for<'a> Deserialize<'a>>(
    path: &Path,
    name: &str,
    value: Option<Value>,
    instead: Option<Value>,
) -> Result<T> {
    match instead.filter(|value| !value.is_null()).or(value) {
        None | Some(Value::Null) => Err(Error::config(
            path,
            name,
            "missing; the file describes no such tower",
        )),
        Some(value) => section::read(path, name, &value),
    }
}

fn read(directory: &Path) -> Result<ClipConfig> {
    let path = &directory.join(CONFIG);
    let json: ModelJson = section::read(path, "", &fin_core::json::read(path)?)?;
    if json.model_type.as_deref() != Some("clip") {
        let found = json.model_type.map_or("missing".into(), |name| {
            format!("`{name}` is not supported")
        });
        return Err(Error::config(
            path,
            "model_type",
            format!("{found}; supported: clip"),
        ));
    }
    let top = Fields { path, section: "" };
    top.check_size("projection_dim", json.projection_dim)?;

    let names = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    ];
    let fields = Fields {
        path,
        section: "text_config",
    };
    let text: TextJson = tower(path, "text_config", json.text_config, json.text_config_dict)?;
    let text = ClipTextConfig {
        encoder: EncoderConfig {
            hidden_size: text.hidden_size,
            intermediate_size: text.intermediate_size,
            layers: text.num_hidden_layers,
            heads: text.num_attention_heads,
            activation: fields.activation("hidden_act", &text.hidden_act)?,
            layer_norm_eps: text.layer_norm_eps,
            attention_dropout: text.attention_dropout,
        },
        vocab_size: text.vocab_size,
        context_length: text.max_position_embeddings,
        pooling: match text.eos_token_id {
            OLD_EOS => TextPooling::Argmax,
            end => TextPooling::Eos(end),
        },
    };
    fields.check_encoder(&text.encoder, names)?;
    fields.check_size("vocab_size", text.vocab_size)?;
    fields.check_size("max_position_embeddings", text.context_length)?;

    let fields = Fields {
        path,
        section: "vision_config",
    };
    let vision: VisionJson = tower(
        path,
        "vision_config",
        json.vision_config,
        json.vision_config_dict,
    )?;
    if vision.num_channels != 3 {
        let reason = format!("{} is not supported; supported: 3", vision.num_channels);
        return Err(fields.error("num_channels", reason));
    }
    let vision = VisionConfig {
        encoder: EncoderConfig {
            hidden_size: vision.hidden_size,
            intermediate_size: vision.intermediate_size,
            layers: vision.num_hidden_layers,
            heads: vision.num_attention_heads,
            activation: fields.activation("hidden_act", &vision.hidden_act)?,
            layer_norm_eps: vision.layer_norm_eps,
            attention_dropout: vision.attention_dropout,
        },
        image_size: vision.image_size.square(&fields, "image_size")?,
        patch_size: vision.patch_size.square(&fields, "patch_size")?,
    };
    fields.check_encoder(&vision.encoder, names)?;
    fields.check_vision(&vision)?;

    let (preprocessing, preprocessing_path) = preprocessor::read(directory)?;
    let config = ClipConfig {
        projection_dim: json.projection_dim,
        vision,
        text: TextConfig::Clip(text),
        preprocessing,
        normalize: false,
        source: None,
        licence: None,
    };
    config.check(path, &preprocessing_path, preprocessor::FIELDS)?;
    Ok(config)
}

/// The activation's name in configuration files.
fn activation_name(activation: Activation) -> Result<&'static str> {
    Ok(match activation {
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::QuickGelu => "quick_gelu",
        Activation::Relu => "relu",
        Activation::Relu6 => "relu6",
        Activation::Silu => "silu",
        Activation::Tanh => "tanh",
        Activation::Identity => {
            let reason = "layers without an activation are not written as transformers";
            return Err(Error::argument("dialect", reason));
        }
    })
}

/// The configuration files for a model that was read in another dialect.
pub(super) fn configuration(config: &ClipConfig) -> Result<Vec<(String, Vec<u8>)>> {
    let TextConfig::Clip(text) = &config.text else {
        return Err(Error::argument(
            "dialect",
            "transformers' CLIPModel has no XLM-RoBERTa text tower; save as open_clip",
        ));
    };
    let eos = match text.pooling {
        TextPooling::Argmax => OLD_EOS,
        TextPooling::Eos(OLD_EOS) => {
            let reason = "transformers takes an end token of id 2 for one that is not known; save \
                          as open_clip";
            return Err(Error::argument("dialect", reason));
        }
        TextPooling::Eos(end) => end,
        TextPooling::First => {
            let reason = "transformers' CLIPModel takes the vector of the end token, this model \
                          that of the first; save as open_clip";
            return Err(Error::argument("dialect", reason));
        }
    };
    let encoder = |encoder: &EncoderConfig| -> Result<serde_json::Map<String, Value>> {
        let value = json!({
            "hidden_size": encoder.hidden_size,
            "intermediate_size": encoder.intermediate_size,
            "num_hidden_layers": encoder.layers,
            "num_attention_heads": encoder.heads,
            "hidden_act": activation_name(encoder.activation)?,
            "layer_norm_eps": encoder.layer_norm_eps,
            "attention_dropout": encoder.attention_dropout,
            "projection_dim": config.projection_dim,
        });
        Ok(match value {
            Value::Object(map) => map,
            _ => serde_json::Map::new(),
        })
    };
    let mut text_config = encoder(&text.encoder)?;
    text_config.insert("model_type".into(), json!("clip_text_model"));
    text_config.insert("vocab_size".into(), json!(text.vocab_size));
    text_config.insert("max_position_embeddings".into(), json!(text.context_length));
    text_config.insert("eos_token_id".into(), json!(eos));
    let mut vision_config = encoder(&config.vision.encoder)?;
    vision_config.insert("model_type".into(), json!("clip_vision_model"));
    vision_config.insert("num_channels".into(), json!(3));
    vision_config.insert("image_size".into(), json!(config.vision.image_size));
    vision_config.insert("patch_size".into(), json!(config.vision.patch_size));
    let model = json!({
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "text_config": text_config,
        "vision_config": vision_config,
        "torch_dtype": "float32",
    });
    Ok(vec![
        (CONFIG.into(), super::json(&model)),
        (
            preprocessor::FILE.into(),
            super::json(&preprocessor::write(&config.preprocessing)?),
        ),
    ])
}
