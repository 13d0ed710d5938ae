//! From a module into a safetensors file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use safetensors::{Dtype, View};

use super::load::Names;
use crate::atomic::AtomicFile;
use crate::error::{Error, Result};

/// A module's parameters under upstream key names, read back to the CPU as f32.
///
/// Returns `(key, shape, values in row-major order)` in the module's order.
pub fn state_dict<M: Module>(module: &M, names: &Names) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut collector = Collector {
        names,
        path: Vec::new(),
        tensors: Vec::new(),
    };
    module.visit(&mut collector);
    collector.tensors
}

/// Writes named tensors as one safetensors file, whole or not at all.
///
/// The metadata carries `format: pt`, which Python libraries look for.
///
/// # Errors
/// [`Error::Io`]; the destination is then as it was before.
pub fn save(path: impl AsRef<Path>, tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Result<()> {
    let path = path.as_ref();
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let views = tensors
        .iter()
        .map(|(name, shape, values)| (name, F32View { shape, values }));
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|e| Error::invalid(path, format!("cannot be written as safetensors: {e}")))?;
    let mut file = AtomicFile::create(path)?;
    file.write_all(&bytes).map_err(Error::io(path, "write"))?;
    file.commit()
}

struct F32View<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for F32View<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // Element order in the file is little-endian.
        if cfg!(target_endian = "little") {
            Cow::Borrowed(bytemuck::cast_slice(self.values))
        } else {
            Cow::Owned(self.values.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
    }

    fn data_len(&self) -> usize {
        self.values.len() * 4
    }
}

struct Collector<'a> {
    names: &'a Names,
    path: Vec<String>,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        let values = tensor
            .into_data()
            .convert::<f32>()
            .try_into_vec()
            .unwrap_or_default();
        self.tensors
            .push((self.names.key(&self.path), shape, values));
    }
}
