//! Layers with packed weights, and the memory between them.

use std::borrow::Cow;

use fin_core::Precision;
use fin_core::kernels::blocked::{
    BLOCK, Buffer, Fused, PackedConv, PackedDepthwise, PackedInt8, PackedStem, Range, Shape,
    Summary, Window, conv, conv_int8, depthwise, expand_depthwise, expand_depthwise_int8,
    fits_int8, pack, pack_depthwise, pack_int8, pack_stem, ranges, stem,
};
use fin_core::kernels::{Activation, slices};
use fin_core::nn::{Conv2d, ConvPadding};

use crate::layers::{ConvNorm, SqueezeExcite};

/// Buffers that are free for the next layer.
#[derive(Default)]
pub(super) struct Pool(Vec<Buffer>);

impl Pool {
    /// A buffer of `len` floats; what stands in it is of no meaning.
    pub(super) fn take(&mut self, len: usize) -> Buffer {
        // The smallest that is large enough, else the largest.
        let fits = |buffer: &Buffer| buffer.capacity() >= len;
        let best = (0..self.0.len()).min_by_key(|i| {
            let buffer = &self.0[*i];
            let capacity = buffer.capacity();
            (
                !fits(buffer),
                if fits(buffer) {
                    capacity
                } else {
                    usize::MAX - capacity
                },
            )
        });
        let mut buffer = best.map_or_else(|| Buffer::new(0), |i| self.0.swap_remove(i));
        buffer.resize(len);
        buffer
    }

    /// Gives a feature map's memory back.
    pub(super) fn put(&mut self, map: Map) {
        self.0.push(map.values);
    }
}

/// A batch of feature maps in blocks of channels.
pub(super) struct Map {
    pub values: Buffer,
    pub shape: Shape,
    /// What is known of the values, from whatever made the map.
    pub known: Known,
}

/// Smallest and largest values of a map.
#[derive(Default)]
pub(super) enum Known {
    /// Nobody has looked.
    #[default]
    Nothing,
    /// Of every image.
    Images(Vec<Range>),
    /// Of every channel of every image.
    Channels(Vec<Range>),
}

impl Map {
    pub(super) fn new(shape: Shape, pool: &mut Pool) -> Self {
        Self {
            values: pool.take(shape.blocked_len()),
            shape,
            known: Known::Nothing,
        }
    }

    /// Of every image, its channels multiplied by `scale` `[batch, channels]`.
    fn ranges(&self, scale: Option<&[f32]>) -> Cow<'_, [Range]> {
        let channels = self.shape.channels;
        let image = |(i, extents)| {
            let scale = scale.map(|scale| &scale[i * channels..][..channels]);
            Range::of_channels(extents, scale)
        };
        match (&self.known, scale) {
            (Known::Images(ranges), None) => Cow::Borrowed(ranges),
            (Known::Channels(extents), _) => Cow::Owned(
                extents
                    .chunks_exact(channels)
                    .enumerate()
                    .map(image)
                    .collect(),
            ),
            _ => Cow::Owned(ranges(&self.values, self.shape, scale)),
        }
    }
}

/// Step and padding of a convolution, for the size that its input has.
#[derive(Clone, Copy)]
pub(super) struct Step {
    stride: usize,
    padding: ConvPadding,
    kernel: [usize; 2],
}

impl Step {
    fn new(conv: &Conv2d) -> Self {
        let [_, _, height, width] = conv.weight.dims();
        Self {
            stride: conv.stride,
            padding: conv.padding,
            kernel: [height, width],
        }
    }

    fn window(&self, shape: Shape) -> Window {
        let [kh, kw] = self.kernel;
        Window {
            stride: self.stride,
            padding: [
                self.padding.of_axis(shape.height, kh, self.stride),
                self.padding.of_axis(shape.width, kw, self.stride),
            ],
        }
    }

    /// Window and shape of the output.
    fn over(&self, shape: Shape, channels: usize) -> (Window, Shape) {
        let window = self.window(shape);
        let [height, width] = window.output(shape.height, shape.width, self.kernel);
        let to = Shape {
            batch: shape.batch,
            channels,
            height,
            width,
        };
        (window, to)
    }
}

/// Weight, shape of the weight, and bias of a convolution.
struct Weights {
    weight: Vec<f32>,
    shape: [usize; 4],
    bias: Option<Vec<f32>>,
}

impl Weights {
    /// None where the weights do not lie where the kernels can read them.
    fn of(conv: &Conv2d) -> Option<Self> {
        let bias = match &conv.bias {
            Some(bias) => Some(slices::values(bias.val().without_autodiff())?),
            None => None,
        };
        Some(Self {
            shape: conv.weight.dims(),
            weight: slices::values(conv.weight.val().without_autodiff())?,
            bias,
        })
    }

