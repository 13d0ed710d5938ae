//! `fin`: embedding models on the command line.
//!
//! One file a command in [`commands`]; [`args`] holds the options that they share, [`data`] the
//! reading of evaluation data, [`report`] what is printed where, [`card`] and [`html`] what is written
//! for people.

mod args;
mod card;
mod commands;
mod cross_encoder;
mod data;
mod family;
mod html;
mod model;
mod report;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fin_registry::{Catalogue, Registry};

use crate::report::{Failure, note};

/// Turn texts, images and meshes into vectors, search with them, and fine-tune the models that make them.
///
/// A model is a name in the catalogue (`fin models`), a directory in the format of Hugging Face or
/// sentence-transformers, or one that fin wrote. The files of a name are downloaded when they are first needed. Results
/// go to stdout, everything else to stderr. The exit code is 0 for success, 1 for an error and 2
/// for a wrong command line.
#[derive(Debug, Parser)]
#[command(name = "fin", version, arg_required_else_help = true, after_long_help = EXAMPLES)]
struct Cli {
    /// Download nothing, use what is on this machine; so does HF_HUB_OFFLINE=1
    #[arg(long, global = true)]
    offline: bool,

    /// TOML file with further models, in the form of the catalogue; so does FIN_CATALOGUE
    #[arg(long, global = true, value_name = "FILE")]
    catalogue: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  fin models
  fin encode corpus.csv --column answer --model all-minilm-l6-v2 --output corpus.npy
  fin search --corpus corpus.csv --column answer --model all-minilm-l6-v2 --query 'closing time?'
  fin fit --model all-minilm-l6-v2 --train train.csv --eval eval.csv \\
      --loss multiple_negatives_ranking --epochs 3 --output tuned
  fin eval --model ./tuned --data eval.csv --task retrieval
  fin search --corpus photos/ --model resnet-base --query pier.jpg
  fin search --corpus photos/ --model clip-base-en --query 'a boat at a pier'
  fin classify pier.jpg --model clip-base-en --labels boat,car,tree";

#[derive(Debug, Subcommand)]
enum Command {
    Models(commands::models::ModelsArgs),
    #[command(name = "convert-weights")]
    Convert(commands::convert::ConvertArgs),
    Download(commands::download::DownloadArgs),
    Init(commands::init::InitArgs),
    Encode(commands::encode::EncodeArgs),
    Search(commands::search::SearchArgs),
    Classify(commands::classify::ClassifyArgs),
    Eval(commands::eval::EvalArgs),
    Check(commands::check::CheckArgs),
    Split(commands::split::SplitArgs),
    Mine(Box<commands::mine::MineArgs>),
    Synthesize(Box<commands::synthesize::SynthesizeArgs>),
    Fit(Box<commands::fit::FitArgs>),
    WiseFt(commands::wise_ft::WiseFtArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let run = || {
        let mut registry = Registry::from_env()?;
        if let Some(path) = &cli.catalogue {
            registry.catalogue = registry.catalogue.with(Catalogue::read(path)?, path)?;
        }
        if cli.offline {
            registry.locations = registry.locations.offline();
        }
        match cli.command {
            Command::Models(args) => commands::models::run(&args, &registry),
            Command::Convert(args) => commands::convert::run(&args, &registry),
            Command::Download(args) => commands::download::run(&args, &registry),
            Command::Init(args) => commands::init::run(&args, &registry),
            Command::Encode(args) => commands::encode::run(&args, &registry),
            Command::Search(args) => commands::search::run(&args, &registry),
            Command::Classify(args) => commands::classify::run(&args, &registry),
            Command::Eval(args) => commands::eval::run(&args, &registry),
            Command::Check(args) => commands::check::run(&args),
            Command::Split(args) => commands::split::run(&args),
            Command::Mine(args) => commands::mine::run(&args, &registry),
            Command::Synthesize(args) => commands::synthesize::run(&args, &registry),
            Command::Fit(args) => commands::fit::run(&args, &registry),
            Command::WiseFt(args) => commands::wise_ft::run(&args, &registry),
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(Failure::Stdout(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            note!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            let help = sub.clone().render_long_help().to_string();
            let example = format!("fin {} ", sub.get_name());
            assert!(help.contains("Example"), "{}: {help}", sub.get_name());
            assert!(help.contains(&example), "{}: {help}", sub.get_name());
        }
    }
}
