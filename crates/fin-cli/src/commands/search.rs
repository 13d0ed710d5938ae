//! `fin search`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{ArgGroup, Args};
use fin_core::PostProcess;
use fin_registry::Registry;
use serde_json::json;

use crate::args::{BatchArgs, ColumnArgs, ModelArgs, positive};
use crate::cross_encoder;
use crate::family::{Family, Item, Reading, for_family};
use crate::model::{OpenModel, bar_of, item_bar};
use crate::report::{self, Format, Result, count, note};

/// Rank texts, images or meshes by their similarity to queries
///
/// Similarity is the cosine of the embeddings, from -1 to 1; every item is compared with every
/// query. Of equally similar items the earlier one comes first. With a model of images or meshes,
/// queries are files; with one of texts and images, a query that ends like an image's name is a file.
///
/// With --rerank, a cross-encoder scores the most similar texts together with the query, and they are
/// ranked by its scores.
#[derive(Debug, Args)]
#[command(
    after_long_help = EXAMPLES,
    group(ArgGroup::new("queries_given").args(["query", "queries"]).required(true).multiple(true))
)]
pub struct SearchArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// What to search: a file of texts (.txt, .csv, .tsv, .jsonl or .parquet); a directory
    /// of images or meshes, a pattern, or a file of their paths
    #[arg(long, value_name = "FILE|DIR")]
    corpus: PathBuf,

    #[command(flatten)]
    columns: ColumnArgs,

    /// What to look for, a text or a file; can be given several times
    #[arg(long, value_name = "TEXT|FILE")]
    query: Vec<String>,

    /// File of queries, after those of --query; the same formats, the column `text` or the only
    /// one, with a header
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,

    /// Number of items to list for each query
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = positive)]
    k: usize,

    /// Directory of a cross-encoder that ranks what was found
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    rerank: Option<PathBuf>,

    /// Number of items that --rerank scores for each query, at least -k
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = positive, requires = "rerank", help_heading = "Model")]
    rerank_depth: usize,

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
      -k 10 --format json
  fin search --model all-minilm-l6-v2 --corpus notes.txt --query 'where do the boats sleep?' \\
      --rerank ms-marco-MiniLM-L6-v2
  fin search --model resnet-base --corpus photos/ --query pier.jpg
  fin search --model clip-base-en --corpus photos/ --query 'a boat at a pier'
  fin search --model ./shapes --corpus meshes/ --query teapot.obj";

pub fn run(args: &SearchArgs, registry: &Registry) -> Result<()> {
    let modality = registry.modality(&args.model.model)?;
    for_family!(modality, run_with(args, registry))
}

fn run_with<F: Family>(args: &SearchArgs, registry: &Registry) -> Result<()> {
    let here = Path::new("");
    let mut queries: Vec<F::Item> = args
        .query
        .iter()
        .map(|query| F::Item::from_cell(query.clone(), here, None))
        .collect();
    if let Some(path) = &args.queries {
        for query in F::read(path, Reading::default())? {
            queries.push(query?);
        }
    }
    let corpus = F::read(&args.corpus, args.columns.reading(None))?
        .collect::<fin_core::Result<Vec<F::Item>>>()?;
    let model = OpenModel::<F>::open(&args.model, &args.model.options(), registry)?;
    let reranker = match &args.rerank {
        None => None,
        Some(directory) => Some((
            cross_encoder::open(directory, &args.model, &model.device)?,
            cross_encoder::texts(&queries)?,
            cross_encoder::texts(&corpus)?,
        )),
    };

    let begin = Instant::now();
    let bar = item_bar::<F>(Some(corpus.len() + queries.len()));
    let post = PostProcess {
        dim: None,
        normalize: true,
    };
    // A query that cannot be read is found before the corpus has taken its time.
    let asked = model.encode(&queries, args.batches.limits(), post, &bar)?;
    let documents = model.encode(&corpus, args.batches.limits(), post, &bar)?;
    bar.finish_and_clear();
    let dim = documents.dim;
    let depth = match &reranker {
        None => args.k,
        Some(_) => args.rerank_depth.max(args.k),
    };
    let mut found = fin_train::top_k(&asked.values, &documents.values, dim, depth)?;
    report::note_truncated(documents.truncated + asked.truncated, model.max_length);
    if let Some((scorer, texts, others)) = &reranker {
        let pairs: Vec<(usize, usize)> = (0..)
            .zip(&found)
            .flat_map(|(query, hits)| hits.iter().map(move |(index, _)| (query, *index)))
            .collect();
        let bar = bar_of("pairs", Some(pairs.len()));
        let limits = args.batches.limits();
        let scores = cross_encoder::score(scorer, texts, others, &pairs, limits, &bar)?;
        for ((_, score), new) in found.iter_mut().flatten().zip(scores) {
            *score = new;
        }
        for hits in &mut found {
            // Equal scores stay in the order of similarity.
            hits.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            hits.truncate(args.k);
        }
    }
    note!(
        "{} compared with {} in {:.1} s",
        count(queries.len(), "query", "queries"),
        count(corpus.len(), F::NAMES[0], F::NAMES[1]),
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
                out.push_str(&format!("{}\n", one_line(&query.key())));
                for (rank, (index, score)) in hits.into_iter().enumerate() {
                    let text = one_line(&corpus[index].key());
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
                            let key = corpus[index].key();
                            json!({"rank": rank + 1, "score": score, "index": index, F::KEY: key})
                        })
                        .collect();
                    json!({"query": query.key(), "results": hits})
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
