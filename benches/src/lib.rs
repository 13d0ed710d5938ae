//! What the benchmarks share: a network of a known shape and batches of token ids.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Tensor};
use fin_core::{Pooling, Result};
use fin_transformer::bert::BertConfig;
use fin_transformer::{TextBackbone, TextNetwork, TokenBatch};

/// The shape of all-MiniLM-L6-v2: 6 layers, 384 wide, 12 heads, 1,536 inner.
pub fn mini_lm_config() -> BertConfig {
    BertConfig {
        vocab_size: 30_522,
        hidden_size: 384,
        num_hidden_layers: 6,
        num_attention_heads: 12,
        intermediate_size: 1536,
        hidden_act: "gelu".into(),
        max_position_embeddings: 512,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout_prob: 0.1,
        attention_probs_dropout_prob: 0.1,
        position_embedding_type: Some("absolute".into()),
        is_decoder: false,
        pad_token_id: Some(0),
    }
}

/// The shape of BERT-base: 12 layers, 768 wide, 12 heads, 3,072 inner.
pub fn bert_base_config() -> BertConfig {
    BertConfig {
        num_hidden_layers: 12,
        hidden_size: 768,
        intermediate_size: 3072,
        ..mini_lm_config()
    }
}

/// A network of this shape with random weights, mean pooling and normalisation.
///
/// # Errors
/// Where the configuration cannot be built.
pub fn network(config: &BertConfig, device: &Device) -> Result<TextNetwork> {
    struct Randomise<'a>(&'a Device);
    impl ModuleMapper for Randomise<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let shape = param.lazy_shape();
            let id = param.id;
            let std = if D == 1 { 0.3 } else { 0.04 };
            param.transform_for_load(
                Tensor::random(shape, Distribution::Normal(0.0, std), self.0),
                id,
            )
        }
    }
    device.seed(1);
    let bert = config.init(false, device)?.map(&mut Randomise(device));
    Ok(TextNetwork {
        backbone: TextBackbone::Bert(bert),
        dense: Vec::new(),
        pooling: vec![Pooling::Mean],
        normalize: true,
    })
}

/// `items` sequences of `tokens` pseudo-random ids, without padding.
pub fn batch(items: usize, tokens: usize, device: &Device) -> TokenBatch {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1000 + (state >> 8) % 28_000
    };
    let ids: Vec<Vec<u32>> = (0..items)
        .map(|_| (0..tokens).map(|_| next()).collect())
        .collect();
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    TokenBatch::new(&ids, 0, device)
}
