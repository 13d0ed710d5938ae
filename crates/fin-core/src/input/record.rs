//! Records of any text format, and the values of their columns.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::delimited::{Rows, delimiter_of};
use super::lines::Lines;
use super::{Column, ReadOptions, STDIN, TextFormat};
use crate::error::{Error, Result};

/// What a record holds.
#[derive(Debug)]
pub(super) enum Content {
    /// Fields of a `.csv` or `.tsv` row, or the one field of a `.txt` line.
    Fields(Vec<String>),
    /// Value of a `.jsonl` line.
    Json(Value),
}

/// A record and where it starts.
#[derive(Debug)]
pub(super) struct Record {
    /// One-based line number.
    pub(super) line: u64,
    /// Fields or JSON value.
    pub(super) content: Content,
}

/// Where records come from.
#[derive(Debug)]
enum Source {
    Txt(Lines),
    Jsonl(Lines),
    Delimited(Rows),
    #[cfg(feature = "output")]
    Parquet(super::parquet::Rows),
}

impl Source {
    fn read(&mut self) -> Result<Option<Record>> {
        match self {
            Self::Txt(lines) => Ok(lines.advance()?.then(|| Record {
                line: lines.number(),
                content: Content::Fields(vec![lines.text().to_owned()]),
            })),
            Self::Jsonl(lines) => {
                while lines.advance()? {
                    if lines.text().trim().is_empty() {
                        continue;
                    }
                    let value = serde_json::from_str(lines.text())
                        .map_err(|error| lines.error(not_json(&error)))?;
                    return Ok(Some(Record {
                        line: lines.number(),
                        content: Content::Json(value),
                    }));
                }
                Ok(None)
            }
            Self::Delimited(rows) => Ok(rows.read()?.map(|(line, fields)| Record {
                line,
                content: Content::Fields(fields),
            })),
            #[cfg(feature = "output")]
            Self::Parquet(rows) => Ok(rows.read()?.map(|(line, values)| Record {
                line,
                content: Content::Json(Value::Array(values)),
            })),
        }
    }
}

/// Records of a file, one at a time. There is at least one.
#[derive(Debug)]
pub(super) struct Records {
    source: Source,
    format: TextFormat,
    header: Option<Vec<String>>,
    width: usize,
    first: Option<Record>,
}

impl Records {
    /// Opens a file, or stdin for `-`, and reads the header and the first record.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::InvalidFile`] where the extension is
    /// unknown or there is no record, [`Error::Row`] where the first record cannot be used.
    pub(super) fn open(path: &Path, options: ReadOptions) -> Result<Self> {
        let format = match options.format {
            Some(format) => format,
            None if path == Path::new(STDIN) => TextFormat::default(),
            None => TextFormat::from_path(path)?,
        };
        if format == TextFormat::Parquet {
            return Self::open_parquet(path);
        }
        Self::start(Lines::open(path)?, format, options.has_header)
    }

    /// Records of `reader`, which errors call `path`; otherwise as [`Records::open`].
    pub(super) fn from_reader(
        reader: impl BufRead + Send + 'static,
        path: PathBuf,
        options: ReadOptions,
    ) -> Result<Self> {
        let format = options.format.unwrap_or_default();
        Self::start(Lines::new(reader, path), format, options.has_header)
    }

    #[cfg(feature = "output")]
    fn open_parquet(path: &Path) -> Result<Self> {
        let rows = super::parquet::Rows::open(path)?;
        let header = Some(rows.names().to_vec());
        Self::of(Source::Parquet(rows), TextFormat::Parquet, header)
    }

    #[cfg(not(feature = "output"))]
    fn open_parquet(path: &Path) -> Result<Self> {
        let reason = "reading Parquet needs the Cargo feature `output` of fin-core";
        Err(Error::invalid(path, reason))
    }

    fn start(mut lines: Lines, format: TextFormat, has_header: bool) -> Result<Self> {
        let mut source = match format {
            TextFormat::Parquet => return Self::open_parquet(Path::new(STDIN)),
            TextFormat::Txt => Source::Txt(lines),
            TextFormat::Jsonl => Source::Jsonl(lines),
            TextFormat::Csv => {
                let delimiter = delimiter_of(&lines.sample()?);
                Source::Delimited(Rows::csv(lines, delimiter))
            }
            TextFormat::Tsv => Source::Delimited(Rows::tsv(lines)),
        };
        let header = match &mut source {
            Source::Txt(_) => Some(vec![TEXT.to_owned()]),
            Source::Delimited(rows) if has_header => rows.read()?.map(|(_, names)| names),
            _ => None,
        };
        Self::of(source, format, header)
    }

