//! Backbone, pooling and heads as one module.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use fin_core::kernels::{self, Activation};
use fin_core::nn::{Linear, LinearConfig, LinearLayers};
use fin_core::weights::{self, Names};
use fin_core::{Backbone, EmbeddingNetwork, Pooling, Precision, Result, l2_normalize, to_f32};

use crate::batch::TokenBatch;
use crate::bert::{Bert, BertPooler};
use crate::distilbert::DistilBert;
use crate::t5::T5Encoder;
use crate::xlm_roberta;

/// One of the architectures.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum TextBackbone {
    /// BERT.
    Bert(Bert),
    /// DistilBERT.
    DistilBert(DistilBert),
    /// XLM-RoBERTa: BERT's layers with positions of its own.
    XlmRoberta(Bert),
    /// T5's encoder.
    T5(T5Encoder),
}

impl LinearLayers for TextBackbone {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()> {
        match self {
            Self::Bert(model) | Self::XlmRoberta(model) => model.each_linear(f),
            Self::DistilBert(model) => model.each_linear(f),
            Self::T5(model) => model.each_linear(f),
        }
    }
}

impl TextBackbone {
    /// In half precision, where that is asked for. T5's second map of the feed-forward network stays in f32 for f16,
    /// whose range its output leaves: what `transformers` keeps in f32 there too.
    pub fn cast(self, precision: Precision) -> Self {
        match self {
            Self::T5(model) => Self::T5(model.cast(precision)),
            other => precision.cast(other),
        }
    }

    /// The output of the embeddings and of every layer, each `[batch, seq, hidden]`.
    pub fn hidden_states(&self, batch: &TokenBatch) -> Vec<Tensor<3>> {
        match self {
            Self::Bert(model) => model.hidden_states(batch),
            Self::DistilBert(model) => model.hidden_states(batch),
            Self::XlmRoberta(model) => model.hidden_states(batch),
            Self::T5(model) => model.hidden_states(batch),
        }
    }

    /// Takes the pooler out, where the checkpoint had one.
    pub(crate) fn take_pooler(&mut self) -> Option<BertPooler> {
        match self {
            Self::Bert(model) | Self::XlmRoberta(model) => model.pooler.take(),
            Self::DistilBert(_) | Self::T5(_) => None,
        }
    }

    /// How the parameter paths of the model within map to upstream key names.
    pub fn names(&self) -> Names {
        match self {
            Self::Bert(_) => Bert::names(),
            Self::DistilBert(_) => DistilBert::names(),
            Self::XlmRoberta(_) => xlm_roberta::names(),
            Self::T5(_) => T5Encoder::names(),
        }
    }

    /// What stands in parameter paths before those of the model within.
    pub(crate) fn variant(&self) -> &'static str {
        match self {
            Self::Bert(_) => "Bert",
            Self::DistilBert(_) => "DistilBert",
            Self::XlmRoberta(_) => "XlmRoberta",
            Self::T5(_) => "T5",
        }
    }

    /// The parameters under upstream's key names.
    pub(crate) fn state_dict(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let names = self.names();
        match self {
            Self::Bert(model) | Self::XlmRoberta(model) => weights::state_dict(model, &names),
            Self::DistilBert(model) => weights::state_dict(model, &names),
            Self::T5(model) => weights::state_dict(model, &names),
        }
    }
}

impl Backbone for TextBackbone {
    type Batch = TokenBatch;
    type Features = Tensor<3>;

    fn hidden_size(&self) -> usize {
        match self {
            Self::Bert(model) => model.hidden_size(),
            Self::DistilBert(model) => model.hidden_size(),
            Self::XlmRoberta(model) => model.hidden_size(),
            Self::T5(model) => model.hidden_size(),
        }
    }

    fn forward(&self, batch: &TokenBatch) -> Tensor<3> {
        match self {
            Self::Bert(model) => model.forward(batch),
            Self::DistilBert(model) => model.forward(batch),
            Self::XlmRoberta(model) => model.forward(batch),
            Self::T5(model) => model.forward(batch),
        }
    }
}

/// Dense head after pooling, `activation(x·Wᵀ + b)`, as sentence-transformers' `Dense`.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[out, in]`.
    pub linear: Linear,
    /// After it.
    #[module(skip)]
    pub activation: Activation,
}

impl Dense {
    /// A new projection head without activation.
    pub fn projection(in_features: usize, out_features: usize, device: &Device) -> Self {
        Self {
            linear: LinearConfig::new(in_features, out_features).init(device),
            activation: Activation::Identity,
        }
    }

    /// `[batch, in]` → `[batch, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.linear.forward_activated(x, self.activation)
    }
}

/// Token ids in, one vector a text out.
#[derive(Module, Debug)]
pub struct TextNetwork {
    /// Transformer encoder.
    pub backbone: TextBackbone,
    /// Dense heads in order; usually none.
    pub dense: Vec<Dense>,
    /// Poolings; the vectors of several are concatenated.
    #[module(skip)]
    pub pooling: Vec<Pooling>,
    /// Whether embeddings are scaled to unit length.
    pub normalize: bool,
}

impl TextNetwork {
    /// [`EmbeddingNetwork::embed`] without the scaling to unit length.
    pub fn embed_unnormalized(&self, batch: &TokenBatch) -> Tensor<2> {
        kernels::on_pool(&batch.mask.device(), || {
            let hidden = to_f32(self.backbone.forward(batch));
            let pooled = self
                .pooling
                .iter()
                .map(|pooling| pooling.forward(hidden.clone(), batch.mask.clone()));
            let pooled: Vec<Tensor<2>> = pooled.collect();
            let pooled = Tensor::cat(pooled, 1);
            self.dense.iter().fold(pooled, |x, dense| dense.forward(x))
        })
    }
}

impl EmbeddingNetwork for TextNetwork {
    type Batch = TokenBatch;

    fn output_dim(&self) -> usize {
        match self.dense.last() {
            Some(dense) => dense.linear.out_features(),
            None => self.backbone.hidden_size() * self.pooling.len(),
        }
    }

    fn embed(&self, batch: &TokenBatch) -> Tensor<2> {
        let x = self.embed_unnormalized(batch);
        if self.normalize { l2_normalize(x) } else { x }
    }
}
