//! Training examples: columns of items and, for some losses, a target an example.
//!
//! | made by | columns | targets |
//! | --- | --- | --- |
//! | [`Dataset::scored_pairs`] | first, second | a similarity in `[0, 1]` |
//! | [`Dataset::pairs`] | anchor, positive, then hard negatives | none |
//! | [`Dataset::labelled`] | item | a class |
//! | [`Dataset::with_vectors`] | one or more | a vector, a teacher's embedding say |
//! | `scored_triplets_from_file` | query, positive, negative | a margin, in the teacher's units |
//! | [`Dataset::group_labels`] | item, of pairs | the group that its pairs are connected to |
//!
//! [`SpooledSets`] hold the items of data sets in a file, for training sets that are larger than memory.
//!
//! [`connected_groups`] finds rows that share items, [`split_groups`] and [`split_stratified`] hold
//! some out so that no item is on both sides, and `check` lists duplicates and contradictions.
//!
//! ```
//! use fin_train::dataset::{Dataset, ScoreRange};
//!
//! let range: ScoreRange = "0..5".parse()?;
//! let data = Dataset::scored_pairs(vec!["a cat"], vec!["a dog"], vec![2.5], range)?;
//! assert_eq!((data.len(), data.columns().len()), (1, 2));
//! # Ok::<(), fin_core::Error>(())
//! ```

#[cfg(feature = "text")]
mod check;
#[cfg(feature = "text")]
mod file;
mod groups;
mod range;
mod rows;
mod several;
mod spool;

use std::fmt;
use std::hash::{Hash, Hasher};

use fin_core::{Error, Result};

#[cfg(feature = "text")]
pub use check::{Case, CheckReport, Compared, Example, Finding, FindingKind, Form, check};
#[cfg(feature = "text")]
pub use file::{
    each_labelled, each_pair, each_scored_pair, each_scored_triplet, labelled_from_file,
    pairs_from_file, scored_pairs_from_file, scored_triplets_from_file,
};
pub use groups::{Split, connected_groups, split_groups, split_stratified};
pub use range::ScoreRange;
pub use rows::{Classes, Columns};
pub(crate) use several::{RunData, RunItems};
pub(crate) use spool::Spool;
pub use spool::{ItemCodec, SpoolWriter, SpooledSet, SpooledSets};

/// What the examples are to be pulled towards.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Nothing but the columns themselves.
    None,
    /// A similarity an example.
    Scores(Vec<f32>),
    /// A class an example.
    Labels {
        /// Index into `names`, one an example.
        ids: Vec<usize>,
        /// Class names.
        names: Vec<String>,
    },
    /// A vector an example.
    Vectors {
        /// The vectors one after the other.
        values: Vec<f32>,
        /// Length of a vector.
        dim: usize,
    },
}

impl Targets {
    /// Which of them it is.
    pub fn kind(&self) -> TargetKind {
        match self {
            Self::None => TargetKind::None,
            Self::Scores(_) => TargetKind::Scores,
            Self::Labels { .. } => TargetKind::Labels,
            Self::Vectors { .. } => TargetKind::Vectors,
        }
    }

    /// Number of classes; 0 where there are no labels.
    pub fn classes(&self) -> usize {
        match self {
            Self::Labels { names, .. } => names.len(),
            Self::None | Self::Scores(_) | Self::Vectors { .. } => 0,
        }
    }

    /// Checks that there is one for each of `len` examples, and that it can be used.
    fn check(&self, len: usize) -> Result<()> {
        let invalid = |reason: String| Err(Error::argument("dataset", reason));
        match self {
            Self::None => {}
            Self::Scores(scores) => {
                if scores.len() != len {
                    return invalid(format!("{len} examples have {} scores", scores.len()));
                }
                if let Some(row) = scores.iter().position(|score| !score.is_finite()) {
                    return invalid(format!(
                        "row {}: score {} is not finite",
                        row + 1,
                        scores[row]
                    ));
                }
            }
            Self::Labels { ids, names } => {
                if ids.len() != len {
                    return invalid(format!("{len} examples have {} labels", ids.len()));
                }
                if let Some(row) = ids.iter().position(|&id| id >= names.len()) {
                    return invalid(format!(
                        "row {}: label {} is not one of {} classes",
                        row + 1,
                        ids[row],
                        names.len()
                    ));
                }
            }
            Self::Vectors { values, dim } => check_vectors(len, values, *dim)
                .map_err(|reason| Error::argument("dataset", reason))?,
        }
        Ok(())
    }

