//! From one checkpoint into another under a module's key names, tensor by tensor.
//!
//! Nothing is loaded: a module that was made and never used holds shapes alone, and each tensor
//! passes through in pieces.

use std::fmt;
use std::io::Write;
use std::str::FromStr;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor};
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::checkpoint::{Checkpoint, DType, decode};
use super::load::{Names, left_over};
use crate::error::{Error, Result};

/// Element types that weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FloatType {
    /// IEEE 754 single precision.
    #[default]
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl FloatType {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Largest relative error `‖a − b‖ / ‖b‖` that embeddings of weights of this type may have
    /// beside those of the reference in f32.
    pub const fn tolerance(self) -> f64 {
        match self {
            Self::F32 => 1e-5,
            Self::F16 => 2e-3,
            Self::Bf16 => 1e-2,
        }
    }

    fn stored(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::Bf16,
        }
    }

    /// Name in a safetensors header.
    fn in_header(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 => {
                let halves = values.iter().map(|v| f16::from_f32(*v));
                halves.flat_map(f16::to_le_bytes).collect()
            }
            Self::Bf16 => {
                let halves = values.iter().map(|v| bf16::from_f32(*v));
                halves.flat_map(bf16::to_le_bytes).collect()
            }
        }
    }
}

impl fmt::Display for FloatType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FloatType {
    type Err = Error;

    /// # Errors
    /// [`Error::Argument`] listing the names.
    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            let reason = format!("`{text}` is not an element type; accepted: {names}");
            Error::argument("dtype", reason)
        })
    }
}

/// A tensor on its way from one checkpoint to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedTensor {
    /// Key in the checkpoint that is read.
    pub source: String,
    /// Key in the checkpoint that is written.
    pub target: String,
    /// Shape in both.
    pub shape: Vec<usize>,
    /// Element type in the checkpoint that is read.
    pub dtype: DType,
}

impl MappedTensor {
    /// Element type in the checkpoint that is written, `dtype` being that of weights: integers stay
    /// what they are.
    pub fn stored(&self, dtype: FloatType) -> DType {
        match self.dtype {
            DType::I64 => DType::I64,
            _ => dtype.stored(),
        }
    }
}

/// What becomes of every tensor of a checkpoint, and of every parameter of a module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mapping {
    /// Tensors that are carried over, in the module's order.
    pub tensors: Vec<MappedTensor>,
    /// Parameters that the checkpoint has nothing for, under the keys they were looked for.
    pub missing: Vec<String>,
    /// Keys of the checkpoint that are known and not wanted.
    pub ignored: Vec<String>,
    /// Keys of the checkpoint that nothing is known about.
    pub unused: Vec<String>,
}

/// Finds a checkpoint's tensor for every parameter of a module, reading none.
///
/// # Errors
/// [`Error::ShapeMismatch`] or [`Error::UnsupportedDType`] for the first tensor that does not fit
/// its parameter.
pub fn map<M: Module>(module: &M, checkpoint: &Checkpoint, names: &Names) -> Result<Mapping> {
    let mut mapper = Mapper {
        checkpoint,
        names,
        path: Vec::new(),
        mapping: Mapping::default(),
        error: None,
    };
    module.visit(&mut mapper);
    let Mapper {
        mut mapping, error, ..
    } = mapper;
    if let Some(error) = error {
        return Err(error);
    }
    let used: Vec<String> = mapping.tensors.iter().map(|t| t.source.clone()).collect();
    (mapping.ignored, mapping.unused) = left_over(checkpoint, names, &used);
    Ok(mapping)
}

struct Mapper<'a> {
    checkpoint: &'a Checkpoint,
    names: &'a Names,
    path: Vec<String>,
    mapping: Mapping,
    error: Option<Error>,
}

