//! BERT: Bidirectional Encoder Representations from Transformers (Devlin et al. 2018,
//! <https://arxiv.org/abs/1810.04805>), numbered and named as in `transformers`'
//! `models/bert/modeling_bert.py`.

use std::path::Path;

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{Device, Tensor};
use fin_core::kernels::{self, Activation, AttentionBias};
use fin_core::nn::{
    Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, LinearLayers,
};
use fin_core::weights::Names;
use fin_core::{Backbone, Error, Result};
use serde::{Deserialize, Serialize};

use crate::batch::TokenBatch;
use crate::config::{activation, check_rate, check_sizes};

/// The fields of BERT's `config.json` that change the numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BertConfig {
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads a layer.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Activation of the feed-forward layer.
    #[serde(default = "default_activation")]
    pub hidden_act: String,
    /// Rows of the position table: the largest number of tokens.
    pub max_position_embeddings: usize,
    /// Rows of the token-type table.
    #[serde(default = "default_type_vocab_size")]
    pub type_vocab_size: usize,
    /// Added to the variance in layer norms.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
    /// Dropout on hidden states, in training.
    #[serde(default = "default_dropout")]
    pub hidden_dropout_prob: f64,
    /// Dropout on attention weights, in training.
    #[serde(default = "default_dropout")]
    pub attention_probs_dropout_prob: f64,
    /// Only `absolute` is built.
    #[serde(default = "default_position_embedding_type")]
    pub position_embedding_type: Option<String>,
    /// Only encoders are built.
    #[serde(default)]
    pub is_decoder: bool,
    /// Id that batches are padded with.
    #[serde(default)]
    pub pad_token_id: Option<u32>,
}

fn default_activation() -> String {
    "gelu".into()
}

fn default_type_vocab_size() -> usize {
    2
}

fn default_eps() -> f64 {
    1e-12
}

fn default_dropout() -> f64 {
    0.1
}

fn default_position_embedding_type() -> Option<String> {
    Some("absolute".into())
}

impl BertConfig {
    /// Checks what the layers rely on.
    ///
    /// # Errors
    /// [`Error::Config`] names the field.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        check_sizes(
            path,
            &[
                ("vocab_size", self.vocab_size),
                ("num_hidden_layers", self.num_hidden_layers),
                ("intermediate_size", self.intermediate_size),
                ("max_position_embeddings", self.max_position_embeddings),
                ("type_vocab_size", self.type_vocab_size),
            ],
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
        )?;
        check_rate(path, "hidden_dropout_prob", self.hidden_dropout_prob)?;
        check_rate(
            path,
            "attention_probs_dropout_prob",
            self.attention_probs_dropout_prob,
        )?;
        activation(path, "hidden_act", &self.hidden_act)?;
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => {
                let reason = format!("`{other}` is not supported; supported: absolute");
                return Err(Error::config(path, "position_embedding_type", reason));
            }
        }
        if self.is_decoder {
            return Err(Error::config(
                path,
                "is_decoder",
                "decoders are not supported",
            ));
        }
        Ok(())
    }

    /// Makes the network, with its pooler or without.
    ///
    /// # Errors
    /// [`Error::Argument`] where `hidden_act` is unknown.
    pub fn init(&self, pooler: bool, device: &Device) -> Result<Bert> {
        self.init_with(pooler, None, device)
    }

    /// [`BertConfig::init`] with positions that start after this one, counted over ids that are
    /// not padding (RoBERTa), where it is given.
    pub(crate) fn init_with(
        &self,
        pooler: bool,
        padding_position: Option<usize>,
        device: &Device,
    ) -> Result<Bert> {
        let hidden_act = Activation::from_name(&self.hidden_act).ok_or_else(|| {
            Error::argument(
                "hidden_act",
                format!("`{}` is not supported", self.hidden_act),
            )
        })?;
        let hidden = self.hidden_size;
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let norm = || LayerNormConfig::new(hidden, self.layer_norm_eps).init(device);
        let dropout = || DropoutConfig::new(self.hidden_dropout_prob).init();
        let layer = || BertLayer {
            attention: BertAttention {
                self_attention: BertSelfAttention {
                    query: linear(hidden, hidden),
                    key: linear(hidden, hidden),
                    value: linear(hidden, hidden),
                    dropout: DropoutConfig::new(self.attention_probs_dropout_prob).init(),
                    heads: self.num_attention_heads,
                },
                output: BertOutput {
                    dense: linear(hidden, hidden),
                    layer_norm: norm(),
                    dropout: dropout(),
                },
            },
            intermediate: BertIntermediate {
                dense: linear(hidden, self.intermediate_size),
                activation: hidden_act,
            },
            output: BertOutput {
                dense: linear(self.intermediate_size, hidden),
                layer_norm: norm(),
                dropout: dropout(),
            },
        };
        let table = |rows| EmbeddingConfig::new(rows, hidden).init(device);
        Ok(Bert {
            embeddings: BertEmbeddings {
                word_embeddings: table(self.vocab_size),
                position_embeddings: table(self.max_position_embeddings),
                token_type_embeddings: table(self.type_vocab_size),
                layer_norm: norm(),
                dropout: dropout(),
                padding_position,
            },
            encoder: BertEncoder {
                layer: (0..self.num_hidden_layers).map(|_| layer()).collect(),
            },
            pooler: pooler.then(|| BertPooler {
                dense: linear(hidden, hidden),
            }),
        })
    }
}

