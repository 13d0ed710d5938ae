//! Fine-tuning and evaluation of embedding models.
//!
//! - [`dataset`]: examples, from memory or (feature `text`) from files.
//! - [`loss`], [`miner`], [`sampler`], [`schedule`], [`callback`], [`mod@evaluate`]: each a trait with its
//!   implementations, one a file, by name where a configuration file names it.
//! - [`optim`]: AdamW with clipping by the global norm.
//! - [`Trainer`]: the loop; [`checkpoint`]: what it writes in between and resumes from.
//!
//! Everything is written against [`fin_core::Embedder`]; no architecture is known here.
//!
//! ```no_run
//! use fin_core::{DeviceSpec, Embedder, Result};
//! use fin_train::callback::{Evaluate, ProgressBar};
//! use fin_train::dataset::Dataset;
//! use fin_train::evaluate::RetrievalEvaluator;
//! use fin_train::{TrainConfig, Trainer, loss_from_name};
//!
//! fn fine_tune<E: Embedder<Item = String> + 'static>(
//!     model: E,
//!     questions: Vec<String>,
//!     answers: Vec<String>,
//! ) -> Result<E> {
//!     let device = DeviceSpec::Flex.open()?;
//!     let relevant = (0..questions.len()).map(|i| vec![i]).collect();
//!     let retrieval =
//!         RetrievalEvaluator::new("answers", questions.clone(), answers.clone(), relevant)?;
//!     let data = Dataset::pairs(questions, answers, vec![])?;
//!     let loss = loss_from_name("multiple_negatives_ranking", &Default::default())?;
//!     let config = TrainConfig { epochs: 2, batch_size: 32, ..TrainConfig::default() };
//!     let (model, summary) = Trainer::new(config, loss)?
//!         .with_callback(Evaluate::each_epoch(retrieval))
//!         .with_callback(ProgressBar::new())
//!         .fit(model, &data, &device)?;
//!     println!("{} steps, {:.0} items/s", summary.steps, summary.items_per_second);
//!     Ok(model)
//! }
//! ```

pub mod callback;
pub mod checkpoint;
mod config;
pub mod dataset;
pub mod evaluate;
pub mod loss;
mod metrics;
pub mod miner;
pub mod optim;
mod registry;
pub mod sampler;
pub mod schedule;
mod trainer;

pub use config::TrainConfig;
pub use dataset::Dataset;
pub use evaluate::top_k;
pub use loss::{loss_from_name, loss_names};
pub use metrics::Metrics;
pub use miner::{miner_from_name, miner_names};
pub use registry::Options;
pub use sampler::{sampler_from_name, sampler_names};
pub use schedule::{schedule_from_name, schedule_names};
pub use trainer::{LossOptimizer, TrainSummary, Trainer};
