//! Data sets whose items lie in a file, for training sets that are larger than memory.
//!
//! To draw batches, a run needs of every row the numbers of its items, by which equal ones are known,
//! and its target. These stay in memory: 8 bytes an item of a row, the target's 4 or 8, and 8 bytes a
//! distinct item for where it lies; while rows are added, some 30 more a distinct item, to know it
//! again by. The items themselves are written one after the other, each distinct one once, and read
//! when a batch needs them.
//!
//! The file has no name: it goes with the last handle, whatever ends the process.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fin_core::{Error, Result};
use hashbrown::HashTable;

use super::groups::labelled_by_group;
use super::rows::add_row;
use super::{Fnv1a, Targets};

/// Bytes that are read at once where items are read in order.
const BLOCK: usize = 1 << 20;

/// How items are written to a file and read back.
#[derive(Debug, Clone, Copy)]
pub struct ItemCodec<I> {
    /// Appends an item's bytes.
    pub write: fn(&I, &mut Vec<u8>) -> Result<()>,
    /// The item that has these bytes; `None` where none has.
    pub read: fn(&[u8]) -> Option<I>,
}

impl ItemCodec<String> {
    /// Texts as UTF-8.
    pub const TEXTS: Self = Self {
        write: |text, bytes| {
            bytes.extend_from_slice(text.as_bytes());
            Ok(())
        },
        read: |bytes| Some(std::str::from_utf8(bytes).ok()?.to_owned()),
    };
}

/// Writes the items of data sets to a file, row by row.
///
/// ```
/// use fin_train::dataset::{ItemCodec, SpoolWriter, Targets};
///
/// let directory = std::env::temp_dir();
/// let mut writer = SpoolWriter::create(&directory, ItemCodec::TEXTS)?;
/// for (question, answer) in [("who?", "you"), ("where?", "here")] {
///     writer.push(vec![question.to_owned(), answer.to_owned()])?;
/// }
/// writer.end_set(Targets::None)?;
/// let sets = writer.finish()?;
/// assert_eq!(sets.sets()[0].len(), 2);
/// # Ok::<(), fin_core::Error>(())
/// ```
#[derive(Debug)]
pub struct SpoolWriter<I> {
    file: BufWriter<File>,
    directory: PathBuf,
    codec: ItemCodec<I>,
    /// Where every distinct item begins, and where the last one ends.
    offsets: Vec<u64>,
    /// What every distinct item is known again by.
    digests: Vec<[u64; 2]>,
    /// Distinct items by the first half of their digests.
    numbers: HashTable<u32>,
    /// Columns of the set that rows are added to.
    columns: Vec<Vec<usize>>,
    sets: Vec<SpooledSet>,
    bytes: Vec<u8>,
}

/// 128 bits of an item: that two items of a set have the same is out of the question, so that they
/// need not be compared.
fn digest<I: Hash>(item: &I) -> [u64; 2] {
    [0u8, 1].map(|half| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(half);
        item.hash(&mut hasher);
        hasher.finish()
    })
}

impl<I: Hash> SpoolWriter<I> {
    /// A file in this directory, which goes with this process at the latest.
    ///
    /// # Errors
    /// [`Error::Io`] where no file can be made there.
    pub fn create(directory: impl AsRef<Path>, codec: ItemCodec<I>) -> Result<Self> {
        let directory = match directory.as_ref() {
            path if path.as_os_str().is_empty() => PathBuf::from("."),
            path => path.to_path_buf(),
        };
        let file = tempfile::tempfile_in(&directory).map_err(Error::io(&directory, HOLD))?;
        Ok(Self {
            file: BufWriter::with_capacity(BLOCK, file),
            directory,
            codec,
            offsets: vec![0],
            digests: Vec::new(),
            numbers: HashTable::new(),
            columns: Vec::new(),
            sets: Vec::new(),
            bytes: Vec::new(),
        })
    }

    /// Adds a row to the set.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written; [`Error::Argument`] where it has more or fewer items
    /// than the set's first, or there are more than 2³² different items.
    pub fn push(&mut self, row: Vec<I>) -> Result<()> {
        let numbers = row.iter().map(|item| self.number(item));
        let numbers = numbers.collect::<Result<Vec<usize>>>()?;
        add_row(&mut self.columns, numbers)
    }

