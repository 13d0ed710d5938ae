//! DistilBERT (Sanh et al. 2019, <https://arxiv.org/abs/1910.01108>): BERT without token types
//! and pooler, named as in `transformers`' `models/distilbert/modeling_distilbert.py`.

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

/// Upstream's layer norms have this epsilon written into the code.
const LAYER_NORM_EPS: f64 = 1e-12;

/// The fields of DistilBERT's `config.json` that change the numbers.
///
/// `sinusoidal_pos_embds` changes how the position table is initialised, not how it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DistilBertConfig {
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub dim: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Attention heads a layer.
    pub n_heads: usize,
    /// Width of the feed-forward layer.
    pub hidden_dim: usize,
    /// Activation of the feed-forward layer.
    #[serde(default = "default_activation")]
    pub activation: String,
    /// Rows of the position table: the largest number of tokens.
    pub max_position_embeddings: usize,
    /// Dropout on hidden states, in training.
    #[serde(default = "default_dropout")]
    pub dropout: f64,
    /// Dropout on attention weights, in training.
    #[serde(default = "default_dropout")]
    pub attention_dropout: f64,
    /// Id that batches are padded with.
    #[serde(default)]
    pub pad_token_id: Option<u32>,
}

fn default_activation() -> String {
    "gelu".into()
}

fn default_dropout() -> f64 {
    0.1
}

impl DistilBertConfig {
    /// Checks what the layers rely on.
    ///
    /// # Errors
    /// [`Error::Config`] names the field.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        check_sizes(
            path,
            &[
                ("vocab_size", self.vocab_size),
                ("n_layers", self.n_layers),
                ("hidden_dim", self.hidden_dim),
                ("max_position_embeddings", self.max_position_embeddings),
            ],
            ("dim", self.dim),
            ("n_heads", self.n_heads),
        )?;
        check_rate(path, "dropout", self.dropout)?;
        check_rate(path, "attention_dropout", self.attention_dropout)?;
        activation(path, "activation", &self.activation)?;
        Ok(())
    }

    /// Makes the network.
    ///
    /// # Errors
    /// [`Error::Argument`] where `activation` is unknown.
    pub fn init(&self, device: &Device) -> Result<DistilBert> {
        let act = Activation::from_name(&self.activation).ok_or_else(|| {
            Error::argument(
                "activation",
                format!("`{}` is not supported", self.activation),
            )
        })?;
        let dim = self.dim;
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let norm = || LayerNormConfig::new(dim, LAYER_NORM_EPS).init(device);
        let dropout = || DropoutConfig::new(self.dropout).init();
        let layer = || DistilBertLayer {
            attention: DistilBertAttention {
                q_lin: linear(dim, dim),
                k_lin: linear(dim, dim),
                v_lin: linear(dim, dim),
                out_lin: linear(dim, dim),
                dropout: DropoutConfig::new(self.attention_dropout).init(),
                heads: self.n_heads,
            },
            sa_layer_norm: norm(),
            ffn: DistilBertFeedForward {
                lin1: linear(dim, self.hidden_dim),
                lin2: linear(self.hidden_dim, dim),
                dropout: dropout(),
                activation: act,
            },
            output_layer_norm: norm(),
        };
        let table = |rows| EmbeddingConfig::new(rows, dim).init(device);
        Ok(DistilBert {
            embeddings: DistilBertEmbeddings {
                word_embeddings: table(self.vocab_size),
                position_embeddings: table(self.max_position_embeddings),
                layer_norm: norm(),
                dropout: dropout(),
            },
            transformer: DistilBertTransformer {
                layer: (0..self.n_layers).map(|_| layer()).collect(),
            },
        })
    }
}

/// DistilBERT encoder.
#[derive(Module, Debug)]
pub struct DistilBert {
    /// Word and position tables.
    pub embeddings: DistilBertEmbeddings,
    /// The stack of layers.
    pub transformer: DistilBertTransformer,
}

/// Sum of word and position vectors, normalised.
#[derive(Module, Debug)]
pub struct DistilBertEmbeddings {
    /// `[vocab_size, dim]`.
    pub word_embeddings: Embedding,
    /// `[max_position_embeddings, dim]`.
    pub position_embeddings: Embedding,
    /// `LayerNorm` upstream.
    pub layer_norm: LayerNorm,
    /// In training.
    pub dropout: Dropout,
}

/// The stack of layers.
#[derive(Module, Debug)]
pub struct DistilBertTransformer {
    /// In order from the embeddings up.
    pub layer: Vec<DistilBertLayer>,
}

