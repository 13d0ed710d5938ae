//! safetensors files, mapped into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::safetensors::{Dtype, SafeTensorError, SafeTensors};

use super::checkpoint::{DType, Source, TensorEntry};
use crate::error::{Error, Result};

pub(super) fn open(path: &Path) -> Result<BTreeMap<String, TensorEntry>> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    // SAFETY: the mapping is read-only. Another process that truncates the file while it is
    // mapped can fault this one, as with every program that maps files; fin itself replaces
    // weight files only by renaming, which leaves open mappings intact.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
    let map = Arc::new(map);
    // `read_metadata` checks that the header fits the file, that offsets are in order, do not
    // overlap and cover the data exactly, and that every tensor has the bytes its shape asks for.
    let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
        let fix = match e {
            SafeTensorError::MetadataIncompleteBuffer => {
                "the data is shorter or longer than the header says: the file was cut short or damaged, fetch it again"
            }
            SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
                "the header claims more bytes than the file may have: this is no safetensors file, or a damaged one"
            }
            _ => "the header is damaged; fetch the file again",
        };
        Error::invalid(path, format!("not a valid safetensors file ({e}); {fix}"))
    })?;
    let data = header + 8;
    Ok(metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let dtype = match info.dtype {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::Bf16,
                Dtype::F64 => DType::F64,
                Dtype::I64 => DType::I64,
                Dtype::I32 => DType::Other("i32"),
                Dtype::I16 => DType::Other("i16"),
                Dtype::I8 => DType::Other("i8"),
                Dtype::U8 => DType::Other("u8"),
                Dtype::BOOL => DType::Other("bool"),
                _ => DType::Other("an element type of low precision"),
            };
            let source = Source::Mapped {
                map: Arc::clone(&map),
                start: data + info.data_offsets.0,
                end: data + info.data_offsets.1,
            };
            (
                name,
                TensorEntry {
                    dtype,
                    shape: info.shape.clone(),
                    source,
                },
            )
        })
        .collect())
}
