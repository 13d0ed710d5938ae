//! What commands need to know of the kind of items that a model reads.

use std::fmt::Debug;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use fin_clip::{ClipEmbedder, ClipItem};
use fin_cnn::ImageEmbedder;
use fin_core::image::{RgbImage, image_files, images_by_class, is_image_path, read_image};
use fin_core::input::{Column, ReadOptions, TextFormat, TextReader};
use fin_core::{Embedder, Error, Result};
use fin_pointnet::MeshEmbedder;
use fin_pointnet::mesh::{Mesh, is_mesh_path, mesh_files, meshes_by_class, render};
use fin_registry::AnyEmbedder;
use fin_transformer::TextEmbedder;

/// What an item is, where a model reads more than one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A text.
    Text,
    /// The path of an image file.
    Image,
}

/// An item of a model as it stands in files.
pub trait Item: Clone + Debug + Eq + Hash + Send + Sync + 'static {
    /// From a cell of a file in the directory `base`, of the kind that was asked for.
    fn from_cell(cell: String, base: &Path, kind: Option<Kind>) -> Self;

    /// As it is shown and written.
    fn key(&self) -> String;

    /// Appends the bytes that [`Item::from_bytes`] makes it of.
    fn to_bytes(&self, bytes: &mut Vec<u8>) -> Result<()>;

    /// The item that has these bytes, if any.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;

    /// What it is, where a model reads more than one kind.
    fn kind(&self) -> Option<Kind> {
        None
    }

    /// Whether it is the path of a file.
    fn is_path(&self) -> bool {
        self.kind() == Some(Kind::Image)
    }
}

impl Item for String {
    fn from_cell(cell: String, _: &Path, _: Option<Kind>) -> Self {
        cell
    }

    fn key(&self) -> String {
        self.clone()
    }

    fn to_bytes(&self, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.extend_from_slice(self.as_bytes());
        Ok(())
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(std::str::from_utf8(bytes).ok()?.to_owned())
    }
}

impl Item for PathBuf {
    fn from_cell(cell: String, base: &Path, _: Option<Kind>) -> Self {
        base.join(cell)
    }

    fn key(&self) -> String {
        self.display().to_string()
    }

    #[cfg(unix)]
    fn to_bytes(&self, bytes: &mut Vec<u8>) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        bytes.extend_from_slice(self.as_os_str().as_bytes());
        Ok(())
    }

    #[cfg(unix)]
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt;
        Some(std::ffi::OsStr::from_bytes(bytes).into())
    }

    #[cfg(not(unix))]
    fn to_bytes(&self, bytes: &mut Vec<u8>) -> Result<()> {
        match self.to_str() {
            Some(text) => text.to_owned().to_bytes(bytes),
            None => Err(Error::invalid(self, "has a name that is not Unicode")),
        }
    }

    #[cfg(not(unix))]
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        String::from_bytes(bytes).map(Self::from)
    }

    fn is_path(&self) -> bool {
        true
    }
}

impl Item for ClipItem {
    /// Without a kind, what has the extension of an image is one.
    fn from_cell(cell: String, base: &Path, kind: Option<Kind>) -> Self {
        let is_image = match kind {
            Some(kind) => kind == Kind::Image,
            None => is_image_path(&cell),
        };
        match is_image {
            true => Self::Image(base.join(cell)),
            false => Self::Text(cell),
        }
    }

    fn key(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Image(path) => path.display().to_string(),
        }
    }

    fn to_bytes(&self, bytes: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Text(text) => {
                bytes.push(0);
                text.to_bytes(bytes)
            }
            Self::Image(path) => {
                bytes.push(1);
                path.to_bytes(bytes)
            }
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (0, text) => String::from_bytes(text).map(Self::Text),
            (1, path) => PathBuf::from_bytes(path).map(Self::Image),
            _ => None,
        }
    }

    fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Text(_) => Kind::Text,
            Self::Image(_) => Kind::Image,
        })
    }
}

/// How the items of a file are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading<'a> {
    /// Column that they are in.
    pub column: Option<&'a Column>,
    /// What the file is.
    pub options: ReadOptions,
    /// What they are.
    pub kind: Option<Kind>,
}

/// Items one after the other.
pub type Items<I> = Box<dyn Iterator<Item = Result<I>>>;

