//! From a module into a safetensors file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor};
use safetensors::{Dtype, View};

use super::load::Names;
use crate::atomic::AtomicFile;
use crate::error::{Error, Result};

/// A module's parameters and buffers of floats under upstream key names, read back to the CPU as
/// f32.
///
/// Returns `(key, shape, values in row-major order)` in the module's order.
pub fn state_dict<M: Module>(module: &M, names: &Names) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    collect(module, names).floats
}

/// Writes a module's parameters and buffers, those of integers included, as one safetensors file
/// under upstream key names, whole or not at all.
///
/// # Errors
/// [`Error::Io`]; the destination is then as it was before.
pub fn save_module<M: Module>(path: impl AsRef<Path>, module: &M, names: &Names) -> Result<()> {
    let collected = collect(module, names);
    write(path.as_ref(), &collected.floats, &collected.integers)
}

/// Writes named tensors as one safetensors file, whole or not at all.
///
/// The metadata carries `format: pt`, which Python libraries look for.
///
/// # Errors
/// [`Error::Io`]; the destination is then as it was before.
pub fn save(path: impl AsRef<Path>, tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Result<()> {
    write(path.as_ref(), tensors, &[])
}

fn write(
    path: &Path,
    floats: &[(String, Vec<usize>, Vec<f32>)],
    integers: &[(String, Vec<usize>, Vec<i64>)],
) -> Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let floats = floats.iter().map(|(name, shape, values)| {
        let values = Values::Floats(values);
        (name, TensorView { shape, values })
    });
    let integers = integers.iter().map(|(name, shape, values)| {
        let values = Values::Integers(values);
        (name, TensorView { shape, values })
    });
    let bytes = safetensors::serialize(floats.chain(integers), Some(metadata))
        .map_err(|e| Error::invalid(path, format!("cannot be written as safetensors: {e}")))?;
    let mut file = AtomicFile::create(path)?;
    file.write_all(&bytes).map_err(Error::io(path, "write"))?;
    file.commit()
}

#[derive(Clone, Copy)]
enum Values<'a> {
    Floats(&'a [f32]),
    Integers(&'a [i64]),
}

struct TensorView<'a> {
    shape: &'a [usize],
    values: Values<'a>,
}

impl View for TensorView<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::Floats(_) => Dtype::F32,
            Values::Integers(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // Elements in the file are little-endian.
        match self.values {
            Values::Floats(values) if cfg!(target_endian = "little") => {
                Cow::Borrowed(bytemuck::cast_slice(values))
            }
            Values::Floats(values) => {
                Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
            }
            Values::Integers(values) => {
                Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect())
            }
        }
    }

    fn data_len(&self) -> usize {
        match self.values {
            Values::Floats(values) => values.len() * 4,
            Values::Integers(values) => values.len() * 8,
        }
    }
}

fn collect<'a, M: Module>(module: &M, names: &'a Names) -> Collector<'a> {
    let mut collector = Collector {
        names,
        path: Vec::new(),
        floats: Vec::new(),
        integers: Vec::new(),
    };
    module.visit(&mut collector);
    collector
}

struct Collector<'a> {
    names: &'a Names,
    path: Vec<String>,
    floats: Vec<(String, Vec<usize>, Vec<f32>)>,
    integers: Vec<(String, Vec<usize>, Vec<i64>)>,
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
        self.floats
            .push((self.names.key(&self.path), shape, values));
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let tensor = param.val();
        let shape = match tensor.dims().iter().product() {
            // Counters are scalars upstream; tensors here have an axis at least.
            1 => Vec::new(),
            _ => tensor.dims().to_vec(),
        };
        let values = tensor
            .into_data()
            .convert::<i64>()
            .try_into_vec()
            .unwrap_or_default();
        self.integers
            .push((self.names.key(&self.path), shape, values));
    }
}
