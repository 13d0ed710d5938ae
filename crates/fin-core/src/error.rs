//! The one error type of the workspace's libraries.
//!
//! Every variant names what a user can act on: the file, the field or tensor, what was expected
//! and what was found. Programs print it as it is.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in terms of the user's files and options.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read, write, create or rename a file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Verb phrase, as in "read" or "create".
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A file exists and can be read, but its content is not what its format asks for.
    #[error("{}: {reason}", path.display())]
    InvalidFile {
        /// File.
        path: PathBuf,
        /// What is wrong with it and, where there is one, the fix.
        reason: String,
    },

    /// A PyTorch pickle refers to something other than tensors and plain containers.
    #[error(
        "{}: refused: the pickle asks to load `{global}`, which is not part of a plain state \
         dictionary and could run code; nothing was executed. Re-save the weights as safetensors",
        path.display()
    )]
    UnsafePickle {
        /// File.
        path: PathBuf,
        /// Module and name the pickle asks for.
        global: String,
    },

    /// A configuration file lacks a field or has a value that cannot be used.
    #[error("{}: field `{field}`: {reason}", path.display())]
    Config {
        /// File.
        path: PathBuf,
        /// Field in the file, dotted where nested.
        field: String,
        /// What is wrong and what is accepted.
        reason: String,
    },

    /// Weights that the architecture needs are not in the checkpoint.
    #[error("{}: {} tensor(s) missing: {}", path.display(), names.len(), Names(names))]
    MissingTensors {
        /// Checkpoint.
        path: PathBuf,
        /// Upstream key names.
        names: Vec<String>,
    },

    /// The checkpoint holds weights that the architecture has no place for.
    #[error("{}: {} tensor(s) have no place in the model: {}", path.display(), names.len(), Names(names))]
    UnusedTensors {
        /// Checkpoint.
        path: PathBuf,
        /// Upstream key names.
        names: Vec<String>,
    },

    /// A tensor has another shape than the configuration asks for.
    #[error("{}: tensor `{tensor}` has shape {found:?}, the configuration asks for {expected:?}", path.display())]
    ShapeMismatch {
        /// Checkpoint.
        path: PathBuf,
        /// Upstream key name.
        tensor: String,
        /// Shape from the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },

    /// A tensor holds NaN or infinite values.
    #[error("{}: tensor `{tensor}` holds {count} value(s) that are NaN or infinite, the first at flat index {first}", path.display())]
    NotFinite {
        /// Checkpoint.
        path: PathBuf,
        /// Upstream key name.
        tensor: String,
        /// How many.
        count: usize,
        /// Position of the first one in row-major order.
        first: usize,
    },

    /// A tensor is stored in an element type that the model cannot use.
    #[error("{}: tensor `{tensor}` is stored as {dtype}; f32, f16, bf16 and f64 can be read", path.display())]
    UnsupportedDType {
        /// Checkpoint.
        path: PathBuf,
        /// Upstream key name.
        tensor: String,
        /// Element type in the file's own words.
        dtype: String,
    },

    /// A row of a data file cannot be used.
    #[error("{}: line {line}: {reason}", path.display())]
    Row {
        /// Data file.
        path: PathBuf,
        /// One-based line number.
        line: u64,
        /// What is wrong and what was expected.
        reason: String,
    },

    /// A column that was asked for does not exist.
    #[error("{}: no column `{column}`; the columns are: {}", path.display(), available.join(", "))]
    Column {
        /// Data file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// What there is.
        available: Vec<String>,
    },

    /// The device's backend is not compiled into this binary.
    #[error(
        "device `{device}` needs the Cargo feature `{feature}`, which this binary was built without; rebuild with `--features {feature}`"
    )]
    DeviceNotCompiled {
        /// Device as the user wrote it.
        device: String,
        /// Cargo feature.
        feature: &'static str,
    },

    /// The device's backend is compiled in, but there is no such device or driver here.
    #[error("device `{device}` is not available: {reason}")]
    DeviceUnavailable {
        /// Device as the user wrote it.
        device: String,
        /// The driver's or library's reason, and the fix.
        reason: String,
    },

    /// A model hub cannot be reached, or does not give what was asked of it.
    #[error("{repository}: {reason}")]
    Hub {
        /// Repository on the hub.
        repository: String,
        /// What happened and the fix.
        reason: String,
    },

    /// An option or argument has a value that cannot be used.
    #[error("{name}: {reason}")]
    Argument {
        /// Option name as the user knows it.
        name: String,
        /// What is wrong and what is accepted.
        reason: String,
    },
}

impl Error {
    /// [`Error::Io`] as a closure for `map_err`.
    pub fn io(path: impl AsRef<Path>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io {
            path,
            action,
            source,
        }
    }

    /// [`Error::InvalidFile`].
    pub fn invalid(path: impl AsRef<Path>, reason: impl fmt::Display) -> Self {
        Self::InvalidFile {
            path: path.as_ref().to_path_buf(),
            reason: reason.to_string(),
        }
    }

    /// [`Error::Config`].
    pub fn config(
        path: impl AsRef<Path>,
        field: impl Into<String>,
        reason: impl fmt::Display,
    ) -> Self {
        Self::Config {
            path: path.as_ref().to_path_buf(),
            field: field.into(),
            reason: reason.to_string(),
        }
    }

    /// [`Error::Hub`].
    pub fn hub(repository: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Hub {
            repository: repository.into(),
            reason: reason.to_string(),
        }
    }

    /// [`Error::Argument`].
    pub fn argument(name: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Argument {
            name: name.into(),
            reason: reason.to_string(),
        }
    }

    /// [`Error::Row`].
    pub fn row(path: impl AsRef<Path>, line: u64, reason: impl fmt::Display) -> Self {
        Self::Row {
            path: path.as_ref().to_path_buf(),
            line,
            reason: reason.to_string(),
        }
    }
}

/// Prints the first few of a list of names and how many more there are.
struct Names<'a>(&'a [String]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6;
        for (i, name) in self.0.iter().take(SHOWN).enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "`{name}`")?;
        }
        if self.0.len() > SHOWN {
            write!(f, " and {} more", self.0.len() - SHOWN)?;
        }
        Ok(())
    }
}
