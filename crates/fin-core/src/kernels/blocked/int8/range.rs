//! The extent of an image's values, and how it is brought to bytes.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rayon::prelude::*;

use super::super::{BLOCK, Shape};
use super::lanes::Found;
use crate::kernels::simd::multiversion;

/// The smallest and the largest value of an image's channels, zero among them: what 256 steps are spread over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// At most zero.
    pub low: f32,
    /// At least zero.
    pub high: f32,
}

/// How an image is brought to bytes: to the integer nearest to `x * inverse`, plus `zero`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) struct Bytes {
    pub inverse: f32,
    /// What a byte's distance from `zero` is multiplied by; not a number where the image has one that is not
    /// finite.
    pub scale: f32,
    /// From 0 to 255.
    pub zero: i32,
}

impl Range {
    /// Nothing but zero.
    pub const EMPTY: Self = Self {
        low: 0.0,
        high: 0.0,
    };

    /// Of an image, from those of its channels and what they are multiplied by, ones without `scale`: to the bit what
    /// [`ranges()`] finds.
    ///
    /// Panics where there are not as many of both.
    pub fn of_channels(channels: &[Self], scale: Option<&[f32]>) -> Self {
        if let Some(scale) = scale {
            assert_eq!(
                channels.len(),
                scale.len(),
                "range: channels and their factors"
            );
        }
        let mut range = Self::EMPTY;
        let mut poison = 0.0;
        for (i, channel) in channels.iter().enumerate() {
            let factor = scale.map_or(1.0, |scale| scale[i]);
            for x in [channel.low * factor, channel.high * factor] {
                range.low = range.low.min(x);
                range.high = range.high.max(x);
                poison += x * 0.0;
            }
        }
        Self {
            low: range.low + poison,
            high: range.high + poison,
        }
    }

    pub(in super::super) fn bytes(self) -> Bytes {
        let Self { low, high } = self;
        if !low.is_finite() || !high.is_finite() {
            return Bytes {
                inverse: 0.0,
                scale: f32::NAN,
                zero: 0,
            };
        }
        // Divided first, as the distance of two numbers can be beyond all.
        let scale = high / 255.0 - low / 255.0;
        let inverse = 1.0 / scale;
        // Numbers so small that their step has no inverse count as zero.
        let inverse = if inverse.is_finite() { inverse } else { 0.0 };
        let zero = (-low * inverse).round_ties_even().clamp(0.0, 255.0);
        Bytes {
            inverse,
            scale,
            zero: zero as i32,
        }
    }
}

/// The ranges of a batch, as tasks find them. Integers are compared, so that no order matters.
pub(super) struct Ranges(Vec<(AtomicI32, AtomicU32)>);

impl Ranges {
    pub(super) fn new(batch: usize) -> Self {
        Self((0..batch).map(|_| Default::default()).collect())
    }

    /// Takes in what was found of an image.
    pub(super) fn add(&self, image: usize, [high, low]: &Found) {
        let (highest, lowest) = &self.0[image];
        let high = high.iter().fold(0, |most, bits| most.max(*bits as i32));
        let low = low.iter().fold(0, |most, bits| most.max(*bits));
        highest.fetch_max(high, Ordering::Relaxed);
        lowest.fetch_max(low, Ordering::Relaxed);
    }

    pub(super) fn get(self) -> impl Iterator<Item = Range> {
        self.0.into_iter().map(|(high, low)| {
            let low = f32::from_bits(low.into_inner());
            Range {
                // The largest of what is not below zero is not asked for here.
                low: if low.is_sign_negative() { low } else { 0.0 },
                high: f32::from_bits(high.into_inner() as u32),
            }
        })
    }
}

multiversion! {
    /// Takes in pixels, times factors of their channels.
    fn scan(x: &[f32], factors: &[f32; BLOCK], found: &mut Found) {
        let [mut high, mut low] = *found;
        for x in x.as_chunks::<BLOCK>().0 {
            for (((x, factor), high), low) in x.iter().zip(factors).zip(&mut high).zip(&mut low) {
                let bits = (x * factor).to_bits();
                *high = (*high as i32).max(bits as i32) as u32;
                *low = (*low).max(bits);
            }
        }
        *found = [high, low];
    }
}

/// The factors of a block's channels, ones where there are none, of `[batch, channels]`.
pub(super) fn factors(
    scale: Option<&[f32]>,
    shape: Shape,
    image: usize,
    block: usize,
) -> [f32; BLOCK] {
    let mut factors = [1.0; BLOCK];
    if let Some(scale) = scale {
        let channels = block * BLOCK..shape.channels.min((block + 1) * BLOCK);
        let scale = &scale[image * shape.channels..][channels];
        factors[..scale.len()].copy_from_slice(scale);
    }
    factors
}

/// Pixels that a task looks at.
const PIECE: usize = 2048;

/// The range of every image of blocked `x`, times `scale` `[batch, channels]` where it is given.
///
/// Panics where a length does not fit.
pub fn ranges(x: &[f32], shape: Shape, scale: Option<&[f32]>) -> Vec<Range> {
    shape.check("range: input", x.len());
    if let Some(scale) = scale {
        assert_eq!(
            scale.len(),
            shape.batch * shape.channels,
            "range: factors of {shape:?}"
        );
    }
    let found = Ranges::new(shape.batch);
    let pieces = shape.plane().div_ceil(PIECE);
    let task = |number: usize| {
        let (plane, piece) = (number / pieces, number % pieces);
        let (image, block) = (plane / shape.blocks(), plane % shape.blocks());
        let pixels = piece * PIECE..((piece + 1) * PIECE).min(shape.plane());
        let x = &x[(plane * shape.plane() + pixels.start) * BLOCK..][..pixels.len() * BLOCK];
        let mut lanes = [[0; BLOCK]; 2];
        scan(x, &factors(scale, shape, image, block), &mut lanes);
        found.add(image, &lanes);
    };
    let tasks = shape.batch * shape.blocks() * pieces;
    if x.len() < 1 << 16 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().for_each(task);
    }
    found.get().collect()
}
