//! Embeddings as Apache Parquet.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray,
};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::{EMBEDDING, ID};
use crate::atomic::AtomicFile;
use crate::error::{Error, Result};

/// Bytes of keys and embeddings that are handed on at once, unless a row alone is longer.
const CHUNK_BYTES: usize = 1 << 20;
/// Encoded size at which a row group ends. It is what the writer holds in memory.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// Name of the values of a list, as Arrow has it.
const ITEM: &str = "item";

pub(super) struct Writer {
    writer: ArrowWriter<AtomicFile>,
    path: PathBuf,
    schema: SchemaRef,
    item: FieldRef,
    dim: usize,
}

impl Writer {
    /// `dim` is from 1 to `i32::MAX`.
    pub(super) fn create(path: &Path, dim: usize, key_name: &str) -> Result<Self> {
        Self::with_row_groups(path, dim, key_name, ROW_GROUP_BYTES)
    }

    fn with_row_groups(path: &Path, dim: usize, key_name: &str, bytes: usize) -> Result<Self> {
        let item = Arc::new(Field::new(ITEM, DataType::Float32, false));
        let list = DataType::FixedSizeList(Arc::clone(&item), dim as i32);
        let schema = Arc::new(Schema::new(vec![
            Field::new(ID, DataType::Int64, false),
            Field::new(key_name, DataType::Utf8, false),
            Field::new(EMBEDDING, list, false),
        ]));
        // Components of embeddings hardly repeat, and their bounds are of no use to a reader.
        let values = ColumnPath::from(vec![
            EMBEDDING.to_owned(),
            "list".to_owned(),
            ITEM.to_owned(),
        ]);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_bytes(Some(bytes))
            .set_column_dictionary_enabled(values.clone(), false)
            .set_column_statistics_enabled(values, EnabledStatistics::None)
            .build();
        let file = AtomicFile::create(path)?;
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))
            .map_err(error(path))?;
        Ok(Self {
            writer,
            path: path.to_path_buf(),
            schema,
            item,
            dim,
        })
    }

    /// Writes rows numbered from `start`.
    pub(super) fn write(&mut self, mut start: usize, keys: &[&str], rows: &[f32]) -> Result<()> {
        let (mut keys, mut rows) = (keys, rows);
        while !keys.is_empty() {
            let mut bytes = 0_usize;
            let fitting = keys
                .iter()
                .take_while(|key| {
                    bytes = bytes.saturating_add(key.len()).saturating_add(4 * self.dim);
                    bytes <= CHUNK_BYTES
                })
                .count()
                .max(1);
            let (some_keys, other_keys) = keys.split_at(fitting);
            let (some_rows, other_rows) = rows.split_at(fitting * self.dim);
            self.write_chunk(start, some_keys, some_rows)?;
            (keys, rows, start) = (other_keys, other_rows, start + fitting);
        }
        Ok(())
    }

    fn write_chunk(&mut self, start: usize, keys: &[&str], rows: &[f32]) -> Result<()> {
        if let Some(key) = keys.iter().find(|key| i32::try_from(key.len()).is_err()) {
            let reason = format!(
                "a key of {} bytes is too long for a .parquet file",
                key.len()
            );
            return Err(Error::argument("keys", reason));
        }
        let batch = self
            .batch(start, keys, rows)
            .map_err(|e| error(&self.path)(e.into()))?;
        self.writer.write(&batch).map_err(error(&self.path))
    }

    fn batch(&self, start: usize, keys: &[&str], rows: &[f32]) -> Result<RecordBatch, ArrowError> {
        let ids = Int64Array::from_iter_values((start..start + keys.len()).map(|id| id as i64));
        let keys = StringArray::from_iter_values(keys);
        let values: ArrayRef = Arc::new(Float32Array::from(rows.to_vec()));
        let embeddings =
            FixedSizeListArray::try_new(Arc::clone(&self.item), self.dim as i32, values, None)?;
        RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![Arc::new(ids), Arc::new(keys), Arc::new(embeddings)],
        )
    }

    pub(super) fn finish(self) -> Result<()> {
        let Self { writer, path, .. } = self;
        writer.into_inner().map_err(error(&path))?.commit()
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("path", &self.path)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// What stopped the writer: the system, as far as anyone can tell.
fn error(path: &Path) -> impl FnOnce(ParquetError) -> Error {
    move |error| match error {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(source) => Error::io(path, "write")(*source),
            Err(source) => Error::invalid(path, format!("cannot be written: {source}")),
        },
        error => Error::invalid(path, format!("cannot be written: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float32Type, Int64Type};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::super::EmbeddingWriter;
    use super::*;

    /// Ids, keys and embeddings of a file, all of whose batches have this schema.
    fn read(path: &Path, schema: &Schema) -> (Vec<i64>, Vec<String>, Vec<f32>) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        assert_eq!(reader.schema().fields(), schema.fields());
        let (mut ids, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            assert!(
                batch
                    .columns()
                    .iter()
                    .all(|column| column.null_count() == 0)
            );
            ids.extend(batch.column(0).as_primitive::<Int64Type>().values());
            keys.extend(
                batch
                    .column(1)
                    .as_string::<i32>()
                    .iter()
                    .map(|key| key.unwrap().to_owned()),
            );
            let list = batch.column(2).as_fixed_size_list();
            values.extend(list.values().as_primitive::<Float32Type>().values());
        }
        (ids, keys, values)
    }

    fn schema(key_name: &str, dim: i32) -> Schema {
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new(key_name, DataType::Utf8, false),
            Field::new("embedding", DataType::FixedSizeList(item, dim), false),
        ])
    }

    #[test]
    fn reads_back_with_its_schema() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let mut writer = EmbeddingWriter::create(&path, 3, "path").unwrap();
        let rows = [0.1, -0.0, f32::MAX, 1e-40, 5.0, 6.0, 7.0, 8.0, 9.0];
        writer.write_batch(&["é", ""], &rows[..6]).unwrap();
        writer.write_batch(&["c"], &rows[6..]).unwrap();
        writer.finish().unwrap();
        let (ids, keys, values) = read(&path, &schema("path", 3));
        assert_eq!(ids, [0, 1, 2]);
        assert_eq!(keys, ["é", "", "c"]);
        assert!(
            values
                .iter()
                .map(|v| v.to_bits())
                .eq(rows.iter().map(|v| v.to_bits()))
        );
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        for column in reader.metadata().row_group(0).columns() {
            assert_eq!(column.compression(), Compression::SNAPPY);
        }
        // The settings for the embeddings reach their column.
        let column = reader.metadata().row_group(0).column(2);
        assert!(column.dictionary_page_offset().is_none() && column.statistics().is_none());
    }

    #[test]
    fn no_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        EmbeddingWriter::create(&path, 3, "text")
            .unwrap()
            .finish()
            .unwrap();
        assert!(read(&path, &schema("text", 3)).0.is_empty());
    }

    #[test]
    fn row_groups_are_bounded() {
        const GROUP: usize = 1 << 20;
        const ROWS: usize = 10_000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let mut writer = Writer::with_row_groups(&path, 128, "text", GROUP).unwrap();
        let rows: Vec<f32> = (0..ROWS * 128).map(|i| (i as f32).sin()).collect();
        let keys: Vec<String> = (0..ROWS).map(|i| format!("key {i}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        // One batch of more than CHUNK_BYTES, then small ones.
        let half = ROWS - 100;
        writer.write(0, &keys[..half], &rows[..half * 128]).unwrap();
        for i in half..ROWS {
            writer
                .write(i, &keys[i..=i], &rows[i * 128..(i + 1) * 128])
                .unwrap();
        }
        writer.finish().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        let groups = reader.metadata().row_groups();
        assert!(groups.len() >= 3, "{}", groups.len());
        let largest = groups
            .iter()
            .map(|group| group.total_byte_size())
            .max()
            .unwrap();
        assert!(
            largest < (GROUP + CHUNK_BYTES + GROUP / 4) as i64,
            "{largest}"
        );
        let (ids, found_keys, values) = read(&path, &schema("text", 128));
        assert!(ids.into_iter().eq(0..ROWS as i64));
        assert_eq!(found_keys, keys);
        assert_eq!(values, rows);
    }
}
