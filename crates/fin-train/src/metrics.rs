//! Named numbers in the order in which they were measured.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// Named numbers, in order. A value is NaN where the metric is not defined on the data; it is
/// serialised as `null`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    values: Vec<(String, f64)>,
}

impl Metrics {
    /// Appends a value, or replaces that of the same name.
    pub fn insert(&mut self, name: impl Into<String>, value: f64) {
        let name = name.into();
        match self.values.iter_mut().find(|(other, _)| *other == name) {
            Some((_, slot)) => *slot = value,
            None => self.values.push((name, value)),
        }
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| *value)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl fmt::Display for Metrics {
    /// `name value, name value` with four decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {value:.4}")?;
        }
        Ok(())
    }
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_undefined_is_null() {
        let mut metrics = Metrics::default();
        metrics.insert("mrr@10", 0.25);
        metrics.insert("map@10", f64::NAN);
        metrics.insert("mrr@10", 0.5);
        assert_eq!(
            serde_json::to_string(&metrics).unwrap(),
            r#"{"mrr@10":0.5,"map@10":null}"#
        );
        assert_eq!(metrics.to_string(), "mrr@10 0.5000, map@10 NaN");
        assert_eq!(
            (metrics.get("mrr@10"), metrics.get("x"), metrics.len()),
            (Some(0.5), None, 2)
        );
    }
}
