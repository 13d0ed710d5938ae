//! Weights in the order in which the kernels read them.

use super::BLOCK;
use super::memory::Buffer;

/// Weights and bias of a dense convolution, `[out/16][in/lanes][kh][kw][lanes][16]` with zeros
/// for the channels that fill up a block.
#[derive(Clone)]
pub(super) struct Dense {
    pub weight: Buffer,
    pub bias: Buffer,
    /// Channels of the output and the input.
    pub channels: [usize; 2],
    /// Height and width.
    pub kernel: [usize; 2],
    /// Input channels in a block: 16, or 1 for inputs that are not blocked.
    pub lanes: usize,
}

impl Dense {
    /// From `[out, in, kh, kw]`.
    fn new(
        weight: &[f32],
        bias: Option<&[f32]>,
        [out, from]: [usize; 2],
        kernel: [usize; 2],
        lanes: usize,
    ) -> Self {
        check(weight, bias, [out, from], kernel);
        let taps = kernel[0] * kernel[1];
        let in_blocks = from.div_ceil(lanes);
        let mut packed = Buffer::new(out.div_ceil(BLOCK) * in_blocks * taps * lanes * BLOCK);
        for (o, weight) in weight.chunks_exact(from * taps).enumerate() {
            for (i, weight) in weight.chunks_exact(taps).enumerate() {
                let block = (o / BLOCK * in_blocks + i / lanes) * taps;
                for (tap, w) in weight.iter().enumerate() {
                    packed[((block + tap) * lanes + i % lanes) * BLOCK + o % BLOCK] = *w;
                }
            }
        }
        Self {
            weight: packed,
            bias: padded(bias, out),
            channels: [out, from],
            kernel,
            lanes,
        }
    }
}

pub(super) fn check(
    weight: &[f32],
    bias: Option<&[f32]>,
    [out, from]: [usize; 2],
    [kh, kw]: [usize; 2],
) {
    assert!(
        out > 0 && from > 0 && kh > 0 && kw > 0,
        "convolution: weight [{out}, {from}, {kh}, {kw}] is empty"
    );
    assert_eq!(
        weight.len(),
        out * from * kh * kw,
        "convolution: the weight's length does not fit [{out}, {from}, {kh}, {kw}]"
    );
    if let Some(bias) = bias {
        assert_eq!(bias.len(), out, "convolution: bias length");
    }
}

/// The bias filled up with zeros, or zeros.
pub(super) fn padded(bias: Option<&[f32]>, out: usize) -> Buffer {
    let mut padded = Buffer::new(out.next_multiple_of(BLOCK));
    if let Some(bias) = bias {
        padded[..out].copy_from_slice(bias);
    }
    padded
}

/// A dense convolution of blocked inputs; made by [`pack`].
#[derive(Clone)]
pub struct PackedConv(pub(super) Dense);

/// Packs `weight` `[out, in, kh, kw]` and `bias` `[out]` for [`conv`](super::conv).
///
/// Panics where a length does not fit.
pub fn pack(
    weight: &[f32],
    bias: Option<&[f32]>,
    out: usize,
    from: usize,
    kh: usize,
    kw: usize,
) -> PackedConv {
    PackedConv(Dense::new(weight, bias, [out, from], [kh, kw], BLOCK))
}

/// A dense convolution of an image as it comes, `[batch, channels, height, width]`; made by
/// [`pack_stem`].
#[derive(Clone)]
pub struct PackedStem(pub(super) Dense);

/// Packs `weight` `[out, in, kh, kw]` and `bias` `[out]` for [`stem`](super::stem).
///
/// Panics where a length does not fit.
pub fn pack_stem(
    weight: &[f32],
    bias: Option<&[f32]>,
    out: usize,
    from: usize,
    kh: usize,
    kw: usize,
) -> PackedStem {
    PackedStem(Dense::new(weight, bias, [out, from], [kh, kw], 1))
}

/// A convolution of every channel on its own; made by [`pack_depthwise`].
#[derive(Clone)]
pub struct PackedDepthwise {
    /// `[channels/16][kh][kw][16]`.
    pub(super) weight: Buffer,
    pub(super) bias: Buffer,
    pub(super) channels: usize,
    pub(super) kernel: [usize; 2],
}

/// Packs `weight` `[channels, 1, kh, kw]` and `bias` `[channels]` for
/// [`depthwise`](fn@super::depthwise).
///
/// Panics where a length does not fit.
pub fn pack_depthwise(
    weight: &[f32],
    bias: Option<&[f32]>,
    channels: usize,
    kh: usize,
    kw: usize,
) -> PackedDepthwise {
    check(weight, bias, [channels, 1], [kh, kw]);
    let taps = kh * kw;
    let mut packed = Buffer::new(channels.div_ceil(BLOCK) * taps * BLOCK);
    for (c, weight) in weight.chunks_exact(taps).enumerate() {
        for (tap, w) in weight.iter().enumerate() {
            packed[(c / BLOCK * taps + tap) * BLOCK + c % BLOCK] = *w;
        }
    }
    PackedDepthwise {
        weight: packed,
        bias: padded(bias, channels),
        channels,
        kernel: [kh, kw],
    }
}

impl PackedConv {
    /// Channels of the output and the input.
    pub fn channels(&self) -> [usize; 2] {
        self.0.channels
    }

    /// Height and width.
    pub fn kernel(&self) -> [usize; 2] {
        self.0.kernel
    }
}

impl PackedStem {
    /// Channels of the output and the input.
    pub fn channels(&self) -> [usize; 2] {
        self.0.channels
    }

    /// Height and width.
    pub fn kernel(&self) -> [usize; 2] {
        self.0.kernel
    }
}

impl PackedDepthwise {
    /// Channels of the output and the input.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Height and width.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }
}
