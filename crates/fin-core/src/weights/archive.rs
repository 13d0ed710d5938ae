//! What a zip archive of PyTorch says of itself, checked before it is opened.
//!
//! `torch.save` writes pickle and storages uncompressed and the directory at the end, without a
//! comment. Archives that differ are refused: compressed data could unfold to any size, and a
//! directory that is to be searched for can be found in more than one place.
//! Layout: APPNOTE.TXT of PKWARE, sections 4.3 and 4.5.

use crate::limits::{Budget, Exceeded};

const LOCAL: &[u8] = b"PK\x03\x04";
const ENTRY: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END64: &[u8] = b"PK\x06\x06";
const LOCATOR64: &[u8] = b"PK\x06\x07";

/// Lengths of the fixed parts of the records above.
const LOCAL_LEN: usize = 30;
const ENTRY_LEN: usize = 46;
const END_LEN: usize = 22;
const END64_LEN: usize = 56;
const LOCATOR64_LEN: usize = 20;

/// Bytes of memory for an entry, a byte of its name and comment, and a byte of its extra fields,
/// the shortest of which has four.
const PER_ENTRY: u64 = 640;
const PER_NAME: u64 = 6;
const PER_EXTRA: u64 = 32;

/// Bytes of memory for a byte of the directory in which signatures are looked for.
const PER_SEARCHED: u64 = 8;

/// An extra field that gives an entry another name.
const UNICODE_PATH: u16 = 0x7075;

/// Why an archive is not opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is cut short or was not written by `torch.save`.
    Damaged(&'static str),
    /// An entry of this name is compressed.
    Compressed(String),
    /// It describes more than a file of its size can hold.
    TooLarge,
}

impl From<Exceeded> for Refusal {
    fn from(_: Exceeded) -> Self {
        Self::TooLarge
    }
}

/// The pickles of an archive, each as its bytes, once the directory has been checked.
pub(super) fn pickles<'a>(file: &'a [u8], budget: &mut Budget) -> Result<Vec<&'a [u8]>, Refusal> {
    let directory = Directory::find(file).ok_or(Refusal::Damaged(
        "the archive's directory is not at its end",
    ))?;
    let searched = (directory.end - directory.start) as u64;
    budget.spend(searched.saturating_mul(PER_SEARCHED))?;
    let mut pickles = Vec::new();
    let mut at = directory.start;
    for _ in 0..directory.entries {
        let entry = Entry::read(file, at, directory.end)
            .ok_or(Refusal::Damaged("the archive's directory is damaged"))?;
        at = entry.next;
        let extra = entry.extra.len() as u64;
        let named = (entry.name.len() + entry.comment) as u64;
        budget.spend(PER_ENTRY + PER_NAME * named + PER_EXTRA * extra)?;
        if entry.encrypted || entry.renamed() {
            return Err(Refusal::Damaged(
                "an entry of the archive is encrypted or has two names",
            ));
        }
        // Nothing else is read, but for a few texts of bounded length. TorchScript compresses
        // the source code that it puts beside the weights.
        let is_read = is_pickle(entry.name) || entry.name.windows(5).any(|part| part == b"data/");
        if is_read && entry.method != 0 {
            let name = String::from_utf8_lossy(entry.name).into_owned();
            return Err(Refusal::Compressed(name));
        }
        if is_pickle(entry.name) {
            let pickle = entry
                .content(file)
                .ok_or(Refusal::Damaged("the archive's pickle is not in it"))?;
            budget.spend(pickle.len() as u64)?;
            pickles.push(pickle);
        }
    }
    Ok(pickles)
}

fn is_pickle(name: &[u8]) -> bool {
    name.ends_with(b"data.pkl")
}

/// Where the central directory is.
struct Directory {
    start: usize,
    /// Start of the record behind it.
    end: usize,
    entries: usize,
}

