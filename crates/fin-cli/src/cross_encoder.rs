//! Cross-encoders beside the model of a command.

use std::path::Path;

use burn::tensor::Device;
use fin_core::{BatchLimits, Error};
use fin_transformer::{CrossEncoder, CrossEncoderOptions};
use indicatif::ProgressBar;

use crate::args::ModelArgs;
use crate::family::Item;
use crate::report::{Result, count, note};

/// Opens a directory on the device of the model, and says which of its tensors have no place, if
/// any.
pub fn open(directory: &Path, args: &ModelArgs, device: &Device) -> Result<CrossEncoder> {
    let options = CrossEncoderOptions {
        max_length: None,
        check: args.check,
        precision: args.precision,
    };
    let model = CrossEncoder::open(directory, &options, device)?;
    let report = model.report();
    if !report.unused.is_empty() {
        note!("warning: the cross-encoder holds tensors that it has no place for: {report}");
    }
    Ok(model)
}

/// Items that a cross-encoder reads: texts.
///
/// # Errors
/// Where one is a file.
pub fn texts<I: Item>(items: &[I]) -> fin_core::Result<Vec<String>> {
    let text = |item: &I| match item.is_path() {
        false => Ok(item.key()),
        true => Err(Error::argument(
            "cross-encoder",
            format!("reads texts, and `{}` is a file", item.key()),
        )),
    };
    items.iter().map(text).collect()
}

/// Scores pairs of a query and a document, given by their places in the lists.
pub fn score(
    model: &CrossEncoder,
    queries: &[String],
    documents: &[String],
    pairs: &[(usize, usize)],
    limits: BatchLimits,
    bar: &ProgressBar,
) -> fin_core::Result<Vec<f32>> {
    let texts: Vec<(&str, &str)> = pairs
        .iter()
        .map(|&(query, document)| (&*queries[query], &*documents[document]))
        .collect();
    let scores = model.score(&texts, limits, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    if scores.truncated > 0 {
        let verb = if scores.truncated == 1 { "was" } else { "were" };
        note!(
            "{} longer than the {} tokens that the cross-encoder reads {verb} cut to that length",
            count(scores.truncated, "pair", "pairs"),
            model.tokenizer().max_length()
        );
    }
    Ok(scores.values)
}
