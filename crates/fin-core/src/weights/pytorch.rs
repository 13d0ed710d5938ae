//! PyTorch's `.bin`, `.pth` and `.pt` files: zip archives and legacy pickle streams.
//!
//! The pickle is interpreted by a reader that knows tensors and plain containers only and never
//! runs anything. A file that refers to any other callable is refused all the same: it is either
//! hostile or holds something other than weights.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pytorch_reader::{DType as PtDType, PickleValue, PytorchError, PytorchReader, Tensor};

use super::archive::{self, Refusal};
use super::checkpoint::{DType, Source, TensorEntry};
use super::pickle;
use crate::error::{Error, Result};
use crate::limits::{self, Budget, Exceeded};

/// Keys under which training scripts nest a state dictionary.
const NESTED: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// Most dimensions of a tensor.
const MAX_RANK: usize = 16;

/// Most that all tensors together may be of the file's size; those that share a storage count
/// each.
const MAX_SHARING: u64 = 16;

/// Pickles of a legacy file: magic number, protocol version, system, content, storage keys.
const LEGACY_PICKLES: usize = 5;

/// The magic number of a legacy file, as protocols from 2 on and below 2 write it, and how far
/// from the start it is looked for.
const LEGACY_MAGIC: [&[u8]; 2] = [
    b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19",
    b"119547037146038801333356",
];
const LEGACY_MAGIC_WITHIN: usize = 64;

/// Whether the file starts like a zip archive, a pickle or a TAR archive, rather than a
/// safetensors header.
pub(super) fn sniff(file: &[u8]) -> bool {
    // A safetensors file has the `{` of its header at byte 8; a pickle of protocol 2 or more
    // opens with 0x80 and its protocol, a zip archive with `PK`.
    let is_safetensors = file.get(8) == Some(&b'{');
    file.starts_with(b"PK") || (!is_safetensors && (file.starts_with(&[0x80]) || is_tar(file)))
}

fn is_tar(file: &[u8]) -> bool {
    file.get(257..262) == Some(b"ustar")
}

pub(super) fn open(path: &Path, file: &[u8]) -> Result<BTreeMap<String, TensorEntry>> {
    check_description(path, file)?;
    let key = {
        let value = PytorchReader::read_pickle_data(path, None).map_err(|e| convert(path, e))?;
        refuse_callables(path, &value)?;
        match &value {
            PickleValue::Dict(top) => NESTED
                .into_iter()
                .find(|key| matches!(top.get(*key), Some(PickleValue::Dict(inner)) if holds_tensors(inner.values()))),
            _ => None,
        }
    };
    let reader = match key {
        Some(key) => PytorchReader::with_top_level_key(path, key),
        None => PytorchReader::new(path),
    }
    .map_err(|e| convert(path, e))?;
    check_tensors(path, file.len() as u64, reader.tensors().values())?;
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

/// Checks that what the pickle and its container describe can be held beside the file.
fn check_description(path: &Path, file: &[u8]) -> Result<()> {
    let mut budget = Budget::of_file(file.len() as u64);
    let measured = if file.starts_with(b"PK\x03\x04") || file.starts_with(b"PK\x05\x06") {
        archive::pickles(file, &mut budget).and_then(|pickles| {
            for pickle in pickles {
                pickle::measure(pickle, &mut budget)?;
            }
            Ok(())
        })
    } else if is_tar(file) {
        Err(Refusal::Damaged(
            "a TAR archive, as PyTorch wrote before version 0.1.10",
        ))
    } else {
        measure_stream(file, &mut budget).map_err(Refusal::from)
    };
    measured.map_err(|refusal| {
        let reason = match refusal {
            Refusal::Damaged(what) => what.to_string(),
            Refusal::Compressed(name) => format!("`{name}` in it is compressed"),
            Refusal::TooLarge => format!(
                "it describes more than a file of {} bytes may claim memory for",
                file.len()
            ),
        };
        Error::invalid(
            path,
            format!(
                "not a PyTorch weight file that can be read: {reason}; fetch the file again, or \
                 load it in PyTorch and save it as safetensors"
            ),
        )
    })
}

/// The pickles of a legacy file, or the one of a bare pickle.
fn measure_stream(mut file: &[u8], budget: &mut Budget) -> Result<(), Exceeded> {
    let start = &file[..file.len().min(LEGACY_MAGIC_WITHIN)];
    let is_legacy = LEGACY_MAGIC
        .iter()
        .any(|magic| start.windows(magic.len()).any(|bytes| bytes == *magic));
    for _ in 0..if is_legacy { LEGACY_PICKLES } else { 1 } {
        match pickle::measure(file, budget)? {
            Some(rest) => file = rest,
            None => break,
        }
    }
    Ok(())
}

/// Checks that reading tensors takes no more than the file has; strides can show an element any
/// number of times.
fn check_tensors<'a>(
    path: &Path,
    size: u64,
    tensors: impl Iterator<Item = &'a Tensor>,
) -> Result<()> {
    let mut all = 0u64;
    for tensor in tensors {
        // Neither overflows: the reader has checked both.
        let bytes = tensor.byte_len() as u64;
        let as_f32 = 4 * tensor.num_elements() as u64;
        all = all.saturating_add(bytes);
        let reason = if tensor.shape().len() > MAX_RANK {
            format!("more than {MAX_RANK} dimensions")
        } else if bytes > size && bytes + as_f32 > limits::repeated(size) {
            format!("{bytes} bytes, which a file of {size} bytes does not hold")
        } else if all
            > MAX_SHARING
                .saturating_mul(size)
                .saturating_add(limits::SLACK)
        {
            format!("together with others more than {MAX_SHARING} times the file's {size} bytes")
        } else {
            continue;
        };
        return Err(Error::invalid(
            path,
            format!(
                "not a PyTorch weight file that can be read: tensor `{}` of shape {:?} has \
                 {reason}; it repeats what is in the file",
                tensor.name,
                tensor.shape()
            ),
        ));
    }
    Ok(())
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
