//! `fin classify`.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use fin_clip::ClipItem;
use fin_core::{Error, PostProcess};
use fin_registry::{Modality, Registry};
use serde_json::json;

use crate::args::{BatchArgs, ModelArgs, positive};
use crate::family::{Family, Images, Kind, Reading, Texts, TextsAndImages};
use crate::model::{OpenModel, item_bar};
use crate::report::{self, Format, Result};

/// Tell what images show, in words of your own
///
/// Every label is put into every template, and the mean of the embeddings, each of unit length, is
/// compared with the image; the probabilities are the softmax of the cosines over the model's
/// temperature. Nothing is trained (Radford et al. 2021, section 3.1). They are probabilities among
/// these labels alone.
#[derive(Debug, Args)]
#[command(
    after_long_help = EXAMPLES,
    group(ArgGroup::new("labels_given").args(["labels", "labels_file"]).required(true))
)]
pub struct ClassifyArgs {
    /// Image files, directories or patterns
    #[arg(required = true, value_name = "IMAGE|DIR")]
    images: Vec<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,

    /// What they may show, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    labels: Vec<String>,

    /// File of labels, in place of --labels: .txt, a label a line, or .csv, .tsv or .jsonl with a
    /// column `text` or a single one
    #[arg(long, value_name = "FILE")]
    labels_file: Option<PathBuf>,

    /// What is said of an image, {} standing for the label; can be given several times
    #[arg(long, value_name = "TEXT", default_value = "a photo of a {}")]
    template: Vec<String>,

    /// Number of labels to list for each image
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = positive)]
    k: usize,

    #[command(flatten)]
    batches: BatchArgs,

    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  fin classify pier.jpg --model clip-base-en --labels boat,car,tree
  fin classify photos/ --model clip-base-en --labels-file kinds.txt \\
      --template 'a photo of a {}' --template 'a drawing of a {}' --format json";

pub fn run(args: &ClassifyArgs, registry: &Registry) -> Result<()> {
    if registry.modality(&args.model.model)? != Modality::TextImage {
        let reason = "does not compare texts with images; `fin models` lists those that do, with \
                      the task text-to-image";
        return Err(Error::argument("model", reason).into());
    }
    let labels = labels(args)?;
    if let Some(template) = args.template.iter().find(|text| !text.contains("{}")) {
        let reason = format!("`{template}` has no {{}} where the label is put");
        return Err(Error::argument("template", reason).into());
    }
    let mut images = Vec::new();
    for path in &args.images {
        let reading = Reading {
            kind: Some(Kind::Image),
            ..Reading::default()
        };
        for image in Images::read(path, reading)? {
            images.push(ClipItem::Image(image?));
        }
    }
    let model = OpenModel::<TextsAndImages>::open(&args.model, &args.model.options(), registry)?;

    let prompts = labels.iter().flat_map(|label| {
        let texts = args.template.iter();
        texts.map(move |template| ClipItem::Text(template.replace("{}", label)))
    });
    let prompts: Vec<ClipItem> = prompts.collect();
    let unit = PostProcess {
        dim: None,
        normalize: true,
    };
    let bar = item_bar::<TextsAndImages>(Some(images.len() + prompts.len()));
    let pictures = model.encode(&images, args.batches.limits(), unit, &bar)?;
    let texts = model.encode(&prompts, args.batches.limits(), unit, &bar)?;
    bar.finish_and_clear();
    report::note_truncated(texts.truncated, model.max_length);
    let dim = texts.dim;
    let mut classes = Vec::with_capacity(labels.len() * dim);
    for prompts in texts.values.chunks_exact(args.template.len() * dim) {
        let mut mean = vec![0.0f32; dim];
        for row in prompts.chunks_exact(dim) {
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        classes.extend(unit.apply(mean, dim)?);
    }
    let scale = f64::from(model.embedder.logit_scale()).exp();
    let found: Vec<Vec<(usize, f64)>> = pictures
        .values
        .chunks_exact(dim)
        .map(|image| probabilities(image, &classes, scale, args.k))
        .collect();

    match args.format {
        Format::Table => {
            let mut out = String::new();
            for (i, (image, found)) in images.iter().zip(found).enumerate() {
                if i > 0 {
                    out.push('\n');
                }
                out.push_str(&format!("{}\n", shown(image)));
                for (label, probability) in found {
                    out.push_str(&format!("  {probability:.4}  {}\n", labels[label]));
                }
            }
            report::print(&out)
        }
        Format::Json => {
            let results: Vec<_> = images
                .iter()
                .zip(found)
                .map(|(image, found)| {
                    let labels: Vec<_> = found
                        .into_iter()
                        .map(|(label, p)| json!({"label": labels[label], "probability": p}))
                        .collect();
                    json!({"path": shown(image), "labels": labels})
                })
                .collect();
            report::print_json(&results)
        }
    }
}

fn shown(image: &ClipItem) -> String {
    crate::family::Item::key(image)
}

/// The labels, each once.
fn labels(args: &ClassifyArgs) -> Result<Vec<String>> {
    let given: Vec<String> = match &args.labels_file {
        Some(path) => Texts::read(path, Reading::default())?.collect::<fin_core::Result<_>>()?,
        None => args.labels.clone(),
    };
    let mut labels: Vec<String> = Vec::new();
    for label in given {
        let label = label.trim();
        if !label.is_empty() && !labels.iter().any(|known| known == label) {
            labels.push(label.to_owned());
        }
    }
    if labels.len() < 2 {
        let place = args.labels_file.as_deref().unwrap_or(Path::new("labels"));
        let reason = format!(
            "{} has {} labels; at least 2 different ones are needed to choose from",
            place.display(),
            labels.len()
        );
        return Err(Error::argument("labels", reason).into());
    }
    Ok(labels)
}

/// Softmax of the scaled cosines of an image with every class: the largest `k`, best first; of equal
/// ones the earlier label.
fn probabilities(image: &[f32], classes: &[f32], scale: f64, k: usize) -> Vec<(usize, f64)> {
    let logits = classes.chunks_exact(image.len()).map(|class| {
        let products = image.iter().zip(class);
        let cosine: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        scale * cosine
    });
    let mut found: Vec<(usize, f64)> = logits.enumerate().collect();
    let largest = found.iter().map(|(_, x)| *x).fold(f64::MIN, f64::max);
    found
        .iter_mut()
        .for_each(|(_, x)| *x = (*x - largest).exp());
    let sum: f64 = found.iter().map(|(_, x)| x).sum();
    found.iter_mut().for_each(|(_, x)| *x /= sum);
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    found.truncate(k);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_a_softmax_in_order() {
        let classes = [1.0, 0.0, 0.6, 0.8, 0.0, 1.0];
        let found = probabilities(&[0.0, 1.0], &classes, 2.0, 2);
        let sum = 1.0 + 1.6f64.exp() + 2.0f64.exp();
        assert_eq!((found[0].0, found[1].0), (2, 1));
        // 0.8 is not exact in single precision.
        for (found, expected) in found.iter().zip([2.0f64.exp() / sum, 1.6f64.exp() / sum]) {
            assert!((found.1 - expected).abs() < 1e-7, "{found:?}");
        }
        let all = probabilities(&[0.0, 1.0], &classes, 200.0, 9);
        assert!((all.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(all.len(), 3);
    }
}
