//! Models of any family behind one type.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use fin_clip::{ClipEmbedder, ClipItem};
use fin_cnn::ImageEmbedder;
use fin_core::weights::LoadReport;
use fin_core::{
    BatchLimits, Embedder, EmbeddingNetwork, Embeddings, Error, PostProcess, Result, encode,
};
use fin_pointnet::MeshEmbedder;
use fin_transformer::TextEmbedder;

/// The embedder of an open model, by what it reads.
#[derive(Debug, Clone)]
pub enum AnyEmbedder {
    /// Texts.
    Text(Box<TextEmbedder>),
    /// Image files.
    Image(Box<ImageEmbedder>),
    /// Texts and image files, which are compared with each other.
    Clip(Box<ClipEmbedder>),
    /// Files of meshes and point clouds.
    Mesh(Box<MeshEmbedder>),
}

/// The same expression for the embedder of any family.
macro_rules! each {
    ($any:expr, $embedder:ident => $result:expr) => {
        match $any {
            Self::Text($embedder) => $result,
            Self::Image($embedder) => $result,
            Self::Clip($embedder) => $result,
            Self::Mesh($embedder) => $result,
        }
    };
}

impl AnyEmbedder {
    /// Length of an embedding.
    pub fn output_dim(&self) -> usize {
        each!(self, embedder => embedder.network().output_dim())
    }

    /// Whether the network scales embeddings to unit length.
    pub fn normalizes(&self) -> bool {
        each!(self, embedder => embedder.network().normalize)
    }

    /// What became of every tensor of the checkpoint.
    pub fn report(&self) -> &LoadReport {
        each!(self, embedder => embedder.report())
    }

    /// What the model reads, in a word for messages.
    pub fn reads(&self) -> &'static str {
        match self {
            Self::Text(_) => "texts",
            Self::Image(_) => "images",
            Self::Clip(_) => "texts and images",
            Self::Mesh(_) => "meshes",
        }
    }

    /// The model, if it reads texts alone.
    ///
    /// # Errors
    /// [`Error::Argument`] where it does not.
    pub fn text(&self) -> Result<&TextEmbedder> {
        match self {
            Self::Text(embedder) => Ok(embedder),
            _ => Err(self.other_reads("texts")),
        }
    }

    /// The model, if it reads images alone.
    ///
    /// # Errors
    /// [`Error::Argument`] where it does not.
    pub fn image(&self) -> Result<&ImageEmbedder> {
        match self {
            Self::Image(embedder) => Ok(embedder),
            _ => Err(self.other_reads("images")),
        }
    }

    /// The model, if it reads texts and images.
    ///
    /// # Errors
    /// [`Error::Argument`] where it does not.
    pub fn clip(&self) -> Result<&ClipEmbedder> {
        match self {
            Self::Clip(embedder) => Ok(embedder),
            _ => Err(self.other_reads("texts and images")),
        }
    }

    /// The model, if it reads meshes.
    ///
    /// # Errors
    /// [`Error::Argument`] where it does not.
    pub fn mesh(&self) -> Result<&MeshEmbedder> {
        match self {
            Self::Mesh(embedder) => Ok(embedder),
            _ => Err(self.other_reads("meshes")),
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
        each!(self, embedder => embedder.save(directory))
    }

    pub(crate) fn encode_text(
        &self,
        texts: &[String],
        device: &Device,
        limits: BatchLimits,
    ) -> Result<Embeddings> {
        let post = PostProcess::default();
        match self {
            Self::Clip(embedder) => {
                let items: Vec<_> = texts.iter().cloned().map(ClipItem::Text).collect();
                encode(&**embedder, &items, device, limits, post, |_| {})
            }
            _ => encode(self.text()?, texts, device, limits, post, |_| {}),
        }
    }

    pub(crate) fn encode_image(
        &self,
        paths: &[PathBuf],
        device: &Device,
        limits: BatchLimits,
    ) -> Result<Embeddings> {
        let post = PostProcess::default();
        match self {
            Self::Clip(embedder) => {
                let items: Vec<_> = paths.iter().cloned().map(ClipItem::Image).collect();
                encode(&**embedder, &items, device, limits, post, |_| {})
            }
            _ => encode(self.image()?, paths, device, limits, post, |_| {}),
        }
    }

    pub(crate) fn encode_mesh(
        &self,
        paths: &[PathBuf],
        device: &Device,
        limits: BatchLimits,
    ) -> Result<Embeddings> {
        let post = PostProcess::default();
        encode(self.mesh()?, paths, device, limits, post, |_| {})
    }
}
