//! The text towers: CLIP's own (Radford et al. 2021, section 2.4), a transformer with causal
//! attention whose vector at the end of the text is taken, and XLM-RoBERTa as open_clip has it
//! (`HFTextEncoder` in `open_clip/hf_model.py`), whose token vectors are averaged.

use std::sync::Arc;

use burn::module::{Initializer, Module};
use burn::tensor::{Device, Int, Tensor, TensorData};
use fin_core::kernels::{self, Activation, AttentionBias, MASKED_SCORE};
use fin_core::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use fin_core::{Backbone, Pooling, Result, to_f32};
use fin_transformer::TokenBatch;
use fin_transformer::bert::Bert;

use crate::config::{ClipTextConfig, TextConfig, TextProjection, XlmRobertaTextConfig};
use crate::layers::Encoder;

/// Token ids to a vector in the space of embeddings.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum TextTower {
    /// CLIP's own.
    Clip(ClipTextTower),
    /// XLM-RoBERTa.
    XlmRoberta(XlmRobertaTower),
}

/// Token ids of a batch of texts, padded at the end.
// One a batch, whatever it weighs.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub enum TextInput {
    /// For [`TextTower::Clip`].
    Causal {
        /// `[batch, seq]`.
        ids: Tensor<2, Int>,
        /// `[batch]`: the place whose vector is the text's.
        ends: Tensor<1, Int>,
    },
    /// For [`TextTower::XlmRoberta`].
    Masked(TokenBatch),
}

impl TextConfig {
    /// Makes the network.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where XLM-RoBERTa's activation is unknown.
    pub fn init(&self, projection_dim: usize, device: &Device) -> Result<TextTower> {
        Ok(match self {
            Self::Clip(config) => TextTower::Clip(config.init(projection_dim, device)),
            Self::XlmRoberta(config) => TextTower::XlmRoberta(config.init(projection_dim, device)?),
        })
    }

    /// The ids of a batch on a device, padded with `pad_id`.
    pub fn collate(&self, ids: &[&[u32]], pad_id: u32, device: &Device) -> TextInput {
        match self {
            Self::Clip(config) => {
                let seq = ids.iter().map(|ids| ids.len()).max().unwrap_or(0).max(1);
                let padded = ids.iter().flat_map(|ids| {
                    let padding = std::iter::repeat_n(&pad_id, seq - ids.len());
                    ids.iter().chain(padding).map(|id| i64::from(*id))
                });
                let padded: Vec<i64> = padded.collect();
                let ends = ids.iter().map(|ids| config.pooling.place(ids) as i64);
                let ends: Vec<i64> = ends.collect();
                let shape = [ids.len(), seq];
                TextInput::Causal {
                    ids: Tensor::from_data(TensorData::new(padded, shape), device),
                    ends: Tensor::from_data(TensorData::new(ends, [ids.len()]), device),
                }
            }
            Self::XlmRoberta(_) => {
                let mut batch = TokenBatch::new(ids, pad_id, device);
                if ids.iter().any(|ids| ids.contains(&pad_id)) {
                    // The padding token written out in a text is padding too.
                    batch.mask = batch.ordinals.clone().greater_elem(0).float();
                    batch.lengths = None;
                    batch.key_bias = (batch.mask.clone() - 1.0) * -MASKED_SCORE;
                }
                TextInput::Masked(batch)
            }
        }
    }
}

/// CLIP's text tower.
#[derive(Module, Debug)]
pub struct ClipTextTower {
    /// Token and position tables.
    pub embeddings: TextEmbeddings,
    /// The layers.
    pub encoder: Encoder,
    /// After the layers.
    pub final_layer_norm: LayerNorm,
    /// `[projection_dim, hidden]`, without a bias.
    pub projection: Linear,
}

/// Sum of token and position vectors.
#[derive(Module, Debug)]
pub struct TextEmbeddings {
    /// `[vocab_size, hidden]`.
    pub token_embedding: Embedding,
    /// `[context_length, hidden]`.
    pub position_embedding: Embedding,
}

impl ClipTextConfig {
    /// Makes the network.
    pub fn init(&self, projection_dim: usize, device: &Device) -> ClipTextTower {
        let hidden = self.encoder.hidden_size;
        let projection = LinearConfig::new(hidden, projection_dim)
            .with_bias(false)
            .with_initializer(Initializer::Normal {
                mean: 0.0,
                std: (hidden as f64).powf(-0.5),
            });
        ClipTextTower {
            embeddings: TextEmbeddings {
                token_embedding: EmbeddingConfig::new(self.vocab_size, hidden).init(device),
                position_embedding: EmbeddingConfig::new(self.context_length, hidden).init(device),
            },
            encoder: self.encoder.init(device),
            final_layer_norm: LayerNormConfig::new(hidden, self.encoder.layer_norm_eps)
                .init(device),
            projection: projection.init(device),
        }
    }
}

impl ClipTextTower {
    fn embed(&self, ids: &Tensor<2, Int>) -> Tensor<3> {
        let seq = ids.dims()[1];
        let tokens = self.embeddings.token_embedding.forward(ids.clone());
        let positions = self.embeddings.position_embedding.weight.val();
        tokens + positions.narrow(0, 0, seq).unsqueeze()
    }

