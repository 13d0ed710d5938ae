//! Rows of Apache Parquet.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde_json::{Map, Value};

use super::STDIN;
use crate::error::{Error, Result};

/// Rows that are decoded at a time.
const BATCH: usize = 1024;

/// Rows of a Parquet file, a batch in memory at a time.
///
/// Columns of texts, numbers, booleans and lists of texts are decoded; a value of another column,
/// an embedding or a picture say, is an empty object.
pub(super) struct Rows {
    reader: ParquetRecordBatchReader,
    path: PathBuf,
    names: Vec<String>,
    /// Which column of a batch each of `names` is, if any.
    decoded: Vec<Option<usize>>,
    batch: Option<RecordBatch>,
    next: usize,
    number: u64,
}

impl Rows {
    /// # Errors
    /// [`Error::Io`] where the file cannot be opened, [`Error::InvalidFile`] where it is not
    /// Parquet, [`Error::Argument`] for stdin.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if path == Path::new(STDIN) {
            let reason = "Parquet is read from its end and cannot come from stdin; give a file";
            return Err(Error::argument("format", reason));
        }
        let file = File::open(path).map_err(Error::io(path, "read"))?;
        let open = || {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(BATCH);
            let schema = builder.schema().clone();
            let names = schema.fields().iter().map(|field| field.name().clone());
            let mut roots = Vec::new();
            let decoded = schema.fields().iter().enumerate().map(|(i, field)| {
                is_decoded(field.data_type()).then(|| {
                    roots.push(i);
                    roots.len() - 1
                })
            });
            let (names, decoded): (Vec<_>, Vec<_>) = (names.collect(), decoded.collect());
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
            Ok((builder.with_projection(mask).build()?, names, decoded))
        };
        let (reader, names, decoded) = guarded(path, open)?;
        Ok(Self {
            reader,
            path: path.to_path_buf(),
            names,
            decoded,
            batch: None,
            next: 0,
            number: 0,
        })
    }

    /// Names of the columns.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// What errors call the source.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next row's one-based number and a value a column; `None` at the end.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] where the file cannot be decoded.
    pub(super) fn read(&mut self) -> Result<Option<(u64, Vec<Value>)>> {
        while self
            .batch
            .as_ref()
            .is_none_or(|b| self.next == b.num_rows())
        {
            let reader = &mut self.reader;
            let batch = guarded(&self.path, || Ok(reader.next().transpose()?))?;
            let Some(batch) = batch else {
                return Ok(None);
            };
            (self.batch, self.next) = (Some(batch), 0);
        }
        let Some(batch) = &self.batch else {
            return Ok(None);
        };
        let row = self.next;
        let decoded = self.decoded.iter();
        let values = decoded.map(|column| match column {
            Some(column) => value(batch.column(*column), row),
            None => Value::Object(Map::new()),
        });
        let values = values.collect();
        self.next += 1;
        self.number += 1;
        Ok(Some((self.number, values)))
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("path", &self.path)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// The decoder of damaged files: what it says, and that it gave up, are both errors.
fn guarded<T>(
    path: &Path,
    decode: impl FnOnce() -> Result<T, Box<dyn std::error::Error>>,
) -> Result<T> {
    let failed = |reason: String| {
        let reason = format!(
            "cannot be read as Parquet: {reason}; compressions that can be read are snappy and none"
        );
        Error::invalid(path, reason)
    };
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(found) => found.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed("its content is damaged".into())),
    }
}

/// Whether values of a column are texts, numbers, booleans or lists of texts.
fn is_decoded(kind: &DataType) -> bool {
    match kind {
        DataType::List(item) | DataType::LargeList(item) => is_text(item.data_type()),
        kind => is_text(kind) || kind.is_integer() || is_float(kind) || *kind == DataType::Boolean,
    }
}

