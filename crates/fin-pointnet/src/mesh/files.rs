//! Mesh files in directories.

use std::path::{Path, PathBuf};

use fin_core::Result;
use fin_core::files::FileKind;

use super::MeshFormat;

const MESHES: FileKind = FileKind {
    name: "meshes",
    extensions: MeshFormat::EXTENSIONS,
};

/// Whether a path has the extension of a format that is read.
pub fn is_mesh_path(path: impl AsRef<Path>) -> bool {
    MESHES.matches(path)
}

/// All meshes and point clouds below a directory, by their extension, in sorted order. What is
/// hidden, with a name that begins with a dot, is left out.
///
/// # Errors
/// [`Error::Io`](fin_core::Error::Io) where a directory cannot be read;
/// [`Error::InvalidFile`](fin_core::Error::InvalidFile) where there is no mesh, or directories are
/// nested too deeply.
pub fn mesh_files(directory: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    MESHES.below(directory)
}

/// The meshes of a directory with a directory a class, in sorted order, each with the name of its
/// class. Meshes can lie deeper within a class.
///
/// # Errors
/// As [`mesh_files`]; [`Error::InvalidFile`](fin_core::Error::InvalidFile) also where a mesh lies
/// beside the classes, and so has none.
pub fn meshes_by_class(directory: impl AsRef<Path>) -> Result<Vec<(PathBuf, String)>> {
    MESHES.by_class(directory)
}
