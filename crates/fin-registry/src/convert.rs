//! Upstream checkpoints into model directories of safetensors.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use fin_clip::ClipConversion;
use fin_cnn::ImageConversion;
use fin_core::atomic::AtomicDir;
use fin_core::weights::{Checkpoint, FloatType, Mapping, write_converted};
use fin_core::{Error, Result};
use fin_pointnet::MeshConversion;
use fin_transformer::convert::TextConversion;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::build::{Registry, differing, image_config, mesh_config, weights_of};
use crate::catalogue::{Architecture, ModelRow, Task};

/// Name of the file that says what a converted directory holds and where it came from.
pub const MANIFEST: &str = "fin.json";

/// How a checkpoint is converted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Element type of the weights that are written.
    pub dtype: FloatType,
    /// Leave tensors out that nothing is known about, rather than refuse.
    pub allow_unused: bool,
    /// Write what there is where parameters have no tensor, rather than refuse. Such a directory
    /// does not open before they are added.
    pub allow_missing: bool,
}

/// A file and its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileDigest {
    /// Path, of outputs below the directory.
    pub file: String,
    /// In lower-case hexadecimal.
    pub sha256: String,
}

/// What was converted into what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConvertReport {
    /// Name in the catalogue.
    pub model: String,
    /// Weight files that were read.
    pub inputs: Vec<FileDigest>,
    /// Weight files that were written.
    pub outputs: Vec<FileDigest>,
    /// What became of every tensor, a weight file at a time.
    pub mappings: Vec<FileMapping>,
    /// Where the checkpoint is not what the catalogue says, for a person.
    pub notes: Vec<String>,
}

/// What became of the tensors of one weight file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileMapping {
    /// Weight file that was written.
    pub file: String,
    /// Tensors that were carried over.
    pub tensors: Vec<TensorMapping>,
    /// Parameters without a tensor.
    pub missing: Vec<String>,
    /// Tensors that are known and not wanted.
    pub ignored: Vec<String>,
    /// Tensors that nothing is known about.
    pub unused: Vec<String>,
}

/// A tensor that was carried over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorMapping {
    /// Key in the input.
    pub source: String,
    /// Key in the output.
    pub target: String,
    /// Shape in both.
    pub shape: Vec<usize>,
    /// Element type in the input.
    pub from: String,
    /// Element type in the output.
    pub to: String,
}

impl fmt::Display for ConvertReport {
    /// A line a tensor, then the counts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mapping in &self.mappings {
            writeln!(f, "{}", mapping.file)?;
            let width = |name: fn(&TensorMapping) -> &str| {
                let widths = mapping.tensors.iter().map(|t| name(t).len());
                widths.max().unwrap_or(0)
            };
            let (left, right) = (width(|t| &t.source), width(|t| &t.target));
            for tensor in &mapping.tensors {
                writeln!(
                    f,
                    "  {:<left$} -> {:<right$}  {} -> {}  {:?}",
                    tensor.source, tensor.target, tensor.from, tensor.to, tensor.shape
                )?;
            }
            for (what, names) in [
                ("left aside", &mapping.ignored),
                ("unknown", &mapping.unused),
                ("missing", &mapping.missing),
            ] {
                for name in names {
                    writeln!(f, "  {name}  {what}")?;
                }
            }
            writeln!(
                f,
                "  {} tensors carried over, {} left aside, {} unknown, {} missing",
                mapping.tensors.len(),
                mapping.ignored.len(),
                mapping.unused.len(),
                mapping.missing.len()
            )?;
        }
        for (what, files) in [("read", &self.inputs), ("wrote", &self.outputs)] {
            for file in files {
                writeln!(f, "{what} {}  sha256 {}", file.file, file.sha256)?;
            }
        }
        Ok(())
    }
}

