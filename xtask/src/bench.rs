//! Throughput and memory of fin's models on several backends, beside other libraries where that is
//! asked for, in one run on the same machine.
//!
//! Every model, backend and library has a process of its own, and everything about a model is
//! measured before the next one, so that a machine that changes its pace does so for all sides.

mod chart;
mod options;
mod report;
mod scaling;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::parity::{features, libtorch, python};
use crate::{Outcome, capture, cargo, command, root};

use options::Options;
use report::{Machine, Report, Row};

pub fn run(args: &[String]) -> Outcome {
    let options = Options::parse(args)?;
    let backends = options.backends.join(",");
    let features = features(&backends)?;
    let programs = Programs::build(&features)?;
    let machine = Machine::of(options.threads)?;
    if options.scaling {
        return scaling::run(&options, &programs, &machine);
    }
    let python = match options.peers.is_empty() {
        true => None,
        false => Some(python()?),
    };
    let mut report = Report::new(machine);
    for model in &options.models {
        let first = report.rows.len();
        let peers = match &python {
            None => None,
            Some(python) => Some(Peers::new(&options, &programs, python, model)?),
        };
        // By turns, so that a machine that changes its pace does so for all sides.
        for round in 1..=options.rounds {
            if options.rounds > 1 {
                println!("round {round} of {}", options.rounds);
            }
            own(&options, &programs, model, &mut report)?;
            if let Some(peers) = &peers {
                peers.run(&mut report)?;
            }
        }
        report.compare(first);
    }
    print!("\n{}", report.markdown());
    if let Some(name) = &options.write {
        write(&format!("{name}.md"), &report.markdown())?;
        write(&format!("{name}.csv"), &report.csv())?;
        write(&format!("{name}.svg"), &report.chart())?;
    }
    Ok(())
}

/// Times a model on every backend in every precision.
fn own(options: &Options, programs: &Programs, model: &str, report: &mut Report) -> Outcome {
    for backend in &options.backends {
        for precision in &options.precisions {
            let side = match precision.as_str() {
                "f32" => backend.clone(),
                "int8" if backend != "flex" => continue,
                "f16" | "bf16" if backend == "flex" => continue,
                _ => format!("{backend} {precision}"),
            };
            println!("{model} on {side} …");
            let mut bench = programs.command(options, model, backend, options.threads);
            bench.env("FIN_BENCH_PRECISION", precision);
            match programs.time(bench, model, &side)? {
                Timed::Rows(rows) => report.rows.extend(rows),
                Timed::Skipped(why) => report.skip(format!("{model} on {side}: {why}")),
            }
        }
    }
    Ok(())
}

/// A model with fin's weights and inputs for other libraries, each of which is timed after its outputs have been
/// compared with fin's.
struct Peers<'a> {
    options: &'a Options,
    python: &'a Path,
    model: &'a str,
    /// What fin wrote; some are larger than a gigabyte.
    directory: PathBuf,
    /// Why there is no graph for the peers that need one.
    no_graph: Option<String>,
}

impl Drop for Peers<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl<'a> Peers<'a> {
    fn new(
        options: &'a Options,
        programs: &Programs,
        python: &'a Path,
        model: &'a str,
    ) -> Result<Self, String> {
        let folder = target_directory()?.join("bench-peers");
        let mut peers = Self {
            options,
            python,
            model,
            directory: folder.join(model),
            no_graph: None,
        };
        let mut dump = programs.command(options, model, &options.backends[0], options.threads);
        dump.env("FIN_BENCH_DUMP", &folder);
        if programs.uses_libtorch {
            libtorch(&mut dump)?;
        }
        capture(&mut dump)?;
        if options.peers.iter().any(|peer| needs_graph(peer)) {
            peers.no_graph = skipped(&peers.script("export")?);
        }
        Ok(peers)
    }

    fn script(&self, peer: &str) -> Result<Value, String> {
        let model = self.model;
        let mut script = command(self.python);
        script
            .arg(root().join("scripts/reference/bench_peers.py"))
            .arg(&self.directory)
            .arg(peer)
            .args(["--threads", &self.options.threads.to_string()])
            .args(["--seconds", &self.options.seconds.to_string()]);
        let printed = capture(&mut script).map_err(|e| format!("{model}, {peer}: {e}"))?;
        let last = printed.lines().last().unwrap_or_default();
        serde_json::from_str(last).map_err(|e| format!("bench_peers.py: {model}, {peer}: {e}"))
    }