    /// The number of an item, which is written where it is new.
    fn number(&mut self, item: &I) -> Result<usize> {
        let digest = digest(item);
        let digests = &mut self.digests;
        let is_it = |&number: &u32| digests[number as usize] == digest;
        if let Some(&number) = self.numbers.find(digest[0], is_it) {
            return Ok(number as usize);
        }
        let number = u32::try_from(digests.len()).map_err(|_| {
            let reason = "has more than 4294967296 different items, which cannot be counted";
            Error::argument("dataset", reason)
        })?;
        self.bytes.clear();
        (self.codec.write)(item, &mut self.bytes)?;
        self.file
            .write_all(&self.bytes)
            .map_err(Error::io(&self.directory, HOLD))?;
        let begin = self.offsets.last().copied().unwrap_or_default();
        self.offsets.push(begin + self.bytes.len() as u64);
        digests.push(digest);
        self.numbers
            .insert_unique(digest[0], number, |&number| digests[number as usize][0]);
        Ok(number as usize)
    }

    /// Ends a set, whose rows have these targets.
    ///
    /// # Errors
    /// As [`Dataset::new`](super::Dataset::new).
    pub fn end_set(&mut self, targets: Targets) -> Result<()> {
        let columns = std::mem::take(&mut self.columns);
        let Some(first) = columns.first() else {
            return Err(Error::argument("dataset", "has no examples"));
        };
        targets.check(first.len())?;
        self.sets.push(SpooledSet { columns, targets });
        Ok(())
    }

    /// The sets.
    ///
    /// # Errors
    /// [`Error::Io`] where what is left to write cannot be written; [`Error::Argument`] where there
    /// is no set.
    pub fn finish(self) -> Result<SpooledSets<I>> {
        if self.sets.is_empty() {
            return Err(Error::argument("dataset", "none is given; one is needed"));
        }
        let file = self
            .file
            .into_inner()
            .map_err(|error| Error::io(&self.directory, HOLD)(error.into_error()))?;
        let mut offsets = self.offsets;
        offsets.shrink_to_fit();
        Ok(SpooledSets {
            items: Spool {
                file: Mutex::new(file),
                directory: self.directory,
                read: self.codec.read,
                offsets,
            },
            sets: self.sets,
        })
    }
}

/// What a directory is asked to do, for errors.
const HOLD: &str = "hold the rows of training data";

/// Data sets whose items lie in a file; made by a [`SpoolWriter`].
#[derive(Debug)]
pub struct SpooledSets<I> {
    items: Spool<I>,
    sets: Vec<SpooledSet>,
}

/// A data set whose items lie in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct SpooledSet {
    columns: Vec<Vec<usize>>,
    targets: Targets,
}

impl SpooledSet {
    /// Number of examples; at least 1.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }

    /// Whether there are no examples; never true of a data set that was made.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The columns, each with the number of an item an example; equal items of all sets have equal
    /// numbers.
    pub fn columns(&self) -> &[Vec<usize>] {
        &self.columns
    }

    /// The targets.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    /// [`Dataset::group_labels`](super::Dataset::group_labels).
    fn group_labels(&self) -> Result<Self> {
        let [first, second, ..] = &self.columns[..] else {
            let reason = "has one column; groups are of pairs";
            return Err(Error::argument("dataset", reason));
        };
        let (items, targets) = labelled_by_group(first.iter().copied(), second.iter().copied())?;
        let columns = vec![items];
        Ok(Self { columns, targets })
    }
}

impl<I> SpooledSets<I> {
    /// The sets, in the order in which they were written; at least one.
    pub fn sets(&self) -> &[SpooledSet] {
        &self.sets
    }

    /// The sets with the items of their first two columns labelled by the group that each is in:
    /// [`Dataset::group_labels`](super::Dataset::group_labels) of each.
    ///
    /// # Errors
    /// Those of [`Dataset::group_labels`](super::Dataset::group_labels).
    pub fn group_labels(self) -> Result<Self> {
        let sets = self.sets.iter().map(SpooledSet::group_labels);
        let sets = sets.collect::<Result<_>>()?;
        Ok(Self { sets, ..self })
    }

