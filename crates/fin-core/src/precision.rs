//! How exactly a model computes.

use std::fmt;
use std::str::FromStr;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, FloatDType, Tensor};

use crate::device;
use crate::error::{Error, Result};
use crate::nn::{Linear, LinearLayers};

/// The numbers that weights are held in, and multiplied as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// 32-bit floats, as the reference libraries have by default.
    #[default]
    F32,
    /// IEEE 754 half precision, 11 bits of mantissa and values up to 65,504: for inference on devices that compute in
    /// it. Norms, softmax, pooling and heads stay in f32.
    F16,
    /// bfloat16, 8 bits of mantissa and the range of f32; otherwise as [`Precision::F16`].
    Bf16,
    /// Integers of 8 bits, with activations brought to 8 bits row by row ([`crate::kernels::int8`]), or image by
    /// image (`crate::kernels::blocked::conv_int8`): for inference on `flex`.
    Int8,
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            other => {
                let reason =
                    format!("`{other}` is not a precision; accepted: f32, f16, bf16, int8");
                Err(Error::argument("precision", reason))
            }
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

impl Precision {
    /// Brings a network on `device` to this precision, in the form in which inference is fastest there. Of the
    /// half ones this checks the device alone: [`Precision::cast`] follows, of the parts that are held in it.
    ///
    /// # Errors
    /// [`Error::Argument`] where the device has none of the kind.
    pub fn apply(self, network: &mut impl LinearLayers, device: &Device) -> Result<()> {
        match self {
            Self::F32 if device.is_autodiff() => Ok(()),
            Self::F32 => network.each_linear(&mut |linear| {
                linear.pack();
                Ok(())
            }),
            Self::F16 | Self::Bf16 => self.check_device(device),
            Self::Int8 => {
                self.check_device(device)?;
                network.each_linear(&mut Linear::quantize)
            }
        }
    }

    /// The element type of [`Precision::F16`] and [`Precision::Bf16`].
    fn half(self) -> Option<FloatDType> {
        match self {
            Self::F16 => Some(FloatDType::F16),
            Self::Bf16 => Some(FloatDType::BF16),
            Self::F32 | Self::Int8 => None,
        }
    }

    /// Refuses a device on which nothing has this precision, and any but f32 where it is for training.
    ///
    /// # Errors
    /// [`Error::Argument`], of the half ones with what the device has.
    pub fn check_device(self, device: &Device) -> Result<()> {
        if self == Self::F32 {
            return Ok(());
        }
        if device.is_autodiff() {
            let reason =
                format!("{self} is for inference; train in f32, and open what was saved in {self}");
            return Err(Error::argument("precision", reason));
        }
        let Some(dtype) = self.half() else {
            let reason = "int8 is for inference on the device `flex`; leave it out elsewhere";
            return match on_flex(device) {
                true => Ok(()),
                false => Err(Error::argument("precision", reason)),
            };
        };
        let name = device::backend_name(device);
        if device::computes_in(device, dtype) {
            return Ok(());
        }
        let halves = [Self::F16, Self::Bf16].into_iter();
        let has = halves.filter(|half| half.half().is_some_and(|d| device::computes_in(device, d)));
        let mut has: Vec<String> = has.map(|half| half.to_string()).collect();
        has.insert(0, Self::F32.to_string());
        if name == "flex" {
            has.push(Self::Int8.to_string());
        }
        let reason = format!(
            "the device `{name}` here does not compute in {self}; it has {}; choose one of them, or a \
             device with {self}",
            has.join(" and ")
        );
        Err(Error::argument("precision", reason))
    }

    /// Refuses what a network that is held in one precision as a whole cannot have: int8, and what
    /// [`Precision::check_device`] refuses.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn check_whole(self, device: &Device) -> Result<()> {
        match self {
            Self::Int8 => {
                let reason =
                    "int8 is for models of texts and images; this one takes f32, f16 and bf16";
                Err(Error::argument("precision", reason))
            }
            _ => self.check_device(device),
        }
    }

    /// A module with every floating-point parameter in [`Precision::F16`] or [`Precision::Bf16`]; in another
    /// precision the module as it is. The layers bring what they are given to the type of their weights.
    pub fn cast<M: Module>(self, module: M) -> M {
        match self.half() {
            Some(dtype) => module.map(&mut Cast(dtype)),
            None => module,
        }
    }

    /// Refuses to write weights that are not there any more.
    ///
    /// # Errors
    /// [`Error::Argument`] in any precision but f32.
    pub fn check_save(self) -> Result<()> {
        match self {
            Self::F32 => Ok(()),
            Self::F16 | Self::Bf16 | Self::Int8 => {
                let reason = format!("a model in {self} has no weights to save; open it in f32");
                Err(Error::argument("precision", reason))
            }
        }
    }
}

#[cfg(feature = "flex")]
fn on_flex(device: &Device) -> bool {
    crate::kernels::slices::takes(&burn::tensor::Tensor::<1>::zeros([1], device))
}

#[cfg(not(feature = "flex"))]
fn on_flex(_: &Device) -> bool {
    false
}

/// Brings parameters to an element type.
struct Cast(FloatDType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| value.cast(self.0))
    }
}

/// A tensor in single precision, whatever it is in.
pub fn to_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(FloatDType::F32)
}
