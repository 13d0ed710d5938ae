//! What each library costs alone: dependencies, and the time of a clean build.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::{Outcome, capture, cargo};

/// The libraries, from the bottom up.
const LIBRARIES: [&str; 5] = [
    "fin-core",
    "fin-transformer",
    "fin-cnn",
    "fin-registry",
    "fin-train",
];

pub fn run(args: &[String]) -> Outcome {
    let build = match args {
        [] => false,
        [flag] if flag == "--build" => true,
        _ => return Err("accepted: --build".into()),
    };
    println!("| crate | dependencies | clean release build, seconds |\n| --- | ---: | ---: |");
    for library in LIBRARIES {
        let dependencies = dependencies(library)?;
        let seconds = match build {
            true => format!("{:.0}", build_alone(library)?),
            false => "not measured".into(),
        };
        println!("| {library} | {dependencies} | {seconds} |");
    }
    Ok(())
}

/// Number of packages that a crate with its default features needs beside itself.
fn dependencies(library: &str) -> Result<usize, String> {
    let tree = capture(cargo().args([
        "tree",
        "--package",
        library,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let packages: BTreeSet<&str> = tree
        .lines()
        // A package that was shown before is marked at the end of the line.
        .map(|line| line.trim_end_matches(" (*)").trim())
        .filter(|line| !line.is_empty())
        .collect();
    Ok(packages.len().saturating_sub(1))
}

/// Seconds of a release build of a crate and its dependencies into an empty directory.
fn build_alone(library: &str) -> Result<f64, String> {
    let target = std::env::temp_dir().join(format!("fin-crates-{}", std::process::id()));
    let begin = Instant::now();
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--package", library]);
    let outcome = crate::run(build.env("CARGO_TARGET_DIR", &target));
    let seconds = begin.elapsed().as_secs_f64();
    let _ = std::fs::remove_dir_all(&target);
    outcome.map(|()| seconds)
}