/// BERT encoder, with its pooler where the checkpoint has one.
#[derive(Module, Debug)]
pub struct Bert {
    /// Word, position and token-type tables.
    pub embeddings: BertEmbeddings,
    /// The stack of layers.
    pub encoder: BertEncoder,
    /// Dense layer and tanh over the first token.
    pub pooler: Option<BertPooler>,
}

/// Sum of word, position and token-type vectors, normalised.
#[derive(Module, Debug)]
pub struct BertEmbeddings {
    /// `[vocab_size, hidden]`.
    pub word_embeddings: Embedding,
    /// `[max_position_embeddings, hidden]`.
    pub position_embeddings: Embedding,
    /// `[type_vocab_size, hidden]`; single texts use row 0, the second of two row 1.
    pub token_type_embeddings: Embedding,
    /// Over the sum.
    pub layer_norm: LayerNorm,
    /// In training.
    pub dropout: Dropout,
    /// RoBERTa's row of the position table for padding: tokens have those after it, counted over
    /// ids that are not padding. BERT has none: tokens have the rows from 0 on.
    pub padding_position: Option<usize>,
}

/// The stack of layers.
#[derive(Module, Debug)]
pub struct BertEncoder {
    /// In order from the embeddings up.
    pub layer: Vec<BertLayer>,
}

/// Self-attention and feed-forward, each with a residual connection and a layer norm after it.
#[derive(Module, Debug)]
pub struct BertLayer {
    /// Self-attention with its output projection.
    pub attention: BertAttention,
    /// First half of the feed-forward network.
    pub intermediate: BertIntermediate,
    /// Second half of the feed-forward network.
    pub output: BertOutput,
}

/// Self-attention with its output projection.
#[derive(Module, Debug)]
pub struct BertAttention {
    /// `attention.self` upstream.
    pub self_attention: BertSelfAttention,
    /// Projection, residual and norm.
    pub output: BertOutput,
}

/// Multi-head self-attention.
#[derive(Module, Debug)]
pub struct BertSelfAttention {
    /// `[hidden, hidden]`.
    pub query: Linear,
    /// `[hidden, hidden]`.
    pub key: Linear,
    /// `[hidden, hidden]`.
    pub value: Linear,
    /// On attention weights, in training.
    pub dropout: Dropout,
    /// Number of heads.
    pub heads: usize,
}

/// Expansion to the intermediate width.
#[derive(Module, Debug)]
pub struct BertIntermediate {
    /// `[intermediate, hidden]`.
    pub dense: Linear,
    /// After it.
    #[module(skip)]
    pub activation: Activation,
}

/// Projection back to the hidden width, residual connection and norm.
#[derive(Module, Debug)]
pub struct BertOutput {
    /// Projection.
    pub dense: Linear,
    /// Over the sum with the residual.
    pub layer_norm: LayerNorm,
    /// In training.
    pub dropout: Dropout,
}

/// Dense layer and tanh over the first token.
#[derive(Module, Debug)]
pub struct BertPooler {
    /// `[hidden, hidden]`.
    pub dense: Linear,
}

impl BertOutput {
    fn forward(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        let x = kernels::dropout(self.dense.forward(x), &self.dropout);
        self.layer_norm.forward_residual(x, residual)
    }
}