    fn run(&self, report: &mut Report) -> Outcome {
        let model = self.model;
        for peer in &self.options.peers {
            println!("{model} in {peer} …");
            let reason = self.no_graph.clone().filter(|_| needs_graph(peer));
            let found = match &reason {
                Some(_) => Value::Null,
                None => self.script(peer)?,
            };
            match reason.or_else(|| skipped(&found)) {
                Some(reason) => report.skip(format!("{model} in {peer}: {reason}")),
                None => {
                    let rows = found.as_array().map_or(&[][..], Vec::as_slice);
                    for row in rows {
                        report.rows.push(Row::read(row, peer)?);
                        report.machine.add_versions(&row["versions"]);
                    }
                }
            }
        }
        Ok(())
    }
}

fn needs_graph(peer: &str) -> bool {
    ["onnx", "openvino"].contains(&peer)
}

/// Why the script did nothing, if it did not.
fn skipped(found: &Value) -> Option<String> {
    found["skipped"].as_str().map(String::from)
}

/// What a bench printed.
enum Timed {
    Rows(Vec<Row>),
    /// Why there are none.
    Skipped(String),
}

/// The benches, built with the backends that are asked for.
struct Programs {
    models: PathBuf,
    training: PathBuf,
    /// Whether LibTorch is one of the backends.
    uses_libtorch: bool,
}

impl Programs {
    fn build(features: &[&str]) -> Result<Self, String> {
        let mut build = cargo();
        // The whole workspace, so that its dependencies are built once for all tasks.
        build.args(["build", "--release", "--workspace"]);
        build.args(["--bench", "models", "--bench", "train"]);
        let qualified: Vec<String> = features
            .iter()
            .map(|f| format!("fin-benches/{f}"))
            .collect();
        if !qualified.is_empty() {
            build.args(["--features", &qualified.join(",")]);
        }
        let uses_libtorch = features.contains(&"tch");
        if uses_libtorch {
            libtorch(&mut build)?;
        }
        build.arg("--message-format=json-render-diagnostics");
        let messages = capture(&mut build)?;
        let program = |name: &str| {
            let found = messages.lines().find_map(|line| {
                let message: Value = serde_json::from_str(line).ok()?;
                let target = &message["target"];
                let is_it = target["name"] == name && target["kind"][0] == "bench";
                Some(PathBuf::from(
                    message["executable"].as_str().filter(|_| is_it)?,
                ))
            });
            found.ok_or_else(|| format!("cargo built no bench `{name}`"))
        };
        Ok(Self {
            models: program("models")?,
            training: program("train")?,
            uses_libtorch,
        })
    }

    /// The bench of a model on a backend.
    fn command(&self, options: &Options, model: &str, backend: &str, threads: usize) -> Command {
        let mut bench = match options.training {
            true => command(&self.training),
            false => command(&self.models),
        };
        bench.arg(model);
        for (option, value) in &options.shapes {
            bench.args([option, value]);
        }
        if options.mixed {
            bench.arg("--mixed");
        }
        let threads = threads.to_string();
        bench
            .env("FIN_BENCH_DEVICE", backend)
            .env("FIN_BENCH_SECONDS", options.seconds.to_string())
            .env("RAYON_NUM_THREADS", &threads)
            .env("OMP_NUM_THREADS", &threads);
        bench
    }

    /// Rows of a model on one side, by a command that [`Programs::command`] has made.
    fn time(&self, mut bench: Command, model: &str, side: &str) -> Result<Timed, String> {
        if self.uses_libtorch {
            libtorch(&mut bench)?;
        }
        let printed = capture(&mut bench)?;
        let mut rows = Vec::new();
        for line in printed.lines().filter(|line| line.starts_with('{')) {
            let row: Value =
                serde_json::from_str(line).map_err(|e| format!("{model}: {line}: {e}"))?;
            if let Some(why) = skipped(&row) {
                return Ok(Timed::Skipped(why));
            }
            rows.push(Row::read(&row, side)?);
        }
        match rows.is_empty() {
            true => Err(format!("{model} on {side}: the bench printed no times")),
            false => Ok(Timed::Rows(rows)),
        }
    }
}

/// Writes a file of `benches/results/` whole or not at all.
fn write(name: &str, text: &str) -> Outcome {
    let directory = root().join("benches/results");
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.tmp"));
    let error = |e: std::io::Error| format!("{}: {e}", path.display());
    std::fs::create_dir_all(&directory).map_err(error)?;
    let written =
        std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.map_err(error)?;
    println!("{}", path.display());
    Ok(())
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
