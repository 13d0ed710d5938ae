//! Files that appear whole or not at all.
//!
//! Everything fin writes goes to a temporary name in the destination's directory and is renamed
//! over the destination once complete, so that a reader never sees half a file and a failure
//! leaves what was there before.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use crate::error::{Error, Result};

/// A file under a temporary name that takes its real name at [`AtomicFile::commit`].
///
/// Dropped without a commit, it is deleted and the destination is left as it was.
#[derive(Debug)]
pub struct AtomicFile {
    writer: BufWriter<NamedTempFile>,
    destination: PathBuf,
}

impl AtomicFile {
    /// Opens a temporary file beside `destination`.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory does not exist or cannot be written.
    pub fn create(destination: impl AsRef<Path>) -> Result<Self> {
        let destination = destination.as_ref().to_path_buf();
        if destination.is_dir() {
            return Err(Error::invalid(
                &destination,
                "is a directory; give a file name",
            ));
        }
        let directory = parent(&destination);
        let file = tempfile::Builder::new()
            .prefix(".fin-")
            .suffix(".tmp")
            .permissions_like_new_file()
            .tempfile_in(directory)
            .map_err(Error::io(&destination, "create"))?;
        Ok(Self {
            writer: BufWriter::with_capacity(1 << 20, file),
            destination,
        })
    }

    /// The final name.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// The open temporary file, for writers that seek. Buffered bytes are flushed first.
    ///
    /// # Errors
    /// [`Error::Io`] where the buffered bytes cannot be written.
    pub fn file_mut(&mut self) -> Result<&mut File> {
        self.writer
            .flush()
            .map_err(Error::io(&self.destination, "write"))?;
        Ok(self.writer.get_mut().as_file_mut())
    }

