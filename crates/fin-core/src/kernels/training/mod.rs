//! Fast forms on `flex` where gradients are wanted: one operation with a backward pass of its own in
//! the place of many recorded ones.
//!
//! They are taken when tensors live on `flex` within autodiff and hold f32. Each file has the two
//! passes of one operation, over slices; sums over many rows are formed in pieces of a size that does
//! not depend on the number of threads, so that gradients have the same bits with any.

mod attention;
mod batch_norm;
mod conv;
mod depthwise;
mod dropout;
mod linear;
mod norm;
#[cfg(test)]
mod tests;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::nn::Dropout;
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

pub(super) use attention::Heads;
pub(super) use batch_norm::Statistics;
pub(super) use conv::Window;
pub(super) use dropout::Drop;

use super::flex::{Contiguous, FinKernels, output};
use super::{Activation, AttentionBias};

/// Operations with a backward pass of their own.
///
/// An operand that may be absent comes with a flag, as in [`FinKernels`].
#[backend_extension(Flex, Autodiff)]
pub(super) trait TrainingKernels: Backend {
    /// See [`super::attention`].
    fn fin_training_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        key_bias: FloatTensor<Self>,
        position_bias: FloatTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self>;

    /// See [`super::dropout`].
    fn fin_training_dropout(x: FloatTensor<Self>, drop: Drop) -> FloatTensor<Self>;

    /// See [`super::batch_norm`].
    fn fin_training_batch_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        statistics: Statistics,
        activation: Activation,
    ) -> FloatTensor<Self>;

    /// See [`super::conv2d`].
    fn fin_training_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self>;
}

impl TrainingKernels for Flex {
    fn fin_training_attention(
        query: FlexTensor,
        key: FlexTensor,
        value: FlexTensor,
        key_bias: FlexTensor,
        position_bias: FlexTensor,
        heads: Heads,
    ) -> FlexTensor {
        attention::forward(query, key, value, key_bias, position_bias, &heads).0
    }

    fn fin_training_dropout(x: FlexTensor, drop: Drop) -> FlexTensor {
        dropout::apply(x, &drop)
    }

    fn fin_training_batch_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        statistics: Statistics,
        activation: Activation,
    ) -> FlexTensor {
        batch_norm::forward(x, weight, bias, &statistics, activation)
    }

    fn fin_training_conv2d(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        window: Window,
    ) -> FlexTensor {
        conv::forward(x, weight, bias, window)
    }
}

impl<C: CheckpointStrategy> FinKernels for Autodiff<Flex, C> {
    fn fin_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        has_bias: bool,
        activation: Activation,
    ) -> FloatTensor<Self> {
        linear::record::<C>(x, weight, bias, has_bias, activation)
    }

    fn fin_layer_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        has_residual: bool,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        norm::record_layer::<C>(x, residual, has_residual, weight, bias, eps)
    }

    fn fin_rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        norm::record_rms::<C>(x, weight, eps)
    }
}

impl<C: CheckpointStrategy> TrainingKernels for Autodiff<Flex, C> {
    fn fin_training_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        key_bias: FloatTensor<Self>,
        position_bias: FloatTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self> {
        attention::record::<C>(query, key, value, key_bias, position_bias, heads)
    }

    fn fin_training_dropout(x: FloatTensor<Self>, drop: Drop) -> FloatTensor<Self> {
        dropout::record::<C>(x, drop)
    }

    fn fin_training_batch_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        statistics: Statistics,
        activation: Activation,
    ) -> FloatTensor<Self> {
        batch_norm::record::<C>(x, weight, bias, statistics, activation)
    }

    fn fin_training_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self> {
        conv::record::<C>(x, weight, bias, window)
    }
}

pub(super) fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    bias: AttentionBias,
    heads: usize,
    scale: f64,
    dropout: &Dropout,
) -> Tensor<3> {
    let heads = Heads {
        count: heads,
        scale: scale as f32,
        has_position: bias.position.is_some(),
        drop: drawn(dropout, &query.device()),
    };
    attention_of(query, key, value, bias, heads)
}

