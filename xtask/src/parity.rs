//! The parity tests of every family on several devices, from one binary; and, family by family,
//! at full size against references made on the spot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::{Outcome, cache, capture, cargo, command, option, root};

/// Crates with a `parity` test.
const FAMILIES: [&str; 4] = ["fin-transformer", "fin-cnn", "fin-clip", "fin-pointnet"];

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

const OPTIONS: [&str; 4] = ["--device", "--family", "--model", "--write"];

/// What [`Worst`] is kept of, by what the tests print of a comparison.
const KINDS: [&str; 5] = ["stages", "gradients", "after training steps", "bf16", "f16"];

pub fn run(args: &[String]) -> Outcome {
    let devices = option(args, "--device", &OPTIONS)?.unwrap_or_else(|| "flex".into());
    let features = features(&devices)?;
    match option(args, "--family", &OPTIONS)?.as_deref() {
        None => fixtures(&devices, &features, args.iter().any(|arg| arg == "--write")),
        Some("text") => {
            let chosen = option(args, "--model", &OPTIONS)?;
            text(&devices, &features, chosen.as_deref())
        }
        Some(other) => Err(format!("no family `{other}`; known: text")),
    }
}

/// The cargo features of a list of devices.
pub(crate) fn features(devices: &str) -> Result<Vec<&str>, String> {
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

/// Small models from committed fixtures; the largest errors go to `docs/parity.md` where that is
/// asked for.
fn fixtures(devices: &str, features: &[&str], writes: bool) -> Outcome {
    let mut build = cargo();
    build.args(["test", "--release", "--test", "parity", "--no-run"]);
    // All in one go, so that what they depend on is built once.
    for family in FAMILIES {
        build.args(["--package", family]);
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
    add_devices(&mut build, devices, &qualified)?;
    build.arg("--message-format=json-render-diagnostics");
    let messages = capture(&mut build)?;
    let mut worst = BTreeMap::new();
    for family in FAMILIES {
        let manifest = root().join("crates").join(family).join("Cargo.toml");
        let program = program(&messages, &manifest)
            .ok_or_else(|| format!("cargo built no parity test of {family}"))?;
        println!("\n== {family} on {devices} ==");
        let mut test = command(program);
        set_devices(&mut test, devices, &qualified)?;
        test.arg("--nocapture").stdout(Stdio::piped());
        let mut running = test.spawn().map_err(|e| format!("{test:?}: {e}"))?;
        let out = running.stdout.take().ok_or("the test has no output")?;
        for line in BufReader::new(out).lines() {
            let line = line.map_err(|e| format!("{family}: {e}"))?;
            match comparison(&line, devices) {
                Some((device, kind, error)) => {
                    let entry = worst.entry((family, device)).or_insert([None; KINDS.len()]);
                    let seen: &mut Worst = &mut entry[kind];
                    *seen = Some(seen.map_or((error, 1), |(most, n)| (error.max(most), n + 1)));
                }
                None => println!("{line}"),
            }
        }
        let status = running.wait().map_err(|e| format!("{family}: {e}"))?;
        if !status.success() {
            return Err(format!("the parity test of {family} failed: {status}"));
        }
    }
    let table = table(&worst);
    println!("\n{table}");
    if writes {
        let path = root().join("docs/parity.md");
        std::fs::write(&path, page(&table)?).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// The largest relative error of a kind, and the number of comparisons.
type Worst = Option<(f64, usize)>;

/// The parity test of a package in what cargo printed as JSON.
fn program(messages: &str, manifest: &Path) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_its = message["manifest_path"].as_str().map(Path::new) == Some(manifest)
            && message["target"]["name"] == "parity";
        let program = message["executable"].as_str().filter(|_| is_its)?;
        Some(program.into())
    })
}

/// Device, kind and relative error of a line such as `bert-tiny on flex: pooled.mean: 3.1e-7`.
fn comparison(line: &str, devices: &str) -> Option<(String, usize, f64)> {
    let (what, error) = line.rsplit_once(": ")?;
    let error = error.parse().ok()?;
    let names = |device: &&str| {
        let ends = |rest: &str| rest.is_empty() || rest.starts_with([',', ':']);
        let after = what.split(&format!("on {device}")).nth(1);
        after.is_some_and(ends) || what.strip_prefix(device).is_some_and(ends)
    };
    let device = devices.split(',').find(names)?;
    let kind = if what.contains("grad") {
        1
    } else if what.contains("after") || what.contains("clipped") {
        2
    } else if what.contains(", bf16:") {
        3
    } else if what.contains(", f16:") {
        4
    } else {
        0
    };
    Some((device.to_owned(), kind, error))
}

fn table(worst: &BTreeMap<(&str, String), [Worst; KINDS.len()]>) -> String {
    let mut out = format!("| crate | device | {} |\n", KINDS.join(" | "));
    out += &format!("| --- | --- |{}\n", " ---: |".repeat(KINDS.len()));
    for ((family, device), errors) in worst {
        let _ = write!(out, "| {family} | {device} |");
        for error in errors {
            match error {
                Some((error, n)) => _ = write!(out, " {error:.1e} ({n}) |"),
                None => out += " |",
            }
        }
        out.push('\n');
    }
    out
}

fn page(table: &str) -> Result<String, String> {
    let rustc = capture(command("rustc").arg("--version"))?;
    Ok(format!(
        "# Parity\n\n\
         Small models of every family with seeded random weights, from the fixtures, against the \
         numbers of the reference libraries: every stage of the forward pass, the gradients of a \
         training step, and the parameters and running statistics after steps. The largest \
         relative error `‖a − b‖ / ‖b‖`, in brackets the number of comparisons. Allowed: 1e-5 on \
         flex and tch, 1e-4 on wgpu; embeddings in half precision 1/32 in bfloat16 and 1/256 in f16, eight \
         roundings, where the device computes in it. Written by `cargo xtask parity --device flex,tch,wgpu \
         --write`, from one binary.\n\n{table}\n\
         {} {}, {}\n",
        std::env::consts::ARCH,
        std::env::consts::OS,
        rustc.trim()
    ))
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
pub(crate) fn python() -> Result<PathBuf, String> {
    capture(command("bash").arg("scripts/setup-reference.sh"))?;
    Ok(cache()?.join("libtorch-2.9.0/bin/python"))
}

/// Features and environment for a list of devices.
fn add_devices(test: &mut std::process::Command, devices: &str, features: &[&str]) -> Outcome {
    if !features.is_empty() {
        test.args(["--features", &features.join(",")]);
    }
    set_devices(test, devices, features)
}

/// The environment of a test on these devices.
fn set_devices(test: &mut std::process::Command, devices: &str, features: &[&str]) -> Outcome {
    test.env("FIN_TEST_DEVICES", devices);
    if features.iter().any(|feature| feature.ends_with("tch")) {
        libtorch(test)?;
    }
    Ok(())
}

/// Adds what `scripts/setup-libtorch.sh` prints to a command's environment.
pub(crate) fn libtorch(test: &mut std::process::Command) -> Outcome {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_print_is_read() {
        let devices = "flex,tch:0";
        for (line, expected) in [
            (
                "bert on flex: pooled.mean: 3.10e-7",
                Some(("flex", 0, 3.1e-7)),
            ),
            ("net on tch:0, folded: map: 1e-6", Some(("tch:0", 0, 1e-6))),
            ("flex: gradient: a.bias: 2.00e-6", Some(("flex", 1, 2e-6))),
            (
                "net on flex: after.bn1.mean: 0.00e0",
                Some(("flex", 2, 0.0)),
            ),
            ("net on flex, bf16: map: 1e-2", Some(("flex", 3, 1e-2))),
            ("net on tch:0, f16: map: 1e-3", Some(("tch:0", 4, 1e-3))),
            ("test gradients ... ok", None),
            ("net on wgpu: map: 1e-6", None),
        ] {
            let expected = expected.map(|(device, kind, error)| (device.to_owned(), kind, error));
            assert_eq!(comparison(line, devices), expected, "{line}");
        }
    }
}
