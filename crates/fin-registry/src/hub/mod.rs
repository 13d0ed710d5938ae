//! Models from the Hugging Face hub, or a server that speaks like it.
//!
//! [`Hub::fetch`] asks for a repository's list of files, chooses those that the readers need
//! ([`FileSet`]), downloads what the cache has not got, and returns the directory that holds them.
//! The cache is the one of Python's `huggingface_hub`: either finds what the other downloaded.
//!
//! What holds for every download:
//!
//! - A file is visible once its size and digest are those that the hub (and the catalogue, where it
//!   knows one) says; the others wait in `blobs/<digest>.incomplete`, from where the next try or
//!   run goes on.
//! - Cut connections, 408, 429 and 5xx are tried again a bounded number of times, waiting longer
//!   each time.
//! - Of several processes or threads that want a file, one downloads it, and the others wait for it.
//! - A snapshot that lacks a needed file is none: it is completed, or, offline, refused with the
//!   names of the missing files.
//! - The token goes to the hub's scheme, host and port alone, whatever redirects say.
//!
//! `hf_hub` gives the layout of the cache (its `Cache`, `CacheRepo` and `Repo`) and the HTTP client
//! beneath, `ureq`. Its own download is not used, for these reasons (version 0.5): it does not check
//! digests; a file that ends early or is cut is renamed into place all the same; a lock that another
//! process holds is given up after five seconds; a part longer than the file is an error for ever;
//! 4xx and 5xx are treated alike; a listing has neither sizes nor digests; odd `Location` headers and
//! relative cache paths panic; and references are written in place.

mod address;
mod cache;
mod config;
mod digest;
mod download;
mod http;
mod select;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use fin_core::{Error, Result};

pub use config::{DEFAULT_ENDPOINT, HubConfig, Token};
pub use select::FileSet;

pub(crate) use address::fetch_address;
pub(crate) use cache::{Found, NotFound, find};
pub(crate) use http::Failure;

use crate::catalogue::ModelRow;
use cache::RepoCache;
use digest::{Digest, is_hex};
use download::{Downloader, Expected, Place};
use http::{Client, Listing, RemoteFile};
use select::{CONFIG, MODULES, Role, Selection, is_inside, select};

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSource {
    /// `organisation/name`.
    pub repository: String,
    /// Its name before it moved, which a cache may still have.
    pub former: Option<String>,
    /// Branch, tag or commit; `main` where none is given.
    pub revision: Option<String>,
    /// SHA-256 of the weights that upstream prefers, where they are one file.
    pub weights_sha256: Option<String>,
    /// What is needed of it.
    pub files: FileSet,
}

impl HubSource {
    /// The main branch of a repository with a text model.
    pub fn new(repository: impl Into<String>) -> Self {
        Self {
            repository: repository.into(),
            former: None,
            revision: None,
            weights_sha256: None,
            files: FileSet::Text,
        }
    }

    pub(crate) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The names become parts of paths and addresses.
    fn validate(&self) -> Result<()> {
        let parts: Vec<&str> = self.repository.split('/').collect();
        let is_name = |part: &&str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
            is_inside(part) && part.chars().all(is_plain)
        };
        if parts.len() > 2 || !parts.iter().all(is_name) {
            let reason = format!(
                "`{}` is not a repository; one is called like `organisation/name`",
                self.repository
            );
            return Err(Error::argument("repository", reason));
        }
        let revision = self.revision();
        if !is_inside(revision) || revision.chars().any(|c| c.is_control() || c == ' ') {
            let reason = format!("`{revision}` is no branch, tag or commit");
            return Err(Error::argument("revision", reason));
        }
        if let Some(sha256) = &self.weights_sha256
            && !(sha256.len() == 64 && is_hex(sha256))
        {
            let reason = format!("`{sha256}` is no SHA-256 in hexadecimal digits");
            return Err(Error::argument("weights_sha256", reason));
        }
        Ok(())
    }
}

impl From<&ModelRow> for HubSource {
    fn from(row: &ModelRow) -> Self {
        Self {
            former: row.former_source.clone(),
            revision: row.revision.clone(),
            weights_sha256: row.sha256.clone(),
            files: row.task.into(),
            ..Self::new(&row.source)
        }
    }
}