/// Items with a label each.
pub type Labelled<I> = Vec<(I, String)>;

/// Models that read the same kind of items.
pub trait Family {
    type Item: Item;
    type Embedder: Embedder<Item = Self::Item> + 'static;

    /// Words for one item and for several.
    const NAMES: [&str; 2];
    /// Name of their column in what is written.
    const KEY: &str;
    /// Whether the items are files.
    const ARE_FILES: bool;
    /// Items in memory at a time, at most.
    const WINDOW: usize;

    /// The embedder in an open model.
    fn of(model: AnyEmbedder) -> Result<Self::Embedder>;

    /// The items of a file, a directory or a pattern.
    fn read(path: &Path, reading: Reading<'_>) -> Result<Items<Self::Item>>;

    /// Items with a class each, of a directory; `None` where these items are not files.
    fn by_class(directory: &Path) -> Option<Result<Labelled<Self::Item>>>;

    /// What an item looks like; `None` for texts and for what cannot be read.
    fn picture(item: &Self::Item, max_pixels: u64) -> Option<RgbImage>;
}

/// Calls a function that is generic over [`Family`] with the family of a modality, as in
/// `for_family!(modality, run_with(args, registry))`.
macro_rules! for_family {
    ($modality:expr, $function:ident($($argument:expr),*)) => {
        match $modality {
            fin_registry::Modality::Text => $function::<$crate::family::Texts>($($argument),*),
            fin_registry::Modality::Image => $function::<$crate::family::Images>($($argument),*),
            fin_registry::Modality::TextImage => $function::<$crate::family::TextsAndImages>($($argument),*),
            fin_registry::Modality::Mesh => $function::<$crate::family::Meshes>($($argument),*),
        }
    };
}
pub(crate) use for_family;

pub struct Texts;

impl Family for Texts {
    type Item = String;
    type Embedder = TextEmbedder;

    const NAMES: [&str; 2] = ["text", "texts"];
    const KEY: &str = "text";
    const ARE_FILES: bool = false;
    const WINDOW: usize = 4096;

    fn of(model: AnyEmbedder) -> Result<TextEmbedder> {
        match model {
            AnyEmbedder::Text(embedder) => Ok(*embedder),
            other => other.text().cloned(),
        }
    }

    fn read(path: &Path, reading: Reading<'_>) -> Result<Items<String>> {
        let reading = only(Kind::Text, reading)?;
        refuse_other(path, "texts", reading)?;
        Ok(Box::new(TextReader::open(
            path,
            reading.column,
            reading.options,
        )?))
    }

    fn by_class(_: &Path) -> Option<Result<Labelled<String>>> {
        None
    }

    fn picture(_: &String, _: u64) -> Option<RgbImage> {
        None
    }
}

pub struct Images;

impl Family for Images {
    type Item = PathBuf;
    type Embedder = ImageEmbedder;

    const NAMES: [&str; 2] = ["image", "images"];
    const KEY: &str = "path";
    const ARE_FILES: bool = true;
    const WINDOW: usize = 1024;

    fn of(model: AnyEmbedder) -> Result<ImageEmbedder> {
        match model {
            AnyEmbedder::Image(embedder) => Ok(*embedder),
            other => other.image().cloned(),
        }
    }

    fn read(path: &Path, reading: Reading<'_>) -> Result<Items<PathBuf>> {
        let reading = only(Kind::Image, reading)?;
        match found_files(path, |path| is_image_path(path), |path| image_files(path))? {
            Some(files) => Ok(Box::new(files.into_iter().map(Ok))),
            None => {
                refuse_other(path, "images", reading)?;
                listed_files(path, &["path", "image", "file"], reading)
            }
        }
    }

    fn by_class(directory: &Path) -> Option<Result<Labelled<PathBuf>>> {
        directory.is_dir().then(|| images_by_class(directory))
    }

    fn picture(item: &PathBuf, max_pixels: u64) -> Option<RgbImage> {
        read_image(item, max_pixels).ok()
    }
}

pub struct Meshes;

impl Family for Meshes {
    type Item = PathBuf;
    type Embedder = MeshEmbedder;

    const NAMES: [&str; 2] = ["mesh", "meshes"];
    const KEY: &str = "path";
    const ARE_FILES: bool = true;
    const WINDOW: usize = 256;

