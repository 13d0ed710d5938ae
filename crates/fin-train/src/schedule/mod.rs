//! Learning rates over the course of training.
//!
//! | name | factor |
//! | --- | --- |
//! | `linear` | up from 0 over the warm-up, down to 0 over the rest |
//! | `cosine` | up over the warm-up, down along a half cosine; `cycles` |
//! | `cosine_with_restarts` | the same several times; `cycles` |
//! | `polynomial` | up over the warm-up, down along a power; `power`, `end` |
//! | `constant_with_warmup` | up over the warm-up, then 1 |
//! | `constant` | 1 |
//!
//! A further schedule is a file here that implements [`Schedule`], and a line in the table of
//! names.

mod constant;
mod constant_with_warmup;
mod cosine;
mod cosine_with_restarts;
mod linear;
mod polynomial;
mod warmup;

use std::fmt;

use fin_core::Result;

pub use constant::Constant;
pub use constant_with_warmup::WarmupConstant;
pub use cosine::WarmupCosine;
pub use cosine_with_restarts::WarmupCosineRestarts;
pub use linear::WarmupLinear;
pub use polynomial::WarmupPolynomial;

use crate::registry::{self, Entry, Options};

/// A factor on the learning rate, step by step.
pub trait Schedule: fmt::Debug + Send {
    /// Name in configuration files.
    fn name(&self) -> &'static str;

    /// Factor of optimiser step `step`, counted from 0, out of `total`.
    fn factor(&self, step: usize, total: usize) -> f64;
}

const SCHEDULES: [Entry<dyn Schedule>; 6] = [
    ("linear", |_, options| {
        Ok(Box::new(WarmupLinear::from_options(options)?))
    }),
    ("cosine", |_, options| {
        Ok(Box::new(WarmupCosine::from_options(options)?))
    }),
    ("cosine_with_restarts", |_, options| {
        Ok(Box::new(WarmupCosineRestarts::from_options(options)?))
    }),
    ("polynomial", |_, options| {
        Ok(Box::new(WarmupPolynomial::from_options(options)?))
    }),
    ("constant_with_warmup", |_, options| {
        Ok(Box::new(WarmupConstant::from_options(options)?))
    }),
    ("constant", |_, options| {
        Ok(Box::new(registry::parse::<Constant>("constant", options)?))
    }),
];

/// The schedule of this name: all but `constant` have the option `warmup`, some further ones.
///
/// # Errors
/// [`fin_core::Error::Argument`] lists the names, or names an option that cannot be used.
pub fn schedule_from_name(name: &str, options: &Options) -> Result<Box<dyn Schedule>> {
    registry::from_name("schedule", &SCHEDULES, name, options)
}

/// The names that [`schedule_from_name`] takes.
pub fn schedule_names() -> impl Iterator<Item = &'static str> {
    SCHEDULES.iter().map(|(name, _)| *name)
}
