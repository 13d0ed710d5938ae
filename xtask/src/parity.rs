//! The parity tests of every family on several devices, from one binary; and, family by family,
//! at full size against references made on the spot.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Outcome, cache, capture, cargo, command, option, root};

/// Crates with a `parity` test.
const FAMILIES: [&str; 3] = ["fin-transformer", "fin-cnn", "fin-pointnet"];

/// The text models of `scripts/reference/text_full.py`; those that are in the catalogue are
/// converted too.
const TEXT_MODELS: [(&str, bool); 11] = [
    ("jina-embedding-t-en-v1", true),
    ("jina-embedding-s-en-v1", true),
    ("jina-embedding-b-en-v1", true),
    ("jina-embedding-l-en-v1", true),
    ("bert-base-en", true),
    ("bert-base-multi", true),
    ("distiluse-base-multi", true),
    ("sbert-base-en", true),
    ("all-minilm-l6-v2", true),
    ("t5-v1_1-small", false),
    ("xlm-roberta-base", false),
];

const OPTIONS: [&str; 3] = ["--device", "--family", "--model"];

pub fn run(args: &[String]) -> Outcome {
    let devices = option(args, "--device", &OPTIONS)?.unwrap_or_else(|| "flex".into());
    let features = features(&devices)?;
    match option(args, "--family", &OPTIONS)?.as_deref() {
        None => fixtures(&devices, &features),
        Some("text") => {
            let chosen = option(args, "--model", &OPTIONS)?;
            text(&devices, &features, chosen.as_deref())
        }
        Some(other) => Err(format!("no family `{other}`; known: text")),
    }
}

/// The cargo features of a list of devices.
fn features(devices: &str) -> Result<Vec<&str>, String> {
    let mut features: Vec<&str> = Vec::new();
    for device in devices.split(',') {
        let feature = device.split(':').next().unwrap_or_default();
        match feature {
            "flex" => {}
            "tch" | "wgpu" | "cuda" if !features.contains(&feature) => features.push(feature),
            "tch" | "wgpu" | "cuda" => {}
            other => {
                return Err(format!(
                    "no device `{other}`; known: flex, tch, tch:N, wgpu, cuda:N"
                ));
            }
        }
    }
    Ok(features)
}

/// Small models from committed fixtures.
fn fixtures(devices: &str, features: &[&str]) -> Outcome {
    let mut test = cargo();
    test.args(["test", "--release", "--test", "parity"]);
    // All in one go, so that what they depend on is built once.
    for family in FAMILIES {
        test.args(["--package", family]);
    }
    let qualified: Vec<String> = FAMILIES
        .iter()
        .flat_map(|family| {
            features
                .iter()
                .map(move |feature| format!("{family}/{feature}"))
        })
        .collect();
    let qualified: Vec<&str> = qualified.iter().map(String::as_str).collect();
    add_devices(&mut test, devices, &qualified)?;
    crate::run(&mut test)
}

/// The text models at full size: hidden states, pooled vectors and embeddings, then their
/// conversion into each element type.
fn text(devices: &str, features: &[&str], chosen: Option<&str>) -> Outcome {
    let python = python()?;
    let folder = cache()?.join("full-size");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let known = TEXT_MODELS.map(|(name, _)| name);
    if let Some(name) = chosen.filter(|name| !known.contains(name)) {
        return Err(format!("no model `{name}`; known: {}", known.join(", ")));
    }
    let mut results = String::new();
    for (name, in_catalogue) in TEXT_MODELS {
        if chosen.is_some_and(|chosen| chosen != name) {
            continue;
        }
        println!("\n== {name} ==");
        let model = folder.join(name);
        let outcome = text_model(&python, &model, name, devices, features, in_catalogue);
        // Some are larger than a gigabyte.
        let _ = std::fs::remove_dir_all(&model);
        results += &outcome?;
    }
    println!("\n== summary ==\n{results}");
    Ok(())
}

