//! `fin search`.

use std::path::PathBuf;
use std::time::Instant;

use clap::{ArgGroup, Args};
use fin_core::PostProcess;
use fin_core::input::{ReadOptions, read_texts};
use fin_registry::Registry;
use serde_json::json;

use crate::args::{BatchArgs, ColumnArgs, ModelArgs, positive, read_options};
use crate::model::{OpenModel, text_bar};
use crate::report::{self, Format, Result, count, note};

/// Rank the texts of a file by their similarity to queries
///
/// Similarity is the cosine of the embeddings, from -1 to 1; every text is compared with every
/// query. Of equally similar texts the earlier one comes first.
#[derive(Debug, Args)]
#[command(
    after_long_help = EXAMPLES,
    group(ArgGroup::new("queries_given").args(["query", "queries"]).required(true).multiple(true))
)]
pub struct SearchArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// File of the texts to search: .txt, .csv, .tsv or .jsonl
    #[arg(long, value_name = "FILE")]
    corpus: PathBuf,

    #[command(flatten)]
    columns: ColumnArgs,

    /// What to look for; can be given several times
    #[arg(long, value_name = "TEXT")]
    query: Vec<String>,

    /// File of queries, after those of --query; the same formats, the column `text` or the only
    /// one, with a header
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,

    /// Number of texts to list for each query
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = positive)]
    k: usize,

    #[command(flatten)]
    batches: BatchArgs,

    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin search --model all-minilm-l6-v2 --corpus notes.txt --query 'where do the boats sleep?'
  fin search --model ./tuned --corpus corpus.csv --column answer --queries questions.txt \\
      -k 10 --format json";

pub fn run(args: &SearchArgs, registry: &Registry) -> Result<()> {
    let mut queries = args.query.clone();
    if let Some(path) = &args.queries {
        queries.extend(read_texts(path, None, ReadOptions::default())?);
    }
    let read = read_options(args.columns.no_header, None);
    let corpus = read_texts(&args.corpus, args.columns.column.as_ref(), read)?;
    let model = OpenModel::open(&args.model, &args.model.options(), registry)?;

    let begin = Instant::now();
    let bar = text_bar(Some(corpus.len() + queries.len()));
    let post = PostProcess {
        dim: None,
        normalize: true,
    };
    let documents = model.encode(&corpus, args.batches.limits(), post, &bar)?;
    let asked = model.encode(&queries, args.batches.limits(), post, &bar)?;
    bar.finish_and_clear();
    let dim = documents.dim;
    let found = fin_train::top_k(&asked.values, &documents.values, dim, args.k)?;
    report::note_truncated(documents.truncated + asked.truncated, model.max_length());
    note!(
        "{} compared with {} in {:.1} s",
        count(queries.len(), "query", "queries"),
        count(corpus.len(), "text", "texts"),
        begin.elapsed().as_secs_f64()
    );

    let ranked = queries.iter().zip(found);
    match args.format {
        Format::Table => {
            let mut out = String::new();
            for (i, (query, hits)) in ranked.enumerate() {
                if i > 0 {
                    out.push('\n');
                }
                out.push_str(&format!("{}\n", one_line(query)));
                for (rank, (index, score)) in hits.into_iter().enumerate() {
                    let text = one_line(&corpus[index]);
                    out.push_str(&format!("{:>4}  {score:.4}  {text}\n", rank + 1));
                }
            }
            report::print(&out)
        }
        Format::Json => {
            let results: Vec<_> = ranked
                .map(|(query, hits)| {
                    let hits: Vec<_> = hits
                        .into_iter()
                        .enumerate()
                        .map(|(rank, (index, score))| {
                            let text = &corpus[index];
                            json!({"rank": rank + 1, "score": score, "index": index, "text": text})
                        })
                        .collect();
                    json!({"query": query, "results": hits})
                })
                .collect();
            report::print_json(&results)
        }
    }
}

/// A text without line ends and runs of spaces.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
