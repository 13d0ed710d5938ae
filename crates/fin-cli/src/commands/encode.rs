//! `fin encode`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use fin_core::PostProcess;
use fin_core::atomic::AtomicFile;
use fin_core::input::{TextFormat, TextReader};
use fin_core::output::{EmbeddingWriter, OutputFormat};
use fin_registry::Registry;
use serde_json::json;

use crate::args::{BatchArgs, ColumnArgs, ModelArgs, positive, read_options};
use crate::model::{OpenModel, text_bar};
use crate::report::{self, Format, Result, count, note, rounded};

/// Turn the texts of a file into embeddings
///
/// Row i of the output is the embedding of text i of the input. The input is read, embedded and
/// written in windows of some thousand texts, so that files of any length fit into memory. The
/// output appears once it is complete; where something fails, an older file is left as it was.
///
/// Input: .txt (a text a line), .csv, .tsv, .jsonl (strings, or objects with a field `text`), or
/// - for stdin. Output: .npy (float32 [rows, dim]), .parquet (id, text, embedding) or .jsonl.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct EncodeArgs {
    /// File of texts, or - for stdin
    input: PathBuf,

    /// File to write: .npy, .parquet or .jsonl
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    model: ModelArgs,

    /// Scale embeddings to unit length, whatever the model says
    #[arg(long, overrides_with = "no_normalize", help_heading = "Model")]
    normalize: bool,

    /// Leave embeddings as they are before the scaling to unit length, whatever the model says
    #[arg(long, help_heading = "Model")]
    no_normalize: bool,

    /// Keep the first N components only; they are scaled to unit length again where the model
    /// does so
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Model")]
    dim: Option<usize>,

    #[command(flatten)]
    columns: ColumnArgs,

    /// Format of the input where its extension does not say it: txt, csv, tsv or jsonl
    #[arg(long, value_name = "FORMAT", help_heading = "Data")]
    input_format: Option<TextFormat>,

    #[command(flatten)]
    batches: BatchArgs,

    /// Form of the summary: a line on stderr, or JSON on stdout
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin encode corpus.csv --column answer --model all-minilm-l6-v2 --output corpus.parquet
  fin encode pairs.csv --no-header --column 0 --model ./tuned --dim 128 --output first.npy
  zcat texts.gz | fin encode - --model ./tuned --output texts.jsonl";

/// Most texts that are in memory at a time.
const WINDOW_TEXTS: usize = 4096;
/// Bytes of text at which a window is full before that.
const WINDOW_BYTES: usize = 16 << 20;

pub fn run(args: &EncodeArgs, registry: &Registry) -> Result<()> {
    // What can be found wrong before the model is opened is.
    OutputFormat::from_path(&args.output)?;
    drop(AtomicFile::create(&args.output)?);
    let read = read_options(args.columns.no_header, args.input_format);
    let mut reader = TextReader::open(&args.input, args.columns.column.as_ref(), read)?;

    let mut options = args.model.options();
    options.normalize = match (args.normalize, args.no_normalize) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let model = OpenModel::open(&args.model, &options, registry)?;
    let post = PostProcess {
        dim: args.dim,
        normalize: args.dim.is_some() && model.normalizes(),
    };
    let dim = post.output_dim(model.output_dim())?;
    let mut writer = EmbeddingWriter::create(&args.output, dim, "text")?;

    let begin = Instant::now();
    let bar = text_bar(None);
    let mut truncated = 0;
    loop {
        let window = next_window(&mut reader)?;
        if window.is_empty() {
            break;
        }
        let embeddings = model.encode(&window, args.batches.limits(), post, &bar)?;
        truncated += embeddings.truncated;
        let keys: Vec<&str> = window.iter().map(String::as_str).collect();
        writer.write_batch(&keys, &embeddings.values)?;
    }
    let summary = writer.finish()?;
    bar.finish_and_clear();

    let seconds = begin.elapsed().as_secs_f64();
    let per_second = summary.rows as f64 / seconds.max(1e-9);
    report::note_truncated(truncated, model.max_length());
    match args.format {
        Format::Table => {
            note!(
                "{} of {} numbers in {}: {seconds:.1} s, {per_second:.0} rows/s",
                count(summary.rows, "row", "rows"),
                summary.dim,
                args.output.display()
            );
            Ok(())
        }
        Format::Json => report::print_json(&json!({
            "model": args.model.model,
            "output": args.output,
            "rows": summary.rows,
            "dim": summary.dim,
            "truncated": truncated,
            "max_length": model.max_length(),
            "load_seconds": rounded(model.seconds, 3),
            "seconds": rounded(seconds, 3),
            "rows_per_second": rounded(per_second, 1),
            "tensors": report::tensors_json(model.embedder.report()),
        })),
    }
}

/// The next texts, none at the end of the input.
fn next_window(reader: &mut TextReader) -> fin_core::Result<Vec<String>> {
    let mut window = Vec::new();
    let mut bytes = 0;
    while window.len() < WINDOW_TEXTS && bytes < WINDOW_BYTES {
        let Some(text) = reader.next().transpose()? else {
            break;
        };
        bytes += text.len();
        window.push(text);
    }
    Ok(window)
}
