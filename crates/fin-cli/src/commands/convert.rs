//! `fin convert-weights`.

use std::path::{Path, PathBuf};

use clap::Args;
use fin_core::input::Column;
use fin_core::output::read_npy_f32;
use fin_core::weights::FloatType;
use fin_core::{DeviceSpec, Error};
use fin_registry::{ConvertOptions, Modality, ModelOptions, Registry, build_model};
use serde_json::json;

use crate::family::{Family, Images, Meshes, Reading, Texts};
use crate::report::{self, Format, Result, check_replaceable, note};

/// Turn an upstream checkpoint into a model directory of safetensors
///
/// Reads safetensors (sharded or not) and PyTorch files (.bin, .pth, legacy pickles; nothing in
/// them is run), tensor by tensor. Writes the weights under upstream's key names, the small files
/// of a text model in the layout of sentence-transformers, and fin.json with architecture, preprocessing, pooling,
/// source, licence and the SHA-256 of every weight file read and written. Prints what became of
/// every tensor.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ConvertArgs {
    /// Name of the model in the catalogue (see `fin models`)
    model: String,

    /// Directory as upstream publishes it, a weight file in one, or `hub`
    #[arg(long, value_name = "FILE|DIR|hub")]
    from: PathBuf,

    /// Directory to write
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// Element type of the weights: f32, f16 or bf16
    #[arg(long, default_value_t)]
    dtype: FloatType,

    /// Embeddings that the converted model must give, one row an item: a .npy file of the reference
    /// library, before any scaling to unit length that the model does not do itself
    #[arg(long, value_name = "NPY", help_heading = "Verification")]
    verify: Option<PathBuf>,

    /// The texts of the rows, or the paths of the images [default: the file of --verify with the
    /// extension .txt]
    #[arg(
        long,
        visible_alias = "images",
        value_name = "FILE",
        requires = "verify",
        help_heading = "Verification"
    )]
    texts: Option<PathBuf>,

    /// Column of the texts or paths, by name or zero-based index
    #[arg(
        long,
        value_name = "NAME|INDEX",
        requires = "verify",
        help_heading = "Verification"
    )]
    column: Option<Column>,

    /// Leave out tensors that nothing is known about, rather than refuse
    #[arg(long)]
    allow_unused: bool,

    /// Write what there is where tensors are missing, rather than refuse
    #[arg(long, conflicts_with = "verify")]
    allow_missing: bool,

    /// Replace the model that the directory holds
    #[arg(long)]
    overwrite: bool,

    /// Form of the report
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin convert-weights bert-base-en --from hub --to ./bert-base-en
  fin convert-weights jina-embedding-s-en-v1 --from ./checkout/pytorch_model.bin \\
      --to ./jina-s-f16 --dtype f16
  fin convert-weights resnet-base --from resnet50-11ad3fa6.pth --to ./resnet50
  fin convert-weights all-minilm-l6-v2 --from ./all-MiniLM-L6-v2 --to ./minilm \\
      --verify reference.npy --texts reference.txt";

pub fn run(args: &ConvertArgs, registry: &Registry) -> Result<()> {
    check_replaceable(&args.to, args.overwrite, "--to")?;
    let verification = match &args.verify {
        Some(path) => {
            let modality = registry.modality(&args.model)?;
            Some(Verification::read(path, args, modality)?)
        }
        None => None,
    };
    let from = (args.from != Path::new("hub")).then_some(args.from.as_path());
    let options = ConvertOptions {
        dtype: args.dtype,
        allow_unused: args.allow_unused,
        allow_missing: args.allow_missing,
    };
    let mut peak = None;
    let (report, error) = registry.convert(&args.model, from, &args.to, &options, |directory| {
        peak = peak_memory();
        match verification {
            Some(verification) => verification.check(directory, args.dtype).map(Some),
            None => Ok(None),
        }
    })?;
    for text in &report.notes {
        note!("warning: {text}");
    }
    match args.format {
        Format::Table => {
            let verified = match error {
                Some(error) => format!(
                    "verified: relative error {error:.1e}, allowed {:.0e}\n",
                    args.dtype.tolerance()
                ),
                None => String::new(),
            };
            let peak = match peak {
                Some(bytes) => format!("peak memory {} MB before any verification\n", bytes >> 20),
                None => String::new(),
            };
            report::print(&format!("{report}{peak}{verified}"))
        }
        Format::Json => report::print_json(&json!({
            "report": report,
            "to": args.to,
            "verify_relative_error": error,
            "peak_memory_bytes": peak,
            "verify_tolerance": error.map(|_| args.dtype.tolerance()),
        })),
    }
}