impl Registry {
    /// Converts the checkpoint of the model `name` into the directory `to`.
    ///
    /// `from` is a directory as upstream publishes it, or a weight file in one; without it the
    /// model's files are found by [`Registry::locate`]. Weights are written as safetensors under
    /// upstream's key names, small files beside them in the layout of sentence-transformers, and
    /// [`MANIFEST`] with architecture, preprocessing, pooling, source, licence and digests.
    /// `check` sees the finished directory before it takes its name, and can refuse it.
    ///
    /// # Errors
    /// [`Error::Argument`] for an unknown name; [`Error::UnusedTensors`] and
    /// [`Error::MissingTensors`] unless the options allow them; those of reading the checkpoint.
    /// Nothing is left behind then, and an existing directory is as it was.
    pub fn convert<T>(
        &self,
        name: &str,
        from: Option<&Path>,
        to: &Path,
        options: &ConvertOptions,
        check: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<(ConvertReport, T)> {
        let row = self.catalogue.find(name)?;
        if let Some(path) = from.filter(|path| !path.is_dir()) {
            File::open(path).map_err(Error::io(path, "open"))?;
        }
        let mut plan = match row.architecture {
            Architecture::Cnn | Architecture::Pointnet => {
                let path = match from {
                    Some(path) => path.to_path_buf(),
                    None => self.locate(name)?.0,
                };
                let path = match path.join(MANIFEST).is_file() {
                    true => path,
                    false => weights_of(&path, row)?,
                };
                match row.architecture {
                    Architecture::Cnn => Plan::image(row, &path)?,
                    _ => Plan::mesh(row, &path)?,
                }
            }
            _ => {
                let (directory, weights) = match from {
                    None => (self.locate(name)?.0, None),
                    Some(path) if path.is_dir() => (path.to_path_buf(), None),
                    Some(path) => {
                        let directory = path
                            .parent()
                            .filter(|parent| !parent.as_os_str().is_empty());
                        let directory = directory.unwrap_or(Path::new("."));
                        (directory.to_path_buf(), Some(path))
                    }
                };
                match row.task {
                    Task::TextToImage => Plan::clip(row, &directory, weights)?,
                    _ => Plan::text(row, &directory, weights)?,
                }
            }
        };
        for part in &plan.parts {
            refuse(part, options)?;
        }
        let mut notes = std::mem::take(&mut plan.notes);
        let target = AtomicDir::create(to)?;
        let put = |name: &str, bytes: &[u8]| -> Result<()> {
            let path = target.path().join(name);
            create_parent(&path)?;
            std::fs::write(&path, bytes).map_err(Error::io(to.join(name), "write"))
        };
        for (name, bytes) in &plan.files {
            put(name, bytes)?;
        }
        for name in &plan.directories {
            let path = target.path().join(name);
            std::fs::create_dir_all(&path).map_err(Error::io(to.join(name), "create"))?;
        }
        let mut inputs = Vec::new();
        let mut outputs = Vec::new();
        let mut mappings = Vec::new();
        for part in &plan.parts {
            for input in part.checkpoint.files()? {
                let sha256 = digest(&input)?;
                if let Some(known) = &row.sha256
                    && input
                        .file_name()
                        .is_some_and(|file| file == row.weights.as_str())
                    && ["model.safetensors", "open_clip_model.safetensors"]
                        .contains(&part.target.as_str())
                    && !sha256.starts_with(known)
                {
                    notes.push(format!(
                        "sha256 of {} is {sha256}, that of the catalogue is {known}",
                        input.display()
                    ));
                }
                inputs.push(FileDigest {
                    file: input.display().to_string(),
                    sha256,
                });
            }
            let path = target.path().join(&part.target);
            let shown = to.join(&part.target);
            create_parent(&path)?;
            let file = File::create(&path).map_err(Error::io(&shown, "create"))?;
            let mut out = Hashing::new(BufWriter::new(file));
            write_converted(
                &part.checkpoint,
                &part.mapping,
                options.dtype,
                &shown,
                &mut out,
            )?;
            let sha256 = out.finish().map_err(Error::io(&shown, "write"))?;
            outputs.push(FileDigest {
                file: part.target.clone(),
                sha256,
            });
            mappings.push(file_mapping(&part.target, &part.mapping, options.dtype));
        }
        let files = json!({
            "dtype": options.dtype.name(),
            "inputs": inputs.iter().map(|input| json!({
                // Where the file was on this machine says nothing elsewhere.
                "file": Path::new(&input.file).file_name().map(|name| name.to_string_lossy()),
                "sha256": input.sha256,
            })).collect::<Vec<_>>(),
            "outputs": outputs,
            "written_by": concat!("fin ", env!("CARGO_PKG_VERSION")),
        });
        let manifest = plan.manifest(files);
        put(MANIFEST, format!("{manifest:#}\n").as_bytes())?;
        // Mapped inputs are let go of before anything else is opened.
        drop(plan);
        let checked = check(target.path())?;
        target.commit()?;
        let report = ConvertReport {
            model: row.name.clone(),
            inputs,
            outputs,
            mappings,
            notes,
        };
        Ok((report, checked))
    }
}

fn create_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent).map_err(Error::io(parent, "create")),
        None => Ok(()),
    }
}

