//! The encoder of T5 (Raffel et al. 2020, <https://arxiv.org/abs/1910.10683>), T5 1.1 and mT5,
//! numbered and named as in `transformers`' `models/t5/modeling_t5.py`.
//!
//! Each block normalises before its sub-layers and adds after them. Positions enter through a
//! bias on attention scores alone: a learned number a head and bucket of relative distance, held
//! by the first block and shared by all. Scores are not scaled.

use std::path::Path;

use burn::module::{Initializer, Module};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use fin_core::kernels::{self, Activation, AttentionBias};
use fin_core::nn::{
    Embedding, EmbeddingConfig, Linear, LinearConfig, LinearLayers, RmsNorm, RmsNormConfig,
};
use fin_core::weights::Names;
use fin_core::{Backbone, Error, Precision, Result, to_f32};
use serde::{Deserialize, Serialize};

use crate::batch::TokenBatch;
use crate::config::{check_rate, check_sizes};

/// The fields of T5's `config.json` that change the encoder's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct T5Config {
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub d_model: usize,
    /// Width of a head; not tied to `d_model / num_heads`.
    pub d_kv: usize,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// Number of encoder blocks.
    pub num_layers: usize,
    /// Attention heads a block.
    pub num_heads: usize,
    /// Buckets of relative distance, both directions together.
    #[serde(default = "default_buckets")]
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all share the last bucket.
    #[serde(default = "default_max_distance")]
    pub relative_attention_max_distance: usize,
    /// Added to the mean square in norms.
    #[serde(default = "default_eps")]
    pub layer_norm_epsilon: f64,
    /// In training: on embeddings, sub-layer outputs, attention weights and the feed-forward
    /// activation.
    #[serde(default = "default_dropout")]
    pub dropout_rate: f64,
    /// An activation, or `gated-` and an activation; `gated-gelu` means `gated-gelu_new`.
    #[serde(default = "default_feed_forward")]
    pub feed_forward_proj: String,
    /// Length that the model was pretrained with; longer texts work, no table ends there.
    #[serde(default)]
    pub n_positions: Option<usize>,
    /// Id that batches are padded with.
    #[serde(default)]
    pub pad_token_id: Option<u32>,
}

fn default_buckets() -> usize {
    32
}

fn default_max_distance() -> usize {
    128
}

fn default_eps() -> f64 {
    1e-6
}

fn default_dropout() -> f64 {
    0.1
}

fn default_feed_forward() -> String {
    "relu".into()
}

