//! Models that are part of the program, for machines without a network and without files.
//!
//! Their files are in `embedded/NAME` of this crate, and in a program that is built with the feature
//! `tiny`. Readers want files: they are written to the cache when they are first needed.

use std::path::{Path, PathBuf};

use fin_core::atomic::AtomicDir;
use fin_core::{Error, Result};

use crate::catalogue::ModelRow;

/// What [`ModelRow::source`] says of a model that is part of the program.
pub(crate) const SOURCE: &str = "embedded";

/// A file by its path in the model's directory.
type File = (&'static str, &'static [u8]);

#[cfg(feature = "tiny")]
macro_rules! files {
    ($model:literal: $($file:literal)*) => {
        &[$(($file, include_bytes!(concat!("../embedded/", $model, "/", $file)))),*]
    };
}

#[cfg(feature = "tiny")]
const MODELS: &[(&str, &[File])] = &[(
    "fin-tiny-en",
    files!("fin-tiny-en":
        "config.json"
        "modules.json"
        "tokenizer_config.json"
        "sentence_bert_config.json"
        "1_Pooling/config.json"
        "vocab.txt"
        "model.safetensors"
    ),
)];

#[cfg(not(feature = "tiny"))]
const MODELS: &[(&str, &[File])] = &[];

/// The directory with the files of an embedded model: in `cache`, or where that cannot be written
/// in the system's directory of temporary files. What is there already is compared byte by byte, and
/// replaced where it differs.
///
/// # Errors
/// [`Error::Argument`] where this program was built without the model; [`Error::Io`] where neither
/// place can be written.
pub(crate) fn directory(row: &ModelRow, cache: Option<&Path>) -> Result<PathBuf> {
    let Some((name, files)) = MODELS.iter().find(|(name, _)| *name == row.name) else {
        let reason = format!(
            "`{}` is not in this program, which was built without the feature `tiny`; give another \
             name or a directory",
            row.name
        );
        return Err(Error::argument("model", reason));
    };
    if let Some(cache) = cache
        && let Ok(directory) = put(&cache.join("embedded").join(name), files)
    {
        return Ok(directory);
    }
    let own = concat!("fin-embedded-", env!("CARGO_PKG_VERSION"));
    put(&std::env::temp_dir().join(own).join(name), files)
}

/// Makes `directory` hold these files.
fn put(directory: &Path, files: &[File]) -> Result<PathBuf> {
    if holds(directory, files) {
        return Ok(directory.to_path_buf());
    }
    let new = AtomicDir::create(directory)?;
    for (name, bytes) in files {
        let path = new.path().join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
        }
        std::fs::write(&path, bytes).map_err(Error::io(&path, "write"))?;
    }
    match new.commit() {
        // Another process may have been faster.
        Err(error) if !holds(directory, files) => Err(error),
        _ => Ok(directory.to_path_buf()),
    }
}

fn holds(directory: &Path, files: &[File]) -> bool {
    files.iter().all(|(name, bytes)| {
        let path = directory.join(name);
        let size = std::fs::metadata(&path).map(|found| found.len());
        size.is_ok_and(|size| size == bytes.len() as u64)
            && std::fs::read(&path).is_ok_and(|found| found == *bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &[File] = &[("a.json", b"{}"), ("b/c.txt", b"text")];

    #[test]
    fn files_are_written_once_and_mended() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("cache/model");
        assert!(!holds(&target, FILES));
        assert_eq!(put(&target, FILES).unwrap(), target);
        assert!(holds(&target, FILES));
        let modified = || std::fs::metadata(target.join("a.json")).unwrap().modified();
        let first = modified().unwrap();
        put(&target, FILES).unwrap();
        assert_eq!(modified().unwrap(), first);
        std::fs::write(target.join("b/c.txt"), "tex!").unwrap();
        assert!(!holds(&target, FILES));
        put(&target, FILES).unwrap();
        assert_eq!(std::fs::read(target.join("b/c.txt")).unwrap(), b"text");
    }

    #[cfg(not(feature = "tiny"))]
    #[test]
    fn a_program_without_the_model_says_so() {
        let row = crate::find("fin-tiny-en").unwrap();
        let error = directory(row, None).unwrap_err().to_string();
        assert!(error.contains("feature `tiny`"), "{error}");
    }

    #[cfg(feature = "tiny")]
    #[test]
    fn without_a_cache_that_can_be_written_there_is_a_temporary_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let row = crate::find("fin-tiny-en").unwrap();
        let found = directory(row, Some(&file)).unwrap();
        assert!(found.starts_with(std::env::temp_dir()));
        assert!(found.join("model.safetensors").is_file());
        let cache = dir.path().join("cache");
        let found = directory(row, Some(&cache)).unwrap();
        assert!(found.starts_with(&cache));
    }
}
