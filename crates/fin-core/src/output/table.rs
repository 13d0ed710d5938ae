//! Rows of texts and numbers: `.csv`, `.tsv` and `.jsonl`.

use std::io::Write;
use std::path::Path;

use csv::{QuoteStyle, WriterBuilder};

use crate::atomic::AtomicFile;
use crate::error::{Error, Result};

/// A value in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// A text.
    Text(&'a str),
    /// A finite number, written as the shortest that reads back as the same `f32`.
    Number(f32),
}

/// Writes rows to a `.csv`, `.tsv` or `.jsonl` file, which appears under its name once it is
/// complete.
///
/// Rows of a `.jsonl` file are objects where there are column names, arrays otherwise; a `.csv` or
/// `.tsv` file has the names as its first row. What is written is read back by
/// [`fin_core::input`](crate::input).
///
/// ```
/// use fin_core::output::{Cell, TableWriter};
///
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("pairs.csv");
/// let mut writer = TableWriter::create(&path, Some(&["sentence1", "sentence2", "score"]))?;
/// writer.write(&[Cell::Text("a, b"), Cell::Text("c"), Cell::Number(0.5)])?;
/// assert_eq!(writer.finish()?, 1);
/// assert_eq!(std::fs::read_to_string(&path)?, "sentence1,sentence2,score\n\"a, b\",c,0.5\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TableWriter {
    sink: Sink,
    names: Option<Vec<String>>,
    path: std::path::PathBuf,
    rows: usize,
}

#[derive(Debug)]
enum Sink {
    Csv(Box<csv::Writer<AtomicFile>>),
    Tsv(Box<csv::Writer<AtomicFile>>),
    Jsonl(AtomicFile),
}

impl TableWriter {
    /// Starts a file in the format that the extension names, with these column names.
    ///
    /// # Errors
    /// [`Error::Argument`] where the extension is unknown; [`Error::Io`] where the file cannot be
    /// created.
    pub fn create(path: impl AsRef<Path>, names: Option<&[&str]>) -> Result<Self> {
        let path = path.as_ref();
        let extension = path.extension().unwrap_or_default();
        let extension = extension.to_string_lossy().to_ascii_lowercase();
        let open = |delimiter, style| {
            let writer = WriterBuilder::new()
                .delimiter(delimiter)
                .quote_style(style)
                .from_writer(AtomicFile::create(path)?);
            Ok::<_, Error>(Box::new(writer))
        };
        let sink = match extension.as_str() {
            "csv" => Sink::Csv(open(b',', QuoteStyle::Necessary)?),
            "tsv" => Sink::Tsv(open(b'\t', QuoteStyle::Never)?),
            "jsonl" => Sink::Jsonl(AtomicFile::create(path)?),
            _ => {
                let reason = format!(
                    "`{}` has none of the extensions .csv, .tsv, .jsonl",
                    path.display()
                );
                return Err(Error::argument("output", reason));
            }
        };
        let mut writer = Self {
            sink,
            names: names.map(|names| names.iter().map(ToString::to_string).collect()),
            path: path.to_path_buf(),
            rows: 0,
        };
        if let (Some(names), Sink::Csv(_) | Sink::Tsv(_)) = (names, &writer.sink) {
            let names: Vec<Cell<'_>> = names.iter().map(|name| Cell::Text(name)).collect();
            writer.record(&names)?;
        }
        Ok(writer)
    }