    /// Reads the first record.
    fn of(mut source: Source, format: TextFormat, header: Option<Vec<String>>) -> Result<Self> {
        let first = source.read()?;
        let width = match (&header, &first) {
            (Some(names), _) => names.len(),
            (
                None,
                Some(Record {
                    content: Content::Fields(fields),
                    ..
                }),
            ) => fields.len(),
            (None, _) => 0,
        };
        let records = Self {
            source,
            format,
            header,
            width,
            first,
        };
        match &records.first {
            Some(first) => records.check_width(first)?,
            None => return Err(Error::invalid(records.path(), "holds no rows")),
        }
        Ok(records)
    }

    fn check_width(&self, record: &Record) -> Result<()> {
        match &record.content {
            Content::Fields(fields) if fields.len() != self.width => {
                let hint = match self.format {
                    TextFormat::Csv if fields.len() > self.width => {
                        "; enclose a field that holds the delimiter in quotes"
                    }
                    _ => "",
                };
                let reason = format!(
                    "expected {}, found {}{hint}",
                    count(self.width),
                    count(fields.len())
                );
                Err(Error::row(self.path(), record.line, reason))
            }
            _ => Ok(()),
        }
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Row`] where the record cannot be used, [`Error::Io`] where reading fails.
    pub(super) fn next_record(&mut self) -> Result<Option<Record>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let record = self.source.read()?;
        if let Some(record) = &record {
            self.check_width(record)?;
        }
        Ok(record)
    }

    /// The first record, as long as it is the next.
    pub(super) fn first(&self) -> Option<&Record> {
        self.first.as_ref()
    }

    /// What errors call the source.
    pub(super) fn path(&self) -> &Path {
        match &self.source {
            Source::Txt(lines) | Source::Jsonl(lines) => lines.path(),
            Source::Delimited(rows) => rows.path(),
            #[cfg(feature = "output")]
            Source::Parquet(rows) => rows.path(),
        }
    }

    /// Names of the columns of a delimited file with a header, of a `.txt` and a `.parquet` file.
    pub(super) fn header(&self) -> Option<&[String]> {
        self.header.as_deref()
    }

    /// Number of columns of a delimited, `.txt` or `.parquet` file.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The key of a column that was asked for by name or index.
    ///
    /// # Errors
    /// [`Error::Column`] where the file, or the first record of a `.jsonl` file, has no such
    /// column; [`Error::InvalidFile`] where two columns have the name.
    pub(super) fn key(&self, column: &Column) -> Result<Key> {
        let missing = |available| Err(column.missing(self.path(), available));
        match self.first().map(|first| &first.content) {
            Some(Content::Json(Value::Object(fields))) => {
                if !fields.contains_key(column.as_str()) {
                    return missing(fields.keys().cloned().collect());
                }
                Ok(Key {
                    name: column.to_string(),
                    index: None,
                })
            }
            Some(Content::Json(Value::Array(elements))) => column
                .resolve(self.path(), self.header(), elements.len())
                .map(|index| self.at(index)),
            Some(Content::Json(_)) => missing(vec!["none, the rows are plain values".to_owned()]),
            Some(Content::Fields(_)) | None => column
                .resolve(self.path(), self.header(), self.width)
                .map(|index| self.at(index)),
        }
    }

    /// The key of the column at a zero-based index.
    pub(super) fn at(&self, index: usize) -> Key {
        let name = self.header().and_then(|names| names.get(index)).cloned();
        Key {
            name: name.unwrap_or_else(|| index.to_string()),
            index: Some(index),
        }
    }

    /// The keys of columns that are asked for by name or index, or else go by their roles.
    ///
    /// Without a choice, the column of a JSON object is the role's name. In a delimited file it
    /// is the role's position in `wanted`; but where the header has the names of all roles (or
    /// of this one, when another is chosen), it is the role's name. In a JSON array it is the
    /// role's position.
    ///
    /// # Errors
    /// As [`Records::key`]; [`Error::Row`] at the first record where it has fewer columns than
    /// are needed, [`Error::Argument`] where a role would by default have another role's column.
    pub(super) fn keys(&self, wanted: &[Role<'_>]) -> Result<Vec<Key>> {
        let chosen = wanted.iter().any(|(column, _)| column.is_some());
        let goes_by_name = |role: &Role<'_>| {
            let roles = if chosen {
                std::slice::from_ref(role)
            } else {
                wanted
            };
            self.is_object() || self.has_names(roles)
        };
        let keys: Vec<_> = wanted
            .iter()
            .enumerate()
            .map(|(position, role)| match role {
                (Some(column), _) => self.key(column),
                (None, name) if goes_by_name(role) => self.key(&Column::from(*name)),
                (None, _) => self.key_at(position, wanted),
            })
            .collect::<Result<_>>()?;
        for ((column, role), key) in wanted.iter().zip(&keys) {
            let other = wanted
                .iter()
                .zip(&keys)
                .find(|((_, other_role), other_key)| role != other_role && key == *other_key);
            if let (None, Some(((_, taken), Key { name, .. }))) = (column, other) {
                let reason = format!(
                    "column `{name}` is in use as `{taken}`; choose a column for `{role}` too"
                );
                return Err(Error::argument(*role, reason));
            }
        }
        Ok(keys)
    }

    /// The key of the role at `position`, which has this position's column.
    fn key_at(&self, position: usize, wanted: &[Role<'_>]) -> Result<Key> {
        let first = self.first();
        let line = first.map_or(1, |record| record.line);
        let found = match first.map(|record| &record.content) {
            Some(Content::Json(Value::Array(elements))) => elements.len(),
            Some(Content::Json(value)) => {
                let reason = format!("expected an object or an array, found {}", kind(value));
                return Err(Error::row(self.path(), line, reason));
            }
            Some(Content::Fields(_)) | None => self.width,
        };
        if position < found {
            return Ok(self.at(position));
        }
        let names: Vec<_> = wanted.iter().map(|(_, name)| *name).collect();
        let reason = format!(
            "expected at least {} ({}), found {}",
            count(wanted.len()),
            names.join(", "),
            count(found)
        );
        Err(Error::row(self.path(), line, reason))
    }

    /// Whether the first record is a JSON object.
    pub(super) fn is_object(&self) -> bool {
        let first = self.first();
        matches!(
            first,
            Some(Record {
                content: Content::Json(Value::Object(_)),
                ..
            })
        )
    }

    /// Whether the header has the names of all of these roles.
    pub(super) fn has_names(&self, roles: &[Role<'_>]) -> bool {
        self.header().is_some_and(|header| {
            roles
                .iter()
                .all(|(_, name)| header.iter().any(|column| column == name))
        })
    }
}

/// A column that is needed: the choice, if any, and the role's name.
pub(super) type Role<'a> = (Option<&'a Column>, &'static str);

/// Default name of a column of texts.
pub(super) const TEXT: &str = "text";

/// Where in a record a column's value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Key in a JSON object, and what errors call the column.
    pub(super) name: String,
    /// Index among the fields or in a JSON array.
    pub(super) index: Option<usize>,
}

impl Record {
    /// The value of a column. Fields are JSON strings.
    ///
    /// # Errors
    /// [`Error::Row`] where the record has no such column.
    pub(super) fn value(&self, path: &Path, key: &Key) -> Result<Value> {
        let Key { name, index } = key;
        let reason = match (&self.content, index) {
            (Content::Fields(fields), Some(index)) if *index < fields.len() => {
                return Ok(Value::String(fields[*index].clone()));
            }
            (Content::Fields(fields), _) => {
                format!(
                    "expected the column `{name}`, found {}",
                    count(fields.len())
                )
            }
            (Content::Json(Value::Object(fields)), _) => match fields.get(name) {
                Some(value) => return Ok(value.clone()),
                None => no_field(name, fields),
            },
            (Content::Json(Value::Array(elements)), Some(index)) => match elements.get(*index) {
                Some(value) => return Ok(value.clone()),
                None => {
                    let found = count(elements.len());
                    format!("expected at least {}, found {found}", count(index + 1))
                }
            },
            (Content::Json(value), _) => {
                format!(
                    "expected an object with the field `{name}`, found {}",
                    kind(value)
                )
            }
        };
        Err(Error::row(path, self.line, reason))
    }

    /// The text of a column.
    ///
    /// # Errors
    /// [`Error::Row`] where the record has no such column or its value is not a string.
    pub(super) fn text(&self, path: &Path, key: &Key) -> Result<String> {
        self.expect_text(path, &key.name, self.value(path, key)?)
    }

    /// The text that a value of this record holds.
    ///
    /// # Errors
    /// [`Error::Row`] where it is not a string.
    pub(super) fn expect_text(&self, path: &Path, name: &str, value: Value) -> Result<String> {
        match value {
            Value::String(text) => Ok(text),
            value => {
                let reason = format!("column `{name}`: expected a string, found {}", kind(&value));
                Err(Error::row(path, self.line, reason))
            }
        }
    }
}

/// What a record without a field is told.
pub(super) fn no_field(name: &str, fields: &Map<String, Value>) -> String {
    let names: Vec<_> = fields.keys().map(String::as_str).collect();
    format!("no field `{name}`; the fields are: {}", names.join(", "))
}

/// A number of columns in words.
pub(super) fn count(columns: usize) -> String {
    format!("{columns} column{}", if columns == 1 { "" } else { "s" })
}

/// A JSON value's type, with its article.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// `serde_json` counts lines of the text it was given, which here is always one.
fn not_json(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(what, _)| what);
    format!("not valid JSON at column {}: {message}", error.column())
}
