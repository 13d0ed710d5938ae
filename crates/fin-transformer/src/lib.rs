#![doc = include_str!("../README.md")]

pub mod batch;
pub mod bert;
pub mod classifier;
mod config;
pub mod convert;
mod cross_encoder;
mod directory;
pub mod distilbert;
mod embedder;
mod network;
pub mod t5;
mod tokenizer;
pub mod xlm_roberta;

pub use batch::TokenBatch;
pub use config::BackboneConfig;
pub use cross_encoder::{CrossEncoder, CrossEncoderOptions, ScoreActivation, Scores};
pub use directory::{DenseHead, Layout};
pub use embedder::{TextEmbedder, TextOptions, TextPooling};
pub use network::{Dense, TextBackbone, TextNetwork};
pub use tokenizer::{
    BytePairVocabulary, PairTokenizer, TextTokenizer, TokenizedPair, TokenizedText,
};
