//! Downloads from a hub on the loopback interface.
// The layout of the cache is looked at through its links.
#![cfg(unix)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fin_core::{Error, Result};
use fin_registry::{Hub, HubConfig, HubSource, Token};
use tempfile::TempDir;

use common::{COMMIT, FakeHub, Fault, Seen, etag, fixture, sha256};

const REPOSITORY: &str = "tiny/bert";
const WEIGHTS: &str = "model.safetensors";
const ALWAYS: usize = usize::MAX;
/// Tries beyond the first.
const RETRIES: usize = 3;

/// What is needed of `bert-tiny`.
const NEEDED: [&str; 9] = [
    "1_Pooling/config.json",
    "2_Normalize/config.json",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

fn config(endpoint: &str, cache: &Path) -> HubConfig {
    HubConfig {
        endpoint: endpoint.into(),
        progress: false,
        retries: RETRIES as u32,
        backoff: Duration::from_millis(1),
        ..HubConfig::new(cache)
    }
}

struct Bench {
    server: FakeHub,
    dir: TempDir,
}

impl Bench {
    fn of(server: FakeHub) -> Self {
        Self {
            server,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn new() -> Self {
        Self::of(FakeHub::start().with(REPOSITORY, "bert-tiny"))
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("hub")
    }

    fn config(&self) -> HubConfig {
        config(&self.server.endpoint, &self.cache())
    }

    fn offline(&self) -> Hub {
        Hub::new(HubConfig {
            offline: true,
            ..self.config()
        })
    }

    fn fetch(&self) -> Result<PathBuf> {
        Hub::new(self.config()).fetch(&HubSource::new(REPOSITORY))
    }

    /// Expects an error of the hub with these parts in it.
    fn fails(&self, parts: &[&str]) -> String {
        fails(self.fetch(), parts)
    }

    fn repository(&self) -> PathBuf {
        self.cache().join("models--tiny--bert")
    }

    fn snapshot(&self) -> PathBuf {
        self.repository().join("snapshots").join(COMMIT)
    }

    fn blob(&self, name: &str) -> PathBuf {
        let bytes = self.server.file(REPOSITORY, name);
        self.repository().join("blobs").join(etag(name, &bytes))
    }

    fn partial(&self, name: &str) -> PathBuf {
        let mut path = self.blob(name).into_os_string();
        path.push(".incomplete");
        path.into()
    }

    /// No file of the repository can be opened by its name, and no blob looks complete that
    /// is not.
    fn nothing_is_visible(&self) {
        let visible = names_below(&self.snapshot());
        assert_eq!(visible, [""; 0]);
        assert!(!self.blob(WEIGHTS).exists());
    }
}

fn fails(result: Result<PathBuf>, parts: &[&str]) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Hub { .. }), "{error:?}");
    let error = error.to_string();
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    error
}

fn names_below(directory: &Path) -> Vec<String> {
    fn walk(directory: &Path, prefix: &str, names: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        for entry in entries {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), names);
            } else {
                names.push(name);
            }
        }
    }
    let mut names = Vec::new();
    walk(directory, "", &mut names);
    names.sort();
    names
}

/// Requests for files, as `(name, times)`, redirects not counted.
fn files_asked_for(seen: &[Seen]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in seen {
        if let Some((_, name)) = request.path.split_once(&format!("/resolve/{COMMIT}/")) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    counts
}

fn ranges(seen: &[Seen]) -> Vec<Option<String>> {
    let weights = seen.iter().filter(|request| request.is_cdn);
    weights
        .map(|request| request.headers.get("range").cloned())
        .collect()
}

/// A copy of `bert-tiny` in the layout that Python's downloads make.
fn python_cache(bench: &Bench, leave_out: &[&str]) {
    for name in NEEDED.iter().filter(|name| !leave_out.contains(name)) {
        let blob = bench.blob(name);
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, bench.server.file(REPOSITORY, name)).unwrap();
        let link = bench.snapshot().join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up = "../".repeat(1 + name.split('/').count());
        let target = format!("{up}blobs/{}", blob.file_name().unwrap().to_str().unwrap());
        std::os::unix::fs::symlink(target, link).unwrap();
    }
    fs::create_dir_all(bench.repository().join("refs")).unwrap();
    fs::write(bench.repository().join("refs/main"), COMMIT).unwrap();
}

