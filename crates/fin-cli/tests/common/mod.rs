//! Runs the built program.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A path below `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(path)
}

/// The program, away from whatever models this machine has, and without a network.
pub fn fin() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fin"));
    for name in [
        "FIN_CATALOGUE",
        "FIN_MODELS",
        "HF_ENDPOINT",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HUGGINGFACE_HUB_CACHE",
        "HUGGING_FACE_HUB_TOKEN",
        "TORCH_HOME",
        "XDG_CACHE_HOME",
    ] {
        command.env_remove(name);
    }
    command.env("HF_HUB_OFFLINE", "1");
    command.env("FIN_CACHE", "/nonexistent-fin-cache");
    command.env("HOME", "/nonexistent-home");
    command
}

/// What a run printed, and how it ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the program to its end.
pub fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Run {
    fin().args(args).output().unwrap().into()
}

impl Run {
    /// Expects success.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Stdout as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// Expects exit code 1, no panic, one line that begins with `error:`, and these parts in it.
    pub fn fails_with(self, parts: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let error = self
            .stderr
            .lines()
            .find(|line| line.starts_with("error: "))
            .unwrap_or_else(|| panic!("no error in: {}", self.stderr));
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}

/// A directory for a test, with one inside for what the program writes.
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        Self { dir }
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A path in the directory for output.
    pub fn out(&self, name: &str) -> PathBuf {
        self.path("out").join(name)
    }

    /// Expects the directory for output to hold nothing, hidden files included.
    pub fn out_is_empty(&self) {
        assert_eq!(names(&self.path("out")), [""; 0]);
    }

    /// A copy of the model `bert-tiny` to be changed.
    pub fn bert_tiny(&self) -> PathBuf {
        let target = self.path("model");
        copy(&fixture("text/bert-tiny"), &target);
        target
    }
}

/// Names in a directory, in order.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The texts of a reference and one of its tensors, row by row.
pub fn reference(name: &str, tensor: &str) -> (Vec<String>, Vec<Vec<f32>>) {
    let json = fs::read(fixture(&format!("text/{name}.reference.json"))).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let texts = json["texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect();
    let bytes = fs::read(fixture(&format!("text/{name}.reference.safetensors"))).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(tensor).unwrap();
    let values: Vec<f32> = view
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let rows = values.chunks(view.shape()[1]).map(<[f32]>::to_vec);
    (texts, rows.collect())
}

/// Texts as a `.csv` file with an index, the text in the middle, and a length.
pub fn csv(texts: &[String], header: bool) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    if header {
        writer.write_record(["id", "body", "length"]).unwrap();
    }
    for (i, text) in texts.iter().enumerate() {
        let (id, length) = (i.to_string(), text.len().to_string());
        writer.write_record([&id, text, &length]).unwrap();
    }
    writer.into_inner().unwrap()
}

/// Texts as a `.jsonl` file of strings.
pub fn jsonl(texts: &[String]) -> String {
    texts
        .iter()
        .map(|text| format!("{}\n", Value::from(text.as_str())))
        .collect()
}

/// Largest absolute difference of two tables of one shape.
pub fn max_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let mut largest = 0.0f32;
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            largest = largest.max((a - b).abs());
        }
    }
    largest
}
