//! The catalogue's models with random weights at their real size, and batches for them.

use burn::module::Param;
use burn::nn::DropoutConfig;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use fin_clip::config::{
    ClipTextConfig, EncoderConfig, TextConfig, TextPooling, TextProjection, VisionConfig,
    XlmRobertaTextConfig,
};
use fin_clip::text::TextInput;
use fin_clip::{ClipNetwork, Dialect as ClipDialect};
use fin_cnn::{Architecture as CnnArchitecture, CnnBackbone, CnnNetwork, Dialect, ImageBatch};
use fin_core::kernels::Activation;
use fin_core::{EmbeddingNetwork, Precision, weights};
use fin_pointnet::{
    Architecture as PointArchitecture, PointBackbone, PointBatch, PointNetwork, PointOutput,
};
use fin_registry::{Architecture, ModelRow, Preprocessing, Task};
use fin_transformer::bert::BertConfig;
use fin_transformer::distilbert::DistilBertConfig;
use fin_transformer::t5::T5Config;
use fin_transformer::xlm_roberta::XlmRobertaConfig;
use fin_transformer::{Dense, TextBackbone, TextNetwork, TokenBatch};
use serde_json::{Value, json};

use crate::dump::Dump;
use crate::{Outcome, bert_base_config, mini_lm_config, mixed_token_ids, text_network, token_ids};

/// Token ids of a batch of texts, unless said otherwise: texts and their tokens.
const TEXTS: [usize; 2] = [16, 64];
/// The id of padding, in all models of texts alone.
const PADDING: u32 = 0;
/// The token at the end of a text, of CLIP's vocabulary.
const CLIP_END: u32 = 49_407;
/// Images of a batch.
const IMAGES: usize = 8;
/// Clouds of a batch.
const CLOUDS: usize = 16;

/// What a batch is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Token ids, `[batch, tokens]`.
    InputIds,
    /// Normalised pixels, `[batch, 3, size, size]`.
    Pixels,
    /// Coordinates, `[batch, points, 3]`.
    Points,
}

impl Kind {
    /// Name in a dump.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InputIds => "input_ids",
            Self::Pixels => "pixels",
            Self::Points => "points",
        }
    }
}

/// Numbers instead of the family's own; several each are tried in every combination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Items of a batch.
    pub batch: Vec<usize>,
    /// Tokens of a text.
    pub length: Vec<usize>,
    /// Points of a cloud.
    pub points: Vec<usize>,
    /// Whether texts have all lengths up to the one given.
    pub mixed: bool,
}

/// The batches that a model is timed with: their kinds and shapes.
pub fn shapes(row: &ModelRow, sizes: &Sizes) -> Vec<(Kind, Vec<usize>)> {
    let or = |given: &[usize], default: usize| match given {
        [] => vec![default],
        given => given.to_vec(),
    };
    let mut found = Vec::new();
    if matches!(row.architecture, Architecture::Transformer) {
        for batch in or(&sizes.batch, TEXTS[0]) {
            for length in or(&sizes.length, TEXTS[1]) {
                found.push((Kind::InputIds, vec![batch, length]));
            }
        }
    }
    if let Some(size) = row
        .preprocessing
        .image()
        .and_then(|image| image.output_size())
    {
        for batch in or(&sizes.batch, IMAGES) {
            found.push((Kind::Pixels, vec![batch, 3, size[0], size[1]]));
        }
    }
    if let Preprocessing::Points { points } = row.preprocessing {
        for batch in or(&sizes.batch, CLOUDS) {
            for points in or(&sizes.points, points) {
                found.push((Kind::Points, vec![batch, points, 3]));
            }
        }
    }
    found
}

/// Refuses texts that are longer than a model's table of positions.
///
/// # Errors
/// Where one is, with the largest length.
pub fn check_length(row: &ModelRow, sizes: &Sizes) -> Outcome<()> {
    let most = most_tokens(row)?;
    let longer = |length: &&usize| most.is_some_and(|most| **length > most);
    match (sizes.length.iter().find(longer), most) {
        (Some(length), Some(most)) => {
            let name = &row.name;
            Err(format!("{length} tokens; {name} takes {most} at most").into())
        }
        _ => Ok(()),
    }
}