    /// Flushes, syncs and renames to the destination.
    ///
    /// # Errors
    /// [`Error::Io`]; the destination is then as it was before.
    pub fn commit(self) -> Result<()> {
        let Self {
            writer,
            destination,
        } = self;
        let file = writer
            .into_inner()
            .map_err(|e| Error::io(&destination, "write")(e.into_error()))?;
        file.as_file()
            .sync_all()
            .map_err(Error::io(&destination, "write"))?;
        file.persist(&destination)
            .map_err(|e| Error::io(&destination, "rename into place")(e.error))?;
        sync_directory(parent(&destination));
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.writer.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

/// Writes `bytes` to `destination` whole or not at all.
///
/// # Errors
/// [`Error::Io`]; the destination is then as it was before.
pub fn write(destination: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(&destination)?;
    file.write_all(bytes)
        .map_err(Error::io(&destination, "write"))?;
    file.commit()
}

/// A directory under a temporary name that takes its real name at [`AtomicDir::commit`].
///
/// Where the destination exists already, it is moved aside, replaced and then removed; a crash
/// in between leaves either the old or the new directory whole under one of the two names, and
/// [`recover`] puts the old one back.
#[derive(Debug)]
pub struct AtomicDir {
    temporary: TempDir,
    destination: PathBuf,
}

impl AtomicDir {
    /// Creates a temporary directory beside `destination`, making parent directories as needed.
    ///
    /// # Errors
    /// [`Error::Io`] where the parent cannot be created or written, [`Error::InvalidFile`]
    /// where the destination is a file.
    pub fn create(destination: impl AsRef<Path>) -> Result<Self> {
        let destination = destination.as_ref().to_path_buf();
        if destination.exists() && !destination.is_dir() {
            return Err(Error::invalid(
                &destination,
                "exists and is not a directory",
            ));
        }
        let directory = parent(&destination);
        std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
        recover(&destination)?;
        let temporary = tempfile::Builder::new()
            .prefix(".fin-")
            .suffix(".tmp")
            .permissions_like_new_dir()
            .tempdir_in(directory)
            .map_err(Error::io(&destination, "create"))?;
        Ok(Self {
            temporary,
            destination,
        })
    }

    /// Where to put the files.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Renames to the destination.
    ///
    /// # Errors
    /// [`Error::Io`]; an existing destination is then back in place.
    pub fn commit(self) -> Result<()> {
        let Self {
            temporary,
            destination,
        } = self;
        sync_directory(temporary.path());
        let old = destination.is_dir().then(|| aside(&destination));
        if let Some(old) = &old {
            if old.exists() {
                std::fs::remove_dir_all(old).map_err(Error::io(old, "remove"))?;
            }
            std::fs::rename(&destination, old).map_err(Error::io(&destination, "move aside"))?;
        }
        if let Err(source) = std::fs::rename(temporary.path(), &destination) {
            if let Some(old) = &old {
                std::fs::rename(old, &destination).map_err(Error::io(&destination, "restore"))?;
            }
            return Err(Error::Io {
                path: destination,
                action: "rename into place",
                source,
            });
        }
        // The directory now lives under its real name: nothing is left to delete on drop.
        let _ = temporary.keep();
        sync_directory(parent(&destination));
        if let Some(old) = &old {
            std::fs::remove_dir_all(old).map_err(Error::io(old, "remove"))?;
        }
        Ok(())
    }
}

/// Puts a directory back that a crash in the middle of [`AtomicDir::commit`] left moved aside. Nothing
/// happens where there is none, or where the destination is there.
///
/// # Errors
/// [`Error::Io`] where it cannot be renamed.
pub fn recover(destination: impl AsRef<Path>) -> Result<()> {
    let destination = destination.as_ref();
    let old = aside(destination);
    if !destination.exists() && old.is_dir() {
        std::fs::rename(&old, destination).map_err(Error::io(destination, "restore"))?;
    }
    Ok(())
}

/// Where a directory is while another takes its place.
fn aside(destination: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".fin-old-");
    name.push(destination.file_name().unwrap_or_default());
    destination.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a rename durable where the system allows a directory to be synced; best effort.
fn sync_directory(path: &Path) {
    if let Ok(directory) = File::open(path) {
        let _ = directory.sync_all();
    }
}

/// `tempfile` creates private files; what fin writes has the permissions of any new file.
trait LikeNew {
    fn permissions_like_new_file(&mut self) -> &mut Self;
    fn permissions_like_new_dir(&mut self) -> &mut Self;
}

impl LikeNew for tempfile::Builder<'_, '_> {
    #[cfg(unix)]
    fn permissions_like_new_file(&mut self) -> &mut Self {
        use std::os::unix::fs::PermissionsExt;
        self.permissions(std::fs::Permissions::from_mode(0o666))
    }

    #[cfg(unix)]
    fn permissions_like_new_dir(&mut self) -> &mut Self {
        use std::os::unix::fs::PermissionsExt;
        self.permissions(std::fs::Permissions::from_mode(0o777))
    }

    #[cfg(not(unix))]
    fn permissions_like_new_file(&mut self) -> &mut Self {
        self
    }

    #[cfg(not(unix))]
    fn permissions_like_new_dir(&mut self) -> &mut Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_file_leaves_the_destination_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.txt");
        std::fs::write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_directory_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        for content in ["one", "two"] {
            let new = AtomicDir::create(&path).unwrap();
            std::fs::write(new.path().join(content), content).unwrap();
            new.commit().unwrap();
            let names: Vec<_> = std::fs::read_dir(&path)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            assert_eq!(names, [content]);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_a_crash_left_aside_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        let moved = dir.path().join(".fin-old-model");
        for again in [
            |path: &Path| recover(path).unwrap(),
            |path: &Path| {
                drop(AtomicDir::create(path).unwrap());
            },
        ] {
            std::fs::create_dir(&moved).unwrap();
            std::fs::write(moved.join("weights"), "old").unwrap();
            again(&path);
            let found = std::fs::read_to_string(path.join("weights")).unwrap();
            assert_eq!(found, "old");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
            std::fs::remove_dir_all(&path).unwrap();
        }
        // One that is there is not replaced by an older one.
        std::fs::create_dir(&moved).unwrap();
        std::fs::create_dir(&path).unwrap();
        recover(&path).unwrap();
        assert!(moved.is_dir() && path.is_dir());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = AtomicFile::create("/nonexistent-fin/out.npy")
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nonexistent-fin/out.npy"), "{error}");
    }
}
