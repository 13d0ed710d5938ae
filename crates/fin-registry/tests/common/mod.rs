//! A hub on the loopback interface: repositories of fixtures, the addresses and headers of the
//! Hugging Face hub, a second port for large files, and faults to order.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Commit of the branches of the fake hub; it has every other commit too, all alike.
pub const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";

/// A path below `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(path)
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

pub fn git_sha1(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hasher
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Weights are in large-file storage, all else in git.
fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".onnx", ".h5"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// What names a file's blob.
pub fn etag(name: &str, bytes: &[u8]) -> String {
    if is_large(name) {
        sha256(bytes)
    } else {
        git_sha1(bytes)
    }
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Whether it came to the second port.
    pub is_cdn: bool,
}

/// What goes wrong with a file's bytes, or with an answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after this many bytes of the body.
    Cut(usize),
    /// This status with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The byte in the middle is another.
    Flip,
    /// The file ends after this many bytes, and the headers say so.
    Truncate(usize),
    /// A range that was asked for is not heeded.
    IgnoreRange,
    /// Another part than was asked for.
    WrongRange,
    /// After this many bytes of the body nothing more comes, and the connection stays.
    Stall(usize),
    /// The connection is closed without an answer.
    Silent,
    /// The answer waits for [`FakeHub::release`].
    Hold,
    /// The answer takes this long to begin.
    Slow(Duration),
    /// A redirect to this place.
    Redirect(String),
}

struct Order {
    /// Part of the path.
    path: String,
    left: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    repositories: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    seen: Vec<Seen>,
    orders: Vec<Order>,
    token: Option<String>,
    /// The listing gives names alone.
    is_plain: bool,
    is_released: bool,
}

/// The server. It ends with the process.
#[derive(Clone)]
pub struct FakeHub {
    pub endpoint: String,
    cdn: String,
    state: Arc<Mutex<State>>,
    released: Arc<Condvar>,
}

