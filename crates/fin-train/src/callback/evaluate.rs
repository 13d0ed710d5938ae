//! Measuring in the course of training.

use fin_core::{Embedder, Result};

use super::{Callback, Context};
use crate::evaluate::Evaluator;

/// Runs an evaluator at the end of every epoch, or every so many steps, and records what it
/// measures.
pub struct Evaluate<E: Embedder> {
    evaluator: Box<dyn Evaluator<E>>,
    every_steps: Option<usize>,
    at_begin: bool,
}

impl<E: Embedder> Evaluate<E> {
    /// At the end of every epoch, and once where training is stopped within one.
    pub fn each_epoch(evaluator: impl Evaluator<E> + 'static) -> Self {
        Self {
            evaluator: Box::new(evaluator),
            every_steps: None,
            at_begin: false,
        }
    }

    /// Every `steps` steps, at least 1, and at the end.
    pub fn every_steps(evaluator: impl Evaluator<E> + 'static, steps: usize) -> Self {
        Self {
            every_steps: Some(steps.max(1)),
            ..Self::each_epoch(evaluator)
        }
    }

    /// Before the first step too.
    pub fn and_at_begin(mut self) -> Self {
        self.at_begin = true;
        self
    }

    fn run(&self, context: &mut Context<'_, E>) -> Result<()> {
        let name = self.evaluator.name();
        let step = context.progress().step;
        if context
            .records()
            .iter()
            .any(|record| record.step == step && record.name == name)
        {
            return Ok(());
        }
        let metrics = self
            .evaluator
            .evaluate(&context.embedder(), context.device())?;
        context.record(name, metrics);
        Ok(())
    }
}

impl<E: Embedder> Callback<E> for Evaluate<E> {
    fn on_train_begin(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        if self.at_begin && context.progress().step == 0 {
            self.run(context)
        } else {
            Ok(())
        }
    }

    fn on_step_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        match self.every_steps {
            Some(every) if context.progress().step.is_multiple_of(every) => self.run(context),
            _ => Ok(()),
        }
    }

    fn on_epoch_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        if self.every_steps.is_none() {
            self.run(context)
        } else {
            Ok(())
        }
    }

    fn on_train_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        self.run(context)
    }
}
