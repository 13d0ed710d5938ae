//! Requests to the hub: redirects, the token, refusals, and what is worth another try.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, io, thread};

use fin_core::{Error, Result};
use serde::Deserialize;
use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, LOCATION, RANGE, RETRY_AFTER,
};
use ureq::http::uri::Scheme;
use ureq::http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::cache::is_commit;
use super::config::{HubConfig, Token};
use super::digest::Digest;
use super::note;
use super::select::is_inside;

/// Why something could not be fetched.
#[derive(Debug)]
pub(crate) struct Failure {
    pub error: Error,
    /// Whether the hub did not answer at all.
    pub is_unreachable: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            is_unreachable: false,
        }
    }
}

/// Why one try failed.
pub(super) enum Trouble {
    /// Another try may succeed, after this time where the hub says one.
    Passing(String, Option<Duration>),
    /// There is no way to the host.
    Unreachable(String),
    /// Another try would fail as well.
    Lasting(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

/// What a request is about, for messages.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub repository: &'a str,
    pub revision: &'a str,
    /// `None` is the listing.
    pub file: Option<&'a str>,
}

impl Subject<'_> {
    pub fn error(&self, reason: impl fmt::Display) -> Error {
        Error::hub(self.repository, reason)
    }

    fn what(&self) -> String {
        match self.file {
            Some(file) => format!("file `{file}`"),
            None => "list of files".into(),
        }
    }
}

/// A repository at a commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<RemoteFile>,
}

/// A file, as far as the hub has described it.
#[derive(Debug, Clone)]
pub(super) struct RemoteFile {
    pub name: String,
    pub size: Option<u64>,
    pub digest: Option<Digest>,
}

pub(super) struct Client {
    agent: Agent,
    /// Without a slash at the end.
    endpoint: String,
    is_hub: bool,
    origin: Origin,
    token: Option<(HeaderValue, Token)>,
    pub retries: u32,
    backoff: Duration,
    /// Whether there has been any answer: from then on, a network that is away may come back.
    was_reached: AtomicBool,
}

/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Longest wait that a hub may ask for; beyond that the user is told instead.
const LONGEST_ASKED: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 10;
const LARGEST_LISTING: u64 = 64 << 20;

impl Client {
    /// # Errors
    /// [`Error::Argument`] where the address or the token cannot be used.
    pub fn new(config: &HubConfig) -> Result<Self> {
        Self::of(config, true)
    }

    /// For the host of `config.endpoint`, which is no hub.
    pub fn of_host(config: &HubConfig) -> Result<Self> {
        Self::of(config, false)
    }

