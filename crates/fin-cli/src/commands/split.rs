//! `fin split`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use fin_core::Error;
use fin_core::atomic::AtomicFile;
use fin_core::input::{Table, TextFormat, read_rows};
use fin_core::output::{Cell, TableWriter};
use fin_train::dataset::{Example, Form, Split, connected_groups, split_groups, split_stratified};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::family::base_of;
use crate::report::{self, Format, Result, count, note};
use crate::rows::{RowArgs, Rows, compared, file_of};

/// Split data into a part to train on and one to measure on, with no item in both
///
/// Rows that share an item are a group, and so are rows that are connected over others: two
/// questions with the same answer stay together, and so does whatever shares either question. Texts
/// are the same where they differ in case, space or Unicode form alone, images and meshes where
/// their files are equal. Groups are drawn at random and go to one part as a whole.
///
/// Of rows with a label, each class has its share in both parts; with --by label, whole classes are
/// held out instead. Negatives do not connect rows unless --negatives says so.
///
/// A .csv, .tsv or .jsonl file keeps its columns; of a .parquet file or a directory, the parts have
/// the columns that training reads. Rows stay in order.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct SplitArgs {
    /// File of data: .csv, .tsv, .jsonl or .parquet; or directory of images or meshes by class
    data: PathBuf,

    /// File to write the part to that is trained on: .csv, .tsv or .jsonl
    #[arg(long, value_name = "FILE")]
    train: PathBuf,

    /// File to write the part to that is held out
    #[arg(long, value_name = "FILE")]
    validation: PathBuf,

    /// Share of the rows that is held out
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    fraction: f64,

    /// Seed of the draw
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,

    /// What stays together
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    by: SplitBy,

    /// Let negatives connect rows too
    #[arg(long)]
    negatives: bool,

    #[command(flatten)]
    rows: RowArgs,

    /// Form of the summary
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin split pairs.csv --columns query,answer --train train.csv --validation held-out.csv
  fin split intents.csv --form labelled --by label --fraction 0.2 --seed 7 \\
      --train seen.csv --validation unseen.csv
  fin split photos/ --train photos/train.csv --validation photos/test.csv";

/// What stays on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// Rows that share items.
    #[default]
    Items,
    /// Rows with a label, and rows that share items.
    Label,
}

pub fn run(args: &SplitArgs) -> Result<()> {
    let rows = args.rows.source(&args.data).read()?;
    check_outputs(args, &rows)?;
    let mut writers = [&args.train, &args.validation]
        .into_iter()
        .map(|path| Part::create(path, &rows, args))
        .collect::<Result<Vec<_>>>()?;
    let examples = compared(&[&rows])?.remove(0);
    let (groups, split) = split(&examples, args.by, args.negatives, args.fraction, args.seed)
        .map_err(|error| match error {
            Error::Argument { name, reason } if name == "by" => Error::Argument { name, reason },
            other => crate::data::about(&args.data, other),
        })?;
    let parts = [("train", &split.train), ("validation", &split.held_out)];
    for (writer, (_, part)) in writers.iter_mut().zip(&parts) {
        for &row in *part {
            writer.write(&rows, row)?;
        }
    }
    for writer in writers {
        writer.finish()?;
    }

    let sizes = parts.map(|(name, part)| {
        let groups: HashSet<usize> = part.iter().map(|&row| groups[row]).collect();
        (name, part.len(), groups.len())
    });
    let crossing = crossing_negatives(&examples, &split);
    let wanted = (rows.rows.len() as f64 * args.fraction).round();
    if (split.held_out.len() as f64) < 0.9 * wanted || split.held_out.len() as f64 > 1.1 * wanted {
        note!(
            "warning: {} held out where {wanted} were asked for: groups stay together, and the \
             largest has {}",
            count(split.held_out.len(), "row is", "rows are"),
            count(largest(&groups), "row", "rows")
        );
    }
    if crossing > 0 {
        note!(
            "{} of the part to train on in the part held out, as negatives or their opposite; \
             --negatives keeps them together",
            count(crossing, "item is", "items are")
        );
    }
    match args.format {
        Format::Table => {
            let head = ["", "rows", "groups"].map(String::from).to_vec();
            let body = sizes.iter().map(|(name, rows, groups)| {
                vec![(*name).to_owned(), rows.to_string(), groups.to_string()]
            });
            let table: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
            report::print(&report::columns(&table))
        }
        Format::Json => {
            let parts: serde_json::Map<String, serde_json::Value> = sizes
                .iter()
                .map(|(name, rows, groups)| {
                    ((*name).to_owned(), json!({"rows": rows, "groups": groups}))
                })
                .collect();
            report::print_json(&json!({
                "data": args.data,
                "form": rows.form,
                "seed": args.seed,
                "parts": parts,
                "largest_group": largest(&groups),
                "shared_negatives": crossing,
            }))
        }
    }
}

