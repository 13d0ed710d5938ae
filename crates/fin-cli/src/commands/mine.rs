//! `fin mine`.

use std::path::PathBuf;
use std::time::Instant;

use clap::{ArgGroup, Args, ValueEnum};
use fin_core::input::{Column, PairColumns, read_pairs};
use fin_core::output::{Cell, TableWriter};
use fin_core::{Embeddings, PostProcess};
use fin_registry::Registry;
use fin_train::mining::{Distribution, HardNegatives, Mined, Sampling};
use serde_json::json;

use crate::args::{BatchArgs, ModelArgs, positive, read_options};
use crate::cross_encoder;
use crate::data::{Distinct, pair_columns};
use crate::family::{Family, Item, Reading, base_of, for_family};
use crate::model::{OpenModel, bar_of, item_bar};
use crate::report::{self, Format, Result, count, note, rounded};

/// Find hard negatives: what lies close to a query and does not belong to it
///
/// Reads pairs of a query and a document that belongs to it, embeds the queries and a corpus, ranks
/// the corpus for each query by cosine similarity, and writes the documents that rank high as
/// negatives. No document that belongs to a query in any row becomes a negative of it. The corpus is
/// the documents of the pairs, or that of --corpus with them; equal documents are one.
///
/// Filters on the score come first; of what they leave, the first --range-min documents are left
/// out, which are the likeliest to belong to the query unsaid, and those up to rank --range-max are
/// taken from. Options and results are those of `mine_hard_negatives` of sentence-transformers.
///
/// With --cross-encoder, similarities decide which documents are ranked for a query at all; margins,
/// scores, ranks and what is written are then by its scores, which it gives for a query and a
/// document together.
#[derive(Debug, Args)]
#[command(
    after_long_help = EXAMPLES,
    group(ArgGroup::new("limits").args(["max_score", "min_score", "margin", "relative_margin"]).multiple(true))
)]
pub struct MineArgs {
    /// File of pairs: .csv, .tsv, .jsonl or .parquet
    pairs: PathBuf,

    /// File to write: .csv, .tsv or .jsonl
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    /// What to write: triplets (anchor, positive, negative), tuples (anchor, positive, negative_1,
    /// negative_2 …, of queries with enough negatives alone), scored-pairs (sentence1, sentence2,
    /// score 1 or 0) or margins (query, positive, negative, margin)
    #[arg(long, value_enum, value_name = "FORM", default_value_t)]
    form: MinedForm,

    #[command(flatten)]
    model: ModelArgs,

    /// Directory of a cross-encoder whose scores count in place of similarities; with a margin,
    /// --max-score or --min-score
    #[arg(long, value_name = "DIR", requires = "limits", help_heading = "Model")]
    cross_encoder: Option<PathBuf>,

