//! Opening of models.

use std::time::Instant;

use burn::tensor::Device;
use fin_core::weights::LoadReport;
use fin_core::{BatchLimits, Embeddings, PostProcess, Rejected};
use fin_registry::{AnyEmbedder, ModelOptions, Registry};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::ModelArgs;
use crate::family::Family;
use crate::report::{self, Result};

/// An open model with its device.
pub struct OpenModel<F: Family> {
    pub embedder: F::Embedder,
    pub device: Device,
    /// Length of the embeddings that the network gives.
    pub output_dim: usize,
    /// Whether the network scales embeddings to unit length.
    pub normalizes: bool,
    /// Largest number of tokens, of a model that reads texts.
    pub max_length: Option<usize>,
    /// What became of the checkpoint's tensors.
    pub tensors: LoadReport,
    /// Seconds that opening took.
    pub seconds: f64,
}

impl<F: Family> OpenModel<F> {
    /// Opens the device and the model, with these options in place of those of `args`.
    /// Names are those of `registry`.
    pub fn open(args: &ModelArgs, options: &ModelOptions, registry: &Registry) -> Result<Self> {
        Self::by_name(&args.model, options, registry)
    }

    /// Opens the device and the model of this name or directory.
    pub fn by_name(name: &str, options: &ModelOptions, registry: &Registry) -> Result<Self> {
        let begin = Instant::now();
        let model = registry.build_model(name, options)?;
        report::note_model(&model);
        let max_length = match &model.embedder {
            AnyEmbedder::Text(embedder) => Some(embedder.tokenizer().max_length()),
            AnyEmbedder::Clip(embedder) => Some(embedder.max_length()),
            AnyEmbedder::Image(_) | AnyEmbedder::Mesh(_) => None,
        };
        Ok(Self {
            output_dim: model.output_dim(),
            normalizes: model.embedder.normalizes(),
            max_length,
            tensors: model.embedder.report().clone(),
            device: model.device,
            embedder: F::of(model.embedder)?,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }

    /// Embeds items, moving `bar` on.
    pub fn encode(
        &self,
        items: &[F::Item],
        limits: BatchLimits,
        post: PostProcess,
        bar: &ProgressBar,
    ) -> Result<Embeddings> {
        let before = bar.position();
        let progress = |done: usize| bar.set_position(before + done as u64);
        let embeddings =
            fin_core::encode(&self.embedder, items, &self.device, limits, post, progress)?;
        Ok(embeddings)
    }

    /// Embeds items without those that cannot be read, moving `bar` on.
    pub fn encode_each(
        &self,
        items: &[F::Item],
        limits: BatchLimits,
        post: PostProcess,
        bar: &ProgressBar,
    ) -> Result<(Embeddings, Vec<Rejected>)> {
        let before = bar.position();
        let progress = |done: usize| bar.set_position(before + done as u64);
        let found =
            fin_core::encode_each(&self.embedder, items, &self.device, limits, post, progress)?;
        Ok(found)
    }
}

/// Progress over items on stderr, where that is a terminal; `total` where it is known.
pub fn item_bar<F: Family>(total: Option<usize>) -> ProgressBar {
    bar_of(F::NAMES[1], total)
}

/// Progress over what is called `items`.
pub fn bar_of(items: &str, total: Option<usize>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr();
    let bar = ProgressBar::with_draw_target(total.map(|n| n as u64), target);
    let template = match total {
        Some(_) => format!("{{wide_bar}} {{pos}}/{{len}} {items}  {{per_sec}}  {{eta}} left"),
        None => format!("{{spinner}} {{pos}} {items}  {{per_sec}}  {{elapsed}}"),
    };
    // An invalid template would cost the looks of the bar and nothing else.
    bar.with_style(
        ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    )
}
