#![doc = include_str!("../README.md")]

pub mod callback;
pub mod checkpoint;
mod config;
pub mod dataset;
pub mod evaluate;
mod history;
pub mod lora;
pub mod loss;
mod metrics;
pub mod miner;
pub mod mining;
pub mod optim;
mod registry;
pub mod sampler;
pub mod schedule;
mod trainer;
pub mod wise_ft;

pub use config::TrainConfig;
pub use dataset::Dataset;
pub use evaluate::top_k;
pub use lora::LoraConfig;
pub use loss::{loss_from_name, loss_names};
pub use metrics::Metrics;
pub use miner::{miner_from_name, miner_names};
pub use optim::{optimizer_from_name, optimizer_names};
pub use registry::Options;
pub use sampler::{MultiDatasetSampler, sampler_from_name, sampler_names};
pub use schedule::{schedule_from_name, schedule_names};
pub use trainer::{Adapters, LossOptimizer, TrainSummary, Trainer};
pub use wise_ft::wise_ft;
