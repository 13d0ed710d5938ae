//! Affine map, as `torch.nn.Linear`.

use std::sync::Arc;

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::kernels::int8::Int8Linear;
use crate::kernels::packed::PackedLinear;
use crate::kernels::{self, Activation};
use crate::{Error, Result};

/// Configuration of [`Linear`].
#[derive(Debug, Clone, PartialEq)]
pub struct LinearConfig {
    /// Size of the last axis of the input.
    pub in_features: usize,
    /// Size of the last axis of the output.
    pub out_features: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// Initialisation of the weight; the bias starts at zero.
    pub initializer: Initializer,
}

impl LinearConfig {
    /// A layer with a bias and weights drawn from N(0, 0.02²), as BERT initialises its own.
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Self {
            in_features,
            out_features,
            bias: true,
            initializer: Initializer::Normal {
                mean: 0.0,
                std: 0.02,
            },
        }
    }

    /// With or without a bias.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// With another initialisation of the weight.
    pub fn with_initializer(mut self, initializer: Initializer) -> Self {
        self.initializer = initializer;
        self
    }

    /// Makes the layer; its parameters take memory when they are first used or loaded.
    pub fn init(&self, device: &Device) -> Linear {
        let (inputs, outputs) = (self.in_features, self.out_features);
        let initializer = &self.initializer;
        let weight = initializer.init_with([outputs, inputs], Some(inputs), Some(outputs), device);
        let bias = self
            .bias
            .then(|| Initializer::Zeros.init([outputs], device));
        Linear::of(weight, bias)
    }
}

/// `y = x·Wᵀ + b`, with parameters laid out as `torch.nn.Linear` does.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out_features, in_features]`; `[out_features, 0]` where it is held in 8 bits.
    pub weight: Param<Tensor<2>>,
    /// `[out_features]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    held: Held,
}

/// What a layer multiplies by at inference instead of its weight.
#[derive(Debug, Clone, Default)]
enum Held {
    /// The weight itself.
    #[default]
    Plain,
    /// The same values in another order; `weight` puts them back when it is first read.
    Packed(Arc<PackedLinear>),
    /// Fewer bits of them.
    Int8(Arc<Int8Linear>),
}

impl Linear {
    /// Of a weight `[out_features, in_features]` and a bias `[out_features]`.
    pub fn of(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self {
            weight,
            bias,
            held: Held::Plain,
        }
    }

    /// `[..., in_features]` → `[..., out_features]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.forward_activated(x, Activation::Identity)
    }

    /// [`Linear::forward`] followed by an activation, in one pass where the device has a kernel
    /// for it.
    pub fn forward_activated<const D: usize>(
        &self,
        x: Tensor<D>,
        activation: Activation,
    ) -> Tensor<D> {
        match &self.held {
            // A weight that has been put back may have been changed since.
            Held::Packed(packed)
                if !self.weight.is_initialized() && self.weight.adapter().is_none() =>
            {
                let bias = self.bias.as_ref().map(Param::val);
                if let Some(y) = packed.forward(&x, bias, activation) {
                    return y;
                }
            }
            Held::Int8(quantized) => {
                return quantized
                    .forward(&x, activation)
                    .expect("`Linear::quantize` has checked the device");
            }
            Held::Plain | Held::Packed(_) => {}
        }
        kernels::linear(
            x,
            self.weight.val(),
            self.bias.as_ref().map(Param::val),
            activation,
        )
    }

    /// Size of the last axis of the output.
    pub fn out_features(&self) -> usize {
        self.weight.lazy_shape()[0]
    }

    /// Lays the weight out for products with many rows, where the device is `flex` and does not train; elsewhere
    /// nothing changes. Outputs stay what they were, to the bit. The weight can be read as before: its values
    /// are then put back beside the others, and from there on it is they that the layer uses.
    pub fn pack(&mut self) {
        if self.weight.adapter().is_some() || !matches!(self.held, Held::Plain) {
            return;
        }
        let weight = self.weight.val();
        let (device, shape) = (weight.device(), weight.dims());
        let Some(packed) = PackedLinear::of(weight).map(Arc::new) else {
            return;
        };
        // Whether it would train on another device, which a parameter tells in no other way.
        let probe = self.weight.clone().map(|_| Tensor::zeros([1, 1], &device));
        let trains = probe.train().is_require_grad();
        self.held = Held::Packed(packed.clone());
        self.weight = Param::uninitialized(
            self.weight.id,
            move |device, require_grad| {
                let values = TensorData::new(packed.weight(), shape);
                Tensor::from_data(values, device).set_require_grad(require_grad)
            },
            device,
            trains,
            shape.into(),
        );
    }

    /// Holds the weight in 8 bits from here on, and lets go of its values: for inference, on `flex`.
    ///
    /// # Errors
    /// [`Error::Argument`] where the weight is not f32 on `flex`, or is too wide.
    pub fn quantize(&mut self) -> Result<()> {
        #[cfg(feature = "flex")]
        {
            use crate::kernels::{int8, slices};

            let weight = self.weight.val();
            let (device, [outputs, inputs]) = (weight.device(), weight.dims());
            if inputs > int8::MOST_FEATURES {
                let most = int8::MOST_FEATURES;
                let reason = format!("a layer has {inputs} input features; int8 takes {most}");
                return Err(Error::argument("precision", reason));
            }
            let bias = self.bias.as_ref().map(Param::val);
            let bias = bias.map(slices::values);
            if let (Some(weight), None | Some(Some(_))) = (slices::values(weight), &bias) {
                let bias = bias.flatten();
                let layer = Int8Linear::new(&weight, [outputs, inputs], bias.as_deref());
                self.held = Held::Int8(Arc::new(layer));
                self.weight = Param::from_tensor(Tensor::zeros([outputs, 0], &device));
                return Ok(());
            }
        }
        let reason = "int8 is for inference on the device `flex`; leave it out elsewhere";
        Err(Error::argument("precision", reason))
    }
}

