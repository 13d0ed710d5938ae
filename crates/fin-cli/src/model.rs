//! Opening of models.

use std::time::Instant;

use burn::tensor::Device;
use fin_core::{BatchLimits, Embedder, EmbeddingNetwork, Embeddings, PostProcess};
use fin_registry::{ModelOptions, Registry};
use fin_transformer::TextEmbedder;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::ModelArgs;
use crate::report::{self, Result};

/// An open model with its device.
pub struct OpenModel {
    pub embedder: TextEmbedder,
    pub device: Device,
    /// Seconds that opening took.
    pub seconds: f64,
}

impl OpenModel {
    /// Opens the device and the model, with these options in place of those of `args`.
    /// Names are those of `registry`.
    pub fn open(args: &ModelArgs, options: &ModelOptions, registry: &Registry) -> Result<Self> {
        let begin = Instant::now();
        let model = registry.build_model(&args.model, options)?;
        report::note_model(&model);
        Ok(Self {
            embedder: model.embedder,
            device: model.device,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }

    /// Length of the embeddings that the network gives.
    pub fn output_dim(&self) -> usize {
        self.embedder.network().output_dim()
    }

    /// Whether the network scales embeddings to unit length.
    pub fn normalizes(&self) -> bool {
        self.embedder.network().normalize
    }

    /// Largest number of tokens of a text.
    pub fn max_length(&self) -> usize {
        self.embedder.tokenizer().max_length()
    }

    /// Embeds texts, moving `bar` on.
    pub fn encode(
        &self,
        texts: &[String],
        limits: BatchLimits,
        post: PostProcess,
        bar: &ProgressBar,
    ) -> Result<Embeddings> {
        let before = bar.position();
        let progress = |done: usize| bar.set_position(before + done as u64);
        let embeddings =
            fin_core::encode(&self.embedder, texts, &self.device, limits, post, progress)?;
        Ok(embeddings)
    }
}

/// Progress over texts on stderr, where that is a terminal; `total` where it is known.
pub fn text_bar(total: Option<usize>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr();
    let bar = ProgressBar::with_draw_target(total.map(|n| n as u64), target);
    let template = match total {
        Some(_) => "{wide_bar} {pos}/{len} texts  {per_sec}  {eta} left",
        None => "{spinner} {pos} texts  {per_sec}  {elapsed}",
    };
    // An invalid template would cost the looks of the bar and nothing else.
    bar.with_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    )
}
