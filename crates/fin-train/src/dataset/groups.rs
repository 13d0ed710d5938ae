//! Rows that belong together, and parts of data that no group is on both sides of.
//!
//! Rows that share an item are a group, and so are rows that are connected over others: connected
//! components, found with disjoint sets (Galler and Fischer 1964, "An improved equivalence
//! algorithm"). A document that was seen before keeps its group, and a row that joins two groups
//! makes them one.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use fin_core::{Error, Result};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Dataset, Targets};

/// Sets of numbers that are merged.
#[derive(Debug, Default)]
struct DisjointSets {
    /// The number above each in its set; the first of a set is above itself.
    parents: Vec<usize>,
}

impl DisjointSets {
    fn add(&mut self) -> usize {
        self.parents.push(self.parents.len());
        self.parents.len() - 1
    }

    /// The number that stands for the set of `i`, the smallest in it.
    fn root(&mut self, mut i: usize) -> usize {
        while self.parents[i] != i {
            self.parents[i] = self.parents[self.parents[i]];
            i = self.parents[i];
        }
        i
    }

    fn merge(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b)] = a.min(b);
    }
}

/// The group of each row, given the keys of its items: rows that share a key are in one group, and
/// so are rows that are connected over others. Groups are numbered from 0 in the order of their
/// first rows; a row without keys is one by itself.
///
/// ```
/// use fin_train::dataset::connected_groups;
///
/// let rows = [["q1", "d1"], ["q2", "d2"], ["q3", "d1"], ["q3", "d3"]];
/// assert_eq!(connected_groups(rows), [0, 1, 0, 0]);
/// ```
pub fn connected_groups<K: Hash + Eq, R: IntoIterator<Item = K>>(
    rows: impl IntoIterator<Item = R>,
) -> Vec<usize> {
    let mut sets = DisjointSets::default();
    let mut owners: HashMap<K, usize> = HashMap::new();
    for keys in rows {
        let row = sets.add();
        for key in keys {
            let owner = *owners.entry(key).or_insert(row);
            sets.merge(owner, row);
        }
    }
    let mut numbers: HashMap<usize, usize> = HashMap::new();
    (0..sets.parents.len())
        .map(|row| {
            let (root, next) = (sets.root(row), numbers.len());
            *numbers.entry(root).or_insert(next)
        })
        .collect()
}

/// Data in two parts: indices of rows, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// What is trained on.
    pub train: Vec<usize>,
    /// What is held out.
    pub held_out: Vec<usize>,
}

/// Holds out about a fraction of the rows, `groups` having the group of each, as
/// [`connected_groups`] gives them: groups in random order as long as they fit, and the smallest
/// where none does. No group is on both sides. The same seed gives the same parts.
///
/// # Errors
/// [`Error::Argument`] where the fraction is not between 0 and 1, or all rows are one group.
pub fn split_groups(groups: &[usize], fraction: f64, seed: u64) -> Result<Split> {
    split_stratified(groups, &vec![0; groups.len()], fraction, seed)
}

/// [`split_groups`] class by class, `classes` having the class of each row, so that every class has
/// its share of what is held out, as far as whole numbers and groups allow. A group with rows of
/// several classes counts as one of its first row's.
///
/// # Errors
/// As [`split_groups`]; where the two lists differ in length.
pub fn split_stratified(
    groups: &[usize],
    classes: &[usize],
    fraction: f64,
    seed: u64,
) -> Result<Split> {
    if !(fraction > 0.0 && fraction < 1.0) {
        let reason = format!("{fraction} is not between 0 and 1");
        return Err(Error::argument("fraction", reason));
    }
    if groups.len() != classes.len() {
        let reason = format!("{} for {} rows", classes.len(), groups.len());
        return Err(Error::argument("classes", reason));
    }
    let count = groups.iter().max().map_or(0, |largest| largest + 1);
    let mut sizes = vec![0; count];
    let mut class_of = vec![usize::MAX; count];
    for (&group, &class) in groups.iter().zip(classes) {
        sizes[group] += 1;
        if class_of[group] == usize::MAX {
            class_of[group] = class;
        }
    }
    if sizes.iter().filter(|&&size| size > 0).count() < 2 {
        let reason = format!(
            "all {} rows share items with each other, directly or over others, and are one group; \
             there is nothing to hold out without items on both sides",
            groups.len()
        );
        return Err(Error::argument("fraction", reason));
    }
    let targets = shares(&sizes, &class_of, fraction);
    let mut taken = vec![0; targets.len()];
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut is_held_out = vec![false; count];
    for &group in &order {
        let class = class_of[group];
        if sizes[group] > 0 && taken[class] + sizes[group] <= targets[class] {
            taken[class] += sizes[group];
            is_held_out[group] = true;
        }
    }
    if !is_held_out.contains(&true)
        && let Some(smallest) = order
            .into_iter()
            .filter(|&group| sizes[group] > 0)
            .min_by_key(|&group| sizes[group])
    {
        is_held_out[smallest] = true;
    }
    let (held_out, train) = (0..groups.len()).partition(|&row| is_held_out[groups[row]]);
    Ok(Split { train, held_out })
}