    /// Adds them to a digest of their data set.
    fn digest(&self, hasher: &mut Fnv1a) {
        match self {
            Self::None => 0u8.hash(hasher),
            Self::Scores(scores) => scores.iter().for_each(|score| score.to_bits().hash(hasher)),
            Self::Labels { ids, names } => (ids, names).hash(hasher),
            Self::Vectors { values, dim } => {
                dim.hash(hasher);
                values.iter().for_each(|value| value.to_bits().hash(hasher));
            }
        }
    }

    /// The targets of the examples with these indices.
    pub(crate) fn select(&self, indices: &[usize]) -> BatchTargets {
        match self {
            Self::None => BatchTargets::None,
            Self::Scores(scores) => {
                BatchTargets::Scores(indices.iter().map(|&i| scores[i]).collect())
            }
            Self::Labels { ids, .. } => {
                BatchTargets::Labels(indices.iter().map(|&i| ids[i]).collect())
            }
            Self::Vectors { values, dim } => BatchTargets::Vectors {
                values: indices
                    .iter()
                    .flat_map(|&i| &values[i * dim..(i + 1) * dim])
                    .copied()
                    .collect(),
                dim: *dim,
            },
        }
    }
}

/// The kinds of [`Targets`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// No targets.
    None,
    /// A similarity an example.
    Scores,
    /// A class an example.
    Labels,
    /// A vector an example.
    Vectors,
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no targets",
            Self::Scores => "a score each",
            Self::Labels => "a label each",
            Self::Vectors => "a vector each",
        })
    }
}

/// The targets of one batch, in its order.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchTargets {
    /// No targets.
    None,
    /// A similarity an example.
    Scores(Vec<f32>),
    /// A class an example, as a number.
    Labels(Vec<usize>),
    /// A vector an example.
    Vectors {
        /// The vectors one after the other.
        values: Vec<f32>,
        /// Length of a vector.
        dim: usize,
    },
}

impl BatchTargets {
    /// Which of them it is.
    pub fn kind(&self) -> TargetKind {
        match self {
            Self::None => TargetKind::None,
            Self::Scores(_) => TargetKind::Scores,
            Self::Labels(_) => TargetKind::Labels,
            Self::Vectors { .. } => TargetKind::Vectors,
        }
    }
}

/// Examples of a kind of item: a text, an image path.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset<I> {
    columns: Vec<Vec<I>>,
    targets: Targets,
}

impl<I> Dataset<I> {
    /// From columns of equal length, one value an example.
    ///
    /// # Errors
    /// [`Error::Argument`] where there are no columns or no examples, lengths differ, a score or
    /// a vector's component is not finite or a label has no name.
    pub fn new(columns: Vec<Vec<I>>, targets: Targets) -> Result<Self> {
        let invalid = |reason: String| Err(Error::argument("dataset", reason));
        let Some(first) = columns.first() else {
            return invalid("has no columns".into());
        };
        let len = first.len();
        if len == 0 {
            return invalid("has no examples".into());
        }
        if let Some(i) = columns.iter().position(|column| column.len() != len) {
            return invalid(format!(
                "column 1 has {len} items, column {} has {}",
                i + 1,
                columns[i].len()
            ));
        }
        targets.check(len)?;
        Ok(Self { columns, targets })
    }

    /// Pairs with a similarity each, scaled from `range` to `[0, 1]`.
    ///
    /// # Errors
    /// As [`Dataset::new`]; a score out of range names its row, counted from 1.
    pub fn scored_pairs(
        first: Vec<I>,
        second: Vec<I>,
        scores: Vec<f32>,
        range: ScoreRange,
    ) -> Result<Self> {
        let scores = range.scaled(scores)?;
        Self::new(vec![first, second], Targets::Scores(scores))
    }

