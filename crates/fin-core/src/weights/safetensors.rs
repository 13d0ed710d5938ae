//! safetensors files, mapped into memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ::safetensors::{Dtype, SafeTensorError, SafeTensors};
use memmap2::Mmap;

use super::checkpoint::{DType, Source, TensorEntry};
use crate::error::{Error, Result};
use crate::limits::{self, Budget};

/// Bytes that a value of the header takes at most while it is read.
const VALUE: u64 = 112;

pub(super) fn open(path: &Path, map: &Arc<Mmap>) -> Result<BTreeMap<String, TensorEntry>> {
    check_header(path, map)?;
    // `read_metadata` checks that the header fits the file, that offsets are in order, do not
    // overlap and cover the data exactly, and that every tensor has the bytes its shape asks for.
    let (header, metadata) = SafeTensors::read_metadata(map).map_err(|e| {
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
                map: Arc::clone(map),
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

/// Checks that what the header describes can be held beside the file.
fn check_header(path: &Path, file: &[u8]) -> Result<()> {
    // Without a header of the length it claims, the file is refused before it is parsed.
    let header = file.split_first_chunk().and_then(|(length, rest)| {
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        rest.get(..length)
    });
    let cost = header.map_or(0, |header| limits::json(header, VALUE));
    Budget::of_file(file.len() as u64).spend(cost).map_err(|_| {
        Error::invalid(
            path,
            format!(
                "the header describes more than a file of {} bytes can hold: this is no \
                     safetensors file, or a damaged one",
                file.len()
            ),
        )
    })
}
