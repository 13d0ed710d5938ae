//! Dropout (Srivastava et al. 2014), with nothing kept for the backward pass: whether an element stays
//! is a function of two seeds and of its place.

use burn::backend::Autodiff;
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::super::flex::rows_per_task;
use super::super::simd;
use super::{Contiguous, output};

/// What one pass leaves out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::kernels) struct Drop {
    /// Elements whose hash is below stay.
    threshold: u32,
    /// What those are multiplied by.
    scale: f32,
    seeds: [u32; 2],
}

impl Drop {
    /// Leaves out a share of `probability`, below 1.
    pub(super) fn new(probability: f64, seeds: [u32; 2]) -> Self {
        let keep = 1.0 - probability;
        Self {
            threshold: (keep * 2f64.powi(32)) as u32,
            scale: (1.0 / keep) as f32,
            seeds,
        }
    }

    /// What the element at a place is multiplied by.
    #[inline(always)]
    fn factor(self, place: u32) -> f32 {
        let hash = mix(mix(place.wrapping_add(self.seeds[0])).wrapping_add(self.seeds[1]));
        if hash < self.threshold {
            self.scale
        } else {
            0.0
        }
    }
}

/// MurmurHash3's 32-bit finaliser (Appleby 2011).
#[inline(always)]
fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

simd::multiversion! {
    /// `y = x · factor`, for elements from `first` on.
    pub(super) fn dropped(y: &mut [f32], x: &[f32], first: usize, drop: Drop) {
        let first = first as u32;
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            *y = x * drop.factor(first.wrapping_add(i as u32));
        }
    }
}

pub(super) fn apply(x: FlexTensor, drop: &Drop) -> FlexTensor {
    let x = Contiguous::new(x);
    let mut y = vec![0.0; x.values().len()];
    let chunk = rows_per_task(y.len());
    y.par_chunks_mut(chunk)
        .zip(x.values().par_chunks(chunk))
        .enumerate()
        .for_each(|(i, (y, x))| dropped(y, x, i * chunk, *drop));
    output(y, x.dims())
}

#[derive(Debug)]
struct Dropout;

pub(super) fn record<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex>>,
    drop: Drop,
) -> FloatTensor<Autodiff<Flex>> {
    let nodes = [x.node()];
    let y = apply(x.into_primitive(), &drop);
    match Dropout.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(y),
        OpsKind::Tracked(prep) => prep.finish(drop, y),
    }
}

impl Backward<Flex, 1> for Dropout {
    type State = Drop;

    fn backward(self, ops: Ops<Drop, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let drop = ops.state;
        unary::<Flex, _>(ops.parents, ops.node, grads, |gradient| {
            apply(gradient, &drop)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_left_out_is_that_asked_for_whatever_the_seeds() {
        let ones = vec![1.0f32; if cfg!(miri) { 1 << 10 } else { 1 << 16 }];
        let mut y = ones.clone();
        let mut masks = Vec::new();
        for (i, probability) in [0.1, 0.1, 0.5, 0.9].into_iter().enumerate() {
            let drop = Drop::new(probability, [i as u32, 7]);
            dropped(&mut y, &ones, 0, drop);
            let left_out = y.iter().filter(|&&y| y == 0.0).count() as f64 / y.len() as f64;
            let deviation = (probability * (1.0 - probability) / y.len() as f64).sqrt();
            assert!(
                (left_out - probability).abs() < 5.0 * deviation,
                "{left_out}"
            );
            let scale = (1.0 / (1.0 - probability)) as f32;
            assert!(y.iter().all(|&y| y == 0.0 || y == scale));
            masks.push(y.iter().map(|&y| y == 0.0).collect::<Vec<_>>());
        }
        // Two masks of one probability agree as often as independent ones do.
        let both = masks[0].iter().zip(&masks[1]).filter(|(a, b)| **a && **b);
        let both = both.count() as f64 / ones.len() as f64;
        assert!(
            (both - 0.01).abs() < 5.0 * (0.01 / ones.len() as f64).sqrt(),
            "{both}"
        );
    }
}