impl FakeHub {
    pub fn start() -> Self {
        let main = TcpListener::bind("127.0.0.1:0").unwrap();
        let cdn = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let hub = Self {
            endpoint: address(&main),
            cdn: address(&cdn),
            state: Arc::default(),
            released: Arc::default(),
        };
        for (listener, is_cdn) in [(main, false), (cdn, true)] {
            let hub = hub.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let hub = hub.clone();
                    // A client that goes away is its own business.
                    thread::spawn(move || drop(hub.serve(stream, is_cdn)));
                }
            });
        }
        hub
    }

    /// With a directory below `fixtures/text` as a repository.
    pub fn with(self, repository: &str, directory: &str) -> Self {
        self.with_files(repository, files(&fixture("text").join(directory)))
    }

    pub fn with_files(self, repository: &str, files: BTreeMap<String, Vec<u8>>) -> Self {
        let mut state = self.state.lock().unwrap();
        state.repositories.insert(repository.into(), files);
        drop(state);
        self
    }

    /// Only whoever has this token gets anything of the main port.
    pub fn with_token(self, token: &str) -> Self {
        self.state.lock().unwrap().token = Some(token.into());
        self
    }

    /// Without sizes and digests in listings.
    pub fn plain(self) -> Self {
        self.state.lock().unwrap().is_plain = true;
        self
    }

    /// Orders a fault for the next `times` requests whose path contains `path`. For a file in
    /// large-file storage, paths on the second port end with its name too.
    pub fn fault(&self, path: &str, times: usize, fault: Fault) {
        let order = Order {
            path: path.into(),
            left: times,
            fault,
        };
        self.state.lock().unwrap().orders.push(order);
    }

    pub fn no_more_faults(&self) {
        self.state.lock().unwrap().orders.clear();
    }

    /// Gives the answers that are held.
    pub fn release(&self) {
        self.state.lock().unwrap().is_released = true;
        self.released.notify_all();
    }

    /// The requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }

    pub fn file(&self, repository: &str, name: &str) -> Vec<u8> {
        self.state.lock().unwrap().repositories[repository][name].clone()
    }

    fn serve(&self, mut stream: TcpStream, is_cdn: bool) -> std::io::Result<()> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let mut first = lines.next().unwrap().split(' ');
        let seen = Seen {
            method: first.next().unwrap().into(),
            path: first.next().unwrap().into(),
            headers: lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
                .collect(),
            is_cdn,
        };
        let (answer, fault) = self.answer(&seen);
        let cut = match fault {
            Some(Fault::Cut(after) | Fault::Stall(after)) => after,
            Some(Fault::Silent) => return Ok(()),
            _ => usize::MAX,
        };
        let status = answer.status;
        let mut text = format!("HTTP/1.1 {status} Some Reason\r\nConnection: close\r\n");
        let mut headers = answer.headers;
        if !headers.iter().any(|(name, _)| name == "Content-Length") {
            headers.push(("Content-Length".into(), answer.body.len().to_string()));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        stream.write_all(text.as_bytes())?;
        if seen.method != "HEAD" {
            let end = cut.min(answer.body.len());
            stream.write_all(&answer.body[..end])?;
        }
        stream.flush()?;
        if matches!(fault, Some(Fault::Stall(_))) {
            // Longer than any test.
            thread::sleep(Duration::from_secs(600));
        }
        Ok(())
    }

    /// The answer, and what is wrong with it.
    fn answer(&self, seen: &Seen) -> (Answer, Option<Fault>) {
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.seen.push(seen.clone());
            let order = state
                .orders
                .iter_mut()
                .find(|order| order.left > 0 && seen.path.contains(&order.path));
            order.map(|order| {
                order.left -= 1;
                order.fault.clone()
            })
        };
        if let Some(Fault::Slow(time)) = fault {
            thread::sleep(time);
        }
        let mut state = self.state.lock().unwrap();
        while matches!(fault, Some(Fault::Hold)) && !state.is_released {
            state = self.released.wait(state).unwrap();
        }
        let answer = match &fault {
            Some(Fault::Status(status, headers)) => {
                let answer = Answer::new(*status);
                headers
                    .iter()
                    .fold(answer, |answer, (name, value)| answer.header(name, value))
            }
            Some(Fault::Redirect(to)) => Answer::new(302).header("Location", to),
            _ if seen.is_cdn => cdn(&state, seen, fault.as_ref()),
            _ => self.main(&state, seen, fault.as_ref()),
        };
        (answer, fault)
    }

    fn main(&self, state: &State, seen: &Seen, fault: Option<&Fault>) -> Answer {
        let bearer = state.token.as_ref().map(|token| format!("Bearer {token}"));
        if bearer.is_some() && seen.headers.get("authorization") != bearer.as_ref() {
            return Answer::new(401).header("X-Error-Code", "RepoNotFound");
        }
        let path = seen.path.split('?').next().unwrap();
        let not_found = |code: &str| Answer::new(404).header("X-Error-Code", code);
        if let Some(rest) = path.strip_prefix("/api/models/") {
            let (repository, revision) = rest.split_once("/revision/").unwrap();
            let Some(files) = state.repositories.get(repository) else {
                return not_found("RepoNotFound");
            };
            let Some(commit) = commit_of(revision) else {
                return not_found("RevisionNotFound");
            };
            let listing = listing(files, commit, state.is_plain);
            return Answer::new(200).body(listing.to_string().into_bytes());
        }
        if let Some(rest) = path.strip_prefix("/api/resolve-cache/") {
            let parts: Vec<&str> = rest.splitn(4, '/').collect();
            let [organisation, name, commit, path] = parts[..] else {
                return Answer::new(404);
            };
            let bytes = &state.repositories[&format!("{organisation}/{name}")][path];
            return file(bytes, seen, fault)
                .header("ETag", &format!("\"{}\"", git_sha1(bytes)))
                .header("X-Repo-Commit", commit);
        }
        let Some((repository, rest)) = path.split_once("/resolve/") else {
            return Answer::new(404);
        };
        let repository = repository.trim_start_matches('/');
        let (revision, name) = rest.split_once('/').unwrap();
        let Some(commit) = commit_of(revision) else {
            return not_found("RevisionNotFound");
        };
        let found = state.repositories.get(repository);
        let Some(bytes) = found.and_then(|files| files.get(name)) else {
            return not_found("EntryNotFound");
        };
        let answer = Answer::new(302).header("X-Repo-Commit", commit);
        if !is_large(name) {
            let to = format!("/api/resolve-cache/{repository}/{commit}/{name}");
            return Answer {
                status: 307,
                ..answer
            }
            .header("Location", &to);
        }
        let to = format!("{}/{repository}/{name}?Signature=abc%2Fdef", self.cdn);
        answer
            .header("Location", &to)
            .header("X-Linked-Etag", &format!("\"{}\"", sha256(bytes)))
            .header("X-Linked-Size", &bytes.len().to_string())
            .header("ETag", "\"1234\"")
    }
}

