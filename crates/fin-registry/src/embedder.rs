//! Models of any family behind one type.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use fin_cnn::ImageEmbedder;
use fin_core::weights::LoadReport;
use fin_core::{
    BatchLimits, Embedder, EmbeddingNetwork, Embeddings, Error, PostProcess, Result, encode,
};
use fin_transformer::TextEmbedder;

/// The embedder of an open model, by what it reads.
#[derive(Debug, Clone)]
pub enum AnyEmbedder {
    /// Texts.
    Text(Box<TextEmbedder>),
    /// Image files.
    Image(Box<ImageEmbedder>),
}

impl AnyEmbedder {
    /// Length of an embedding.
    pub fn output_dim(&self) -> usize {
        match self {
            Self::Text(embedder) => embedder.network().output_dim(),
            Self::Image(embedder) => embedder.network().output_dim(),
        }
    }

    /// Whether the network scales embeddings to unit length.
    pub fn normalizes(&self) -> bool {
        match self {
            Self::Text(embedder) => embedder.network().normalize,
            Self::Image(embedder) => embedder.network().normalize,
        }
    }

    /// What became of every tensor of the checkpoint.
    pub fn report(&self) -> &LoadReport {
        match self {
            Self::Text(embedder) => embedder.report(),
            Self::Image(embedder) => embedder.report(),
        }
    }

    /// What the model reads, in a word for messages.
    pub fn reads(&self) -> &'static str {
        match self {
            Self::Text(_) => "texts",
            Self::Image(_) => "images",
        }
    }

    /// The model, if it reads texts.
    ///
    /// # Errors
    /// [`Error::Argument`] where it does not.
    pub fn text(&self) -> Result<&TextEmbedder> {
        match self {
            Self::Text(embedder) => Ok(embedder),
            Self::Image(_) => Err(self.other_reads("texts")),
        }
    }

    /// The model, if it reads images.
    ///
    /// # Errors
    /// [`Error::Argument`] where it does not.
    pub fn image(&self) -> Result<&ImageEmbedder> {
        match self {
            Self::Image(embedder) => Ok(embedder),
            Self::Text(_) => Err(self.other_reads("images")),
        }
    }

    fn other_reads(&self, asked: &str) -> Error {
        let reason = format!("reads {}, not {asked}; choose another model", self.reads());
        Error::argument("model", reason)
    }

    /// Writes a model directory: [`Embedder::save`].
    ///
    /// # Errors
    /// Those of [`Embedder::save`].
    pub fn save(&self, directory: &Path) -> Result<()> {
        match self {
            Self::Text(embedder) => embedder.save(directory),
            Self::Image(embedder) => embedder.save(directory),
        }
    }

    pub(crate) fn encode_text(
        &self,
        texts: &[String],
        device: &Device,
        limits: BatchLimits,
    ) -> Result<Embeddings> {
        let post = PostProcess::default();
        encode(self.text()?, texts, device, limits, post, |_| {})
    }

    pub(crate) fn encode_image(
        &self,
        paths: &[PathBuf],
        device: &Device,
        limits: BatchLimits,
    ) -> Result<Embeddings> {
        let post = PostProcess::default();
        encode(self.image()?, paths, device, limits, post, |_| {})
    }
}
