//! Texts of one column.

use std::io::BufRead;
use std::iter::FusedIterator;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::column::available;
use super::record::{Content, Key, Record, Records, TEXT, kind};
use super::{Column, ReadOptions};
use crate::error::{Error, Result};

/// Texts of one column of a file, one at a time and in order.
///
/// Holds one row in memory, however long the file is. After the first error there are no more
/// texts.
///
/// Without a choice of column, the texts are the lines of a `.txt` file, empty ones included; in
/// a `.csv` or `.tsv` file the column `text`, or the only column; in a `.jsonl` file the lines
/// that are strings and the field `text` of lines that are objects.
///
/// ```
/// use fin_core::input::{ReadOptions, TextReader};
///
/// let stdin = std::io::Cursor::new("one\ntwo\n");
/// let texts = TextReader::from_reader(stdin, "<stdin>", None, ReadOptions::default())?;
/// assert_eq!(texts.collect::<Result<Vec<_>, _>>()?, ["one", "two"]);
/// # Ok::<(), fin_core::Error>(())
/// ```
#[derive(Debug)]
pub struct TextReader {
    records: Records,
    key: Key,
    /// Whether a JSON string is a row's text.
    plain: bool,
    done: bool,
}

impl TextReader {
    /// Opens a file, or stdin for `-`, and reads as far as the first row.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read; [`Error::InvalidFile`] where its extension is
    /// unknown or it holds no rows; [`Error::Column`] where there is no such column, or no choice
    /// was made among several; [`Error::Row`] where the first row cannot be used.
    pub fn open(
        path: impl AsRef<Path>,
        column: Option<&Column>,
        options: ReadOptions,
    ) -> Result<Self> {
        Self::new(Records::open(path.as_ref(), options)?, column)
    }

    /// Reads from `reader`, which errors call `name`. The format is [`ReadOptions::format`], by
    /// default [`TextFormat::Txt`](super::TextFormat::Txt).
    ///
    /// # Errors
    /// As [`TextReader::open`].
    pub fn from_reader(
        reader: impl BufRead + Send + 'static,
        name: impl Into<PathBuf>,
        column: Option<&Column>,
        options: ReadOptions,
    ) -> Result<Self> {
        Self::new(Records::from_reader(reader, name.into(), options)?, column)
    }

    fn new(records: Records, column: Option<&Column>) -> Result<Self> {
        let key = match column {
            Some(column) => records.key(column)?,
            None => default_key(&records)?,
        };
        Ok(Self {
            records,
            key,
            plain: column.is_none(),
            done: false,
        })
    }

    fn read(&mut self) -> Result<Option<String>> {
        match self.records.next_record()? {
            Some(Record {
                content: Content::Json(Value::String(text)),
                ..
            }) if self.plain => Ok(Some(text)),
            Some(record) => record.text(self.records.path(), &self.key).map(Some),
            None => Ok(None),
        }
    }
}

/// The key of the column that holds the texts where none was chosen.
fn default_key(records: &Records) -> Result<Key> {
    let text = Column::from(TEXT);
    let named = || Key {
        name: TEXT.to_owned(),
        index: None,
    };
    match records.first() {
        Some(Record {
            content: Content::Json(Value::String(_)),
            ..
        }) => Ok(named()),
        Some(Record {
            content: Content::Json(Value::Object(_)),
            ..
        }) => records.key(&text),
        Some(Record {
            content: Content::Json(value),
            line,
        }) if records.header().is_none() => {
            let reason = format!(
                "expected a string or an object with the field `{TEXT}`, found {}",
                kind(value)
            );
            Err(Error::row(records.path(), *line, reason))
        }
        _ if records.has_names(&[(None, TEXT)]) => records.key(&text),
        _ if records.width() == 1 => Ok(records.at(0)),
        _ => {
            let columns = available(records.header(), records.width());
            Err(text.missing(records.path(), columns))
        }
    }
}

impl Iterator for TextReader {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let text = self.read().transpose();
        self.done = !matches!(text, Some(Ok(_)));
        text
    }
}

impl FusedIterator for TextReader {}

