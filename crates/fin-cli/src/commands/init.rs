//! `fin init`.

use std::path::PathBuf;

use clap::Args;
use fin_core::DeviceSpec;
use fin_registry::{ModelOptions, Registry};
use serde_json::json;

use crate::report::{self, Format, Result, check_replaceable, note};

/// Make a model without training
///
/// Weights are drawn at random, as the reference implementations draw them; the same seed gives the
/// same weights. Such a model is where training from nothing begins: for meshes, for which few
/// weights are published, or for a small model of texts and images of your own.
///
/// For meshes, give a name. For texts and images, give a directory with configuration
/// (config.json, or open_clip_config.json) and tokenizer files but without weights.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct InitArgs {
    /// Name in the catalogue, or directory with a configuration
    model: String,

    /// Directory to write the model to
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,

    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,

    /// Replace an older model in the output directory
    #[arg(long)]
    overwrite: bool,

    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin init pointnet-base --seed 1 --output ./shapes
  fin init ./small-clip --output ./untrained";

pub fn run(args: &InitArgs, registry: &Registry) -> Result<()> {
    check_replaceable(&args.output, args.overwrite, "--output")?;
    let options = ModelOptions {
        device: DeviceSpec::Flex,
        ..ModelOptions::default()
    };
    let model = registry.init_model(&args.model, &options, args.seed)?;
    model.embedder.save(&args.output)?;
    match args.format {
        Format::Table => {
            note!(
                "an untrained model of {} with embeddings of {} numbers is in {}",
                model.embedder.reads(),
                model.output_dim(),
                args.output.display()
            );
            Ok(())
        }
        Format::Json => report::print_json(&json!({
            "model": args.model,
            "seed": args.seed,
            "output": args.output,
            "dim": model.output_dim(),
        })),
    }
}
