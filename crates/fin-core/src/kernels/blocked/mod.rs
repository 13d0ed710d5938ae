//! Convolutional networks at inference, on activations in blocks of channels.
//!
//! Activations are `[batch, channels/16, height, width, 16]` f32 (nChw16c in oneDNN's terms) from
//! the first convolution to the last, so that a vector holds 16 channels of a pixel; channels
//! are filled up to a multiple of 16 with zeros, which every function here keeps. Weights are
//! packed once ([`pack()`], [`pack_stem`], [`pack_depthwise`]). Bias, residual and activation are
//! applied while the sums are in registers.
//!
//! Functions take slices, check their lengths, and panic with a message where one is wrong. What
//! stands in an output beforehand does not matter, but with [`Fused::onto`]. Work is split over rayon's threads; kernels
//! exist for AVX-512, AVX2 and any processor, chosen at run time.

pub(super) mod ahead;
mod dense;
mod depthwise;
mod gather;
mod int8;
mod inverted;
pub(super) mod memory;
mod pack;
mod plan;
mod points;
mod pool;
#[cfg(test)]
mod tests;
mod tile;
pub(super) mod vector;
mod winograd;

pub use dense::{conv, stem};
pub use depthwise::{Summary, depthwise};
pub use int8::{PackedInt8, Range, conv_int8, fits_int8, pack_int8, ranges};
pub use inverted::{expand_depthwise, expand_depthwise_int8};
pub use memory::Buffer;
pub use pack::{PackedConv, PackedDepthwise, PackedStem, pack, pack_depthwise, pack_stem};
pub use points::{points, points_from, points_max};
pub use pool::{add, from_blocked, global_mean, max_pool, scale_channels, to_blocked};

use super::Activation;
use tile::Finish;
pub(super) use tile::each;

/// Channels in a block.
pub const BLOCK: usize = 16;

/// Extent of a batch of feature maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Images.
    pub batch: usize,
    /// Channels, those that fill up the last block not counted.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// Pixels of one channel of one image.
    pub fn plane(&self) -> usize {
        self.height * self.width
    }

    /// Blocks of channels.
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(BLOCK)
    }

    /// Floats in blocked layout.
    pub fn blocked_len(&self) -> usize {
        self.batch * self.blocks() * self.plane() * BLOCK
    }

    /// Floats in `[batch, channels, height, width]`.
    pub fn plain_len(&self) -> usize {
        self.batch * self.channels * self.plane()
    }

    fn check(&self, what: &str, found: usize) {
        assert_eq!(
            found,
            self.blocked_len(),
            "{what}: length in blocks of channels of {self:?}"
        );
    }
}

/// How a kernel moves over a feature map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Step along both axes, at least 1.
    pub stride: usize,
    /// Rows above and below, columns left and right.
    pub padding: [(usize, usize); 2],
}

impl Window {
    /// Step 1 without padding, for kernels of one pixel.
    pub const POINT: Self = Self {
        stride: 1,
        padding: [(0, 0); 2],
    };

    /// The same padding on every side.
    pub fn new(stride: usize, padding: usize) -> Self {
        Self {
            stride,
            padding: [(padding, padding); 2],
        }
    }

    /// Height and width of the output; panics where the kernel does not fit the padded input.
    pub fn output(&self, height: usize, width: usize, kernel: [usize; 2]) -> [usize; 2] {
        assert!(self.stride > 0, "convolution: the stride is 0");
        let extent = |size, (before, after), kernel| {
            let padded: usize = size + before + after;
            assert!(
                size > 0 && padded >= kernel,
                "convolution: a kernel of {kernel} does not fit {size} with padding {before} and {after}"
            );
            (padded - kernel) / self.stride + 1
        };
        [
            extent(height, self.padding[0], kernel[0]),
            extent(width, self.padding[1], kernel[1]),
        ]
    }
}

/// What is computed along with a dense convolution.
#[derive(Debug, Clone, Copy)]
pub struct Fused<'a> {
    /// After everything else: identity, ReLU, ReLU6 or SiLU.
    pub activation: Activation,
    /// Added before the activation; of the output's layout and length.
    pub residual: Option<&'a [f32]>,
    /// What stands in the output is the residual; then there is no other.
    pub onto: bool,
    /// `[batch, in]`, by which the input's channels are multiplied.
    pub scale: Option<&'a [f32]>,
}

impl<'a> Fused<'a> {
    /// An activation alone.
    pub fn new(activation: Activation) -> Self {
        Self {
            activation,
            residual: None,
            onto: false,
            scale: None,
        }
    }

    /// With a residual.
    pub fn with_residual(self, residual: &'a [f32]) -> Self {
        Self {
            residual: Some(residual),
            ..self
        }
    }

    /// With what stands in the output as the residual.
    pub fn onto(self) -> Self {
        Self { onto: true, ..self }
    }

    /// With factors of the input's channels.
    pub fn with_scale(self, scale: &'a [f32]) -> Self {
        Self {
            scale: Some(scale),
            ..self
        }
    }
}

/// What the kernels make of an activation; panics for one that they do not have.
fn finish(activation: Activation) -> Finish {
    match activation {
        Activation::Identity => Finish::Clamp(f32::NEG_INFINITY, f32::INFINITY),
        Activation::Relu => Finish::Clamp(0.0, f32::INFINITY),
        Activation::Relu6 => Finish::Clamp(0.0, 6.0),
        Activation::Silu => Finish::Silu,
        other => panic!("convolution: {other:?} is not among identity, ReLU, ReLU6 and SiLU"),
    }
}
