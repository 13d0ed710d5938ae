//! Named tensors from files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{AllocationProperty, Bytes};
use half::{bf16, f16};

use super::{mapping, pytorch, safetensors};
use crate::error::{Error, Result};
use crate::json;

/// Element types that weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE 754 double precision.
    F64,
    /// Signed 64-bit integers (buffers such as `position_ids`).
    I64,
    /// Anything else, in the file's own words; listed, never loaded.
    Other(&'static str),
}

impl DType {
    /// Bytes an element takes; 0 for [`DType::Other`].
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::F64 | Self::I64 => 8,
            Self::Other(_) => 0,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
            Self::I64 => "i64",
            Self::Other(name) => name,
        })
    }
}

/// Where a tensor's bytes are.
#[derive(Clone)]
pub(super) enum Source {
    /// A range of a mapped file.
    Mapped {
        map: Arc<memmap2::Mmap>,
        start: usize,
        end: usize,
    },
    /// A tensor of an open PyTorch file.
    PyTorch(Arc<pytorch_reader::Tensor>),
}

/// A part of a mapped file.
struct Section {
    map: Arc<memmap2::Mmap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Section {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

/// One tensor of a checkpoint.
#[derive(Clone)]
pub struct TensorEntry {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) source: Source,
}

impl fmt::Debug for TensorEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
    }
}

impl TensorEntry {
    /// Element type in the file.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape in the file.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
}

/// An ordered set of named tensors from one or more files.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, TensorEntry>,
}

/// Names a model directory's weights go by, in order of preference.
const WEIGHT_FILES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

impl Checkpoint {
    /// Opens a weight file: safetensors, a shard index (`*.index.json`), or a PyTorch pickle.
    ///
    /// The format is told by the content, not by the extension.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read, [`Error::InvalidFile`] where it is damaged,
    /// [`Error::UnsafePickle`] where it asks to run code.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            return Self::open_directory(path);
        }
        let tensors = if is_index(path) {
            open_shards(path)?
        } else {
            let map = mapping::map(path)?;
            match pytorch::sniff(&map) {
                true => pytorch::open(path, &map)?,
                false => safetensors::open(path, &map)?,
            }
        };
        if tensors.is_empty() {
            return Err(Error::invalid(path, "holds no tensors"));
        }
        Ok(Self {
            path: path.to_path_buf(),
            tensors,
        })
    }

    /// Opens the weights of a model directory: `model.safetensors`, its shards, or
    /// `pytorch_model.bin`, whichever is there first in this order.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; [`Error::InvalidFile`] lists the names looked for.
    pub fn open_directory(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        for name in WEIGHT_FILES {
            let path = directory.join(name);
            if path.is_file() {
                return Self::open(path);
            }
        }
        Err(Error::invalid(
            directory,
            format!("no weights found; looked for {}", WEIGHT_FILES.join(", ")),
        ))
    }

    /// The file the checkpoint was opened from (the index, where it is sharded).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold the tensors: the shards, where it is sharded.
    ///
    /// # Errors
    /// Those of reading the index.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        if !is_index(&self.path) {
            return Ok(vec![self.path.clone()]);
        }
        let shards: BTreeSet<String> = read_index(&self.path)?.into_values().collect();
        let directory = self.path.parent().unwrap_or(Path::new("."));
        Ok(shards
            .into_iter()
            .map(|file| directory.join(file))
            .collect())
    }

    /// Names and entries in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorEntry)> {
        self.tensors
            .iter()
            .map(|(name, entry)| (name.as_str(), entry))
    }

    /// The entry of this name.
    pub fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors; never true of an opened checkpoint.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Whether any tensor's name starts with `prefix`.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.tensors
            .range(prefix.to_string()..)
            .next()
            .is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// Reads a tensor as f32 in row-major order, converting from f16, bf16 and f64.
    ///
    /// # Errors
    /// [`Error::MissingTensors`], [`Error::UnsupportedDType`] for other element types, or
    /// [`Error::Io`] where the storage cannot be read.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::MissingTensors {
                path: self.path.clone(),
                names: vec![name.to_string()],
            })?;
        // Nothing is read of what is not converted.
        let values = match entry.dtype {
            DType::I64 | DType::Other(_) => None,
            dtype => self.with_bytes(entry, |bytes| decode(dtype, bytes))?,
        };
        values.ok_or_else(|| Error::UnsupportedDType {
            path: self.path.clone(),
            tensor: name.to_string(),
            dtype: entry.dtype.to_string(),
        })
    }

    /// Calls `f` with a tensor's little-endian bytes in row-major order.
    ///
    /// A mapped file's pages are given back to the system after it, so that a checkpoint does not
    /// stay in memory beside the tensors that are made of it.
    ///
    /// # Errors
    /// [`Error::Io`] where the storage cannot be read.
    pub(super) fn with_bytes<T>(
        &self,
        entry: &TensorEntry,
        f: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        match &entry.source {
            Source::Mapped { map, start, end } => {
                let value = f(&map[*start..*end]);
                #[cfg(unix)]
                {
                    let advice = memmap2::UncheckedAdvice::DontNeed;
                    // SAFETY: the mapping is of a file and never written to: pages that are
                    // dropped are read from the file again when they are next touched. That they
                    // could not be dropped changes nothing.
                    let _ = unsafe { map.unchecked_advise_range(advice, *start, end - start) };
                }
                Ok(value)
            }
            Source::PyTorch(tensor) => {
                let bytes = tensor.read().map_err(Error::io(&self.path, "read"))?;
                Ok(f(&bytes))
            }
        }
    }

    /// The bytes of a tensor of f32 where they lie in the file, which stays mapped as long as they are held; copied
    /// when they are first written to. None where memory cannot be what the file holds: of other types and formats,
    /// on big-endian processors, out of step with a float, and on systems where a mapped file cannot be replaced.
    pub(super) fn mapped_f32(&self, name: &str) -> Option<Bytes> {
        let entry = self.tensors.get(name)?;
        let Source::Mapped { map, start, end } = &entry.source else {
            return None;
        };
        if cfg!(not(unix)) || cfg!(target_endian = "big") || entry.dtype != DType::F32 {
            return None;
        }
        let section = Section {
            map: map.clone(),
            range: *start..*end,
        };
        let aligned = section.as_ref().as_ptr().cast::<f32>().is_aligned();
        let bytes = bytes::Bytes::from_owner(section);
        aligned.then(|| Bytes::from_shared(bytes, AllocationProperty::File))
    }

    /// Reads a tensor of 64-bit integers in row-major order.
    ///
    /// # Errors
    /// [`Error::MissingTensors`], [`Error::InvalidFile`] for other element types, or
    /// [`Error::Io`] where the storage cannot be read.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        let Some(entry) = self.tensors.get(name) else {
            return Err(Error::MissingTensors {
                path: self.path.clone(),
                names: vec![name.to_string()],
            });
        };
        if entry.dtype != DType::I64 {
            let reason = format!(
                "tensor `{name}` is stored as {}; i64 was expected",
                entry.dtype
            );
            return Err(Error::invalid(&self.path, reason));
        }
        self.with_bytes(entry, |bytes| chunks(bytes, i64::from_le_bytes))
    }

    /// Checks every floating-point tensor for NaN and infinite values.
    ///
    /// # Errors
    /// [`Error::NotFinite`] names the first such tensor.
    pub fn check_finite(&self) -> Result<()> {
        for (name, entry) in &self.tensors {
            if matches!(entry.dtype, DType::I64 | DType::Other(_)) {
                continue;
            }
            let values = self.read_f32(name)?;
            if let Some(first) = values.iter().position(|v| !v.is_finite()) {
                return Err(Error::NotFinite {
                    path: self.path.clone(),
                    tensor: name.clone(),
                    count: values.iter().filter(|v| !v.is_finite()).count(),
                    first,
                });
            }
        }
        Ok(())
    }
}

