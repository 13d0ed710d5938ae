//! Token ids on a device.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use fin_core::kernels::{AttentionBias, MASKED_SCORE};

/// Token ids of a batch of texts, padded at the end to the longest.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// `[batch, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// `[batch, seq]`: 1 for a token, 0 for padding.
    pub mask: Tensor<2>,
    /// `[batch, seq]`: 0 for a token, [`MASKED_SCORE`] for padding; added to attention scores.
    pub key_bias: Tensor<2>,
    /// `[batch, seq]`: how many ids up to and including this one are not the padding id; 0 where
    /// the id is the padding id, be it in the padding or written out in the text. RoBERTa's
    /// positions follow from it.
    pub ordinals: Tensor<2, Int>,
    /// Tokens of each text, where they are what `mask` says.
    pub lengths: Option<Arc<[usize]>>,
    /// `[batch, seq]`: rows of BERT's token-type table; `None` where all are 0, as of single texts.
    pub token_types: Option<Tensor<2, Int>>,
}

impl TokenBatch {
    /// Pads `ids` with `pad_id` to the longest of them (at least one token) on `device`.
    pub fn new(ids: &[&[u32]], pad_id: u32, device: &Device) -> Self {
        let seq = ids.iter().map(|ids| ids.len()).max().unwrap_or(0).max(1);
        let shape = [ids.len(), seq];
        let mut input_ids = vec![i64::from(pad_id); ids.len() * seq];
        let mut mask = vec![0.0f32; ids.len() * seq];
        let mut ordinals = vec![0i64; ids.len() * seq];
        for (i, ids) in ids.iter().enumerate() {
            let mut seen = 0;
            for (j, id) in ids.iter().enumerate() {
                input_ids[i * seq + j] = i64::from(*id);
                mask[i * seq + j] = 1.0;
                if *id != pad_id {
                    seen += 1;
                    ordinals[i * seq + j] = seen;
                }
            }
        }
        let key_bias: Vec<f32> = mask
            .iter()
            .map(|m| if *m == 0.0 { MASKED_SCORE } else { 0.0 })
            .collect();
        Self {
            input_ids: Tensor::from_data(TensorData::new(input_ids, shape), device),
            mask: Tensor::from_data(TensorData::new(mask, shape), device),
            key_bias: Tensor::from_data(TensorData::new(key_bias, shape), device),
            ordinals: Tensor::from_data(TensorData::new(ordinals, shape), device),
            lengths: Some(ids.iter().map(|ids| ids.len()).collect()),
            token_types: None,
        }
    }

    /// With a token type for each id; padding has type 0.
    pub fn with_token_types(mut self, types: &[&[u32]]) -> Self {
        let [count, seq] = self.dims();
        let mut values = vec![0i64; count * seq];
        for (row, types) in values.chunks_exact_mut(seq).zip(types) {
            for (value, kind) in row.iter_mut().zip(*types) {
                *value = i64::from(*kind);
            }
        }
        let values = TensorData::new(values, [count, seq]);
        self.token_types = Some(Tensor::from_data(values, &self.mask.device()));
        self
    }

    /// What hides the padding from attention.
    pub(crate) fn attention_bias(&self) -> AttentionBias {
        AttentionBias {
            key: self.key_bias.clone(),
            position: None,
            lengths: None,
        }
    }

    /// `[batch, seq]`.
    pub fn dims(&self) -> [usize; 2] {
        self.input_ids.dims()
    }
}
