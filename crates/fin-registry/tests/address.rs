//! Weights from an address of their own, from a server on this machine.
#![cfg(feature = "flex")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fin_registry::{Catalogue, HubConfig, Locations, ModelOptions, Registry};
use sha2::{Digest, Sha256};

/// What is wrong with the server.
#[derive(Default)]
struct Faults {
    /// Bodies that end after this many bytes, one a number.
    cuts: Mutex<Vec<usize>>,
    /// Answers of this kind before others.
    refusals: AtomicUsize,
    status: AtomicUsize,
}

/// Serves one file at `/models/weights.pth`.
struct Server {
    address: String,
    faults: Arc<Faults>,
    /// Method and range of every request.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(content: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Faults::default());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (its_faults, its_seen) = (faults.clone(), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that went away is no matter.
                let _ = answer(stream, &content, &its_faults, &its_seen);
            }
        });
        Self {
            address: format!("http://127.0.0.1:{port}/models/weights.pth"),
            faults,
            seen,
        }
    }
}

fn answer(
    mut stream: TcpStream,
    content: &[u8],
    faults: &Faults,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut start = 0;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let method = request.split(' ').next().unwrap_or_default().to_owned();
    seen.lock().unwrap().push(format!("{method} {start}"));
    let refused = faults
        .refusals
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    if refused.is_ok() {
        let status = faults.status.load(Ordering::SeqCst);
        return write!(
            stream,
            "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let body = &content[start..];
    let (status, range) = match start {
        0 => ("200 OK", String::new()),
        _ => {
            let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
            ("206 Partial Content", format!("Content-Range: {range}\r\n"))
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{range}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if method == "HEAD" {
        return Ok(());
    }
    let end = faults.cuts.lock().unwrap().pop().unwrap_or(body.len());
    stream.write_all(&body[..end.min(body.len())])
}

/// A small ResNet of ours as a file of torchvision, and how it is described.
fn content() -> Vec<u8> {
    std::fs::read(fixture("images/resnet-basic.pth")).unwrap()
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(path)
}

fn registry(server: &Server, root: &Path, content: &[u8], digits: usize) -> Registry {
    let digest: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let row = format!(
        r#"
        [[model]]
        name = "ours"
        task = "image-to-image"
        output_dim = 512
        architecture = "cnn"
        network = "resnet18"
        description = "A model of our own"
        source = "{}"
        weights = "weights.pth"
        sha256 = "{}"
        licence = "MIT"
        dialect = "torchvision"
        pooling = "mean"
        normalize = false
        preprocessing = {{ kind = "image", resize = {{ shorter_side = 64 }}, interpolation = "bilinear", crop = [56, 56], mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }}
        "#,
        server.address,
        &digest[..digits]
    );
    Registry {
        catalogue: Catalogue::from_toml(Path::new("models.toml"), &row).unwrap(),
        locations: Locations {
            by_name: Vec::new(),
            hub: Some(HubConfig {
                progress: false,
                backoff: Duration::ZERO,
                ..HubConfig::new(root.join("hub"))
            }),
            checkpoints: Some(root.join("checkpoints")),
        },
    }
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .map(|entries| {
            let names = entries.map(|entry| entry.unwrap().file_name());
            names.map(|name| name.into_string().unwrap()).collect()
        })
        .unwrap_or_default();
    names.sort();
    names
}

#[test]
fn a_download_that_is_cut_goes_on_where_it_ended_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let content = content();
    let server = Server::start(content.clone());
    server.faults.cuts.lock().unwrap().extend([700, 5000]);
    let registry = registry(&server, dir.path(), &content, 8);
    let (path, row) = registry.locate("ours").unwrap();
    assert_eq!(row.unwrap().name, "ours");
    assert_eq!(path, dir.path().join("checkpoints/weights.pth"));
    assert_eq!(std::fs::read(&path).unwrap(), content);
    let seen = server.seen.lock().unwrap().clone();
    assert_eq!(seen, ["HEAD 0", "GET 0", "GET 5000", "GET 5700"]);
    assert_eq!(files(&dir.path().join("checkpoints")), ["weights.pth"]);
    // It is there now.
    registry.locate("ours").unwrap();
    assert_eq!(server.seen.lock().unwrap().len(), 4);
}

#[test]
fn other_bytes_than_the_digest_says_are_refused_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let content = content();
    let mut damaged = content.clone();
    damaged[1000] ^= 1;
    let server = Server::start(damaged);
    let registry = registry(&server, dir.path(), &content, 64);
    let error = registry.locate("ours").unwrap_err().to_string();
    for part in ["ours", "weights.pth", "SHA-256"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert_eq!(files(&dir.path().join("checkpoints")), [] as [&str; 0]);
}

#[test]
fn refusals_name_the_file_and_passing_ones_are_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let content = content();
    let server = Server::start(content.clone());
    let registry = registry(&server, dir.path(), &content, 8);
    server.faults.status.store(404, Ordering::SeqCst);
    server.faults.refusals.store(1, Ordering::SeqCst);
    let error = registry.locate("ours").unwrap_err().to_string();
    for part in ["ours", "127.0.0.1", "404"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    server.faults.status.store(503, Ordering::SeqCst);
    server.faults.refusals.store(2, Ordering::SeqCst);
    registry.locate("ours").unwrap();
}

#[test]
fn offline_nothing_is_asked_for_and_the_error_says_what_to_put_where() {
    let dir = tempfile::tempdir().unwrap();
    let content = content();
    let server = Server::start(content.clone());
    let mut registry = registry(&server, dir.path(), &content, 8);
    registry.locations = registry.locations.offline();
    let options = ModelOptions::default();
    let error = registry
        .build_model("ours", &options)
        .unwrap_err()
        .to_string();
    for part in [server.address.as_str(), "checkpoints/weights.pth"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert!(server.seen.lock().unwrap().is_empty());
}
