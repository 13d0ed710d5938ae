//! Whole tables.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::record::{Content, Record, Records, count, kind, no_field};
use super::{Column, ReadOptions};
use crate::error::{Error, Result};

/// A row of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// One-based number of the line it starts on.
    pub line: u64,
    /// A text for each column.
    pub fields: Vec<String>,
}

/// Rows of a file, each with as many fields as there are columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Column names: from the header, for JSON objects the keys of the first, for `.txt` files
    /// `text`. Files without them have none.
    pub header: Option<Vec<String>>,
    /// Rows, at least one.
    pub rows: Vec<Row>,
    path: PathBuf,
    width: usize,
}

impl Table {
    /// The file that was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Zero-based index of a column among the fields of every row.
    ///
    /// # Errors
    /// [`Error::Column`] where there is no such column, [`Error::InvalidFile`] where two columns
    /// have this name.
    pub fn column_index(&self, column: &Column) -> Result<usize> {
        column.resolve(&self.path, self.header.as_deref(), self.width)
    }
}

/// All rows of a file, or of stdin for `-`.
///
/// Lines of a `.jsonl` file are all objects, all arrays or all strings. The keys of the first
/// object are the columns; further keys of other objects are left out. Values that are no
/// strings are taken as JSON text, `null` as an empty text.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read; [`Error::InvalidFile`] where its extension is
/// unknown or it holds no rows; [`Error::Row`] where a row has other columns than the first or
/// the header, or is not valid in its format.
pub fn read_rows(path: impl AsRef<Path>, options: ReadOptions) -> Result<Table> {
    let mut records = Records::open(path.as_ref(), options)?;
    let path = records.path().to_path_buf();
    let mut header = records.header().map(<[String]>::to_vec);
    let mut width = records.width();
    match records.first() {
        Some(Record {
            content: Content::Json(Value::Object(fields)),
            ..
        }) => {
            header = Some(fields.keys().cloned().collect());
            width = fields.len();
        }
        Some(Record {
            content: Content::Json(Value::Array(elements)),
            ..
        }) => {
            width = elements.len();
        }
        Some(Record {
            content: Content::Json(_),
            ..
        }) => width = 1,
        _ => {}
    }
    // A file with columns of its own has arrays for rows.
    let keys = records.header().is_none().then(|| header.clone()).flatten();
    let mut rows = Vec::new();
    while let Some(Record { line, content }) = records.next_record()? {
        let fields = match content {
            Content::Fields(fields) => fields,
            Content::Json(value) => json_fields(value, keys.as_deref(), width)
                .map_err(|reason| Error::row(&path, line, reason))?,
        };
        rows.push(Row { line, fields });
    }
    Ok(Table {
        header,
        rows,
        path,
        width,
    })
}

/// Names of the columns of a file, or of stdin for `-`: those of the header, or the keys of the
/// first JSON object; `None` where the columns have none.
///
/// # Errors
/// As [`read_rows`], of the header and the first row alone.
pub fn column_names(path: impl AsRef<Path>, options: ReadOptions) -> Result<Option<Vec<String>>> {
    let records = Records::open(path.as_ref(), options)?;
    if let Some(Record {
        content: Content::Json(Value::Object(fields)),
        ..
    }) = records.first()
    {
        return Ok(Some(fields.keys().cloned().collect()));
    }
    Ok(records.header().map(<[String]>::to_vec))
}

/// Fields of a JSON row with these columns, or why there are none.
fn json_fields(
    value: Value,
    header: Option<&[String]>,
    width: usize,
) -> Result<Vec<String>, String> {
    match (value, header) {
        (Value::Object(mut fields), Some(names)) => names
            .iter()
            .map(|name| match fields.get_mut(name) {
                Some(value) => Ok(field(value.take())),
                None => Err(no_field(name, &fields)),
            })
            .collect(),
        (Value::Array(elements), None) if elements.len() == width => {
            Ok(elements.into_iter().map(field).collect())
        }
        (Value::Array(elements), None) => Err(format!(
            "expected {}, found {}",
            count(width),
            count(elements.len())
        )),
        (Value::String(text), None) if width == 1 => Ok(vec![text]),
        (value, Some(_)) => Err(format!("expected an object, found {}", kind(&value))),
        (value, None) => Err(format!(
            "expected an object, an array or a string, found {}",
            kind(&value)
        )),
    }
}