/// The group of each row, and which rows are held out.
pub fn split(
    examples: &[Example],
    by: SplitBy,
    with_negatives: bool,
    fraction: f64,
    seed: u64,
) -> fin_core::Result<(Vec<usize>, Split)> {
    let labels: Option<Vec<&str>> = examples.iter().map(|row| row.label.as_deref()).collect();
    if by == SplitBy::Label && labels.is_none() {
        let reason = "label is for rows with a label; these have none";
        return Err(Error::argument("by", reason));
    }
    let groups = connected_groups(examples.iter().map(|row| {
        let negatives = row.negatives.iter().filter(move |_| with_negatives);
        let items = row.items.iter().chain(negatives);
        let label = row.label.as_deref().filter(|_| by == SplitBy::Label);
        let items = items.map(|item| (false, item.key.as_str()));
        items.chain(label.map(|label| (true, label)))
    }));
    let split = match (by, labels) {
        (SplitBy::Items, Some(labels)) => {
            let mut names: BTreeMap<&str, usize> = labels.iter().map(|label| (*label, 0)).collect();
            for (number, slot) in names.values_mut().enumerate() {
                *slot = number;
            }
            let classes: Vec<usize> = labels.iter().map(|label| names[label]).collect();
            split_stratified(&groups, &classes, fraction, seed)?
        }
        _ => split_groups(&groups, fraction, seed)?,
    };
    Ok((groups, split))
}

/// Number of rows of the largest group.
pub fn largest(groups: &[usize]) -> usize {
    let mut sizes: HashMap<usize, usize> = HashMap::new();
    for group in groups {
        *sizes.entry(*group).or_default() += 1;
    }
    sizes.into_values().max().unwrap_or(0)
}

/// Number of items on both sides, which only negatives can be.
fn crossing_negatives(examples: &[Example], split: &Split) -> usize {
    let keys = |rows: &[usize]| -> HashSet<&str> {
        let rows = rows.iter().map(|&row| &examples[row]);
        let items = rows.flat_map(|row| row.items.iter().chain(&row.negatives));
        items.map(|item| item.key.as_str()).collect()
    };
    keys(&split.train)
        .intersection(&keys(&split.held_out))
        .count()
}

/// Refuses to write over the data or one part over the other, and to take relative paths to where
/// they lead nowhere.
fn check_outputs(args: &SplitArgs, rows: &Rows) -> fin_core::Result<()> {
    let same = |a: &Path, b: &Path| {
        let full = |path: &Path| std::fs::canonicalize(path).ok();
        a == b || full(a).is_some_and(|a| full(b) == Some(a))
    };
    if same(&args.train, &args.validation) {
        return Err(Error::argument(
            "validation",
            "is the file of --train; choose another",
        ));
    }
    let base = &rows.base;
    for (flag, output) in [("train", &args.train), ("validation", &args.validation)] {
        if same(output, &args.data) {
            return Err(Error::argument(
                flag,
                "is the file that is split; choose another",
            ));
        }
        let here = |path: &Path| match path.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => path.to_path_buf(),
        };
        let mut items = rows
            .rows
            .iter()
            .flat_map(|row| row.items.iter().chain(&row.negatives));
        if !same(&here(&base_of(output)), &here(base))
            && let Some(item) =
                items.find(|item| Path::new(item).is_relative() && file_of(item, base).is_some())
        {
            let reason = format!(
                "`{item}` is a path relative to {}, so the parts have to be in that directory too",
                here(base).display()
            );
            return Err(Error::argument(flag, reason));
        }
    }
    Ok(())
}