/// One weight file of a plan.
struct Part {
    /// Path below the directory.
    target: String,
    checkpoint: Checkpoint,
    mapping: Mapping,
}

/// What goes where, for a model of any family.
struct Plan {
    parts: Vec<Part>,
    /// Small files, as `(path below the directory, content)`.
    files: Vec<(String, Vec<u8>)>,
    directories: Vec<String>,
    /// Where the checkpoint is not what the row says.
    notes: Vec<String>,
    /// What the model is.
    description: Value,
    /// Field of the manifest that says what was read and written; without one these are beside the
    /// description.
    provenance: Option<&'static str>,
}

impl Plan {
    fn text(row: &ModelRow, directory: &Path, weights: Option<&Path>) -> Result<Self> {
        let pooling = Some(vec![row.pooling]);
        let plan = TextConversion::plan(directory, weights, pooling, Some(row.normalize))?;
        let notes = contradictions(row, &plan);
        let description = json!({
            "family": "transformer",
            "model": row.name,
            "task": row.task,
            "architecture": row.architecture,
            "dialect": plan.config.model_type(),
            "output_dim": plan.output_dim,
            "preprocessing": row.preprocessing,
            "pooling": plan.pooling,
            "normalize": plan.normalize,
            "max_length": plan.max_length,
            "source": row.source,
            "revision": row.revision,
            "licence": row.licence,
        });
        let parts = plan.parts.into_iter().map(|part| Part {
            target: part.target,
            checkpoint: part.checkpoint,
            mapping: part.mapping,
        });
        Ok(Self {
            parts: parts.collect(),
            files: plan.files,
            directories: plan.directories,
            notes,
            description,
            provenance: None,
        })
    }

    fn image(row: &ModelRow, path: &Path) -> Result<Self> {
        let mut plan = ImageConversion::plan(path, &image_config(row)?)?;
        let fields = [
            ("dialect", row.dialect.clone(), plan.dialect.name().into()),
            (
                "output_dim",
                row.output_dim.to_string(),
                plan.output_dim.to_string(),
            ),
        ];
        let notes = differing(fields).map(|found| found.to_string()).collect();
        plan.config.source.get_or_insert_with(|| row.source.clone());
        plan.config
            .licence
            .get_or_insert_with(|| row.licence.clone());
        plan.config.provenance = Some(json!({
            "model": row.name,
            "task": row.task,
            "dialect": plan.dialect.name(),
            "output_dim": plan.output_dim,
            "revision": row.revision,
        }));
        let description = serde_json::to_value(&plan.config)
            .map_err(|e| Error::invalid(MANIFEST, format!("cannot be written: {e}")))?;
        Ok(Self {
            parts: vec![Part {
                target: "model.safetensors".into(),
                checkpoint: plan.checkpoint,
                mapping: plan.mapping,
            }],
            files: Vec::new(),
            directories: Vec::new(),
            notes,
            description,
            provenance: Some("provenance"),
        })
    }

    fn clip(row: &ModelRow, directory: &Path, weights: Option<&Path>) -> Result<Self> {
        let mut plan = ClipConversion::plan(directory, weights)?;
        let output_dim = plan.config.projection_dim;
        let max_length = plan.config.text.context_length();
        let fields = [
            ("dialect", row.dialect.clone(), plan.dialect.name().into()),
            (
                "output_dim",
                row.output_dim.to_string(),
                output_dim.to_string(),
            ),
            (
                "max_length",
                row.max_length.unwrap_or_default().to_string(),
                max_length.to_string(),
            ),
        ];
        let notes = differing(fields).map(|found| found.to_string()).collect();
        plan.manifest
            .source
            .get_or_insert_with(|| row.source.clone());
        plan.manifest
            .licence
            .get_or_insert_with(|| row.licence.clone());
        plan.manifest.provenance = Some(json!({
            "model": row.name,
            "task": row.task,
            "output_dim": output_dim,
            "revision": row.revision,
        }));
        let description = serde_json::to_value(&plan.manifest)
            .map_err(|e| Error::invalid(MANIFEST, format!("cannot be written: {e}")))?;
        Ok(Self {
            parts: vec![Part {
                target: plan.target.into(),
                checkpoint: plan.checkpoint,
                mapping: plan.mapping,
            }],
            files: plan.files,
            directories: Vec::new(),
            notes,
            description,
            provenance: Some("provenance"),
        })
    }

