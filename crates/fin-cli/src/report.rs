//! What is printed where: results on stdout, notes and errors on stderr.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;
use fin_core::weights::LoadReport;
use fin_registry::Model;
use serde::Serialize;
use serde_json::{Value, json};

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// The options do not fit together.
    Usage(String),
    /// A file or a value cannot be used.
    Library(fin_core::Error),
    /// The result cannot be printed.
    Stdout(io::Error),
}

/// Result of a command or a part of it.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Library(_) | Self::Stdout(_) => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(reason) => f.write_str(reason),
            Self::Library(error) => error.fmt(f),
            Self::Stdout(error) => write!(f, "stdout: cannot write: {error}"),
        }
    }
}

impl From<fin_core::Error> for Failure {
    fn from(error: fin_core::Error) -> Self {
        Self::Library(error)
    }
}

/// Prints a line on stderr; that stderr is closed is no reason to stop.
macro_rules! note {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}
pub(crate) use note;

/// Form of what is printed on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Prints text on stdout, as it is.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Failure::Stdout)
}

/// Prints a value as indented JSON and a line end.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::Stdout(e.into()))?;
    print(&format!("{text}\n"))
}

/// Columns of cells: the first aligned to the left, the others to the right.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A number of things with the word for one or several.
pub fn count(n: usize, one: &str, several: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { several })
}

/// Says on stderr where a model is not what the catalogue says, and which of its tensors have no
/// place, if any.
pub fn note_model(model: &Model) {
    for contradiction in &model.contradictions {
        note!("warning: {contradiction}");
    }
    let report = model.embedder.report();
    if !report.unused.is_empty() {
        note!("warning: the checkpoint holds tensors that the model has no place for: {report}");
    }
}

/// Says on stderr how many texts were cut to the maximum length, if any.
pub fn note_truncated(truncated: usize, max_length: Option<usize>) {
    if let (1.., Some(max_length)) = (truncated, max_length) {
        let verb = if truncated == 1 { "was" } else { "were" };
        note!(
            "{} longer than {max_length} tokens {verb} cut to that length; --max-length sets it",
            count(truncated, "text", "texts")
        );
    }
}

/// A directory is replaced only where it holds a model, and only where that is asked for.
pub fn check_replaceable(output: &Path, overwrite: bool, flag: &str) -> fin_core::Result<()> {
    let Ok(mut entries) = std::fs::read_dir(output) else {
        return Ok(());
    };
    if entries.next().is_none() {
        return Ok(());
    }
    let is_model = ["config.json", "modules.json", "fin.json"]
        .iter()
        .any(|name| output.join(name).is_file());
    let reason = match (is_model, overwrite) {
        (true, true) => return Ok(()),
        (true, false) => format!(
            "holds a model already; choose another {flag}, or pass --overwrite to replace it"
        ),
        (false, _) => {
            format!("is a directory that holds something other than a model; choose another {flag}")
        }
    };
    Err(fin_core::Error::invalid(output, reason))
}

/// A tensor report for programs.
pub fn tensors_json(report: &LoadReport) -> Value {
    json!({
        "used": report.used.len(),
        "left_aside": report.ignored.len(),
        "unknown": report.unused,
    })
}

/// Rounds to a number of decimals, for JSON that people look at too.
pub fn rounded(value: f64, decimals: i32) -> f64 {
    let factor = 10f64.powi(decimals);
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(String::from).to_vec();
        let table = columns(&[
            row(["", "@1", "@10"]),
            row(["recall", "0.5000", "1.0000"]),
            row(["f1", "0.2500", "0.1000"]),
        ]);
        assert_eq!(
            table,
            "            @1     @10\nrecall  0.5000  1.0000\nf1      0.2500  0.1000\n"
        );
    }
}
