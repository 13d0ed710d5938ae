//! The steps of a run: how its epochs' batches fall into them.

use fin_core::{Error, Result};

use crate::config::TrainConfig;

/// The steps of a run.
pub(super) struct Plan {
    /// Where every epoch begins.
    pub starts: Vec<Start>,
    /// Steps in all.
    pub total: usize,
}

/// Where an epoch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// Steps before it.
    pub step: usize,
    /// Batches before it.
    pub batch: usize,
}

impl Plan {
    /// Of a run whose epochs, counted from 0, have as many batches as `batches` says; `what` names
    /// the sampler.
    pub fn new(
        config: &TrainConfig,
        what: &str,
        batches: impl Fn(usize) -> Result<usize>,
    ) -> Result<Self> {
        let mut starts = Vec::with_capacity(config.epochs);
        let (mut step, mut batch) = (0, 0);
        for epoch in 0..config.epochs {
            starts.push(Start { step, batch });
            // Epochs that `max_steps` cuts off need not be drawn to be known to be empty.
            if config.max_steps.is_none_or(|max| step < max) {
                let found = batches(epoch)?;
                step += found.div_ceil(config.gradient_accumulation_steps);
                batch += found;
            }
        }
        let total = config.max_steps.map_or(step, |max| step.min(max));
        if total == 0 {
            return Err(Error::argument(
                "dataset",
                format!("`{what}` makes no batches of it"),
            ));
        }
        Ok(Self { starts, total })
    }

    /// The epoch, counted from 1, that the step after `step` steps is in.
    pub fn epoch_of(&self, step: usize) -> usize {
        self.starts
            .partition_point(|start| start.step <= step)
            .max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_group_is_a_step_and_batches_are_counted_on() {
        let config = |max_steps| TrainConfig {
            epochs: 3,
            gradient_accumulation_steps: 2,
            max_steps,
            ..TrainConfig::default()
        };
        let plan = Plan::new(&config(None), "random", |epoch| Ok(5 + epoch % 2)).unwrap();
        let starts = [(0, 0), (3, 5), (6, 11)].map(|(step, batch)| Start { step, batch });
        assert_eq!((plan.starts.as_slice(), plan.total), (&starts[..], 9));
        assert_eq!([0, 2, 3, 8].map(|step| plan.epoch_of(step)), [1, 1, 2, 3]);
        let cut = Plan::new(&config(Some(4)), "random", |_| Ok(5)).unwrap();
        assert_eq!(cut.total, 4);
        let error = Plan::new(&config(None), "random", |_| Ok(0)).err().unwrap();
        assert!(error.to_string().contains("`random` makes no batches"));
    }
}
