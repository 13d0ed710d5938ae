//! What commands need to know of the kind of items that a model reads.

use std::fmt::Debug;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use fin_cnn::ImageEmbedder;
use fin_core::image::{image_files, images_by_class, is_image_path};
use fin_core::input::{Column, ReadOptions, TextFormat, TextReader};
use fin_core::{Embedder, Error, Result};
use fin_registry::AnyEmbedder;
use fin_transformer::TextEmbedder;

/// An item of a model as it stands in files.
pub trait Item: Clone + Debug + Eq + Hash + Send + Sync + 'static {
    /// From a cell of a file in the directory `base`.
    fn from_cell(cell: String, base: &Path) -> Self;

    /// As it is shown and written.
    fn key(&self) -> String;

    /// The file, where it is an image.
    fn image(&self) -> Option<&Path> {
        None
    }
}

impl Item for String {
    fn from_cell(cell: String, _: &Path) -> Self {
        cell
    }

    fn key(&self) -> String {
        self.clone()
    }
}

impl Item for PathBuf {
    fn from_cell(cell: String, base: &Path) -> Self {
        base.join(cell)
    }

    fn key(&self) -> String {
        self.display().to_string()
    }

    fn image(&self) -> Option<&Path> {
        Some(self)
    }
}

/// Items one after the other.
pub type Items<I> = Box<dyn Iterator<Item = Result<I>>>;

/// Items with a label each.
pub type Labelled<I> = Vec<(I, String)>;

/// Models that read one kind of items.
pub trait Family {
    type Item: Item;
    type Embedder: Embedder<Item = Self::Item> + 'static;

    /// Words for one item and for several.
    const NAMES: [&str; 2];
    /// Name of their column in what is written.
    const KEY: &str;
    /// Items in memory at a time, at most.
    const WINDOW: usize;

    /// The embedder in an open model.
    fn of(model: AnyEmbedder) -> Result<Self::Embedder>;

    /// The items of a file, a directory or a pattern.
    fn read(path: &Path, column: Option<&Column>, read: ReadOptions) -> Result<Items<Self::Item>>;

    /// Items with a class each, of a directory; `None` where these items are not files.
    fn by_class(directory: &Path) -> Option<Result<Labelled<Self::Item>>>;
}

pub struct Texts;

impl Family for Texts {
    type Item = String;
    type Embedder = TextEmbedder;

    const NAMES: [&str; 2] = ["text", "texts"];
    const KEY: &str = "text";
    const WINDOW: usize = 4096;

    fn of(model: AnyEmbedder) -> Result<TextEmbedder> {
        match model {
            AnyEmbedder::Text(embedder) => Ok(*embedder),
            other => other.text().cloned(),
        }
    }

    fn read(path: &Path, column: Option<&Column>, read: ReadOptions) -> Result<Items<String>> {
        Ok(Box::new(TextReader::open(path, column, read)?))
    }

    fn by_class(_: &Path) -> Option<Result<Labelled<String>>> {
        None
    }
}

pub struct Images;

impl Family for Images {
    type Item = PathBuf;
    type Embedder = ImageEmbedder;

    const NAMES: [&str; 2] = ["image", "images"];
    const KEY: &str = "path";
    const WINDOW: usize = 1024;

    fn of(model: AnyEmbedder) -> Result<ImageEmbedder> {
        match model {
            AnyEmbedder::Image(embedder) => Ok(*embedder),
            other => other.image().cloned(),
        }
    }

    /// A directory, an image file, a pattern with `*`, `?` or `[`, or a file of paths, which are
    /// relative to the directory that it is in.
    fn read(path: &Path, column: Option<&Column>, read: ReadOptions) -> Result<Items<PathBuf>> {
        if path.is_dir() {
            return Ok(all(image_files(path)?));
        }
        if is_image_path(path) && path.exists() {
            return Ok(all(vec![path.to_path_buf()]));
        }
        let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']));
        if let Some(pattern) = pattern.filter(|_| !path.exists()) {
            return Ok(all(matching(pattern)?));
        }
        if is_image_path(path) {
            return Err(Error::io(path, "open")(std::io::ErrorKind::NotFound.into()));
        }
        let base = base_of(path);
        let cells = read_cells(path, column, read)?;
        Ok(Box::new(
            cells.map(move |cell| Ok(PathBuf::from_cell(cell?, &base))),
        ))
    }

    fn by_class(directory: &Path) -> Option<Result<Labelled<PathBuf>>> {
        directory.is_dir().then(|| images_by_class(directory))
    }
}

/// The directory that cells of a file are relative to; for stdin it is the current one.
pub fn base_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_path_buf()
}

fn all(paths: Vec<PathBuf>) -> Items<PathBuf> {
    Box::new(paths.into_iter().map(Ok))
}

/// Names of the column of paths, where none is chosen.
const PATH_COLUMNS: [&str; 3] = ["path", "image", "file"];

fn read_cells(path: &Path, column: Option<&Column>, read: ReadOptions) -> Result<TextReader> {
    let has_columns = path != Path::new("-")
        && read.format.or(TextFormat::from_path(path).ok()) != Some(TextFormat::Txt);
    if column.is_none() && has_columns {
        for name in PATH_COLUMNS {
            match TextReader::open(path, Some(&Column::from(name)), read) {
                Err(Error::Column { .. } | Error::Row { .. }) => {}
                other => return other,
            }
        }
    }
    TextReader::open(path, column, read)
}

fn matching(pattern: &str) -> Result<Vec<PathBuf>> {
    let bad = |reason: String| Error::argument("input", format!("`{pattern}` {reason}"));
    let paths = glob::glob(pattern).map_err(|e| bad(format!("is not a pattern: {e}")))?;
    let mut found = Vec::new();
    for path in paths {
        let path =
            path.map_err(|e| Error::io(e.path(), "read")(std::io::Error::from(e.error().kind())))?;
        if path.is_file() {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(bad("matches no file".into()));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(path: &Path) -> Vec<String> {
        let found = Images::read(path, None, ReadOptions::default()).unwrap();
        found.map(|item| item.unwrap().key()).collect()
    }

    #[test]
    fn images_come_from_directories_patterns_and_files_of_paths() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["b.png", "a.jpg", "c/d.png"] {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let full = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| root.join(name).key()).collect()
        };
        assert_eq!(images(root), full(&["a.jpg", "b.png", "c/d.png"]));
        assert_eq!(images(&root.join("*.png")), full(&["b.png"]));
        assert_eq!(images(&root.join("**/*.png")), full(&["b.png", "c/d.png"]));
        assert_eq!(images(&root.join("b.png")), full(&["b.png"]));
        let list = root.join("list.csv");
        std::fs::write(&list, "label,path\nx,b.png\ny,c/d.png\n").unwrap();
        assert_eq!(images(&list), full(&["b.png", "c/d.png"]));
        std::fs::write(&list, "name\nb.png\n").unwrap();
        assert_eq!(images(&list), full(&["b.png"]));
        let list = root.join("list.txt");
        std::fs::write(&list, "c/d.png\n/b.png\n").unwrap();
        assert_eq!(images(&list), [root.join("c/d.png").key(), "/b.png".into()]);
        for (name, part) in [
            ("*.gif", "matches no file"),
            ("no.png", "no.png"),
            ("no", "no"),
        ] {
            let path = root.join(name);
            let error = Images::read(&path, None, ReadOptions::default())
                .err()
                .unwrap();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
