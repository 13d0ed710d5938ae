//! `fin eval`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use fin_core::image::MAX_PIXELS;
use fin_core::input::Column;
use fin_core::{Error, atomic};
use fin_registry::Registry;
use fin_train::Metrics;
use fin_train::evaluate::Rankings;
use serde_json::{Map, json};

use crate::args::{ModelArgs, positive, read_options};
use crate::data::{EvalSource, EvalTask, Evaluation, metric_rows};
use crate::family::{Family, for_family};
use crate::html;
use crate::model::OpenModel;
use crate::report::{self, Format, Result, note, rounded};

/// Measure a model
///
/// sts: rows of text, text, score. Measures Spearman's and Pearson's correlation of the cosine
/// similarity with the score, in whatever range the scores are.
///
/// retrieval: rows of query, relevant document. Equal documents are one document, and all of them,
/// with those of --corpus, are ranked for every query; a query with several rows has several
/// relevant documents. Measures hit rate, precision, recall, F1, MRR, MAP and nDCG at each k. For
/// images and meshes also a directory with a directory a class, which is measured as labelled. Rows
/// of a text and an image, in either order, are measured both ways.
///
/// labelled: rows of item, label. Every item is searched for among the others, those of its label
/// being relevant. Measures precision, recall, MRR, MAP and nDCG at each k, R-precision and MAP@R.
///
/// Columns go by the names sentence1, sentence2, score; anchor, positive; or text, label where the
/// file has them, else by position. Paths are relative to the directory that the file is in.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// File of evaluation data: .csv, .tsv, .jsonl or .parquet; or directory of images or meshes by class
    #[arg(long, value_name = "FILE|DIR")]
    data: PathBuf,

    /// What to measure
    #[arg(long, value_enum)]
    task: EvalTask,

    /// Columns in the order above, by name or zero-based index, as in query,answer
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    columns: Vec<Column>,

    /// The first row of .csv and .tsv files is data, not column names
    #[arg(long)]
    no_header: bool,

    /// Further documents to rank, for retrieval: .txt, .csv, .tsv, .jsonl or .parquet
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,

    /// Column of the further documents; not needed where there is only one, or one is called
    /// `text`
    #[arg(long, value_name = "NAME|INDEX", requires = "corpus")]
    corpus_column: Option<Column>,

    /// Cut-offs of the rankings, for retrieval
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,3,5,10", value_parser = positive)]
    k: Vec<usize>,

    /// Another model to measure first, such as the one before fine-tuning, with the same options
    #[arg(long, value_name = "NAME|DIR")]
    before: Option<String>,

    /// Write a page for people: the metrics, and queries with what was found for them; of rankings
    #[arg(long, value_name = "HTML")]
    report: Option<PathBuf>,

    /// Queries on that page
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = positive)]
    report_queries: usize,

    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin eval --model all-minilm-l6-v2 --data stsb-en-test.csv --no-header --task sts
  fin eval --model ./tuned --data eval.csv --task retrieval \\
      --corpus corpus.csv --corpus-column answer --k 1,10 --format json
  fin eval --model ./tuned --before resnet-base --data photos/test --task retrieval \\
      --report report.html
  fin eval --model clip-base-en --data captions.csv --task retrieval --k 1,5,10";

/// Most neighbours of a query on the page.
const SHOWN: usize = 10;

pub fn run(args: &EvalArgs, registry: &Registry) -> Result<()> {
    let modality = registry.modality(&args.model.model)?;
    for_family!(modality, run_with(args, registry))
}