impl T5Config {
    /// Checks what the layers rely on.
    ///
    /// # Errors
    /// [`Error::Config`] names the field.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_layers", self.num_layers),
        ];
        let inner = self.num_heads.saturating_mul(self.d_kv);
        check_sizes(path, &sizes, ("d_kv", inner), ("num_heads", self.num_heads))?;
        check_rate(path, "dropout_rate", self.dropout_rate)?;
        // Half of the buckets go each way, and half of those to single distances.
        let buckets = self.relative_attention_num_buckets;
        if buckets < 4 || !buckets.is_multiple_of(2) || buckets > 1 << 16 {
            let reason = format!("{buckets} is not an even number of at least 4");
            return Err(Error::config(
                path,
                "relative_attention_num_buckets",
                reason,
            ));
        }
        if self.relative_attention_max_distance <= buckets / 4 {
            let reason = format!(
                "{} must be more than a quarter of relative_attention_num_buckets = {buckets}",
                self.relative_attention_max_distance
            );
            return Err(Error::config(
                path,
                "relative_attention_max_distance",
                reason,
            ));
        }
        self.feed_forward()
            .map(|_| ())
            .map_err(|reason| Error::config(path, "feed_forward_proj", reason))
    }

    /// The feed-forward activation, and whether it gates a second projection.
    fn feed_forward(&self) -> std::result::Result<(Activation, bool), String> {
        let name = self.feed_forward_proj.as_str();
        let (name, gated) = match name.strip_prefix("gated-") {
            // Upstream keeps this reading for the checkpoints of T5 1.1.
            Some("gelu") => ("gelu_new", true),
            Some(name) => (name, true),
            None => (name, false),
        };
        match Activation::from_name(name) {
            Some(activation) => Ok((activation, gated)),
            None => Err(format!(
                "`{}` is not supported; supported: {}, each also after `gated-`",
                self.feed_forward_proj,
                Activation::NAMES.join(", ")
            )),
        }
    }

    /// Makes the encoder.
    ///
    /// # Errors
    /// [`Error::Argument`] where `feed_forward_proj` is unknown.
    pub fn init(&self, device: &Device) -> Result<T5Encoder> {
        let (activation, gated) = self
            .feed_forward()
            .map_err(|reason| Error::argument("feed_forward_proj", reason))?;
        let inner = self.num_heads * self.d_kv;
        // Deviations as upstream initialises its layers, with a factor of 1.
        let linear = |from: usize, to: usize, variance: usize| {
            let initializer = Initializer::Normal {
                mean: 0.0,
                std: (variance as f64).powf(-0.5),
            };
            LinearConfig::new(from, to)
                .with_bias(false)
                .with_initializer(initializer)
                .init(device)
        };
        let d = self.d_model;
        let wide = || linear(d, self.d_ff, d);
        let norm = || RmsNormConfig::new(d, self.layer_norm_epsilon).init(device);
        let dropout = || DropoutConfig::new(self.dropout_rate).init();
        let buckets = self.relative_attention_num_buckets;
        let block = |i| T5Block {
            attention_layer: T5AttentionLayer {
                self_attention: T5Attention {
                    q: linear(d, inner, d * self.d_kv),
                    k: linear(d, inner, d),
                    v: linear(d, inner, d),
                    o: linear(inner, d, inner),
                    relative_attention_bias: (i == 0)
                        .then(|| EmbeddingConfig::new(buckets, self.num_heads).init(device)),
                    dropout: dropout(),
                    heads: self.num_heads,
                },
                layer_norm: norm(),
                dropout: dropout(),
            },
            feed_forward_layer: T5FeedForwardLayer {
                dense: T5FeedForward {
                    wi: (!gated).then(wide),
                    wi_0: gated.then(wide),
                    wi_1: gated.then(wide),
                    wo: linear(self.d_ff, d, self.d_ff),
                    dropout: dropout(),
                    activation,
                },
                layer_norm: norm(),
                dropout: dropout(),
            },
        };
        Ok(T5Encoder {
            shared: EmbeddingConfig::new(self.vocab_size, d).init(device),
            encoder: T5Stack {
                block: (0..self.num_layers).map(block).collect(),
                final_layer_norm: norm(),
                dropout: dropout(),
            },
            max_distance: self.relative_attention_max_distance,
        })
    }
}

/// T5's word table and encoder.
#[derive(Module, Debug)]
pub struct T5Encoder {
    /// `[vocab_size, d_model]`; upstream's decoder shares it.
    pub shared: Embedding,
    /// The stack of blocks.
    pub encoder: T5Stack,
    /// Distance from which on all share the last bucket.
    pub max_distance: usize,
}

/// The stack of blocks with the norm after it.
#[derive(Module, Debug)]
pub struct T5Stack {
    /// In order from the embeddings up.
    pub block: Vec<T5Block>,
    /// Over the last block's output.
    pub final_layer_norm: RmsNorm,
    /// On embeddings and the final output, in training.
    pub dropout: Dropout,
}

/// Self-attention and feed-forward.
#[derive(Module, Debug)]
pub struct T5Block {
    /// `layer.0` upstream.
    pub attention_layer: T5AttentionLayer,
    /// `layer.1` upstream.
    pub feed_forward_layer: T5FeedForwardLayer,
}

/// Norm, self-attention, residual connection.
#[derive(Module, Debug)]
pub struct T5AttentionLayer {
    /// `SelfAttention` upstream.
    pub self_attention: T5Attention,
    /// Before the attention.
    pub layer_norm: RmsNorm,
    /// On the attention's output, in training.
    pub dropout: Dropout,
}

/// Multi-head self-attention without biases and without scaling.
#[derive(Module, Debug)]
pub struct T5Attention {
    /// `[heads · d_kv, d_model]`.
    pub q: Linear,
    /// `[heads · d_kv, d_model]`.
    pub k: Linear,
    /// `[heads · d_kv, d_model]`.
    pub v: Linear,
    /// `[d_model, heads · d_kv]`.
    pub o: Linear,
    /// `[buckets, heads]`, in the first block alone.
    pub relative_attention_bias: Option<Embedding>,
    /// On attention weights, in training.
    pub dropout: Dropout,
    /// Number of heads.
    pub heads: usize,
}

