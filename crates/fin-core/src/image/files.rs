//! Image files in directories.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Extensions of the formats that are read, without regard to case.
const EXTENSIONS: [&str; 10] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff",
];

/// Directories within directories that are looked into; links can lead in circles.
const DEEPEST: usize = 64;

/// Whether a path has the extension of a format that is read.
pub fn is_image_path(path: impl AsRef<Path>) -> bool {
    let extension = path.as_ref().extension().and_then(OsStr::to_str);
    extension.is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(extension))
    })
}

/// All image files below a directory, by their extension, in sorted order. What is hidden, with a
/// name that begins with a dot, is left out.
///
/// # Errors
/// [`Error::Io`] where a directory cannot be read; [`Error::InvalidFile`] where there is no image,
/// or directories are nested too deeply.
pub fn image_files(directory: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let directory = directory.as_ref();
    let mut files = Vec::new();
    walk(directory, DEEPEST, &mut files)?;
    if files.is_empty() {
        return Err(none_in(directory));
    }
    files.sort();
    Ok(files)
}

/// The images of a directory with a directory a class, in sorted order, each with the name of its
/// class. Images can lie deeper within a class.
///
/// # Errors
/// As [`image_files`]; [`Error::InvalidFile`] also where an image lies beside the classes, and so
/// has none.
pub fn images_by_class(directory: impl AsRef<Path>) -> Result<Vec<(PathBuf, String)>> {
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
            walk(&path, DEEPEST, &mut files)?;
            files.sort();
            found.extend(files.into_iter().map(|file| (file, class.to_owned())));
        } else if is_image_path(&path) {
            let reason = format!(
                "has no class: put it into a directory named after its class, or out of {}",
                directory.display()
            );
            return Err(Error::invalid(path, reason));
        }
    }
    if found.is_empty() {
        return Err(none_in(directory));
    }
    Ok(found)
}

fn none_in(directory: &Path) -> Error {
    let reason = format!(
        "has no images; files with these extensions are taken: {}",
        EXTENSIONS.join(", ")
    );
    Error::invalid(directory, reason)
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

fn walk(directory: &Path, deeper: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    if deeper == 0 {
        let reason = "directories are nested too deeply, perhaps by a link to one above";
        return Err(Error::invalid(directory, reason));
    }
    for path in entries(directory)? {
        if is_directory(&path)? {
            walk(&path, deeper - 1, files)?;
        } else if is_image_path(&path) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(directory: &Path, names: &[&str]) {
        for name in names {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    #[test]
    fn images_are_found_below_and_sorted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let error = image_files(root).unwrap_err().to_string();
        assert!(error.contains("has no images"), "{error}");
        put(
            root,
            &[
                "b/2.PNG",
                "b/10.jpg",
                "a.gif",
                "notes.txt",
                ".x/1.png",
                "b/.1.png",
            ],
        );
        let found = image_files(root).unwrap();
        let expected = ["a.gif", "b/10.jpg", "b/2.PNG"].map(|name| root.join(name));
        assert_eq!(found, expected);
        assert!(image_files(root.join("c")).is_err());
    }

    #[test]
    fn directories_are_classes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(
            root,
            &["cat/1.png", "dog/deep/2.webp", "dog/1.bmp", "readme.md"],
        );
        let found = images_by_class(root).unwrap();
        let expected = [
            ("cat/1.png", "cat"),
            ("dog/1.bmp", "dog"),
            ("dog/deep/2.webp", "dog"),
        ];
        assert_eq!(
            found,
            expected.map(|(path, class)| (root.join(path), class.to_owned()))
        );
        put(root, &["stray.png"]);
        let error = images_by_class(root).unwrap_err().to_string();
        assert!(
            error.contains("stray.png") && error.contains("class"),
            "{error}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_circle_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), &["a/1.png"]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/up")).unwrap();
        // The system itself gives up after some links, or we do.
        assert!(image_files(dir.path()).is_err());
    }
}
