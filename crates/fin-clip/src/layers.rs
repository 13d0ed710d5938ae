//! The layers of both towers, named as in `transformers`' `models/clip/modeling_clip.py`.

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Initializer};
use burn::tensor::{Device, Tensor};
use fin_core::Result;
use fin_core::kernels::{self, Activation, AttentionBias};
use fin_core::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, LinearLayers};

use crate::config::EncoderConfig;

/// The stack of layers.
#[derive(Module, Debug)]
pub struct Encoder {
    /// In order from the embeddings up.
    pub layers: Vec<EncoderLayer>,
}

/// Self-attention and feed-forward, each with a layer norm before it and a residual connection
/// around both.
#[derive(Module, Debug)]
pub struct EncoderLayer {
    /// Self-attention with its output projection.
    pub self_attn: Attention,
    /// Before the attention.
    pub layer_norm1: LayerNorm,
    /// The feed-forward network.
    pub mlp: Mlp,
    /// Before the feed-forward network.
    pub layer_norm2: LayerNorm,
}

/// Multi-head self-attention with its output projection. open_clip has the first three maps in one
/// (`in_proj`).
#[derive(Module, Debug)]
pub struct Attention {
    /// `[hidden, hidden]`.
    pub q_proj: Linear,
    /// `[hidden, hidden]`.
    pub k_proj: Linear,
    /// `[hidden, hidden]`.
    pub v_proj: Linear,
    /// `[hidden, hidden]`.
    pub out_proj: Linear,
    /// On attention weights, in training.
    pub dropout: Dropout,
    /// Number of heads.
    pub heads: usize,
}

/// Two linear maps with the activation between them.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[intermediate, hidden]`.
    pub fc1: Linear,
    /// `[hidden, intermediate]`.
    pub fc2: Linear,
    /// Between the two.
    #[module(skip)]
    pub activation: Activation,
}

impl EncoderConfig {
    /// Makes the stack of layers, initialised as CLIP does it (`CLIP.initialize_parameters`).
    pub(crate) fn init(&self, device: &Device) -> Encoder {
        let hidden = self.hidden_size;
        let attention_std = (hidden as f64).powf(-0.5);
        let projection_std = attention_std * (2.0 * self.layers as f64).powf(-0.5);
        let linear = |from, to, std| {
            let initializer = Initializer::Normal { mean: 0.0, std };
            LinearConfig::new(from, to)
                .with_initializer(initializer)
                .init(device)
        };
        let norm = || LayerNormConfig::new(hidden, self.layer_norm_eps).init(device);
        let layer = || EncoderLayer {
            self_attn: Attention {
                q_proj: linear(hidden, hidden, attention_std),
                k_proj: linear(hidden, hidden, attention_std),
                v_proj: linear(hidden, hidden, attention_std),
                out_proj: linear(hidden, hidden, projection_std),
                dropout: DropoutConfig::new(self.attention_dropout).init(),
                heads: self.heads,
            },
            layer_norm1: norm(),
            mlp: Mlp {
                fc1: linear(
                    hidden,
                    self.intermediate_size,
                    (2.0 * hidden as f64).powf(-0.5),
                ),
                fc2: linear(self.intermediate_size, hidden, projection_std),
                activation: self.activation,
            },
            layer_norm2: norm(),
        };
        Encoder {
            layers: (0..self.layers).map(|_| layer()).collect(),
        }
    }
}

impl Attention {
    fn forward(&self, x: Tensor<3>, bias: &AttentionBias) -> Tensor<3> {
        let head_dim = x.dims()[2] / self.heads;
        let context = kernels::attention(
            self.q_proj.forward(x.clone()),
            self.k_proj.forward(x.clone()),
            self.v_proj.forward(x),
            bias,
            self.heads,
            kernels::scaled(head_dim),
            &self.dropout,
        );
        self.out_proj.forward(context)
    }
}

impl EncoderLayer {
    fn forward(&self, x: Tensor<3>, bias: &AttentionBias) -> Tensor<3> {
        let x = x.clone() + self.self_attn.forward(self.layer_norm1.forward(x), bias);
        let wide = self
            .mlp
            .fc1
            .forward_activated(self.layer_norm2.forward(x.clone()), self.mlp.activation);
        x + self.mlp.fc2.forward(wide)
    }
}

impl LinearLayers for EncoderLayer {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()> {
        let attention = &mut self.self_attn;
        f(&mut attention.q_proj)?;
        f(&mut attention.k_proj)?;
        f(&mut attention.v_proj)?;
        f(&mut attention.out_proj)?;
        f(&mut self.mlp.fc1)?;
        f(&mut self.mlp.fc2)
    }
}

impl Encoder {
    /// `[batch, seq, hidden]` → the same shape.
    pub fn forward(&self, x: Tensor<3>, bias: &AttentionBias) -> Tensor<3> {
        self.layers
            .iter()
            .fold(x, |x, layer| layer.forward(x, bias))
    }

    /// The input and the output of every layer.
    pub fn hidden_states(&self, x: Tensor<3>, bias: &AttentionBias) -> Vec<Tensor<3>> {
        let mut states = vec![x];
        for (i, layer) in self.layers.iter().enumerate() {
            states.push(layer.forward(states[i].clone(), bias));
        }
        states
    }
}