/// How many rows of each class are to be held out: the fraction of each, rounded so that the sum
/// is the fraction of all (largest remainders).
fn shares(sizes: &[usize], class_of: &[usize], fraction: f64) -> Vec<usize> {
    let classes = class_of.iter().filter(|&&class| class != usize::MAX).max();
    let mut rows = vec![0usize; classes.map_or(0, |largest| largest + 1)];
    for (&size, &class) in sizes.iter().zip(class_of) {
        if class != usize::MAX {
            rows[class] += size;
        }
    }
    let exact: Vec<f64> = rows.iter().map(|&rows| rows as f64 * fraction).collect();
    let mut targets: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
    let sum: usize = rows.iter().sum();
    // Something is left to train on.
    let all = ((sum as f64 * fraction).round() as usize).min(sum.saturating_sub(1));
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let rest = |class: usize| exact[class] - exact[class].floor();
    order.sort_by(|&a, &b| rest(b).total_cmp(&rest(a)).then(a.cmp(&b)));
    let missing = all.saturating_sub(targets.iter().sum());
    for class in order.into_iter().take(missing) {
        targets[class] += 1;
    }
    targets
}

impl<I: Clone> Dataset<I> {
    /// The examples with these indices, in this order; classes keep their numbers.
    ///
    /// # Errors
    /// [`Error::Argument`] where there are none or one does not exist.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        if let Some(row) = rows.iter().find(|&&row| row >= self.len()) {
            let reason = format!("there is no example {row} among {}", self.len());
            return Err(Error::argument("rows", reason));
        }
        let columns = self.columns().iter();
        let columns = columns.map(|column| rows.iter().map(|&row| column[row].clone()).collect());
        let targets = match self.targets() {
            Targets::None => Targets::None,
            Targets::Scores(scores) => {
                Targets::Scores(rows.iter().map(|&row| scores[row]).collect())
            }
            Targets::Labels { ids, names } => Targets::Labels {
                ids: rows.iter().map(|&row| ids[row]).collect(),
                names: names.clone(),
            },
            Targets::Vectors { values, dim } => Targets::Vectors {
                values: rows
                    .iter()
                    .flat_map(|&row| &values[row * dim..(row + 1) * dim])
                    .copied()
                    .collect(),
                dim: *dim,
            },
        };
        Self::new(columns.collect(), targets)
    }
}

impl<I: Clone + Hash + Eq> Dataset<I> {
    /// The distinct items of the first two columns, a query and a document that belongs to it say,
    /// with the group that each is in as its class: pairs become data for losses on labels. Groups
    /// are those of [`connected_groups`]; further columns and targets are left aside.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is one column only, or all items are one group.
    pub fn group_labels(&self) -> Result<Self> {
        let [first, second, ..] = self.columns() else {
            let reason = "has one column; groups are of pairs";
            return Err(Error::argument("dataset", reason));
        };
        let (items, targets) = labelled_by_group(first.iter(), second.iter())?;
        Self::new(vec![items.into_iter().cloned().collect()], targets)
    }
}