    /// Columns of the pairs, by name or zero-based index, as in query,answer
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Data"
    )]
    columns: Vec<Column>,

    /// The first row of .csv and .tsv files is data, not column names
    #[arg(long, help_heading = "Data")]
    no_header: bool,

    /// Further documents to take negatives from: .txt, .csv, .tsv, .jsonl or .parquet; or a
    /// directory of images or meshes
    #[arg(long, value_name = "FILE|DIR", help_heading = "Data")]
    corpus: Option<PathBuf>,

    /// Column of the further documents; not needed where there is only one, or one is called
    /// `text`
    #[arg(
        long,
        value_name = "NAME|INDEX",
        requires = "corpus",
        help_heading = "Data"
    )]
    corpus_column: Option<Column>,

    /// Negatives a query
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive, help_heading = "Mining")]
    negatives: usize,

    /// Documents to leave out at the top of what the filters leave
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Mining")]
    range_min: usize,

    /// Rank up to which negatives are taken [default: --range-min, the negatives (ten times as many
    /// with a margin, --max-score or --cross-encoder) and the most documents of a query]
    #[arg(long, value_name = "N", help_heading = "Mining")]
    range_max: Option<usize>,

    /// Largest similarity of a negative
    #[arg(
        long,
        value_name = "SCORE",
        allow_negative_numbers = true,
        help_heading = "Mining"
    )]
    max_score: Option<f32>,

    /// Smallest similarity of a negative
    #[arg(
        long,
        value_name = "SCORE",
        allow_negative_numbers = true,
        help_heading = "Mining"
    )]
    min_score: Option<f32>,

    /// By how much a negative is less similar than the least similar document of the query
    #[arg(long, value_name = "SCORE", help_heading = "Mining")]
    margin: Option<f32>,

    /// The same as a share of that document's similarity
    #[arg(long, value_name = "SHARE", help_heading = "Mining")]
    relative_margin: Option<f32>,

    /// Which of the documents that are left to take: top or random
    #[arg(long, value_name = "HOW", default_value_t, help_heading = "Mining")]
    sampling: Sampling,

    /// Seed of --sampling random
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
  fin mine train.csv --columns query,answer --model all-minilm-l6-v2 --output triplets.csv
  fin mine train.csv --columns query,answer --corpus corpus.csv --corpus-column answer \\
      --negatives 5 --relative-margin 0.05 --form tuples --output tuples.jsonl
  fin mine train.csv --columns query,answer --cross-encoder ms-marco-MiniLM-L6-v2 --margin 3 \\
      --form margins --output margins.csv
  fin fit --train triplets.csv --loss multiple_negatives_ranking --output tuned";

/// What rows are made of what was mined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum MinedForm {
    /// A row a negative.
    #[default]
    Triplets,
    /// A row a pair.
    Tuples,
    /// A row a document.
    ScoredPairs,
    /// A row a negative, with the difference of the similarities.
    Margins,
}

pub fn run(args: &MineArgs, registry: &Registry) -> Result<()> {
    let modality = registry.modality(&args.model.model)?;
    for_family!(modality, run_with(args, registry))
}

fn run_with<F: Family>(args: &MineArgs, registry: &Registry) -> Result<()> {
    let names = args.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let writer = TableWriter::create(&args.output, Some(&names))?;
    let read = read_options(args.no_header, None);
    let columns = PairColumns {
        negatives: Some(Vec::new()),
        ..pair_columns(&args.columns)?
    };
    let rows = read_pairs(&args.pairs, &columns, read)?;
    let (mut queries, mut documents) = (Distinct::default(), Distinct::default());
    if let Some(path) = &args.corpus {
        let reading = Reading {
            column: args.corpus_column.as_ref(),
            options: read,
            kind: None,
        };
        for document in F::read(path, reading)? {
            documents.index_of(document?);
        }
    }
    let base = base_of(&args.pairs);
    let item = |cell| F::Item::from_cell(cell, &base, None);
    let pairs: Vec<(usize, usize)> = rows
        .into_iter()
        .map(|row| {
            let query = queries.index_of(item(row.anchor));
            (query, documents.index_of(item(row.positive)))
        })
        .collect();

    let model = OpenModel::<F>::open(&args.model, &args.model.options(), registry)?;
    let scorer = match &args.cross_encoder {
        None => None,
        Some(directory) => Some((
            cross_encoder::open(directory, &args.model, &model.device)?,
            cross_encoder::texts(&queries.items)?,
            cross_encoder::texts(&documents.items)?,
        )),
    };
    let begin = Instant::now();
    let [asked, found] = embed(&model, [&queries.items, &documents.items], &args.batches)?;
    let mined = match &scorer {
        None => args
            .options()
            .mine(&asked.values, &found.values, found.dim, &pairs)?,
        Some((scorer, queries, documents)) => {
            let rescore = |pairs: &[(usize, usize)]| {
                let bar = bar_of("pairs", Some(pairs.len()));
                let limits = args.batches.limits();
                cross_encoder::score(scorer, queries, documents, pairs, limits, &bar)
            };
            let (dim, options) = (found.dim, args.options());
            options.mine_rescored(&asked.values, &found.values, dim, &pairs, rescore)?
        }
    };
    let (texts, others) = (written(&queries.items), written(&documents.items));
    let rows = args.write(writer, &mined, &texts, &others)?;
    report::note_truncated(asked.truncated + found.truncated, model.max_length);
    note!(
        "{} of {} in {}: {:.1} s",
        count(rows, "row", "rows"),
        count(queries.items.len(), "query", "queries"),
        args.output.display(),
        begin.elapsed().as_secs_f64()
    );
    args.summarize(&mined, rows, pairs.len(), documents.items.len())
}

