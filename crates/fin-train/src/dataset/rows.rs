//! Data sets from rows that come one after the other.

use std::collections::HashMap;

use fin_core::{Error, Result};

use super::{Dataset, Targets};

/// The columns of rows that come one after the other, in memory.
///
/// ```
/// use fin_train::dataset::{Columns, Targets};
///
/// let mut columns = Columns::default();
/// columns.push(vec!["a question", "an answer"])?;
/// columns.push(vec!["another", "its answer"])?;
/// let data = columns.with_targets(Targets::None)?;
/// assert_eq!((data.len(), data.columns().len()), (2, 2));
/// # Ok::<(), fin_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Columns<I>(Vec<Vec<I>>);

impl<I> Default for Columns<I> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<I> Columns<I> {
    /// Adds an item to each column.
    ///
    /// # Errors
    /// [`Error::Argument`] where the row has more or fewer items than the first.
    pub fn push(&mut self, row: Vec<I>) -> Result<()> {
        add_row(&mut self.0, row)
    }

    /// The rows as a data set.
    ///
    /// # Errors
    /// As [`Dataset::new`].
    pub fn with_targets(self, targets: Targets) -> Result<Dataset<I>> {
        Dataset::new(self.0, targets)
    }
}

/// Adds an item to each column; the first row says how many there are.
pub(super) fn add_row<I>(columns: &mut Vec<Vec<I>>, row: Vec<I>) -> Result<()> {
    let len = columns.first().map_or(0, Vec::len);
    if len == 0 {
        columns.resize_with(row.len(), Vec::new);
    }
    if row.len() != columns.len() {
        let (found, expected) = (row.len(), columns.len());
        let reason = format!(
            "row {} has {found} items, row 1 has {expected}; every row needs as many",
            len + 1
        );
        return Err(Error::argument("dataset", reason));
    }
    for (column, item) in columns.iter_mut().zip(row) {
        column.push(item);
    }
    Ok(())
}

/// Classes of examples that come one after the other; at the end they are numbered in alphabetical
/// order.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    /// In order of first occurrence.
    numbers: HashMap<String, usize>,
    ids: Vec<usize>,
}

impl Classes {
    /// Adds the class of an example.
    pub fn push(&mut self, label: &str) {
        let id = match self.numbers.get(label) {
            Some(&id) => id,
            None => {
                let id = self.numbers.len();
                self.numbers.insert(label.to_owned(), id);
                id
            }
        };
        self.ids.push(id);
    }

    /// The classes as targets.
    pub fn targets(self) -> Targets {
        let mut found: Vec<(String, usize)> = self.numbers.into_iter().collect();
        found.sort_unstable();
        let mut ranks = vec![0; found.len()];
        let mut names = Vec::with_capacity(found.len());
        for (rank, (name, id)) in found.into_iter().enumerate() {
            ranks[id] = rank;
            names.push(name);
        }
        let mut ids = self.ids;
        ids.iter_mut().for_each(|id| *id = ranks[*id]);
        Targets::Labels { ids, names }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_another_width_is_named() {
        let mut columns = Columns::default();
        columns.push(vec![1, 2]).unwrap();
        columns.push(vec![3, 4]).unwrap();
        let error = columns.push(vec![5]).unwrap_err().to_string();
        assert!(error.contains("row 3 has 1 items, row 1 has 2"), "{error}");
        let data = columns.with_targets(Targets::None).unwrap();
        assert_eq!(data.columns(), [[1, 3], [2, 4]]);
    }
}
