//! One file from the hub into the cache: resumed, bounded in tries, checked before it is visible.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fin_core::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE};

use super::cache::{RepoCache, create_parent};
use super::digest::Digest;
use super::http::{Client, Failure, Subject, Trouble, body_trouble};
use super::note;

/// A file with all that is needed to check it.
pub(super) struct Expected {
    pub name: String,
    pub size: u64,
    pub digest: Digest,
    /// What the catalogue says beside the hub.
    pub catalogue_sha256: Option<String>,
}

/// Bytes after which a connection has been of use, and the count of failures begins anew.
const USEFUL: u64 = 1 << 20;

pub(super) struct Downloader<'a> {
    pub client: &'a Client,
    pub repository: &'a str,
    pub revision: &'a str,
    pub place: Place<'a>,
    pub progress: bool,
}

/// Where a file is downloaded from.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// A repository at this commit.
    Commit(&'a str),
    /// An address of its own.
    Address(&'a str),
}

impl Downloader<'_> {
    /// The blob of a file, downloaded where the cache has not got it.
    pub fn blob(&self, repo: &RepoCache, file: &Expected) -> Result<PathBuf, Failure> {
        let blob = repo.blob(&file.digest);
        self.file(&blob, file, || repo.lock(&file.digest, &file.name))?;
        Ok(blob)
    }

    /// Puts a file at `target`, where it is not there already.
    pub fn file(
        &self,
        target: &Path,
        file: &Expected,
        lock: impl FnOnce() -> Result<File>,
    ) -> Result<(), Failure> {
        if self.is_there(target, file)? {
            return Ok(());
        }
        let _lock = lock()?;
        // Whoever had the lock may have made it.
        if self.is_there(target, file)? {
            return Ok(());
        }
        let mut partial = target.as_os_str().to_owned();
        partial.push(".incomplete");
        let partial = PathBuf::from(partial);
        create_parent(&partial)?;
        self.complete(&partial, file)?;
        fs::rename(&partial, target).map_err(Error::io(target, "rename into place"))?;
        Ok(())
    }

    /// Blobs appear when they are complete and checked; one of another size was damaged since.
    fn is_there(&self, blob: &Path, file: &Expected) -> Result<bool> {
        let Ok(metadata) = fs::metadata(blob) else {
            return Ok(false);
        };
        if metadata.len() != file.size {
            fs::remove_file(blob).map_err(Error::io(blob, "remove"))?;
            return Ok(false);
        }
        self.check_catalogue(blob, file)?;
        Ok(true)
    }

    /// Brings `partial` to its end, and checks it.
    fn complete(&self, partial: &Path, file: &Expected) -> Result<(), Failure> {
        let subject = self.subject(file);
        let bar = self.bar(file);
        let mut failed = 0;
        let mut is_from_before = fs::metadata(partial).is_ok_and(|found| found.len() > 0);
        loop {
            let have = fs::metadata(partial).map_or(0, |found| found.len());
            bar.set_position(have);
            let result = if have == file.size && have > 0 {
                Ok(())
            } else {
                self.receive(partial, file, have, &bar)
            };
            match result {
                Ok(()) => match self.check_all(partial, file) {
                    Ok(()) => break,
                    // What an earlier run left may have been damaged since.
                    Err(error) => {
                        fs::remove_file(partial).map_err(Error::io(partial, "remove"))?;
                        if !is_from_before {
                            return Err(error.into());
                        }
                        is_from_before = false;
                    }
                },
                Err(trouble) => {
                    let now = fs::metadata(partial).map_or(0, |found| found.len());
                    if now >= have.saturating_add(USEFUL) {
                        failed = 0;
                    }
                    failed += 1;
                    let remains = match now {
                        0 => String::new(),
                        _ => format!(
                            "{now} of {} bytes are kept, and the next run goes on from there. ",
                            file.size
                        ),
                    };
                    let note = |text: &str| bar.suspend(|| note(text));
                    self.client
                        .wait_or_give_up(subject, trouble, failed, &remains, note)?;
                }
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// One request: appends what it gives. All is there where it returns.
    fn receive(
        &self,
        partial: &Path,
        file: &Expected,
        have: u64,
        bar: &ProgressBar,
    ) -> Result<(), Trouble> {
        let subject = self.subject(file);
        let start = if have < file.size { have } else { 0 };
        let response = match self.place {
            Place::Commit(commit) => self.client.open(subject, commit, &file.name, start)?,
            Place::Address(address) => self.client.open_address(subject, address, start)?,
        };
        let header = |name| response.headers().get(name)?.to_str().ok();
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = header(CONTENT_RANGE).and_then(parse_range);
                match range {
                    Some((from, total)) if from == start => {
                        self.same_size(partial, file, total)?;
                        start
                    }
                    _ => {
                        remove(partial)?;
                        let reason = "the answer is another part of the file than was asked for";
                        return Err(Trouble::Passing(reason.into(), None));
                    }
                }
            }
            // Less than is here already: the file on the hub is shorter than its listing says.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                remove(partial)?;
                let reason = format!("the hub has no more than {start} bytes of it");
                return Err(Trouble::Passing(reason, None));
            }
            _ => {
                let length = header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
                self.same_size(partial, file, length)?;
                0
            }
        };
        let mut out = open(partial, start)?;
        let mut body = response.into_body().into_reader();
        let mut at = start;
        bar.set_position(at);
        let mut buffer = vec![0; 1 << 17];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(body_trouble(error)),
            };
            at += read as u64;
            if at > file.size {
                self.same_size(partial, file, Some(at))?;
            }
            out.write_all(&buffer[..read])
                .map_err(Error::io(partial, "write"))?;
            bar.set_position(at);
        }
        if at < file.size {
            let reason = format!("the answer ended after {at} of {} bytes", file.size);
            return Err(Trouble::Passing(reason, None));
        }
        // A crash must not leave a file of the right size without its content.
        out.sync_all().map_err(Error::io(partial, "write"))?;
        Ok(())
    }

    /// A file of another size than listed is removed and refused.
    fn same_size(
        &self,
        partial: &Path,
        file: &Expected,
        found: Option<u64>,
    ) -> Result<(), Trouble> {
        let Some(found) = found.filter(|found| *found != file.size) else {
            return Ok(());
        };
        remove(partial)?;
        let bound = if found > file.size { "at least " } else { "" };
        Err(Trouble::Lasting(self.error(format!(
            "file `{}` has {bound}{found} bytes where it is downloaded from, and {} in the hub's \
             list of files; nothing of it was kept. Try again later, and tell the repository's \
             owner if it stays",
            file.name, file.size
        ))))
    }

    fn check_all(&self, partial: &Path, file: &Expected) -> Result<()> {
        self.check(partial, file, &file.digest, "the hub")?;
        self.check_catalogue(partial, file)
    }

    fn check_catalogue(&self, path: &Path, file: &Expected) -> Result<()> {
        match file.catalogue_sha256.clone().map(Digest::Sha256) {
            Some(expected) if expected != file.digest => {
                self.check(path, file, &expected, "the catalogue")
            }
            _ => Ok(()),
        }
    }

    fn check(&self, path: &Path, file: &Expected, expected: &Digest, whose: &str) -> Result<()> {
        let found = expected.of(path)?;
        if found == *expected {
            return Ok(());
        }
        Err(self.error(format!(
            "file `{}` is not what {whose} says: expected {expected}, found {found}. It was \
             not made visible. Run it again; if that does not help, something between this \
             machine and {} changes what is downloaded",
            file.name,
            self.client.endpoint()
        )))
    }

    fn subject<'a>(&'a self, file: &'a Expected) -> Subject<'a> {
        Subject {
            repository: self.repository,
            revision: self.revision,
            file: Some(&file.name),
        }
    }

    fn error(&self, reason: String) -> Error {
        Error::hub(self.repository, reason)
    }

    fn bar(&self, file: &Expected) -> ProgressBar {
        let target = if self.progress {
            // Hidden where stderr is no terminal.
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(file.size), target);
        let template = "{msg} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
        // An invalid template would cost the looks of the bar and nothing else.
        let style = ProgressStyle::with_template(template);
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_message(file.name.clone())
    }
}

/// For appending at `start`, with nothing after it.
fn open(partial: &Path, start: u64) -> Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(partial)
        .map_err(Error::io(partial, "create"))?;
    file.set_len(start)
        .and_then(|()| file.seek(SeekFrom::Start(start)))
        .map_err(Error::io(partial, "write"))?;
    Ok(file)
}

fn remove(partial: &Path) -> Result<()> {
    match fs::remove_file(partial) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(partial, "remove")(e)),
        _ => Ok(()),
    }
}

/// First position and length of the whole, where it is said, of `bytes 0-9/100`.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let range = text.trim().strip_prefix("bytes ")?;
    let (range, total) = range.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((from.trim().parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 0-0/*"), Some((0, None)));
        for bad in ["", "bytes */10", "bytes 5", "items 0-1/2", "bytes 0-1/x"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