#[test]
fn a_model_is_downloaded_once_into_the_layout_of_the_cache() {
    let bench = Bench::new();
    let snapshot = bench.fetch().unwrap();
    assert_eq!(snapshot, bench.snapshot());
    assert_eq!(names_below(&snapshot), NEEDED);
    for name in NEEDED {
        let path = snapshot.join(name);
        let bytes = bench.server.file(REPOSITORY, name);
        assert_eq!(fs::read(&path).unwrap(), bytes, "{name}");
        let target = fs::read_link(&path).unwrap();
        let up = "../".repeat(1 + name.split('/').count());
        assert_eq!(
            target.to_str().unwrap(),
            format!("{up}blobs/{}", etag(name, &bytes))
        );
    }
    let main = fs::read_to_string(bench.repository().join("refs/main")).unwrap();
    assert_eq!(main, COMMIT);
    let seen = bench.server.seen();
    let expected = NEEDED.map(|name| (name.to_owned(), 1)).into();
    assert_eq!(files_asked_for(&seen), expected);
    assert!(seen.iter().all(|request| request.method == "GET"));

    // Again: the list of files, and none of them.
    assert_eq!(bench.fetch().unwrap(), snapshot);
    let seen = bench.server.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(
        seen[0]
            .path
            .starts_with("/api/models/tiny/bert/revision/main")
    );
    // Nothing is left over.
    let left = names_below(&bench.repository());
    assert!(
        !left
            .iter()
            .any(|name| name.contains("tmp") || name.contains("incomplete"))
    );
}

#[test]
fn shards_and_other_revisions_are_downloaded() {
    let bench = Bench::of(FakeHub::start().with(REPOSITORY, "bert-tiny-sharded"));
    let revision = |revision: &str| HubSource {
        revision: Some(revision.into()),
        ..HubSource::new(REPOSITORY)
    };
    let hub = Hub::new(bench.config());
    let snapshot = hub.fetch(&revision("refs/pr/1")).unwrap();
    let reference = bench.repository().join("refs/refs/pr/1");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
    let names = names_below(&snapshot);
    assert!(
        names.contains(&"model.safetensors.index.json".into()),
        "{names:?}"
    );
    let shards = names.iter().filter(|name| name.ends_with(".safetensors"));
    assert!(shards.count() > 1, "{names:?}");

    let other = "f".repeat(40);
    let snapshot = hub.fetch(&revision(&other)).unwrap();
    assert_eq!(snapshot, bench.repository().join("snapshots").join(&other));
    assert!(!bench.repository().join("refs").join(&other).exists());
    assert_eq!(bench.offline().fetch(&revision(&other)).unwrap(), snapshot);

    for bad in ["../x", "", "a b", "/x"] {
        let error = hub.fetch(&revision(bad)).unwrap_err().to_string();
        assert!(error.contains("no branch, tag or commit"), "{error}");
    }
    for bad in ["../x", "a/b/c", "a b/c", "/x", "a/.."] {
        let error = hub.fetch(&HubSource::new(bad)).unwrap_err().to_string();
        assert!(error.contains("organisation/name"), "{error}");
    }
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let bench = Bench::new();
    let cut = Fault::Cut(50_000);
    bench.server.fault("/tiny/bert/model.safetensors", 1, cut);
    bench.fetch().unwrap();
    let seen = bench.server.seen();
    assert_eq!(ranges(&seen), [None, Some("bytes=50000-".into())]);
}