    fn pack(&self) -> PackedConv {
        let [out, from, kh, kw] = self.shape;
        pack(&self.weight, self.bias.as_deref(), out, from, kh, kw)
    }

    fn pack_int8(&self) -> PackedInt8 {
        let [out, from, kh, kw] = self.shape;
        pack_int8(&self.weight, self.bias.as_deref(), out, from, kh, kw)
    }
}

/// Whether the kernels have an activation.
fn has(activation: Activation) -> bool {
    matches!(
        activation,
        Activation::Identity | Activation::Relu | Activation::Relu6 | Activation::Silu
    )
}

/// The first convolution, from images as they come.
pub(super) struct First {
    packed: PackedStem,
    step: Step,
    activation: Activation,
}

impl First {
    pub(super) fn new(layer: &ConvNorm) -> Option<Self> {
        let conv = layer.fold().conv;
        let weights = (conv.groups == 1 && has(layer.activation)).then(|| Weights::of(&conv))??;
        let [out, from, kh, kw] = weights.shape;
        let bias = weights.bias.as_deref();
        Some(Self {
            packed: pack_stem(&weights.weight, bias, out, from, kh, kw),
            step: Step::new(&conv),
            activation: layer.activation,
        })
    }

    /// Shape of the output.
    pub(super) fn shape(&self, pixels: Shape) -> Shape {
        self.step.over(pixels, self.packed.channels()[0]).1
    }

    /// `pixels` `[batch, channels, height, width]`.
    pub(super) fn run(&self, pixels: &[f32], shape: Shape, pool: &mut Pool) -> Map {
        let (window, to) = self.step.over(shape, self.packed.channels()[0]);
        let mut map = Map::new(to, pool);
        let activation = self.activation;
        stem(
            pixels,
            shape,
            &self.packed,
            window,
            activation,
            &mut map.values,
        );
        map
    }
}

/// Weights of a convolution in which every output sees every input.
enum Packed {
    Float(PackedConv),
    Int8(PackedInt8),
}

impl Packed {
    /// Channels of the output and the input.
    fn channels(&self) -> [usize; 2] {
        match self {
            Self::Float(packed) => packed.channels(),
            Self::Int8(packed) => packed.channels(),
        }
    }
}

/// A convolution in which every output sees every input.
pub(super) struct Dense {
    packed: Packed,
    step: Step,
    activation: Activation,
}

impl Dense {
    /// With `activation` in place of the layer's own. A layer whose sums could leave 32 bits is in f32 in any
    /// precision.
    pub(super) fn new(
        layer: &ConvNorm,
        activation: Activation,
        precision: Precision,
    ) -> Option<Self> {
        let conv = layer.fold().conv;
        let weights = (conv.groups == 1 && has(activation)).then(|| Weights::of(&conv))??;
        let [_, from, kh, kw] = weights.shape;
        Some(Self {
            packed: match precision {
                Precision::Int8 if fits_int8(from, [kh, kw]) => Packed::Int8(weights.pack_int8()),
                _ => Packed::Float(weights.pack()),
            },
            step: Step::new(&conv),
            activation,
        })
    }

    /// Shape of the output.
    pub(super) fn shape(&self, x: Shape) -> Shape {
        self.step.over(x, self.packed.channels()[0]).1
    }

    /// Whether the extent of an input is needed.
    pub(super) fn is_int8(&self) -> bool {
        matches!(self.packed, Packed::Int8(_))
    }

    /// Whether every output pixel is made of one input pixel, at the same place.
    pub(super) fn is_point(&self) -> bool {
        self.step.kernel == [1, 1] && self.step.stride == 1
    }

    /// The residual is added before the activation; its memory becomes the output's. The input's
    /// channels are multiplied by `scale` `[batch, channels]` before all.
    pub(super) fn run(
        &self,
        x: &Map,
        residual: Option<Map>,
        scale: Option<&[f32]>,
        pool: &mut Pool,
    ) -> Map {
        let (window, to) = self.step.over(x.shape, self.packed.channels()[0]);
        let mut fused = Fused::new(self.activation);
        fused.scale = scale;
        fused.onto = residual.is_some();
        let mut map = residual.unwrap_or_else(|| Map::new(to, pool));
        let y = &mut map.values;
        match &self.packed {
            Packed::Float(packed) => {
                conv(&x.values, x.shape, packed, window, fused, y);
                map.known = Known::Nothing;
            }
            Packed::Int8(packed) => {
                let ranges = x.ranges(scale);
                let mut found = vec![Range::EMPTY; to.batch];
                let slot = Some(&mut found[..]);
                conv_int8(&x.values, x.shape, &ranges, packed, window, fused, y, slot);
                map.known = Known::Images(found);
            }
        }
        map
    }
}

