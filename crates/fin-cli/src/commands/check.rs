//! `fin check`.

use std::path::PathBuf;

use clap::Args;
use fin_core::Error;
use fin_core::input::Column;
use fin_train::dataset::{CheckReport, Finding, FindingKind, check};
use serde_json::json;

use crate::report::{self, Format, Result, count, note};
use crate::rows::{RowArgs, RowSource, Rows, compared};

/// Look for duplicates and contradictions in data
///
/// Finds rows that are equal to an earlier one, or like it but for case, space, Unicode form and, of
/// scored pairs, order; equal pairs with different scores; equal items with different labels; negatives of a query
/// that are positives of it in another row; and with --against, what is also in data that is held
/// out: whole rows, queries, documents, items. Images and meshes are equal where their files are.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct CheckArgs {
    /// File of data: .csv, .tsv, .jsonl or .parquet; or directory of images or meshes by class
    data: PathBuf,

    /// Data that is held out, of the same form: file or directory
    #[arg(long, value_name = "FILE|DIR")]
    against: Option<PathBuf>,

    #[command(flatten)]
    rows: RowArgs,

    /// Columns of the held-out data [default: those of the data]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        requires = "against",
        help_heading = "Data"
    )]
    against_columns: Vec<Column>,

    /// Number of places to list for each finding
    #[arg(long, value_name = "N", default_value_t = 5)]
    show: usize,

    /// End with exit code 1 where anything was found
    #[arg(long)]
    strict: bool,

    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin check train.csv --columns query,answer --against eval.csv
  fin check stsb-en-train.csv --form scored_pairs --no-header --format json
  fin check photos/train --against photos/test --strict";

/// Characters of an item that are shown.
const SHOWN: usize = 60;

pub fn run(args: &CheckArgs) -> Result<()> {
    let rows = args.rows.source(&args.data).read()?;
    let held_out = match &args.against {
        Some(path) => {
            let columns = match &args.against_columns[..] {
                [] => &args.rows.columns[..],
                columns => columns,
            };
            let source = RowSource {
                // A directory says itself what it is.
                form: (!path.is_dir()).then_some(rows.form),
                columns: if path.is_dir() { &[] } else { columns },
                ..args.rows.source(path)
            };
            Some(source.read()?)
        }
        None => None,
    };
    let all: Vec<&Rows> = std::iter::once(&rows).chain(&held_out).collect();
    let examples = compared(&all)?;
    let found = check(rows.form, &examples[0], examples.get(1).map(Vec::as_slice));
    match args.format {
        Format::Table => report::print(&table(args.show, &rows, held_out.as_ref(), &found))?,
        Format::Json => report::print_json(&json!({
            "data": args.data,
            "form": rows.form,
            "rows": found.rows,
            "against": args.against,
            "against_rows": held_out.as_ref().map(|held_out| held_out.rows.len()),
            "findings": found.findings.iter().map(|finding| json!({
                "kind": finding.kind,
                "count": finding.cases.len(),
                "cases": finding.cases.iter().take(args.show).map(|case| json!({
                    "place": rows.place(case.row),
                    "other": other(&rows, held_out.as_ref(), finding.kind, case.other),
                    "text": case.text,
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        }))?,
    }
    if args.strict && !found.findings.is_empty() {
        let reason = format!("has {}", summary(&found, |_| true).unwrap_or_default());
        return Err(Error::invalid(&args.data, reason).into());
    }
    Ok(())
}

fn table(show: usize, rows: &Rows, held_out: Option<&Rows>, found: &CheckReport) -> String {
    if found.findings.is_empty() {
        note!("{}: nothing was found", rows.path.display());
    }
    let mut cells = vec![vec!["rows".to_owned(), found.rows.to_string()]];
    if let Some(held_out) = held_out {
        cells.push(vec![
            "held-out rows".into(),
            held_out.rows.len().to_string(),
        ]);
    }
    for finding in &found.findings {
        let [_, several] = finding.kind.words();
        cells.push(vec![several.to_owned(), finding.cases.len().to_string()]);
    }
    let mut out = report::columns(&cells);
    for finding in &found.findings {
        out.push_str(&places(show, rows, held_out, finding));
    }
    out
}

/// The first places of a finding, a line each.
fn places(show: usize, rows: &Rows, held_out: Option<&Rows>, finding: &Finding) -> String {
    let mut out = String::new();
    if show > 0 {
        out.push_str(&format!("\n{}:\n", finding.kind.words()[1]));
    }
    for case in finding.cases.iter().take(show) {
        let (place, other) = (
            rows.place(case.row),
            other(rows, held_out, finding.kind, case.other),
        );
        let mut text: String = case.text.chars().take(SHOWN).collect();
        if text.len() < case.text.len() {
            text.push('…');
        }
        out.push_str(&format!("  {place} and {other}: {text:?}\n"));
    }
    if show > 0 && finding.cases.len() > show {
        out.push_str(&format!("  and {} more\n", finding.cases.len() - show));
    }
    out
}

/// The place that a finding of this kind is compared with.
fn other(rows: &Rows, held_out: Option<&Rows>, kind: FindingKind, row: usize) -> String {
    match held_out {
        Some(held_out) if kind >= FindingKind::SharedRow => held_out.place(row),
        _ => rows.place(row),
    }
}

/// What was found in one line, of the kinds that are wanted; `None` where it is nothing.
pub fn summary(found: &CheckReport, wanted: impl Fn(FindingKind) -> bool) -> Option<String> {
    let findings = found.findings.iter().filter(|finding| wanted(finding.kind));
    let parts: Vec<String> = findings
        .map(|finding| {
            let [one, several] = finding.kind.words();
            count(finding.cases.len(), one, several)
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}
