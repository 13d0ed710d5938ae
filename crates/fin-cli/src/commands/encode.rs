//! `fin encode`.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use fin_core::atomic::AtomicFile;
use fin_core::input::TextFormat;
use fin_core::output::{EmbeddingWriter, OutputFormat};
use fin_core::{Error, PostProcess};
use fin_registry::Registry;
use serde_json::json;

use crate::args::{BatchArgs, ColumnArgs, ModelArgs, positive};
use crate::family::{Family, Item, Items, Texts, for_family};
use crate::model::{OpenModel, item_bar};
use crate::report::{self, Format, Result, count, note, rounded};

/// Turn texts, images or meshes into embeddings
///
/// Row i of the output is the embedding of item i of the input. The input is read, embedded and
/// written in windows, so that files of any length fit into memory. The output appears once it is
/// complete; where something fails, an older file is left as it was.
///
/// Texts: .txt (a text a line), .csv, .tsv, .jsonl (strings, or objects with a field `text`),
/// .parquet, or - for stdin.
///
/// Images and meshes: a directory with all below it, a pattern in quotes, a file of one, or a file
/// with a column of paths, which are relative to the directory that the file is in. Directories and
/// patterns are taken in sorted order.
///
/// A model of texts and images takes either, also mixed in one column; what ends like an image's
/// name is one, unless --modality says otherwise.
///
/// Output: .npy (float32 [rows, dim]; the paths of images are put beside it, in OUTPUT.paths.txt),
/// .parquet (id, text, path or item, embedding) or .jsonl.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct EncodeArgs {
    /// File of texts or paths, directory or pattern of images, or - for stdin
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

    /// Format of the input where its extension does not say it: txt, csv, tsv, jsonl or
    /// parquet
    #[arg(long, value_name = "FORMAT", help_heading = "Data")]
    input_format: Option<TextFormat>,

    /// What to do about images or meshes that cannot be read: leave them out and list them on stderr, or fail
    /// at the first [default: fail]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Data")]
    on_error: Option<OnError>,

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
  zcat texts.gz | fin encode - --model ./tuned --output texts.jsonl
  fin encode photos/ --model resnet-base --on-error skip --output photos.parquet
  fin encode captions.csv --modality text --model clip-base-en --output captions.npy
  fin encode meshes/ --model ./shapes --points 1024 --output meshes.parquet";

/// What becomes of an item that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnError {
    /// It is left out.
    Skip,
    /// Nothing is written.
    Fail,
}

/// Bytes of items at which a window is full before it has as many as it may.
const WINDOW_BYTES: usize = 16 << 20;

pub fn run(args: &EncodeArgs, registry: &Registry) -> Result<()> {
    // What can be found wrong before the model is opened is.
    let format = OutputFormat::from_path(&args.output)?;
    drop(AtomicFile::create(&args.output)?);
    let modality = registry.modality(&args.model.model)?;
    for_family!(modality, run_with(args, format, registry))
}

fn run_with<F: Family>(args: &EncodeArgs, format: OutputFormat, registry: &Registry) -> Result<()> {
    if args.on_error.is_some() && F::KEY == Texts::KEY {
        let reason = "is for files; a row of texts that cannot be read ends the run";
        return Err(Error::argument("on-error", reason).into());
    }
    let skips = args.on_error == Some(OnError::Skip);
    let mut items = F::read(&args.input, args.columns.reading(args.input_format))?;

    let mut options = args.model.options();
    options.normalize = match (args.normalize, args.no_normalize) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let model = OpenModel::<F>::open(&args.model, &options, registry)?;
    let post = PostProcess {
        dim: args.dim,
        normalize: args.dim.is_some() && model.normalizes,
    };
    let dim = post.output_dim(model.output_dim)?;
    let mut writer = EmbeddingWriter::create(&args.output, dim, F::KEY)?;
    // A .npy file has no place for paths.
    let beside = (F::ARE_FILES && format == OutputFormat::Npy)
        .then(|| args.output.with_extension("paths.txt"));
    let mut paths = match &beside {
        Some(path) => Some(AtomicFile::create(path)?),
        None => None,
    };

    let begin = Instant::now();
    let bar = item_bar::<F>(None);
    let (mut rows, mut truncated, mut skipped) = (0, 0, Vec::new());
    loop {
        let mut window = next_window::<F>(&mut items)?;
        if window.is_empty() {
            break;
        }
        let embeddings = if skips {
            let (embeddings, rejected) =
                model.encode_each(&window, args.batches.limits(), post, &bar)?;
            for rejected in rejected.into_iter().rev() {
                let item = window.remove(rejected.index);
                bar.suspend(|| note!("skipped: {}", rejected.error));
                skipped.push(item.key());
            }
            embeddings
        } else {
            model.encode(&window, args.batches.limits(), post, &bar)?
        };
        rows += embeddings.rows();
        truncated += embeddings.truncated;
        let keys: Vec<String> = window.iter().map(Item::key).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        writer.write_batch(&keys, &embeddings.values)?;
        if let (Some(paths), Some(path)) = (&mut paths, &beside) {
            for key in &keys {
                writeln!(paths.file_mut()?, "{key}").map_err(Error::io(path, "write"))?;
            }
        }
    }
    bar.finish_and_clear();
    if !skipped.is_empty() && rows == 0 {
        let reason = format!(
            "none of {} could be read; nothing was written",
            count(skipped.len(), F::NAMES[0], F::NAMES[1])
        );
        return Err(Error::invalid(&args.input, reason).into());
    }
    if let Some(paths) = paths {
        paths.commit()?;
    }
    let summary = writer.finish()?;

    let seconds = begin.elapsed().as_secs_f64();
    let per_second = summary.rows as f64 / seconds.max(1e-9);
    report::note_truncated(truncated, model.max_length);
    match args.format {
        Format::Table => {
            note!(
                "{} of {} numbers in {}: {seconds:.1} s, {per_second:.0} rows/s",
                count(summary.rows, "row", "rows"),
                summary.dim,
                args.output.display()
            );
            if !skipped.is_empty() {
                let skipped = count(skipped.len(), F::NAMES[0], F::NAMES[1]);
                note!("{skipped} left out, listed above");
            }
            Ok(())
        }
        Format::Json => {
            skipped.sort();
            report::print_json(&json!({
                "model": args.model.model,
                "output": args.output,
                "paths": beside,
                "rows": summary.rows,
                "dim": summary.dim,
                "skipped": skipped,
                "truncated": truncated,
                "max_length": model.max_length,
                "load_seconds": rounded(model.seconds, 3),
                "seconds": rounded(seconds, 3),
                "rows_per_second": rounded(per_second, 1),
                "tensors": report::tensors_json(&model.tensors),
            }))
        }
    }
}

/// The next items, none at the end of the input.
fn next_window<F: Family>(items: &mut Items<F::Item>) -> fin_core::Result<Vec<F::Item>> {
    let mut window = Vec::new();
    let mut bytes = 0;
    while window.len() < F::WINDOW && bytes < WINDOW_BYTES {
        let Some(item) = items.next().transpose()? else {
            break;
        };
        bytes += item.key().len();
        window.push(item);
    }
    Ok(window)
}
