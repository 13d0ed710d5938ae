//! How exactly a model computes.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use crate::error::{Error, Result};
use crate::nn::{Linear, LinearLayers};

/// The numbers that the weights of large layers are held in, and multiplied as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// 32-bit floats, as the reference libraries have by default.
    #[default]
    F32,
    /// Integers of 8 bits, with activations brought to 8 bits row by row ([`crate::kernels::int8`]), or image by
    /// image (`crate::kernels::blocked::conv_int8`): for inference on `flex`.
    Int8,
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "int8" => Ok(Self::Int8),
            other => {
                let reason = format!("`{other}` is not a precision; accepted: f32, int8");
                Err(Error::argument("precision", reason))
            }
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        })
    }
}

impl Precision {
    /// Brings a network on `device` to this precision, in the form in which inference is fastest there.
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
            Self::Int8 => {
                self.check_device(device)?;
                network.each_linear(&mut Linear::quantize)
            }
        }
    }

    /// Refuses a device on which nothing has this precision.
    ///
    /// # Errors
    /// [`Error::Argument`] for int8 within autodiff, and elsewhere than on `flex`.
    pub fn check_device(self, device: &Device) -> Result<()> {
        if self == Self::F32 {
            return Ok(());
        }
        let reason = if device.is_autodiff() {
            "int8 is for inference; train in f32, and open what was saved in int8"
        } else if !on_flex(device) {
            "int8 is for inference on the device `flex`; leave it out elsewhere"
        } else {
            return Ok(());
        };
        Err(Error::argument("precision", reason))
    }

    /// Refuses to write weights that are not there any more.
    ///
    /// # Errors
    /// [`Error::Argument`] in any precision but f32.
    pub fn check_save(self) -> Result<()> {
        match self {
            Self::F32 => Ok(()),
            Self::Int8 => {
                let reason = "a model in int8 has no weights to save; open it in f32";
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
