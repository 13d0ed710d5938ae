//! Image files in directories.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::files::FileKind;

const IMAGES: FileKind = FileKind {
    name: "images",
    extensions: &[
        "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff",
    ],
};

/// Whether a path has the extension of a format that is read.
pub fn is_image_path(path: impl AsRef<Path>) -> bool {
    IMAGES.matches(path)
}

/// All image files below a directory, by their extension, in sorted order. What is hidden, with a
/// name that begins with a dot, is left out.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) where a directory cannot be read;
/// [`Error::InvalidFile`](crate::Error::InvalidFile) where there is no image, or directories are
/// nested too deeply.
pub fn image_files(directory: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    IMAGES.below(directory)
}

/// The images of a directory with a directory a class, in sorted order, each with the name of its
/// class. Images can lie deeper within a class.
///
/// # Errors
/// As [`image_files`]; [`Error::InvalidFile`](crate::Error::InvalidFile) also where an image lies
/// beside the classes, and so has none.
pub fn images_by_class(directory: impl AsRef<Path>) -> Result<Vec<(PathBuf, String)>> {
    IMAGES.by_class(directory)
}

#[cfg(test)]
mod tests {
    use std::fs;

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
