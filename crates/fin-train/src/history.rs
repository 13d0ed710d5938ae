//! What a run has seen so far, as checkpoints keep it.

use std::path::Path;

use fin_core::atomic::write;
use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::callback::MetricRecord;
use crate::metrics::Metrics;

/// Losses and metrics of the steps up to a checkpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct History {
    /// Loss of every step.
    pub losses: Vec<f32>,
    /// What callbacks measured.
    pub records: Vec<MetricRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    losses: Vec<f32>,
    metrics: Vec<StoredRecord>,
}

/// A [`MetricRecord`] with its values as text, which gives them back to the bit: resuming must not
/// tell values apart that were equal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredRecord {
    step: usize,
    epoch: usize,
    evaluator: String,
    values: Vec<(String, String)>,
}

impl From<&MetricRecord> for StoredRecord {
    fn from(record: &MetricRecord) -> Self {
        let text = |(name, value): (&str, f64)| (name.to_owned(), value.to_string());
        Self {
            step: record.step,
            epoch: record.epoch,
            evaluator: record.name.clone(),
            values: record.metrics.iter().map(text).collect(),
        }
    }
}

impl StoredRecord {
    /// The record, from the file at `path`.
    pub(crate) fn record(self, path: &Path) -> Result<MetricRecord> {
        let mut metrics = Metrics::default();
        for (name, text) in self.values {
            let value = text.parse().map_err(|e| {
                let reason = format!("`{text}`, the value of {name}, is not a number: {e}");
                Error::config(path, "values", reason)
            })?;
            metrics.insert(name, value);
        }
        Ok(MetricRecord {
            step: self.step,
            epoch: self.epoch,
            name: self.evaluator,
            metrics,
        })
    }
}

impl History {
    /// Writes a run's losses and records.
    pub(crate) fn save(path: &Path, losses: &[f32], records: &[MetricRecord]) -> Result<()> {
        let stored = Stored {
            losses: losses.to_vec(),
            metrics: records.iter().map(StoredRecord::from).collect(),
        };
        let text = serde_json::to_string(&stored)
            .map_err(|e| Error::invalid(path, format!("cannot be written: {e}")))?;
        write(path, text.as_bytes())
    }

    /// Reads what [`History::save`] wrote; nothing where there is no file, as in checkpoints that
    /// earlier versions made.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::io(path, "read")(e)),
        };
        let stored: Stored = serde_json::from_str(&text)
            .map_err(|e| Error::invalid(path, format!("is not the history of a run: {e}")))?;
        let records = stored.metrics.into_iter();
        Ok(Self {
            losses: stored.losses,
            records: records
                .map(|record| record.record(path))
                .collect::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_to_the_bit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.json");
        assert_eq!(History::read(&path).unwrap(), History::default());
        let mut metrics = Metrics::default();
        let mut bits = 7u64;
        let mut values = vec![f64::NAN, f64::INFINITY, 0.1 + 0.2, 5e-324];
        for _ in 0..500 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            values.push((bits >> 11) as f64 / (1u64 << 53) as f64);
        }
        for (i, value) in values.iter().enumerate() {
            metrics.insert(i.to_string(), *value);
        }
        let records = [MetricRecord {
            step: 3,
            epoch: 1,
            name: "data".into(),
            metrics,
        }];
        let losses: Vec<f32> = values[2..].iter().map(|value| *value as f32).collect();
        History::save(&path, &losses, &records).unwrap();
        let found = History::read(&path).unwrap();
        assert_eq!(found.losses, losses);
        let found = found.records[0].metrics.iter().map(|(_, x)| x.to_bits());
        assert!(found.eq(values.iter().map(|x| x.to_bits())));

        std::fs::write(&path, r#"{"losses": [1, "x"], "metrics": []}"#).unwrap();
        let error = History::read(&path).unwrap_err().to_string();
        assert!(error.contains("history.json"), "{error}");
    }
}