    /// Hides from every token what comes after it, padding included.
    fn bias(&self, ids: &Tensor<2, Int>) -> AttentionBias {
        let [batch, seq] = ids.dims();
        let heads = self.encoder.layers.first().map_or(1, |l| l.self_attn.heads);
        let row =
            |query: usize| (0..seq).map(move |key| if key > query { MASKED_SCORE } else { 0.0 });
        let one: Vec<f32> = (0..seq).flat_map(row).collect();
        let device = ids.device();
        let position = TensorData::new(one.repeat(heads), [heads, seq, seq]);
        AttentionBias {
            key: Tensor::zeros([batch, seq], &device),
            position: Some(Tensor::from_data(position, &device)),
            lengths: None,
        }
    }

    /// The embeddings and the output of every layer, each `[batch, seq, hidden]`.
    pub fn hidden_states(&self, ids: &Tensor<2, Int>) -> Vec<Tensor<3>> {
        self.encoder.hidden_states(self.embed(ids), &self.bias(ids))
    }

    /// The normed vector at `ends` `[batch]`, `[batch, hidden]`: `pooler_output` of `transformers`.
    pub fn pooled(&self, ids: &Tensor<2, Int>, ends: &Tensor<1, Int>) -> Tensor<2> {
        let x = self.embed(ids);
        let [batch, _, hidden] = x.dims();
        // No token sees those after it, so that the ones behind the end are of no account.
        let lengths: Option<Arc<[usize]>> = kernels::packs(&x).then(|| {
            let ends = ends.to_data();
            ends.iter::<i64>().map(|end| end as usize + 1).collect()
        });
        let x = kernels::without_padding(x, lengths.as_ref(), self.bias(ids), |x, bias| {
            self.encoder.forward(x, bias)
        });
        let index = ends.clone().reshape([batch, 1, 1]);
        let index = index.expand([batch, 1, hidden]);
        let ends = x.gather(1, index).reshape([batch, hidden]);
        self.final_layer_norm.forward(ends)
    }
}

/// XLM-RoBERTa, the mean of its token vectors, and a projection.
#[derive(Module, Debug)]
pub struct XlmRobertaTower {
    /// Without its pooler.
    pub transformer: Bert,
    /// To the space of embeddings.
    pub proj: TextHead,
}

/// What is after the pooling of a transformer, without biases.
#[derive(Module, Debug)]
pub enum TextHead {
    /// One linear map.
    Linear(Linear),
    /// Two with GELU between them.
    Mlp(MlpHead),
}

/// Two linear maps.
#[derive(Module, Debug)]
pub struct MlpHead {
    /// `[(in + out) / 2, in]`.
    pub first: Linear,
    /// `[out, (in + out) / 2]`.
    pub second: Linear,
}

impl XlmRobertaTextConfig {
    /// Makes the network.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where its activation is unknown.
    pub fn init(&self, projection_dim: usize, device: &Device) -> Result<XlmRobertaTower> {
        let hidden = self.transformer.bert.hidden_size;
        let linear = |from, to| LinearConfig::new(from, to).with_bias(false).init(device);
        let proj = match self.projection {
            TextProjection::Linear => TextHead::Linear(linear(hidden, projection_dim)),
            TextProjection::Mlp => {
                let between = (hidden + projection_dim) / 2;
                TextHead::Mlp(MlpHead {
                    first: linear(hidden, between),
                    second: linear(between, projection_dim),
                })
            }
        };
        Ok(XlmRobertaTower {
            transformer: self.transformer.init(false, device)?,
            proj,
        })
    }
}

impl XlmRobertaTower {
    /// The mean of the token vectors, `[batch, hidden]`.
    pub fn pooled(&self, batch: &TokenBatch) -> Tensor<2> {
        let hidden = to_f32(self.transformer.forward(batch));
        Pooling::Mean.forward(hidden, batch.mask.clone())
    }
}

impl TextHead {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Linear(linear) => linear.forward(x),
            Self::Mlp(head) => {
                let between = head.first.forward_activated(x, Activation::Gelu);
                head.second.forward(between)
            }
        }
    }
}

impl TextTower {
    /// The vector of each text before the projection, `[batch, hidden]`.
    ///
    /// # Panics
    /// Where the input is another tower's.
    pub fn pooled(&self, input: &TextInput) -> Tensor<2> {
        match (self, input) {
            (Self::Clip(tower), TextInput::Causal { ids, ends }) => tower.pooled(ids, ends),
            (Self::XlmRoberta(tower), TextInput::Masked(batch)) => tower.pooled(batch),
            _ => panic!("a batch of texts was made for another text tower"),
        }
    }

    /// `[batch, projection_dim]`, not scaled to unit length.
    ///
    /// # Panics
    /// Where the input is another tower's.
    pub fn forward(&self, input: &TextInput) -> Tensor<2> {
        let pooled = self.pooled(input);
        to_f32(match self {
            Self::Clip(tower) => tower.projection.forward(pooled),
            Self::XlmRoberta(tower) => tower.proj.forward(pooled),
        })
    }
}