impl BertLayer {
    fn forward(&self, x: Tensor<3>, bias: &AttentionBias) -> Tensor<3> {
        let attention = &self.attention.self_attention;
        let head_dim = x.dims()[2] / attention.heads;
        let context = kernels::attention(
            attention.query.forward(x.clone()),
            attention.key.forward(x.clone()),
            attention.value.forward(x.clone()),
            bias,
            attention.heads,
            kernels::scaled(head_dim),
            &attention.dropout,
        );
        let x = self.attention.output.forward(context, x);
        let wide = self
            .intermediate
            .dense
            .forward_activated(x.clone(), self.intermediate.activation);
        self.output.forward(wide, x)
    }
}

impl BertEmbeddings {
    fn forward(&self, batch: &TokenBatch) -> Tensor<3> {
        let [count, seq] = batch.dims();
        let words = self.word_embeddings.forward(batch.input_ids.clone());
        let hidden = words.dims()[2];
        let positions = match self.padding_position {
            None => {
                let positions = self.position_embeddings.weight.val().narrow(0, 0, seq);
                positions.reshape([1, seq, hidden])
            }
            Some(padding) => {
                let positions = batch.ordinals.clone() + padding as i64;
                self.position_embeddings.forward(positions)
            }
        };
        let types = match &batch.token_types {
            None => {
                let first = self.token_type_embeddings.weight.val().narrow(0, 0, 1);
                first.reshape([1, 1, hidden])
            }
            Some(types) => self.token_type_embeddings.forward(types.clone()),
        };
        let offset = (positions + types).expand([count, seq, hidden]);
        let x = self.layer_norm.forward_residual(words, offset);
        kernels::dropout(x, &self.dropout)
    }
}

impl Bert {
    /// The output of the embeddings and of every layer, each `[batch, seq, hidden]`.
    pub fn hidden_states(&self, batch: &TokenBatch) -> Vec<Tensor<3>> {
        let bias = batch.attention_bias();
        let mut states = vec![self.embeddings.forward(batch)];
        for (i, layer) in self.encoder.layer.iter().enumerate() {
            states.push(layer.forward(states[i].clone(), &bias));
        }
        states
    }

    /// The pooler's output `[batch, hidden]` from the last hidden states, where there is one.
    pub fn pooler_output(&self, last_hidden_state: Tensor<3>) -> Option<Tensor<2>> {
        let [batch, _, hidden] = last_hidden_state.dims();
        let first = last_hidden_state.narrow(1, 0, 1).reshape([batch, hidden]);
        self.pooler
            .as_ref()
            .map(|pooler| pooler.dense.forward_activated(first, Activation::Tanh))
    }

    /// How the parameter paths map to upstream key names.
    pub fn names() -> Names {
        let mut names =
            Names::with_renames([("layer_norm", "LayerNorm"), ("self_attention", "self")]);
        names.aliases = vec![
            ("LayerNorm.weight".into(), "LayerNorm.gamma".into()),
            ("LayerNorm.bias".into(), "LayerNorm.beta".into()),
        ];
        names.ignored = [
            "embeddings.position_ids",
            "embeddings.token_type_ids",
            "pooler.*",
            "cls.*",
            "classifier.*",
            "qa_outputs.*",
        ]
        .map(String::from)
        .to_vec();
        names
    }
}

impl LinearLayers for BertLayer {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()> {
        let attention = &mut self.attention.self_attention;
        f(&mut attention.query)?;
        f(&mut attention.key)?;
        f(&mut attention.value)?;
        f(&mut self.attention.output.dense)?;
        f(&mut self.intermediate.dense)?;
        f(&mut self.output.dense)
    }
}

/// Of the layers, not of the pooler.
impl LinearLayers for Bert {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()> {
        self.encoder.layer.each_linear(f)
    }
}

impl Backbone for Bert {
    type Batch = TokenBatch;
    type Features = Tensor<3>;

    fn hidden_size(&self) -> usize {
        self.embeddings.word_embeddings.weight.lazy_shape()[1]
    }

    fn forward(&self, batch: &TokenBatch) -> Tensor<3> {
        let x = self.embeddings.forward(batch);
        let lengths = batch.lengths.as_ref();
        kernels::without_padding(x, lengths, batch.attention_bias(), |x, bias| {
            let layers = self.encoder.layer.iter();
            layers.fold(x, |x, layer| layer.forward(x, bias))
        })
    }
}