/// Most tokens that a model takes, where there is such a number.
pub fn most_tokens(row: &ModelRow) -> Outcome<Option<usize>> {
    Ok(match (row.architecture, row.task) {
        (Architecture::Transformer, Task::TextToImage) => Some(77),
        (Architecture::Transformer, _) => match text(&row.name)? {
            Text::Bert(config) => Some(config.max_position_embeddings),
            Text::DistilBert(config) => Some(config.max_position_embeddings),
            Text::T5(_) => None,
        },
        _ => None,
    })
}

/// A batch on a device.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Batch {
    /// Texts.
    Tokens(TokenBatch),
    /// Texts of a model of texts and images.
    Texts(TextInput),
    /// Images.
    Pixels(Tensor<4>),
    /// Clouds.
    Points(Tensor<3>),
}

/// A network with random weights.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Network {
    /// Of texts.
    Text(TextNetwork),
    /// Of images: as it is saved, and as it is run.
    Image(CnnNetwork, CnnNetwork),
    /// Of texts and images.
    Clip(ClipNetwork, TextConfig),
    /// Of clouds: as it is saved, and as it is run.
    Points(PointNetwork, PointNetwork),
}

impl Network {
    /// Holds the weights in f16 or bf16, as models are opened in it.
    ///
    /// # Errors
    /// Where the device does not compute in it.
    pub fn cast(self, precision: Precision, device: &Device) -> Outcome<Self> {
        precision.check_device(device)?;
        Ok(match self {
            Self::Text(network) => Self::Text(TextNetwork {
                backbone: network.backbone.cast(precision),
                ..network
            }),
            Self::Clip(network, config) => Self::Clip(network.cast(precision), config),
            Self::Image(network, _) => {
                let folded = network.fold_in(precision);
                Self::Image(network, folded)
            }
            Self::Points(network, _) => {
                let compiled = network.compile_in(precision);
                Self::Points(network, compiled)
            }
        })
    }

    /// Brings the layers to a precision, as an embedder does when it is opened.
    ///
    /// # Errors
    /// Where the device does not have it.
    pub fn prepare(&mut self, precision: Precision, device: &Device) -> Outcome<()> {
        match self {
            Self::Text(network) => precision.apply(&mut network.backbone, device)?,
            Self::Clip(network, _) => precision.apply(network, device)?,
            Self::Image(network, run) if precision == Precision::Int8 => {
                run.backbone = network.backbone.quantize()?;
                network.backbone = run.backbone.clone();
            }
            // Made for inference when it was built.
            Self::Image(..) | Self::Points(..) => {}
        }
        Ok(())
    }

    /// Whether the family has layers in 8 bits.
    pub fn has_int8(&self) -> bool {
        !matches!(self, Self::Points(..))
    }

    /// The model of a row of the catalogue.
    ///
    /// # Errors
    /// Where the row's configuration is not known here or cannot be built.
    pub fn new(row: &ModelRow, device: &Device) -> Outcome<Self> {
        device.seed(1);
        let name = row.name.as_str();
        let network = || row.network.clone().unwrap_or_default();
        Ok(match (row.architecture, row.task) {
            (Architecture::Cnn, _) => {
                let config = CnnArchitecture::Named(network()).config()?;
                let network = CnnNetwork {
                    backbone: config.init(device),
                    dropout: DropoutConfig::new(config.dropout()).init(),
                    projection: None,
                    pooling: fin_core::MapPooling::Mean,
                    normalize: row.normalize,
                };
                let compiled = network.fold();
                Self::Image(network, compiled)
            }
            (Architecture::Pointnet, _) => {
                let config = PointArchitecture::Named(network()).config()?;
                let network = PointNetwork {
                    backbone: PointBackbone::Full(config.init(false, device)),
                    projection: None,
                    output: PointOutput::Embedding,
                    relu: false,
                    normalize: row.normalize,
                };
                let compiled = network.compile();
                Self::Points(network, compiled)
            }
            (Architecture::Transformer, Task::TextToImage) => {
                let (width, vision, text) = clip(name)?;
                // The logarithm of 1 / 0.07.
                let scale = Tensor::from_floats([2.659_26], device);
                let network = ClipNetwork {
                    text: text.init(width, device)?,
                    vision: vision.init(width, device),
                    logit_scale: Param::from_tensor(scale),
                    normalize: row.normalize,
                };
                Self::Clip(network, text)
            }
            (Architecture::Transformer, _) => {
                let backbone = match text(name)? {
                    Text::Bert(config) => TextBackbone::Bert(config.init(false, device)?),
                    Text::DistilBert(config) => TextBackbone::DistilBert(config.init(device)?),
                    Text::T5(config) => TextBackbone::T5(config.init(device)?),
                };
                let mut network = text_network(backbone, row.normalize, device);
                if network.output_dim() != row.output_dim {
                    let width = network.output_dim();
                    let mut head = Dense::projection(width, row.output_dim, device);
                    head.activation = Activation::Tanh;
                    network.dense.push(head);
                }
                Self::Text(network)
            }
        })
    }