    fn mesh(row: &ModelRow, path: &Path) -> Result<Self> {
        let mut plan = MeshConversion::plan(path, &mesh_config(row)?)?;
        let (said, found) = (row.output_dim.to_string(), plan.output_dim.to_string());
        let notes = differing([("output_dim", said, found)]).map(|found| found.to_string());
        plan.config.source.get_or_insert_with(|| row.source.clone());
        plan.config
            .licence
            .get_or_insert_with(|| row.licence.clone());
        plan.config.provenance = Some(json!({
            "model": row.name,
            "task": row.task,
            "output_dim": plan.output_dim,
        }));
        let description = serde_json::to_value(&plan.config)
            .map_err(|e| Error::invalid(MANIFEST, format!("cannot be written: {e}")))?;
        Ok(Self {
            parts: vec![Part {
                target: "model.safetensors".into(),
                checkpoint: plan.checkpoint,
                mapping: plan.mapping,
            }],
            files: Vec::new(),
            directories: Vec::new(),
            notes: notes.collect(),
            description,
            provenance: Some("provenance"),
        })
    }

    /// The description with what was read and written.
    fn manifest(&self, files: Value) -> Value {
        let mut manifest = self.description.clone();
        let place = match self.provenance {
            Some(field) => &mut manifest[field],
            None => &mut manifest,
        };
        if let (Value::Object(place), Value::Object(files)) = (place, files) {
            place.extend(files);
        }
        manifest
    }
}

/// Refuses a mapping that is not complete, unless it may be incomplete.
fn refuse(part: &Part, options: &ConvertOptions) -> Result<()> {
    let path = || part.checkpoint.path().to_path_buf();
    if !part.mapping.missing.is_empty() && !options.allow_missing {
        return Err(Error::MissingTensors {
            path: path(),
            names: part.mapping.missing.clone(),
        });
    }
    if !part.mapping.unused.is_empty() && !options.allow_unused {
        return Err(Error::UnusedTensors {
            path: path(),
            names: part.mapping.unused.clone(),
        });
    }
    Ok(())
}

/// Where a plan is not what its row says; the plan holds.
fn contradictions(row: &ModelRow, plan: &TextConversion) -> Vec<String> {
    let pooling: Vec<&str> = plan.pooling.iter().map(|pooling| pooling.name()).collect();
    let fields = [
        (
            "dialect",
            row.dialect.clone(),
            plan.config.model_type().to_string(),
        ),
        (
            "output_dim",
            row.output_dim.to_string(),
            plan.output_dim.to_string(),
        ),
        ("pooling", row.pooling.to_string(), pooling.join(",")),
        (
            "normalize",
            row.normalize.to_string(),
            plan.normalize.to_string(),
        ),
        (
            "max_length",
            row.max_length.unwrap_or_default().to_string(),
            plan.max_length.to_string(),
        ),
    ];
    differing(fields).map(|found| found.to_string()).collect()
}

fn file_mapping(file: &str, mapping: &Mapping, dtype: FloatType) -> FileMapping {
    FileMapping {
        file: file.to_string(),
        tensors: mapping
            .tensors
            .iter()
            .map(|tensor| TensorMapping {
                source: tensor.source.clone(),
                target: tensor.target.clone(),
                shape: tensor.shape.clone(),
                from: tensor.dtype.to_string(),
                to: tensor.stored(dtype).to_string(),
            })
            .collect(),
        missing: mapping.missing.clone(),
        ignored: mapping.ignored.clone(),
        unused: mapping.unused.clone(),
    }
}

/// SHA-256 of a file in lower-case hexadecimal.
///
/// # Errors
/// [`Error::Io`] where it cannot be read.
pub(crate) fn digest(path: &Path) -> Result<String> {
    let io = || Error::io(path, "read");
    let mut file = File::open(path).map_err(io())?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(io())? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A writer that hashes what passes through it.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        let hash = Sha256::new();
        Self { inner, hash }
    }

    fn finish(mut self) -> io::Result<String> {
        self.inner.flush()?;
        Ok(hexadecimal(&self.hash.finalize()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
