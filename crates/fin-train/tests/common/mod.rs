//! A small embedder: words hashed into a table, averaged, dropped out and projected.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use fin_core::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use fin_core::weights::{self, Names};
use fin_core::{Embedder, EmbeddingNetwork, Error, Pooling, Result};

const BUCKETS: usize = 64;

/// The random generator of a device is one for the process: tests that draw from it take turns.
pub fn exclusive() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub fn fixture(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures")).join(path)
}

pub struct Words {
    indices: Tensor<2, Int>,
    mask: Tensor<2>,
}

#[derive(Module, Debug)]
pub struct BagNetwork {
    embedding: Embedding,
    norm: LayerNorm,
    dropout: Dropout,
    linear: Linear,
}

impl EmbeddingNetwork for BagNetwork {
    type Batch = Words;

    fn output_dim(&self) -> usize {
        self.linear.out_features()
    }

    fn embed(&self, batch: &Words) -> Tensor<2> {
        let words = self
            .norm
            .forward(self.embedding.forward(batch.indices.clone()));
        let mean = Pooling::Mean.forward(self.dropout.forward(words), batch.mask.clone());
        self.linear.forward(mean)
    }
}

#[derive(Clone, Debug)]
pub struct Bag {
    network: BagNetwork,
}

impl Bag {
    /// Weights are drawn from the device's generator at this seed.
    pub fn new(device: &Device, seed: u64, dropout: f64) -> Self {
        device.seed(seed);
        let network = BagNetwork {
            embedding: EmbeddingConfig::new(BUCKETS, 16).init(device),
            norm: LayerNormConfig::new(16, 1e-5).init(device),
            dropout: DropoutConfig::new(dropout).init(),
            linear: LinearConfig::new(16, 8).init(device),
        };
        let bag = Self { network };
        // Parameters are drawn at their first use: now.
        bag.weights();
        bag
    }

    /// All weights as bits.
    pub fn weights(&self) -> Vec<(String, Vec<u32>)> {
        weights::state_dict(&self.network, &self.names())
            .into_iter()
            .map(|(name, _, values)| (name, values.into_iter().map(f32::to_bits).collect()))
            .collect()
    }
}

impl Embedder for Bag {
    type Item = String;
    type Encoded = Vec<i32>;
    type Batch = Words;
    type Network = BagNetwork;

    fn preprocess(&self, items: &[String]) -> Result<Vec<Vec<i32>>> {
        let hash = |word: &str| {
            let hash = word.bytes().fold(7u32, |hash, byte| {
                hash.wrapping_mul(31).wrapping_add(byte.into())
            });
            (hash % BUCKETS as u32) as i32
        };
        items
            .iter()
            .map(|text| {
                let words: Vec<i32> = text.split_whitespace().map(hash).collect();
                if words.is_empty() {
                    Err(Error::argument("text", "has no words"))
                } else {
                    Ok(words)
                }
            })
            .collect()
    }

    fn cost(&self, item: &Vec<i32>) -> usize {
        item.len()
    }

    fn collate(&self, items: &[&Vec<i32>], device: &Device) -> Result<Words> {
        let seq = items.iter().map(|item| item.len()).max().unwrap_or(0);
        let shape = [items.len(), seq];
        let (mut indices, mut mask) = (vec![0; items.len() * seq], vec![0.0f32; items.len() * seq]);
        for (row, item) in items.iter().enumerate() {
            indices[row * seq..][..item.len()].copy_from_slice(item);
            mask[row * seq..][..item.len()].fill(1.0);
        }
        Ok(Words {
            indices: Tensor::from_ints(TensorData::new(indices, shape), device),
            mask: Tensor::from_data(TensorData::new(mask, shape), device),
        })
    }

    fn network(&self) -> &BagNetwork {
        &self.network
    }

    fn with_network(self, network: BagNetwork) -> Self {
        Self { network }
    }

    fn names(&self) -> Names {
        Names::with_renames([("linear", "dense")])
    }

    fn save(&self, directory: &Path) -> Result<()> {
        weights::save(
            directory.join("model.safetensors"),
            &weights::state_dict(&self.network, &self.names()),
        )
    }
}

/// Topics with words of their own; a question and an answer of a topic share its words in part.
pub fn questions_and_answers() -> (Vec<String>, Vec<String>) {
    let topics = [
        "rent", "visa", "tax", "bike", "cake", "wine", "frog", "moon", "iron", "jazz", "kite",
        "lamp",
    ];
    topics
        .iter()
        .enumerate()
        .map(|(i, topic)| {
            let noise = ["how", "why", "when", "where"][i % 4];
            (
                format!("{noise} about {topic}a {topic}b"),
                format!("{topic}c because {topic}d {noise}"),
            )
        })
        .unzip()
}