    /// Values of a batch and the batch itself, on `device`.
    ///
    /// # Errors
    /// Where values cannot be read back.
    pub fn batch(
        &self,
        kind: Kind,
        shape: &[usize],
        mixed: bool,
        device: &Device,
    ) -> Outcome<(Vec<f32>, Batch)> {
        let noise = Distribution::Normal(0.0, 1.0);
        device.seed(2);
        match (kind, shape) {
            (Kind::InputIds, &[items, tokens]) => {
                let mut ids = match mixed {
                    true => mixed_token_ids(items, tokens),
                    false => token_ids(items, tokens),
                };
                if let Self::Clip(..) = self {
                    // A text goes on to its end token, the largest id; what is behind it is not computed.
                    for last in ids.iter_mut().filter_map(|ids| ids.last_mut()) {
                        *last = CLIP_END;
                    }
                }
                let padded = ids.iter().flat_map(|ids| {
                    let padding = std::iter::repeat_n(&PADDING, tokens - ids.len());
                    ids.iter().chain(padding).map(|id| *id as f32)
                });
                let values = padded.collect();
                let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
                let batch = match self {
                    Self::Clip(_, config) => Batch::Texts(config.collate(&ids, 1, device)),
                    _ => Batch::Tokens(TokenBatch::new(&ids, PADDING, device)),
                };
                Ok((values, batch))
            }
            (Kind::Pixels, &[items, channels, height, width]) => {
                let shape = [items, channels, height, width];
                let values = crate::dump::values(Tensor::<4>::random(shape, noise, device))?;
                let data = TensorData::new(values.clone(), shape);
                Ok((values, Batch::Pixels(Tensor::from_data(data, device))))
            }
            (Kind::Points, &[items, points, axes]) => {
                // On a sphere.
                let shape = [items, points, axes];
                let points = Tensor::<3>::random(shape, noise, device);
                let lengths = points.clone().square().sum_dim(2).sqrt();
                let values = crate::dump::values(points / lengths)?;
                let data = TensorData::new(values.clone(), shape);
                Ok((values, Batch::Points(Tensor::from_data(data, device))))
            }
            _ => Err(format!("{shape:?} is no shape of {}", kind.name()).into()),
        }
    }

    /// `[batch, output_dim]`, by the form of the network that `fin encode` runs.
    ///
    /// # Errors
    /// Where the batch is of another kind.
    pub fn embed(&self, batch: &Batch) -> Outcome<Tensor<2>> {
        Ok(match (self, batch) {
            (Self::Text(network), Batch::Tokens(batch)) => network.embed(batch),
            (Self::Image(_, network), Batch::Pixels(pixels)) => {
                network.embed(&ImageBatch::Pixels(pixels.clone()))
            }
            (Self::Clip(network, _), Batch::Texts(input)) => network.text.forward(input),
            (Self::Clip(network, _), Batch::Pixels(pixels)) => network.vision.forward(pixels),
            (Self::Points(_, network), Batch::Points(points)) => {
                network.embed(&PointBatch::Points(points.clone()))
            }
            _ => return Err("the batch is of a kind that the network does not read".into()),
        })
    }

