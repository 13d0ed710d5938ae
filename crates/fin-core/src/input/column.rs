//! The choice of a column by name or index.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A column, by name or by zero-based index.
///
/// Digits alone are an index, unless the header has a column with exactly this name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Column(String);

impl Column {
    /// As the user wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Zero-based index, where it is written in digits alone.
    pub fn index(&self) -> Option<usize> {
        let digits = !self.0.is_empty() && self.0.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| self.0.parse().ok()).flatten()
    }

    /// Zero-based index among `width` columns, named by `header` where there is one.
    ///
    /// # Errors
    /// [`Error::Column`] where there is no such column, [`Error::InvalidFile`] where two columns
    /// have this name.
    pub(super) fn resolve(
        &self,
        path: &Path,
        header: Option<&[String]>,
        width: usize,
    ) -> Result<usize> {
        let mut named = header
            .unwrap_or_default()
            .iter()
            .enumerate()
            .filter(|(_, name)| **name == self.0)
            .map(|(index, _)| index);
        match (named.next(), named.next()) {
            (Some(first), Some(second)) => Err(Error::invalid(
                path,
                format!(
                    "columns {first} and {second} are both named `{self}`; choose one by its index"
                ),
            )),
            (Some(index), None) => Ok(index),
            _ => match self.index() {
                Some(index) if index < width => Ok(index),
                _ => Err(self.missing(path, available(header, width))),
            },
        }
    }

    /// The error that lists what columns there are.
    pub(super) fn missing(&self, path: &Path, available: Vec<String>) -> Error {
        Error::Column {
            path: path.to_path_buf(),
            column: self.0.clone(),
            available,
        }
    }
}

/// Names of the columns; where there are none, indices.
pub(super) fn available(header: Option<&[String]>, width: usize) -> Vec<String> {
    match header {
        Some(names) => names.to_vec(),
        None => (0..width).map(|index| index.to_string()).collect(),
    }
}

impl From<&str> for Column {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Column {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl FromStr for Column {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::from(text))
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(column: &str, header: Option<&[&str]>, width: usize) -> Result<usize> {
        let header: Option<Vec<String>> =
            header.map(|names| names.iter().map(ToString::to_string).collect());
        Column::from(column).resolve(Path::new("a.csv"), header.as_deref(), width)
    }

    #[test]
    fn a_name_or_an_index() {
        assert_eq!(resolve("b", Some(&["a", "b"]), 2).unwrap(), 1);
        assert_eq!(resolve("1", Some(&["a", "b"]), 2).unwrap(), 1);
        assert_eq!(resolve("001", None, 3).unwrap(), 1);
        assert_eq!(resolve("2", None, 3).unwrap(), 2);
    }

    #[test]
    fn a_column_named_in_digits_goes_before_the_index() {
        assert_eq!(resolve("0", Some(&["1", "0"]), 2).unwrap(), 1);
        assert_eq!(resolve("1", Some(&["1", "0"]), 2).unwrap(), 0);
    }

    #[test]
    fn a_missing_column_lists_the_others() {
        for column in ["c", "2", "", "-1", "+1", "99999999999999999999999"] {
            let error = resolve(column, Some(&["a", "b"]), 2).unwrap_err();
            assert!(matches!(error, Error::Column { .. }), "{error}");
            let expected = format!("a.csv: no column `{column}`; the columns are: a, b");
            assert_eq!(error.to_string(), expected);
        }
        let error = resolve("a", None, 2).unwrap_err().to_string();
        assert_eq!(error, "a.csv: no column `a`; the columns are: 0, 1");
    }

    #[test]
    fn a_name_that_two_columns_have_is_ambiguous() {
        let error = resolve("a", Some(&["a", "b", "a"]), 3)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("columns 0 and 2 are both named `a`"),
            "{error}"
        );
        assert_eq!(resolve("2", Some(&["a", "b", "a"]), 3).unwrap(), 2);
    }
}