impl Directory {
    fn find(file: &[u8]) -> Option<Self> {
        let record = file.len().checked_sub(END_LEN)?;
        let end = &file[record..];
        if !end.starts_with(END) || u16_at(end, 20)? != 0 {
            return None;
        }
        let (disks, here, entries) = (u32_at(end, 4)?, u16_at(end, 8)?, u16_at(end, 10)?);
        let (size, start) = (u32_at(end, 12)?, u32_at(end, 16)?);
        let directory = if entries == u16::MAX || size == u32::MAX || start == u32::MAX {
            Self::find64(file, record)?
        } else {
            let (size, start) = (size as usize, start as usize);
            // Readers that expect the directory right before its end record must not find
            // another one there.
            let abutting = record.checked_sub(size)?;
            if disks != 0
                || here != entries
                || (abutting != start && file[abutting..].starts_with(ENTRY))
            {
                return None;
            }
            let entries = usize::from(entries);
            Self::checked(start, size, record, entries)?
        };
        let found = directory.entries == 0 || file.get(directory.start..)?.starts_with(ENTRY);
        found.then_some(directory)
    }

    /// The directory of an archive with more entries or bytes than the first version of the
    /// format has room for, whose end record is at `record`.
    fn find64(file: &[u8], record: usize) -> Option<Self> {
        let at = record.checked_sub(LOCATOR64_LEN)?;
        let locator = &file[at..];
        if !locator.starts_with(LOCATOR64) || u32_at(locator, 4)? != 0 || u32_at(locator, 16)? > 1 {
            return None;
        }
        let record = size_at(locator, 8)?;
        let end = file.get(record..at)?;
        // The record ends where its locator starts, and says so.
        if !end.starts_with(END64) || size_at(end, 4)?.checked_add(12)? != end.len() {
            return None;
        }
        if end.len() < END64_LEN || u32_at(end, 16)? != 0 || u32_at(end, 20)? != 0 {
            return None;
        }
        let entries = size_at(end, 32)?;
        if size_at(end, 24)? != entries {
            return None;
        }
        Self::checked(size_at(end, 48)?, size_at(end, 40)?, record, entries)
    }

    fn checked(start: usize, size: usize, end: usize, entries: usize) -> Option<Self> {
        let fits = start.checked_add(size)? <= end && entries <= size / ENTRY_LEN;
        fits.then_some(Self {
            start,
            end,
            entries,
        })
    }
}

/// An entry of the central directory.
struct Entry<'a> {
    name: &'a [u8],
    extra: &'a [u8],
    /// Length of its comment.
    comment: usize,
    method: u16,
    encrypted: bool,
    size: u32,
    /// Where its local header is.
    offset: u32,
    /// Where the next entry is.
    next: usize,
}

impl<'a> Entry<'a> {
    fn read(file: &'a [u8], at: usize, end: usize) -> Option<Self> {
        let entry = file.get(at..end)?;
        if !entry.starts_with(ENTRY) {
            return None;
        }
        let [name, extra, comment] = [28, 30, 32].map(|field| u16_at(entry, field));
        let name = ENTRY_LEN + usize::from(name?);
        let extra = name + usize::from(extra?);
        let comment = usize::from(comment?);
        let next = extra + comment;
        entry.get(..next)?;
        Some(Self {
            name: &entry[ENTRY_LEN..name],
            extra: &entry[name..extra],
            comment,
            method: u16_at(entry, 10)?,
            encrypted: u16_at(entry, 8)? & 1 != 0,
            size: u32_at(entry, 24)?,
            offset: u32_at(entry, 42)?,
            next: at + next,
        })
    }

    fn renamed(&self) -> bool {
        let mut fields = self.extra;
        while let (Some(id), Some(len)) = (u16_at(fields, 0), u16_at(fields, 2)) {
            if id == UNICODE_PATH {
                return true;
            }
            fields = fields.get(4 + usize::from(len)..).unwrap_or_default();
        }
        false
    }

    /// Its bytes, where they are as many as it says and below 4 GiB.
    fn content(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        let local = file.get(self.offset as usize..)?;
        if !local.starts_with(LOCAL) {
            return None;
        }
        let name = usize::from(u16_at(local, 26)?);
        let extra = usize::from(u16_at(local, 28)?);
        let start = LOCAL_LEN + name + extra;
        local.get(start..start.checked_add(self.size as usize)?)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*field))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

/// A 64-bit field that is an offset or a size.
fn size_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u64::from_le_bytes(*field)).ok()
}
