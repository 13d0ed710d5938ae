//! Writers of embeddings, in bounded memory, to `.npy`, `.parquet` and `.jsonl` files; and, with the
//! feature `text`, of rows of texts and numbers to `.csv`, `.tsv` and `.jsonl` files.
//!
//! Rows arrive in input order, a batch at a time, and are numbered from zero. The file appears
//! under its name once it is complete: a writer that fails or is dropped leaves nothing behind
//! and an older file of this name as it was.
//!
//! | format | holds |
//! | --- | --- |
//! | `.npy` | the matrix `[rows, dim]` in NumPy's format 1.0, little-endian `float32`, C order; no keys |
//! | `.parquet` | columns `id` (int64), the key (string) and `embedding` (fixed-size list of `dim` float32), none nullable, Snappy-compressed |
//! | `.jsonl` | `{"id":0,"text":"…","embedding":[…]}` a line; each number is the shortest that reads back as the same `float32` |
//!
//! ```
//! use fin_core::output::{EmbeddingWriter, read_npy_f32};
//!
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("embeddings.npy");
//! let mut writer = EmbeddingWriter::create(&path, 2, "text")?;
//! writer.write_batch(&["a", "b"], &[0.0, 1.0, 0.6, 0.8])?;
//! writer.write_batch(&["c"], &[1.0, 0.0])?;
//! assert_eq!(writer.finish()?.rows, 3);
//! assert_eq!(read_npy_f32(&path)?, (vec![0.0, 1.0, 0.6, 0.8, 1.0, 0.0], [3, 2]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod jsonl;
mod npy;
mod parquet;
#[cfg(feature = "text")]
mod table;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use npy::read_npy_f32;
#[cfg(feature = "text")]
pub use table::{Cell, TableWriter};

use crate::error::{Error, Result};

/// How a file of embeddings is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputFormat {
    /// NumPy array, embeddings alone.
    Npy,
    /// Apache Parquet.
    Parquet,
    /// A JSON object a line.
    Jsonl,
}

impl OutputFormat {
    /// All formats, in the order messages list them.
    pub const ALL: [Self; 3] = [Self::Npy, Self::Parquet, Self::Jsonl];

    /// Extension without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Npy => "npy",
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
        }
    }

    /// Format that a path's extension names, in any letter case.
    ///
    /// # Errors
    /// [`Error::Argument`] listing the accepted extensions where it is none of them.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        extension.parse().map_err(|_: Error| {
            let path = path.display();
            let reason = format!("`{path}` has none of the extensions {}", accepted("."));
            Error::argument("output", reason)
        })
    }
}

impl fmt::Display for OutputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}

impl FromStr for OutputFormat {
    type Err = Error;

    /// Parses `npy`, `parquet` or `jsonl`, in any letter case.
    ///
    /// # Errors
    /// [`Error::Argument`] listing the accepted names.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|format| format.extension().eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                let reason = format!("`{name}` is unknown; accepted are {}", accepted(""));
                Error::argument("format", reason)
            })
    }
}

fn accepted(prefix: &str) -> String {
    let names: Vec<_> = OutputFormat::ALL
        .iter()
        .map(|format| format!("{prefix}{format}"))
        .collect();
    names.join(", ")
}

/// What a finished writer wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteSummary {
    /// Number of embeddings.
    pub rows: usize,
    /// Length of each.
    pub dim: usize,
}

/// Writes embeddings to a file, batch by batch.
#[derive(Debug)]
pub struct EmbeddingWriter {
    sink: Sink,
    path: PathBuf,
    dim: usize,
    rows: usize,
    failed: bool,
}

#[derive(Debug)]
enum Sink {
    Npy(npy::Writer),
    Parquet(Box<parquet::Writer>),
    Jsonl(jsonl::Writer),
}

