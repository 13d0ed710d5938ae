//! `convert-weights`: the program's command of that name, from a release build.

use crate::{Outcome, cargo};

pub fn run(args: &[String]) -> Outcome {
    let mut fin = cargo();
    fin.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "fin-cli",
        "--bin",
        "fin",
    ]);
    // Paths on the command line are relative to where it was typed.
    if let Ok(here) = std::env::current_dir() {
        fin.current_dir(here);
    }
    let manifest = crate::root().join("Cargo.toml");
    fin.arg("--manifest-path").arg(manifest);
    crate::run(fin.args(["--", "convert-weights"]).args(args))
}
