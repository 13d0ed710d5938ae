//! `fin download`.

use clap::Args;
use fin_core::Error;
use fin_registry::{Hub, HubSource, Registry};

use crate::report::{self, Result};

/// Download a model, and print the directory that holds it, or its file of weights
///
/// Models by name are downloaded when they are first needed; this does it beforehand, and looks for
/// newer files where the revision is a branch. Files go to the cache of the Hugging Face hub
/// ($HF_HUB_CACHE, by default ~/.cache/huggingface/hub), where Python finds them too; what is there
/// already is not downloaded again. An interrupted download goes on where it ended.
///
/// Weights of torchvision come from torchvision's address into the directory where PyTorch keeps them
/// ($TORCH_HOME/hub/checkpoints, by default ~/.cache/torch/hub/checkpoints).
///
/// HF_ENDPOINT is the hub's address, HF_TOKEN a token for private and gated models.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DownloadArgs {
    /// Name in the catalogue (see `fin models`), or a repository of a text model on the hub as
    /// ORGANISATION/NAME
    name: String,

    /// Branch, tag or commit instead of the catalogue's, or of `main`
    #[arg(long)]
    revision: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  fin download all-minilm-l6-v2
  fin download resnet-base
  fin encode texts.txt --model \"$(fin download sentence-transformers/all-MiniLM-L12-v2)\" \\
      --output texts.npy";

pub fn run(args: &DownloadArgs, registry: &Registry) -> Result<()> {
    let mut source = if args.name.contains('/') {
        HubSource::new(&args.name)
    } else {
        let row = registry.catalogue.find(&args.name)?;
        if row.is_address() || row.is_embedded() {
            if args.revision.is_some() {
                let reason = "this model is not in a repository and has no revisions";
                return Err(Error::argument("revision", reason).into());
            }
            let path = registry.locations.fetch(row)?;
            return report::print(&format!("{}\n", path.display()));
        }
        HubSource::from(row)
    };
    if args.revision.is_some() && args.revision != source.revision {
        source.revision.clone_from(&args.revision);
        // What the catalogue knows is about its own revision.
        source.weights_sha256 = None;
    }
    let Some(hub) = &registry.locations.hub else {
        let reason = "there is no place for downloads; set it to a directory";
        return Err(Error::argument("HF_HUB_CACHE", reason).into());
    };
    let directory = Hub::new(hub.clone()).fetch(&source)?;
    report::print(&format!("{}\n", directory.display()))
}