    fn of(model: AnyEmbedder) -> Result<MeshEmbedder> {
        match model {
            AnyEmbedder::Mesh(embedder) => Ok(*embedder),
            other => other.mesh().cloned(),
        }
    }

    fn read(path: &Path, reading: Reading<'_>) -> Result<Items<PathBuf>> {
        if reading.kind.is_some() {
            return Err(one_kind());
        }
        match found_files(path, |path| is_mesh_path(path), |path| mesh_files(path))? {
            Some(files) => Ok(Box::new(files.into_iter().map(Ok))),
            None => {
                refuse_other(path, "meshes", reading)?;
                listed_files(path, &["path", "mesh", "file"], reading)
            }
        }
    }

    fn by_class(directory: &Path) -> Option<Result<Labelled<PathBuf>>> {
        directory.is_dir().then(|| meshes_by_class(directory))
    }

    fn picture(item: &PathBuf, _: u64) -> Option<RgbImage> {
        const SIDE: usize = 192;
        let pixels = render(&Mesh::open(item).ok()?, SIDE);
        RgbImage::new(SIDE, SIDE, pixels)
    }
}

/// Texts and images, which one model compares with each other.
pub struct TextsAndImages;

impl Family for TextsAndImages {
    type Item = ClipItem;
    type Embedder = ClipEmbedder;

    const NAMES: [&str; 2] = ["item", "items"];
    const KEY: &str = "item";
    const ARE_FILES: bool = false;
    const WINDOW: usize = 1024;

    fn of(model: AnyEmbedder) -> Result<ClipEmbedder> {
        match model {
            AnyEmbedder::Clip(embedder) => Ok(*embedder),
            other => other.clip().cloned(),
        }
    }

    /// Images as [`Images`] reads them; a file's cells are texts but for those that are paths of
    /// images.
    fn read(path: &Path, reading: Reading<'_>) -> Result<Items<ClipItem>> {
        if reading.kind != Some(Kind::Text)
            && let Some(files) =
                found_files(path, |path| is_image_path(path), |path| image_files(path))?
        {
            return Ok(Box::new(
                files.into_iter().map(|path| Ok(ClipItem::Image(path))),
            ));
        }
        let read = match reading.kind {
            Some(Kind::Text) => "texts, by --modality text",
            Some(Kind::Image) => "images, by --modality image",
            None => "texts and images",
        };
        refuse_other(path, read, reading)?;
        if reading.kind == Some(Kind::Image) {
            let files = listed_files(path, &["path", "image", "file"], reading)?;
            return Ok(Box::new(files.map(|path| Ok(ClipItem::Image(path?)))));
        }
        let base = base_of(path);
        let cells = TextReader::open(path, reading.column, reading.options)?;
        Ok(Box::new(cells.map(move |cell| {
            Ok(ClipItem::from_cell(cell?, &base, reading.kind))
        })))
    }

    fn by_class(directory: &Path) -> Option<Result<Labelled<ClipItem>>> {
        let image = |(path, class)| (ClipItem::Image(path), class);
        let found = directory.is_dir().then(|| images_by_class(directory))?;
        Some(found.map(|found| found.into_iter().map(image).collect()))
    }

