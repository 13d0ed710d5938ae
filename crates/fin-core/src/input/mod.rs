//! Readers of text data: `.txt`, `.csv`, `.tsv`, `.jsonl` and, with the feature `output`,
//! `.parquet`; from files and, but for Parquet, from stdin.
//!
//! [`TextReader`] yields the texts of one column in bounded memory; [`read_texts`] collects them.
//! [`read_rows`] reads a whole [`Table`]. [`read_pairs`], [`read_scored_pairs`],
//! [`read_scored_triplets`] and [`read_labelled`] read the kinds of training data; [`open_pairs`] and
//! the like give their rows one at a time, in bounded memory.
//!
//! | format | row | columns |
//! | --- | --- | --- |
//! | `.txt` | a line, empty lines included | one, `text` |
//! | `.csv` | a record as in RFC 4180: commas, `"` around fields that hold commas, quotes or line ends, inner quotes doubled; blank lines are skipped; semicolons, tabs or bars in place of commas are found out | by header name or zero-based index |
//! | `.tsv` | a line, split at tabs; quotes are ordinary characters; blank lines are skipped | by header name or zero-based index |
//! | `.jsonl` | a JSON value a line: an object, an array or a string; blank lines are skipped | by key, in arrays by zero-based index |
//! | `.parquet` | a row; texts, numbers, booleans and lists of texts, uncompressed or with Snappy | by name or zero-based index |
//!
//! Lines end in `\n` or `\r\n`; in `.csv` and `.tsv` files a `\r` alone ends a row too. Files are
//! UTF-8, with or without a byte order mark. All rows of a `.csv` or `.tsv` file have as many
//! fields as the header, or as the first row where there is none: a row of another width is most
//! often a quoting mistake that would cut texts short. A quote that is never closed is an error;
//! text after a closing quote belongs to the field.
//!
//! The delimiter of a `.csv` file is the comma, unless commas do not split the first 64 KiB into
//! rows of one width and `;`, a tab or `|` does; of several that do, the one with most columns.
//!
//! Errors name the file and the one-based line; for a record over several lines, its first, and
//! for Parquet the row.
//!
//! ```
//! use fin_core::input::{Column, ReadOptions, read_texts};
//!
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("corpus.csv");
//! std::fs::write(&path, "id,answer\n1,\"Yes, always.\"\n2,No.\n")?;
//! let texts = read_texts(&path, Some(&Column::from("answer")), ReadOptions::default())?;
//! assert_eq!(texts, ["Yes, always.", "No."]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod column;
mod delimited;
mod lines;
mod negatives;
#[cfg(feature = "output")]
mod parquet;
mod reader;
mod record;
mod table;
mod texts;
mod training;
mod triplets;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use column::Column;
pub use reader::RowReader;
pub use table::{Row, Table, column_names, read_rows};
pub use texts::{TextReader, read_texts};
pub use training::{
    LabelledColumns, LabelledText, Pair, PairColumns, ScoredPair, ScoredPairColumns, open_labelled,
    open_pairs, open_scored_pairs, read_labelled, read_pairs, read_scored_pairs,
};
pub use triplets::{
    ScoredTriplet, ScoredTripletColumns, open_scored_triplets, read_scored_triplets,
};

use crate::error::{Error, Result};

/// How a file of texts is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TextFormat {
    /// A text a line.
    #[default]
    Txt,
    /// Comma-separated values.
    Csv,
    /// Tab-separated values.
    Tsv,
    /// A JSON value a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

impl TextFormat {
    /// All formats, in the order messages list them.
    pub const ALL: [Self; 5] = [Self::Txt, Self::Csv, Self::Tsv, Self::Jsonl, Self::Parquet];

    /// Extension without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }

    /// Format that a path's extension names, in any letter case.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] listing the accepted extensions where it is none of them.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        extension.parse().map_err(|_: Error| {
            let found = if extension.is_empty() {
                "has no extension".to_owned()
            } else {
                format!("the extension `.{extension}` is not one that can be read")
            };
            Error::invalid(path, format!("{found}; accepted are {}", accepted(".")))
        })
    }
}

impl fmt::Display for TextFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}

impl FromStr for TextFormat {
    type Err = Error;

    /// Parses `txt`, `csv`, `tsv`, `jsonl` or `parquet`, in any letter case.
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
    let names: Vec<_> = TextFormat::ALL
        .iter()
        .map(|format| format!("{prefix}{format}"))
        .collect();
    names.join(", ")
}

/// How to read a file of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Whether the first row of a `.csv` or `.tsv` file holds column names. Other formats have
    /// no header. Default: true.
    pub has_header: bool,
    /// Format, where the extension does not say it. Default: by extension, for stdin
    /// [`TextFormat::Txt`].
    pub format: Option<TextFormat>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            has_header: true,
            format: None,
        }
    }
}

/// The path that stands for stdin.
const STDIN: &str = "-";

/// What errors call stdin.
fn stdin_name() -> PathBuf {
    PathBuf::from("<stdin>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_names_the_format() {
        for (path, format) in [
            ("a.txt", TextFormat::Txt),
            ("a.b.CSV", TextFormat::Csv),
            ("dir.csv/a.tsv", TextFormat::Tsv),
            ("a.Jsonl", TextFormat::Jsonl),
        ] {
            assert_eq!(TextFormat::from_path(path).unwrap(), format, "{path}");
            assert_eq!(format.to_string().parse::<TextFormat>().unwrap(), format);
        }
    }

    #[test]
    fn an_unknown_extension_lists_the_accepted() {
        for path in ["a.xlsx", "a", "a.csv.gz", ".csv"] {
            let error = TextFormat::from_path(path).unwrap_err();
            assert!(matches!(error, Error::InvalidFile { .. }), "{error}");
            assert!(
                error
                    .to_string()
                    .ends_with("accepted are .txt, .csv, .tsv, .jsonl, .parquet"),
                "{error}"
            );
        }
        let error = "xml".parse::<TextFormat>().unwrap_err().to_string();
        assert_eq!(
            error,
            "format: `xml` is unknown; accepted are txt, csv, tsv, jsonl, parquet"
        );
    }
}