/// A JSON value as a text.
fn field(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &str, has_header: bool) -> Result<Table> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        read_rows(
            &path,
            ReadOptions {
                has_header,
                format: None,
            },
        )
    }

    fn rows(table: &Table) -> Vec<(u64, Vec<&str>)> {
        assert!(
            table
                .rows
                .iter()
                .all(|row| row.fields.len() == table.width())
        );
        table
            .rows
            .iter()
            .map(|row| (row.line, row.fields.iter().map(String::as_str).collect()))
            .collect()
    }

    #[test]
    fn a_csv_table() {
        let content = "id,answer\r\n1,\"a\r\nb\"\r\n\r\n2,\r\n";
        let table = read("a.csv", content, true).unwrap();
        assert_eq!(table.header.as_deref().unwrap(), ["id", "answer"]);
        assert_eq!(rows(&table), [(2, vec!["1", "a\r\nb"]), (5, vec!["2", ""])]);
        assert_eq!(table.column_index(&Column::from("answer")).unwrap(), 1);
        assert_eq!(table.column_index(&Column::from("0")).unwrap(), 0);
        assert!(table.path().ends_with("a.csv"));
        let error = table.column_index(&Column::from("query")).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("no column `query`; the columns are: id, answer")
        );
        let table = read("a.csv", content, false).unwrap();
        assert_eq!((table.header.as_ref(), table.rows.len()), (None, 3));
        let error = table.column_index(&Column::from("2")).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("no column `2`; the columns are: 0, 1"),
            "{error}"
        );
    }

    #[test]
    fn a_txt_table() {
        let table = read("a.txt", "a\n\nb\n", false).unwrap();
        assert_eq!(table.header.as_deref().unwrap(), ["text"]);
        assert_eq!(
            rows(&table),
            [(1, vec!["a"]), (2, vec![""]), (3, vec!["b"])]
        );
    }

    #[test]
    fn json_tables() {
        let content = "{\"b\": \"x\", \"a\": 1.5}\n{\"a\": null, \"c\": 0, \"b\": [true]}\n";
        let table = read("a.jsonl", content, true).unwrap();
        assert_eq!(table.header.as_deref().unwrap(), ["b", "a"]);
        assert_eq!(
            rows(&table),
            [(1, vec!["x", "1.5"]), (2, vec!["[true]", ""])]
        );
        let table = read("a.jsonl", "[\"x\", 1]\n\n[\"y\", 2]\n", true).unwrap();
        assert_eq!(rows(&table), [(1, vec!["x", "1"]), (3, vec!["y", "2"])]);
        assert_eq!(table.column_index(&Column::from("1")).unwrap(), 1);
        let table = read("a.jsonl", "\"x\"\n\"y\"\n", true).unwrap();
        assert_eq!(rows(&table), [(1, vec!["x"]), (2, vec!["y"])]);
    }

    #[test]
    fn names_of_columns() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content, expected) in [
            ("a.csv", "id,answer\n1,a\n", Some(vec!["id", "answer"])),
            ("a.jsonl", "{\"b\": 1, \"a\": 2}\n3\n", Some(vec!["b", "a"])),
            ("a.jsonl", "[1, 2]\n", None),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            let found = column_names(&path, ReadOptions::default()).unwrap();
            assert_eq!(
                found.as_deref(),
                expected
                    .map(|names| names
                        .iter()
                        .map(|name| (*name).to_owned())
                        .collect::<Vec<_>>())
                    .as_deref()
            );
        }
    }

    #[test]
    fn rows_that_do_not_fit() {
        for (name, content, line, expected) in [
            (
                "a.csv",
                "a,b\n1,2\n3\n",
                3,
                "expected 2 columns, found 1 column",
            ),
            (
                "a.tsv",
                "a\tb\n1\t2\t3\n",
                2,
                "expected 2 columns, found 3 columns",
            ),
            (
                "a.jsonl",
                "{\"a\": 1}\n{\"b\": 1}\n",
                2,
                "no field `a`; the fields are: b",
            ),
            (
                "a.jsonl",
                "{\"a\": 1}\n[1]\n",
                2,
                "expected an object, found an array",
            ),
            (
                "a.jsonl",
                "[1, 2]\n[1]\n",
                2,
                "expected 2 columns, found 1 column",
            ),
            ("a.jsonl", "\"x\"\n{\"a\": 1}\n", 2, "found an object"),
            (
                "a.jsonl",
                "1\n",
                1,
                "expected an object, an array or a string, found a number",
            ),
        ] {
            let error = read(name, content, true).unwrap_err();
            assert!(
                matches!(error, Error::Row { line: l, .. } if l == line),
                "{error}"
            );
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error = read("a.csv", "a,b\n", true).unwrap_err();
        assert!(error.to_string().ends_with("holds no rows"), "{error}");
    }
}