/// A hub with its cache.
///
/// ```no_run
/// use fin_registry::{Hub, HubConfig, HubSource};
///
/// let hub = Hub::new(HubConfig::new("/var/cache/huggingface/hub"));
/// let source = HubSource::new("sentence-transformers/all-MiniLM-L6-v2");
/// let directory = hub.fetch(&source)?;
/// assert!(directory.join("config.json").is_file());
/// # Ok::<(), fin_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Hub {
    config: HubConfig,
}

impl Hub {
    /// Makes no request yet.
    pub fn new(config: HubConfig) -> Self {
        Self { config }
    }

    /// The snapshot directory of a repository, with all files that are needed of it.
    ///
    /// Asks the hub at which commit the revision is, and downloads what the cache has not got.
    /// Offline, the commit is the one last seen, and no request is made.
    ///
    /// # Errors
    /// [`Error::Argument`] where a name, the address or the token cannot be used; [`Error::Hub`]
    /// where the hub cannot be reached, refuses, has no such repository, revision or files, gives
    /// other bytes than it says, or where files are missing offline; [`Error::Io`] where the cache
    /// cannot be written.
    pub fn fetch(&self, source: &HubSource) -> Result<PathBuf> {
        source.validate()?;
        if !self.config.offline {
            return self.download(source).map_err(|failure| failure.error);
        }
        match find(&self.config.cache, source) {
            Ok(found) => Ok(found.snapshot),
            Err(not_found) => {
                let looked = not_found.looked.iter().map(|p| p.display().to_string());
                let state = if not_found.reasons.is_empty() {
                    format!("it is not in {}", looked.collect::<Vec<_>>().join(" or "))
                } else {
                    not_found.reasons.join("; ")
                };
                let reason = format!(
                    "downloads are switched off (--offline or HF_HUB_OFFLINE), and {state}. Run it once with a \
                     network, or copy the repository's part of the cache from a machine that has it"
                );
                Err(Error::hub(&source.repository, reason))
            }
        }
    }

    /// [`Hub::fetch`] with what failed; never offline.
    pub(crate) fn download(&self, source: &HubSource) -> Result<PathBuf, Failure> {
        source.validate()?;
        let job = Job::start(&self.config, source, self.config.retries)?;
        let selection = job.select()?;
        if !selection.missing.is_empty() {
            let reason = format!(
                "{} has no {} at revision `{}`; this repository cannot be read",
                job.client.endpoint(),
                selection.missing.join(", nor "),
                source.revision()
            );
            return Err(Error::hub(&source.repository, reason).into());
        }
        let weights = selection.single_weights();
        job.same_weights(weights)?;
        let (large, small): (Vec<_>, Vec<_>) = selection
            .files
            .iter()
            .partition(|(_, role)| *role == Role::Weights);
        // A refusal is met in the small files, before the large ones are there for nothing.
        job.get(small.into_iter().chain(large), weights)
    }

    /// A snapshot that may lack settings which the repository has: asks the hub for its list of
    /// files, once. Where there is none to be had, the snapshot is used as it is.
    pub(crate) fn make_whole(&self, source: &HubSource, found: Found) -> Result<PathBuf> {
        let source = HubSource {
            repository: found.repository,
            revision: Some(found.commit),
            ..source.clone()
        };
        let Ok(job) = Job::start(&self.config, &source, 0) else {
            return Ok(found.snapshot);
        };
        let get = || {
            let selection = job.select()?;
            let settings = selection.files.iter();
            job.get(settings.filter(|(_, role)| *role == Role::Settings), None)?;
            // The settings may name further weights.
            match find(&self.config.cache, &source) {
                Ok(found) => Ok(found.snapshot),
                Err(_) => self.download(&source),
            }
        };
        get().map_err(|failure: Failure| failure.error)
    }
}

/// One repository at one commit, on the hub and in the cache.
struct Job<'a> {
    source: &'a HubSource,
    client: Client,
    listing: Listing,
    repo: RepoCache,
    progress: bool,
}

impl<'a> Job<'a> {
    /// Asks for the list of files, with this many further tries.
    fn start(
        config: &HubConfig,
        source: &'a HubSource,
        listing_retries: u32,
    ) -> Result<Self, Failure> {
        let mut client = Client::new(config)?;
        client.retries = listing_retries;
        let listing = client.listing(&source.repository, source.revision())?;
        client.retries = config.retries;
        Ok(Self {
            repo: RepoCache::new(&config.cache, &source.repository),
            source,
            client,
            listing,
            progress: config.progress,
        })
    }