    /// Writes the weights under upstream's names, and says what the network is there.
    ///
    /// # Errors
    /// Where a file cannot be written, or the model has no counterpart.
    pub fn dump(&self, row: &ModelRow, dump: &Dump) -> Outcome<Value> {
        let path = dump.weights();
        let mut reference = match self {
            Self::Text(network) => {
                let names = network.backbone.names();
                match &network.backbone {
                    TextBackbone::Bert(model) | TextBackbone::XlmRoberta(model) => {
                        weights::save_module(path, model, &names)?;
                    }
                    TextBackbone::DistilBert(model) => weights::save_module(path, model, &names)?,
                    TextBackbone::T5(model) => weights::save_module(path, model, &names)?,
                }
                if let Some(head) = network.dense.first() {
                    weights::save_module(dump.head(), &head.linear, &weights::Names::default())?;
                }
                let (class, config) = match text(&row.name)? {
                    Text::Bert(config) => ("BertModel", serde_json::to_value(config)?),
                    Text::DistilBert(config) => ("DistilBertModel", serde_json::to_value(config)?),
                    Text::T5(config) => ("T5EncoderModel", serde_json::to_value(config)?),
                };
                json!({ "library": "transformers", "class": class, "config": config })
            }
            Self::Image(network, _) => {
                let name = row.network.clone().unwrap_or_default();
                let config = CnnArchitecture::Named(name.clone()).config()?;
                let dialect = Dialect::of_saved(&config);
                let names = dialect.names(&config);
                match &network.backbone {
                    CnnBackbone::ResNet(model) => weights::save_module(path, model, &names)?,
                    CnnBackbone::EfficientNet(model) => weights::save_module(path, model, &names)?,
                    CnnBackbone::Blocked(_) => return Err("a compiled network has no names".into()),
                }
                let class = match dialect {
                    Dialect::Timm => format!("tf_{}", name.trim_start_matches("tf_")),
                    _ => name,
                };
                json!({ "library": dialect.name(), "class": class })
            }
            Self::Clip(network, TextConfig::Clip(_)) => {
                network.save_weights(&path, ClipDialect::Transformers)?;
                json!({
                    "library": "transformers",
                    "class": "CLIPModel",
                    "config": clip_config(&row.name)?,
                })
            }
            Self::Clip(network, TextConfig::XlmRoberta(config)) => {
                network.save_weights(&path, ClipDialect::OpenClip)?;
                json!({
                    "library": "open_clip",
                    "class": "xlm-roberta-base-ViT-B-32",
                    "config": config.transformer,
                })
            }
            Self::Points(network, _) => {
                let PointBackbone::Full(model) = &network.backbone else {
                    return Err("a compiled network has no names".into());
                };
                let name = row.network.clone().unwrap_or_default();
                let config = PointArchitecture::Named(name).config()?;
                weights::save_module(path, model, &config.names())?;
                json!({ "library": "pointnet", "class": "SSG" })
            }
        };
        reference["normalize"] = json!(row.normalize);
        Ok(reference)
    }
}

/// The numbers of a text backbone.
enum Text {
    Bert(BertConfig),
    DistilBert(DistilBertConfig),
    T5(T5Config),
}

/// Those of the catalogue's text models, as their `config.json` upstream has them.
fn text(name: &str) -> Outcome<Text> {
    let distilbert = |vocab_size| DistilBertConfig {
        vocab_size,
        dim: 768,
        n_layers: 6,
        n_heads: 12,
        hidden_dim: 3072,
        activation: "gelu".into(),
        max_position_embeddings: 512,
        dropout: 0.1,
        attention_dropout: 0.1,
        pad_token_id: Some(0),
    };
    let t5 = |d_model, num_layers, num_heads, d_ff| T5Config {
        vocab_size: 32_128,
        d_model,
        d_kv: 64,
        d_ff,
        num_layers,
        num_heads,
        relative_attention_num_buckets: 32,
        relative_attention_max_distance: 128,
        layer_norm_epsilon: 1e-6,
        dropout_rate: 0.1,
        feed_forward_proj: "relu".into(),
        n_positions: Some(512),
        pad_token_id: Some(0),
    };
    Ok(match name {
        "fin-tiny-en" => Text::Bert(BertConfig {
            vocab_size: 24_000,
            hidden_size: 128,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            intermediate_size: 512,
            max_position_embeddings: 256,
            ..mini_lm_config()
        }),
        "all-minilm-l6-v2" => Text::Bert(mini_lm_config()),
        "jina-embedding-t-en-v1" => Text::Bert(BertConfig {
            hidden_size: 312,
            num_hidden_layers: 4,
            intermediate_size: 1200,
            ..mini_lm_config()
        }),
        "jina-embedding-s-en-v1" => Text::T5(t5(512, 6, 8, 2048)),
        "jina-embedding-b-en-v1" => Text::T5(t5(768, 12, 12, 3072)),
        "jina-embedding-l-en-v1" => Text::T5(t5(1024, 24, 16, 4096)),
        "bert-base-en" => Text::Bert(BertConfig {
            vocab_size: 28_996,
            ..bert_base_config()
        }),
        "bert-base-multi" => Text::Bert(BertConfig {
            vocab_size: 119_547,
            ..bert_base_config()
        }),
        "distiluse-base-multi" => Text::DistilBert(distilbert(119_547)),
        "sbert-base-en" => Text::DistilBert(distilbert(30_522)),
        other => return Err(format!("the size of `{other}` is not known to the benches").into()),
    })
}

