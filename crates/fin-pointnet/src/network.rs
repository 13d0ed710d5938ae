//! Backbone, choice of output and projection as one module.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use fin_core::kernels;
use fin_core::nn::Linear;
use fin_core::{Backbone, EmbeddingNetwork, Precision, l2_normalize, to_f32};

use crate::architecture::PointBackbone;
use crate::output::PointOutput;

/// Points in, one vector a cloud out.
#[derive(Module, Debug)]
pub struct PointNetwork {
    /// PointNet++ up to the classifier's first stage.
    pub backbone: PointBackbone,
    /// `[out, features]`.
    pub projection: Option<Linear>,
    /// Which of the backbone's vectors is taken.
    #[module(skip)]
    pub output: PointOutput,
    /// Whether the first stage is rectified.
    pub relu: bool,
    /// Whether embeddings are scaled to unit length.
    pub normalize: bool,
}

impl PointNetwork {
    /// What the backbone gives, `[batch, features]`, of points `[batch, points, 3]`, or 6 with
    /// normals.
    pub fn features(&self, points: &Tensor<3>) -> Tensor<2> {
        let global = kernels::on_pool(&points.device(), || self.backbone.global(points));
        match self.output {
            PointOutput::Global => to_f32(global),
            PointOutput::Embedding => {
                let stage = to_f32(self.backbone.first_stage(global));
                if self.relu { relu(stage) } else { stage }
            }
        }
    }

    /// Components of [`PointNetwork::features`].
    pub fn feature_size(&self) -> usize {
        match self.output {
            PointOutput::Embedding => self.backbone.embedding_size(),
            PointOutput::Global => self.backbone.hidden_size(),
        }
    }

    /// [`EmbeddingNetwork::embed`] without the scaling to unit length.
    pub fn embed_unnormalized(&self, batch: &PointBatch) -> Tensor<2> {
        let features = match batch {
            PointBatch::Points(points) => self.features(points),
            PointBatch::Features(features) => features.clone(),
        };
        match &self.projection {
            Some(projection) => projection.forward(features),
            None => features,
        }
    }

    /// The same function at inference, in its fastest form: [`PointBackbone::compile`].
    pub fn compile(&self) -> Self {
        self.compile_in(Precision::F32)
    }

    /// [`PointNetwork::compile`] with the backbone in half precision, where that is asked for.
    pub fn compile_in(&self, precision: Precision) -> Self {
        Self {
            backbone: precision.cast(self.backbone.compile()),
            projection: self.projection.clone(),
            ..*self
        }
    }
}

/// What the network takes.
#[derive(Debug, Clone)]
pub enum PointBatch {
    /// `[batch, points, 3]`, or 6 with normals.
    Points(Tensor<3>),
    /// What [`PointNetwork::features`] gave before, `[batch, features]`.
    Features(Tensor<2>),
}

impl EmbeddingNetwork for PointNetwork {
    type Batch = PointBatch;

    fn output_dim(&self) -> usize {
        match &self.projection {
            Some(projection) => projection.out_features(),
            None => self.feature_size(),
        }
    }

    fn embed(&self, batch: &PointBatch) -> Tensor<2> {
        let x = self.embed_unnormalized(batch);
        if self.normalize { l2_normalize(x) } else { x }
    }
}
