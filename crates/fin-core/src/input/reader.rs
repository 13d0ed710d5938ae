//! Rows of training data, one at a time.

use std::fmt;
use std::iter::FusedIterator;
use std::path::{Path, PathBuf};

use super::record::{Record, Records};
use crate::error::Result;

/// What a record becomes, in a file that errors call by this path.
type Convert<T> = Box<dyn Fn(&Path, Record) -> Result<T> + Send>;

/// Rows of training data of a file, one at a time and in order.
///
/// Holds one row in memory, of Parquet a thousand, however long the file is. After the first error
/// there are no more rows. [`open_pairs`](super::open_pairs),
/// [`open_scored_pairs`](super::open_scored_pairs),
/// [`open_scored_triplets`](super::open_scored_triplets) and
/// [`open_labelled`](super::open_labelled) make readers.
///
/// ```
/// use fin_core::input::{PairColumns, ReadOptions, open_pairs};
///
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("pairs.csv");
/// std::fs::write(&path, "anchor,positive\nq,a\nr,b\n")?;
/// let mut anchors = Vec::new();
/// for row in open_pairs(&path, &PairColumns::default(), ReadOptions::default())? {
///     anchors.push(row?.anchor);
/// }
/// assert_eq!(anchors, ["q", "r"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RowReader<T> {
    records: Records,
    path: PathBuf,
    convert: Convert<T>,
    done: bool,
}

impl<T> RowReader<T> {
    pub(super) fn new(
        records: Records,
        convert: impl Fn(&Path, Record) -> Result<T> + Send + 'static,
    ) -> Self {
        Self {
            path: records.path().to_path_buf(),
            records,
            convert: Box::new(convert),
            done: false,
        }
    }

    fn read(&mut self) -> Result<Option<T>> {
        let record = self.records.next_record()?;
        record
            .map(|record| (self.convert)(&self.path, record))
            .transpose()
    }
}

impl<T> Iterator for RowReader<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let row = self.read().transpose();
        self.done = !matches!(row, Some(Ok(_)));
        row
    }
}

impl<T> FusedIterator for RowReader<T> {}

impl<T> fmt::Debug for RowReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowReader")
            .field("path", &self.path)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LabelledColumns, ReadOptions, open_labelled};
    use crate::error::Error;

    #[test]
    fn rows_before_a_bad_one_are_given_and_none_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.csv");
        std::fs::write(&path, "text,label\na,x\nb,y\nc\nd,z\n").unwrap();
        let rows = open_labelled(&path, &LabelledColumns::default(), ReadOptions::default());
        let mut rows = rows.unwrap();
        for text in ["a", "b"] {
            assert_eq!(rows.next().unwrap().unwrap().text, text);
        }
        let error = rows.next().unwrap().unwrap_err();
        assert!(matches!(error, Error::Row { line: 4, .. }), "{error}");
        assert!(rows.next().is_none());
    }
}
