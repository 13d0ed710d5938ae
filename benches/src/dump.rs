//! What `scripts/reference/bench_peers.py` needs to time the same model elsewhere: weights under the
//! reference library's names, inputs, and what fin made of them.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use fin_core::{atomic, weights};
use serde_json::{Value, json};

use crate::Outcome;

/// Where `FIN_BENCH_DUMP` says that dumps go, if it does.
pub fn directory() -> Option<PathBuf> {
    std::env::var_os("FIN_BENCH_DUMP").map(PathBuf::from)
}

/// A tensor's values in row-major order.
///
/// # Errors
/// Where they cannot be read back from the device.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Outcome<Vec<f32>> {
    let values = tensor.into_data().convert::<f32>().try_into_vec::<f32>();
    values.map_err(|e| format!("values cannot be read back: {e:?}").into())
}

/// The directory of one model.
#[derive(Debug)]
pub struct Dump {
    directory: PathBuf,
    model: String,
}

impl Dump {
    /// Makes the directory of this model within `parent`.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn create(parent: &Path, model: &str) -> Outcome<Self> {
        let directory = parent.join(model);
        std::fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        Ok(Self {
            directory,
            model: model.into(),
        })
    }

    /// Where the weights go.
    pub fn weights(&self) -> PathBuf {
        self.directory.join("model.safetensors")
    }

    /// Where a dense head goes, as `weight` and `bias`.
    pub fn head(&self) -> PathBuf {
        self.directory.join("head.safetensors")
    }

    /// Writes inputs of a shape, by their kind, and what came of them: `expected` embeddings or the
    /// `losses` of steps. Returns the shape's entry for [`Dump::finish`].
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn shape(
        &self,
        name: &str,
        items: usize,
        [inputs, outcome]: [(&str, Vec<usize>, Vec<f32>); 2],
    ) -> Outcome<Value> {
        let kind = inputs.0;
        let tensors = [inputs, outcome].map(|(name, shape, values)| (name.into(), shape, values));
        let path = self.directory.join(format!("{name}.safetensors"));
        weights::save(path, &tensors)?;
        Ok(json!({ "shape": name, "items": items, "kind": kind }))
    }

    /// Writes `bench.json`: what the model is in its reference library, and the shapes.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn finish(self, training: bool, reference: &Value, shapes: &[Value]) -> Outcome<()> {
        let about = json!({
            "model": self.model,
            "training": training,
            "reference": reference,
            "shapes": shapes,
        });
        let text = format!("{about:#}\n");
        atomic::write(self.directory.join("bench.json"), text.as_bytes())?;
        Ok(())
    }
}