fn run_with<F: Family>(args: &EvalArgs, registry: &Registry) -> Result<()> {
    if args.report.is_some() && args.task == EvalTask::Sts {
        let reason = "shows rankings, which the task sts has none of";
        return Err(Error::argument("report", reason).into());
    }
    if let Some(path) = &args.report {
        drop(atomic::AtomicFile::create(path)?);
    }
    let evaluation = EvalSource {
        data: &args.data,
        task: args.task,
        columns: &args.columns,
        read: read_options(args.no_header, None),
        corpus: args.corpus.as_deref(),
        corpus_column: args.corpus_column.as_ref(),
        cutoffs: &args.k,
    }
    .read::<F>()?;
    let begin = Instant::now();
    let before = match &args.before {
        Some(name) => Some(measure::<F>(name, args, registry, &evaluation)?.0),
        None => None,
    };
    let (metrics, rankings) = measure::<F>(&args.model.model, args, registry, &evaluation)?;
    let seconds = begin.elapsed().as_secs_f64();
    for (name, value) in metrics.iter() {
        if !value.is_finite() {
            note!("warning: {name} is not defined: all scores, or all similarities, are equal");
        }
    }
    let mut measured: Vec<(&str, &Metrics)> = Vec::new();
    if let Some(before) = &before {
        measured.push(("before", before));
    }
    measured.push((if before.is_some() { "after" } else { "" }, &metrics));
    // Of both ways, the page shows the images found for texts.
    if let (Some(path), Some(rankings)) = (&args.report, rankings.first()) {
        let page = page::<F>(args, registry, &evaluation, &measured, rankings);
        atomic::write(path, page.as_bytes())?;
        note!("the report is in {}", path.display());
    }
    match args.format {
        Format::Table => {
            let mut rows = metric_rows(&measured);
            for (name, size) in &evaluation.sizes {
                rows.push(vec![(*name).to_owned(), size.to_string()]);
            }
            note!("{} in {seconds:.1} s", args.data.display());
            report::print(&report::columns(&rows))
        }
        Format::Json => {
            let mut out = Map::new();
            out.insert("model".into(), json!(args.model.model));
            out.insert("data".into(), json!(args.data));
            out.insert("task".into(), json!(args.task));
            for (name, size) in &evaluation.sizes {
                out.insert((*name).into(), json!(size));
            }
            for (name, value) in metrics.iter() {
                out.insert(name.into(), json!(value));
            }
            if let (Some(name), Some(before)) = (&args.before, &before) {
                out.insert("before".into(), json!({"model": name, "metrics": before}));
            }
            out.insert("seconds".into(), json!(rounded(seconds, 3)));
            report::print_json(&out)
        }
    }
}

/// Opens a model and measures it.
fn measure<F: Family>(
    name: &str,
    args: &EvalArgs,
    registry: &Registry,
    evaluation: &Evaluation<F::Item>,
) -> Result<(Metrics, Vec<Rankings>)> {
    let model = OpenModel::<F>::by_name(name, &args.model.options(), registry)?;
    let rankings = evaluation.rank(&model.embedder, &model.device)?;
    let metrics = evaluation.measure(&rankings, &model.embedder, &model.device)?;
    Ok((metrics, rankings))
}

/// The page for people.
fn page<F: Family>(
    args: &EvalArgs,
    registry: &Registry,
    evaluation: &Evaluation<F::Item>,
    measured: &[(&str, &Metrics)],
    rankings: &Rankings,
) -> String {
    let largest = args.k.iter().copied().max().unwrap_or(1).min(SHOWN);
    let (examples, of) = evaluation.examples(rankings, args.report_queries, largest);
    let max_pixels = args.model.max_pixels.unwrap_or(MAX_PIXELS);
    let queries: Vec<html::Query> = examples
        .into_iter()
        .map(|example| html::query::<F>(example, max_pixels))
        .collect();
    let mut facts = vec![("Model".to_owned(), args.model.model.clone())];
    if let Ok(row) = registry.catalogue.find(&args.model.model) {
        facts.push(("What it is".into(), row.description.clone()));
    }
    if let Some(before) = &args.before {
        facts.push(("Before".into(), before.clone()));
    }
    facts.push(("Data".into(), args.data.display().to_string()));
    for (name, size) in &evaluation.sizes {
        let mut name = (*name).to_owned();
        if let Some(first) = name.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        facts.push((name, size.to_string()));
    }
    let columns = measured.iter().map(|(label, metrics)| {
        let values = metrics.iter().map(|(name, value)| (name.to_owned(), value));
        ((*label).to_owned(), values.collect())
    });
    let selection = format!(
        "{} of {of} queries, spread evenly, each with the nearest {largest} {}.",
        queries.len(),
        F::NAMES[1]
    );
    let name = args.data.file_name().unwrap_or(args.data.as_os_str());
    let report = html::Report {
        title: format!("Search in {}", name.display()),
        facts,
        columns: columns.collect(),
        queries,
        selection,
        ..html::Report::default()
    };
    report.html()
}
