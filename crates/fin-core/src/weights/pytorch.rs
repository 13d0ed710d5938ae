//! PyTorch's `.bin`, `.pth` and `.pt` files: zip archives and legacy pickle streams.
//!
//! The pickle is interpreted by a reader that knows tensors and plain containers only and never
//! runs anything. A file that refers to any other callable is refused all the same: it is either
//! hostile or holds something other than weights.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use pytorch_reader::{DType as PtDType, PickleValue, PytorchError, PytorchReader};

use super::checkpoint::{DType, Source, TensorEntry};
use crate::error::{Error, Result};

/// Keys under which training scripts nest a state dictionary.
const NESTED: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// Whether the file starts like a zip archive or a pickle, rather than a safetensors header.
pub(super) fn sniff(path: &Path) -> Result<bool> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut start = [0u8; 9];
    let mut filled = 0;
    while filled < start.len() {
        match file
            .read(&mut start[filled..])
            .map_err(Error::io(path, "read"))?
        {
            0 => break,
            n => filled += n,
        }
    }
    // A safetensors file has the `{` of its header at byte 8; a pickle of protocol 2 or more
    // opens with 0x80 and its protocol, a zip archive with `PK`.
    let start = &start[..filled];
    Ok(start.starts_with(b"PK") || (start.starts_with(&[0x80]) && start.get(8) != Some(&b'{')))
}

pub(super) fn open(path: &Path) -> Result<BTreeMap<String, TensorEntry>> {
    let value = PytorchReader::read_pickle_data(path, None).map_err(|e| convert(path, e))?;
    refuse_callables(path, &value)?;
    let key = match &value {
        PickleValue::Dict(top) => NESTED
            .into_iter()
            .find(|key| matches!(top.get(*key), Some(PickleValue::Dict(inner)) if holds_tensors(inner.values()))),
        _ => None,
    };
    let reader = match key {
        Some(key) => PytorchReader::with_top_level_key(path, key),
        None => PytorchReader::new(path),
    }
    .map_err(|e| convert(path, e))?;
    Ok(reader
        .into_tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let dtype = match tensor.dtype() {
                PtDType::F32 => DType::F32,
                PtDType::F16 => DType::F16,
                PtDType::BF16 => DType::Bf16,
                PtDType::F64 => DType::F64,
                PtDType::I64 => DType::I64,
                PtDType::I32 => DType::Other("i32"),
                PtDType::I16 => DType::Other("i16"),
                PtDType::I8 => DType::Other("i8"),
                PtDType::U8 => DType::Other("u8"),
                PtDType::Bool => DType::Other("bool"),
                PtDType::U64 | PtDType::U32 | PtDType::U16 => DType::Other("unsigned integers"),
            };
            let shape = tensor.shape().to_vec();
            (
                name,
                TensorEntry {
                    dtype,
                    shape,
                    source: Source::PyTorch(Arc::new(tensor)),
                },
            )
        })
        .collect())
}

const TENSOR: &str = "torch.Tensor";

fn holds_tensors<'a>(mut values: impl Iterator<Item = &'a PickleValue>) -> bool {
    values.any(|value| matches!(value, PickleValue::Unsupported(name) if name == TENSOR))
}

/// Python types that hold data and run nothing when unpickled.
fn is_data(name: &str) -> bool {
    const EXACT: [&str; 8] = [
        TENSOR,
        "torch.TypedStorage",
        "torch.UntypedStorage",
        "torch.device",
        "torch.Size",
        "int",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    ];
    const DTYPES: [&str; 8] = [
        "float", "bfloat", "int", "uint", "double", "half", "long", "bool",
    ];
    EXACT.contains(&name)
        || name.strip_prefix("torch.").is_some_and(|rest| {
            DTYPES
                .iter()
                .any(|dtype| rest.trim_end_matches(char::is_numeric) == *dtype)
        })
}

fn refuse_callables(path: &Path, value: &PickleValue) -> Result<()> {
    match value {
        PickleValue::Unsupported(name) if !is_data(name) => Err(Error::UnsafePickle {
            path: path.to_path_buf(),
            global: name.clone(),
        }),
        PickleValue::List(items) => items
            .iter()
            .try_for_each(|item| refuse_callables(path, item)),
        PickleValue::Dict(items) => items
            .values()
            .try_for_each(|item| refuse_callables(path, item)),
        _ => Ok(()),
    }
}

fn convert(path: &Path, error: PytorchError) -> Error {
    match error {
        PytorchError::Io(source) => Error::Io {
            path: path.to_path_buf(),
            action: "read",
            source,
        },
        other => Error::invalid(
            path,
            format!("not a PyTorch weight file that can be read: {other}"),
        ),
    }
}
