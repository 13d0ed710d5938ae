//! Files of one kind in directories.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Directories within directories that are looked into; links can lead in circles.
const DEEPEST: usize = 64;

/// Files that are told by their extensions.
#[derive(Debug, Clone, Copy)]
pub struct FileKind {
    /// What they are, in the plural, as messages have it.
    pub name: &'static str,
    /// Their extensions, without regard to case.
    pub extensions: &'static [&'static str],
}

impl FileKind {
    /// Whether a path has one of the extensions.
    pub fn matches(&self, path: impl AsRef<Path>) -> bool {
        let extension = path.as_ref().extension().and_then(OsStr::to_str);
        extension.is_some_and(|extension| {
            self.extensions
                .iter()
                .any(|known| known.eq_ignore_ascii_case(extension))
        })
    }

    /// All files of this kind below a directory, in sorted order. What is hidden, with a name that
    /// begins with a dot, is left out.
    ///
    /// # Errors
    /// [`Error::Io`] where a directory cannot be read; [`Error::InvalidFile`] where there is no such
    /// file, or directories are nested too deeply.
    pub fn below(&self, directory: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        let directory = directory.as_ref();
        let mut files = Vec::new();
        self.walk(directory, DEEPEST, &mut files)?;
        if files.is_empty() {
            return Err(self.none_in(directory));
        }
        files.sort();
        Ok(files)
    }

    /// The files of a directory with a directory a class, in sorted order, each with the name of its
    /// class. Files can lie deeper within a class.
    ///
    /// # Errors
    /// As [`FileKind::below`]; [`Error::InvalidFile`] also where a file lies beside the classes, and
    /// so has none.
    pub fn by_class(&self, directory: impl AsRef<Path>) -> Result<Vec<(PathBuf, String)>> {
        let directory = directory.as_ref();
        let mut found = Vec::new();
        for path in entries(directory)? {
            if is_directory(&path)? {
                let name = path.file_name().unwrap_or_default();
                let Some(class) = name.to_str() else {
                    let reason = "the name of this directory, a class, is not UTF-8; rename it";
                    return Err(Error::invalid(path, reason));
                };
                let mut files = Vec::new();
                self.walk(&path, DEEPEST, &mut files)?;
                files.sort();
                found.extend(files.into_iter().map(|file| (file, class.to_owned())));
            } else if self.matches(&path) {
                let reason = format!(
                    "has no class: put it into a directory named after its class, or out of {}",
                    directory.display()
                );
                return Err(Error::invalid(path, reason));
            }
        }
        if found.is_empty() {
            return Err(self.none_in(directory));
        }
        Ok(found)
    }

    fn none_in(&self, directory: &Path) -> Error {
        let reason = format!(
            "has no {}; files with these extensions are taken: {}",
            self.name,
            self.extensions.join(", ")
        );
        Error::invalid(directory, reason)
    }

    fn walk(&self, directory: &Path, deeper: usize, files: &mut Vec<PathBuf>) -> Result<()> {
        if deeper == 0 {
            let reason = "directories are nested too deeply, perhaps by a link to one above";
            return Err(Error::invalid(directory, reason));
        }
        for path in entries(directory)? {
            if is_directory(&path)? {
                self.walk(&path, deeper - 1, files)?;
            } else if self.matches(&path) {
                files.push(path);
            }
        }
        Ok(())
    }
}

/// Sorted, without what is hidden.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(Error::io(directory, "read"))? {
        let entry = entry.map_err(Error::io(directory, "read"))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Of what a link leads to; one that leads nowhere is found out when it is read.
fn is_directory(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_dir()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(path, "read")(error)),
    }
}
