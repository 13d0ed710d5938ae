//! What a run came to, for the model's card and for the report.

use std::path::{Path, PathBuf};

use fin_core::Result;
use fin_registry::{Modality, Registry};
use fin_train::{Metrics, TrainSummary};

use super::settings::{Required, Settings};
use crate::card::{Base, Card};
use crate::html::{self, Chart, Line, smoothed};
use crate::report::count;

/// Steps below which a loss is shown as it is.
const SMOOTHED_FROM: usize = 20;

/// A run that has ended.
pub struct Outcome<'a> {
    pub settings: &'a Settings,
    pub required: Required<'a>,
    pub modality: Modality,
    /// Training examples.
    pub examples: usize,
    /// Length of an embedding.
    pub dim: usize,
    /// What there was to evaluate on, as in `queries`.
    pub sizes: Vec<(&'static str, usize)>,
    /// What was measured before the first step.
    pub before: Option<&'a Metrics>,
    /// What was measured on the network that came out.
    pub after: Option<&'a Metrics>,
    pub summary: &'a TrainSummary,
}

impl Outcome<'_> {
    /// The card of the model that was saved to a directory.
    pub fn card(&self, directory: &Path, registry: &Registry) -> Result<String> {
        let about = self.settings.eval.as_deref().map(|path| {
            let sizes = self.sizes();
            format!("Measured on {}: {sizes}.", name(path))
        });
        let card = Card {
            base: Base::find(self.required.model, registry)?,
            modality: self.modality,
            dim: self.dim,
            loss: self.required.loss,
            examples: self.examples,
            data: self.data(),
            arguments: self.settings.chosen(),
            run: self.run(),
            metrics: match (self.before, self.after, about) {
                (Some(before), Some(after), Some(about)) => Some((before, after, about)),
                _ => None,
            },
        };
        Ok(card.markdown(directory))
    }

    /// The page of the run, with these queries and a sentence about them.
    pub fn report(
        &self,
        registry: &Registry,
        queries: Vec<html::Query>,
        selection: String,
    ) -> html::Report {
        let mut facts = vec![("Model".to_owned(), self.required.model.to_owned())];
        if let Ok(row) = registry.catalogue.find(self.required.model) {
            facts.push(("What it is".into(), row.description.clone()));
        }
        let output = self.required.output.display().to_string();
        facts.push(("Tuned model".into(), output));
        let rows = self.data().into_iter().map(|[what, file, size]| {
            let value = match size.is_empty() {
                true => file,
                false => format!("{file}, {size}"),
            };
            (what, value)
        });
        let mut rest: Vec<(String, String)> = rows.chain(self.run()).collect();
        rest.push(("seconds".into(), format!("{:.1}", self.summary.seconds)));
        for (name, _) in &mut rest {
            if let Some(first) = name.get_mut(..1) {
                first.make_ascii_uppercase();
            }
        }
        facts.extend(rest);
        let mut settings = self.settings.chosen();
        if settings.is_empty() {
            settings.push(("all".into(), "as by default".into()));
        }
        let column = |label: &str, metrics: &Metrics| {
            let values = metrics.iter().map(|(name, value)| (name.to_owned(), value));
            (label.to_owned(), values.collect())
        };
        let columns = match (self.before, self.after) {
            (Some(before), Some(after)) => vec![column("before", before), column("after", after)],
            _ => Vec::new(),
        };
        html::Report {
            title: format!("Training on {}", names(self.required.train)),
            facts,
            settings,
            charts: std::iter::once(self.loss_chart())
                .chain(self.metric_charts())
                .collect(),
            columns,
            queries,
            selection,
        }
    }

    /// The loss of every step, and its running mean.
    fn loss_chart(&self) -> Chart {
        let losses = losses(self.summary);
        // Of a checkpoint without the losses before it, the curve begins where they are known.
        let first = self.summary.steps + 1 - losses.len();
        let losses = losses.into_iter().map(f64::from);
        let points: Vec<(usize, f64)> = (first..).zip(losses).collect();
        let mut chart = Chart {
            title: "loss".into(),
            mark: self.mark(),
            ..Chart::default()
        };
        if points.len() < SMOOTHED_FROM {
            chart.note = "The loss of each step.".into();
            chart.lines.push(Line {
                points,
                ..Line::default()
            });
            return chart;
        }
        let window = (points.len() / 25).max(5);
        chart.note = format!(
            "Faint: the loss of each step. Strong: its running mean, over about {window} steps."
        );
        let mean = smoothed(&points, window);
        chart.lines.push(Line {
            points,
            is_faint: true,
            ..Line::default()
        });
        chart.lines.push(Line {
            points: mean,
            ..Line::default()
        });
        chart
    }

    /// What was measured over time: a chart a metric with a line a cut-off, and one of the metrics
    /// without. None where it was measured once alone.
    fn metric_charts(&self) -> Vec<Chart> {
        let before = self.before.map(|metrics| (0, metrics));
        let records = self.summary.metrics.iter();
        let records = records.map(|record| (record.step, &record.metrics));
        let measured: Vec<(usize, &Metrics)> = before.into_iter().chain(records).collect();
        let Some(((_, first), [_, ..])) = measured.split_first() else {
            return Vec::new();
        };
        let mut charts: Vec<Chart> = Vec::new();
        let mut whole = Chart {
            title: "other metrics".into(),
            mark: self.mark(),
            ..Chart::default()
        };
        for (metric, _) in first.iter() {
            let at_cutoff = metric.rsplit_once('@');
            let at_cutoff = at_cutoff.filter(|(_, cutoff)| cutoff.parse::<usize>().is_ok());
            let value = |(step, metrics): &(usize, &Metrics)| {
                (*step, metrics.get(metric).unwrap_or(f64::NAN))
            };
            let line = |name: String| Line {
                name,
                points: measured.iter().map(value).collect(),
                is_faint: false,
            };
            let Some((title, cutoff)) = at_cutoff else {
                whole.lines.push(line(metric.to_owned()));
                continue;
            };
            let line = line(format!("@{cutoff}"));
            match charts.iter_mut().find(|chart| chart.title == title) {
                Some(chart) => chart.lines.push(line),
                None => charts.push(Chart {
                    title: title.to_owned(),
                    lines: vec![line],
                    mark: self.mark(),
                    ..Chart::default()
                }),
            }
        }
        if charts.is_empty() {
            whole.title = "metrics".into();
        }
        charts.push(whole);
        charts.retain(|chart| !chart.lines.is_empty());
        charts
    }

    /// The step whose network was kept.
    fn mark(&self) -> Option<(usize, String)> {
        let best = self.summary.best.as_ref()?;
        Some((best.step, "kept".into()))
    }

    /// Use, file and size of the data.
    fn data(&self) -> Vec<[String; 3]> {
        let examples = count(self.examples, "example", "examples");
        let mut rows = vec![["training".into(), names(self.required.train), examples]];
        let settings = self.settings;
        if let Some(targets) = &settings.targets {
            rows.push(["teacher's embeddings".into(), names(targets), String::new()]);
        }
        let others = [
            ("evaluation", &settings.eval, self.sizes()),
            ("further documents", &settings.corpus, String::new()),
        ];
        for (what, path, size) in others {
            if let Some(path) = path {
                rows.push([what.into(), name(path), size]);
            }
        }
        rows
    }

    /// Sizes of the evaluation data.
    fn sizes(&self) -> String {
        let sizes = self.sizes.iter();
        let sizes: Vec<String> = sizes.map(|(name, n)| format!("{n} {name}")).collect();
        sizes.join(", ")
    }

    /// How the run went.
    fn run(&self) -> Vec<(String, String)> {
        let summary = self.summary;
        let mut rows = vec![("loss".to_owned(), self.required.loss.to_owned())];
        let steps = match summary.stopped {
            true => format!("{} of {}, ended early", summary.steps, summary.total_steps),
            false => summary.steps.to_string(),
        };
        rows.push(("steps".into(), steps));
        let losses = losses(summary);
        let last = &losses[losses.len() - losses.len().div_ceil(10)..];
        let mean = last.iter().map(|loss| f64::from(*loss)).sum::<f64>() / last.len() as f64;
        if let [first, ..] = losses[..] {
            rows.push(("loss at the first step".into(), format!("{first:.4}")));
            rows.push((
                "mean loss of the last tenth of the steps".into(),
                format!("{mean:.4}"),
            ));
        }
        if let (Some(best), Some(monitor)) = (&summary.best, &self.settings.monitor) {
            let value = best.metrics.get(monitor).unwrap_or(f64::NAN);
            rows.push((
                "network that was kept".into(),
                format!(
                    "of step {}, epoch {}, where {monitor} was best: {value:.4}",
                    best.step, best.epoch
                ),
            ));
        }
        rows
    }
}

/// Losses of all steps of a run, as far as they are known.
pub fn losses(summary: &TrainSummary) -> Vec<f32> {
    [&summary.earlier_losses[..], &summary.losses].concat()
}

/// [`name`] of each, one after the other.
fn names(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| name(path)).collect();
    names.join(", ")
}

/// Name of a file or directory, without where it is.
pub fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
