//! `fin models`.

use clap::Args;
use fin_registry::{Registry, Task};

use crate::report::{self, Format, Result};

/// List the models that are known by name
///
/// The files of a model are looked for in $FIN_MODELS/NAME, in the cache ($FIN_CACHE/NAME, by
/// default ~/.cache/fin/NAME), in the cache of the Hugging Face hub, and for torchvision's weights in
/// that of PyTorch; what is in none of them is downloaded on first use. Any other model in the format
/// of Hugging Face or sentence-transformers, or written by fin, is given by its directory.
/// --catalogue adds rows of your own.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ModelsArgs {
    /// Only models of this task: text-to-text, image-to-image, text-to-image or mesh-to-mesh
    #[arg(long)]
    task: Option<Task>,

    /// Form of the list; json has further fields: source, licence, pooling,
    /// normalize, max_length and more
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin models --task text-to-text
  fin models --format json";

pub fn run(args: &ModelsArgs, registry: &Registry) -> Result<()> {
    let catalogue = &registry.catalogue;
    match args.format {
        Format::Table => report::print(&catalogue.table(args.task)),
        Format::Json => report::print_json(&catalogue.list(args.task)),
    }
}