    fn of(config: &HubConfig, is_hub: bool) -> Result<Self> {
        let endpoint = config.endpoint.trim_end_matches('/').to_owned();
        let bad = |reason: &str| {
            let reason = format!(
                "`{endpoint}` cannot be used as the hub's address: {reason}; the public hub is {}",
                super::config::DEFAULT_ENDPOINT
            );
            Error::argument("HF_ENDPOINT", reason)
        };
        let uri: Uri = endpoint.parse().map_err(|_| bad("it is no address"))?;
        let origin = Origin::of(&uri)
            .ok_or_else(|| bad("it has to begin with https:// or http:// and a host"))?;
        if uri
            .authority()
            .is_some_and(|part| part.as_str().contains('@'))
        {
            // Not shown: what stands there is a secret.
            return Err(Error::argument(
                "HF_ENDPOINT",
                "a user or password in the address is not supported; give a token in HF_TOKEN",
            ));
        }
        if uri.query().is_some() {
            return Err(bad("it has a query"));
        }
        let token = config.token.as_ref().map(|token| {
            let text = format!("Bearer {}", token.value());
            let header = HeaderValue::from_str(&text)
                .ok()
                .filter(|_| text.is_ascii());
            let mut header = header.ok_or_else(|| {
                let reason = "holds characters that no token has; nothing was sent";
                Error::argument(token.place(), reason)
            })?;
            header.set_sensitive(true);
            Ok((header, token.clone()))
        });
        let mut agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("fin/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(config.timeout))
            .timeout_connect(Some(config.timeout))
            .timeout_per_read(Some(config.timeout))
            .timeout_per_write(Some(config.timeout));
        if origin.is_this_machine() {
            agent = agent.proxy(None);
        }
        Ok(Self {
            agent: agent.build().new_agent(),
            endpoint,
            is_hub,
            origin,
            token: token.transpose()?,
            retries: config.retries,
            backoff: config.backoff,
            was_reached: AtomicBool::new(false),
        })
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A request with as many tries as are allowed.
    pub fn with_retries<T>(
        &self,
        subject: Subject,
        mut attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T, Failure> {
        let mut failed = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(trouble) => {
                    failed += 1;
                    self.wait_or_give_up(subject, trouble, failed, "", note)?;
                }
            }
        }
    }

    /// After the `failed`th failure in a row: waits, or says that it is given up and `remains`.
    pub fn wait_or_give_up(
        &self,
        subject: Subject,
        trouble: Trouble,
        failed: u32,
        remains: &str,
        note: impl FnOnce(&str),
    ) -> Result<(), Failure> {
        let what = subject.what();
        let endpoint = &self.endpoint;
        let (reason, asked, is_unreachable) = match trouble {
            Trouble::Lasting(error) => return Err(error.into()),
            Trouble::Passing(reason, asked) => (reason, asked, false),
            Trouble::Unreachable(reason) if self.was_reached.load(Ordering::Relaxed) => {
                (reason, None, true)
            }
            Trouble::Unreachable(reason) => {
                let error = subject.error(format!(
                    "cannot reach {}{endpoint} for the {what}: {reason}. Check the network{}; \
                     HF_HUB_OFFLINE=1 uses what is on this machine",
                    if self.is_hub { "the hub at " } else { "" },
                    if self.is_hub { " and HF_ENDPOINT" } else { "" }
                ));
                return Err(Failure {
                    error,
                    is_unreachable: true,
                });
            }
        };
        let wait = match asked {
            Some(asked) => asked,
            None => {
                let factor = 1u32.checked_shl(failed - 1).unwrap_or(u32::MAX);
                self.backoff.saturating_mul(factor).min(LONGEST_WAIT)
            }
        };
        if failed > self.retries || wait > LONGEST_ASKED {
            let tries = match failed {
                1 => "1 try".to_owned(),
                _ => format!("{failed} tries"),
            };
            let when = match asked {
                Some(asked) => format!("in {} s", asked.as_secs()),
                None => "later".into(),
            };
            let error = subject.error(format!(
                "the {what} could not be fetched from {endpoint} in {tries}: {reason}. \
                 {remains}Run it again {when}"
            ));
            return Err(Failure {
                error,
                is_unreachable,
            });
        }
        if wait >= Duration::from_secs(1) {
            note(&format!(
                "{}: {what}: {reason}; trying again in {} s ({failed} of {})",
                subject.repository,
                wait.as_secs(),
                self.retries
            ));
        }
        thread::sleep(wait);
        Ok(())
    }

    /// The files of a repository at a revision.
    pub fn listing(&self, repository: &str, revision: &str) -> Result<Listing, Failure> {
        let subject = Subject {
            repository,
            revision,
            file: None,
        };
        let url = format!(
            "{}/api/models/{repository}/revision/{}?blobs=true",
            self.endpoint,
            encode(revision, false)
        );
        self.with_retries(subject, || {
            let response = self.send(Method::GET, &url, None, true, subject)?;
            let mut response = self.accept(response, subject)?;
            let body = response.body_mut().with_config().limit(LARGEST_LISTING);
            let bytes = body.read_to_vec().map_err(trouble)?;
            Ok(parse_listing(&bytes).map_err(|reason| {
                subject.error(format!(
                    "the answer of {} is not a list of files: {reason}. Check HF_ENDPOINT, and \
                     whether this network asks for a login first",
                    self.endpoint
                ))
            })?)
        })
    }

    /// Size and digest of a file whose listing does not say them.
    pub fn describe(
        &self,
        repository: &str,
        commit: &str,
        name: &str,
    ) -> Result<RemoteFile, Failure> {
        let subject = Subject {
            repository,
            revision: commit,
            file: Some(name),
        };
        let url = self.file_url(repository, commit, name);
        self.with_retries(subject, || {
            // Where the file is elsewhere, the hub's own redirect describes it.
            let response = self.send(Method::HEAD, &url, None, false, subject)?;
            let response = self.accept(response, subject)?;
            let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
            let size = header("x-linked-size").or_else(|| {
                let is_direct = !response.status().is_redirection();
                header(CONTENT_LENGTH.as_str()).filter(|_| is_direct)
            });
            let digest = header("x-linked-etag").or_else(|| header(ETAG.as_str()));
            Ok(RemoteFile {
                name: name.to_owned(),
                size: size.and_then(|size| size.parse().ok()),
                digest: digest.and_then(|text| Digest::parse(&text)),
            })
        })
    }

    /// A file from a position on, one try.
    pub fn open(
        &self,
        subject: Subject,
        commit: &str,
        name: &str,
        start: u64,
    ) -> Result<Response<Body>, Trouble> {
        let url = self.file_url(subject.repository, commit, name);
        let range = (start > 0).then(|| format!("bytes={start}-"));
        let response = self.send(Method::GET, &url, range.as_deref(), true, subject)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && start > 0 {
            return Ok(response);
        }
        self.accept(response, subject)
    }

    /// A file of an address of its own from a position on, one try.
    pub fn open_address(
        &self,
        subject: Subject,
        address: &str,
        start: u64,
    ) -> Result<Response<Body>, Trouble> {
        let range = (start > 0).then(|| format!("bytes={start}-"));
        let response = self.send(Method::GET, address, range.as_deref(), true, subject)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && start > 0 {
            return Ok(response);
        }
        self.accept_address(response, subject)
    }

    /// The size of a file of an address of its own.
    pub fn size_of_address(&self, subject: Subject, address: &str) -> Result<u64, Failure> {
        self.with_retries(subject, || {
            let response = self.send(Method::HEAD, address, None, true, subject)?;
            let response = self.accept_address(response, subject)?;
            let length = response.headers().get(CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
            length.ok_or_else(|| {
                let reason = format!("{} does not tell the file's size", self.endpoint);
                Trouble::Lasting(subject.error(reason))
            })
        })
    }

    /// Success, or what the answer of a server means that is no hub.
    fn accept_address(
        &self,
        response: Response<Body>,
        subject: Subject,
    ) -> Result<Response<Body>, Trouble> {
        let status = response.status();
        match status.as_u16() {
            200..=299 => Ok(response),
            408 | 429 | 500..=599 => Err(Trouble::Passing(format!("the answer is {status}"), None)),
            _ => Err(Trouble::Lasting(subject.error(format!(
                "{} answers {status}; the file may have moved: download it by other means, or \
                 give the catalogue its new address",
                self.endpoint
            )))),
        }
    }

    fn file_url(&self, repository: &str, commit: &str, name: &str) -> String {
        let name = encode(name, true);
        format!("{}/{repository}/resolve/{commit}/{name}", self.endpoint)
    }

    /// Sends a request, and follows redirects; `elsewhere` says whether to other hosts too.
    ///
    /// The token goes to the hub's own scheme, host and port alone. `ureq` would compare hosts, so
    /// that another port of the same machine would get it.
    fn send(
        &self,
        method: Method,
        url: &str,
        range: Option<&str>,
        elsewhere: bool,
        subject: Subject,
    ) -> Result<Response<Body>, Trouble> {
        let unusable = |what: &str| {
            // Without its query, which may hold a signature.
            let reason = format!("{} redirects to {what}", self.endpoint);
            Trouble::Lasting(subject.error(reason))
        };
        let mut uri: Uri = url.parse().map_err(|_| {
            let reason = format!("no address can be made for the {}", subject.what());
            Trouble::Lasting(subject.error(reason))
        })?;
        for _ in 0..=MOST_REDIRECTS {
            let origin = Origin::of(&uri).ok_or_else(|| unusable("no usable address"))?;
            let mut request = Request::builder().method(&method).uri(&uri);
            if subject.file.is_some() {
                // Sizes and ranges are of the file, not of a packed form.
                request = request.header(ACCEPT_ENCODING, "identity");
            }
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            if let Some((token, _)) = self.token.as_ref().filter(|_| origin == self.origin) {
                request = request.header(AUTHORIZATION, token);
            }
            let request = request.body(()).map_err(|e| {
                let reason = format!("the {} cannot be asked for: {e}", subject.what());
                Trouble::Lasting(subject.error(reason))
            })?;
            let mut response = self.agent.run(request).map_err(trouble)?;
            self.was_reached.store(true, Ordering::Relaxed);
            let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let location = response.headers().get(LOCATION).filter(|_| is_redirect);
            let Some(location) = location else {
                return Ok(response);
            };
            let next = location.to_str().ok().and_then(|text| resolve(&uri, text));
            let next = next.ok_or_else(|| unusable("no usable address"))?;
            let next_origin = Origin::of(&next).ok_or_else(|| unusable("no usable address"))?;
            if origin.scheme == Scheme::HTTPS && next_origin.scheme != Scheme::HTTPS {
                return Err(unusable("an address without encryption"));
            }
            if next_origin != origin && !elsewhere {
                return Ok(response);
            }
            if next_origin == origin {
                // A connection whose answer was read to its end is used again.
                let body = response.body_mut().with_config().limit(1 << 16);
                let _ = body.read_to_vec();
            }
            uri = next;
        }
        Err(unusable("one address after the other without an end"))
    }

    /// Success, or what the answer means.
    fn accept(
        &self,
        response: Response<Body>,
        subject: Subject,
    ) -> Result<Response<Body>, Trouble> {
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        let endpoint = &self.endpoint;
        let Subject {
            repository,
            revision,
            ..
        } = subject;
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let is_code = |code: &str| header("x-error-code") == Some(code);
        let reason = match status.as_u16() {
            408 | 429 | 500..=599 => {
                let asked = header(RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
                let asked = asked
                    .filter(|seconds| *seconds > 0)
                    .map(Duration::from_secs);
                let reason = format!("the answer is {status}");
                return Err(Trouble::Passing(reason, asked));
            }
            401 | 403 => {
                let page = format!("{endpoint}/{repository}");
                let token = match &self.token {
                    None => format!(
                        "No token was sent: make one at {endpoint}/settings/tokens and give it in \
                         HF_TOKEN, or in the file `token` in $HF_HOME"
                    ),
                    Some((_, token)) => format!(
                        "The token of {} is not accepted for it: check that it is valid and may \
                         read this repository, or remove it, as public models need none",
                        token.place()
                    ),
                };
                let state = if is_code("GatedRepo") {
                    format!("is gated: accept its conditions at {page} while logged in")
                } else {
                    format!("is private, gated (see {page}) or not there")
                };
                format!("{endpoint} refuses access ({status}): the repository {state}. {token}")
            }
            404 if is_code("RevisionNotFound") => {
                format!("{endpoint} has the repository, but no revision `{revision}` of it")
            }
            404 => match subject.file {
                Some(file) => format!(
                    "{endpoint} has no file `{file}` at revision `{revision}` of the repository"
                ),
                None => format!(
                    "{endpoint} has no such repository, or no revision `{revision}` of it; check \
                     both names, and HF_ENDPOINT"
                ),
            },
            _ => format!(
                "{endpoint} answers {status} when asked for the {} at revision `{revision}`",
                subject.what()
            ),
        };
        Err(subject.error(reason).into())
    }
}

/// Sorts errors of the transport.
fn trouble(error: ureq::Error) -> Trouble {
    use ureq::Timeout;
    match error {
        ureq::Error::Io(error) => io_trouble(&error),
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            Trouble::Unreachable("no connection in time".into())
        }
        ureq::Error::Timeout(_) => Trouble::Passing("no answer in time".into(), None),
        ureq::Error::HostNotFound => Trouble::Unreachable("the host is not known".into()),
        ureq::Error::Protocol(_) | ureq::Error::BodyStalled | ureq::Error::Decompress(..) => {
            Trouble::Passing(format!("the answer is damaged ({error})"), None)
        }
        ureq::Error::BodyExceedsLimit(limit) => {
            Trouble::Passing(format!("the answer is longer than {limit} bytes"), None)
        }
        _ => Trouble::Unreachable(error.to_string()),
    }
}

fn io_trouble(error: &io::Error) -> Trouble {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, TimedOut, UnexpectedEof,
        WouldBlock,
    };
    match error.kind() {
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe | Interrupted => {
            Trouble::Passing(format!("the connection was cut ({error})"), None)
        }
        TimedOut | WouldBlock => Trouble::Passing("no answer in time".into(), None),
        _ => Trouble::Unreachable(error.to_string()),
    }
}

/// Sorts errors of reading a body.
pub(super) fn body_trouble(error: io::Error) -> Trouble {
    trouble(ureq::Error::from(error))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme()?.clone();
        let default = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?;
        let authority = uri.authority()?.as_str();
        let (_, port) = authority.rsplit_once(host)?;
        let port = match port.strip_prefix(':') {
            None => default,
            // An odd port must not pass for the usual one.
            Some(port) => port.parse().ok()?,
        };
        Some(Self {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    fn is_this_machine(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let address = host.parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

/// The address that a `Location` means.
fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    let is_scheme = |text: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || ['+', '-', '.'].contains(&c);
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_part)
    };
    if let Some((scheme, _)) = location.split_once(':')
        && is_scheme(scheme)
    {
        return location.parse().ok();
    }
    let scheme = from.scheme_str()?;
    let authority = from.authority()?;
    let text = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let (directory, _) = from.path().rsplit_once('/')?;
        format!("{scheme}://{authority}{directory}/{location}")
    };
    text.parse().ok()
}

/// Percent-encodes what is not plain in addresses; `/` stays where it separates directories.
fn encode(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(byte.into());
            }
            b'/' if keep_slashes => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[derive(Deserialize)]
struct RepositoryInfo {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: Option<String>,
    size: Option<u64>,
}

fn parse_listing(bytes: &[u8]) -> Result<Listing, String> {
    let info: RepositoryInfo = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if !is_commit(&info.sha) {
        return Err(format!("`{}` is not a commit", info.sha));
    }
    let files = info
        .siblings
        .into_iter()
        .filter(|sibling| is_inside(&sibling.rfilename))
        .map(|sibling| {
            // `blobId` of a large file is that of the pointer that stands for it.
            let (size, digest) = match sibling.lfs {
                Some(lfs) => (lfs.size.or(sibling.size), lfs.sha256),
                None => (sibling.size, sibling.blob_id),
            };
            RemoteFile {
                name: sibling.rfilename,
                size,
                digest: digest.and_then(|text| Digest::parse(&text)),
            }
        })
        .collect();
    Ok(Listing {
        commit: info.sha.to_ascii_lowercase(),
        files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_resolved_against_the_address_it_came_from() {
        let from: Uri = "https://hub.example:8443/a/b/c?q=1".parse().unwrap();
        for (location, expected) in [
            (
                "https://cdn.example/x?y=%20z",
                "https://cdn.example/x?y=%20z",
            ),
            ("HTTPS://cdn.example/x", "https://cdn.example/x"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/x?y", "https://hub.example:8443/x?y"),
            ("x", "https://hub.example:8443/a/b/x"),
        ] {
            assert_eq!(resolve(&from, location).unwrap(), expected);
        }
        for location in [
            "https://",
            "//",
            "/a b",
            "https://host:port/x",
            "https://host:99999/x",
            "ftp://x/y",
            "data:,",
        ] {
            let resolved = resolve(&from, location);
            assert!(
                resolved.is_none_or(|uri| Origin::of(&uri).is_none()),
                "{location}"
            );
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap()).unwrap();
        assert_eq!(
            origin("https://Hub.example"),
            origin("https://hub.example:443/x")
        );
        for other in [
            "http://hub.example",
            "https://hub.example:8443",
            "https://hub.example.evil",
            "https://hub.example@evil",
            "https://sub.hub.example",
        ] {
            assert_ne!(origin("https://hub.example"), origin(other));
        }
        for local in ["http://127.0.0.1:8", "http://localhost", "http://[::1]:8"] {
            assert!(origin(local).is_this_machine(), "{local}");
        }
        assert!(!origin("http://10.0.0.1").is_this_machine());
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(
            encode("1_Dense/a b?#é.bin", true),
            "1_Dense/a%20b%3F%23%C3%A9.bin"
        );
    }

    #[test]
    fn a_listing_gives_sizes_and_digests_where_it_has_them() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let sha256 = "f".repeat(64);
        let listing = serde_json::json!({
            "sha": commit,
            "siblings": [
                { "rfilename": "config.json", "size": 3, "blobId": commit },
                { "rfilename": "m.bin", "size": 9, "blobId": commit,
                  "lfs": { "sha256": sha256, "size": 9, "pointerSize": 1 } },
                { "rfilename": "bare.json" },
                { "rfilename": "../outside" },
            ],
        });
        let listing = parse_listing(listing.to_string().as_bytes()).unwrap();
        assert_eq!(listing.commit, commit);
        let [config, large, bare] = &listing.files[..] else {
            panic!("{listing:?}");
        };
        assert_eq!(config.digest, Some(Digest::GitSha1(commit.into())));
        assert_eq!(large.digest, Some(Digest::Sha256(sha256)));
        assert_eq!(
            (config.size, large.size, bare.size),
            (Some(3), Some(9), None)
        );
        assert_eq!(bare.digest, None);
        for bad in ["<html>", "{}", r#"{"sha": "../..", "siblings": []}"#] {
            assert!(parse_listing(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unusable_endpoint_or_token_is_an_error_that_shows_no_secret() {
        let with = |endpoint: &str, token: Option<&str>| {
            let config = HubConfig {
                endpoint: endpoint.into(),
                token: token.map(Token::new),
                ..HubConfig::new("cache")
            };
            Client::new(&config).map(|_| ()).map_err(|e| e.to_string())
        };
        with("https://hub.example/some/path/", Some("hf_abc")).unwrap();
        for bad in [
            "",
            "hub.example",
            "ftp://hub.example",
            "https://",
            "https://a?b=c",
        ] {
            let error = with(bad, None).unwrap_err();
            assert!(error.contains("HF_ENDPOINT"), "{error}");
        }
        let error = with("https://me:secret@hub.example", None).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        for bad in ["hf_sec\nret", "hf_sécret"] {
            let error = with("https://hub.example", Some(bad)).unwrap_err();
            assert!(!error.contains("hf_s"), "{error}");
        }
    }
}
