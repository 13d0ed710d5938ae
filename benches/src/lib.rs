//! What the benchmarks share: networks of known shapes, batches, times and memory.

pub mod dump;
pub mod models;

use std::time::{Duration, Instant};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Tensor};
use fin_core::{DeviceSpec, Pooling, Result};
use fin_transformer::bert::BertConfig;
use fin_transformer::{TextBackbone, TextNetwork, TokenBatch};
use serde_json::{Value, json};

/// What a benchmark comes to.
pub type Outcome<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Ends a benchmark, with its error as a sentence.
pub fn end(outcome: Outcome<()>) -> std::process::ExitCode {
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// The device that `FIN_BENCH_DEVICE` names, `flex` where it is unset.
///
/// # Errors
/// Those of parsing the name and of [`DeviceSpec::open`].
pub fn device() -> Outcome<Device> {
    let name = std::env::var("FIN_BENCH_DEVICE").unwrap_or_else(|_| "flex".into());
    Ok(name.parse::<DeviceSpec>()?.open()?)
}

/// Seconds that each call took, in order, after one that does not count. Calls are repeated for about as
/// many seconds as `FIN_BENCH_SECONDS` says (10), and three times at least.
///
/// # Errors
/// Those of the call; where `FIN_BENCH_SECONDS` is not a number of seconds.
pub fn measure(mut run: impl FnMut() -> Outcome<()>) -> Outcome<Vec<f64>> {
    let text = std::env::var("FIN_BENCH_SECONDS").unwrap_or_else(|_| "10".into());
    let parsed = text.parse::<f64>().ok();
    let limit = parsed.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let limit =
        limit.ok_or_else(|| format!("FIN_BENCH_SECONDS: `{text}` is not a number of seconds"))?;
    run()?;
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || begin.elapsed() < limit {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// Times of batches of `items` as JSON: `ms` (the median), `min_ms`, `repetitions` and
/// `items_per_second`.
pub fn summary(times: &[f64], items: usize) -> Value {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    };
    json!({
        "ms": median * 1e3,
        "min_ms": sorted[0] * 1e3,
        "repetitions": sorted.len(),
        "items_per_second": items as f64 / median,
    })
}

/// A shape in words: `32x64` of token ids, `8x3x224x224` of pixels.
pub fn shape_name(shape: &[usize]) -> String {
    let numbers: Vec<String> = shape.iter().map(usize::to_string).collect();
    numbers.join("x")
}

/// Begins a new high-water mark of this process's memory, where the system can: Linux does.
pub fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Largest resident memory of this process since [`forget_peak`], in MiB, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes >> 10)
}

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
    let backbone = TextBackbone::Bert(config.init(false, device)?);
    Ok(text_network(backbone, true, device))
}

/// A network around this backbone, whose weights are drawn anew, with mean pooling.
pub fn text_network(backbone: TextBackbone, normalize: bool, device: &Device) -> TextNetwork {
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
    TextNetwork {
        backbone: backbone.map(&mut Randomise(device)),
        dense: Vec::new(),
        pooling: vec![Pooling::Mean],
        normalize,
    }
}

/// `items` sequences of `tokens` pseudo-random ids below 21,000, which every vocabulary has.
pub fn token_ids(items: usize, tokens: usize) -> Vec<Vec<u32>> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1000 + (state >> 8) % 20_000
    };
    (0..items)
        .map(|_| (0..tokens).map(|_| next()).collect())
        .collect()
}

/// [`token_ids`] of texts of all lengths up to `tokens`, spread evenly.
pub fn mixed_token_ids(items: usize, tokens: usize) -> Vec<Vec<u32>> {
    let mut ids = token_ids(items, tokens);
    for (i, ids) in ids.iter_mut().enumerate() {
        ids.truncate((tokens * (i + 1)).div_ceil(items));
    }
    ids
}

/// [`token_ids`] without padding on a device.
pub fn batch(items: usize, tokens: usize, device: &Device) -> TokenBatch {
    let ids = token_ids(items, tokens);
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    TokenBatch::new(&ids, 0, device)
}