/// A convolution of every channel on its own.
pub(super) struct Depthwise {
    packed: PackedDepthwise,
    step: Step,
    activation: Activation,
}

impl Depthwise {
    pub(super) fn new(layer: &ConvNorm) -> Option<Self> {
        let conv = layer.fold().conv;
        let weights = has(layer.activation).then(|| Weights::of(&conv))??;
        let [channels, 1, kh, kw] = weights.shape else {
            return None;
        };
        if conv.groups != channels {
            return None;
        }
        let bias = weights.bias.as_deref();
        Some(Self {
            packed: pack_depthwise(&weights.weight, bias, channels, kh, kw),
            step: Step::new(&conv),
            activation: layer.activation,
        })
    }

    /// Shape of the output.
    pub(super) fn shape(&self, x: Shape) -> Shape {
        self.step.over(x, self.packed.channels()).1
    }

    /// After `expand`, where there is one. `means` takes the means of the output's channels,
    /// `[batch, channels]`; their extents are looked for where `extents` is set.
    pub(super) fn run(
        &self,
        expand: Option<&Dense>,
        x: &Map,
        means: Option<&mut [f32]>,
        extents: bool,
        pool: &mut Pool,
    ) -> Map {
        let (packed, activation) = (&self.packed, self.activation);
        let (window, to) = self.step.over(x.shape, packed.channels());
        let mut map = Map::new(to, pool);
        let (values, y) = (&x.values, &mut map.values);
        let mut found = match extents {
            true => vec![Range::EMPTY; to.batch * to.channels],
            false => Vec::new(),
        };
        let summary = Summary {
            means,
            extents: extents.then_some(&mut found[..]),
        };
        match expand.map(|expand| (&expand.packed, expand.activation)) {
            None => depthwise(values, x.shape, packed, window, activation, summary, y),
            Some((Packed::Float(expand), inner)) => expand_depthwise(
                values, x.shape, expand, inner, packed, window, activation, summary, y,
            ),
            Some((Packed::Int8(expand), inner)) => {
                let ranges = x.ranges(None);
                expand_depthwise_int8(
                    values, x.shape, &ranges, expand, inner, packed, window, activation, summary, y,
                )
            }
        };
        if extents {
            map.known = Known::Channels(found);
        }
        map
    }

    /// Channels of the input and output.
    pub(super) fn channels(&self) -> usize {
        self.packed.channels()
    }
}

/// The factors of a squeeze and excitation, from means.
pub(super) struct Excite {
    reduce: PackedConv,
    expand: PackedConv,
    activation: Activation,
}

impl Excite {
    pub(super) fn new(layer: &SqueezeExcite) -> Option<Self> {
        Some(Self {
            reduce: Weights::of(&layer.reduce)?.pack(),
            expand: Weights::of(&layer.expand)?.pack(),
            activation: has(layer.activation).then_some(layer.activation)?,
        })
    }

    /// `[batch, channels]` → the same shape.
    pub(super) fn run(&self, means: &[f32], batch: usize, pool: &mut Pool) -> Vec<f32> {
        // The images of a batch as the pixels of one, so that a tile takes several.
        let [squeezed, channels] = self.reduce.channels();
        let shape = |channels| Shape {
            batch: 1,
            channels,
            height: 1,
            width: batch,
        };
        let mut wide = Map::new(shape(channels), pool);
        let (blocks, _) = wide.values.as_chunks_mut::<BLOCK>();
        for (block, pixels) in blocks.chunks_exact_mut(batch).enumerate() {
            let first = block * BLOCK;
            let count = BLOCK.min(channels - first);
            for (image, to) in pixels.iter_mut().enumerate() {
                let from = &means[image * channels + first..][..count];
                *to = [0.0; BLOCK];
                to[..count].copy_from_slice(from);
            }
        }
        let mut narrow = Map::new(shape(squeezed), pool);
        let layer = |x: &Map, packed: &PackedConv, activation, y: &mut Map| {
            let fused = Fused::new(activation);
            conv(
                &x.values,
                x.shape,
                packed,
                Window::POINT,
                fused,
                &mut y.values,
            );
        };
        layer(&wide, &self.reduce, self.activation, &mut narrow);
        layer(&narrow, &self.expand, Activation::Identity, &mut wide);
        let mut scale = vec![0.0; batch * channels];
        for (image, scale) in scale.chunks_exact_mut(channels).enumerate() {
            for (block, scale) in scale.chunks_mut(BLOCK).enumerate() {
                let from = &wide.values[(block * batch + image) * BLOCK..];
                for (scale, x) in scale.iter_mut().zip(from) {
                    *scale = 1.0 / (1.0 + (-x).exp());
                }
            }
        }
        pool.put(narrow);
        pool.put(wide);
        scale
    }
}
