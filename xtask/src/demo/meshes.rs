//! The same for meshes: an untrained PointNet++, fine-tuned on families of shapes that are made for
//! the purpose, measured before and after on other shapes of them, with a page to look at.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::shapes::{self, FAMILIES, FORMATS, Random, Shape};
use crate::{Outcome, cargo, fin, option, root};

const OPTIONS: [&str; 3] = ["--data", "--report", "--seed"];

/// Shapes of a family to train on, and to search.
const SIZES: [(&str, u64); 2] = [("train", 24), ("test", 12)];

pub fn run(args: &[String]) -> Outcome {
    let given = option(args, "--data", &OPTIONS)?;
    let seed = option(args, "--seed", &OPTIONS)?.unwrap_or_else(|| "42".into());
    let report = option(args, "--report", &OPTIONS)?.map_or_else(
        || std::env::temp_dir().join("fin-meshes.html"),
        PathBuf::from,
    );
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()));
    let report = absolute(&report)?;
    let started = Instant::now();
    crate::run(cargo().args(["build", "--release", "--package", "fin-cli"]))?;
    let built = Instant::now();
    let work = std::env::temp_dir().join(format!("fin-demo-{}", std::process::id()));
    std::fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    let outcome = (|| {
        // Kept where a directory is given, made anew where it is empty or not there.
        let data = match given {
            Some(directory) => absolute(Path::new(&directory))?,
            None => work.join("shapes"),
        };
        prepare(&data)?;
        steps(&data, &work, &report, &seed)
    })();
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

fn steps(data: &Path, work: &Path, report: &Path, seed: &str) -> Outcome {
    let (untrained, tuned) = (work.join("untrained"), work.join("tuned"));
    let mut init = fin();
    init.args(["init", "pointnet-base", "--seed", seed, "--output"]);
    crate::run(init.arg(&untrained))?;
    println!("== Fine-tuning on {} ==", data.join("train").display());
    let mut fit = fin();
    fit.arg("fit").arg("--config");
    fit.arg(root().join("fixtures/recipes/mesh.toml"));
    fit.args(["--seed", seed, "--model"]).arg(&untrained);
    fit.arg("--train").arg(data.join("train"));
    crate::run(fit.arg("--output").arg(&tuned))?;
    println!("\n== Retrieval among other shapes, before and after ==");
    let mut eval = fin();
    eval.args(["eval", "--task", "retrieval", "--k", "1,10"]);
    eval.args(["--points", "512", "--before"]).arg(&untrained);
    eval.arg("--model").arg(&tuned);
    eval.arg("--data").arg(data.join("test"));
    crate::run(eval.arg("--report").arg(report))
}

/// Shapes in a directory that is filled where it has none.
pub fn prepare(data: &Path) -> Outcome {
    if data.join("test").is_dir() {
        return Ok(());
    }
    make(data).map_err(|e| format!("{}: {e}", data.display()))
}

/// A directory a family in `train` and `test`, the formats by turns. No shape is in both.
fn make(data: &Path) -> std::io::Result<()> {
    let mut seed = 0;
    for (part, count) in SIZES {
        for (name, draw) in FAMILIES {
            let directory = data.join(part).join(name);
            std::fs::create_dir_all(&directory)?;
            for i in 0..count {
                seed += 1;
                let shape = Shape::draw(draw, &mut Random::new(seed));
                let format = FORMATS[i as usize % FORMATS.len()];
                shapes::write(&shape, &directory.join(format!("{i:02}.{format}")))?;
            }
        }
    }
    Ok(())
}