#[test]
fn a_download_that_is_always_cut_is_given_up_and_goes_on_in_the_next_run() {
    let bench = Bench::new();
    let cut = Fault::Cut(10_000);
    bench
        .server
        .fault("/tiny/bert/model.safetensors", ALWAYS, cut);
    let size = bench.server.file(REPOSITORY, WEIGHTS).len();
    bench.fails(&[
        "file `model.safetensors`",
        "in 4 tries",
        &format!("40000 of {size} bytes are kept"),
        "connection was cut",
    ]);
    bench.nothing_is_visible();
    assert_eq!(fs::metadata(bench.partial(WEIGHTS)).unwrap().len(), 40_000);
    // Offline, what is there is not a model.
    let offline = bench.offline().fetch(&HubSource::new(REPOSITORY));
    fails(offline, &["HF_HUB_OFFLINE", "models--tiny--bert"]);

    bench.server.no_more_faults();
    bench.server.seen();
    bench.fetch().unwrap();
    let seen = bench.server.seen();
    assert_eq!(ranges(&seen), [Some("bytes=40000-".into())]);
    assert_eq!(
        files_asked_for(&seen).len(),
        1,
        "the small files were there"
    );
    assert!(!bench.partial(WEIGHTS).exists());
}

#[test]
fn a_server_that_does_not_heed_ranges_is_read_from_the_beginning() {
    for fault in [Fault::IgnoreRange, Fault::WrongRange] {
        let bench = Bench::new();
        bench
            .server
            .fault("/tiny/bert/model.s", 1, Fault::Cut(50_000));
        bench.server.fault("/tiny/bert/model.s", 1, fault);
        bench.fetch().unwrap();
    }
}

#[test]
fn a_part_that_was_damaged_since_is_downloaded_anew() {
    let bench = Bench::new();
    let size = bench.server.file(REPOSITORY, WEIGHTS).len();
    for length in [1000, size, size + 1000] {
        let partial = bench.partial(WEIGHTS);
        fs::create_dir_all(partial.parent().unwrap()).unwrap();
        fs::write(&partial, vec![7; length]).unwrap();
        bench.fetch().unwrap();
        assert!(!partial.exists());
        fs::remove_file(bench.blob(WEIGHTS)).unwrap();
    }
}

#[test]
fn unknown_repositories_and_revisions_are_named() {
    let bench = Bench::new();
    let hub = Hub::new(bench.config());
    let endpoint = bench.server.endpoint.as_str();
    let missing = hub.fetch(&HubSource::new("tiny/other"));
    fails(missing, &["tiny/other", "`main`", endpoint, "HF_ENDPOINT"]);
    let missing = hub.fetch(&HubSource {
        revision: Some("v9".into()),
        ..HubSource::new(REPOSITORY)
    });
    fails(missing, &[REPOSITORY, "no revision `v9`", endpoint]);
    assert!(!bench.cache().exists(), "nothing was written");
    assert_eq!(bench.server.seen().len(), 2, "no second try");
}

#[test]
fn a_repository_without_weights_is_refused() {
    let files = [("config.json".to_owned(), b"{}".to_vec())];
    let bench = Bench::of(FakeHub::start().with_files(REPOSITORY, files.into()));
    bench.fails(&[
        "has no model.safetensors (or",
        "tokenizer.json (or",
        "`main`",
    ]);
}