impl EmbeddingWriter {
    /// Starts a file of embeddings of length `dim`, in the format that the extension names.
    ///
    /// `key_name` is the name of the key column, as in `text` or `path`. A `.npy` file holds no
    /// keys.
    ///
    /// # Errors
    /// [`Error::Argument`] where the extension is unknown, `dim` is zero or beyond `i32::MAX`, or
    /// the key is called like another column; [`Error::Io`] where the file cannot be created.
    pub fn create(path: impl AsRef<Path>, dim: usize, key_name: &str) -> Result<Self> {
        let path = path.as_ref();
        let format = OutputFormat::from_path(path)?;
        if dim == 0 || i32::try_from(dim).is_err() {
            let reason = format!("{dim} is not a length that an embedding can have");
            return Err(Error::argument("dim", reason));
        }
        if ["", ID, EMBEDDING].contains(&key_name) {
            let reason = format!(
                "`{key_name}` cannot name the key column; choose a name other than `{ID}` and \
                 `{EMBEDDING}`"
            );
            return Err(Error::argument("key_name", reason));
        }
        let sink = match format {
            OutputFormat::Npy => Sink::Npy(npy::Writer::create(path, dim)?),
            OutputFormat::Parquet => {
                Sink::Parquet(Box::new(parquet::Writer::create(path, dim, key_name)?))
            }
            OutputFormat::Jsonl => Sink::Jsonl(jsonl::Writer::create(path, key_name)?),
        };
        Ok(Self {
            sink,
            path: path.to_path_buf(),
            dim,
            rows: 0,
            failed: false,
        })
    }

    /// Appends a batch: `keys.len()` keys and as many embeddings, row-major
    /// `[keys.len(), dim]`. After an error the writer cannot be used any more.
    ///
    /// # Errors
    /// [`Error::Argument`] where `rows` has another length; [`Error::InvalidFile`] naming the row
    /// where an embedding holds NaN or infinity; [`Error::Io`] where writing fails.
    pub fn write_batch(&mut self, keys: &[&str], rows: &[f32]) -> Result<()> {
        self.check_usable()?;
        self.failed = true;
        if keys.len().checked_mul(self.dim) != Some(rows.len()) {
            let reason = format!(
                "{} keys with embeddings of length {} need {} values, not {}",
                keys.len(),
                self.dim,
                keys.len().saturating_mul(self.dim),
                rows.len()
            );
            return Err(Error::argument("rows", reason));
        }
        if let Some(at) = rows.iter().position(|value| !value.is_finite()) {
            return Err(self.not_finite(keys, at, rows[at]));
        }
        match &mut self.sink {
            Sink::Npy(writer) => writer.write(rows),
            Sink::Parquet(writer) => writer.write(self.rows, keys, rows),
            Sink::Jsonl(writer) => writer.write(self.rows, keys, rows, self.dim),
        }?;
        self.rows += keys.len();
        self.failed = false;
        Ok(())
    }

    /// Completes the file and gives it its name. A file without rows is valid too.
    ///
    /// # Errors
    /// [`Error::Io`] where writing fails, [`Error::InvalidFile`] where a batch failed before;
    /// nothing is left behind.
    pub fn finish(self) -> Result<WriteSummary> {
        self.check_usable()?;
        let Self {
            sink, dim, rows, ..
        } = self;
        match sink {
            Sink::Npy(writer) => writer.finish(rows),
            Sink::Parquet(writer) => writer.finish(),
            Sink::Jsonl(writer) => writer.finish(),
        }?;
        Ok(WriteSummary { rows, dim })
    }

    fn check_usable(&self) -> Result<()> {
        if self.failed {
            return Err(Error::invalid(
                &self.path,
                "not written: an earlier batch failed",
            ));
        }
        Ok(())
    }

    /// The error for a value that is NaN or infinite, `at` in the batch.
    fn not_finite(&self, keys: &[&str], at: usize, value: f32) -> Error {
        const SHOWN: usize = 60;
        let (row, position) = (at / self.dim, at % self.dim);
        let mut key: String = keys[row].chars().take(SHOWN).collect();
        if key.len() < keys[row].len() {
            key.push('…');
        }
        let reason = format!(
            "not written: the embedding of row {} ({key:?}) holds {value} at position {position}",
            self.rows + row
        );
        Error::invalid(&self.path, reason)
    }
}

