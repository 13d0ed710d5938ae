//! Affine map, as `torch.nn.Linear`.

use std::sync::Arc;

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::kernels::int8::Int8Linear;
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
    quantized: Option<Arc<Int8Linear>>,
}

impl Linear {
    /// Of a weight `[out_features, in_features]` and a bias `[out_features]`.
    pub fn of(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self {
            weight,
            bias,
            quantized: None,
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
        if let Some(quantized) = &self.quantized {
            return quantized
                .forward(&x, activation)
                .expect("`Linear::quantize` has checked the device");
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
                self.quantized = Some(Arc::new(layer));
                self.weight = Param::from_tensor(Tensor::zeros([outputs, 0], &device));
                return Ok(());
            }
        }
        let reason = "int8 is for inference on the device `flex`; leave it out elsewhere";
        Err(Error::argument("precision", reason))
    }
}

/// What has linear layers that may be held in 8 bits: those between large activations. Heads of a model are not
/// among them.
pub trait Quantize {
    /// Quantises them: [`Linear::quantize`].
    ///
    /// # Errors
    /// Those of [`Linear::quantize`].
    fn quantize(&mut self) -> Result<()>;
}

impl<T: Quantize> Quantize for Vec<T> {
    fn quantize(&mut self) -> Result<()> {
        self.iter_mut().try_for_each(T::quantize)
    }
}
