//! Makes `fin-tiny-en`, the text model that is embedded in the program: all-MiniLM-L6-v2, distilled
//! into a network that is small enough.
//!
//! Texts are collected (`corpus.rs`) and encoded with the teacher; the teacher's vectors are reduced
//! to the student's width by principal components (`matrix.rs`); the student begins with the
//! teacher's vectors of single pieces as token embeddings (`student.rs`) and is trained by
//! `fin fit --loss mse`. What a step has made is kept and not made again; a training that was cut
//! off goes on.

mod corpus;
mod matrix;
pub mod random;
mod student;
mod templates;
mod wordnet;

use std::path::{Path, PathBuf};

use matrix::Matrix;

use crate::demo::{self, Package};
use crate::{Outcome, cache, capture, command, fin, option, root};

const SEED: u64 = 42;
/// Width of the student and of its embeddings.
const WIDTH: usize = 128;
/// Size of its vocabulary.
const PIECES: usize = 24_000;
/// Tokens of a text in training.
const MAX_LENGTH: &str = "64";
const FIT: [&str; 12] = [
    "--epochs",
    "4",
    "--batch-size",
    "128",
    "--learning-rate",
    "1e-3",
    "--warmup",
    "0.05",
    "--checkpoint-every",
    "500",
    "--seed",
    "42",
];

const CHITCHAT: Package = Package {
    name: "chitchat-dataset",
    version: "0.9.0",
    inner: "chitchat_dataset",
};
const CHATTERBOT: Package = Package {
    name: "chatterbot-corpus",
    version: "1.3.3",
    inner: "chatterbot_corpus",
};
/// Debian's package of WordNet.
const WORDNET: &str = "wordnet-base";

pub fn run(args: &[String]) -> Outcome {
    let known = ["--work", "--output"];
    let work = match option(args, "--work", &known)? {
        Some(work) => PathBuf::from(work),
        None => cache()?.join("make-tiny"),
    };
    let output = match option(args, "--output", &known)? {
        Some(output) => PathBuf::from(output),
        None => root().join("crates/fin-registry/embedded/fin-tiny-en"),
    };
    std::fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    let teacher = demo::fetch()?;

    let corpus = work.join("corpus.txt");
    if !corpus.is_file() {
        let texts = collect(&work)?;
        println!("{} texts in {}", texts.len(), corpus.display());
        write_lines(&corpus, &texts)?;
    }
    let vectors = encoded(&teacher, &corpus, &work.join("teacher.npy"))?;

    let targets = work.join("targets.npy");
    let start = work.join("student");
    if !(targets.is_file() && start.join("model.safetensors").is_file()) {
        let texts = lines(&corpus)?;
        let vocabulary = teacher.join("vocab.txt");
        let vocabulary = std::fs::read_to_string(&vocabulary)
            .map_err(|e| format!("{}: {e}", vocabulary.display()))?;
        let pieces = student::pieces(&vocabulary, &texts, PIECES);
        let prompts: Vec<String> = pieces
            .iter()
            .map(|p| student::prompt(p).to_owned())
            .collect();
        let file = work.join("pieces.txt");
        write_lines(&file, &prompts)?;
        let tokens = encoded(&teacher, &file, &work.join("pieces.npy"))?;
        let vectors = Matrix::read(&vectors)?;
        let (axes, share) = vectors.principal_axes(WIDTH);
        println!(
            "{WIDTH} components hold {:.1} % of the variance",
            100.0 * share
        );
        let tokens = Matrix::read(&tokens)?.project(&axes, false);
        student::write(&start, &pieces, &tokens, SEED)?;
        vectors.project(&axes, true).write(&targets)?;
    }

    let trained = work.join("trained");
    if !trained.join("model.safetensors").is_file() {
        let mut fit = fin();
        fit.args(["fit", "--loss", "mse", "--max-length", MAX_LENGTH]);
        fit.args(FIT).arg("--resume").arg("--model").arg(&start);
        fit.arg("--train")
            .arg(&corpus)
            .arg("--targets")
            .arg(&targets);
        crate::run(fit.arg("--output").arg(&trained))?;
    }
    // Configurations are those of the start, whose length is not that of training.
    for name in [
        "config.json",
        "modules.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "vocab.txt",
    ] {
        let path = start.join(name);
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        student::put(&output.join(name), &bytes)?;
    }
    let weights = student::halve(&trained.join("model.safetensors"))?;
    student::put(&output.join("model.safetensors"), &weights)?;
    println!("the model is in {}", output.display());
    Ok(())
}

/// Fetches the packages and reads their texts.
fn collect(work: &Path) -> Result<Vec<String>, String> {
    let unpacked = |package: &Package| {
        let directory = work.join(package.inner);
        if !directory.is_dir() {
            package.fetch(&directory)?;
        }
        Ok::<_, String>(directory)
    };
    let (chitchat, chatterbot) = (unpacked(&CHITCHAT)?, unpacked(&CHATTERBOT)?);
    let wordnet = work.join("wordnet");
    if !wordnet.is_dir() {
        let fetched = work.join("debian");
        std::fs::create_dir_all(&fetched).map_err(|e| format!("{}: {e}", fetched.display()))?;
        let mut download = command("apt-get");
        download.current_dir(&fetched);
        crate::run(download.args(["download", "--quiet", WORDNET]))?;
        let archives = std::fs::read_dir(&fetched).map_err(|e| e.to_string())?;
        let archive = archives
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|end| end == "deb"))
            .ok_or("apt-get downloaded nothing")?;
        crate::run(command("dpkg-deb").arg("-x").arg(archive).arg(&fetched))?;
        std::fs::rename(fetched.join("usr/share/wordnet"), &wordnet)
            .map_err(|e| format!("{}: {e}", wordnet.display()))?;
    }
    corpus::collect(
        &corpus::Sources {
            wordnet: &wordnet,
            chitchat: &chitchat,
            chatterbot: &chatterbot,
            available: &capture(command("apt-cache").arg("dumpavail"))?,
        },
        SEED,
    )
}

/// The teacher's vectors of the lines of a file.
fn encoded(teacher: &Path, texts: &Path, vectors: &Path) -> Result<PathBuf, String> {
    if !vectors.is_file() {
        let mut encode = fin();
        encode.arg("encode").arg(texts).arg("--model").arg(teacher);
        encode.args(["--max-length", MAX_LENGTH, "--output"]);
        crate::run(encode.arg(vectors))?;
    }
    Ok(vectors.to_path_buf())
}

fn lines(path: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn write_lines(path: &Path, lines: &[String]) -> Outcome {
    student::put(path, (lines.join("\n") + "\n").as_bytes())
}