impl ModuleVisitor for Mapper<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = self.names.key(&self.path);
        let Some(source) = self.names.source(self.checkpoint, &key) else {
            self.mapping.missing.push(key);
            return;
        };
        let Some(entry) = self.checkpoint.get(&source) else {
            return;
        };
        let expected = param.lazy_shape().to_vec();
        let path = || self.checkpoint.path().to_path_buf();
        if entry.shape() != expected {
            self.error.get_or_insert_with(|| Error::ShapeMismatch {
                path: path(),
                tensor: source,
                expected,
                found: entry.shape().to_vec(),
            });
        } else if matches!(entry.dtype(), DType::I64 | DType::Other(_)) {
            self.error.get_or_insert_with(|| Error::UnsupportedDType {
                path: path(),
                tensor: source,
                dtype: entry.dtype().to_string(),
            });
        } else {
            self.push(&key, source, expected, entry.dtype());
        }
    }

    /// Counters, which old files lack.
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let key = self.names.key(&self.path);
        let Some(source) = self.names.source(self.checkpoint, &key) else {
            return;
        };
        let Some(entry) = self.checkpoint.get(&source) else {
            return;
        };
        let (expected, found) = (param.lazy_shape().to_vec(), entry.shape().to_vec());
        let elements: usize = expected.iter().product();
        if found != expected && !(found.is_empty() && elements == 1) {
            self.error.get_or_insert_with(|| Error::ShapeMismatch {
                path: self.checkpoint.path().to_path_buf(),
                tensor: source,
                expected,
                found,
            });
        } else if entry.dtype() != DType::I64 {
            self.error.get_or_insert_with(|| Error::UnsupportedDType {
                path: self.checkpoint.path().to_path_buf(),
                tensor: source,
                dtype: entry.dtype().to_string(),
            });
        } else {
            self.push(&key, source, found, entry.dtype());
        }
    }
}

impl Mapper<'_> {
    fn push(&mut self, key: &str, source: String, shape: Vec<usize>, dtype: DType) {
        let target = key.strip_prefix(&self.names.prefix).unwrap_or(key);
        self.mapping.tensors.push(MappedTensor {
            target: target.to_string(),
            source,
            shape,
            dtype,
        });
    }
}

/// Bytes that are converted at a time; a multiple of every element's width.
const PIECE: usize = 1 << 20;

/// Writes mapped tensors as a safetensors file, sorted by key.
///
/// f32 to f32 is exact to the bit; what is too large for f16 is an error; integers stay integers. Memory use is that of
/// one tensor at the most.
///
/// # Errors
/// [`Error::Io`] naming `checkpoint`'s file where it cannot be read and `path` where `out` cannot
/// be written; [`Error::NotFinite`] where a value is too large for `dtype`.
pub fn write_converted(
    checkpoint: &Checkpoint,
    mapping: &Mapping,
    dtype: FloatType,
    path: &std::path::Path,
    out: &mut impl Write,
) -> Result<()> {
    let mut tensors: Vec<&MappedTensor> = mapping.tensors.iter().collect();
    tensors.sort_by(|a, b| a.target.cmp(&b.target));
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut end = 0;
    for tensor in &tensors {
        let start = end;
        let stored = tensor.stored(dtype);
        end += tensor.shape.iter().product::<usize>() * stored.size();
        let info = json!({
            "dtype": if stored == DType::I64 { "I64" } else { dtype.in_header() },
            "shape": tensor.shape,
            "data_offsets": [start, end],
        });
        header.insert(tensor.target.clone(), info);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // The data begin at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    let write =
        |out: &mut dyn Write, bytes: &[u8]| out.write_all(bytes).map_err(Error::io(path, "write"));
    write(out, &length)?;
    write(out, &header)?;
    for tensor in tensors {
        let Some(entry) = checkpoint.get(&tensor.source) else {
            return Err(Error::MissingTensors {
                path: checkpoint.path().to_path_buf(),
                names: vec![tensor.source.clone()],
            });
        };
        checkpoint.with_bytes(entry, |bytes| {
            if entry.dtype() == tensor.stored(dtype) {
                return bytes.chunks(PIECE).try_for_each(|piece| write(out, piece));
            }
            for (i, piece) in bytes.chunks(PIECE).enumerate() {
                let Some(values) = decode(entry.dtype(), piece) else {
                    return Err(Error::UnsupportedDType {
                        path: checkpoint.path().to_path_buf(),
                        tensor: tensor.source.clone(),
                        dtype: entry.dtype().to_string(),
                    });
                };
                let limit = f16::MAX.to_f32();
                let too_large = |v: &f32| dtype == FloatType::F16 && v.abs() > limit;
                if let Some(first) = values.iter().position(too_large) {
                    return Err(Error::argument(
                        "dtype",
                        format!(
                            "element {} of `{}` is {}, beyond what f16 holds ({limit}); use bf16 \
                             or f32",
                            i * (PIECE / entry.dtype().size()) + first,
                            tensor.source,
                            values[first]
                        ),
                    ));
                }
                write(out, &dtype.encode(&values))?;
            }
            Ok(())
        })??;
    }
    Ok(())
}
