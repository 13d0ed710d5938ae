//! Embeddings as JSON, an object a line.

use std::io::Write;
use std::path::Path;

use super::{EMBEDDING, ID};
use crate::atomic::AtomicFile;
use crate::error::{Error, Result};

#[derive(Debug)]
pub(super) struct Writer {
    file: AtomicFile,
    key_name: String,
}

impl Writer {
    pub(super) fn create(path: &Path, key_name: &str) -> Result<Self> {
        Ok(Self {
            file: AtomicFile::create(path)?,
            key_name: key_name.to_owned(),
        })
    }

    /// Writes rows numbered from `start`. All values are finite.
    pub(super) fn write(
        &mut self,
        start: usize,
        keys: &[&str],
        rows: &[f32],
        dim: usize,
    ) -> Result<()> {
        keys.iter()
            .zip(rows.chunks_exact(dim))
            .enumerate()
            .try_for_each(|(i, (key, row))| self.write_row(start + i, key, row))
            .map_err(Error::io(self.file.destination(), "write"))
    }

    fn write_row(&mut self, id: usize, key: &str, row: &[f32]) -> std::io::Result<()> {
        let file = &mut self.file;
        write!(file, "{{\"{ID}\":{id},")?;
        serde_json::to_writer(&mut *file, &self.key_name)?;
        file.write_all(b":")?;
        serde_json::to_writer(&mut *file, key)?;
        write!(file, ",\"{EMBEDDING}\":")?;
        serde_json::to_writer(&mut *file, row)?;
        file.write_all(b"}\n")
    }

    pub(super) fn finish(self) -> Result<()> {
        self.file.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::super::EmbeddingWriter;

    fn written(key_name: &str, keys: &[&str], rows: &[f32], dim: usize) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut writer = EmbeddingWriter::create(&path, dim, key_name).unwrap();
        for (key, row) in keys.iter().zip(rows.chunks(dim)) {
            writer.write_batch(&[key], row).unwrap();
        }
        writer.finish().unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_line_a_row() {
        let keys = ["a \"b\"\n", "č\u{2028}"];
        let text = written(
            "text",
            &keys,
            &[0.1, -0.0, 1.0, 1.0 / 3.0, 1e-20, 16_777_216.0],
            3,
        );
        let expected = "{\"id\":0,\"text\":\"a \\\"b\\\"\\n\",\"embedding\":[0.1,-0.0,1.0]}\n\
                        {\"id\":1,\"text\":\"č\u{2028}\",\"embedding\":[0.33333334,1e-20,16777216.0]}\n";
        assert_eq!(text, expected);
        assert_eq!(written("text", &[], &[], 3), "");
    }

    #[test]
    fn every_number_reads_back_as_it_was() {
        let mut state = 1_u32;
        let rows: Vec<f32> = (0..4096)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from_bits(state)
            })
            .chain([f32::MIN_POSITIVE, f32::MAX, f32::MIN, f32::from_bits(1)])
            .filter(|value| value.is_finite())
            .collect();
        let text = written("p\"q", &["k"], &rows, rows.len());
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["p\"q"], "k");
        let found = object["embedding"].as_array().unwrap();
        assert_eq!(found.len(), rows.len());
        for (number, value) in found.iter().zip(&rows) {
            let read: f32 = number.to_string().parse().unwrap();
            assert_eq!(read.to_bits(), value.to_bits(), "{number}");
        }
    }
}