/// Name of the column of row numbers.
const ID: &str = "id";
/// Name of the column of embeddings.
const EMBEDDING: &str = "embedding";

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> Vec<String> {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn the_extension_names_the_format() {
        for format in OutputFormat::ALL {
            let path = format!("dir/a.{}", format.extension().to_uppercase());
            assert_eq!(OutputFormat::from_path(path).unwrap(), format);
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.csv", "a", "a.npy.gz"] {
            let error = EmbeddingWriter::create(dir.path().join(name), 2, "text").unwrap_err();
            assert!(matches!(error, Error::Argument { .. }), "{error}");
            assert!(
                error.to_string().ends_with(".npy, .parquet, .jsonl"),
                "{error}"
            );
        }
        assert!(files(dir.path()).is_empty());
        let error = "csv".parse::<OutputFormat>().unwrap_err().to_string();
        assert_eq!(
            error,
            "format: `csv` is unknown; accepted are npy, parquet, jsonl"
        );
    }

    #[test]
    fn arguments_that_cannot_be_used() {
        let dir = tempfile::tempdir().unwrap();
        for format in OutputFormat::ALL {
            let path = dir.path().join(format!("a.{format}"));
            for (dim, key_name) in [
                (0, "text"),
                (1 << 31, "text"),
                (2, "id"),
                (2, "embedding"),
                (2, ""),
            ] {
                let error = EmbeddingWriter::create(&path, dim, key_name).unwrap_err();
                assert!(matches!(error, Error::Argument { .. }), "{error}");
            }
            let missing = dir.path().join("missing").join(format!("a.{format}"));
            let error = EmbeddingWriter::create(missing, 2, "text").unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
        }
        assert!(files(dir.path()).is_empty());
    }

    #[test]
    fn a_batch_of_another_size_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for format in OutputFormat::ALL {
            let path = dir.path().join(format!("a.{format}"));
            let mut writer = EmbeddingWriter::create(path, 2, "text").unwrap();
            let error = writer.write_batch(&["a", "b"], &[1.0; 3]).unwrap_err();
            assert!(matches!(error, Error::Argument { .. }), "{error}");
            assert!(
                error.to_string().contains("need 4 values, not 3"),
                "{error}"
            );
        }
        assert!(files(dir.path()).is_empty());
    }

    #[test]
    fn a_row_that_is_not_finite_is_named_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        for format in OutputFormat::ALL {
            let path = dir.path().join(format!("a.{format}"));
            std::fs::write(&path, "old").unwrap();
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut writer = EmbeddingWriter::create(&path, 2, "text").unwrap();
                writer.write_batch(&["a", "b"], &[1.0; 4]).unwrap();
                let rows = [1.0, 2.0, 3.0, value, 5.0, 6.0];
                let error = writer.write_batch(&["c", "d\n", "e"], &rows).unwrap_err();
                assert!(matches!(error, Error::InvalidFile { .. }), "{error}");
                let expected = format!("row 3 (\"d\\n\") holds {value} at position 1");
                assert!(error.to_string().ends_with(&expected), "{error}");
                let error = writer.write_batch(&["f"], &[1.0; 2]).unwrap_err();
                assert!(
                    error.to_string().contains("an earlier batch failed"),
                    "{error}"
                );
                let error = writer.finish().unwrap_err();
                assert!(
                    error.to_string().contains("an earlier batch failed"),
                    "{error}"
                );
                assert_eq!(files(dir.path()), [format!("a.{format}")]);
                assert_eq!(std::fs::read(&path).unwrap(), b"old");
            }
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_dropped_writer_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for format in OutputFormat::ALL {
            let path = dir.path().join(format!("a.{format}"));
            let mut writer = EmbeddingWriter::create(path, 2, "text").unwrap();
            writer.write_batch(&["a"], &[1.0; 2]).unwrap();
            drop(writer);
        }
        assert!(files(dir.path()).is_empty());
    }

    #[test]
    fn the_summary_counts_all_batches() {
        let dir = tempfile::tempdir().unwrap();
        for format in OutputFormat::ALL {
            let path = dir.path().join(format!("a.{format}"));
            let mut writer = EmbeddingWriter::create(&path, 3, "path").unwrap();
            writer.write_batch(&[], &[]).unwrap();
            writer.write_batch(&["a", "b"], &[1.0; 6]).unwrap();
            writer.write_batch(&["c"], &[1.0; 3]).unwrap();
            assert_eq!(writer.finish().unwrap(), WriteSummary { rows: 3, dim: 3 });
        }
        assert_eq!(files(dir.path()).len(), 3);
    }
}