#[test]
fn a_token_is_needed_accepted_and_never_shown_or_sent_elsewhere() {
    let server = FakeHub::start().with(REPOSITORY, "bert-tiny");
    let bench = Bench::of(server.with_token("hf_right"));
    let page = format!("{}/{REPOSITORY}", bench.server.endpoint);
    bench.fails(&["401", "private, gated", &page, "HF_TOKEN"]);
    let with = |token: &str| {
        let config = HubConfig {
            token: Some(Token::new(token)),
            ..bench.config()
        };
        Hub::new(config).fetch(&HubSource::new(REPOSITORY))
    };
    let error = fails(with("hf_wrong"), &["401", "is not accepted"]);
    assert!(!error.contains("hf_wrong"), "{error}");
    assert_eq!(bench.server.seen().len(), 2, "no second try");

    with("hf_right").unwrap();
    let seen = bench.server.seen();
    assert!(seen.iter().any(|request| request.is_cdn));
    for request in seen {
        let sent = request.headers.contains_key("authorization");
        // The second port is another server on the same host.
        assert_eq!(sent, !request.is_cdn, "{request:?}");
    }

    let other = FakeHub::start().with(REPOSITORY, "bert-tiny");
    let to = format!("{}/api/models/{REPOSITORY}/revision/main", other.endpoint);
    bench.server.fault("/api/models", 1, Fault::Redirect(to));
    with("hf_right").unwrap();
    let seen = other.seen();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].headers.contains_key("authorization"), "{seen:?}");
}

#[test]
fn a_gated_repository_says_where_to_accept_its_conditions() {
    let bench = Bench::new();
    let gated = vec![("X-Error-Code", "GatedRepo".to_owned())];
    bench
        .server
        .fault("/resolve/", ALWAYS, Fault::Status(403, gated));
    let page = format!("{}/{REPOSITORY}", bench.server.endpoint);
    bench.fails(&["403", "gated: accept its conditions at", &page, "HF_TOKEN"]);
    bench.nothing_is_visible();
}

#[test]
fn a_busy_or_failing_server_is_asked_again() {
    let bench = Bench::new();
    let at_once = || vec![("Retry-After", "0".to_owned())];
    bench
        .server
        .fault("/api/models", 1, Fault::Status(429, at_once()));
    bench
        .server
        .fault("/api/models", 1, Fault::Status(500, Vec::new()));
    bench
        .server
        .fault("/tiny/bert/model.s", 2, Fault::Status(503, Vec::new()));
    bench
        .server
        .fault("/resolve/", 1, Fault::Status(502, Vec::new()));
    bench.fetch().unwrap();

    let bench = Bench::new();
    bench
        .server
        .fault("/api/models", ALWAYS, Fault::Status(503, Vec::new()));
    bench.fails(&["in 4 tries", "503"]);
    assert_eq!(bench.server.seen().len(), 1 + RETRIES);

    let bench = Bench::new();
    let in_an_hour = vec![("Retry-After", "3600".to_owned())];
    bench
        .server
        .fault("/api/models", ALWAYS, Fault::Status(429, in_an_hour));
    bench.fails(&["in 1 try", "429", "in 3600 s"]);
    assert_eq!(bench.server.seen().len(), 1);
}

#[test]
fn odd_answers_are_errors() {
    let cases = [
        (
            "/api/models",
            Fault::Redirect("http://".into()),
            "no usable address",
        ),
        (
            "/api/models",
            Fault::Redirect("ftp://x/y".into()),
            "no usable address",
        ),
        (
            "/api/models",
            Fault::Redirect("/api/models/again".into()),
            "without an end",
        ),
        (
            "/api/models",
            Fault::Status(200, Vec::new()),
            "is not a list of files",
        ),
        ("/api/models", Fault::Status(418, Vec::new()), "418"),
        ("/resolve/", Fault::Status(404, Vec::new()), "no file `"),
    ];
    for (path, fault, part) in cases {
        let bench = Bench::new();
        bench.server.fault(path, ALWAYS, fault);
        bench.fails(&[part]);
        bench.nothing_is_visible();
    }
}