/// Embeds two lists as rows of unit length.
pub fn embed<F: Family>(
    model: &OpenModel<F>,
    lists: [&[F::Item]; 2],
    batches: &BatchArgs,
) -> Result<[Embeddings; 2]> {
    let bar = item_bar::<F>(Some(lists[0].len() + lists[1].len()));
    let post = PostProcess {
        dim: None,
        normalize: true,
    };
    let first = model.encode(lists[0], batches.limits(), post, &bar)?;
    let second = model.encode(lists[1], batches.limits(), post, &bar)?;
    bar.finish_and_clear();
    Ok([first, second])
}

/// Items as they are written: files by their whole paths, which hold wherever the output is.
pub fn written<I: Item>(items: &[I]) -> Vec<String> {
    let text = |item: &I| match item.is_path() {
        true => match std::path::absolute(item.key()) {
            Ok(path) => path.display().to_string(),
            Err(_) => item.key(),
        },
        false => item.key(),
    };
    items.iter().map(text).collect()
}

impl MineArgs {
    fn options(&self) -> HardNegatives {
        HardNegatives {
            negatives: self.negatives,
            range_min: self.range_min,
            range_max: self.range_max,
            max_score: self.max_score,
            min_score: self.min_score,
            absolute_margin: self.margin,
            relative_margin: self.relative_margin,
            sampling: self.sampling,
            seed: self.seed,
        }
    }

    /// Names of the columns.
    fn names(&self) -> Vec<String> {
        let names: &[&str] = match self.form {
            MinedForm::Triplets => &["anchor", "positive", "negative"],
            MinedForm::Tuples => &["anchor", "positive"],
            MinedForm::ScoredPairs => &["sentence1", "sentence2", "score"],
            MinedForm::Margins => &["query", "positive", "negative", "margin"],
        };
        let mut names: Vec<String> = names.iter().map(ToString::to_string).collect();
        if self.form == MinedForm::Tuples {
            names.extend((1..=self.negatives).map(|i| format!("negative_{i}")));
        }
        names
    }

    /// Writes the rows and returns how many there are.
    fn write(
        &self,
        mut writer: TableWriter,
        mined: &Mined,
        queries: &[String],
        documents: &[String],
    ) -> Result<usize> {
        let lists = mined.positives.iter().zip(&mined.negatives);
        for (query, (positives, negatives)) in queries.iter().zip(lists) {
            let query = Cell::Text(query);
            let document = |index: usize| Cell::Text(&documents[index]);
            if self.form == MinedForm::ScoredPairs {
                let scored = [(positives, 1.0), (negatives, 0.0)];
                for (documents, score) in scored {
                    for &(index, _) in documents {
                        writer.write(&[query, document(index), Cell::Number(score)])?;
                    }
                }
                continue;
            }
            for &(positive, above) in positives {
                let pair = [query, document(positive)];
                if self.form == MinedForm::Tuples {
                    if negatives.len() == self.negatives {
                        let negatives = negatives.iter().map(|&(index, _)| document(index));
                        writer.write(&pair.into_iter().chain(negatives).collect::<Vec<_>>())?;
                    }
                    continue;
                }
                for &(negative, below) in negatives {
                    let mut row = vec![pair[0], pair[1], document(negative)];
                    if self.form == MinedForm::Margins {
                        row.push(Cell::Number(above - below));
                    }
                    writer.write(&row)?;
                }
            }
        }
        Ok(writer.finish()?)
    }

