//! Ending a run that no longer improves.

use fin_core::{Embedder, Error, Result};

use super::monitor::measured;
use super::{Callback, Context, Mode};

/// Asks training to end once a metric has not become better for some measurements in a row, as Keras'
/// callback of this name does.
///
/// The metric is what an evaluator before this callback records, whichever has one of this name. A
/// resumed run goes on with what the checkpoint has of it, so that it ends where an unbroken one does.
#[derive(Debug, Clone)]
pub struct EarlyStopping {
    monitor: String,
    mode: Mode,
    patience: usize,
    min_delta: f64,
    best: Option<f64>,
    waited: usize,
    seen: usize,
}

impl EarlyStopping {
    /// On the metric `monitor`, such as `mrr@10`, after `patience` measurements without a better one.
    ///
    /// # Errors
    /// [`Error::Argument`] where the patience is 0.
    pub fn new(monitor: impl Into<String>, mode: Mode, patience: usize) -> Result<Self> {
        if patience == 0 {
            let reason = "0 measurements are none; 1 or more are needed";
            return Err(Error::argument("patience", reason));
        }
        Ok(Self {
            monitor: monitor.into(),
            mode,
            patience,
            min_delta: 0.0,
            best: None,
            waited: 0,
            seen: 0,
        })
    }

    /// What counts as better is better by more than this.
    ///
    /// # Errors
    /// [`Error::Argument`] where it is no number of at least 0.
    pub fn with_min_delta(mut self, min_delta: f64) -> Result<Self> {
        if !(min_delta >= 0.0 && min_delta.is_finite()) {
            let reason = format!("{min_delta} is not a number of at least 0");
            return Err(Error::argument("min_delta", reason));
        }
        self.min_delta = min_delta;
        Ok(self)
    }

    /// A value that has to be surpassed from the beginning, such as that of the model before: training
    /// ends where the first `patience` measurements do not.
    ///
    /// # Errors
    /// [`Error::Argument`] where it is not finite.
    pub fn with_baseline(mut self, baseline: f64) -> Result<Self> {
        if !baseline.is_finite() {
            let reason = format!("{baseline} is not a finite number");
            return Err(Error::argument("baseline", reason));
        }
        self.best = Some(baseline);
        Ok(self)
    }

    /// Takes a measurement; whether it is time to stop.
    fn measured(&mut self, value: f64) -> bool {
        if self.mode.is_better(value, self.best, self.min_delta) {
            self.best = Some(value);
            self.waited = 0;
        } else {
            self.waited += 1;
        }
        self.waited >= self.patience
    }

    fn look<E: Embedder>(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        let new = &context.records()[self.seen..];
        let mut stops = false;
        for (_, value) in measured(new, &self.monitor)? {
            stops |= self.measured(value);
        }
        self.seen = context.records().len();
        if stops {
            context.request_stop();
        }
        Ok(())
    }
}

impl<E: Embedder> Callback<E> for EarlyStopping {
    fn on_train_begin(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.look(context)
    }

    fn on_step_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.look(context)
    }

    fn on_epoch_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.look(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(mut callback: EarlyStopping, values: &[f64]) -> Option<usize> {
        let mut values = values.iter();
        values.position(|value| callback.measured(*value))
    }

    #[test]
    fn patience_counts_measurements_since_the_best() {
        let up = EarlyStopping::new("map", Mode::Max, 2).unwrap();
        assert_eq!(
            stops(up.clone(), &[0.1, 0.2, 0.2, 0.3, 0.2, 0.25, 0.9]),
            Some(5)
        );
        assert_eq!(stops(up.clone(), &[0.1, 0.2, 0.3]), None);
        // What is not a number is never the best.
        assert_eq!(
            stops(up.clone(), &[f64::NAN, 0.1, f64::NAN, f64::NAN]),
            Some(3)
        );
        let delta = up.clone().with_min_delta(0.05).unwrap();
        assert_eq!(stops(delta, &[0.1, 0.12, 0.14]), Some(2));
        let baseline = up.with_baseline(0.5).unwrap();
        assert_eq!(stops(baseline.clone(), &[0.3, 0.4, 0.6]), Some(1));
        // Once it is passed, the best value counts.
        assert_eq!(stops(baseline, &[0.3, 0.6, 0.55, 0.58]), Some(3));
        let down = EarlyStopping::new("loss", Mode::Min, 1).unwrap();
        assert_eq!(stops(down, &[3.0, 2.0, 2.0]), Some(2));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(EarlyStopping::new("map", Mode::Max, 0).is_err());
        let callback = EarlyStopping::new("map", Mode::Max, 1).unwrap();
        for delta in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(callback.clone().with_min_delta(delta).is_err());
        }
        assert!(callback.with_baseline(f64::NAN).is_err());
        assert!("maximum".parse::<Mode>().is_err());
    }
}
