//! `fin fit`.

mod data;
mod outcome;
mod run;
mod settings;
mod workspace;

use std::path::PathBuf;

use clap::Args;

pub use run::run;
use settings::Settings;

use crate::report::Format;

/// Fine-tune a model on your own data
///
/// The loss says what the rows of the training file are:
///
///   cosine_similarity           text, text, score (a range other than 0..1 is scaled)
///   multiple_negatives_ranking  anchor, positive, any number of hard negatives
///   triplet_margin, arc_face    text, label; with --group-pairs, query, document
///   margin_mse                  query, positive, negative, margin (a teacher's, in its units)
///   clip                        text, image, or the other way round
///   mse                         text; with --targets, a teacher's embedding of each
///
/// With a model of images or meshes, paths stand in the place of texts, relative to the directory
/// that the file is in; items with labels can also be a directory with a directory a class. With a
/// model of texts and images, what ends like an image's name is the path of one.
///
/// Columns go by the names sentence1, sentence2, score; anchor, positive, negative; query, positive,
/// negative, margin; text, label where the file has them, else by position.
///
/// With --eval, the model is measured before, after each epoch and after training; with
/// --validation-fraction on training rows that are held out, in groups as `fin split` makes them. The tuned model
/// appears in the directory --output once training is complete; a text model in the format of
/// sentence-transformers, and with a model card, README.md, that says what it was made from and how
/// well it does. Until then checkpoints are in OUTPUT.checkpoint beside it; where training
/// was cut off, the same command with --resume goes on from the newest and ends with the same
/// weights.
///
/// Every option but --config, --resume, --overwrite and --format can also be given in a TOML file,
/// as in `batch_size = 32`. Paths in it are relative to the current directory.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, after_long_help = EXAMPLES)]
pub struct FitArgs {
    #[command(flatten)]
    settings: Settings,

    /// TOML file with options by name; those on the command line win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Go on from the newest checkpoint of a run that was cut off, or start where there is none
    #[arg(long)]
    resume: bool,

    /// Replace an older model in the output directory
    #[arg(long)]
    overwrite: bool,

    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin fit --model all-minilm-l6-v2 --train train.csv --eval eval.csv \\
      --loss multiple_negatives_ranking --epochs 3 --batch-size 32 --output tuned
  fin fit --model all-minilm-l6-v2 --train stsb-en-train.csv --no-header --score-range 0..5 \\
      --loss cosine_similarity --output tuned
  fin fit --model resnet-base --train photos/train --eval photos/test \\
      --loss triplet_margin --loss-option miner=batch_hard --augment --output tuned
  fin fit --model clip-base-en --train captions.csv --loss clip --lock image --output tuned
  fin fit --model ./shapes --train meshes/train --eval meshes/test --loss triplet_margin \\
      --augment --output tuned
  fin fit --model all-minilm-l6-v2 --train margins.csv --loss margin_mse \\
      --validation-fraction 0.1 --output tuned
  fin fit --model all-minilm-l6-v2 --train pairs.parquet --stream --stream-dir /scratch \\
      --loss multiple_negatives_ranking --output tuned
  fin encode texts.txt --model all-minilm-l6-v2 --output teacher.npy
  fin fit --model student --train texts.txt --targets teacher.npy --loss mse --output tuned
  fin fit --model all-minilm-l6-v2 --train train.csv --eval eval.csv \\
      --loss multiple_negatives_ranking --epochs 20 --monitor mrr@10 --load-best --output tuned
  fin fit --config fit.toml --resume";
