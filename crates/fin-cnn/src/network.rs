//! Backbone, pooling and projection as one module.

use burn::module::Module;
use burn::nn::Dropout;
use burn::tensor::Tensor;
use fin_core::nn::Linear;
use fin_core::{Backbone, EmbeddingNetwork, MapPooling, l2_normalize};

use crate::architecture::CnnBackbone;

/// Pixels in, one vector an image out.
#[derive(Module, Debug)]
pub struct CnnNetwork {
    /// Convolutional network without its classifier.
    pub backbone: CnnBackbone,
    /// Before the projection, which takes the classifier's place; in training alone.
    pub dropout: Dropout,
    /// `[out, features]`.
    pub projection: Option<Linear>,
    /// From the last feature map to a vector.
    #[module(skip)]
    pub pooling: MapPooling,
    /// Whether embeddings are scaled to unit length.
    pub normalize: bool,
}

impl CnnNetwork {
    /// [`EmbeddingNetwork::embed`] without the scaling to unit length.
    pub fn embed_unnormalized(&self, pixels: &Tensor<4>) -> Tensor<2> {
        let pooled = self.pooling.forward(self.backbone.forward(pixels));
        match &self.projection {
            Some(projection) => projection.forward(self.dropout.forward(pooled)),
            None => pooled,
        }
    }

    /// The same function at inference, without batch normalisations.
    pub fn fold(&self) -> Self {
        Self {
            backbone: self.backbone.fold(),
            ..self.clone()
        }
    }
}

impl EmbeddingNetwork for CnnNetwork {
    /// `[batch, 3, height, width]`, normalised as the model asks for.
    type Batch = Tensor<4>;

    fn output_dim(&self) -> usize {
        match &self.projection {
            Some(projection) => projection.out_features(),
            None => self.backbone.hidden_size(),
        }
    }

    fn embed(&self, pixels: &Tensor<4>) -> Tensor<2> {
        let x = self.embed_unnormalized(pixels);
        if self.normalize { l2_normalize(x) } else { x }
    }
}
