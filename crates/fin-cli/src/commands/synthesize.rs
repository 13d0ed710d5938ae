//! `fin synthesize`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use fin_core::Error;
use fin_core::input::Column;
use fin_core::output::{Cell, TableWriter};
use fin_registry::{ModelOptions, Registry};
use fin_train::mining::{Distribution, Relation, Synthesis, score};
use serde_json::json;

use super::mine::{embed, score_table, written};
use crate::args::{BatchArgs, ModelArgs, read_options};
use crate::cross_encoder;
use crate::data::Distinct;
use crate::family::{Family, Reading, for_family};
use crate::model::{OpenModel, bar_of};
use crate::report::{self, Format, Result, count, note};

/// Make training data of queries and documents that nobody has paired
///
/// For each query the most similar document is taken as the one that belongs to it. Hard negatives
/// are drawn from those that follow, down to rank --depth, and dissimilar ones from the rest. A
/// document that is the query itself is not taken. Rows are query, positive, negative, margin: by how
/// much --scorer, or the same model, finds the positive more similar than the negative, as a
/// difference of cosine similarities; with --cross-encoder, as a difference of the scores that it
/// gives for the query with either. `fin fit --loss margin_mse` trains on them.
///
/// A pair that does not belong together has a small margin and does little harm; a scorer that is
/// better than the model that is trained is what there is to learn from.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct SynthesizeArgs {
    /// Queries: .txt, .csv, .tsv, .jsonl or .parquet; or a directory of images or meshes
    #[arg(long, value_name = "FILE|DIR")]
    queries: PathBuf,

    /// Documents, in the same formats
    #[arg(long, value_name = "FILE|DIR")]
    corpus: PathBuf,

    /// File to write: .csv, .tsv or .jsonl
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    model: ModelArgs,

    /// Model that scores what was found: name in the catalogue or directory [default: the same]
    #[arg(long, value_name = "NAME|DIR", help_heading = "Model")]
    scorer: Option<String>,

    /// Directory of a cross-encoder, which reads query and document together, that scores instead
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "scorer",
        help_heading = "Model"
    )]
    cross_encoder: Option<PathBuf>,

    /// Column of the queries, by name or zero-based index; not needed where there is only one, or
    /// one is called `text`
    #[arg(long, value_name = "NAME|INDEX", help_heading = "Data")]
    query_column: Option<Column>,

    /// Column of the documents
    #[arg(long, value_name = "NAME|INDEX", help_heading = "Data")]
    corpus_column: Option<Column>,

    /// The first row of .csv and .tsv files is data, not column names
    #[arg(long, help_heading = "Data")]
    no_header: bool,

    /// Hard negatives a query
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Mining")]
    hard: usize,

    /// Dissimilar negatives a query
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Mining")]
    dissimilar: usize,

    /// Rank down to which negatives are hard
    #[arg(long, value_name = "N", default_value_t = 50, help_heading = "Mining")]
    depth: usize,

    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 42, help_heading = "Mining")]
    seed: u64,

    #[command(flatten)]
    batches: BatchArgs,

    /// Form of the summary
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin synthesize --queries questions.txt --corpus corpus.csv --corpus-column answer \\
      --scorer all-minilm-l6-v2 --output margins.csv
  fin synthesize --queries questions.txt --corpus corpus.csv --corpus-column answer \\
      --cross-encoder ms-marco-MiniLM-L6-v2 --output margins.csv
  fin fit --train margins.csv --loss margin_mse --output tuned";

pub fn run(args: &SynthesizeArgs, registry: &Registry) -> Result<()> {
    let modality = registry.modality(&args.model.model)?;
    for_family!(modality, run_with(args, registry))
}

