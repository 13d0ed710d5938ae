//! Inference of image networks beside PyTorch and ONNX Runtime, in one run on the same machine.

use std::fmt::Write as _;

use serde_json::Value;

use crate::bench::{median_seconds, processor};
use crate::{Outcome, cache, capture, cargo, command, option, root};

/// Network and size, as both sides name them.
const NETWORKS: [(&str, &str); 4] = [
    ("resnet50", "224"),
    ("resnet152", "224"),
    ("efficientnet_b4", "380"),
    ("efficientnet_lite0", "224"),
];

/// Images in a batch, on both sides.
const BATCH: f64 = 8.0;

pub fn run(args: &[String]) -> Outcome {
    option(args, "", &["--write"])?;
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .to_string();
    let python = cache()?.join("libtorch-2.9.0/bin/python");
    let mut missing = command(&python);
    missing.args([
        "-c",
        "import torchvision, onnxruntime, efficientnet_lite_pytorch",
    ]);
    if capture(&mut missing).is_err() {
        return Err(format!(
            "{} lacks what this compares with; run scripts/setup-libtorch.sh and then \
             `{0} -m pip install onnx onnxruntime` and `{0} -m pip install --no-deps \
             torchvision==0.24.0 efficientnet-lite-pytorch==0.1.0 pillow`",
            python.display()
        ));
    }
    let script = root().join("scripts/reference/bench_cnn.py");
    let mut table = String::from(
        "| network | fin, flex | PyTorch eager | ONNX Runtime | fin / PyTorch | fin / ONNX Runtime \
         | peak MiB: fin, PyTorch, ONNX Runtime |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let mut versions = String::new();
    // A network at a time, so that a machine that changes its pace does so for all three.
    for (network, size) in NETWORKS {
        let id = format!("{network}-{size}");
        let printed = capture(
            cargo()
                .args(["bench", "--package", "fin-benches", "--bench", "cnn", "--"])
                .arg(&id)
                .env("RAYON_NUM_THREADS", &threads),
        )?;
        print!("{printed}");
        let peak = printed
            .lines()
            .find_map(|line| line.strip_prefix("peak resident memory, MiB: "))
            .unwrap_or("-");
        let ours = BATCH / median_seconds(&format!("cnn/{id}"))?;
        let mut torch = command(&python);
        torch
            .arg(&script)
            .arg(network)
            .args(["--threads", &threads]);
        let rows: Vec<Value> = serde_json::from_str(&capture(&mut torch)?)
            .map_err(|e| format!("bench_cnn.py: {e}"))?;
        let of = |mode: &str, field: &str| {
            let row = rows.iter().find(|row| row["mode"] == mode);
            row.and_then(|row| row[field].as_f64())
                .ok_or_else(|| format!("bench_cnn.py gave no {field} of {network} in {mode}"))
        };
        let torch = of("torch", "items_per_second")?;
        let onnx = of("onnx", "items_per_second")?;
        let (torch_peak, onnx_peak) = (of("torch", "peak_mib")?, of("onnx", "peak_mib")?);
        let _ = writeln!(
            table,
            "| {network}, {size} | {ours:.1} | {torch:.1} | {onnx:.1} | {:.2} | {:.2} | {peak}, \
             {torch_peak:.0}, {onnx_peak:.0} |",
            ours / torch,
            ours / onnx
        );
        let libraries = ["torch", "torchvision", "onnxruntime"];
        let named = rows.iter().flat_map(|row| {
            let versions = libraries.map(|name| Some(format!("{name} {}", row[name].as_str()?)));
            versions.into_iter().flatten()
        });
        let mut named: Vec<String> = named.collect();
        named.sort();
        named.dedup();
        versions = named.join(", ");
    }
    let text = format!(
        "Images a second from normalised pixels to pooled features, batches of 8, f32, random \
         weights, median; each network and library in a process of its own.\n\n{table}\n\
         Machine: {}; {threads} threads; rustc {}; {versions}.\n",
        processor(),
        capture(command("rustc").arg("--version"))?
            .trim()
            .trim_start_matches("rustc "),
    );
    print!("{text}");
    if args.iter().any(|arg| arg == "--write") {
        let path = root().join("benches/results/images.md");
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}
