//! `fin eval`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use fin_core::input::Column;
use fin_registry::Registry;
use fin_train::evaluate::Evaluator;
use serde_json::{Map, json};

use crate::args::{ModelArgs, positive, read_options};
use crate::data::{EvalSource, EvalTask, metric_rows};
use crate::model::OpenModel;
use crate::report::{self, Format, Result, note, rounded};

/// Measure a model
///
/// sts: rows of text, text, score. Measures Spearman's and Pearson's correlation of the cosine
/// similarity with the score, in whatever range the scores are.
///
/// retrieval: rows of query, relevant document. Equal documents are one document, and all of them,
/// with those of --corpus, are ranked for every query; a query with several rows has several
/// relevant documents. Measures hit rate, precision, recall, F1, MRR, MAP and nDCG at each k.
///
/// Columns go by the names sentence1, sentence2, score or anchor, positive where the file has
/// them, else by position.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// File of evaluation data: .csv, .tsv or .jsonl
    #[arg(long, value_name = "FILE")]
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

    /// Further documents to rank, for retrieval: .txt, .csv, .tsv or .jsonl
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,

    /// Column of the further documents; not needed where there is only one, or one is called
    /// `text`
    #[arg(long, value_name = "NAME|INDEX", requires = "corpus")]
    corpus_column: Option<Column>,

    /// Cut-offs of the rankings, for retrieval
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,3,5,10", value_parser = positive)]
    k: Vec<usize>,

    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin eval --model all-minilm-l6-v2 --data stsb-en-test.csv --no-header --task sts
  fin eval --model ./tuned --data eval.csv --task retrieval \\
      --corpus corpus.csv --corpus-column answer --k 1,10 --format json";

pub fn run(args: &EvalArgs, registry: &Registry) -> Result<()> {
    let evaluation = EvalSource {
        data: &args.data,
        task: args.task,
        columns: &args.columns,
        read: read_options(args.no_header, None),
        corpus: args.corpus.as_deref(),
        corpus_column: args.corpus_column.as_ref(),
        cutoffs: &args.k,
    }
    .read()?;
    let model = OpenModel::open(&args.model, &args.model.options(), registry)?;
    let begin = Instant::now();
    let metrics = evaluation.evaluate(&model.embedder, &model.device)?;
    let seconds = begin.elapsed().as_secs_f64();
    for (name, value) in metrics.iter() {
        if !value.is_finite() {
            note!("warning: {name} is not defined: all scores, or all similarities, are equal");
        }
    }
    match args.format {
        Format::Table => {
            let mut rows = metric_rows(&[("", &metrics)]);
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
            out.insert("seconds".into(), json!(rounded(seconds, 3)));
            report::print_json(&out)
        }
    }
}