    fn picture(item: &ClipItem, max_pixels: u64) -> Option<RgbImage> {
        match item {
            ClipItem::Text(_) => None,
            ClipItem::Image(path) => Images::picture(path, max_pixels),
        }
    }
}

/// The same, where the kind that was asked for is the only one that the model reads.
fn only(kind: Kind, reading: Reading<'_>) -> Result<Reading<'_>> {
    match reading.kind {
        Some(other) if other != kind => Err(one_kind()),
        _ => Ok(reading),
    }
}

fn one_kind() -> Error {
    let reason = "is for models of texts and images; this one reads one kind; leave it out";
    Error::argument("modality", reason)
}

/// The files of a directory, of a pattern with `*`, `?` or `[`, or the file itself where `is_item`
/// says that it is one.
fn found_files(
    path: &Path,
    is_item: impl Fn(&Path) -> bool,
    in_directory: impl Fn(&Path) -> Result<Vec<PathBuf>>,
) -> Result<Option<Vec<PathBuf>>> {
    if path.is_dir() {
        return in_directory(path).map(Some);
    }
    if is_item(path) && path.exists() {
        return Ok(Some(vec![path.to_path_buf()]));
    }
    let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']));
    if let Some(pattern) = pattern.filter(|_| !path.exists()) {
        return matching(pattern).map(Some);
    }
    if is_item(path) {
        return Err(Error::io(path, "open")(std::io::ErrorKind::NotFound.into()));
    }
    Ok(None)
}

/// Says that a file is of a kind that the model does not read, which [`TextReader`] does not know.
fn refuse_other(path: &Path, read: &str, reading: Reading<'_>) -> Result<()> {
    let is_list = reading.options.format.is_some() || TextFormat::from_path(path).is_ok();
    let other = match path {
        _ if is_list => return Ok(()),
        path if is_image_path(path) => "an image",
        path if is_mesh_path(path) => "a mesh",
        _ => return Ok(()),
    };
    let reason = format!(
        "is {other} by its extension, but the model reads {read}; give those, or a model for it \
         (`fin models` lists them)"
    );
    Err(Error::invalid(path, reason))
}

/// The paths in a file, which are relative to the directory that it is in. Without a column it is
/// the first of `columns` that there is, or the only one.
fn listed_files(path: &Path, columns: &[&str], reading: Reading<'_>) -> Result<Items<PathBuf>> {
    let base = base_of(path);
    let cells = read_cells(path, columns, reading)?;
    Ok(Box::new(cells.map(move |cell| {
        Ok(PathBuf::from_cell(cell?, &base, None))
    })))
}

/// The directory that cells of a file are relative to; for stdin it is the current one.
pub fn base_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_path_buf()
}

fn read_cells(path: &Path, columns: &[&str], reading: Reading<'_>) -> Result<TextReader> {
    let (column, read) = (reading.column, reading.options);
    let has_columns = path != Path::new("-")
        && read.format.or(TextFormat::from_path(path).ok()) != Some(TextFormat::Txt);
    if column.is_none() && has_columns {
        for name in columns {
            match TextReader::open(path, Some(&Column::from(*name)), read) {
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
        let found = Images::read(path, Reading::default()).unwrap();
        found.map(|item| item.unwrap().key()).collect()
    }

    #[test]
    fn files_of_another_kind_are_called_what_they_are() {
        fn message<F: Family>(name: &str, kind: Option<Kind>) -> String {
            let reading = Reading {
                kind,
                ..Reading::default()
            };
            let outcome = F::read(Path::new(name), reading);
            outcome.err().map(|error| error.to_string()).unwrap()
        }
        for (found, expected) in [
            (
                message::<Images>("a.obj", None),
                ["a.obj", "a mesh", "reads images"],
            ),
            (
                message::<Meshes>("a.PNG", None),
                ["a.PNG", "an image", "reads meshes"],
            ),
            (
                message::<Texts>("a.jpg", None),
                ["a.jpg", "an image", "reads texts"],
            ),
            (
                message::<TextsAndImages>("a.glb", None),
                ["a.glb", "a mesh", "reads texts and images"],
            ),
            (
                message::<TextsAndImages>("a.png", Some(Kind::Text)),
                ["a.png", "--modality text", "an image"],
            ),
        ] {
            for part in expected {
                assert!(found.contains(part), "{found} is without {part}");
            }
            assert!(!found.contains(".jsonl"), "{found}");
        }
        // Of no kind that is known: what lists are made of is said.
        let found = message::<Images>("a.docx", None);
        assert!(found.contains(".jsonl"), "{found}");
    }

    #[test]
    fn items_are_what_their_bytes_say() {
        fn there_and_back<I: Item>(item: I) {
            let mut bytes = vec![];
            item.to_bytes(&mut bytes).unwrap();
            assert_eq!(I::from_bytes(&bytes), Some(item));
        }
        for text in ["", "a\nb", "\u{e9}.png"] {
            there_and_back(text.to_owned());
            there_and_back(PathBuf::from(text));
            there_and_back(ClipItem::Text(text.into()));
            there_and_back(ClipItem::Image(text.into()));
        }
        assert_eq!(String::from_bytes(b"\xff"), None);
        assert_eq!(ClipItem::from_bytes(b"\x02a"), None);
        assert_eq!(ClipItem::from_bytes(b""), None);
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
            let error = Images::read(&path, Reading::default()).err().unwrap();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