    /// The files that are needed. `modules.json` and the like are downloaded to know them.
    fn select(&self) -> Result<Selection, Failure> {
        let names: BTreeSet<String> = self.listing.files.iter().map(|f| f.name.clone()).collect();
        let snapshot = self.repo.snapshot(&self.listing.commit);
        let mut failure = None;
        let mut read = |name: &str| {
            let blob = self.blob(name, false).map_err(|cause| {
                let error = Error::hub(&self.source.repository, &cause.error);
                failure = Some(cause);
                error
            })?;
            fs::read(&blob).map_err(Error::io(&blob, "read"))
        };
        let selection = select(self.source.files, &names, &snapshot, &mut read);
        match failure {
            Some(failure) => Err(failure),
            None => Ok(selection?),
        }
    }

    /// Downloads files, `weights` checked against the catalogue, and makes them visible together.
    fn get<'f>(
        &self,
        files: impl Iterator<Item = &'f (String, Role)>,
        weights: Option<&str>,
    ) -> Result<PathBuf, Failure> {
        let commit = &self.listing.commit;
        let mut blobs = Vec::new();
        for (name, _) in files {
            blobs.push((name, self.blob(name, weights == Some(name))?));
        }
        // Those that make a directory look like a model come last.
        blobs.sort_by_key(|(name, _)| [CONFIG, MODULES].contains(&name.as_str()));
        for (name, blob) in blobs {
            self.repo.link(commit, name, &blob)?;
        }
        let has_modules = self.listing.files.iter().any(|file| file.name == MODULES);
        if self.source.files == FileSet::Text && !has_modules {
            self.repo.set_absent(commit, MODULES);
        }
        self.repo.set_reference(self.source.revision(), commit)?;
        Ok(self.repo.snapshot(commit))
    }

    /// The blob of a file of the listing.
    fn blob(&self, name: &str, is_catalogued: bool) -> Result<PathBuf, Failure> {
        let repository = &self.source.repository;
        let commit = &self.listing.commit;
        let listed = self.listing.files.iter().find(|file| file.name == name);
        let file = match listed {
            Some(file) if file.size.is_some() && file.digest.is_some() => file.clone(),
            // Servers that only resemble the hub may say these for each file alone.
            _ => self.client.describe(repository, commit, name)?,
        };
        let RemoteFile {
            size: Some(size),
            digest: Some(digest),
            ..
        } = file
        else {
            let reason = format!(
                "{} tells no size or no digest of file `{name}`, so that it could not be checked; \
                 it was not downloaded",
                self.client.endpoint()
            );
            return Err(Error::hub(repository, reason).into());
        };
        let catalogue_sha256 = self.source.weights_sha256.as_ref();
        let downloader = Downloader {
            client: &self.client,
            repository,
            revision: self.source.revision(),
            place: Place::Commit(commit),
            progress: self.progress,
        };
        let expected = Expected {
            name: name.to_owned(),
            size,
            digest,
            catalogue_sha256: catalogue_sha256
                .filter(|_| is_catalogued)
                .map(|sha256| sha256.to_ascii_lowercase()),
        };
        downloader.blob(&self.repo, &expected)
    }

    /// Refuses other weights than the catalogue's, as far as the listing shows them.
    fn same_weights(&self, weights: Option<&str>) -> Result<()> {
        let Some(expected) = &self.source.weights_sha256 else {
            return Ok(());
        };
        let found = match weights {
            None => "several files".to_owned(),
            Some(weights) => {
                let listed = self.listing.files.iter().find(|file| file.name == weights);
                match listed.and_then(|file| file.digest.as_ref()) {
                    Some(Digest::Sha256(found)) if !found.eq_ignore_ascii_case(expected) => {
                        format!("`{weights}` with SHA-256 {found}")
                    }
                    _ => return Ok(()),
                }
            }
        };
        let reason = format!(
            "the weights at revision `{}` are {found}; the catalogue's model has one file with \
             SHA-256 {expected}. They are another model's, and were not downloaded. To use them \
             as they are, download the repository by its own name (`fin download {}`) and give \
             the directory",
            self.source.revision(),
            self.source.repository
        );
        Err(Error::hub(&self.source.repository, reason))
    }
}

/// A line on stderr; that stderr is closed is no reason to stop.
fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
