//! From a checkpoint into a module.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// How a module's parameter paths and a checkpoint's key names relate.
///
/// Modules of this workspace name their fields as upstream does, in snake case, so most paths
/// are keys already. What is left is a list of renamed path components (`layer_norm` →
/// `LayerNorm`, `self_attention` → `self`), an optional prefix (`bert.`), and the keys of the
/// checkpoint that the model knowingly leaves alone. Families whose upstream numbers its modules
/// instead list them one by one in `modules`.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Prefix of every key in the checkpoint, as in `bert.`; empty for none.
    pub prefix: String,
    /// Components at the beginning of a path that keys do not have: where the module that the keys
    /// are of is in the one at hand. Other paths stay as they are.
    pub within: Vec<String>,
    /// `(path component, key component)` pairs.
    pub renames: Vec<(String, String)>,
    /// Key of a module by its path, both dotted and without the parameter's own name:
    /// `stem.norm` → `features.0.1`. The path may be the end of a longer one, so that the same
    /// names serve a network and a larger one around it. Comes before `renames`.
    pub modules: BTreeMap<String, String>,
    /// `(ending, older ending)` pairs: where no tensor has the first ending, one with the second
    /// is taken (`LayerNorm.gamma` of checkpoints converted from TensorFlow).
    pub aliases: Vec<(String, String)>,
    /// Keys, after the prefix, that are known and not wanted: buffers that are computed, heads.
    /// A trailing `*` matches any ending.
    pub ignored: Vec<String>,
}

impl Names {
    /// Names with these renamed components.
    pub fn with_renames<const N: usize>(renames: [(&str, &str); N]) -> Self {
        Self {
            renames: renames
                .iter()
                .map(|(from, to)| (from.to_string(), to.to_string()))
                .collect(),
            ..Self::default()
        }
    }

    /// The checkpoint key of a module's parameter path.
    pub fn key(&self, path: &[String]) -> String {
        let mut key = self.prefix.clone();
        let path = path.strip_prefix(self.within.as_slice()).unwrap_or(path);
        if let Some((parameter, module)) = path.split_last()
            && !self.modules.is_empty()
        {
            let ends = (0..module.len()).map(|start| module[start..].join("."));
            if let Some(module) = ends.into_iter().find_map(|end| self.modules.get(&end)) {
                return format!("{key}{module}.{parameter}");
            }
        }
        for (i, part) in path.iter().enumerate() {
            if i > 0 {
                key.push('.');
            }
            let renamed = self.renames.iter().find(|(from, _)| from == part);
            key.push_str(renamed.map_or(part.as_str(), |(_, to)| to.as_str()));
        }
        key
    }

    /// The key under its older name, where it has one.
    fn older(&self, key: &str) -> Option<String> {
        self.aliases.iter().find_map(|(ending, older)| {
            key.strip_suffix(ending.as_str())
                .map(|start| format!("{start}{older}"))
        })
    }

    /// The key that a checkpoint has a tensor of this key under, be it the older one.
    pub(super) fn source(&self, checkpoint: &Checkpoint, key: &str) -> Option<String> {
        let older = || self.older(key);
        let keys = std::iter::once(key.to_string()).chain(std::iter::once_with(older).flatten());
        keys.into_iter().find(|key| checkpoint.get(key).is_some())
    }

    pub(super) fn is_ignored(&self, key: &str) -> bool {
        let matches = |pattern: &str, key: &str| match pattern.strip_suffix('*') {
            Some(start) => key.starts_with(start),
            None => key == pattern,
        };
        self.ignored.iter().any(|pattern| {
            matches(pattern, key)
                || key
                    .strip_prefix(&self.prefix)
                    .is_some_and(|key| matches(pattern, key))
        })
    }
}

/// What became of every tensor of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Keys that were put into the module, in the module's order.
    pub used: Vec<String>,
    /// Keys that are known and were not wanted.
    pub ignored: Vec<String>,
    /// Keys that nothing is known about.
    pub unused: Vec<String>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tensors used, {} left aside, {} unknown",
            self.used.len(),
            self.ignored.len(),
            self.unused.len()
        )?;
        if !self.unused.is_empty() {
            write!(f, " ({})", self.unused.join(", "))?;
        }
        Ok(())
    }
}