/// Self-attention and feed-forward, each with a residual connection and a layer norm after it.
#[derive(Module, Debug)]
pub struct DistilBertLayer {
    /// Self-attention with its output projection.
    pub attention: DistilBertAttention,
    /// After the attention.
    pub sa_layer_norm: LayerNorm,
    /// Feed-forward network.
    pub ffn: DistilBertFeedForward,
    /// After the feed-forward network.
    pub output_layer_norm: LayerNorm,
}

/// Multi-head self-attention with its output projection; all weights `[dim, dim]`.
#[derive(Module, Debug)]
pub struct DistilBertAttention {
    /// Query projection.
    pub q_lin: Linear,
    /// Key projection.
    pub k_lin: Linear,
    /// Value projection.
    pub v_lin: Linear,
    /// Output projection.
    pub out_lin: Linear,
    /// On attention weights, in training.
    pub dropout: Dropout,
    /// Number of heads.
    pub heads: usize,
}

/// Two linear layers with an activation between them.
#[derive(Module, Debug)]
pub struct DistilBertFeedForward {
    /// `[hidden_dim, dim]`.
    pub lin1: Linear,
    /// `[dim, hidden_dim]`.
    pub lin2: Linear,
    /// In training.
    pub dropout: Dropout,
    /// Between the two.
    #[module(skip)]
    pub activation: Activation,
}

impl DistilBertLayer {
    fn forward(&self, x: Tensor<3>, bias: &AttentionBias) -> Tensor<3> {
        let attention = &self.attention;
        let head_dim = x.dims()[2] / attention.heads;
        let context = kernels::attention(
            attention.q_lin.forward(x.clone()),
            attention.k_lin.forward(x.clone()),
            attention.v_lin.forward(x.clone()),
            bias,
            attention.heads,
            kernels::scaled(head_dim),
            &attention.dropout,
        );
        let x = self
            .sa_layer_norm
            .forward_residual(attention.out_lin.forward(context), x);
        let wide = self
            .ffn
            .lin1
            .forward_activated(x.clone(), self.ffn.activation);
        let narrow = kernels::dropout(self.ffn.lin2.forward(wide), &self.ffn.dropout);
        self.output_layer_norm.forward_residual(narrow, x)
    }
}

impl DistilBertEmbeddings {
    fn forward(&self, batch: &TokenBatch) -> Tensor<3> {
        let [count, seq] = batch.dims();
        let words = self.word_embeddings.forward(batch.input_ids.clone());
        let positions = self.position_embeddings.weight.val().narrow(0, 0, seq);
        let dim = positions.dims()[1];
        let positions = positions.reshape([1, seq, dim]).expand([count, seq, dim]);
        let x = self.layer_norm.forward_residual(words, positions);
        kernels::dropout(x, &self.dropout)
    }
}

impl DistilBert {
    /// The output of the embeddings and of every layer, each `[batch, seq, dim]`.
    pub fn hidden_states(&self, batch: &TokenBatch) -> Vec<Tensor<3>> {
        let bias = batch.attention_bias();
        let mut states = vec![self.embeddings.forward(batch)];
        for (i, layer) in self.transformer.layer.iter().enumerate() {
            states.push(layer.forward(states[i].clone(), &bias));
        }
        states
    }

    /// How the parameter paths map to upstream key names.
    pub fn names() -> Names {
        let mut names = Names::with_renames([("layer_norm", "LayerNorm")]);
        names.ignored = [
            "embeddings.position_ids",
            "vocab_transform.*",
            "vocab_layer_norm.*",
            "vocab_projector.*",
            "pre_classifier.*",
            "classifier.*",
            "qa_outputs.*",
        ]
        .map(String::from)
        .to_vec();
        names
    }
}

impl LinearLayers for DistilBertLayer {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()> {
        let attention = &mut self.attention;
        f(&mut attention.q_lin)?;
        f(&mut attention.k_lin)?;
        f(&mut attention.v_lin)?;
        f(&mut attention.out_lin)?;
        f(&mut self.ffn.lin1)?;
        f(&mut self.ffn.lin2)
    }
}

impl LinearLayers for DistilBert {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()> {
        self.transformer.layer.each_linear(f)
    }
}

impl Backbone for DistilBert {
    type Batch = TokenBatch;
    type Features = Tensor<3>;

    fn hidden_size(&self) -> usize {
        self.embeddings.word_embeddings.weight.lazy_shape()[1]
    }

    fn forward(&self, batch: &TokenBatch) -> Tensor<3> {
        let x = self.embeddings.forward(batch);
        let lengths = batch.lengths.as_ref();
        kernels::without_padding(x, lengths, batch.attention_bias(), |x, bias| {
            let layers = self.transformer.layer.iter();
            layers.fold(x, |x, layer| layer.forward(x, bias))
        })
    }
}
