//! Backbone, pooling and projection as one module.

use burn::module::Module;
use burn::nn::Dropout;
use burn::tensor::Tensor;
use fin_core::kernels;
use fin_core::nn::Linear;
use fin_core::{Backbone, EmbeddingNetwork, MapPooling, Precision, l2_normalize, to_f32};

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
    /// The pooled features of the backbone, `[batch, features]`.
    pub fn features(&self, pixels: &Tensor<4>) -> Tensor<2> {
        kernels::on_pool(&pixels.device(), || {
            self.pooling.forward(to_f32(self.backbone.forward(pixels)))
        })
    }

    /// [`EmbeddingNetwork::embed`] without the scaling to unit length.
    pub fn embed_unnormalized(&self, batch: &ImageBatch) -> Tensor<2> {
        let pooled = match batch {
            ImageBatch::Pixels(pixels) => self.features(pixels),
            ImageBatch::Features(features) => features.clone(),
        };
        match &self.projection {
            Some(projection) => projection.forward(self.dropout.forward(pooled)),
            None => pooled,
        }
    }

    /// The same function at inference, without batch normalisations:
    /// [`CnnBackbone::compile`].
    pub fn fold(&self) -> Self {
        self.fold_in(Precision::F32)
    }

    /// [`CnnNetwork::fold`] with the backbone in half precision, where that is asked for.
    pub fn fold_in(&self, precision: Precision) -> Self {
        Self {
            backbone: precision.cast(self.backbone.compile()),
            dropout: self.dropout.clone(),
            projection: self.projection.clone(),
            ..*self
        }
    }
}

/// What the network takes.
#[derive(Debug, Clone)]
pub enum ImageBatch {
    /// `[batch, 3, height, width]`, normalised as the model asks for.
    Pixels(Tensor<4>),
    /// What [`CnnNetwork::features`] gave before, `[batch, features]`.
    Features(Tensor<2>),
}

impl EmbeddingNetwork for CnnNetwork {
    type Batch = ImageBatch;

    fn output_dim(&self) -> usize {
        match &self.projection {
            Some(projection) => projection.out_features(),
            None => self.backbone.hidden_size(),
        }
    }

    fn embed(&self, batch: &ImageBatch) -> Tensor<2> {
        let x = self.embed_unnormalized(batch);
        if self.normalize { l2_normalize(x) } else { x }
    }
}
