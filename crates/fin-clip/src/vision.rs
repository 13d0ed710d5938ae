//! CLIP's image tower (Radford et al. 2021, <https://arxiv.org/abs/2103.00020>): a Vision
//! Transformer (Dosovitskiy et al. 2020, <https://arxiv.org/abs/2010.11929>) with a layer norm
//! before the first layer, as `CLIPVisionModel` of `transformers` and `VisionTransformer` of
//! open_clip.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use fin_core::kernels::{self, Activation, AttentionBias};
use fin_core::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use fin_core::to_f32;

use crate::config::VisionConfig;
use crate::layers::Encoder;

/// Pixels to a vector in the space of embeddings.
#[derive(Module, Debug)]
pub struct VisionTower {
    /// Patches, class token and positions.
    pub embeddings: VisionEmbeddings,
    /// Before the layers. The spelling is `transformers`'.
    pub pre_layrnorm: LayerNorm,
    /// The layers.
    pub encoder: Encoder,
    /// After the layers, over the class token.
    pub post_layernorm: LayerNorm,
    /// `[projection_dim, hidden]`, without a bias.
    pub projection: Linear,
}

/// Patches as vectors behind the class token, with their positions added.
#[derive(Module, Debug)]
pub struct VisionEmbeddings {
    /// `[hidden]`.
    pub class_embedding: Param<Tensor<1>>,
    /// A convolution whose stride is its size.
    pub patch_embedding: PatchEmbedding,
    /// `[patches + 1, hidden]`.
    pub position_embedding: Embedding,
}

/// A linear map of the pixels of a patch.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// `[hidden, 3, patch, patch]`.
    pub weight: Param<Tensor<4>>,
}

impl VisionConfig {
    /// Makes the network.
    pub fn init(&self, projection_dim: usize, device: &Device) -> VisionTower {
        let hidden = self.encoder.hidden_size;
        let normal = |std| Initializer::Normal { mean: 0.0, std };
        let scale = (hidden as f64).powf(-0.5);
        let norm = || LayerNormConfig::new(hidden, self.encoder.layer_norm_eps).init(device);
        let patch = self.patch_size;
        VisionTower {
            embeddings: VisionEmbeddings {
                class_embedding: normal(scale).init([hidden], device),
                patch_embedding: PatchEmbedding {
                    weight: normal(0.02).init([hidden, 3, patch, patch], device),
                },
                position_embedding: EmbeddingConfig::new(self.tokens(), hidden).init(device),
            },
            pre_layrnorm: norm(),
            encoder: self.encoder.init(device),
            post_layernorm: norm(),
            projection: LinearConfig::new(hidden, projection_dim)
                .with_bias(false)
                .with_initializer(normal(scale))
                .init(device),
        }
    }
}

impl PatchEmbedding {
    /// `[batch, 3, height, width]` → `[batch, patches, hidden]`, row by row.
    pub fn forward(&self, pixels: &Tensor<4>) -> Tensor<3> {
        let weight = self.weight.val();
        let [hidden, channels, patch, _] = weight.dims();
        let [batch, _, height, width] = pixels.dims();
        let (rows, columns) = (height / patch, width / patch);
        // What a convolution leaves out at the end.
        let pixels = pixels
            .clone()
            .narrow(2, 0, rows * patch)
            .narrow(3, 0, columns * patch);
        let patches = pixels
            .reshape([batch, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, rows * columns, channels * patch * patch]);
        let weight = weight.reshape([hidden, channels * patch * patch]);
        kernels::linear(patches, weight, None, Activation::Identity)
    }
}

impl VisionTower {
    fn embed(&self, pixels: &Tensor<4>) -> Tensor<3> {
        let patches = self.embeddings.patch_embedding.forward(pixels);
        let [batch, _, hidden] = patches.dims();
        let class = self.embeddings.class_embedding.val();
        let class = class.reshape([1, 1, hidden]).expand([batch, 1, hidden]);
        let tokens = Tensor::cat(vec![class, patches], 1);
        let positions = self.embeddings.position_embedding.weight.val();
        let positions = positions.unsqueeze::<3>().expand(tokens.dims());
        self.pre_layrnorm.forward_residual(tokens, positions)
    }

    fn bias(x: &Tensor<3>) -> AttentionBias {
        let [batch, seq, _] = x.dims();
        AttentionBias {
            key: Tensor::zeros([batch, seq], &x.device()),
            position: None,
            lengths: None,
        }
    }

    /// The normed embeddings and the output of every layer, each `[batch, tokens, hidden]`.
    pub fn hidden_states(&self, pixels: &Tensor<4>) -> Vec<Tensor<3>> {
        let x = self.embed(pixels);
        let bias = Self::bias(&x);
        self.encoder.hidden_states(x, &bias)
    }

    /// The normed vector of the class token, `[batch, hidden]`: `pooler_output` of `transformers`.
    pub fn pooled(&self, pixels: &Tensor<4>) -> Tensor<2> {
        let x = self.embed(pixels);
        let bias = Self::bias(&x);
        let x = self.encoder.forward(x, &bias);
        let [batch, _, hidden] = x.dims();
        let class = x.narrow(1, 0, 1).reshape([batch, hidden]);
        self.post_layernorm.forward(class)
    }

    /// `[batch, 3, height, width]` → `[batch, projection_dim]`, not scaled to unit length.
    pub fn forward(&self, pixels: &Tensor<4>) -> Tensor<2> {
        to_f32(self.projection.forward(self.pooled(pixels)))
    }

    /// Length of an embedding.
    pub fn output_dim(&self) -> usize {
        self.projection.out_features()
    }
}
