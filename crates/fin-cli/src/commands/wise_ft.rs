//! `fin wise-ft`.

use std::path::PathBuf;

use clap::Args;
use fin_core::input::Column;
use fin_core::{DeviceSpec, Embedder, Error};
use fin_registry::{ModelOptions, Registry};
use fin_train::{Metrics, wise_ft};
use serde_json::json;

use crate::args::{positive, read_options};
use crate::data::{EvalSource, EvalTask, metric_rows};
use crate::family::{Family, for_family};
use crate::model::OpenModel;
use crate::report::{self, Format, Result, check_replaceable, note};

/// Measure the models between a model and what fine-tuning made of it
///
/// Weights are mixed as 1 - alpha of those before and alpha of those after (Wortsman et al. 2022,
/// WiSE-FT), the means and variances of batch normalisations with them. Such a model is often better
/// than either: on data like that of the fine-tuning, or on other data, where fine-tuning costs a
/// little of what the model could do before. Measure on both kinds and choose.
///
/// Data, tasks and columns are those of `fin eval`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct WiseFtArgs {
    /// Model before fine-tuning: name in the catalogue or directory
    #[arg(long, value_name = "NAME|DIR")]
    before: String,

    /// Model after it, of the same form
    #[arg(long, value_name = "NAME|DIR")]
    after: String,

    /// Where to compute: flex, tch, tch:N, wgpu, wgpu:N or cuda:N
    #[arg(long, default_value = "flex")]
    device: DeviceSpec,

    /// File of evaluation data: .csv, .tsv, .jsonl or .parquet; or directory of images or meshes by class
    #[arg(long, value_name = "FILE|DIR", required_unless_present = "output")]
    data: Option<PathBuf>,

    /// What to measure
    #[arg(long, value_enum, required_unless_present = "output")]
    task: Option<EvalTask>,

    /// Shares of the weights after fine-tuning to measure
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "0,0.25,0.5,0.75,1"
    )]
    alphas: Vec<f64>,

    /// Columns of the data, by name or zero-based index, as in query,answer
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    columns: Vec<Column>,

    /// The first row of .csv and .tsv files is data, not column names
    #[arg(long)]
    no_header: bool,

    /// Cut-offs of the rankings, for retrieval
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,3,5,10", value_parser = positive)]
    k: Vec<usize>,

    /// Directory to write the model of --alpha to
    #[arg(long, short, value_name = "DIR", requires = "alpha")]
    output: Option<PathBuf>,

    /// Share of the weights after fine-tuning in the model that is written
    #[arg(long, value_name = "SHARE", requires = "output")]
    alpha: Option<f64>,

    /// Replace an older model in the output directory
    #[arg(long)]
    overwrite: bool,

    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin wise-ft --before clip-base-en --after ./tuned --data captions.csv --task retrieval
  fin wise-ft --before clip-base-en --after ./tuned --alpha 0.5 --output ./between";

pub fn run(args: &WiseFtArgs, registry: &Registry) -> Result<()> {
    let modality = registry.modality(&args.after)?;
    let other = registry.modality(&args.before)?;
    if modality != other {
        let reason = format!("is a model of {other}, --after is one of {modality}");
        return Err(Error::argument("before", reason).into());
    }
    for_family!(modality, run_with(args, registry))
}

fn run_with<F: Family>(args: &WiseFtArgs, registry: &Registry) -> Result<()> {
    let of_list = args.alphas.iter().map(|alpha| ("alphas", alpha));
    let written = args.alpha.iter().map(|alpha| ("alpha", alpha));
    let mut given = of_list.chain(written);
    if let Some((name, alpha)) = given.find(|(_, alpha)| !(0.0..=1.0).contains(*alpha)) {
        let reason = format!("{alpha} is not between 0 (before) and 1 (after)");
        return Err(Error::argument(name, reason).into());
    }
    if let Some(output) = &args.output {
        check_replaceable(output, args.overwrite, "--output")?;
    }
    let evaluation = match (&args.data, args.task) {
        (Some(data), Some(task)) => Some(
            EvalSource {
                data,
                task,
                columns: &args.columns,
                read: read_options(args.no_header, None),
                corpus: None,
                corpus_column: None,
                cutoffs: &args.k,
            }
            .read::<F>()?,
        ),
        (None, None) => None,
        _ => {
            let reason = "go together; give both, or neither and --output alone";
            return Err(Error::argument("data and task", reason).into());
        }
    };
    let options = ModelOptions {
        device: args.device,
        ..ModelOptions::default()
    };
    let before = OpenModel::<F>::by_name(&args.before, &options, registry)?;
    let after = OpenModel::<F>::by_name(&args.after, &options, registry)?;
    let mix = |alpha| wise_ft(&before.embedder, after.embedder.clone(), alpha);

    let mut curve: Vec<(f64, Metrics)> = Vec::new();
    if let Some(evaluation) = &evaluation {
        for &alpha in &args.alphas {
            let embedder = mix(alpha)?;
            let rankings = evaluation.rank(&embedder, &after.device)?;
            let metrics = evaluation.measure(&rankings, &embedder, &after.device)?;
            curve.push((alpha, metrics));
        }
    }
    if let (Some(output), Some(alpha)) = (&args.output, args.alpha) {
        mix(alpha)?.save(output)?;
        note!("the model at {alpha} is in {}", output.display());
    }
    match args.format {
        Format::Table if curve.is_empty() => Ok(()),
        Format::Table => {
            let names: Vec<String> = curve.iter().map(|(alpha, _)| alpha.to_string()).collect();
            let columns = names.iter().zip(&curve);
            let columns: Vec<(&str, &Metrics)> = columns
                .map(|(name, (_, metrics))| (name.as_str(), metrics))
                .collect();
            let mut rows = metric_rows(&columns);
            if let Some(cell) = rows.first_mut().and_then(|row| row.first_mut())
                && cell.is_empty()
            {
                *cell = "alpha".into();
            }
            report::print(&report::columns(&rows))
        }
        Format::Json => {
            let curve = curve.iter();
            let curve = curve.map(|(alpha, metrics)| json!({"alpha": alpha, "metrics": metrics}));
            report::print_json(&json!({
                "before": args.before,
                "after": args.after,
                "data": args.data,
                "task": args.task,
                "curve": curve.collect::<Vec<_>>(),
                "alpha": args.alpha,
                "output": args.output,
            }))
        }
    }
}
