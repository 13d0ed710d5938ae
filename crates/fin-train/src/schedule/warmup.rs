//! What schedules with a warm-up share.

use fin_core::{Error, Result};

/// Checks a share of the steps.
///
/// # Errors
/// [`Error::Argument`] where it is not in `[0, 1]`.
pub(super) fn check(warmup: f64) -> Result<()> {
    if (0.0..=1.0).contains(&warmup) {
        return Ok(());
    }
    let reason = format!("{warmup} is not a share from 0 to 1");
    Err(Error::argument("warmup", reason))
}

/// Linear from 0 to 1 over `w = ceil(warmup · total)` steps, `s / w`; afterwards `after` of the part
/// of the rest that is done, `(s − w) / (total − w)`, from 0 on.
pub(super) fn factor(warmup: f64, step: usize, total: usize, after: impl Fn(f64) -> f64) -> f64 {
    let warm = (warmup * total as f64).ceil() as usize;
    if step < warm {
        return step as f64 / warm as f64;
    }
    after((step - warm) as f64 / total.saturating_sub(warm).max(1) as f64)
}
