//! `open_clip_config.json` and `open_clip_model.safetensors` of open_clip (`CLIPVisionCfg` and
//! `CLIPTextCfg` in `open_clip/model.py`, `PreprocessCfg` in `open_clip/transform.py`).

use std::path::Path;

use fin_core::image::{ImageTransform, Interpolation, Resize};
use fin_core::kernels::Activation;
use fin_core::weights::Checkpoint;
use fin_core::{Error, Result};
use fin_transformer::BackboneConfig;
use fin_transformer::bert::BertConfig;
use fin_transformer::xlm_roberta::XlmRobertaConfig;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::preprocessor::shortest;
use super::{Dialect, Files, Opened, VOCABULARY, section, verbatim};
use crate::config::{
    ClipConfig, ClipTextConfig, EncoderConfig, Fields, TextConfig, TextPooling, TextProjection,
    VisionConfig, XlmRobertaTextConfig,
};
use crate::preprocessing::{CropRounding, MEAN, Preprocessing, STD};
use crate::tokens::Tokens;
use crate::weights::Keys;

pub(super) const CONFIG: &str = "open_clip_config.json";

/// XLM-RoBERTa's own configuration, where it is not one that is known by its name.
const TRANSFORMER_CONFIG: &str = "config.json";

/// Names of the weights, in open_clip's order of preference.
const WEIGHTS: [&str; 4] = [
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
];

#[derive(Debug, Deserialize)]
struct FileJson {
    model_cfg: Option<Value>,
    preprocess_cfg: Option<Value>,
}

