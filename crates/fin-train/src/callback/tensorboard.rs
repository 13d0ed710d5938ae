//! The curves of a run for TensorBoard.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fin_core::{Embedder, Error, Result};

use super::monitor::FlatNames;
use super::{Callback, Context};

/// What the name of every event file begins with; seconds since 1970 and a number follow, so that
/// files are read in the order in which they were made.
const PREFIX: &str = "events.out.tfevents.";

/// What the first event of a file says.
const VERSION: &str = "brain.Event:2";

/// Writes the event files that TensorBoard reads: the scalars `loss`, `learning_rate` and `grad_norm`
/// of every step, and every metric by its name; metrics of further evaluators than the first have its
/// name before their own, as in `held-out/mrr@10`.
///
/// The format is that of TensorFlow: records framed by their length and masked CRC-32C
/// (`tensorflow/core/lib/io/record_writer.h`), each an `Event` (`tensorflow/core/util/event.proto`).
/// Every run writes a file of its own. It begins with a `SessionLog` of status `START` at its first
/// step, by which TensorBoard drops what an earlier file in the directory has from that step on, so that
/// a resumed run has no step twice.
#[derive(Debug)]
pub struct TensorBoard {
    directory: PathBuf,
    file: Option<(PathBuf, File)>,
    records: usize,
    names: FlatNames,
}

impl TensorBoard {
    /// Into a new file in this directory, which is made where it is not there.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            file: None,
            records: 0,
            names: FlatNames::default(),
        }
    }

    /// Creates a file whose name comes after those that are there.
    fn begin(&mut self) -> Result<()> {
        let directory = &self.directory;
        std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
        let (mut seconds, mut number) = (now() as u64, 0);
        for entry in std::fs::read_dir(directory).map_err(Error::io(directory, "read"))? {
            let name = entry.map_err(Error::io(directory, "read"))?.file_name();
            let there = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if let Some(there) = there {
                number += 1;
                let there = there.split('.').next().and_then(|part| part.parse().ok());
                seconds = seconds.max(there.unwrap_or(0));
            }
        }
        let path = directory.join(format!("{PREFIX}{seconds:010}.{number:06}.fin"));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(Error::io(&path, "create"))?;
        self.file = Some((path, file));
        Ok(())
    }

    fn write(&mut self, events: &[Vec<u8>]) -> Result<()> {
        let Some((path, file)) = &mut self.file else {
            return Ok(());
        };
        let bytes: Vec<u8> = events.iter().flat_map(|event| record(event)).collect();
        file.write_all(&bytes).map_err(Error::io(path, "write"))
    }

    fn metrics<E: Embedder>(&mut self, context: &Context<'_, E>) -> Result<()> {
        let new = &context.records()[self.records..];
        let mut events = Vec::new();
        for record in new {
            let values = self.names.of(record);
            events.push(scalars(now(), record.step, &values));
        }
        self.records = context.records().len();
        self.write(&events)
    }
}

impl<E: Embedder> Callback<E> for TensorBoard {
    fn on_train_begin(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.begin()?;
        let step = context.progress().step;
        // What was measured before the first step is at step 0.
        let first = if step == 0 { 0 } else { step + 1 };
        self.write(&[version(now()), start(now(), first)])?;
        if step > 0 {
            // What the checkpoint has of them is in an earlier file.
            if let Some(first) = context.records().first() {
                self.names.of(first);
            }
            self.records = context.records().len();
        }
        self.metrics(context)
    }

    fn on_step_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        let progress = *context.progress();
        let values = [
            ("loss", f64::from(progress.loss)),
            ("learning_rate", progress.learning_rate),
            ("grad_norm", progress.grad_norm),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value));
        self.write(&[scalars(now(), progress.step, &values)])?;
        self.metrics(context)
    }

    fn on_epoch_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.metrics(context)
    }

    fn on_train_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.metrics(context)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// The first event of a file.
fn version(time: f64) -> Vec<u8> {
    let mut event = event(time, 0);
    bytes(&mut event, 3, VERSION.as_bytes());
    event
}

/// The beginning of a run, whose first step is `step`.
fn start(time: f64, step: usize) -> Vec<u8> {
    /// `SessionLog.status`, and its value `START`.
    const STATUS: [u8; 2] = [1 << 3, 1];
    let mut event = event(time, step);
    bytes(&mut event, 7, &STATUS);
    event
}

/// An event with a summary of scalars.
fn scalars(time: f64, step: usize, values: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, number) in values {
        let mut value = Vec::new();
        bytes(&mut value, 1, tag.as_bytes());
        // `simple_value`, of 32 bits.
        varint(&mut value, (2 << 3) | 5);
        value.extend((*number as f32).to_le_bytes());
        bytes(&mut summary, 1, &value);
    }
    let mut event = event(time, step);
    bytes(&mut event, 5, &summary);
    event
}

/// `Event.wall_time` and `Event.step`.
fn event(time: f64, step: usize) -> Vec<u8> {
    let mut event = Vec::new();
    varint(&mut event, (1 << 3) | 1);
    event.extend(time.to_le_bytes());
    varint(&mut event, 2 << 3);
    varint(&mut event, step as u64);
    event
}

/// A field of bytes, a string or a message, as protobuf has them.
fn bytes(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    varint(out, (field << 3) | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

/// A number in groups of seven bits, the lowest first.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// An event as it stands in a file: length, checksum of the length, event, checksum of the event.
fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let parts: [&[u8]; 4] = [
        &length,
        &masked(crc32c(&length)).to_le_bytes(),
        event,
        &masked(crc32c(event)).to_le_bytes(),
    ];
    parts.concat()
}

/// A checksum that is stored beside what it is of, turned and shifted as TensorFlow does.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli 1993), reflected, as in RFC 3720.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 {
                    (crc >> 1) ^ 0x82f6_3b78
                } else {
                    crc >> 1
                };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    let step = |crc: u32, byte: &u8| TABLE[((crc as u8) ^ byte) as usize] ^ (crc >> 8);
    !bytes.iter().fold(!0, step)
}

/// Event files in a directory, in the order in which TensorBoard reads them.
///
/// # Errors
/// [`Error::Io`] where the directory cannot be read.
pub fn event_files(directory: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let directory = directory.as_ref();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(Error::io(directory, "read"))? {
        let entry = entry.map_err(Error::io(directory, "read"))?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        // RFC 3720, appendix B.4, and the usual check value.
        for (bytes, crc) in [
            (&[0; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (&descending, 0x113f_db5c),
            (b"123456789", 0xe306_9283),
            (b"", 0),
        ] {
            assert_eq!(crc32c(bytes), crc, "{bytes:?}");
        }
        assert_eq!(masked(0), 0xa282_ead8);
        assert_eq!(masked(0x8000), 0xa282_ead9);
    }

    #[test]
    fn numbers_are_in_groups_of_seven_bits() {
        for (value, expected) in [
            (0, &[0][..]),
            (127, &[127]),
            (150, &[0x96, 0x01]),
            (1 << 35, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x01]),
        ] {
            let mut out = Vec::new();
            varint(&mut out, value);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn files_come_after_those_that_are_there() {
        let directory = tempfile::tempdir().unwrap();
        // A clock that was ahead.
        let early = directory
            .path()
            .join(format!("{PREFIX}9999999999.000000.fin"));
        std::fs::write(&early, "").unwrap();
        let mut paths = vec![early];
        for _ in 0..3 {
            let mut board = TensorBoard::new(directory.path());
            board.begin().unwrap();
            paths.push(board.file.unwrap().0);
        }
        assert_eq!(event_files(directory.path()).unwrap(), paths);
    }
}
