//! Numerically careful pieces that losses share.

use burn::tensor::Tensor;
use fin_core::{Error, Result};

/// Square of the distance that stands for zero: at or below it the distance is 0 and no gradient
/// flows, where that of the root would be infinite.
const MIN_SQUARED_DISTANCE: f64 = 1e-24;
/// Stands for minus infinity where masks rule an entry out; finite, so that 0 times it is 0.
const LOW: f64 = -1e30;

/// Rows of `[batch, dim]` divided by `max(‖row‖, eps)`; where the bound holds, its gradient is
/// that of a division by `eps`, as in PyTorch, and never NaN.
pub(super) fn normalize_rows(x: Tensor<2>, eps: f64) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).clamp_min(eps * eps).sqrt();
    x / norm
}

/// Euclidean length of the rows of `[batch, dim]`: `[batch, 1]`, with a gradient of 0 at 0.
pub(super) fn row_norms(x: Tensor<2>) -> Tensor<2> {
    root(x.square().sum_dim(1))
}

/// Root of squares, with a gradient of 0 at 0.
fn root(squares: Tensor<2>) -> Tensor<2> {
    let zero = squares
        .clone()
        .detach()
        .lower_equal_elem(MIN_SQUARED_DISTANCE);
    squares
        .clamp_min(MIN_SQUARED_DISTANCE)
        .sqrt()
        .mask_fill(zero, 0.0)
}

/// Squared Euclidean distances of the rows of one matrix and those of another, `[batch, others]`.
/// Differences are formed coordinate by coordinate, which keeps small distances exact and takes
/// `batch · others · dim` numbers of memory.
pub(super) fn squared_distances(x: Tensor<2>, others: Tensor<2>) -> Tensor<2> {
    let ([batch, dim], [columns, _]) = (x.dims(), others.dims());
    let difference = x.reshape([batch, 1, dim]) - others.reshape([1, columns, dim]);
    difference.square().sum_dim(2).reshape([batch, columns])
}

/// Euclidean distances of rows, `[batch, others]`; the gradient of a distance of 0 is 0.
pub(super) fn distances(x: Tensor<2>, others: Tensor<2>) -> Tensor<2> {
    root(squared_distances(x, others))
}

/// `log(1 + exp(x))` without overflow or cancellation, the gradient being exact everywhere.
pub(super) fn softplus<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let above = x.clone().detach().greater_elem(0.0).float();
    let sign = above.clone().mul_scalar(-2.0).add_scalar(1.0);
    above * x.clone() + (x * sign).exp().log1p()
}

/// `log(Σ w exp(x))` over every row of `[rows, columns]`, where `w` are how often entries count;
/// with `add_one`, of that sum and 1. Rows without any entry give 0: `[rows, 1]`.
pub(super) fn masked_logsumexp(x: Tensor<2>, counts: &Tensor<2>, add_one: bool) -> Tensor<2> {
    let x = x.mask_fill(counts.clone().equal_elem(0.0), LOW);
    let mut largest = x.clone().detach().max_dim(1);
    if add_one {
        largest = largest.clamp_min(0.0);
    }
    let any = any_in_row(counts);
    let mut sum = ((x - largest.clone()).exp() * counts.clone()).sum_dim(1);
    if add_one {
        sum = sum + largest.clone().neg().exp();
    }
    // Keeps the logarithm and its gradient finite where nothing is summed.
    let sum = sum + any.clone().neg().add_scalar(1.0);
    (sum.log() + largest) * any
}

/// Sine of the angle of which this is the cosine. Where it is 0, or the cosine beyond ±1 by
/// rounding, no gradient flows, where that of the root would be infinite.
pub(super) fn sine(cosine: Tensor<2>) -> Tensor<2> {
    root(cosine.square().neg().add_scalar(1.0))
}

/// 1 for the rows of `[rows, columns]` that have an entry above 0, else 0: `[rows, 1]`.
pub(super) fn any_in_row(counts: &Tensor<2>) -> Tensor<2> {
    counts.clone().sum_dim(1).greater_elem(0.0).float()
}

/// Mean of the losses above 0, each counted as often as `counts` says; 0 where there are none.
pub(super) fn mean_above_zero(losses: Tensor<2>, counts: Tensor<2>) -> Tensor<1> {
    let above = losses.clone().detach().greater_elem(0.0).float();
    let number = (above * counts.clone()).sum().clamp_min(1.0);
    (losses * counts).sum() / number
}

/// Cross-entropy of every positive pair against the negatives of its anchor: the mean over the
/// positive pairs of `log(1 + Σ_n w exp(negative − positive))`.
///
/// `positives` and `negatives` are logits `[batch, others]`; counts are those of pairs.
pub(super) fn softmax_over_negatives(
    positives: Tensor<2>,
    negatives: Tensor<2>,
    pairs: &super::labelled::PairCounts,
) -> Tensor<1> {
    let negatives = masked_logsumexp(negatives, &pairs.negative, false);
    let counted = pairs.positive.clone() * any_in_row(&pairs.negative);
    let losses = softplus(negatives - positives) * counted;
    losses.sum().div_scalar(pairs.positives as f64)
}

/// Refuses an option that is not a positive number.
pub(super) fn positive(option: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        let reason = format!("{value} is not a positive number");
        Err(Error::argument(option, reason))
    }
}

/// Refuses an option that is not a finite number.
pub(super) fn finite(option: &str, value: f64) -> Result<()> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(Error::argument(option, format!("{value} is not a number")))
    }
}

/// Refuses an option that is not a finite number of at least 0.
pub(super) fn not_negative(option: &str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        Ok(())
    } else {
        let reason = format!("{value} is not a number of at least 0");
        Err(Error::argument(option, reason))
    }
}