fn text_model(
    python: &Path,
    folder: &Path,
    name: &str,
    devices: &str,
    features: &[&str],
    in_catalogue: bool,
) -> Result<String, String> {
    let mut script = command(python);
    script.arg(root().join("scripts/reference/text_full.py"));
    let parent = folder.parent().unwrap_or(folder);
    script.arg(name).arg("--out").arg(parent);
    let versions = capture(&mut script)?;
    print!("{versions}");
    let mut test = cargo();
    // The whole workspace, so that its dependencies are built once for all tasks.
    test.args(["test", "--workspace", "--test", "full_size"]);
    add_devices(&mut test, devices, features)?;
    // Other families have a test target of this name too.
    test.args(["--", "--ignored", "--nocapture", "--exact", "full_size"]);
    test.env("FIN_FULL_SIZE", folder);
    let printed = capture(&mut test)?;
    let lines: Vec<&str> = printed
        .lines()
        .filter(|line| line.starts_with(name))
        .collect();
    if lines.is_empty() {
        return Err(format!("no comparison was made:\n{printed}"));
    }
    let mut results = lines.join("\n") + "\n";
    if in_catalogue {
        for dtype in ["f32", "f16", "bf16"] {
            let to = folder.join(dtype);
            let mut fin = crate::fin();
            fin.args(["convert-weights", name, "--dtype", dtype]);
            fin.arg("--from").arg(folder.join("model"));
            fin.arg("--to").arg(&to);
            fin.arg("--verify").arg(folder.join("texts.npy"));
            let printed = capture(fin.args(["--format", "json"]))?;
            results += &conversion(name, dtype, folder, &printed)?;
            let _ = std::fs::remove_dir_all(&to);
        }
    }
    print!("{results}");
    Ok(results)
}

/// A line about a conversion, from its report as JSON; the catalogue must be right about it.
fn conversion(name: &str, dtype: &str, folder: &Path, json: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(json).map_err(|e| format!("convert-weights: {e}"))?;
    let report = &value["report"];
    // Random weights have another digest than the real ones; all else must be as it says.
    let notes = report["notes"]
        .as_array()
        .ok_or("convert-weights: no notes")?;
    let mut notes = notes.iter().filter_map(Value::as_str);
    if let Some(note) = notes.find(|note| !note.starts_with("sha256 of ")) {
        return Err(format!("{name} is not what the catalogue says: {note}"));
    }
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    let mappings = report["mappings"].as_array().map_or(&[][..], Vec::as_slice);
    let total = |part: &str| -> usize { mappings.iter().map(|m| count(&m[part])).sum() };
    let size = std::fs::metadata(folder.join("model/model.safetensors"))
        .map_err(|e| format!("{}: {e}", folder.display()))?
        .len();
    let peak = value["peak_memory_bytes"].as_f64().unwrap_or(f64::NAN);
    let error = value["verify_relative_error"]
        .as_f64()
        .ok_or("nothing was verified")?;
    Ok(format!(
        "{name} as {dtype}: {} tensors, {} left aside, {} unknown, {} missing; relative error \
         {error:.1e}; peak memory {:.0} MB, {:.2} of the checkpoint\n",
        total("tensors"),
        total("ignored"),
        total("unused"),
        total("missing"),
        peak / 1e6,
        peak / size as f64,
    ))
}

/// A Python with the reference libraries, installed where they are missing.
fn python() -> Result<PathBuf, String> {
    capture(command("bash").arg("scripts/setup-reference.sh"))?;
    Ok(cache()?.join("libtorch-2.9.0/bin/python"))
}

/// Features and environment for a list of devices.
fn add_devices(test: &mut std::process::Command, devices: &str, features: &[&str]) -> Outcome {
    if !features.is_empty() {
        test.args(["--features", &features.join(",")]);
    }
    test.env("FIN_TEST_DEVICES", devices);
    if features.iter().any(|feature| feature.ends_with("tch")) {
        libtorch(test)?;
    }
    Ok(())
}

/// Adds what `scripts/setup-libtorch.sh` prints to a command's environment.
fn libtorch(test: &mut std::process::Command) -> Outcome {
    let script = "eval \"$(scripts/setup-libtorch.sh)\" && printf '%s\\n%s\\n' \"$PATH\" \"$LD_LIBRARY_PATH\"";
    let printed = capture(command("bash").args(["-c", script]))?;
    let mut lines = printed.lines();
    match (lines.next(), lines.next()) {
        (Some(path), Some(library_path)) => {
            test.env("PATH", path)
                .env("LD_LIBRARY_PATH", library_path)
                .env("LIBTORCH_USE_PYTORCH", "1");
            Ok(())
        }
        _ => Err("scripts/setup-libtorch.sh printed no settings".into()),
    }
}