    /// Appends a row, with a cell a column.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is another number of cells than of names;
    /// [`Error::InvalidFile`] where a number is not finite, or a text has a tab or a line end, which
    /// a `.tsv` file has no way to write; [`Error::Io`] where writing fails.
    pub fn write(&mut self, cells: &[Cell<'_>]) -> Result<()> {
        if let Some(names) = &self.names
            && names.len() != cells.len()
        {
            let reason = format!("{} for {} columns", cells.len(), names.len());
            return Err(Error::argument("cells", reason));
        }
        self.record(cells)?;
        self.rows += 1;
        Ok(())
    }

    fn record(&mut self, cells: &[Cell<'_>]) -> Result<()> {
        let fail = |reason: String| {
            let row = self.rows + 1;
            Err(Error::invalid(
                &self.path,
                format!("not written: row {row}: {reason}"),
            ))
        };
        for cell in cells {
            match (cell, &self.sink) {
                (Cell::Number(number), _) if !number.is_finite() => {
                    return fail(format!("{number} is not finite"));
                }
                (Cell::Text(text), Sink::Tsv(_)) if text.contains(['\t', '\n', '\r']) => {
                    return fail(
                        "a text has a tab or a line end, which .tsv cannot hold; write .csv or \
                         .jsonl"
                            .into(),
                    );
                }
                _ => {}
            }
        }
        let text = |cell: &Cell<'_>| match cell {
            Cell::Text(text) => (*text).to_owned(),
            Cell::Number(number) => number.to_string(),
        };
        match &mut self.sink {
            Sink::Csv(writer) | Sink::Tsv(writer) => writer
                .write_record(cells.iter().map(text))
                .map_err(|error| Error::io(&self.path, "write")(error.into())),
            Sink::Jsonl(file) => write_json(file, self.names.as_deref(), cells)
                .map_err(Error::io(&self.path, "write")),
        }
    }

    /// Completes the file, gives it its name, and returns the number of rows.
    ///
    /// # Errors
    /// [`Error::Io`] where writing fails; nothing is left behind.
    pub fn finish(self) -> Result<usize> {
        let Self {
            sink, path, rows, ..
        } = self;
        match sink {
            Sink::Csv(writer) | Sink::Tsv(writer) => {
                let file = writer
                    .into_inner()
                    .map_err(|error| Error::io(&path, "write")(error.into_error()))?;
                file.commit()?;
            }
            Sink::Jsonl(file) => file.commit()?,
        }
        Ok(rows)
    }
}

fn write_json(
    file: &mut AtomicFile,
    names: Option<&[String]>,
    cells: &[Cell<'_>],
) -> std::io::Result<()> {
    file.write_all(if names.is_some() { b"{" } else { b"[" })?;
    for (i, cell) in cells.iter().enumerate() {
        if i > 0 {
            file.write_all(b",")?;
        }
        if let Some(name) = names.and_then(|names| names.get(i)) {
            serde_json::to_writer(&mut *file, name)?;
            file.write_all(b":")?;
        }
        match cell {
            Cell::Text(text) => serde_json::to_writer(&mut *file, text)?,
            Cell::Number(number) => serde_json::to_writer(&mut *file, number)?,
        }
    }
    file.write_all(if names.is_some() { b"}\n" } else { b"]\n" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{ReadOptions, read_rows};

    const NAMES: [&str; 3] = ["a", "b b", "n"];

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let texts = [("x, \"y\"", "é"), ("", "z")];
        for extension in ["csv", "tsv", "jsonl"] {
            for names in [Some(&NAMES[..]), None] {
                let path = dir.path().join(format!("rows.{extension}"));
                let mut writer = TableWriter::create(&path, names).unwrap();
                for (i, (a, b)) in texts.iter().enumerate() {
                    let number = 0.1 + i as f32;
                    writer
                        .write(&[Cell::Text(a), Cell::Text(b), Cell::Number(number)])
                        .unwrap();
                }
                assert_eq!(writer.finish().unwrap(), 2);
                let options = ReadOptions {
                    has_header: names.is_some(),
                    format: None,
                };
                let table = read_rows(&path, options).unwrap();
                let header = table.header.as_deref();
                assert_eq!(header.is_some(), names.is_some(), "{extension}");
                assert_eq!(header.unwrap_or_default(), names.unwrap_or_default());
                let rows: Vec<_> = table.rows.iter().map(|row| row.fields.clone()).collect();
                assert_eq!(rows, [["x, \"y\"", "é", "0.1"], ["", "z", "1.1"]]);
            }
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        for extension in ["csv", "tsv", "jsonl"] {
            let path = dir.path().join(format!("rows.{extension}"));
            std::fs::write(&path, "old").unwrap();
            let mut writer = TableWriter::create(&path, Some(&NAMES)).unwrap();
            let error = writer.write(&[Cell::Text("a")]).unwrap_err().to_string();
            assert!(error.contains("1 for 3 columns"), "{error}");
            let (a, b) = (Cell::Text("a"), Cell::Text("b"));
            let error = writer.write(&[a, b, Cell::Number(f32::NAN)]);
            let error = error.unwrap_err().to_string();
            assert!(error.contains("row 1: NaN is not finite"), "{error}");
            let broken = writer.write(&[a, Cell::Text("b\tc"), Cell::Number(1.0)]);
            assert_eq!(broken.is_err(), extension == "tsv");
            drop(writer);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        }
        let error = TableWriter::create(dir.path().join("a.parquet"), None).unwrap_err();
        assert!(error.to_string().ends_with(".csv, .tsv, .jsonl"), "{error}");
    }
}
