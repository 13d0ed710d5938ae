//! The parity tests of every family on several devices, from one binary.

use crate::{Outcome, capture, cargo, command, option};

/// Crates with a `parity` test and the backends it takes.
const FAMILIES: [&str; 2] = ["fin-cnn", "fin-transformer"];

pub fn run(args: &[String]) -> Outcome {
    let devices = option(args, "--device", &["--device"])?.unwrap_or_else(|| "flex".into());
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
    for family in FAMILIES {
        let mut test = cargo();
        test.args(["test", "--release", "--package", family, "--test", "parity"]);
        if !features.is_empty() {
            test.args(["--features", &features.join(",")]);
        }
        test.env("FIN_TEST_DEVICES", &devices);
        if features.contains(&"tch") {
            libtorch(&mut test)?;
        }
        crate::run(&mut test)?;
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