/// Fields of which no value but the default is built are kept as they are in `rest`.
#[derive(Debug, Deserialize)]
struct ModelJson {
    embed_dim: Option<usize>,
    #[serde(default)]
    quick_gelu: bool,
    vision_cfg: Option<Value>,
    text_cfg: Option<Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct VisionJson {
    #[serde(default = "twelve")]
    layers: Value,
    #[serde(default = "vision_width")]
    width: usize,
    #[serde(default = "head_width")]
    head_width: usize,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: f64,
    #[serde(default = "patch_size")]
    patch_size: SideJson,
    #[serde(default = "image_size")]
    image_size: SideJson,
    norm_kwargs: Option<NormJson>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct TextJson {
    #[serde(default = "context_length")]
    context_length: usize,
    #[serde(default = "vocab_size")]
    vocab_size: usize,
    #[serde(default = "text_width")]
    width: usize,
    #[serde(default = "text_heads")]
    heads: usize,
    #[serde(default = "twelve")]
    layers: Value,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: f64,
    #[serde(default = "argmax")]
    pool_type: String,
    #[serde(default = "eos_id")]
    eos_id: u32,
    norm_kwargs: Option<NormJson>,
    hf_model_name: Option<String>,
    hf_tokenizer_name: Option<String>,
    #[serde(default = "mlp", alias = "proj")]
    hf_proj_type: Option<String>,
    #[serde(default = "mean_pooler", alias = "pooler_type")]
    hf_pooler_type: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NormJson {
    eps: Option<f64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum SideJson {
    One(usize),
    Two([usize; 2]),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PreprocessJson {
    size: Option<SideJson>,
    mode: Option<String>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    interpolation: Option<String>,
    resize_mode: Option<String>,
    /// Of what is put around an image, which `resize_mode` `longest` alone does.
    #[allow(dead_code)]
    fill_color: Option<Value>,
}

fn twelve() -> Value {
    json!(12)
}
fn vision_width() -> usize {
    768
}
fn head_width() -> usize {
    64
}
fn mlp_ratio() -> f64 {
    4.0
}
fn patch_size() -> SideJson {
    SideJson::One(16)
}
fn image_size() -> SideJson {
    SideJson::One(224)
}
fn context_length() -> usize {
    77
}
fn vocab_size() -> usize {
    49_408
}
fn text_width() -> usize {
    512
}
fn text_heads() -> usize {
    8
}
fn argmax() -> String {
    "argmax".into()
}
fn eos_id() -> u32 {
    2
}
fn mlp() -> Option<String> {
    Some("mlp".into())
}
fn mean_pooler() -> String {
    "mean_pooler".into()
}

const EPS: f64 = 1e-5;

/// Fields of the top that change nothing of an embedding.
const NEUTRAL_TOP: [&str; 4] = [
    "custom_text",
    "init_logit_scale",
    "nonscalar_logit_scale",
    "output_dict",
];
/// Fields of towers that change nothing, or in training alone.
const NEUTRAL: [&str; 18] = [
    "patch_dropout",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "output_tokens",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
    "timm_drop",
    "timm_drop_path",
    "hf_model_pretrained",
    "tokenizer_mode",
    "pad_id",
    // Of the vector of one token it is the same before and after.
    "final_ln_after_pool",
    // No value but the default has an effect without other fields.
    "block_type",
    "act_kwargs",
    "tokenizer_kwargs",
    "correct_cls_mask",
];

/// Fields with the one value that is built.
fn built() -> [(&'static str, Value); 14] {
    [
        ("init_logit_bias", Value::Null),
        ("ls_init_value", Value::Null),
        ("attentional_pool", json!(false)),
        ("no_ln_pre", json!(false)),
        ("pos_embed_type", json!("learnable")),
        ("pool_type", json!("tok")),
        ("timm_model_name", Value::Null),
        ("embed_cls", json!(false)),
        ("no_causal_mask", json!(false)),
        ("use_pad_mask", json!(false)),
        ("proj_bias", json!(false)),
        ("proj_type", json!("linear")),
        ("qk_norm", json!(false)),
        ("scaled_cosine_attn", json!(false)),
    ]
}

/// Fields of blocks that are not built.
const SCALES: [&str; 4] = ["scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"];

/// Neutral fields that must still be what they are by default.
const EMPTY: [&str; 4] = [
    "block_type",
    "act_kwargs",
    "tokenizer_mode",
    "tokenizer_kwargs",
];

/// Refuses what is not built and what is not known.
fn check_rest(fields: &Fields, rest: &Map<String, Value>, neutral: &[&str]) -> Result<()> {
    let built = built();
    for (field, value) in rest {
        let known = built.iter().find(|(name, _)| name == field);
        let is_off = SCALES.contains(&field.as_str());
        let is_empty = EMPTY.contains(&field.as_str());
        let supported = match known {
            Some((_, only)) => {
                if value == only {
                    continue;
                }
                only.to_string()
            }
            None if is_off => {
                if *value == json!(false) {
                    continue;
                }
                "false".into()
            }
            None if is_empty => {
                let empty = value.as_object().is_some_and(Map::is_empty);
                if value.is_null() || empty || *value == json!("default") || *value == json!("") {
                    continue;
                }
                "null".into()
            }
            None if neutral.contains(&field.as_str()) => continue,
            None => {
                let reason = "not known here, and it could change the numbers";
                return Err(fields.error(field, reason));
            }
        };
        let reason = format!("{value} is not supported; supported: {supported}");
        return Err(fields.error(field, reason));
    }
    Ok(())
}

fn square(fields: &Fields, field: &str, side: SideJson) -> Result<usize> {
    match side {
        SideJson::One(side) => Ok(side),
        SideJson::Two([height, width]) if height == width => Ok(height),
        SideJson::Two([height, width]) => {
            let reason = format!("{height} by {width} is not supported; supported: squares");
            Err(fields.error(field, reason))
        }
    }
}

/// A number of layers; lists of them are of convolutional networks.
fn layers(fields: &Fields, value: &Value) -> Result<usize> {
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
    number.ok_or_else(|| {
        let reason = format!(
            "{value} is not supported; supported: the number of layers of a Vision Transformer"
        );
        fields.error("layers", reason)
    })
}

/// `int(width * ratio)` of Python.
fn intermediate(fields: &Fields, width: usize, ratio: f64) -> Result<usize> {
    if !(ratio > 0.0 && ratio < 1024.0) {
        let reason = format!("{ratio} is not supported; supported: above 0 and below 1024");
        return Err(fields.error("mlp_ratio", reason));
    }
    Ok((width as f64 * ratio) as usize)
}

const NAMES: [&str; 4] = ["width", "mlp_ratio", "layers", "heads"];

pub(super) fn open(directory: &Path) -> Result<Opened> {
    let path = &directory.join(CONFIG);
    let missing = |field: &str| Error::config(path, field, "missing");
    let file: FileJson = section::read(path, "", &fin_core::json::read(path)?)?;
    let model = file.model_cfg.ok_or_else(|| missing("model_cfg"))?;
    let model: ModelJson = section::read(path, "model_cfg", &model)?;
    let top = Fields {
        path,
        section: "model_cfg",
    };
    check_rest(&top, &model.rest, &NEUTRAL_TOP)?;
    let embed_dim = model.embed_dim;
    let embed_dim = embed_dim.ok_or_else(|| missing("model_cfg.embed_dim"))?;
    top.check_size("embed_dim", embed_dim)?;
    let activation = match model.quick_gelu {
        true => Activation::QuickGelu,
        false => Activation::Gelu,
    };
    let name = "model_cfg.vision_cfg";
    let json = model.vision_cfg.ok_or_else(|| missing(name))?;
    let json = section::read(path, name, &json)?;
    let vision = vision(path, &json, activation)?;
    let name = "model_cfg.text_cfg";
    let json = model.text_cfg.ok_or_else(|| missing(name))?;
    let json = section::read(path, name, &json)?;
    let (text, tokens) = text(directory, path, &json, activation)?;
    let json: PreprocessJson = match file.preprocess_cfg {
        Some(value) => section::read(path, "preprocess_cfg", &value)?,
        None => PreprocessJson::default(),
    };
    let config = ClipConfig {
        projection_dim: embed_dim,
        preprocessing: preprocessing(path, &json, vision.image_size)?,
        vision,
        text,
        normalize: false,
        source: None,
        licence: None,
    };
    let fields = ["size", "size", "mean", "std"].map(|field| format!("preprocess_cfg.{field}"));
    config.check(path, path, fields.each_ref().map(String::as_str))?;
    let weights = WEIGHTS.iter().map(|name| directory.join(name));
    let checkpoint = match weights.into_iter().find(|path| path.is_file()) {
        Some(path) => Checkpoint::open(path),
        None => Err(Error::invalid(
            directory,
            format!("no weights found; looked for {}", WEIGHTS.join(", ")),
        )),
    };
    let keys = match (&checkpoint, &config.text) {
        (Ok(checkpoint), _) => Keys::open_clip(checkpoint),
        (Err(_), TextConfig::Clip(_)) => Keys::OpenClip { custom_text: false },
        (Err(_), TextConfig::XlmRoberta(_)) => Keys::OpenClip { custom_text: true },
    };
    let mut configuration = vec![CONFIG];
    if let TextConfig::XlmRoberta(_) = config.text {
        configuration.push(TRANSFORMER_CONFIG);
    }
    Ok(Opened {
        dialect: Dialect::OpenClip,
        keys,
        config,
        checkpoint,
        files: Files {
            tokenizer: directory.to_path_buf(),
            tokens,
            configuration: verbatim(directory, &configuration)?,
            vocabulary: verbatim(directory, &VOCABULARY)?,
        },
    })
}

fn vision(path: &Path, json: &VisionJson, activation: Activation) -> Result<VisionConfig> {
    let fields = &Fields {
        path,
        section: "model_cfg.vision_cfg",
    };
    check_rest(fields, &json.rest, &NEUTRAL)?;
    fields.check_size("head_width", json.head_width)?;
    fields.check_size("width", json.width)?;
    if !json.width.is_multiple_of(json.head_width) {
        let reason = format!(
            "a width of {} does not split into heads of {}",
            json.width, json.head_width
        );
        return Err(fields.error("head_width", reason));
    }
    let config = VisionConfig {
        encoder: EncoderConfig {
            hidden_size: json.width,
            intermediate_size: intermediate(fields, json.width, json.mlp_ratio)?,
            layers: layers(fields, &json.layers)?,
            heads: json.width / json.head_width,
            activation,
            layer_norm_eps: json.norm_kwargs.as_ref().and_then(|n| n.eps).unwrap_or(EPS),
            attention_dropout: 0.0,
        },
        image_size: square(fields, "image_size", json.image_size)?,
        patch_size: square(fields, "patch_size", json.patch_size)?,
    };
    fields.check_encoder(&config.encoder, NAMES)?;
    fields.check_vision(&config)?;
    Ok(config)
}

fn text(
    directory: &Path,
    path: &Path,
    json: &TextJson,
    activation: Activation,
) -> Result<(TextConfig, Tokens)> {
    let fields = &Fields {
        path,
        section: "model_cfg.text_cfg",
    };
    check_rest(fields, &json.rest, &NEUTRAL)?;
    fields.check_size("context_length", json.context_length)?;
    if let Some(name) = &json.hf_model_name {
        let config = xlm_roberta(directory, fields, json, name)?;
        return Ok((TextConfig::XlmRoberta(config), Tokens::XlmRoberta));
    }
    let config = ClipTextConfig {
        encoder: EncoderConfig {
            hidden_size: json.width,
            intermediate_size: intermediate(fields, json.width, json.mlp_ratio)?,
            layers: layers(fields, &json.layers)?,
            heads: json.heads,
            activation,
            layer_norm_eps: json.norm_kwargs.as_ref().and_then(|n| n.eps).unwrap_or(EPS),
            attention_dropout: 0.0,
        },
        vocab_size: json.vocab_size,
        context_length: json.context_length,
        pooling: match json.pool_type.as_str() {
            "argmax" => TextPooling::Argmax,
            "eos" => TextPooling::Eos(json.eos_id),
            "first" => TextPooling::First,
            other => {
                let reason = format!("`{other}` is not supported; supported: argmax, eos, first");
                return Err(fields.error("pool_type", reason));
            }
        },
    };
    fields.check_encoder(&config.encoder, NAMES)?;
    fields.check_size("vocab_size", config.vocab_size)?;
    let tokens = match json.hf_tokenizer_name.as_deref() {
        None | Some("") => Tokens::OpenClip,
        Some(_) => Tokens::ClipCleaned,
    };
    Ok((TextConfig::Clip(config), tokens))
}

/// `FacebookAI/xlm-roberta-base` and `-large`: width and layers.
const XLM_ROBERTA: [(&str, usize, usize); 2] = [
    ("xlm-roberta-base", 768, 12),
    ("xlm-roberta-large", 1024, 24),
];

fn xlm_roberta(
    directory: &Path,
    fields: &Fields,
    json: &TextJson,
    name: &str,
) -> Result<XlmRobertaTextConfig> {
    let own = directory.join(TRANSFORMER_CONFIG);
    let short = name.strip_prefix("FacebookAI/").unwrap_or(name);
    let known = XLM_ROBERTA.iter().find(|(known, ..)| *known == short);
    let transformer = match known {
        Some((_, width, layers)) => XlmRobertaConfig {
            bert: BertConfig {
                vocab_size: 250_002,
                hidden_size: *width,
                num_hidden_layers: *layers,
                num_attention_heads: width / 64,
                intermediate_size: 4 * width,
                hidden_act: "gelu".into(),
                max_position_embeddings: 514,
                type_vocab_size: 1,
                layer_norm_eps: 1e-5,
                hidden_dropout_prob: 0.1,
                attention_probs_dropout_prob: 0.1,
                position_embedding_type: Some("absolute".into()),
                is_decoder: false,
                pad_token_id: Some(1),
            },
        },
        None if own.is_file() => match BackboneConfig::read(&own)? {
            BackboneConfig::XlmRoberta(config) => config,
            other => {
                let reason = format!(
                    "{} is not supported as a text tower; supported: xlm-roberta",
                    other.model_type()
                );
                return Err(Error::config(own, "model_type", reason));
            }
        },
        None => {
            let names = XLM_ROBERTA.map(|(name, ..)| name).join(", ");
            let reason = format!(
                "`{name}` is not known; known: {names}, or another XLM-RoBERTa whose {} is in the \
                 directory",
                TRANSFORMER_CONFIG
            );
            return Err(fields.error("hf_model_name", reason));
        }
    };
    if json.hf_pooler_type != "mean_pooler" {
        let reason = format!(
            "`{}` is not supported; supported: mean_pooler",
            json.hf_pooler_type
        );
        return Err(fields.error("hf_pooler_type", reason));
    }
    let projection = match json.hf_proj_type.as_deref() {
        Some("mlp") => TextProjection::Mlp,
        Some("linear") => TextProjection::Linear,
        other => {
            let found = other.unwrap_or("null");
            let reason = format!("`{found}` is not supported; supported: mlp, linear");
            return Err(fields.error("hf_proj_type", reason));
        }
    };
    if json.context_length > transformer.max_tokens() {
        let reason = format!(
            "{} tokens, of which the position table has {}",
            json.context_length,
            transformer.max_tokens()
        );
        return Err(fields.error("context_length", reason));
    }
    Ok(XlmRobertaTextConfig {
        transformer,
        context_length: json.context_length,
        projection,
    })
}

fn preprocessing(path: &Path, json: &PreprocessJson, image_size: usize) -> Result<Preprocessing> {
    let fields = &Fields {
        path,
        section: "preprocess_cfg",
    };
    let refuse = |field: &str, found: &str, supported: &str| {
        let reason = format!("`{found}` is not supported; supported: {supported}");
        Err(fields.error(field, reason))
    };
    if let Some(mode) = json.mode.as_deref().filter(|mode| *mode != "RGB") {
        return refuse("mode", mode, "RGB");
    }
    let size = match json.size {
        Some(size) => square(fields, "size", size)?,
        None => image_size,
    };
    let interpolation = match json.interpolation.as_deref() {
        // Random is for training.
        None | Some("bicubic" | "random") => Interpolation::Bicubic,
        Some("bilinear") => Interpolation::Bilinear,
        Some(other) => return refuse("interpolation", other, "bicubic, bilinear, random"),
    };
    let (resize, crop) = match json.resize_mode.as_deref() {
        None | Some("shortest") => (Resize::ShorterSide(size), Some([size, size])),
        Some("squash") => (Resize::Exact([size, size]), None),
        Some(other) => return refuse("resize_mode", other, "shortest, squash"),
    };
    Ok(Preprocessing {
        transform: ImageTransform {
            resize: Some(resize),
            interpolation,
            crop,
            mean: json.mean.unwrap_or(MEAN),
            std: json.std.unwrap_or(STD),
        },
        crop: CropRounding::HalfToEven,
    })
}

fn cannot(reason: impl std::fmt::Display) -> Error {
    Error::argument("dialect", format!("open_clip has no words for {reason}"))
}

/// The configuration file for a model that was read in another dialect.
pub(super) fn configuration(config: &ClipConfig) -> Result<Vec<(String, Vec<u8>)>> {
    let TextConfig::Clip(text) = &config.text else {
        return Err(cannot("an XLM-RoBERTa tower of another dialect"));
    };
    let (vision, image) = (&config.vision, &config.vision.encoder);
    let quick_gelu = match (text.encoder.activation, image.activation) {
        (Activation::QuickGelu, Activation::QuickGelu) => true,
        (Activation::Gelu, Activation::Gelu) => false,
        (text, image) => {
            return Err(cannot(format!(
                "activations of {text:?} for texts and {image:?} for images; it has GELU or \
                 quick GELU for both"
            )));
        }
    };
    let ratio = |encoder: &EncoderConfig| {
        let ratio = encoder.intermediate_size as f64 / encoder.hidden_size as f64;
        match (encoder.hidden_size as f64 * ratio) as usize == encoder.intermediate_size {
            true => Ok(ratio),
            false => Err(cannot(format!(
                "a feed-forward width of {} at a width of {}",
                encoder.intermediate_size, encoder.hidden_size
            ))),
        }
    };
    let with_eps = |encoder: &EncoderConfig, mut tower: Value| {
        if encoder.layer_norm_eps != EPS {
            tower["norm_kwargs"] = json!({"eps": encoder.layer_norm_eps});
        }
        tower
    };
    let vision_cfg = json!({
        "image_size": vision.image_size,
        "layers": image.layers,
        "width": image.hidden_size,
        "head_width": image.hidden_size / image.heads,
        "mlp_ratio": ratio(image)?,
        "patch_size": vision.patch_size,
    });
    let mut text_cfg = json!({
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.encoder.hidden_size,
        "heads": text.encoder.heads,
        "layers": text.encoder.layers,
        "mlp_ratio": ratio(&text.encoder)?,
    });
    match text.pooling {
        TextPooling::Argmax => {}
        // The first with the largest id there is: the same.
        TextPooling::Eos(end) if end as usize + 1 == text.vocab_size => {}
        TextPooling::Eos(end) => {
            text_cfg["pool_type"] = json!("eos");
            text_cfg["eos_id"] = json!(end);
        }
        TextPooling::First => text_cfg["pool_type"] = json!("first"),
    }
    let mut model_cfg = json!({"embed_dim": config.projection_dim});
    if quick_gelu {
        model_cfg["quick_gelu"] = json!(true);
    }
    model_cfg["vision_cfg"] = with_eps(image, vision_cfg);
    model_cfg["text_cfg"] = with_eps(&text.encoder, text_cfg);
    let file = json!({
        "model_cfg": model_cfg,
        "preprocess_cfg": preprocess_cfg(config)?,
    });
    Ok(vec![(CONFIG.into(), super::json(&file))])
}

fn preprocess_cfg(config: &ClipConfig) -> Result<Value> {
    let transform = &config.preprocessing.transform;
    let size = config.vision.image_size;
    let interpolation = match transform.interpolation {
        Interpolation::Bicubic => "bicubic",
        Interpolation::Bilinear => "bilinear",
        other => return Err(cannot(format!("resizing by {other:?}"))),
    };
    let resize_mode = match (transform.resize, transform.crop) {
        (Some(Resize::ShorterSide(side)), Some(crop)) if crop == [side, side] => "shortest",
        (Some(Resize::Exact(exact)), crop)
            if exact == [size, size] && crop.is_none_or(|c| c == exact) =>
        {
            "squash"
        }
        _ => {
            return Err(cannot(
                "a resizing to another size than that of the crop after it",
            ));
        }
    };
    Ok(json!({
        "size": size,
        "mode": "RGB",
        "mean": transform.mean.map(shortest),
        "std": transform.std.map(shortest),
        "interpolation": interpolation,
        "resize_mode": resize_mode,
    }))
}
