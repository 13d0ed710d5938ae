//! Weight files mapped into memory.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a file for reading.
pub(super) fn map(path: &Path) -> Result<Arc<Mmap>> {
    // A pipe would be waited on, a device has no end.
    let metadata = std::fs::metadata(path).map_err(Error::io(path, "open"))?;
    if !metadata.is_file() {
        return Err(Error::invalid(path, "not a regular file"));
    }
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    // SAFETY: the mapping is read-only. Another process that truncates the file while it is
    // mapped can fault this one, as with every program that maps files; fin itself replaces
    // weight files only by renaming, which leaves open mappings intact.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
    Ok(Arc::new(map))
}
