//! Two-dimensional convolution, as `torch.nn.Conv2d`.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::kernels;

/// What is put around an image before a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConvPadding {
    /// As many zeros on all four sides.
    Fixed(usize),
    /// TensorFlow's `SAME`: as many zeros as make the output `⌈input / stride⌉`; where their
    /// number is odd, the one more goes to the bottom and the right.
    Same,
}

impl ConvPadding {
    /// Zeros before and after an axis of `input` values, for a kernel of that many.
    pub fn of_axis(self, input: usize, kernel: usize, stride: usize) -> (usize, usize) {
        match self {
            Self::Fixed(padding) => (padding, padding),
            Self::Same => {
                let reach = (input.div_ceil(stride).max(1) - 1) * stride + kernel;
                let padding = reach.saturating_sub(input);
                (padding / 2, padding - padding / 2)
            }
        }
    }
}

/// Configuration of [`Conv2d`].
#[derive(Debug, Clone, PartialEq)]
pub struct Conv2dConfig {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Height and width of the kernel.
    pub kernel_size: usize,
    /// Step on both axes.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: ConvPadding,
    /// Number of groups of channels that do not see each other.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Conv2dConfig {
    /// A convolution of one group with stride 1, a bias and no padding.
    pub fn new(in_channels: usize, out_channels: usize, kernel_size: usize) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel_size,
            stride: 1,
            padding: ConvPadding::Fixed(0),
            groups: 1,
            bias: true,
        }
    }

    /// With another stride.
    pub fn with_stride(mut self, stride: usize) -> Self {
        self.stride = stride;
        self
    }

    /// With another padding.
    pub fn with_padding(mut self, padding: ConvPadding) -> Self {
        self.padding = padding;
        self
    }

    /// With another number of groups.
    pub fn with_groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// With or without a bias.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Makes the layer with weights drawn from N(0, 2 / (out_channels · kernel²)) (He et al.
    /// 2015, by the outgoing connections) and bias zero, as image networks initialise theirs.
    pub fn init(&self, device: &Device) -> Conv2d {
        let kernel = self.kernel_size;
        let shape = [
            self.out_channels,
            self.in_channels / self.groups,
            kernel,
            kernel,
        ];
        let initializer = Initializer::KaimingNormal {
            gain: std::f64::consts::SQRT_2,
            fan_out_only: true,
        };
        let area = kernel * kernel;
        let weight = initializer.init_with(
            shape,
            Some(shape[1] * area),
            Some(self.out_channels * area),
            device,
        );
        let bias = self
            .bias
            .then(|| Initializer::Zeros.init([self.out_channels], device));
        Conv2d {
            weight,
            bias,
            stride: self.stride,
            padding: self.padding,
            groups: self.groups,
        }
    }
}

/// Convolution with parameters laid out as `torch.nn.Conv2d` does.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out_channels, in_channels / groups, kernel_size, kernel_size]`.
    pub weight: Param<Tensor<4>>,
    /// `[out_channels]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Step on both axes.
    pub stride: usize,
    /// Zeros around the input.
    #[module(skip)]
    pub padding: ConvPadding,
    /// Number of groups of channels that do not see each other.
    pub groups: usize,
}

impl Conv2d {
    /// `[batch, in_channels, height, width]` → `[batch, out_channels, height', width']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let weight = self.weight.val();
        let [_, _, kernel_height, kernel_width] = weight.dims();
        let padding = [
            self.padding.of_axis(height, kernel_height, self.stride),
            self.padding.of_axis(width, kernel_width, self.stride),
        ];
        kernels::conv2d(
            x,
            weight,
            self.bias.as_ref().map(Param::val),
            self.stride,
            padding,
            self.groups,
        )
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.weight.lazy_shape()[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(1, 2)` for 13, 6 and 5 is the example of TensorFlow's documentation.
    #[test]
    fn same_padding_puts_the_odd_one_last() {
        for (input, kernel, stride, expected) in [
            (224, 3, 2, (0, 1)),
            (225, 3, 2, (1, 1)),
            (14, 5, 1, (2, 2)),
            (7, 1, 1, (0, 0)),
            (7, 1, 2, (0, 0)),
            (13, 6, 5, (1, 2)),
        ] {
            assert_eq!(ConvPadding::Same.of_axis(input, kernel, stride), expected);
        }
        assert_eq!(ConvPadding::Fixed(3).of_axis(9, 7, 2), (3, 3));
    }
}