#[test]
fn a_corrupted_file_is_removed_and_reported() {
    for (path, name, algorithm) in [
        ("/tiny/bert/model.safetensors", WEIGHTS, "SHA-256"),
        (
            "/resolve-cache/tiny/bert",
            "tokenizer.json",
            "git blob SHA-1",
        ),
    ] {
        let bench = Bench::new();
        let bytes = bench.server.file(REPOSITORY, name);
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        let path = match name {
            WEIGHTS => path.to_owned(),
            _ => format!("{path}/{COMMIT}/{name}"),
        };
        bench.server.fault(&path, ALWAYS, Fault::Flip);
        bench.fails(&[
            &format!("file `{name}`"),
            &format!("expected {algorithm} {}", etag(name, &bytes)),
            &format!("found {algorithm} {}", etag(name, &flipped)),
            "Run it again",
        ]);
        bench.nothing_is_visible();
        assert!(!bench.partial(name).exists());

        bench.server.no_more_faults();
        bench.fetch().unwrap();
    }
}

#[test]
fn a_file_of_another_size_is_refused() {
    let bench = Bench::new();
    let size = bench.server.file(REPOSITORY, WEIGHTS).len();
    bench
        .server
        .fault("/tiny/bert/model.s", ALWAYS, Fault::Truncate(1000));
    let parts = [
        "`model.safetensors` has 1000 bytes",
        &format!("and {size} in"),
    ];
    bench.fails(&parts);
    bench.nothing_is_visible();
    assert!(!bench.partial(WEIGHTS).exists());

    // So is one that turns out shorter than what is there of it.
    fs::write(bench.partial(WEIGHTS), vec![7; 2000]).unwrap();
    bench.fails(&parts);
    assert!(!bench.partial(WEIGHTS).exists());

    // A blob that was cut short on disk is downloaded again.
    bench.server.no_more_faults();
    bench.fetch().unwrap();
    fs::write(bench.blob(WEIGHTS), [7; 1000]).unwrap();
    bench.fetch().unwrap();
    assert_eq!(fs::read(bench.blob(WEIGHTS)).unwrap().len(), size);
}

#[test]
fn other_weights_than_the_catalogues_are_refused() {
    let listed = Bench::new();
    let server = FakeHub::start().with(REPOSITORY, "bert-tiny");
    let plain = Bench::of(server.plain());
    for bench in [listed, plain] {
        let right = sha256(&bench.server.file(REPOSITORY, WEIGHTS));
        let with = |hub: Hub, sha256: &str| {
            hub.fetch(&HubSource {
                weights_sha256: Some(sha256.into()),
                ..HubSource::new(REPOSITORY)
            })
        };
        let online = || Hub::new(bench.config());
        let wrong = "0".repeat(64);
        fails(
            with(online(), &wrong),
            &["model.safetensors", &wrong, &right],
        );
        bench.nothing_is_visible();
        with(online(), &right.to_uppercase()).unwrap();
        with(bench.offline(), &right).unwrap();
        let parts = ["model.safetensors", &wrong, &right];
        fails(with(online(), &wrong), &parts);
        fails(with(bench.offline(), &wrong), &parts);
    }
}

#[test]
fn a_listing_without_sizes_and_digests_is_completed_from_headers() {
    let server = FakeHub::start().with(REPOSITORY, "bert-tiny");
    let bench = Bench::of(server.plain());
    bench.server.fault("/tiny/bert/model.s", 1, Fault::Flip);
    bench.fails(&["file `model.safetensors`", "expected SHA-256"]);
    assert_eq!(names_below(&bench.fetch().unwrap()), NEEDED);
    let seen = bench.server.seen();
    let heads = seen.iter().filter(|request| request.method == "HEAD");
    assert!(heads.clone().count() > 0);
    assert!(!heads.clone().any(|request| request.is_cdn));
}

/// Runs in another process, for the tests below.
#[test]
fn child() {
    let Some(job) = std::env::var_os("FIN_TEST_HUB") else {
        return;
    };
    let job = job.into_string().unwrap();
    let (endpoint, cache) = job.split_once(' ').unwrap();
    let hub = Hub::new(config(endpoint, Path::new(cache)));
    hub.fetch(&HubSource::new(REPOSITORY)).unwrap();
}