    /// Anchors with an item that belongs to each and, where there are any, as many hard
    /// negatives a row. `negatives` is empty or has a list a row.
    ///
    /// # Errors
    /// As [`Dataset::new`]; the row, counted from 1, whose number of negatives is not that of the
    /// first.
    pub fn pairs(anchors: Vec<I>, positives: Vec<I>, negatives: Vec<Vec<I>>) -> Result<Self> {
        let mut columns = vec![anchors, positives];
        if !negatives.is_empty() {
            let count = negatives[0].len();
            if let Some(row) = negatives.iter().position(|row| row.len() != count) {
                return Err(Error::argument(
                    "negatives",
                    format!(
                        "row {} has {} negatives, row 1 has {count}; every row needs as many",
                        row + 1,
                        negatives[row].len()
                    ),
                ));
            }
            if negatives.len() != columns[0].len() {
                return Err(Error::argument(
                    "negatives",
                    format!(
                        "{} rows of negatives for {} anchors",
                        negatives.len(),
                        columns[0].len()
                    ),
                ));
            }
            let mut transposed: Vec<Vec<I>> = (0..count).map(|_| Vec::new()).collect();
            for row in negatives {
                for (column, item) in transposed.iter_mut().zip(row) {
                    column.push(item);
                }
            }
            columns.extend(transposed);
        }
        Self::new(columns, Targets::None)
    }

    /// Items with a class each. Classes are numbered in alphabetical order.
    ///
    /// # Errors
    /// As [`Dataset::new`].
    pub fn labelled(items: Vec<I>, labels: &[impl AsRef<str>]) -> Result<Self> {
        let mut classes = Classes::default();
        labels.iter().for_each(|label| classes.push(label.as_ref()));
        Self::new(vec![items], classes.targets())
    }

    /// Items with a vector each: row `i` of a matrix of this width, row-major, is that of example
    /// `i`. With several columns, the items of an example have the same vector.
    ///
    /// # Errors
    /// As [`Dataset::new`]; where the numbers of rows and examples differ, the error says both.
    pub fn with_vectors(columns: Vec<Vec<I>>, values: Vec<f32>, dim: usize) -> Result<Self> {
        Self::new(columns, Targets::Vectors { values, dim })
    }

    /// Number of examples; at least 1.
    pub fn len(&self) -> usize {
        self.columns[0].len()
    }

    /// Whether there are no examples; never true of a data set that was made.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The columns, each with an item an example.
    pub fn columns(&self) -> &[Vec<I>] {
        &self.columns
    }

    /// The targets.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }
}

/// What is wrong with vectors that are to be one an example.
fn check_vectors(len: usize, values: &[f32], dim: usize) -> Result<(), String> {
    if dim == 0 {
        return Err("vectors have no components".into());
    }
    if len.checked_mul(dim) != Some(values.len()) {
        let rows = values.len() / dim;
        let rest = match values.len() % dim {
            0 => String::new(),
            rest => format!(" and {rest} components"),
        };
        return Err(format!(
            "{len} examples have {rows} vectors of {dim} components{rest}"
        ));
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(format!(
            "row {}: component {} is {}, which is not finite",
            at / dim + 1,
            at % dim,
            values[at]
        )),
        None => Ok(()),
    }
}

impl<I: Hash> Dataset<I> {
    /// A 64-bit digest of all items and targets in order, by which a resumed run knows its data.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = Fnv1a::default();
        for column in &self.columns {
            column.hash(&mut hasher);
        }
        self.targets.digest(&mut hasher);
        hasher.finish()
    }
}

impl<I: Hash + Eq + Clone> Dataset<I> {
    /// The distinct items in order of first occurrence, and the columns as indices into them.
    pub fn distinct(&self) -> (Vec<I>, Vec<Vec<usize>>) {
        let (items, columns) = several::distinct(std::slice::from_ref(self));
        (items, columns.into_iter().flatten().collect())
    }
}