/// Norm, feed-forward network, residual connection.
#[derive(Module, Debug)]
pub struct T5FeedForwardLayer {
    /// `DenseReluDense` upstream.
    pub dense: T5FeedForward,
    /// Before the network.
    pub layer_norm: RmsNorm,
    /// On its output, in training.
    pub dropout: Dropout,
}

/// `wo(act(wi x))`, or `wo(act(wi_0 x) · wi_1 x)` where it is gated (Shazeer 2020,
/// <https://arxiv.org/abs/2002.05202>).
#[derive(Module, Debug)]
pub struct T5FeedForward {
    /// `[d_ff, d_model]`, where not gated.
    pub wi: Option<Linear>,
    /// `[d_ff, d_model]`, activated, where gated.
    pub wi_0: Option<Linear>,
    /// `[d_ff, d_model]`, where gated.
    pub wi_1: Option<Linear>,
    /// `[d_model, d_ff]`.
    pub wo: Linear,
    /// Before `wo`, in training.
    pub dropout: Dropout,
    /// Of `wi` or `wi_0`.
    #[module(skip)]
    pub activation: Activation,
}

/// Bucket of a relative position `key − query` (`_relative_position_bucket` upstream, both
/// directions): near distances have one each, far ones share on a logarithmic scale up to
/// `max_distance`.
///
/// The logarithm is taken in f32 as upstream does, so that distances at a bucket's edge fall on
/// the same side.
fn relative_position_bucket(relative: i64, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let exact = half / 2;
    let distance = relative.unsigned_abs() as usize;
    let bucket = if distance < exact {
        distance
    } else {
        let ratio = (distance as f32 / exact as f32).ln();
        let span = (max_distance as f64 / exact as f64).ln() as f32;
        let far = exact + (ratio / span * (half - exact) as f32) as usize;
        far.min(half - 1)
    };
    if relative > 0 { half + bucket } else { bucket }
}

impl T5FeedForward {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let first = self.wi.as_ref().or(self.wi_0.as_ref());
        let first = first.expect("T5Config::init makes either wi or wi_0");
        let wide = first.forward_activated(x.clone(), self.activation);
        let wide = match &self.wi_1 {
            Some(linear) => wide * linear.forward(x),
            None => wide,
        };
        self.wo.forward(kernels::dropout(wide, &self.dropout))
    }
}

impl T5Block {
    /// Sums of blocks are in f32: they grow from block to block, beyond what f16 has.
    fn forward(&self, x: Tensor<3>, bias: &AttentionBias) -> Tensor<3> {
        let layer = &self.attention_layer;
        let attention = &layer.self_attention;
        let normed = layer.layer_norm.forward(x.clone());
        let context = kernels::attention(
            attention.q.forward(normed.clone()),
            attention.k.forward(normed.clone()),
            attention.v.forward(normed),
            bias,
            attention.heads,
            1.0,
            &attention.dropout,
        );
        let context = attention.o.forward(context);
        let x = x + to_f32(kernels::dropout(context, &layer.dropout));
        let layer = &self.feed_forward_layer;
        let wide = layer.dense.forward(layer.layer_norm.forward(x.clone()));
        x + to_f32(kernels::dropout(wide, &layer.dropout))
    }
}

impl T5Encoder {
    /// [`crate::TextBackbone::cast`].
    pub(crate) fn cast(self, precision: Precision) -> Self {
        let block = self.encoder.block.iter();
        let outputs: Vec<Linear> = block
            .map(|block| block.feed_forward_layer.dense.wo.clone())
            .collect();
        let mut cast = precision.cast(self);
        if precision == Precision::F16 {
            for (block, wo) in cast.encoder.block.iter_mut().zip(outputs) {
                block.feed_forward_layer.dense.wo = wo;
            }
        }
        cast
    }