    /// The items.
    pub(crate) fn items(&self) -> &Spool<I> {
        &self.items
    }
}

impl<I: Hash> SpooledSets<I> {
    /// What [`Dataset::fingerprint`](super::Dataset::fingerprint) gives of each set in memory.
    pub(crate) fn fingerprints(&self) -> Result<Vec<u64>> {
        let of = |set: &SpooledSet| {
            let mut hasher = Fnv1a::default();
            for column in &set.columns {
                // As a list hashes: its length, then its items.
                column.len().hash(&mut hasher);
                let mut items = self.items.in_order();
                for &number in column {
                    items.read(number)?.hash(&mut hasher);
                }
            }
            set.targets.digest(&mut hasher);
            Ok(hasher.finish())
        };
        self.sets.iter().map(of).collect()
    }
}

/// Distinct items in a file.
#[derive(Debug)]
pub(crate) struct Spool<I> {
    file: Mutex<File>,
    directory: PathBuf,
    read: fn(&[u8]) -> Option<I>,
    offsets: Vec<u64>,
}

impl<I> Spool<I> {
    /// Number of items.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The items with these numbers, best in ascending order.
    ///
    /// # Errors
    /// [`Error::Io`] where they cannot be read.
    pub fn items(&self, numbers: &[usize]) -> Result<Vec<I>> {
        let mut bytes = Vec::new();
        let items = numbers.iter().map(|&number| {
            bytes.resize(self.size(number), 0);
            self.read_at(self.offsets[number], &mut bytes)?;
            self.decode(&bytes)
        });
        items.collect()
    }

    /// All items in order, some at a time: at most so many, and no more than a block of bytes unless
    /// one has more by itself.
    ///
    /// # Errors
    /// [`Error::Io`] where they cannot be read; those of `each`.
    pub fn windows(&self, most: usize, mut each: impl FnMut(&[I]) -> Result<()>) -> Result<()> {
        let mut items = self.in_order();
        let mut window = Vec::new();
        let mut bytes = 0;
        for number in 0..self.len() {
            window.push(items.read(number)?);
            bytes += self.size(number);
            if window.len() >= most || bytes >= BLOCK || number + 1 == self.len() {
                each(&window)?;
                window.clear();
                bytes = 0;
            }
        }
        Ok(())
    }

    fn in_order(&self) -> InOrder<'_, I> {
        InOrder {
            spool: self,
            block: Vec::new(),
            begin: 0,
        }
    }

    /// Bytes of an item.
    fn size(&self, number: usize) -> usize {
        (self.offsets[number + 1] - self.offsets[number]) as usize
    }

    fn read_at(&self, begin: u64, bytes: &mut [u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(begin))
            .and_then(|_| file.read_exact(bytes))
            .map_err(Error::io(&self.directory, "read rows of training data in"))
    }

    fn decode(&self, bytes: &[u8]) -> Result<I> {
        (self.read)(bytes).ok_or_else(|| {
            let reason = "rows of training data that were written there are damaged";
            Error::invalid(&self.directory, reason)
        })
    }
}

/// Reads items whose numbers mostly ascend, a block at a time.
struct InOrder<'a, I> {
    spool: &'a Spool<I>,
    block: Vec<u8>,
    /// Where the block begins in the file.
    begin: u64,
}

