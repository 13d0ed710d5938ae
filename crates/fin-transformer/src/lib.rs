//! Text embedding models: BERT, DistilBERT, XLM-RoBERTa and T5 encoders with their tokenizers, in and out of Hugging Face
//! and sentence-transformers directories.
//!
//! [`TextEmbedder`] is what most programs want: it opens a directory, encodes texts, is trained
//! by `fin-train`, and saves a directory that Python's sentence-transformers opens.
//!
//! ```no_run
//! use fin_core::{BatchLimits, DeviceSpec, PostProcess, encode};
//! use fin_transformer::{TextEmbedder, TextOptions};
//!
//! let device = DeviceSpec::Flex.open()?;
//! let model = TextEmbedder::open("all-MiniLM-L6-v2", &TextOptions::default(), &device)?;
//! let texts = ["A boat waits at the pier.".to_string()];
//! let post = PostProcess::default();
//! let embeddings = encode(&model, &texts, &device, BatchLimits::default(), post, |_| {})?;
//! assert_eq!(embeddings.dim, 384);
//! # Ok::<(), fin_core::Error>(())
//! ```
//!
//! [`bert`], [`distilbert`], [`xlm_roberta`] and [`t5`] hold the networks for use without the rest.

pub mod batch;
pub mod bert;
mod config;
pub mod convert;
mod directory;
pub mod distilbert;
mod embedder;
mod network;
pub mod t5;
mod tokenizer;
pub mod xlm_roberta;

pub use batch::TokenBatch;
pub use config::BackboneConfig;
pub use embedder::{TextEmbedder, TextOptions, TextPooling};
pub use network::{Dense, TextBackbone, TextNetwork};
pub use tokenizer::{TextTokenizer, TokenizedText};