fn spawn_child(bench: &Bench) -> Child {
    let job = format!("{} {}", bench.server.endpoint, bench.cache().display());
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("FIN_TEST_HUB", job)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_download_leaves_nothing_visible_and_goes_on_in_the_next_run() {
    let bench = Bench::new();
    bench
        .server
        .fault("/tiny/bert/model.s", 1, Fault::Stall(30_000));
    let mut child = spawn_child(&bench);
    let partial = bench.partial(WEIGHTS);
    while fs::metadata(&partial).map_or(0, |found| found.len()) < 30_000 {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    bench.nothing_is_visible();
    assert!(!bench.repository().join("refs").exists());
    bench
        .offline()
        .fetch(&HubSource::new(REPOSITORY))
        .unwrap_err();

    bench.server.seen();
    bench.fetch().unwrap();
    assert_eq!(ranges(&bench.server.seen()), [Some("bytes=30000-".into())]);
}

#[test]
fn a_stalled_connection_is_given_up_and_made_anew() {
    let bench = Bench::new();
    bench.server.fault("/api/models", 1, Fault::Stall(0));
    bench
        .server
        .fault("/tiny/bert/model.s", 1, Fault::Stall(30_000));
    let hub = Hub::new(HubConfig {
        timeout: Duration::from_millis(1500),
        ..bench.config()
    });
    hub.fetch(&HubSource::new(REPOSITORY)).unwrap();
    let seen = bench.server.seen();
    assert_eq!(ranges(&seen), [None, Some("bytes=30000-".into())]);
}

#[test]
fn of_two_threads_that_download_at_once_one_does() {
    let bench = Bench::new();
    let slow = Fault::Slow(Duration::from_millis(300));
    bench.server.fault("/tiny/bert/model.s", 1, slow);
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|_| scope.spawn(|| bench.fetch().unwrap()));
        for thread in threads {
            assert_eq!(thread.join().unwrap(), bench.snapshot());
        }
    });
    let expected = NEEDED.map(|name| (name.to_owned(), 1)).into();
    assert_eq!(files_asked_for(&bench.server.seen()), expected);
}

#[test]
fn of_two_processes_that_download_at_once_one_does_and_the_other_says_that_it_waits() {
    let bench = Bench::new();
    bench.server.fault("/tiny/bert/model.s", 1, Fault::Hold);
    let children = [0, 1].map(|_| spawn_child(&bench));
    std::thread::scope(|scope| {
        for mut child in children {
            let server = &bench.server;
            scope.spawn(move || {
                let stderr = BufReader::new(child.stderr.take().unwrap());
                let mut said = String::new();
                for line in stderr.lines().map_while(std::io::Result::ok) {
                    if line.contains("waiting for another download of model.safetensors") {
                        server.release();
                    }
                    said.push_str(&line);
                }
                assert!(child.wait().unwrap().success(), "{said}");
            });
        }
    });
    let expected = NEEDED.map(|name| (name.to_owned(), 1)).into();
    assert_eq!(files_asked_for(&bench.server.seen()), expected);
    assert_eq!(names_below(&bench.snapshot()), NEEDED);
}

#[test]
fn offline_a_whole_snapshot_is_used_and_a_partial_one_refused() {
    let bench = Bench::new();
    let source = HubSource::new(REPOSITORY);
    fails(
        bench.offline().fetch(&source),
        &["HF_HUB_OFFLINE", "models--tiny--bert"],
    );
    bench.fetch().unwrap();
    bench.server.seen();
    assert_eq!(bench.offline().fetch(&source).unwrap(), bench.snapshot());

    for name in [WEIGHTS, "1_Pooling/config.json", "tokenizer.json"] {
        fs::remove_file(bench.snapshot().join(name)).unwrap();
        let lacks = format!("{COMMIT} lacks {name}");
        fails(bench.offline().fetch(&source), &[&lacks, "HF_HUB_OFFLINE"]);
        assert_eq!(bench.server.seen().len(), 0);
        // Online it is made whole, with what is missing alone.
        fs::remove_file(bench.blob(name)).unwrap();
        bench.fetch().unwrap();
        let asked = files_asked_for(&bench.server.seen());
        assert_eq!(asked, [(name.to_owned(), 1)].into());
        bench.offline().fetch(&source).unwrap();
    }
}