/// Widths, layers and heads of both towers of CLIP models; patches of the images.
struct ClipSize {
    patch: usize,
    vision: [usize; 3],
    text: [usize; 3],
    activation: Activation,
    projection: usize,
}

fn clip_size(name: &str) -> Outcome<ClipSize> {
    let (patch, vision, text, activation, projection) = match name {
        "clip-base-en" => (32, [768, 12, 12], [512, 12, 8], Activation::QuickGelu, 512),
        // Its text tower is XLM-RoBERTa.
        "clip-base-multi" => (32, [768, 12, 12], [768, 12, 12], Activation::Gelu, 512),
        "clip-large-en" => (
            14,
            [1024, 24, 16],
            [768, 12, 12],
            Activation::QuickGelu,
            768,
        ),
        "clip-huge-en" => (14, [1280, 32, 16], [1024, 24, 16], Activation::Gelu, 1024),
        other => return Err(format!("the size of `{other}` is not known to the benches").into()),
    };
    Ok(ClipSize {
        patch,
        vision,
        text,
        activation,
        projection,
    })
}

/// Both towers, and the length of an embedding.
fn clip(name: &str) -> Outcome<(usize, VisionConfig, TextConfig)> {
    let size = clip_size(name)?;
    let encoder = |[hidden_size, layers, heads]: [usize; 3]| EncoderConfig {
        hidden_size,
        intermediate_size: 4 * hidden_size,
        layers,
        heads,
        activation: size.activation,
        layer_norm_eps: 1e-5,
        attention_dropout: 0.0,
    };
    let vision = VisionConfig {
        encoder: encoder(size.vision),
        image_size: 224,
        patch_size: size.patch,
    };
    let text = match name {
        "clip-base-multi" => TextConfig::XlmRoberta(XlmRobertaTextConfig {
            transformer: XlmRobertaConfig {
                bert: BertConfig {
                    vocab_size: 250_002,
                    max_position_embeddings: 514,
                    type_vocab_size: 1,
                    layer_norm_eps: 1e-5,
                    pad_token_id: Some(1),
                    ..bert_base_config()
                },
            },
            context_length: 77,
            projection: TextProjection::Mlp,
        }),
        _ => TextConfig::Clip(ClipTextConfig {
            encoder: encoder(size.text),
            vocab_size: 49_408,
            context_length: 77,
            pooling: TextPooling::Argmax,
        }),
    };
    Ok((size.projection, vision, text))
}

/// What `transformers` calls the numbers of a CLIP model.
fn clip_config(name: &str) -> Outcome<Value> {
    let size = clip_size(name)?;
    let act = match size.activation {
        Activation::QuickGelu => "quick_gelu",
        _ => "gelu",
    };
    let tower = |[hidden_size, layers, heads]: [usize; 3]| {
        json!({
            "hidden_size": hidden_size,
            "intermediate_size": 4 * hidden_size,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "hidden_act": act,
            "projection_dim": size.projection,
        })
    };
    let (mut vision, mut text) = (tower(size.vision), tower(size.text));
    vision["image_size"] = json!(224);
    vision["patch_size"] = json!(size.patch);
    // The older reading, by which a text ends at its largest id.
    text["eos_token_id"] = json!(2);
    Ok(json!({
        "projection_dim": size.projection,
        "vision_config": vision,
        "text_config": text,
    }))
}