    /// Padding and relative positions, for every block.
    fn attention_bias(&self, batch: &TokenBatch) -> AttentionBias {
        let [_, seq] = batch.dims();
        let table = self
            .encoder
            .block
            .first()
            .and_then(|block| {
                let attention = &block.attention_layer.self_attention;
                attention.relative_attention_bias.as_ref()
            })
            .map(|table| table.weight.val());
        let position = table.map(|table| {
            let [buckets, heads] = table.dims();
            // One row a relative position, then one matrix a head.
            let of = |relative| relative_position_bucket(relative, buckets, self.max_distance);
            let seq_i = seq as i64;
            let indices: Vec<i64> = (0..seq_i)
                .flat_map(|query| (0..seq_i).map(move |key| key - query))
                .map(|relative| of(relative) as i64)
                .collect();
            let data = TensorData::new(indices, [seq * seq]);
            let indices = Tensor::<1, Int>::from_data(data, &table.device());
            table
                .select(0, indices)
                .swap_dims(0, 1)
                .reshape([heads, seq, seq])
        });
        AttentionBias {
            key: batch.key_bias.clone(),
            position,
            lengths: None,
        }
    }

    fn embed(&self, batch: &TokenBatch) -> Tensor<3> {
        let words = to_f32(self.shared.forward(batch.input_ids.clone()));
        kernels::dropout(words, &self.encoder.dropout)
    }

    /// The embeddings, the output of every block but the last, and the normalised final output,
    /// each `[batch, seq, d_model]`, as upstream's `hidden_states`.
    pub fn hidden_states(&self, batch: &TokenBatch) -> Vec<Tensor<3>> {
        let bias = self.attention_bias(batch);
        let mut states = vec![self.embed(batch)];
        for (i, block) in self.encoder.block.iter().enumerate() {
            states.push(block.forward(states[i].clone(), &bias));
        }
        if let Some(last) = states.pop() {
            states.push(self.finish(last));
        }
        states
    }

    fn finish(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.encoder.final_layer_norm.forward(x);
        kernels::dropout(x, &self.encoder.dropout)
    }

    /// How the parameter paths map to upstream key names.
    pub fn names() -> Names {
        let mut names = Names::with_renames([
            ("attention_layer", "layer.0"),
            ("feed_forward_layer", "layer.1"),
            ("self_attention", "SelfAttention"),
            ("dense", "DenseReluDense"),
        ]);
        names.aliases = vec![("shared.weight".into(), "encoder.embed_tokens.weight".into())];
        names.ignored = ["encoder.embed_tokens.weight", "decoder.*", "lm_head.*"]
            .map(String::from)
            .to_vec();
        names
    }
}

impl LinearLayers for T5Block {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()> {
        let attention = &mut self.attention_layer.self_attention;
        f(&mut attention.q)?;
        f(&mut attention.k)?;
        f(&mut attention.v)?;
        f(&mut attention.o)?;
        let dense = &mut self.feed_forward_layer.dense;
        let wide = [&mut dense.wi, &mut dense.wi_0, &mut dense.wi_1];
        wide.into_iter().flatten().try_for_each(&mut *f)?;
        f(&mut dense.wo)
    }
}

impl LinearLayers for T5Encoder {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()> {
        self.encoder.block.each_linear(f)
    }
}

impl Backbone for T5Encoder {
    type Batch = TokenBatch;
    type Features = Tensor<3>;

    fn hidden_size(&self) -> usize {
        self.shared.weight.lazy_shape()[1]
    }

    fn forward(&self, batch: &TokenBatch) -> Tensor<3> {
        let x = self.embed(batch);
        let lengths = batch.lengths.as_ref();
        kernels::without_padding(x, lengths, self.attention_bias(batch), |x, bias| {
            let blocks = self.encoder.block.iter();
            self.finish(blocks.fold(x, |x, block| block.forward(x, bias)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every distance falls into the bucket that upstream puts it into, edges included.
    #[test]
    fn buckets_are_upstreams() {
        #[derive(Deserialize)]
        struct Case {
            buckets: usize,
            max_distance: usize,
            runs: Vec<(usize, usize)>,
        }
        #[derive(Deserialize)]
        struct Reference {
            first_distance: i64,
            cases: Vec<Case>,
        }
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text/t5-buckets.json");
        let reference: Reference =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for case in reference.cases {
            let mut distance = reference.first_distance;
            for (bucket, length) in case.runs {
                for _ in 0..length {
                    let found = relative_position_bucket(distance, case.buckets, case.max_distance);
                    assert_eq!(
                        found, bucket,
                        "distance {distance} of {} buckets up to {}",
                        case.buckets, case.max_distance
                    );
                    distance += 1;
                }
            }
        }
    }
}