/// FNV-1a (Fowler, Noll and Vo), which unlike the standard library's hasher is the same in every
/// process and release.
struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv1a {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_scaled_and_one_out_of_range_names_its_row() {
        let range = "0..5".parse().unwrap();
        let make = |scores| Dataset::scored_pairs(vec!["a", "b"], vec!["c", "d"], scores, range);
        let data = make(vec![5.0, 1.0]).unwrap();
        assert_eq!(data.targets(), &Targets::Scores(vec![1.0, 0.2]));
        for bad in [5.5, -0.1, f32::NAN, f32::INFINITY] {
            let error = make(vec![1.0, bad]).unwrap_err().to_string();
            assert!(error.contains("row 2") && error.contains("0..5"), "{error}");
        }
    }

    #[test]
    fn negatives_become_columns_and_a_ragged_row_is_named() {
        let data = Dataset::pairs(vec![1, 2], vec![3, 4], vec![vec![5, 6], vec![7, 8]]).unwrap();
        assert_eq!(
            data.columns(),
            [vec![1, 2], vec![3, 4], vec![5, 7], vec![6, 8]]
        );
        let error = Dataset::pairs(vec![1, 2], vec![3, 4], vec![vec![5], vec![]]).unwrap_err();
        assert!(
            error.to_string().contains("row 2 has 0 negatives"),
            "{error}"
        );
        let error = Dataset::pairs(vec![1, 2], vec![3, 4], vec![vec![5]]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("1 rows of negatives for 2 anchors"),
            "{error}"
        );
    }

    #[test]
    fn classes_are_numbered_alphabetically() {
        let data = Dataset::labelled(vec!["x", "y", "z"], &["b", "a", "b"]).unwrap();
        let names = vec!["a".to_string(), "b".to_string()];
        assert_eq!(
            data.targets(),
            &Targets::Labels {
                ids: vec![1, 0, 1],
                names
            }
        );
    }

    #[test]
    fn columns_that_do_not_fit_are_refused() {
        for (columns, targets, what) in [
            (vec![], Targets::None, "no columns"),
            (vec![vec![]], Targets::None, "no examples"),
            (vec![vec![1], vec![1, 2]], Targets::None, "column 2 has 2"),
            (vec![vec![1]], Targets::Scores(vec![]), "0 scores"),
            (vec![vec![1]], Targets::Scores(vec![f32::NAN]), "row 1"),
            (
                vec![vec![1]],
                Targets::Labels {
                    ids: vec![0],
                    names: vec![],
                },
                "row 1",
            ),
            (
                vec![vec![1, 2]],
                vectors(vec![0.0; 3], 2),
                "1 vectors of 2 components and 1",
            ),
            (
                vec![vec![1]],
                vectors(vec![0.0; 4], 2),
                "1 examples have 2 vectors",
            ),
            (vec![vec![1]], vectors(vec![], 0), "no components"),
            (
                vec![vec![1, 2]],
                vectors(vec![0.0, 0.0, 0.0, f32::NAN], 2),
                "row 2: component 1",
            ),
        ] {
            let error = Dataset::new(columns, targets).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    fn vectors(values: Vec<f32>, dim: usize) -> Targets {
        Targets::Vectors { values, dim }
    }

    #[test]
    fn a_batch_has_the_vectors_of_its_examples() {
        let values = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let data = Dataset::with_vectors(vec![vec!["a", "b", "c"]], values.clone(), 2).unwrap();
        let expected = BatchTargets::Vectors {
            values: vec![5.0, 6.0, 1.0, 2.0],
            dim: 2,
        };
        assert_eq!(data.targets().select(&[2, 0]), expected);
        assert_eq!(data.targets().classes(), 0);
        let other = |values| Dataset::with_vectors(vec![vec!["a", "b", "c"]], values, 2);
        let mut changed = values.clone();
        changed[3] = 4.5;
        assert_eq!(other(values).unwrap().fingerprint(), data.fingerprint());
        assert_ne!(other(changed).unwrap().fingerprint(), data.fingerprint());
    }

    #[test]
    fn the_fingerprint_sees_items_order_and_targets() {
        let data = |first: [&str; 2], score| {
            let range = ScoreRange::default();
            Dataset::scored_pairs(first.to_vec(), vec!["c", "d"], vec![0.5, score], range)
                .unwrap()
                .fingerprint()
        };
        let base = data(["a", "b"], 1.0);
        assert_eq!(base, data(["a", "b"], 1.0));
        assert_ne!(base, data(["b", "a"], 1.0));
        assert_ne!(base, data(["a", "b"], 0.9));
        // Known answer: the digest must not change between releases, or no run could be resumed.
        let mut hasher = Fnv1a::default();
        hasher.write(b"foobar");
        assert_eq!(hasher.finish(), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn distinct_items_are_kept_once() {
        let data = Dataset::pairs(vec!["a", "b"], vec!["b", "a"], vec![]).unwrap();
        assert_eq!(
            data.distinct(),
            (vec!["a", "b"], vec![vec![0, 1], vec![1, 0]])
        );
    }
}
