//! Several data sets as the data of one run.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

use super::{Dataset, Fnv1a, Spool, SpooledSets, Targets};

/// What a run trains on, from wherever it is.
pub(crate) struct RunData<'a, I> {
    /// Columns of each set, as numbers of items.
    pub columns: Vec<Cow<'a, [Vec<usize>]>>,
    /// Targets of each set, with the same classes in all of them.
    pub targets: Vec<Cow<'a, Targets>>,
    /// What a resumed run knows the data by.
    pub fingerprint: u64,
    /// The distinct items.
    pub items: RunItems<'a, I>,
}

/// The distinct items of a run.
pub(crate) enum RunItems<'a, I> {
    /// In memory.
    Memory(Vec<I>),
    /// In a file.
    Spooled(&'a Spool<I>),
}

impl<'a, I: Hash + Eq + Clone> RunData<'a, I> {
    /// Of data sets in memory.
    pub fn of(sets: &'a [Dataset<I>]) -> Self {
        let (items, columns) = distinct(sets);
        Self {
            columns: columns.into_iter().map(Cow::Owned).collect(),
            targets: with_shared_classes(sets.iter().map(|set| &set.targets).collect()),
            fingerprint: fingerprint(sets),
            items: RunItems::Memory(items),
        }
    }

    /// Of data sets in a file.
    pub fn spooled(sets: &'a SpooledSets<I>) -> fin_core::Result<Self> {
        let columns = sets.sets().iter().map(|set| Cow::Borrowed(set.columns()));
        let targets = sets.sets().iter().map(|set| set.targets()).collect();
        Ok(Self {
            columns: columns.collect(),
            targets: with_shared_classes(targets),
            fingerprint: combined(&sets.fingerprints()?),
            items: RunItems::Spooled(sets.items()),
        })
    }
}

/// The distinct items of all sets in order of first occurrence, and the columns of each set as
/// indices into them.
pub(super) fn distinct<I: Hash + Eq + Clone>(
    sets: &[Dataset<I>],
) -> (Vec<I>, Vec<Vec<Vec<usize>>>) {
    let mut ids: HashMap<&I, usize> = HashMap::new();
    let mut items = Vec::new();
    let mut index = |item| {
        *ids.entry(item).or_insert_with(|| {
            items.push(item.clone());
            items.len() - 1
        })
    };
    let sets = sets.iter().map(|set| {
        let columns = set.columns.iter();
        columns
            .map(|column| column.iter().map(&mut index).collect())
            .collect()
    });
    let columns = sets.collect();
    (items, columns)
}

/// The targets of each set, labels of one name being one class in all of them. Classes of several
/// sets are numbered in alphabetical order; those of a single one stay as they are.
fn with_shared_classes(sets: Vec<&Targets>) -> Vec<Cow<'_, Targets>> {
    if let [targets] = sets[..] {
        return vec![Cow::Borrowed(targets)];
    }
    let names = sets.iter().flat_map(|targets| match targets {
        Targets::Labels { names, .. } => names.as_slice(),
        Targets::None | Targets::Scores(_) | Targets::Vectors { .. } => &[],
    });
    let mut classes: BTreeMap<&str, usize> = names.map(|name| (name.as_str(), 0)).collect();
    for (id, slot) in classes.values_mut().enumerate() {
        *slot = id;
    }
    let shared = |targets: &Targets| match targets {
        Targets::Labels { ids, names } => Some(Targets::Labels {
            ids: ids.iter().map(|&id| classes[names[id].as_str()]).collect(),
            names: classes.keys().map(|name| (*name).to_string()).collect(),
        }),
        Targets::None | Targets::Scores(_) | Targets::Vectors { .. } => None,
    };
    sets.iter()
        .map(|&targets| match shared(targets) {
            Some(targets) => Cow::Owned(targets),
            None => Cow::Borrowed(targets),
        })
        .collect()
}

/// A digest of all sets in order; of a single one it is [`Dataset::fingerprint`].
fn fingerprint<I: Hash>(sets: &[Dataset<I>]) -> u64 {
    let digests: Vec<u64> = sets.iter().map(Dataset::fingerprint).collect();
    combined(&digests)
}

/// One digest of those of several sets; of a single one it is that.
fn combined(digests: &[u64]) -> u64 {
    if let [digest] = digests {
        return *digest;
    }
    let mut hasher = Fnv1a::default();
    for digest in digests {
        hasher.write(&digest.to_le_bytes());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_sets_share_are_one_and_classes_go_by_name() {
        let first = Dataset::labelled(vec!["x", "y", "z"], &["pear", "fig", "pear"]).unwrap();
        let second = Dataset::labelled(vec!["z", "w"], &["pear", "apple"]).unwrap();
        let sets = [first, second];
        let (items, columns) = distinct(&sets);
        assert_eq!(items, ["x", "y", "z", "w"]);
        assert_eq!(columns, [[vec![0, 1, 2]], [vec![2, 3]]].map(Vec::from));
        let targets = with_shared_classes(sets.iter().map(|set| &set.targets).collect());
        let names = ["apple", "fig", "pear"].map(String::from).to_vec();
        for (targets, ids) in targets.iter().zip([vec![2, 1, 2], vec![2, 0]]) {
            let names = names.clone();
            assert_eq!(targets.as_ref(), &Targets::Labels { ids, names });
        }
        // Alone, a set keeps its numbers.
        let alone = with_shared_classes(vec![&sets[1].targets]);
        assert_eq!(alone[0].classes(), 2);
    }

    #[test]
    fn the_digest_covers_every_set_and_their_order() {
        let set = |text| Dataset::pairs(vec![text], vec!["a"], vec![]).unwrap();
        let of = |texts: &[&'static str]| {
            let sets: Vec<_> = texts.iter().map(|text| set(*text)).collect();
            fingerprint(&sets)
        };
        assert_eq!(of(&["x"]), set("x").fingerprint());
        assert_eq!(of(&["x", "y"]), of(&["x", "y"]));
        for other in [
            vec!["y", "x"],
            vec!["x", "z"],
            vec!["x"],
            vec!["x", "y", "y"],
        ] {
            assert_ne!(of(&["x", "y"]), of(&other), "{other:?}");
        }
    }
}