impl<I> InOrder<'_, I> {
    fn read(&mut self, number: usize) -> Result<I> {
        let (begin, size) = (self.spool.offsets[number], self.spool.size(number));
        if begin < self.begin {
            // One that was seen before; the block stays for those that follow.
            let mut bytes = vec![0; size];
            self.spool.read_at(begin, &mut bytes)?;
            return self.spool.decode(&bytes);
        }
        let within = (begin - self.begin) as usize;
        if within + size > self.block.len() {
            let end = self.spool.offsets.last().copied().unwrap_or_default();
            let length = (end - begin).min(BLOCK.max(size) as u64);
            self.block.resize(length as usize, 0);
            self.begin = begin;
            self.spool.read_at(begin, &mut self.block)?;
            return self.spool.decode(&self.block[..size]);
        }
        self.spool.decode(&self.block[within..within + size])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Columns, Dataset};
    use super::*;

    /// The same rows in memory and in a file.
    fn both(rows: &[&[&str]], targets: &Targets) -> (Dataset<String>, SpooledSets<String>) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::create(dir.path(), ItemCodec::TEXTS).unwrap();
        let mut columns = Columns::default();
        for row in rows {
            let row: Vec<String> = row.iter().map(|item| (*item).to_owned()).collect();
            columns.push(row.clone()).unwrap();
            writer.push(row).unwrap();
        }
        writer.end_set(targets.clone()).unwrap();
        // No name that a killed process would leave.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let memory = columns.with_targets(targets.clone()).unwrap();
        (memory, writer.finish().unwrap())
    }

    #[test]
    fn items_and_digests_are_those_in_memory() {
        let long = "many words ".repeat(1 << 17);
        let rows: [&[&str]; 5] = [
            &["b", "a"],
            &["", &long],
            &["a", "b"],
            &[&long, "\u{e9}"],
            &["z", "b"],
        ];
        for targets in [
            Targets::None,
            Targets::Scores(vec![0.0, 0.25, 0.5, 0.75, 1.0]),
            Targets::Labels {
                ids: vec![0, 1, 0, 1, 1],
                names: vec!["x".into(), "y".into()],
            },
        ] {
            let (memory, spooled) = both(&rows, &targets);
            let set = &spooled.sets()[0];
            assert_eq!(set.targets(), &targets);
            // Row by row, equal items with equal numbers.
            assert_eq!(set.columns(), [[0, 2, 1, 3, 5], [1, 3, 0, 4, 0]]);
            let items = ["b", "a", "", &long, "\u{e9}", "z"];
            for (numbers, column) in set.columns().iter().zip(memory.columns()) {
                assert_eq!(&spooled.items().items(numbers).unwrap(), column);
            }
            assert_eq!(spooled.fingerprints().unwrap(), [memory.fingerprint()]);
            // The long item ends its window.
            for (most, expected) in [(1, 6), (2, 3), (100, 2)] {
                let mut found = Vec::new();
                let mut windows = 0;
                let window = |items: &[String]| {
                    assert!((1..=most).contains(&items.len()));
                    found.extend_from_slice(items);
                    windows += 1;
                    Ok(())
                };
                spooled.items().windows(most, window).unwrap();
                assert_eq!(found, items);
                assert_eq!(windows, expected);
            }
        }
    }

    #[test]
    fn groups_are_those_in_memory() {
        let rows: [&[&str]; 4] = [&["q1", "d1"], &["q2", "d2"], &["q3", "d1"], &["d1", "q1"]];
        let (memory, spooled) = both(&rows, &Targets::None);
        let (memory, spooled) = (
            memory.group_labels().unwrap(),
            spooled.group_labels().unwrap(),
        );
        let set = &spooled.sets()[0];
        assert_eq!(set.targets(), memory.targets());
        let items = spooled.items().items(&set.columns()[0]).unwrap();
        assert_eq!(items, memory.columns()[0]);
        assert_eq!(spooled.fingerprints().unwrap(), [memory.fingerprint()]);
        let (_, one) = both(&[&["a", "b"], &["b", "c"]], &Targets::None);
        assert!(one.group_labels().is_err());
    }

    #[test]
    fn what_makes_no_set_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let writer = || SpoolWriter::create(dir.path(), ItemCodec::TEXTS).unwrap();
        let texts = |n: usize| vec!["a".to_owned(); n];
        let mut rows = writer();
        assert!(rows.end_set(Targets::None).is_err());
        rows.push(texts(2)).unwrap();
        let error = rows.push(texts(1)).unwrap_err().to_string();
        assert!(error.contains("row 2 has 1 items"), "{error}");
        let error = rows
            .end_set(Targets::Scores(vec![]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("1 examples have 0 scores"), "{error}");
        assert!(writer().finish().is_err());
        let missing = dir.path().join("missing");
        let error = SpoolWriter::create(&missing, ItemCodec::TEXTS)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("missing: cannot hold the rows of training data"),
            "{error}"
        );
    }
}
