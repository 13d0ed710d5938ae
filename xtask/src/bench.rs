//! Encoder throughput of fin beside PyTorch's, in one run on the same machine.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;

use crate::{Outcome, cache, capture, cargo, command, demo, option, root};

/// Batch shapes that both sides time, as `items x tokens`.
const SHAPES: [&str; 4] = ["32x16", "32x64", "32x256", "16x128"];

pub fn run(args: &[String]) -> Outcome {
    let given = option(args, "--model", &["--model", "--write"])?;
    let model = match given {
        Some(directory) => PathBuf::from(directory),
        None => demo::fetch()?,
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .to_string();
    let python = cache()?.join("libtorch-2.9.0/bin/python");
    let mut missing = command(&python);
    missing.args(["-c", "import transformers, sentence_transformers"]);
    if capture(&mut missing).is_err() {
        return Err(format!(
            "{} has no transformers; run scripts/setup-libtorch.sh and then \
             `{0} -m pip install sentence-transformers`",
            python.display()
        ));
    }

    crate::run(
        cargo()
            .args([
                "bench",
                "--package",
                "fin-benches",
                "--bench",
                "encode",
                "--",
                "encode-minilm",
            ])
            .env("RAYON_NUM_THREADS", &threads),
    )?;
    let script = root().join("scripts/reference/bench_torch.py");
    let mut torch = command(&python);
    torch.arg(script).arg(&model).args(["--threads", &threads]);
    let rows: Vec<Value> =
        serde_json::from_str(&capture(&mut torch)?).map_err(|e| format!("bench_torch.py: {e}"))?;

    let mut table = String::from(
        "| batch | fin, flex (items/s) | PyTorch eager (items/s) | ratio |\n| --- | ---: | ---: | ---: |\n",
    );
    let mut version = String::new();
    for shape in SHAPES {
        let items: f64 = shape
            .split('x')
            .next()
            .and_then(|n| n.parse().ok())
            .ok_or("a shape is items x tokens")?;
        let ours = items / median_seconds(&format!("encode-minilm/{shape}"))?;
        let row = rows
            .iter()
            .find(|row| row["shape"].as_str() == Some(shape))
            .ok_or_else(|| format!("bench_torch.py has no row for {shape}"))?;
        let theirs = row["items_per_second"]
            .as_f64()
            .ok_or("bench_torch.py has no items_per_second")?;
        version = row["torch"]
            .as_str()
            .or(row["torch_version"].as_str())
            .unwrap_or("unknown")
            .to_string();
        let _ = writeln!(
            table,
            "| {shape} | {ours:.1} | {theirs:.1} | {:.2} |",
            ours / theirs
        );
    }
    let text = format!(
        "MiniLM-L6 shape, forward pass and mean pooling, f32, median.\n\n{table}\n\
         Machine: {}; {threads} threads; rustc {}; torch {version}.\n",
        processor(),
        capture(command("rustc").arg("--version"))?
            .trim()
            .trim_start_matches("rustc "),
    );
    print!("{text}");
    if args.iter().any(|arg| arg == "--write") {
        let results = root().join("benches/results");
        std::fs::create_dir_all(&results).map_err(|e| format!("{}: {e}", results.display()))?;
        let path = results.join("encode.md");
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// The median of a benchmark, in seconds, read back from where Criterion leaves it.
pub fn median_seconds(benchmark: &str) -> Result<f64, String> {
    let path = target_directory()?
        .join("criterion")
        .join(benchmark)
        .join("new/estimates.json");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let estimates: Value =
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let nanoseconds = estimates["median"]["point_estimate"].as_f64();
    nanoseconds
        .map(|nanoseconds| nanoseconds * 1e-9)
        .ok_or_else(|| format!("{}: no median", path.display()))
}

fn target_directory() -> Result<PathBuf, String> {
    let printed = capture(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value =
        serde_json::from_str(&printed).map_err(|e| format!("cargo metadata: {e}"))?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| "cargo metadata names no target directory".into())
}

/// The processor's name and instruction sets that matter here, as Linux tells them.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(':').nth(1))
            .unwrap_or("")
            .trim()
            .to_string()
    };
    let flags = field("flags");
    let has = |flag: &str| flags.split(' ').any(|f| f == flag);
    let vectors = if has("avx512f") {
        "AVX-512"
    } else if has("avx2") {
        "AVX2"
    } else {
        "no AVX2"
    };
    format!(
        "{} (family {} model {}), {vectors}",
        field("model name"),
        field("cpu family"),
        field("model\t")
    )
}