#[test]
fn an_unreachable_hub_says_how_to_work_without() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let hub = Hub::new(config(&closed, dir.path()));
    let parts = [REPOSITORY, &closed, "cannot reach", "HF_HUB_OFFLINE"];
    fails(hub.fetch(&HubSource::new(REPOSITORY)), &parts);
}

#[test]
fn a_cache_that_python_made_is_used() {
    let bench = Bench::new();
    python_cache(&bench, &[]);
    let source = HubSource::new(REPOSITORY);
    assert_eq!(bench.offline().fetch(&source).unwrap(), bench.snapshot());
    bench.fetch().unwrap();
    let seen = bench.server.seen();
    assert_eq!(files_asked_for(&seen), BTreeMap::new());

    // A pinned commit that is not there: another with the same weights serves.
    let pinned = |sha256: Option<String>| HubSource {
        revision: Some("f".repeat(40)),
        weights_sha256: sha256,
        ..source.clone()
    };
    bench.offline().fetch(&pinned(None)).unwrap_err();
    bench
        .offline()
        .fetch(&pinned(Some("0".repeat(64))))
        .unwrap_err();
    let same = sha256(&bench.server.file(REPOSITORY, WEIGHTS));
    let found = bench.offline().fetch(&pinned(Some(same))).unwrap();
    assert_eq!(found, bench.snapshot());
}