fn run_with<F: Family>(args: &SynthesizeArgs, registry: &Registry) -> Result<()> {
    let names = ["query", "positive", "negative", "margin"];
    let mut writer = TableWriter::create(&args.output, Some(&names))?;
    let read = |path: &Path, column: Option<&Column>| -> Result<Distinct<F::Item>> {
        let reading = Reading {
            column,
            options: read_options(args.no_header, None),
            kind: None,
        };
        let mut items = Distinct::default();
        for item in F::read(path, reading)? {
            items.index_of(item?);
        }
        Ok(items)
    };
    let queries = read(&args.queries, args.query_column.as_ref())?;
    let documents = read(&args.corpus, args.corpus_column.as_ref())?;
    let same: Vec<(usize, usize)> = queries
        .items
        .iter()
        .enumerate()
        .filter_map(|(query, item)| Some((query, documents.find(item)?)))
        .collect();

    let model = OpenModel::<F>::open(&args.model, &args.model.options(), registry)?;
    // One that cannot be used is found before anything is embedded.
    let cross_encoder = match &args.cross_encoder {
        None => None,
        Some(directory) => Some((
            cross_encoder::open(directory, &args.model, &model.device)?,
            cross_encoder::texts(&queries.items)?,
            cross_encoder::texts(&documents.items)?,
        )),
    };
    let begin = Instant::now();
    let [asked, found] = embed(&model, [&queries.items, &documents.items], &args.batches)?;
    report::note_truncated(asked.truncated + found.truncated, model.max_length);
    let options = Synthesis {
        hard: args.hard,
        dissimilar: args.dissimilar,
        depth: args.depth,
        seed: args.seed,
    };
    let relations = options.relate(&asked.values, &found.values, found.dim, &same)?;
    if relations.is_empty() {
        let reason = format!(
            "has {}, which is not enough to set anything apart",
            count(documents.items.len(), F::NAMES[0], F::NAMES[1])
        );
        return Err(Error::invalid(&args.corpus, reason).into());
    }
    let scores = match (&cross_encoder, &args.scorer) {
        (Some((scorer, texts, others)), _) => {
            drop((model, asked, found));
            let pairs: Vec<(usize, usize)> = scored_pairs(&relations).collect();
            let bar = bar_of("pairs", Some(pairs.len()));
            let limits = args.batches.limits();
            cross_encoder::score(scorer, texts, others, &pairs, limits, &bar)?
        }
        (None, None) => {
            let cosine =
                |(query, document)| score(&asked.values, &found.values, found.dim, query, document);
            let scores = scored_pairs(&relations).map(cosine);
            scores.collect::<fin_core::Result<Vec<f32>>>()?
        }
        (None, Some(name)) => {
            drop((model, asked, found));
            let options = ModelOptions {
                device: args.model.device,
                max_pixels: args.model.max_pixels,
                check: args.model.check,
                ..ModelOptions::default()
            };
            let scorer = OpenModel::<F>::by_name(name, &options, registry)?;
            score_by::<F>(&scorer, &queries.items, &documents.items, &relations, args)?
        }
    };

    let (texts, others) = (written(&queries.items), written(&documents.items));
    let (mut above, mut below, mut margins) = (Vec::new(), Vec::new(), Vec::new());
    let mut scores = scores.into_iter();
    for relation in &relations {
        let (query, positive) = (relation.query, relation.positive);
        let Some(high) = scores.next() else { break };
        above.push(high);
        for (&negative, low) in relation.negatives.iter().zip(&mut scores) {
            below.push(low);
            margins.push(high - low);
            writer.write(&[
                Cell::Text(&texts[query]),
                Cell::Text(&others[positive]),
                Cell::Text(&others[negative]),
                Cell::Number(high - low),
            ])?;
        }
    }
    let rows = writer.finish()?;
    note!(
        "{} of {} in {}: {:.1} s",
        count(rows, "row", "rows"),
        count(relations.len(), "query", "queries"),
        args.output.display(),
        begin.elapsed().as_secs_f64()
    );
    let spread = [
        ("positive", Distribution::of(&above)),
        ("negative", Distribution::of(&below)),
        ("margin", Distribution::of(&margins)),
    ];
    let inverted = margins.iter().filter(|margin| **margin < 0.0).count();
    let counts = [
        ("queries", queries.items.len()),
        ("documents", documents.items.len()),
        ("rows written", rows),
        ("rows with a negative margin", inverted),
        (
            "queries without a row",
            queries.items.len() - relations.len(),
        ),
    ];
    match args.format {
        Format::Table => {
            let mut table = score_table(&spread);
            table.push(Vec::new());
            table.extend(counts.map(|(name, count)| vec![name.to_owned(), count.to_string()]));
            report::print(&report::columns(&table))
        }
        Format::Json => report::print_json(&json!({
            "model": args.model.model,
            "scorer": match (&args.cross_encoder, &args.scorer) {
                (Some(directory), _) => directory.display().to_string(),
                (None, scorer) => scorer.as_ref().unwrap_or(&args.model.model).clone(),
            },
            "output": args.output,
            "queries": counts[0].1,
            "documents": counts[1].1,
            "rows": rows,
            "rows_with_negative_margin": inverted,
            "queries_without_rows": counts[4].1,
            "positive": spread[0].1,
            "negative": spread[1].1,
            "margin": spread[2].1,
        })),
    }
}

/// The pairs of query and document that have a score: of each relation that of the positive, then
/// those of the negatives.
fn scored_pairs(relations: &[Relation]) -> impl Iterator<Item = (usize, usize)> {
    relations.iter().flat_map(|relation| {
        let documents = std::iter::once(&relation.positive).chain(&relation.negatives);
        documents.map(|&document| (relation.query, document))
    })
}

/// Cosines of queries and the documents that are in a relation, by another model.
fn score_by<F: Family>(
    scorer: &OpenModel<F>,
    queries: &[F::Item],
    documents: &[F::Item],
    relations: &[Relation],
    args: &SynthesizeArgs,
) -> Result<Vec<f32>> {
    // The row of each document, of those that are in a relation.
    let mut rows = vec![None; documents.len()];
    let mut used = Vec::new();
    for (_, document) in scored_pairs(relations) {
        if rows[document].is_none() {
            rows[document] = Some(used.len());
            used.push(documents[document].clone());
        }
    }
    let [asked, found] = embed(scorer, [queries, &used], &args.batches)?;
    report::note_truncated(asked.truncated + found.truncated, scorer.max_length);
    let cosine = |(query, document): (usize, usize)| {
        let row = rows[document].unwrap_or(usize::MAX);
        score(&asked.values, &found.values, found.dim, query, row)
    };
    let scores = scored_pairs(relations).map(cosine);
    Ok(scores.collect::<fin_core::Result<Vec<f32>>>()?)
}