/// What has linear layers between large activations, which inference may hold in another form: [`Linear::pack`],
/// [`Linear::quantize`]. Heads of a model are not among them.
pub trait LinearLayers {
    /// Does something with each of them.
    ///
    /// # Errors
    /// Those of `f`; the layers after the one that failed are then as they were.
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()>;
}

impl<T: LinearLayers> LinearLayers for Vec<T> {
    fn each_linear(&mut self, f: &mut dyn FnMut(&mut Linear) -> Result<()>) -> Result<()> {
        self.iter_mut().try_for_each(|layer| layer.each_linear(f))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn a_packed_layer_gives_the_same_bits_and_its_weight_back() {
        let device = Device::flex();
        device.seed(3);
        for bias in [true, false] {
            let plain = LinearConfig::new(70, 45).with_bias(bias).init(&device);
            let x = Tensor::<3>::random([2, 9, 70], Distribution::Normal(0.0, 1.0), &device);
            let mut packed = plain.clone();
            packed.pack();
            assert!(matches!(packed.held, Held::Packed(_)));
            for activation in [Activation::Identity, Activation::Gelu] {
                let expected = plain.forward_activated(x.clone(), activation);
                let found = packed.forward_activated(x.clone(), activation);
                assert_eq!(values(found), values(expected));
            }
            assert!(!packed.weight.is_initialized());
            assert_eq!(packed.out_features(), 45);
            // A clone shares what is put back.
            let clone = packed.clone();
            assert_eq!(values(clone.weight.val()), values(plain.weight.val()));
            let expected = values(plain.forward(x.clone()));
            assert_eq!(values(packed.forward(x)), expected);
        }
    }

    #[test]
    fn a_weight_that_was_changed_is_the_one_that_counts() {
        let device = Device::flex();
        let mut layer = LinearConfig::new(5, 3).init(&device);
        layer.pack();
        layer.weight = layer.weight.map(|weight| weight * 0.0 + 2.0);
        let y = layer.forward(Tensor::<2>::ones([1, 5], &device));
        assert_eq!(values(y), [10.0; 3]);
    }

    #[test]
    fn a_packed_layer_trains_where_it_did_and_is_left_alone_in_training() {
        let device = Device::flex();
        for trains in [true, false] {
            let mut layer = LinearConfig::new(5, 3).init(&device);
            if !trains {
                layer = layer.no_grad();
            }
            layer.pack();
            let mut layer = layer.train();
            assert_eq!(layer.weight.is_require_grad(), trains);
            layer.pack();
            let x = Tensor::<2>::ones([1, 5], &device.clone().autodiff()).require_grad();
            let gradients = layer.forward(x).sum().backward();
            assert_eq!(layer.weight.grad(&gradients).is_some(), trains);
        }
        let mut layer = LinearConfig::new(5, 3).init(&device.autodiff());
        layer.pack();
        assert!(matches!(layer.held, Held::Plain));
    }
}