/// Newer versions of Python's client record a repository's files, which tells what is missing.
#[test]
fn a_listing_that_python_recorded_is_heeded() {
    let bench = Bench::new();
    python_cache(&bench, &["modules.json", "1_Pooling/config.json"]);
    let source = HubSource::new(REPOSITORY);
    let record = |names: &[&str]| {
        let entry = serde_json::json!({ "size": 1, "blob_id": COMMIT });
        let files: BTreeMap<_, _> = names.iter().map(|name| (*name, entry.clone())).collect();
        let tree = serde_json::json!({ "format_version": 1, "files": files });
        let path = bench.repository().join(format!("trees/{COMMIT}.json"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, tree.to_string()).unwrap();
    };
    // Nothing is known: it may be a transformer without modules.
    bench.offline().fetch(&source).unwrap();
    record(&[
        "config.json",
        WEIGHTS,
        "tokenizer.json",
        "pytorch_model.bin",
    ]);
    bench.offline().fetch(&source).unwrap();
    record(&[
        "config.json",
        WEIGHTS,
        "tokenizer.json",
        "special_tokens_map.json",
    ]);
    fails(
        bench.offline().fetch(&source),
        &["lacks special_tokens_map.json"],
    );
    record(&NEEDED);
    fails(bench.offline().fetch(&source), &["lacks modules.json"]);
    bench.fetch().unwrap();
    assert_eq!(names_below(&bench.snapshot()), NEEDED);
}

#[cfg(feature = "flex")]
mod by_name {
    use super::*;
    use fin_registry::{Catalogue, Locations, ModelOptions, Registry, find};

    const NAME: &str = "bert-base-en";

    fn bench() -> Bench {
        let source = &find(NAME).unwrap().source;
        Bench::of(FakeHub::start().with(source, "bert-tiny"))
    }

    fn locations(bench: &Bench) -> Locations {
        Locations {
            by_name: Vec::new(),
            hub: Some(bench.config()),
            checkpoints: None,
        }
    }

    /// Embeds a text.
    fn embed(model: &str, locations: &Locations) -> Result<Vec<f32>> {
        let options = ModelOptions {
            pooling: Some("mean".into()),
            ..ModelOptions::default()
        };
        let registry = Registry {
            catalogue: Catalogue::embedded().clone(),
            locations: locations.clone(),
        };
        let model = registry.build_model(model, &options)?;
        Ok(model
            .encode_text(&["A boat waits at the pier.".to_owned()])?
            .values)
    }

    #[test]
    fn a_model_is_downloaded_on_first_use() {
        let bench = bench();
        let downloaded = embed(NAME, &locations(&bench)).unwrap();
        let directory = fixture("text/bert-tiny");
        let expected = embed(directory.to_str().unwrap(), &Locations::default()).unwrap();
        assert_eq!(downloaded, expected);
        assert!(downloaded.iter().any(|value| *value != 0.0));

        bench.server.seen();
        embed(NAME, &locations(&bench)).unwrap();
        embed(NAME, &locations(&bench).offline()).unwrap();
        assert_eq!(bench.server.seen().len(), 0);
    }

    #[test]
    fn offline_the_files_to_get_are_named() {
        let bench = bench();
        let source = &find(NAME).unwrap().source;
        let unreachable = Locations {
            by_name: vec![bench.dir.path().join("models")],
            hub: Some(HubConfig {
                endpoint: "http://127.0.0.1:1".into(),
                ..bench.config()
            }),
            checkpoints: None,
        };
        for (locations, why) in [
            (
                unreachable.clone(),
                "cannot reach the hub at http://127.0.0.1:1",
            ),
            (unreachable.offline(), "HF_HUB_OFFLINE"),
        ] {
            let error = embed(NAME, &locations).unwrap_err().to_string();
            let target = bench.dir.path().join("models").join(NAME);
            for part in [why, source, "model.safetensors", target.to_str().unwrap()] {
                assert!(error.contains(part), "`{part}` is not in: {error}");
            }
        }
        let without = Locations {
            hub: None,
            ..locations(&bench)
        };
        embed(NAME, &without).unwrap_err();
        assert_eq!(bench.server.seen().len(), 0);
    }

    /// A sentence-transformers model whose `modules.json` is not there opens as another one.
    #[test]
    fn a_snapshot_that_may_lack_its_modules_is_made_whole_once() {
        for (has_modules, files) in [(true, "bert-tiny"), (false, "bert-tiny-plain")] {
            let source = find(NAME).unwrap().source.clone();
            let bench = Bench::of(FakeHub::start().with(&source, files));
            embed_all(&bench, &source, has_modules);
        }
    }

    fn embed_all(bench: &Bench, source: &str, has_modules: bool) {
        let cache = bench
            .cache()
            .join(format!("models--{}", source.replace('/', "--")));
        let locations = locations(bench);
        embed(NAME, &locations).unwrap();
        let snapshot = fs::read_dir(cache.join("snapshots"))
            .unwrap()
            .next()
            .unwrap();
        let modules = snapshot.unwrap().path().join("modules.json");
        assert_eq!(modules.is_file(), has_modules);
        // As left by a download of the transformer alone.
        if has_modules {
            fs::remove_file(&modules).unwrap();
        } else {
            fs::remove_dir_all(cache.join(".no_exist")).unwrap();
        }
        embed(NAME, &locations.clone().offline()).unwrap();
        bench.server.seen();
        // The hub cannot be asked: what is there is used.
        bench
            .server
            .fault("/api/models", 1, Fault::Status(500, Vec::new()));
        embed(NAME, &locations).unwrap();
        assert_eq!(bench.server.seen().len(), 1);
        assert!(!modules.is_file());
        embed(NAME, &locations).unwrap();
        assert_eq!(modules.is_file(), has_modules);
        assert_eq!(bench.server.seen().len(), 1);
        embed(NAME, &locations).unwrap();
        assert_eq!(bench.server.seen().len(), 0);
    }
}