    fn summarize(&self, mined: &Mined, rows: usize, pairs: usize, documents: usize) -> Result<()> {
        let scores = |lists: &[Vec<(usize, f32)>]| -> Vec<f32> {
            lists.iter().flatten().map(|(_, score)| *score).collect()
        };
        let lists = mined.positives.iter().zip(&mined.negatives);
        let differences: Vec<f32> = lists
            .flat_map(|(positives, negatives)| {
                positives.iter().flat_map(move |(_, above)| {
                    negatives.iter().map(move |(_, below)| above - below)
                })
            })
            .collect();
        let spread = [
            ("positive", Distribution::of(&scores(&mined.positives))),
            ("negative", Distribution::of(&scores(&mined.negatives))),
            ("difference", Distribution::of(&differences)),
        ];
        let lacking = mined
            .negatives
            .iter()
            .filter(|found| found.len() < self.negatives);
        let none = mined.negatives.iter().filter(|found| found.is_empty());
        let skipped = &mined.skipped;
        let counts = [
            ("pairs", pairs),
            ("queries", mined.negatives.len()),
            ("documents", documents),
            ("rows written", rows),
            ("ranks taken from, up to", mined.range_max),
            ("left out: belongs to the query", skipped.positives),
            ("left out: margin", skipped.absolute_margin),
            ("left out: relative margin", skipped.relative_margin),
            ("left out: max score", skipped.max_score),
            ("left out: min score", skipped.min_score),
            ("queries with too few negatives", lacking.count()),
            ("queries with none", none.count()),
        ];
        match self.format {
            Format::Table => {
                let mut table = score_table(&spread);
                table.push(Vec::new());
                // What was not asked for left nothing out.
                let shown = counts
                    .iter()
                    .enumerate()
                    .filter(|(i, (_, count))| *count > 0 || !(6..10).contains(i));
                table.extend(
                    shown.map(|(_, (name, count))| vec![(*name).to_owned(), count.to_string()]),
                );
                report::print(&report::columns(&table))
            }
            Format::Json => report::print_json(&json!({
                "model": self.model.model,
                "cross_encoder": self.cross_encoder,
                "output": self.output,
                "pairs": pairs,
                "queries": counts[1].1,
                "documents": documents,
                "rows": rows,
                "range_max": mined.range_max,
                "skipped": skipped,
                "queries_with_too_few": counts[10].1,
                "queries_with_none": counts[11].1,
                "positive": spread[0].1,
                "negative": spread[1].1,
                "difference": spread[2].1,
            })),
        }
    }
}

/// Cells for [`report::columns`]: a column a distribution, of those that are not empty.
pub fn score_table(spread: &[(&str, Option<Distribution>)]) -> Vec<Vec<String>> {
    let number = |value: f64| format!("{:.4}", rounded(value, 4));
    type Get = fn(&Distribution) -> f64;
    let lines: [(&str, Get); 6] = [
        ("mean", |found| found.mean),
        ("min", |found| found.min),
        ("25 %", |found| found.lower_quartile),
        ("50 %", |found| found.median),
        ("75 %", |found| found.upper_quartile),
        ("max", |found| found.max),
    ];
    let row = |name: &str, cell: &dyn Fn(&Distribution) -> String| {
        let cells = spread.iter().map(|(_, found)| match found {
            Some(found) => cell(found),
            None => "-".to_owned(),
        });
        std::iter::once(name.to_owned()).chain(cells).collect()
    };
    let mut table: Vec<Vec<String>> = vec![
        std::iter::once("score")
            .chain(spread.iter().map(|(name, _)| *name))
            .map(String::from)
            .collect(),
        row("count", &|found| found.count.to_string()),
    ];
    for (name, get) in lines {
        table.push(row(name, &|found| number(get(found))));
    }
    table
}