/// The distinct items of two columns, row by row, and the group that each is in as its class.
///
/// # Errors
/// [`Error::Argument`] where all items are one group.
pub(super) fn labelled_by_group<K: Hash + Eq + Copy>(
    first: impl Iterator<Item = K> + Clone,
    second: impl Iterator<Item = K> + Clone,
) -> Result<(Vec<K>, Targets)> {
    let rows = first.zip(second);
    let groups = connected_groups(rows.clone().map(|(a, b)| [a, b]));
    let (mut items, mut ids) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for ((a, b), &group) in rows.zip(&groups) {
        for item in [a, b] {
            if seen.insert(item) {
                items.push(item);
                ids.push(group);
            }
        }
    }
    let count = groups.iter().max().map_or(0, |largest| largest + 1);
    if count < 2 {
        let reason = format!(
            "all {} rows are connected over the items that they share and make one group; \
             losses on labels need two or more",
            groups.len()
        );
        return Err(Error::argument("dataset", reason));
    }
    let names = (0..count).map(|group| format!("group {group}")).collect();
    Ok((items, Targets::Labels { ids, names }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of groups to the group of each row, rows of a group lying apart.
    fn groups_of(sizes: &[usize]) -> Vec<usize> {
        let largest = sizes.iter().copied().max().unwrap_or(0);
        let rounds = (0..largest).flat_map(|round| {
            let groups = sizes.iter().enumerate();
            groups.filter_map(move |(group, &size)| (round < size).then_some(group))
        });
        rounds.collect()
    }

    fn expect_apart(split: &Split, groups: &[usize]) {
        let mut all = [split.train.clone(), split.held_out.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..groups.len()).collect::<Vec<_>>());
        for &row in &split.held_out {
            assert!(
                split
                    .train
                    .iter()
                    .all(|&other| groups[other] != groups[row])
            );
        }
        assert!(split.train.is_sorted() && split.held_out.is_sorted());
    }

    #[test]
    fn groups_merge_over_later_rows() {
        // Two groups until the last row but one joins them, by items that both have seen.
        let rows = [
            vec!["a", "x"],
            vec!["b", "y"],
            vec!["c", "x"],
            vec!["c", "y"],
            vec!["d", "z"],
        ];
        assert_eq!(connected_groups(&rows[..3]), [0, 1, 0]);
        assert_eq!(connected_groups(&rows), [0, 0, 0, 0, 1]);
        // A chain from its far end.
        let chain: Vec<[usize; 2]> = (0..100).rev().map(|i| [i, i + 1]).collect();
        assert!(connected_groups(chain).iter().all(|&group| group == 0));
        let lone: [[u8; 0]; 2] = [[], []];
        assert_eq!(connected_groups(lone), [0, 1]);
    }

    #[test]
    fn no_group_is_on_both_sides_and_the_fraction_is_met() {
        let sizes: Vec<usize> = (0..60).map(|i| 1 + i % 5).collect();
        let groups = groups_of(&sizes);
        let mut parts = Vec::new();
        for seed in 0..5 {
            for fraction in [0.1, 0.25, 0.5] {
                let split = split_groups(&groups, fraction, seed).unwrap();
                expect_apart(&split, &groups);
                let wanted = (groups.len() as f64 * fraction).round() as usize;
                assert_eq!(split.held_out.len(), wanted);
                assert_eq!(split, split_groups(&groups, fraction, seed).unwrap());
            }
            parts.push(split_groups(&groups, 0.1, seed).unwrap());
        }
        parts.dedup();
        assert_eq!(parts.len(), 5);
    }

    #[test]
    fn a_group_that_is_too_large_stays_where_it_is() {
        let groups = groups_of(&[90, 4, 6]);
        let split = split_groups(&groups, 0.1, 1).unwrap();
        expect_apart(&split, &groups);
        assert_eq!(split.held_out.len(), 10);
        // Less than any group: the smallest one.
        let split = split_groups(&groups, 0.02, 1).unwrap();
        assert_eq!(split.held_out.len(), 4);
        let error = split_groups(&[0, 0], 0.5, 1).unwrap_err().to_string();
        assert!(error.contains("all 2 rows"), "{error}");
        // A row is left to train on.
        let split = split_groups(&[0, 1, 2], 0.99, 1).unwrap();
        assert_eq!(split.train.len(), 1);
        for fraction in [0.0, 1.0, -0.5, f64::NAN] {
            let error = split_groups(&groups, fraction, 1).unwrap_err().to_string();
            assert!(error.contains("between 0 and 1"), "{error}");
        }
    }

    #[test]
    fn every_class_has_its_share() {
        let groups: Vec<usize> = (0..47).collect();
        let classes: Vec<usize> = (0..47).map(|row| usize::from(row % 4 == 0)).collect();
        let split = split_stratified(&groups, &classes, 0.25, 3).unwrap();
        expect_apart(&split, &groups);
        let of = |class: usize| {
            let rows = split.held_out.iter();
            rows.filter(|&&row| classes[row] == class).count()
        };
        // 35 and 12 rows: 8.75 and 3, and 12 of 47 in all.
        assert_eq!((of(0), of(1)), (9, 3));
    }

    #[test]
    fn selected_examples_keep_their_targets() {
        let labels = Dataset::labelled(vec!["x", "y", "z"], &["b", "a", "b"]).unwrap();
        let part = labels.select(&[2, 1]).unwrap();
        assert_eq!(part.columns(), [["z", "y"]]);
        let names = vec!["a".to_owned(), "b".to_owned()];
        let ids = vec![1, 0];
        assert_eq!(part.targets(), &Targets::Labels { ids, names });
        let vectors =
            Dataset::with_vectors(vec![vec!["x", "y"]], vec![1.0, 2.0, 3.0, 4.0], 2).unwrap();
        let expected = Targets::Vectors {
            values: vec![3.0, 4.0],
            dim: 2,
        };
        assert_eq!(vectors.select(&[1]).unwrap().targets(), &expected);
        assert!(vectors.select(&[]).is_err());
        let error = vectors.select(&[2]).unwrap_err().to_string();
        assert!(error.contains("no example 2 among 2"), "{error}");
    }

    #[test]
    fn pairs_become_labelled_items() {
        let pairs = Dataset::pairs(
            vec!["q1", "q2", "q3", "q1"],
            vec!["d1", "d2", "d1", "d1"],
            vec![vec!["n"]; 4],
        )
        .unwrap();
        let data = pairs.group_labels().unwrap();
        assert_eq!(data.columns(), [["q1", "d1", "q2", "d2", "q3"]]);
        let expected = Targets::Labels {
            ids: vec![0, 0, 1, 1, 0],
            names: vec!["group 0".into(), "group 1".into()],
        };
        assert_eq!(data.targets(), &expected);
        let one = Dataset::pairs(vec!["a", "b"], vec!["b", "c"], vec![]).unwrap();
        let error = one.group_labels().unwrap_err().to_string();
        assert!(error.contains("one group"), "{error}");
        assert!(data.group_labels().is_err());
    }
}
