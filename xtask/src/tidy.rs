//! The invariants of `docs/architecture.md` that a program can check.

use std::path::{Path, PathBuf};

use crate::{Outcome, root};

/// Crates of the workspace that each crate may depend on.
const MAY_DEPEND: [(&str, &[&str]); 8] = [
    ("fin-core", &[]),
    ("fin-cnn", &["fin-core"]),
    ("fin-transformer", &["fin-core"]),
    ("fin-clip", &["fin-core", "fin-transformer"]),
    ("fin-pointnet", &["fin-core"]),
    (
        "fin-registry",
        &[
            "fin-core",
            "fin-clip",
            "fin-cnn",
            "fin-pointnet",
            "fin-transformer",
        ],
    ),
    ("fin-train", &["fin-core"]),
    (
        "fin-cli",
        &[
            "fin-core",
            "fin-clip",
            "fin-cnn",
            "fin-pointnet",
            "fin-transformer",
            "fin-registry",
            "fin-train",
        ],
    ),
];

/// What only the device module and the kernels may say.
const BACKEND_NAMES: [&str; 6] = [
    "Device::flex",
    "Device::libtorch",
    "Device::wgpu",
    "Device::cuda",
    "DispatchDevice",
    "burn_flex",
];

pub fn run(args: &[String]) -> Outcome {
    if let Some(arg) = args.first() {
        return Err(format!("unknown argument `{arg}`; tidy takes none"));
    }
    let mut found = Vec::new();
    dependencies(&mut found)?;
    let mut files = Vec::new();
    for directory in ["crates", "xtask", "benches"] {
        sources(&root().join(directory), &mut files).map_err(|e| format!("{directory}: {e}"))?;
    }
    for file in &files {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        backends(file, &text, &mut found);
    }
    if found.is_empty() {
        println!("tidy: {} files, nothing found", files.len());
        Ok(())
    } else {
        Err(format!("{} finding(s):\n{}", found.len(), found.join("\n")))
    }
}

/// Dependencies point one way.
fn dependencies(found: &mut Vec<String>) -> Outcome {
    for (name, allowed) in MAY_DEPEND {
        let path = root().join("crates").join(name).join("Cargo.toml");
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        // Tests may depend on anything; what counts is the section that users build.
        let section = text
            .split("[dependencies]")
            .nth(1)
            .and_then(|rest| rest.split("\n[").next())
            .unwrap_or_default();
        for line in section.lines().filter(|line| line.starts_with("fin-")) {
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !allowed.contains(&dependency) {
                found.push(format!(
                    "crates/{name}/Cargo.toml: must not depend on {dependency}"
                ));
            }
        }
    }
    Ok(())
}

fn sources(directory: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                sources(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Backends are named in one module, in the kernels, and in tests.
fn backends(file: &Path, text: &str, found: &mut Vec<String>) {
    let name = file.to_string_lossy().replace('\\', "/");
    if [
        "/fin-core/src/device.rs",
        "/fin-core/src/kernels/",
        "/tests/",
        "/xtask/",
    ]
    .iter()
    .any(|part| name.contains(part))
    {
        return;
    }
    let mut in_tests = false;
    for (i, line) in text.lines().enumerate() {
        in_tests |= line.starts_with("#[cfg(") && line.contains("test");
        let code = line.trim_start();
        if in_tests || code.starts_with("//") {
            continue;
        }
        for backend in BACKEND_NAMES {
            if code.contains(backend) {
                found.push(format!(
                    "{name}:{}: `{backend}` belongs in fin-core's device module or kernels",
                    i + 1
                ));
            }
        }
    }
}
