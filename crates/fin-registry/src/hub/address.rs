//! A file from an address of its own, into the cache that PyTorch keeps of such files.

use std::path::{Path, PathBuf};

use fin_core::{Error, Result};

use super::cache::lock;
use super::config::HubConfig;
use super::digest::Digest;
use super::download::{Downloader, Expected, Place};
use super::http::{Client, Failure, Subject};
use crate::catalogue::ModelRow;

/// The weights of a row whose source is an address, downloaded into `directory` where they are not
/// there: resumed, tried again and checked by their digest as files of the hub are.
///
/// # Errors
/// [`Error::Hub`] where the host cannot be reached, refuses, or gives other bytes than the
/// catalogue says; [`Error::Io`] where the directory cannot be written.
pub(crate) fn fetch_address(
    config: &HubConfig,
    row: &ModelRow,
    directory: &Path,
) -> Result<PathBuf, Failure> {
    let address = row.source.as_str();
    let name = row.weights.as_str();
    let start = row.sha256.clone().unwrap_or_default();
    if start.is_empty() {
        let reason = "is missing; what comes from an address is checked by its digest";
        return Err(Error::argument("sha256", reason).into());
    }
    let host: String = address.split_inclusive('/').take(3).collect();
    let client = Client::of_host(&HubConfig {
        endpoint: host,
        token: None,
        ..config.clone()
    })?;
    let subject = Subject {
        repository: &row.name,
        revision: "",
        file: Some(name),
    };
    let expected = Expected {
        name: name.to_owned(),
        size: client.size_of_address(subject, address)?,
        digest: Digest::Sha256Start(start),
        catalogue_sha256: None,
    };
    let downloader = Downloader {
        client: &client,
        repository: &row.name,
        revision: "",
        place: Place::Address(address),
        progress: config.progress,
    };
    let target = directory.join(name);
    let lock_file = directory.join(format!(".{name}.lock"));
    let outcome = downloader.file(&target, &expected, || lock(&lock_file, name));
    // Whoever waits for it finds that it is no longer there, and makes another.
    let _ = std::fs::remove_file(&lock_file);
    outcome.map(|()| target)
}
