//! Progress on stderr.

use std::io::IsTerminal;
use std::io::Write;
use std::time::{Duration, Instant};

use fin_core::{Embedder, Result};
use indicatif::{ProgressBar as Bar, ProgressDrawTarget, ProgressStyle};

use super::{Callback, Context, MetricRecord, Progress};

/// Time between lines where stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// Weight of the newest loss in the running mean that is shown.
const SMOOTHING: f64 = 0.1;

/// Step, loss, learning rate, items a second and time left on stderr: a bar on a terminal, else a
/// line every half minute. Metrics that other callbacks record are shown as they come; add those
/// callbacks first.
///
/// The loss shown is a running mean over about ten steps.
#[derive(Debug, Default)]
pub struct ProgressBar {
    bar: Option<Bar>,
    loss: Option<f64>,
    shown: usize,
    last_line: Option<Instant>,
}

impl ProgressBar {
    /// A bar, or lines where stderr is not a terminal.
    pub fn new() -> Self {
        Self::default()
    }

    fn show_records(&mut self, records: &[MetricRecord]) {
        for record in &records[self.shown.min(records.len())..] {
            let line = record_line(record);
            match &self.bar {
                Some(bar) => bar.println(line),
                None => say(&line),
            }
        }
        self.shown = records.len();
    }
}

fn record_line(record: &MetricRecord) -> String {
    format!("step {}: {}: {}", record.step, record.name, record.metrics)
}

fn message(progress: &Progress, loss: f64) -> String {
    format!(
        "loss {loss:.4}  lr {:.2e}  {:.0} items/s",
        progress.learning_rate,
        progress.items_per_second()
    )
}

fn line(progress: &Progress, loss: f64) -> String {
    format!(
        "step {}/{}  epoch {}/{}  {}",
        progress.step,
        progress.total_steps,
        progress.epoch,
        progress.epochs,
        message(progress, loss)
    )
}

impl<E: Embedder> Callback<E> for ProgressBar {
    fn on_train_begin(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        let progress = context.progress();
        self.last_line = Some(Instant::now());
        if std::io::stderr().is_terminal() {
            let bar = Bar::with_draw_target(
                Some(progress.total_steps as u64),
                ProgressDrawTarget::stderr(),
            );
            let template = "{wide_bar} {pos}/{len} steps  {msg}  {eta} left";
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_position(progress.step as u64);
            bar.reset_eta();
            self.bar = Some(bar);
        }
        self.show_records(context.records());
        Ok(())
    }

    fn on_step_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        let progress = *context.progress();
        let newest = f64::from(progress.loss);
        let loss = self
            .loss
            .map_or(newest, |mean| mean + SMOOTHING * (newest - mean));
        self.loss = Some(loss);
        if let Some(bar) = &self.bar {
            bar.set_message(message(&progress, loss));
            bar.set_position(progress.step as u64);
        } else if self
            .last_line
            .is_none_or(|last| last.elapsed() >= LINE_EVERY)
        {
            say(&line(&progress, loss));
            self.last_line = Some(Instant::now());
        }
        self.show_records(context.records());
        Ok(())
    }

    fn on_epoch_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.show_records(context.records());
        Ok(())
    }

    fn on_train_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.show_records(context.records());
        match self.bar.take() {
            Some(bar) => bar.finish_and_clear(),
            None => say(&line(context.progress(), self.loss.unwrap_or(f64::NAN))),
        }
        Ok(())
    }
}

/// A line on stderr. A reader that has gone away is no reason to end a training run.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn lines_say_what_a_reader_looks_for() {
        let progress = Progress {
            step: 30,
            total_steps: 120,
            epoch: 1,
            epochs: 2,
            loss: 0.5,
            learning_rate: 2e-5,
            grad_norm: 1.0,
            items: 960,
            seconds: 3.0,
        };
        assert_eq!(
            line(&progress, 0.25),
            "step 30/120  epoch 1/2  loss 0.2500  lr 2.00e-5  320 items/s"
        );
        let mut metrics = Metrics::default();
        metrics.insert("spearman", 0.875);
        let record = MetricRecord {
            step: 30,
            epoch: 1,
            name: "dev".into(),
            metrics,
        };
        assert_eq!(record_line(&record), "step 30: dev: spearman 0.8750");
    }
}