/// All texts of one column of a file, or of stdin for `-`. [`TextReader`] tells which column it
/// is without a choice.
///
/// # Errors
/// As [`TextReader::open`]; [`Error::Row`] at the first row that cannot be used.
pub fn read_texts(
    path: impl AsRef<Path>,
    column: Option<&Column>,
    options: ReadOptions,
) -> Result<Vec<String>> {
    TextReader::open(path, column, options)?.collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::TextFormat;
    use super::*;

    const BARE: ReadOptions = ReadOptions {
        has_header: false,
        format: None,
    };

    /// Reads `content` from a file of this name.
    fn read(
        name: &str,
        content: impl AsRef<[u8]>,
        column: &str,
        options: ReadOptions,
    ) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let column = (!column.is_empty()).then(|| Column::from(column));
        read_texts(&path, column.as_ref(), options)
    }

    fn texts(name: &str, content: &str, column: &str) -> Result<Vec<String>> {
        read(name, content, column, ReadOptions::default())
    }

    #[test]
    fn lines_of_a_txt_file() {
        assert_eq!(
            texts("a.txt", "\u{feff}eins\r\n\nzwei, \"drei\"", "").unwrap(),
            ["eins", "", "zwei, \"drei\""]
        );
        assert_eq!(texts("a.txt", "a\n", "text").unwrap(), ["a"]);
        assert_eq!(texts("a.txt", "a\n", "0").unwrap(), ["a"]);
        let error = texts("a.txt", "a\n", "answer").unwrap_err().to_string();
        assert!(
            error.ends_with("no column `answer`; the columns are: text"),
            "{error}"
        );
    }

    #[test]
    fn columns_of_delimited_files() {
        let csv = "\u{feff}text,answer\n\"a\nb\",c\n";
        assert_eq!(texts("a.csv", csv, "").unwrap(), ["a\nb"]);
        assert_eq!(texts("a.csv", csv, "answer").unwrap(), ["c"]);
        assert_eq!(texts("a.csv", csv, "1").unwrap(), ["c"]);
        assert_eq!(texts("a.tsv", "id\ttext\n1\ta, b\n", "").unwrap(), ["a, b"]);
        assert_eq!(texts("a.csv", "sentence\na\nb\n", "").unwrap(), ["a", "b"]);
        assert_eq!(read("a.csv", "a,b\nc,d\n", "1", BARE).unwrap(), ["b", "d"]);
        assert_eq!(read("a.csv", "a\nb\n", "", BARE).unwrap(), ["a", "b"]);
    }

    #[test]
    fn several_columns_need_a_choice() {
        let error = texts("a.csv", "id,answer\n1,a\n", "").unwrap_err();
        assert!(matches!(error, Error::Column { .. }), "{error}");
        assert!(
            error.to_string().ends_with("the columns are: id, answer"),
            "{error}"
        );
        let error = read("a.csv", "1,a\n", "", BARE).unwrap_err().to_string();
        assert!(error.ends_with("the columns are: 0, 1"), "{error}");
    }

    #[test]
    fn json_strings_objects_and_arrays() {
        let mixed = "\"a\\nb\"\n\n{\"id\": 1, \"text\": \"c\"}\r\n";
        assert_eq!(texts("a.jsonl", mixed, "").unwrap(), ["a\nb", "c"]);
        assert_eq!(
            texts(
                "a.jsonl",
                "{\"q\": \"a\", \"x\": null}\n{\"q\": \"b\"}\n",
                "q"
            )
            .unwrap(),
            ["a", "b"]
        );
        assert_eq!(
            texts("a.jsonl", "[\"a\", \"b\"]\n[\"c\", \"d\"]\n", "1").unwrap(),
            ["b", "d"]
        );
    }

    #[test]
    fn json_that_cannot_be_used() {
        for (content, column, line, expected) in [
            (
                "\"a\"\n{\"text\": }\n",
                "",
                2,
                "not valid JSON at column 10: expected value",
            ),
            (
                "\"a\"\n[\"b\"]\n",
                "",
                2,
                "expected an object with the field `text`, found an array",
            ),
            (
                "3\n",
                "",
                1,
                "expected a string or an object with the field `text`, found a number",
            ),
            (
                "{\"text\": \"a\"}\n{\"text\": 3}\n",
                "",
                2,
                "column `text`: expected a string, found a number",
            ),
            (
                "{\"q\": \"a\"}\n{\"r\": 1, \"s\": 2}\n",
                "q",
                2,
                "no field `q`; the fields are: r, s",
            ),
            (
                "{\"q\": \"a\"}\n\"b\"\n",
                "q",
                2,
                "expected an object with the field `q`, found a string",
            ),
            (
                "[\"a\", \"b\"]\n[\"c\"]\n",
                "1",
                2,
                "expected at least 2 columns, found 1 column",
            ),
        ] {
            let error = texts("a.jsonl", content, column).unwrap_err();
            assert!(
                matches!(error, Error::Row { line: l, .. } if l == line),
                "{error}"
            );
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error = texts("a.jsonl", "{\"q\": \"a\", \"r\": 1}\n", "").unwrap_err();
        assert!(matches!(error, Error::Column { .. }), "{error}");
        assert!(
            error
                .to_string()
                .ends_with("no column `text`; the columns are: q, r"),
            "{error}"
        );
        let error = texts("a.jsonl", "[\"a\"]\n", "q").unwrap_err();
        assert!(matches!(error, Error::Column { .. }), "{error}");
        let error = texts("a.jsonl", "\"a\"\n", "q").unwrap_err();
        assert!(matches!(error, Error::Column { .. }), "{error}");
    }

    #[test]
    fn a_row_of_another_width_names_both_counts() {
        let error = texts("a.csv", "text,label\n\"a\n\",b\nc\n", "").unwrap_err();
        assert!(matches!(error, Error::Row { line: 4, .. }), "{error}");
        assert!(
            error
                .to_string()
                .ends_with("expected 2 columns, found 1 column"),
            "{error}"
        );
        let error = texts("a.csv", "text\nHello, world\n", "")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2: expected 1 column, found 2 columns; enclose"),
            "{error}"
        );
        let error = read("a.tsv", "a\tb\nc\n", "0", BARE)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2: expected 2 columns, found 1 column"),
            "{error}"
        );
    }

    #[test]
    fn a_file_without_rows() {
        for (name, content) in [
            ("a.txt", ""),
            ("a.txt", "\u{feff}"),
            ("a.csv", "\n\n"),
            ("a.csv", "text,label\n"),
            ("a.tsv", "text"),
            ("a.jsonl", "\n \n"),
        ] {
            let error = texts(name, content, "").unwrap_err();
            assert!(matches!(error, Error::InvalidFile { .. }), "{error}");
            assert!(error.to_string().ends_with("holds no rows"), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        let error = read_texts(dir.path().join("no.csv"), None, BARE).unwrap_err();
        assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");
        let options = ReadOptions {
            format: Some(TextFormat::Txt),
            ..BARE
        };
        let error = read_texts(dir.path(), None, options).unwrap_err();
        assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");
    }

    #[test]
    fn the_format_can_be_chosen() {
        let options = ReadOptions {
            has_header: true,
            format: Some(TextFormat::Csv),
        };
        assert_eq!(
            read("a.data", "id,text\n1,a\n", "", options).unwrap(),
            ["a"]
        );
        let reader = Cursor::new("id,text\n1,a\n");
        let texts = TextReader::from_reader(reader, "<stdin>", None, options).unwrap();
        assert_eq!(texts.collect::<Result<Vec<_>>>().unwrap(), ["a"]);
    }

    #[test]
    fn texts_before_a_bad_row_are_yielded_and_none_after_it() {
        for (format, content) in [
            (TextFormat::Txt, &b"a\nb\n\xff\nc\n"[..]),
            (TextFormat::Csv, b"a\nb\n\"\xff\"\nc\n"),
            (TextFormat::Csv, b"a\nb\n1,2\nc\n"),
            (TextFormat::Jsonl, b"\"a\"\n\"b\"\n{\n\"c\"\n"),
        ] {
            let options = ReadOptions {
                has_header: false,
                format: Some(format),
            };
            let mut texts =
                TextReader::from_reader(Cursor::new(content), "<stdin>", None, options).unwrap();
            assert_eq!(texts.next().unwrap().unwrap(), "a");
            assert_eq!(texts.next().unwrap().unwrap(), "b");
            let error = texts.next().unwrap().unwrap_err();
            assert!(matches!(error, Error::Row { line: 3, .. }), "{error}");
            assert!(
                error.to_string().starts_with("<stdin>: line 3: "),
                "{error}"
            );
            assert!(texts.next().is_none());
        }
    }

    /// Rows are read as they are asked for: the source here never ends.
    #[test]
    fn an_endless_source() {
        struct Endless;
        impl std::io::Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                let row = b"text,1\n";
                let rows = buffer.len() / row.len();
                for chunk in buffer.chunks_exact_mut(row.len()) {
                    chunk.copy_from_slice(row);
                }
                Ok(rows * row.len())
            }
        }
        let options = ReadOptions {
            has_header: false,
            format: Some(TextFormat::Csv),
        };
        let reader = std::io::BufReader::new(Endless);
        let texts =
            TextReader::from_reader(reader, "<stdin>", Some(&Column::from("1")), options).unwrap();
        assert!(texts.take(10_000).all(|text| text.unwrap() == "1"));
    }

    #[test]
    fn invalid_utf8_in_a_quoted_field_names_its_own_line() {
        let error = read("a.csv", b"text\n\"a\nb\xe9\"\n", "", ReadOptions::default()).unwrap_err();
        assert!(
            error.to_string().contains("line 3: byte 0xe9 at offset 1"),
            "{error}"
        );
    }
}