/// Largest resident memory of this process so far, in bytes, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes << 10)
}

/// Reference embeddings and their texts.
struct Verification {
    path: PathBuf,
    values: Vec<f32>,
    dim: usize,
    items: Reference,
}

/// What the embeddings are of.
enum Reference {
    Texts(Vec<String>),
    Images(Vec<PathBuf>),
    Meshes(Vec<PathBuf>),
}

impl Reference {
    /// Their number and the word for them.
    fn count(&self) -> (usize, &'static str) {
        match self {
            Self::Texts(texts) => (texts.len(), "texts"),
            Self::Images(images) => (images.len(), "images"),
            Self::Meshes(meshes) => (meshes.len(), "meshes"),
        }
    }
}

impl Verification {
    fn read(path: &Path, args: &ConvertArgs, modality: Modality) -> fin_core::Result<Self> {
        let (values, [rows, dim]) = read_npy_f32(path)?;
        let texts = args.texts.clone();
        let texts = texts.unwrap_or_else(|| path.with_extension("txt"));
        let reading = Reading {
            column: args.column.as_ref(),
            ..Reading::default()
        };
        let found = match modality {
            // Of a model of texts and images, the texts are compared.
            Modality::Text | Modality::TextImage => {
                let texts = Texts::read(&texts, reading)?;
                Reference::Texts(texts.collect::<fin_core::Result<_>>()?)
            }
            Modality::Image => {
                let images = Images::read(&texts, reading)?;
                Reference::Images(images.collect::<fin_core::Result<_>>()?)
            }
            Modality::Mesh => {
                let meshes = Meshes::read(&texts, reading)?;
                Reference::Meshes(meshes.collect::<fin_core::Result<_>>()?)
            }
        };
        let (count, what) = found.count();
        if count != rows || rows == 0 {
            let reason = format!(
                "has {rows} rows, but {} has {count} {what}; a row for each is needed, at least one",
                texts.display(),
            );
            return Err(Error::invalid(path, reason));
        }
        Ok(Self {
            path: path.to_path_buf(),
            values,
            dim,
            items: found,
        })
    }

    /// The relative error `‖a − b‖ / ‖b‖` of the converted model's embeddings.
    fn check(&self, directory: &Path, dtype: FloatType) -> fin_core::Result<f64> {
        let options = ModelOptions {
            device: DeviceSpec::Flex,
            ..ModelOptions::default()
        };
        // An absolute path is no name.
        let directory = std::path::absolute(directory).map_err(Error::io(directory, "find"))?;
        let model = build_model(&directory.to_string_lossy(), &options)?;
        let embeddings = match &self.items {
            Reference::Texts(texts) => model.encode_text(texts)?,
            Reference::Images(images) => model.encode_image(images)?,
            Reference::Meshes(meshes) => model.encode_mesh(meshes)?,
        };
        if embeddings.dim != self.dim {
            let reason = format!(
                "has rows of {}, but the model's embeddings have {} components",
                self.dim, embeddings.dim
            );
            return Err(Error::invalid(&self.path, reason));
        }
        let square = |x: f64| x * x;
        let pairs = embeddings.values.iter().zip(&self.values);
        let difference: f64 = pairs
            .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
            .sum();
        let norm: f64 = self.values.iter().map(|b| square(f64::from(*b))).sum();
        let error = (difference / norm).sqrt();
        // Written so that NaN fails.
        if error < dtype.tolerance() {
            return Ok(error);
        }
        Err(Error::invalid(
            &self.path,
            format!(
                "the converted model's embeddings differ by a relative error of {error:.1e}, \
                 allowed {:.0e} for {dtype}; nothing was written. Are these the same items, the \
                 same model, and embeddings as the model gives them (scaled to unit length or not)?",
                dtype.tolerance()
            ),
        ))
    }
}