/// Puts a checkpoint's tensors into a module on `device`.
///
/// Parameters that the module has not initialised yet are never initialised: their values come
/// from the file. f16, bf16 and f64 are converted to f32.
///
/// For inference on `flex`, f32 tables of [`Embedding`](crate::nn::Embedding) stay in the file, of which the rows that
/// are looked up come into memory. Such a file is to be replaced by renaming another one to its name, as fin does; one
/// that is written to in its place changes the model, and one that is cut short ends the process.
///
/// # Errors
/// [`Error::MissingTensors`] lists every parameter without a tensor, [`Error::ShapeMismatch`] the
/// first of another shape. Tensors left over are no error here: they are in the report, and
/// callers decide. Nor are integer buffers that the file lacks, which old files do
/// (`num_batches_tracked`): they keep their values.
pub fn load<M: Module>(
    module: M,
    checkpoint: &Checkpoint,
    names: &Names,
    device: &Device,
) -> Result<(M, LoadReport)> {
    let mut loader = Loader {
        checkpoint,
        names,
        device,
        path: Vec::new(),
        container: String::new(),
        used: Vec::new(),
        missing: Vec::new(),
        error: None,
    };
    let module = module.map(&mut loader);
    let Loader {
        used,
        missing,
        error,
        ..
    } = loader;
    if let Some(error) = error {
        return Err(error);
    }
    if !missing.is_empty() {
        return Err(Error::MissingTensors {
            path: checkpoint.path().to_path_buf(),
            names: missing,
        });
    }
    let (ignored, unused) = left_over(checkpoint, names, &used);
    Ok((
        module,
        LoadReport {
            used,
            ignored,
            unused,
        },
    ))
}

/// The tensors that were not used: those knowingly left aside, and those nothing is known about.
pub(super) fn left_over(
    checkpoint: &Checkpoint,
    names: &Names,
    used: &[String],
) -> (Vec<String>, Vec<String>) {
    let taken: BTreeSet<&str> = used.iter().map(String::as_str).collect();
    checkpoint
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !taken.contains(name))
        .map(str::to_string)
        .partition(|name| names.is_ignored(name))
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    names: &'a Names,
    device: &'a Device,
    path: Vec<String>,
    /// Kind of the module that the last of the path is in.
    container: String,
    used: Vec<String>,
    missing: Vec<String>,
    error: Option<Error>,
}

impl Loader<'_> {
    /// Whether what is at the current path is looked up row by row, where rows of a file will do.
    fn is_table(&self) -> bool {
        #[cfg(feature = "flex")]
        return self.container == "Struct:Embedding" && crate::device::is_plain_flex(self.device);
        #[cfg(not(feature = "flex"))]
        false
    }

    /// The values for the current path, or `None` where there are none to be had.
    fn read(&mut self, expected: &[usize]) -> Option<TensorData> {
        let key = self.names.key(&self.path);
        let Some(key) = self.names.source(self.checkpoint, &key) else {
            self.missing.push(key);
            return None;
        };
        let entry = self.checkpoint.get(&key)?;
        if entry.shape() != expected {
            let mismatch = Error::ShapeMismatch {
                path: self.checkpoint.path().to_path_buf(),
                tensor: key,
                expected: expected.to_vec(),
                found: entry.shape().to_vec(),
            };
            self.error.get_or_insert(mismatch);
            return None;
        }
        if self.is_table()
            && let Some(bytes) = self.checkpoint.mapped_f32(&key)
        {
            self.used.push(key);
            return Some(TensorData::from_bytes(bytes, expected, DType::F32));
        }
        match self.checkpoint.read_f32(&key) {
            Ok(values) => {
                self.used.push(key);
                Some(TensorData::new(values, expected))
            }
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_string());
        self.container = container.to_string();
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        let shape = param.lazy_shape().to_vec();
        match self.read(&shape) {
            Some(data) => {
                let tensor = Tensor::from_data(data, self.device);
                let id: ParamId = param.id;
                param.transform_for_load(tensor, id)
            }
            None => param,
        }
    }
    /// Integer buffers of one element are scalars in files.
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let key = self.names.key(&self.path);
        let Some(key) = self.names.source(self.checkpoint, &key) else {
            return param;
        };
        let shape = param.lazy_shape().to_vec();
        let Some(entry) = self.checkpoint.get(&key) else {
            return param;
        };
        if self.error.is_some() {
            return param;
        }
        let elements: usize = shape.iter().product();
        if entry.shape() != shape && !(entry.shape().is_empty() && elements == 1) {
            self.error = Some(Error::ShapeMismatch {
                path: self.checkpoint.path().to_path_buf(),
                tensor: key,
                expected: shape,
                found: entry.shape().to_vec(),
            });
            return param;
        }
        match self.checkpoint.read_i64(&key) {
            Ok(values) => {
                self.used.push(key);
                let tensor = Tensor::from_data(TensorData::new(values, shape), self.device);
                let id: ParamId = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}
