//! The cache on disk, shared with Python's `huggingface_hub`.
//!
//! ```text
//! models--<organisation>--<name>/
//!     blobs/<etag>                     contents
//!     blobs/<etag>.incomplete          a part of one, from its beginning
//!     snapshots/<commit>/<file>        links to blobs
//!     refs/<revision>                  the commit of a branch or tag
//!     trees/<commit>.json              a listing, where Python has made one
//!     .no_exist/<commit>/<file>        a file known not to be in the repository
//! .locks/models--<organisation>--<name>/<etag>.lock
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fin_core::{Error, Result};
use hf_hub::{Cache, CacheRepo, Repo};
use serde::Deserialize;

use super::digest::{Digest, is_hex, sha256};
use super::select::{FileSet, MODULES, Role, Selection, is_inside, select};
use super::{HubSource, note};

/// One repository's part of the cache.
pub(super) struct RepoCache {
    inner: CacheRepo,
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub fn new(cache: &Path, repository: &str) -> Self {
        let repo = Repo::model(repository.to_owned());
        let folder = repo.folder_name();
        Self {
            root: cache.join(&folder),
            locks: cache.join(".locks").join(folder),
            inner: Cache::new(cache.to_path_buf()).repo(repo),
        }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.inner.pointer_path(commit)
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.inner.blob_path(digest.hex())
    }

    /// The commit that a branch or tag stood at when it was last looked at.
    pub fn reference(&self, revision: &str) -> Option<String> {
        let path = self.root.join("refs").join(revision);
        let commit = fs::read_to_string(path).ok()?.trim().to_owned();
        is_commit(&commit).then_some(commit)
    }

    /// Records the commit of a branch or tag. `hf_hub`'s own writes in place, where a crash or a
    /// reader may see half of it.
    pub fn set_reference(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.reference(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        let temporary = self.temporary();
        create_parent(&path)?;
        fs::write(&temporary, commit).map_err(Error::io(&temporary, "write"))?;
        fs::rename(&temporary, &path).map_err(Error::io(&path, "rename into place"))
    }

    /// A name that nothing else uses, outside of the directories whose content is listed.
    fn temporary(&self) -> PathBuf {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (process, n) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        self.root.join(format!(".fin-{process}-{n}.tmp"))
    }

    /// Makes a blob visible under a file's name.
    pub fn link(&self, commit: &str, name: &str, blob: &Path) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        create_parent(&path)?;
        // From `snapshots/<commit>/`, and from each directory in `name`.
        let mut target = PathBuf::from("../..");
        for _ in 1..Path::new(name).components().count() {
            target.push("..");
        }
        target.push("blobs");
        target.extend(blob.file_name());
        if fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let temporary = self.temporary();
        if symlink(&target, &temporary).is_err() {
            // Where links need rights that the user has not, or do not exist.
            fs::copy(blob, &temporary).map_err(Error::io(&path, "write"))?;
        }
        fs::rename(&temporary, &path).map_err(|source| {
            let _ = fs::remove_file(&temporary);
            Error::io(&path, "rename into place")(source)
        })
    }

    /// Records, as Python does, that a file is not in the repository. Best effort: without it the
    /// hub is asked again.
    pub fn set_absent(&self, commit: &str, name: &str) {
        let path = self.root.join(".no_exist").join(commit).join(name);
        if create_parent(&path).is_ok() {
            let _ = OpenOptions::new().create(true).append(true).open(path);
        }
    }

    fn is_absent(&self, commit: &str, name: &str) -> bool {
        self.root
            .join(".no_exist")
            .join(commit)
            .join(name)
            .is_file()
    }

    /// The repository's files at a commit, where Python has recorded them.
    fn tree(&self, commit: &str) -> Option<BTreeSet<String>> {
        #[derive(Deserialize)]
        struct Tree {
            format_version: u32,
            files: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
        }
        let path = self.root.join("trees").join(format!("{commit}.json"));
        let tree: Tree = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (tree.format_version == 1).then(|| tree.files.into_keys().collect())
    }

    /// What is there of a commit: its selection and whether it is known to be all.
    fn look(&self, commit: &str, set: FileSet) -> Result<(Selection, bool)> {
        let snapshot = self.snapshot(commit);
        let here = files_below(&snapshot);
        let mut read = |name: &str| {
            let path = snapshot.join(name);
            fs::read(&path).map_err(Error::io(&path, "read"))
        };
        let mut selection = select(set, &here, &snapshot, &mut read)?;
        if let Some(tree) = self.tree(commit) {
            if set == FileSet::Text && tree.contains(MODULES) && !here.contains(MODULES) {
                selection.missing.push(MODULES.into());
            } else if selection.missing.is_empty() {
                // Weights and tokenizers have several forms, and one of each is here.
                let upstream = select(set, &tree, &snapshot, &mut read)?;
                let settings = upstream.files.into_iter().filter_map(|(name, role)| {
                    (role == Role::Settings && !here.contains(&name)).then_some(name)
                });
                selection.missing.extend(settings);
            }
            return Ok((selection, true));
        }
        // Without its modules, a sentence-transformers model is another one that opens as well.
        let known =
            set != FileSet::Text || here.contains(MODULES) || self.is_absent(commit, MODULES);
        Ok((selection, known))
    }

    /// Takes the lock of a blob, waiting for whoever has it; Python's downloads take the same.
    pub fn lock(&self, digest: &Digest, file: &str) -> Result<File> {
        lock(&self.locks.join(format!("{}.lock", digest.hex())), file)
    }
}

