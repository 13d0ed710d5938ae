//! `cargo xtask`: the workspace's chores. Each task is one file and calls only public tools.

mod bench;
mod convert;
mod crates;
mod demo;
mod make_tiny;
mod parity;
mod recipe;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask <task>

  crates [--build]           what each library costs alone: dependencies, and with --build the
                             seconds of a clean release build
  demo [--model DIR|all-minilm-l6-v2]
                             fine-tune on fixtures/help-desk: retrieval before and after, then
                             searches; with the model that is part of fin, with all-MiniLM-L6-v2
                             from PyPI, or with yours
  demo-images [--data DIR] [--report HTML]
                             the same for images: EfficientNet-Lite0 from PyPI on Fashion-MNIST
                             from Debian, or on DIR/train and DIR/test; writes a page to look at
  demo-meshes [--data DIR] [--report HTML] [--seed N]
                             the same for meshes: an untrained PointNet++ on families of shapes
                             that are made for it, into DIR where it is given
  demo-clip [--data DIR] [--report HTML] [--seed N]
                             the same for texts and images: an untrained CLIP on emoji and words for
                             them from npm, or on DIR/train.csv and DIR/held-out.csv
  convert-weights MODEL --from FILE|DIR|hub --to DIR [--dtype f32|f16|bf16] [--verify NPY] ...
                             an upstream checkpoint into a model directory of safetensors;
                             --help says more
  make-tiny [--work DIR] [--output DIR]
                             distil all-MiniLM-L6-v2 into fin-tiny-en, the model that is embedded in
                             fin; goes on where it was cut off
  parity [--device LIST]     every family's parity tests on these devices (flex, tch, wgpu),
                             from one binary; sets LibTorch up by scripts/setup-libtorch.sh;
                             --write puts the largest errors into docs/parity.md
  parity --family text [--device LIST] [--model NAME]
                             the text models at full size with random weights, against references
                             made on the spot (scripts/setup-reference.sh), and their conversion
  recipe text|image|text-image|multilingual|mesh [--data DIR] [--seed N] [--peer]
                             fine-tune as fixtures/recipes/NAME.toml says, measured before and after,
                             and with --peer in PyTorch too; text needs DIR with the STS benchmark
  bench [--models LIST] [--backends LIST] [--batch LIST] [--length LIST] [--points LIST]
                             items a second, milliseconds a batch and peak memory of models of the
                             catalogue (or `all`) with random weights; --threads and --seconds say
                             how long with how many; --precision f32,int8,bf16,f16 adds layers in
                             8 bits on flex, and half precision on the others, --mixed gives texts of all lengths up to the one given; --write
                             [NAME] puts table and chart into benches/results/
  bench --peers [LIST]       the same beside torch, torch-compile, onnx and openvino, which get
                             fin's weights and must give what fin gives
  bench --training           steps of training, beside PyTorch
  bench --scaling            by batch, length and threads, as charts
  tidy                       check the workspace's invariants (docs/architecture.md)
";

/// A task's outcome; the message is for a person.
type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = match args.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("help", &args[..]),
    };
    let outcome = match task {
        "convert-weights" => convert::run(rest),
        "crates" => crates::run(rest),
        "demo" => demo::run(rest),
        "demo-clip" => demo::clip::run(rest),
        "demo-meshes" => demo::meshes::run(rest),
        "demo-images" => demo::images::run(rest),
        "make-tiny" => make_tiny::run(rest),
        "parity" => parity::run(rest),
        "recipe" => recipe::run(rest),
        "bench" => bench::run(rest),
        "tidy" => tidy::run(rest),
        "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!("no task `{other}`\n\n{HELP}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root: that of the `cargo run` at hand, whichever checkout this was built from.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let xtask = manifest.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    xtask
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// A command in the workspace's root.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that runs this task.
fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The `fin` program from a release build; arguments follow.
fn fin() -> Command {
    let mut fin = cargo();
    fin.args(["run", "--quiet", "--release", "--package", "fin-cli"]);
    fin.args(["--bin", "fin", "--manifest-path"]);
    fin.arg(root().join("Cargo.toml")).arg("--");
    fin
}

/// Runs a command to its end, its output going where this program's goes.
fn run(command: &mut Command) -> Outcome {
    let status = command
        .status()
        .map_err(|e| format!("{command:?} cannot be started: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} failed: {status}"))
    }
}

/// Runs a command and returns what it printed.
fn capture(command: &mut Command) -> Result<String, String> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|e| format!("{command:?} cannot be started: {e}"))?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stdout));
        return Err(format!("{command:?} failed: {}", output.status));
    }
    String::from_utf8(output.stdout)
        .map_err(|_| format!("{command:?} printed bytes that are not UTF-8"))
}

/// The value after `--name`, where it is given; refuses anything not in `known`.
fn option(args: &[String], name: &str, known: &[&str]) -> Result<Option<String>, String> {
    let mut value = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if !known.contains(&arg.as_str()) {
            return Err(format!(
                "unknown argument `{arg}`; known: {}",
                known.join(", ")
            ));
        }
        if arg == "--write" {
            continue;
        }
        let next = args
            .next()
            .ok_or_else(|| format!("`{arg}` needs a value"))?;
        if arg == name {
            value = Some(next.clone());
        }
    }
    Ok(value)
}

/// Where models and virtual environments are kept.
fn cache() -> Result<PathBuf, String> {
    if let Some(cache) = std::env::var_os("FIN_CACHE") {
        return Ok(cache.into());
    }
    if let Some(cache) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(Path::new(&cache).join("fin"));
    }
    let home = std::env::var_os("HOME")
        .ok_or("HOME is not set; set FIN_CACHE to a directory for downloads")?;
    Ok(Path::new(&home).join(".cache/fin"))
}