/// A part that is written.
enum Part {
    /// Rows of a table with all of its columns.
    Table(TableWriter, Table),
    /// Lines as they are.
    Lines(AtomicFile, Vec<String>),
    /// What the rows are, with the number of negatives.
    Roles(TableWriter, usize),
}

impl Part {
    fn create(path: &Path, rows: &Rows, args: &SplitArgs) -> Result<Self> {
        let input = match rows.path.is_dir() {
            true => None,
            false => Some(TextFormat::from_path(&rows.path)?),
        };
        let is_jsonl =
            |path: &Path| TextFormat::from_path(path).is_ok_and(|f| f == TextFormat::Jsonl);
        match input {
            Some(TextFormat::Csv | TextFormat::Tsv | TextFormat::Txt) => {
                let table = read_rows(&rows.path, args.rows.source(&rows.path).read)?;
                let names = table.header.as_ref();
                let names: Option<Vec<&str>> =
                    names.map(|names| names.iter().map(String::as_str).collect());
                Ok(Self::Table(
                    TableWriter::create(path, names.as_deref())?,
                    table,
                ))
            }
            Some(TextFormat::Jsonl) if is_jsonl(path) => {
                let text =
                    std::fs::read_to_string(&rows.path).map_err(Error::io(&rows.path, "read"))?;
                let lines = text
                    .split('\n')
                    .map(|line| line.trim_end_matches('\r').to_owned());
                Ok(Self::Lines(AtomicFile::create(path)?, lines.collect()))
            }
            _ => {
                let count = rows.rows.iter().map(|row| row.negatives.len()).max();
                let count = count.unwrap_or(0);
                let mut names: Vec<String> = rows
                    .form
                    .columns()
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                if rows.form == Form::Pairs {
                    names.extend((1..=count).map(|i| format!("negative_{i}")));
                }
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                Ok(Self::Roles(TableWriter::create(path, Some(&names))?, count))
            }
        }
    }

    fn write(&mut self, rows: &Rows, index: usize) -> Result<()> {
        let row = &rows.rows[index];
        match self {
            Self::Table(writer, table) => {
                let fields = table.rows[index].fields.iter();
                writer.write(&fields.map(|field| Cell::Text(field)).collect::<Vec<_>>())?;
            }
            Self::Lines(file, lines) => {
                let line = &lines[row.line as usize - 1];
                let written = writeln!(file, "{}", line.trim_start_matches('\u{feff}'));
                written.map_err(Error::io(file.destination(), "write"))?;
            }
            Self::Roles(writer, count) => {
                let negatives = row.negatives.iter().map(String::as_str);
                // A row with fewer has empty ones, which are none.
                let negatives = negatives.chain(std::iter::repeat("")).take(*count);
                let items = row.items.iter().map(String::as_str);
                let mut cells: Vec<Cell<'_>> = items.chain(negatives).map(Cell::Text).collect();
                cells.extend(row.score.map(Cell::Number));
                cells.extend(row.label.as_deref().map(Cell::Text));
                writer.write(&cells)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> fin_core::Result<()> {
        match self {
            Self::Table(writer, _) | Self::Roles(writer, _) => writer.finish().map(|_| ()),
            Self::Lines(file, _) => file.commit(),
        }
    }
}