fn is_text(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

fn is_float(kind: &DataType) -> bool {
    matches!(kind, DataType::Float32 | DataType::Float64)
}

/// A value of a column as JSON; of a dictionary or another kind, an empty object.
fn value(column: &dyn Array, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    macro_rules! number {
        ($kind:ty) => {
            column.as_primitive::<$kind>().value(row).into()
        };
    }
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Utf8View => column.as_string_view().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::List(_) => list(&column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(&column.as_list::<i64>().value(row)),
        _ => Value::Object(Map::new()),
    }
}

fn list(values: &dyn Array) -> Value {
    (0..values.len()).map(|i| value(values, i)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use arrow_array::builder::{FixedSizeListBuilder, Float32Builder, ListBuilder, StringBuilder};
    use arrow_array::{ArrayRef, Float64Array, Int64Array, LargeStringArray, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::Compression;
    use parquet::file::properties::WriterProperties;

    use super::super::{
        Column, PairColumns, ReadOptions, TextFormat, read_labelled, read_pairs, read_rows,
        read_scored_pairs, read_texts,
    };

    fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
        let batch = arrow_array::RecordBatch::try_from_iter(columns).unwrap();
        let file = std::fs::File::create(path).unwrap();
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
        let properties = Some(properties.build());
        let mut writer = ArrowWriter::try_new(file, batch.schema(), properties).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn texts(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn with_file<T>(columns: Vec<(&str, ArrayRef)>, read: impl FnOnce(&Path) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.parquet");
        write(&path, columns);
        read(&path)
    }

    #[test]
    fn pairs_with_lists_of_negatives_go_by_name() {
        let mut negatives = ListBuilder::new(StringBuilder::new());
        negatives.append_value([Some("x"), Some("y")]);
        negatives.append_null();
        let embeddings = {
            let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), 1);
            for _ in 0..2 {
                builder.values().append_value(1.0);
                builder.append(true);
            }
            builder.finish()
        };
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("embedding", Arc::new(embeddings)),
            ("positive", texts(&["a", "b"])),
            ("negatives", Arc::new(negatives.finish())),
            ("anchor", Arc::new(LargeStringArray::from(vec!["q", "r"]))),
        ];
        with_file(columns, |path| {
            let pairs = read_pairs(path, &PairColumns::default(), ReadOptions::default()).unwrap();
            let found: Vec<_> = pairs
                .iter()
                .map(|pair| {
                    (
                        pair.line,
                        &*pair.anchor,
                        &*pair.positive,
                        &pair.negatives[..],
                    )
                })
                .collect();
            let negatives = ["x".to_owned(), "y".to_owned()];
            assert_eq!(found, [(1, "q", "a", &negatives[..]), (2, "r", "b", &[])]);
            let read = |column: &str| {
                read_texts(path, Some(&Column::from(column)), ReadOptions::default())
            };
            assert_eq!(read("1").unwrap(), ["a", "b"]);
            let error = read("embedding").unwrap_err().to_string();
            assert!(
                error.contains("column `embedding`: expected a string"),
                "{error}"
            );
            let error = read("answer").unwrap_err().to_string();
            assert!(
                error.ends_with("embedding, positive, negatives, anchor"),
                "{error}"
            );
        });
    }

    #[test]
    fn scores_labels_and_tables_go_by_position() {
        let scores: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.5), None]));
        let columns = vec![
            ("a", texts(&["s", "u"])),
            ("b", texts(&["t", "v"])),
            ("c", scores),
        ];
        with_file(columns, |path| {
            let read = read_scored_pairs(path, &Default::default(), ReadOptions::default());
            let error = read.unwrap_err().to_string();
            assert!(
                error.contains("line 2") && error.contains("`null`"),
                "{error}"
            );
            let table = read_rows(path, ReadOptions::default()).unwrap();
            assert_eq!(table.header.unwrap(), ["a", "b", "c"]);
            assert_eq!(table.rows[1].fields, ["u", "v", ""]);
        });
        let labels: ArrayRef = Arc::new(Int64Array::from(vec![7, -1]));
        with_file(vec![("x", texts(&["s", "u"])), ("y", labels)], |path| {
            let rows = read_labelled(path, &Default::default(), ReadOptions::default()).unwrap();
            assert_eq!((&*rows[1].text, &*rows[1].label), ("u", "-1"));
        });
        with_file(vec![("only", texts(&["s", "u"]))], |path| {
            let found = read_texts(path, None, ReadOptions::default()).unwrap();
            assert_eq!(found, ["s", "u"]);
        });
    }

    #[test]
    fn more_rows_than_a_batch_keep_their_order() {
        let rows: Vec<String> = (0..3000).map(|i| i.to_string()).collect();
        let column: ArrayRef = Arc::new(StringArray::from(rows.clone()));
        with_file(vec![("text", column)], |path| {
            assert_eq!(
                read_texts(path, None, ReadOptions::default()).unwrap(),
                rows
            );
        });
    }

    #[test]
    fn damaged_files_and_stdin_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.parquet");
        write(&path, vec![("text", texts(&["some", "texts", "here"]))]);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = read_texts(&path, None, ReadOptions::default()).unwrap_err();
            assert!(
                error.to_string().contains("as Parquet"),
                "{length}: {error}"
            );
        }
        // Other bytes give other texts or an error, but no panic that reaches the caller.
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            std::fs::write(&path, &changed).unwrap();
            if let Err(error) = read_texts(&path, None, ReadOptions::default()) {
                assert!(error.to_string().contains("data.parquet"), "{at}: {error}");
            }
        }
        let options = ReadOptions {
            format: Some(TextFormat::Parquet),
            ..ReadOptions::default()
        };
        let error = read_texts("-", None, options).unwrap_err().to_string();
        assert!(error.contains("stdin"), "{error}");
    }
}
