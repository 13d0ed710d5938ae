//! The JSON files of models: configurations and indices.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::limits::{self, Budget};

/// Bytes that a value of a `serde_json::Value` takes at most, in a list that is growing.
const VALUE: u64 = 224;

/// Reads a JSON file.
///
/// # Errors
/// [`Error::Io`] where it cannot be read or is not UTF-8; [`Error::InvalidFile`] where it is not
/// the JSON that `T` asks for, or holds so many values that reading it would take more memory
/// than a file of its size may claim.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let size = text.len() as u64;
    if Budget::of_file(size)
        .spend(limits::json(text.as_bytes(), VALUE))
        .is_err()
    {
        return Err(Error::invalid(
            path,
            format!("{size} bytes of JSON hold too many values for a configuration"),
        ));
    }
    serde_json::from_str(&text)
        .map_err(|e| Error::invalid(path, format!("not the JSON that was expected: {e}")))
}