/// A lock that is held as long as the file is open; `file` is what is waited for.
pub(super) fn lock(path: &Path, file: &str) -> Result<File> {
    create_parent(path)?;
    loop {
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::io(path, "create"))?;
        wait(&lock, path, file)?;
        // Others may delete the lock file when they are done; then it locks nothing.
        if is_still(&lock, path) {
            return Ok(lock);
        }
    }
}

fn wait(lock: &File, path: &Path, file: &str) -> Result<()> {
    const QUIET: Duration = Duration::from_secs(1);
    let begin = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(source)) => return Err(Error::io(path, "lock")(source)),
            Err(TryLockError::WouldBlock) if begin.elapsed() < QUIET => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                note(&format!(
                    "waiting for another download of {file} to end (it holds {})",
                    path.display()
                ));
                return lock.lock().map_err(Error::io(path, "lock"));
            }
        }
    }
}

#[cfg(unix)]
fn is_still(lock: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (lock.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_still(_: &File, _: &Path) -> bool {
    true
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

pub(super) fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(Error::io(parent, "create"))
}

/// Whether a revision is a commit, which stays what it is.
pub(super) fn is_commit(revision: &str) -> bool {
    matches!(revision.len(), 40 | 64) && is_hex(revision)
}

/// Paths of the files below a directory, with `/`; links count where they lead to a file.
fn files_below(directory: &Path) -> BTreeSet<String> {
    fn walk(directory: &Path, prefix: &str, depth: usize, names: &mut BTreeSet<String>) {
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let (path, name) = (entry.path(), format!("{prefix}{name}"));
            if path.is_file() {
                names.insert(name);
            } else if path.is_dir() && depth > 0 {
                walk(&path, &format!("{name}/"), depth - 1, names);
            }
        }
    }
    let mut names = BTreeSet::new();
    walk(directory, "", 4, &mut names);
    names
}

/// A snapshot with all that is needed of it.
pub(crate) struct Found {
    pub snapshot: PathBuf,
    pub commit: String,
    /// Under which of the source's names.
    pub repository: String,
    /// Whether nothing further is in the repository that would be read.
    pub is_known_whole: bool,
}

/// Where a model was looked for, and what is wrong with what was there.
#[derive(Debug, Default)]
pub(crate) struct NotFound {
    pub looked: Vec<PathBuf>,
    pub reasons: Vec<String>,
}

/// Looks for a model in the cache, without the hub.
pub(crate) fn find(cache: &Path, source: &HubSource) -> Result<Found, NotFound> {
    let mut not_found = NotFound::default();
    let revision = source.revision();
    for repository in std::iter::once(&source.repository).chain(&source.former) {
        let repo = RepoCache::new(cache, repository);
        not_found.looked.push(repo.root.clone());
        if !is_inside(revision) {
            continue;
        }
        let mut commits = Vec::new();
        if is_commit(revision) {
            commits.push((revision.to_owned(), false));
            // Another commit with the same weights serves as well.
            if source.weights_sha256.is_some()
                && let Some(main) = repo.reference("main")
            {
                commits.push((main, true));
            }
        } else {
            commits.extend(repo.reference(revision).map(|commit| (commit, false)));
        }
        for (commit, only_same_weights) in commits {
            match check(&repo, &commit, source, only_same_weights) {
                Ok(Some(is_known_whole)) => {
                    return Ok(Found {
                        snapshot: repo.snapshot(&commit),
                        commit,
                        repository: repository.clone(),
                        is_known_whole,
                    });
                }
                Ok(None) => {}
                Err(reason) => not_found.reasons.push(reason),
            }
        }
    }
    Err(not_found)
}

/// Whether a commit's snapshot can be used, and is known to be whole; `None` where there is none.
fn check(
    repo: &RepoCache,
    commit: &str,
    source: &HubSource,
    only_same_weights: bool,
) -> Result<Option<bool>, String> {
    let snapshot = repo.snapshot(commit);
    if !snapshot.is_dir() {
        return Ok(None);
    }
    let (selection, known) = repo
        .look(commit, source.files)
        .map_err(|error| error.to_string())?;
    if !selection.missing.is_empty() {
        let missing = selection.missing.join(", ");
        return Err(format!("{} lacks {missing}", snapshot.display()));
    }
    let Some(expected) = &source.weights_sha256 else {
        return Ok(Some(known));
    };
    let Some(weights) = selection.single_weights() else {
        return if only_same_weights {
            Ok(None)
        } else {
            Ok(Some(known))
        };
    };
    let path = snapshot.join(weights);
    let found = weights_sha256(&path).map_err(|error| error.to_string())?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(Some(known));
    }
    // The digest is of the form that upstream prefers; an older form has another.
    if only_same_weights || weights.ends_with("model.safetensors") {
        return Err(format!(
            "{} has SHA-256 {found}, the catalogue's model has {expected}",
            path.display()
        ));
    }
    Ok(Some(known))
}

/// By the name of its blob, where that says it.
fn weights_sha256(path: &Path) -> Result<String> {
    if let Ok(target) = fs::read_link(path)
        && let Some(name) = target.file_name().and_then(|name| name.to_str())
        && let Some(Digest::Sha256(hex)) = Digest::parse(name)
    {
        return Ok(hex);
    }
    sha256(path)
}