fn attention_of(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    bias: AttentionBias,
    heads: Heads,
) -> Tensor<3> {
    let key_bias = bias.key.into_dispatch();
    Tensor::from_dispatch(<Dispatch as TrainingKernels>::fin_training_attention(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        key_bias.clone(),
        bias.position.map_or(key_bias, Tensor::into_dispatch),
        heads,
    ))
}

pub(super) fn dropout<const D: usize>(x: Tensor<D>, layer: &Dropout) -> Tensor<D> {
    match drawn(layer, &x.device()) {
        None => x,
        Some(drop) => dropout_of(x, drop),
    }
}

fn dropout_of<const D: usize>(x: Tensor<D>, drop: Drop) -> Tensor<D> {
    let x = x.into_dispatch();
    Tensor::from_dispatch(<Dispatch as TrainingKernels>::fin_training_dropout(x, drop))
}

pub(super) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    window: Window,
) -> Tensor<4> {
    let weight = weight.into_dispatch();
    Tensor::from_dispatch(<Dispatch as TrainingKernels>::fin_training_conv2d(
        x.into_dispatch(),
        weight.clone(),
        bias.map_or(weight, Tensor::into_dispatch),
        window,
    ))
}

/// The normalised batch, its mean and its biased variance, both `[channels]`.
pub(super) fn batch_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
    activation: Activation,
) -> Option<(Tensor<4>, Tensor<1>, Tensor<1>)> {
    let plain = x.device().without_autodiff();
    let dims = x.dims();
    let statistics = super::flex::read(x.clone().without_autodiff(), |values| {
        Statistics::of(values, dims, eps)
    })?;
    let floats = |values: &[f64]| {
        let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        Tensor::<1>::from_floats(values.as_slice(), &plain)
    };
    let (mean, variance) = (floats(statistics.mean()), floats(statistics.variance()));
    let y = Tensor::from_dispatch(<Dispatch as TrainingKernels>::fin_training_batch_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        statistics,
        activation,
    ));
    Some((y, mean, variance))
}

/// What a dropout layer that takes part in training leaves out this time, by the device's random
/// state; none where it leaves nothing out.
fn drawn(layer: &Dropout, device: &Device) -> Option<Drop> {
    if !layer.training.is_enabled() || layer.prob == 0.0 {
        return None;
    }
    let distribution = Distribution::Uniform(0.0, f64::from(1u32 << 30));
    let seeds = Tensor::<1, Int>::random([2], distribution, device).into_data();
    let mut seeds = seeds.iter::<i64>().map(|seed| seed as u32);
    let mut next = || seeds.next().unwrap_or_default();
    Some(Drop::new(layer.prob, [next(), next()]))
}

/// Rows of a piece of a sum over rows.
const PIECE: usize = 64;

/// Sums over rows in several outputs at a time: `piece` adds the rows from its argument on, at most
/// [`PIECE`], to `widths` sums that begin with zero.
fn sums_of_pieces<const N: usize>(
    rows: usize,
    width: usize,
    piece: impl Fn(std::ops::Range<usize>, &mut [Vec<f32>; N]) + Sync,
) -> [Vec<f32>; N] {
    let pieces: Vec<[Vec<f32>; N]> = (0..rows.div_ceil(PIECE))
        .into_par_iter()
        .map(|i| {
            let mut sums = std::array::from_fn(|_| vec![0.0; width]);
            piece(i * PIECE..((i + 1) * PIECE).min(rows), &mut sums);
            sums
        })
        .collect();
    std::array::from_fn(|which| {
        let mut total = vec![0.0f64; width];
        for piece in &pieces {
            for (total, x) in total.iter_mut().zip(&piece[which]) {
                *total += f64::from(*x);
            }
        }
        total.into_iter().map(|x| x as f32).collect()
    })
}
