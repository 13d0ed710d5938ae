//! Lookup table, as `torch.nn.Embedding`.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Int, Tensor};

/// Configuration of [`Embedding`].
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingConfig {
    /// Number of rows.
    pub num_embeddings: usize,
    /// Width of a row.
    pub embedding_dim: usize,
}

impl EmbeddingConfig {
    /// A table of this size.
    pub fn new(num_embeddings: usize, embedding_dim: usize) -> Self {
        Self {
            num_embeddings,
            embedding_dim,
        }
    }

    /// Makes the table with rows drawn from N(0, 0.02²), as BERT initialises its own.
    pub fn init(&self, device: &Device) -> Embedding {
        let initializer = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        Embedding {
            weight: initializer.init([self.num_embeddings, self.embedding_dim], device),
        }
    }
}

/// Rows of a table by index.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[num_embeddings, embedding_dim]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// `[batch, seq]` indices → `[batch, seq, embedding_dim]`. Indices must be in range; callers
    /// check them before they make the tensor.
    pub fn forward(&self, indices: Tensor<2, Int>) -> Tensor<3> {
        burn::tensor::module::embedding(self.weight.val(), indices)
    }
}
