//! Linear warm-up and decay.

use fin_core::Result;
use serde::{Deserialize, Serialize};

use super::Schedule;
use crate::registry::{self, Options};

/// Linear from 0 to 1 over the warm-up, then linear to 0 at the end, as
/// `get_linear_schedule_with_warmup` of transformers.
///
/// With `w = ceil(warmup · total)` warm-up steps, step `s` (from 0) has factor `s / w` where
/// `s < w` and `(total − s) / (total − w)` after. So the first step has factor 0 and changes no
/// weight where there is a warm-up, the factor 1 is first reached at step `w`, and the last step
/// has factor `1 / (total − w)`, not 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmupLinear {
    warmup: f64,
}

impl Default for WarmupLinear {
    /// A warm-up over a tenth of the steps.
    fn default() -> Self {
        Self { warmup: 0.1 }
    }
}

impl WarmupLinear {
    /// With a warm-up over this share of the steps.
    ///
    /// # Errors
    /// [`fin_core::Error::Argument`] where the share is not in `[0, 1]`.
    pub fn new(warmup: f64) -> Result<Self> {
        super::warmup::check(warmup)?;
        Ok(Self { warmup })
    }

    pub(super) fn from_options(options: &Options) -> Result<Self> {
        let parsed: Self = registry::parse("linear", options)?;
        Self::new(parsed.warmup)
    }
}

impl Schedule for WarmupLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn factor(&self, step: usize, total: usize) -> f64 {
        let warmup = (self.warmup * total as f64).ceil() as usize;
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let left = total.saturating_sub(step) as f64;
        left / total.saturating_sub(warmup).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_those_of_transformers() {
        // torch.optim.lr_scheduler after get_linear_schedule_with_warmup(optimizer, 2, 6).
        let schedule = WarmupLinear::new(1.0 / 3.0).unwrap();
        let factors: Vec<f64> = (0..7).map(|step| schedule.factor(step, 6)).collect();
        assert_eq!(factors, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]);
    }

    #[test]
    fn the_number_of_warm_up_steps_is_rounded_up() {
        let schedule = WarmupLinear::default();
        assert_eq!(schedule.factor(0, 11), 0.0);
        assert_eq!(schedule.factor(1, 11), 0.5);
        assert_eq!(schedule.factor(2, 11), 1.0);
    }

    #[test]
    fn all_and_no_warm_up_stay_in_range() {
        let none = WarmupLinear::new(0.0).unwrap();
        assert_eq!([none.factor(0, 4), none.factor(3, 4)], [1.0, 0.25]);
        let all = WarmupLinear::new(1.0).unwrap();
        assert_eq!(
            [all.factor(0, 4), all.factor(3, 4), all.factor(4, 4)],
            [0.0, 0.75, 0.0]
        );
        for share in [-0.1, 1.1, f64::NAN] {
            assert!(WarmupLinear::new(share).is_err());
        }
    }
}