fn commit_of(revision: &str) -> Option<&str> {
    match revision {
        "main" | "refs%2Fpr%2F1" => Some(COMMIT),
        commit => (commit.len() == 40).then_some(commit),
    }
}

fn cdn(state: &State, seen: &Seen, fault: Option<&Fault>) -> Answer {
    let path = seen.path.split('?').next().unwrap().trim_start_matches('/');
    let found = state.repositories.iter().find_map(|(repository, files)| {
        let name = path.strip_prefix(repository.as_str())?.strip_prefix('/')?;
        files.get(name)
    });
    match found {
        Some(bytes) => file(bytes, seen, fault).header("ETag", "\"not-the-digest\""),
        None => Answer::new(404),
    }
}

/// A file or the part of it that was asked for.
fn file(bytes: &[u8], seen: &Seen, fault: Option<&Fault>) -> Answer {
    let mut bytes = bytes.to_vec();
    match fault {
        Some(Fault::Flip) => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        Some(Fault::Truncate(length)) => bytes.truncate(*length),
        _ => {}
    }
    let range = seen.headers.get("range").map(|range| {
        let start = range.strip_prefix("bytes=").unwrap();
        let start = start.strip_suffix('-').unwrap();
        start.parse::<usize>().unwrap()
    });
    match range {
        Some(_) if matches!(fault, Some(Fault::IgnoreRange)) => Answer::new(200).body(bytes),
        None => Answer::new(200).body(bytes),
        Some(start) if start >= bytes.len() => {
            Answer::new(416).header("Content-Range", &format!("bytes */{}", bytes.len()))
        }
        Some(start) => {
            let start = match fault {
                Some(Fault::WrongRange) => start - 1,
                _ => start,
            };
            let (last, total) = (bytes.len() - 1, bytes.len());
            Answer::new(206)
                .header("Content-Range", &format!("bytes {start}-{last}/{total}"))
                .body(bytes.split_off(start))
        }
    }
}

fn listing(files: &BTreeMap<String, Vec<u8>>, commit: &str, is_plain: bool) -> Value {
    let siblings: Vec<Value> = files
        .iter()
        .map(|(name, bytes)| match (is_plain, is_large(name)) {
            (true, _) => json!({ "rfilename": name }),
            (_, true) => json!({
                "rfilename": name,
                "size": bytes.len(),
                "blobId": git_sha1(b"a pointer"),
                "lfs": { "sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 9 },
            }),
            _ => json!({ "rfilename": name, "size": bytes.len(), "blobId": git_sha1(bytes) }),
        })
        .collect();
    json!({ "id": "x", "sha": commit, "private": false, "siblings": siblings })
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn body(self, body: Vec<u8>) -> Self {
        Self { body, ..self }
    }
}

/// The files below a directory by their paths, with some that no reader needs.
pub fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(directory: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), files);
            } else {
                files.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(directory, "", &mut found);
    for name in [
        "README.md",
        "onnx/model.onnx",
        "tf_model.h5",
        "flax_model.msgpack",
    ] {
        found.insert(name.into(), format!("not needed: {name}").into_bytes());
    }
    found
}
