//! What both families are made of.

use burn::module::{Flag, Module, Param, ParamId};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Distribution, Tensor};
use fin_core::kernels::{self, Activation};
use fin_core::nn::{BatchNorm2d, BatchNorm2dConfig, Conv2d, Conv2dConfig};
use fin_core::to_f32;
use serde::{Deserialize, Serialize};

/// The numbers of the batch normalisations of a network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormConfig {
    /// Added to the variance.
    pub eps: f64,
    /// Share of a batch's statistics in the running ones, in training.
    pub momentum: f64,
}

impl Default for NormConfig {
    /// PyTorch's: 1e-5 and 0.1.
    fn default() -> Self {
        Self {
            eps: 1e-5,
            momentum: 0.1,
        }
    }
}

impl NormConfig {
    /// TensorFlow's for EfficientNet: 1e-3, and a decay of 0.99.
    pub const TENSORFLOW: Self = Self {
        eps: 1e-3,
        momentum: 0.01,
    };
}

/// Convolution without bias, batch normalisation, activation.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// With a bias once folded.
    pub conv: Conv2d,
    /// None once folded.
    pub norm: Option<BatchNorm2d>,
    /// After it.
    #[module(skip)]
    pub activation: Activation,
}

impl ConvNorm {
    /// Makes the three.
    pub fn init(
        conv: Conv2dConfig,
        norm: NormConfig,
        activation: Activation,
        device: &Device,
    ) -> Self {
        let features = BatchNorm2dConfig::new(conv.out_channels)
            .with_eps(norm.eps)
            .with_momentum(norm.momentum);
        Self {
            conv: conv.with_bias(false).init(device),
            norm: Some(features.init(device)),
            activation,
        }
    }

    /// `[batch, in, height, width]` → `[batch, out, height', width']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.conv.forward(x);
        match &self.norm {
            Some(norm) => norm.forward_activated(x, self.activation),
            None => self.activation.forward(x),
        }
    }

    /// The same function with the normalisation by running statistics taken into the weights of
    /// the convolution; for inference only, and outside of autodiff.
    pub fn fold(&self) -> Self {
        let conv = &self.conv;
        let Some(norm) = &self.norm else {
            return self.clone();
        };
        let (scale, shift) = norm.scale_and_shift();
        let (scale, shift) = (scale.without_autodiff(), shift.without_autodiff());
        let bias = match &conv.bias {
            Some(bias) => shift + bias.val().without_autodiff() * scale.clone(),
            None => shift,
        };
        let weight = conv.weight.val().without_autodiff() * scale.reshape([-1, 1, 1, 1]);
        Self {
            conv: Conv2d {
                weight: Param::initialized(ParamId::new(), weight),
                bias: Some(Param::initialized(ParamId::new(), bias)),
                ..conv.clone()
            },
            norm: None,
            activation: self.activation,
        }
    }
}

/// Squeeze and excitation (Hu et al. 2018): every channel scaled by what the means of all
/// channels say.
#[derive(Module, Debug)]
pub struct SqueezeExcite {
    /// `[squeezed, channels, 1, 1]`.
    pub reduce: Conv2d,
    /// `[channels, squeezed, 1, 1]`.
    pub expand: Conv2d,
    /// Between the two.
    #[module(skip)]
    pub activation: Activation,
}

impl SqueezeExcite {
    /// Makes the layer.
    pub fn init(channels: usize, squeezed: usize, activation: Activation, device: &Device) -> Self {
        Self {
            reduce: Conv2dConfig::new(channels, squeezed, 1).init(device),
            expand: Conv2dConfig::new(squeezed, channels, 1).init(device),
            activation,
        }
    }

    /// `[batch, channels, height, width]` → the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let means = to_f32(x.clone())
            .reshape([batch, channels, height * width])
            .mean_dim(2)
            .reshape([batch, channels]);
        // On one pixel a convolution by one is a linear map.
        let linear = |x: Tensor<2>, conv: &Conv2d, activation| {
            let weight = conv.weight.val();
            let [out, from, _, _] = weight.dims();
            let bias = conv.bias.as_ref().map(Param::val);
            kernels::linear(x, weight.reshape([out, from]), bias, activation)
        };
        let squeezed = linear(means, &self.reduce, self.activation);
        let scale = sigmoid(linear(squeezed, &self.expand, Activation::Identity));
        x * scale.reshape([batch, channels, 1, 1])
    }
}

/// Stochastic depth (Huang et al. 2016), torchvision's mode `row`: in training, an item's
/// residual branch is dropped with this probability, and scaled up where it is kept.
#[derive(Module, Debug)]
pub struct StochasticDepth {
    /// Probability to drop, from 0 to 1.
    pub prob: f64,
    /// Whether the layer takes part in training; cleared by freezing.
    pub training: Param<Flag>,
}

impl StochasticDepth {
    /// Makes the layer.
    pub fn new(prob: f64) -> Self {
        Self {
            prob,
            training: Param::from_bool(true),
        }
    }

    /// `[batch, channels, height, width]` → the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let device = x.device();
        if self.prob == 0.0 || !device.is_autodiff() || !self.training.is_enabled() {
            return x;
        }
        let keep = 1.0 - self.prob;
        let kept = Tensor::<4>::random(
            [x.dims()[0], 1, 1, 1],
            Distribution::Bernoulli(keep),
            &device,
        );
        x * kept * if keep > 0.0 { 1.0 / keep } else { 1.0 }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use fin_core::DeviceSpec;

    #[test]
    fn stochastic_depth_drops_rows_in_training_alone() {
        let device = DeviceSpec::Flex.open().unwrap();
        let layer = StochasticDepth::new(0.4);
        let ones = Tensor::<4>::ones([2000, 1, 2, 1], &device);
        layer
            .forward(ones.clone())
            .into_data()
            .assert_eq(&ones.clone().into_data(), true);
        let frozen = layer.clone().freeze();
        let training = device.autodiff();
        training.seed(7);
        let ones = Tensor::<4>::ones([2000, 1, 2, 1], &training);
        frozen
            .forward(ones.clone())
            .into_data()
            .assert_eq(&ones.clone().into_data(), true);
        let values: Vec<f32> = layer.forward(ones).into_data().try_into_vec().unwrap();
        let mut kept = 0;
        for row in values.chunks_exact(2) {
            assert!(row == [0.0, 0.0] || row.iter().all(|v| (v - 1.0 / 0.6).abs() < 1e-6));
            kept += usize::from(row[0] > 0.0);
        }
        assert!((1100..1300).contains(&kept), "{kept} of 2000 kept");
    }
}
