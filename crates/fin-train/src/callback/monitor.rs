//! A metric that is watched in the course of training.

use std::str::FromStr;

use fin_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::MetricRecord;

/// Which of two values of a metric is the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The larger.
    #[default]
    Max,
    /// The smaller.
    Min,
}

impl Mode {
    /// Name, as in `max`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::Min => "min",
        }
    }

    /// Whether `value` is better than `best` by more than `min_delta`. What is not a number never is,
    /// and any number is better than none.
    pub fn is_better(self, value: f64, best: Option<f64>, min_delta: f64) -> bool {
        match (best, self) {
            (None, _) => !value.is_nan(),
            (Some(best), Self::Max) => value > best + min_delta,
            (Some(best), Self::Min) => value < best - min_delta,
        }
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "max" => Ok(Self::Max),
            "min" => Ok(Self::Min),
            other => {
                let reason = format!("`{other}` is not a mode; accepted: max, min");
                Err(Error::argument("mode", reason))
            }
        }
    }
}

/// The records among `new` that have the metric `monitor`, with its value.
///
/// # Errors
/// [`Error::Argument`] where there are records and none has it.
pub(crate) fn measured<'a>(
    new: &'a [MetricRecord],
    monitor: &str,
) -> Result<Vec<(&'a MetricRecord, f64)>> {
    let value = |record: &'a MetricRecord| Some((record, record.metrics.get(monitor)?));
    let found: Vec<_> = new.iter().filter_map(value).collect();
    match new.last() {
        Some(record) if found.is_empty() => {
            let names: Vec<&str> = record.metrics.iter().map(|(name, _)| name).collect();
            let reason = format!(
                "no evaluator measures `{monitor}`; measured are {}",
                names.join(", ")
            );
            Err(Error::argument("monitor", reason))
        }
        _ => Ok(found),
    }
}

/// The names that metrics go by where there is one list of them: their own for the evaluator that
/// measured first, and with the evaluator's name before them for any other.
#[derive(Debug, Clone, Default)]
pub(crate) struct FlatNames {
    first: Option<String>,
}

impl FlatNames {
    /// The names of a record's metrics, with their values.
    pub(crate) fn of(&mut self, record: &MetricRecord) -> Vec<(String, f64)> {
        let is_first = *self.first.get_or_insert_with(|| record.name.clone()) == record.name;
        let name = |metric: &str| match is_first {
            true => metric.to_owned(),
            false => format!("{}/{metric}", record.name),
        };
        let metrics = record.metrics.iter();
        metrics
            .map(|(metric, value)| (name(metric), value))
            .collect()
    }
}