/// Little-endian floats of any width as f32; `None` for what is no float.
pub(super) fn decode(dtype: DType, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        DType::F32 => chunks(bytes, f32::from_le_bytes),
        DType::F16 => chunks(bytes, |b| f16::from_le_bytes(b).to_f32()),
        DType::Bf16 => chunks(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        DType::F64 => chunks(bytes, |b| f64::from_le_bytes(b) as f32),
        DType::I64 | DType::Other(_) => return None,
    })
}

fn chunks<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|chunk| read(*chunk))
        .collect()
}

fn is_index(path: &Path) -> bool {
    path.to_string_lossy().ends_with(".index.json")
}

/// The file of every tensor, as a shard index has it.
fn read_index(index: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: Index = json::read(index)?;
    Ok(parsed.weight_map)
}

/// Opens all shards that an index names.
fn open_shards(index: &Path) -> Result<BTreeMap<String, TensorEntry>> {
    let weight_map = read_index(index)?;
    let directory = index.parent().unwrap_or(Path::new("."));
    let mut shards: BTreeMap<&str, Checkpoint> = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (tensor, file) in &weight_map {
        let plain = Path::new(file)
            .file_name()
            .is_some_and(|name| name == file.as_str());
        if !plain || file.ends_with(".index.json") {
            return Err(Error::invalid(
                index,
                format!(
                    "tensor `{tensor}` is said to be in `{file}`, which is not a plain file name"
                ),
            ));
        }
        if !shards.contains_key(file.as_str()) {
            shards.insert(file, Checkpoint::open(directory.join(file))?);
        }
        let entry = shards[file.as_str()].get(tensor).ok_or_else(|| {
            Error::invalid(
                index,
                format!("tensor `{tensor}` is not in `{file}`, where the index says it is"),
            )
        })?;
        tensors.insert(tensor.clone(), entry.clone());
    }
    Ok(tensors)
}
