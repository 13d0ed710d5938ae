//! The choice of device, and the only module that names a backend.
//!
//! A device is written as `flex`, `tch`, `tch:0`, `wgpu`, `wgpu:0` or `cuda:0`. Each backend is
//! a Cargo feature; a device whose backend is not compiled in, or which is not present, is an
//! error. There is no silent fall-back to another device.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Device, FloatDType};

use crate::error::{Error, Result};
use crate::precision::Precision;

/// A device as a user names it, before it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeviceSpec {
    /// Pure Rust on the CPU (`flex`).
    #[default]
    Flex,
    /// LibTorch on the CPU (`tch`).
    Tch,
    /// LibTorch on a CUDA device (`tch:N`).
    TchCuda(usize),
    /// The best adapter that wgpu finds (`wgpu`).
    Wgpu,
    /// The wgpu adapter with this place in the list of adapters (`wgpu:N`).
    WgpuIndex(usize),
    /// CUDA through CubeCL (`cuda:N`; `cuda` is `cuda:0`).
    Cuda(usize),
}

/// What [`DeviceSpec::from_str`] accepts.
const ACCEPTED: &str = "flex, tch, tch:N, wgpu, wgpu:N, cuda, cuda:N (N a device index from 0)";

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            Error::argument(
                "device",
                format!("`{text}` is not a device; accepted: {ACCEPTED}"),
            )
        };
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index.parse::<usize>().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (name, index) {
            ("flex", None) => Ok(Self::Flex),
            ("tch", None) => Ok(Self::Tch),
            ("tch", Some(index)) => Ok(Self::TchCuda(index)),
            ("wgpu", None) => Ok(Self::Wgpu),
            ("wgpu", Some(index)) => Ok(Self::WgpuIndex(index)),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flex => f.write_str("flex"),
            Self::Tch => f.write_str("tch"),
            Self::TchCuda(index) => write!(f, "tch:{index}"),
            Self::Wgpu => f.write_str("wgpu"),
            Self::WgpuIndex(index) => write!(f, "wgpu:{index}"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl DeviceSpec {
    /// The Cargo feature that compiles this device's backend in.
    pub fn feature(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Tch | Self::TchCuda(_) => "tch",
            Self::Wgpu | Self::WgpuIndex(_) => "wgpu",
            Self::Cuda(_) => "cuda",
        }
    }

    /// Whether this device's backend is compiled into this binary.
    pub fn is_compiled(self) -> bool {
        match self {
            Self::Flex => cfg!(feature = "flex"),
            Self::Tch | Self::TchCuda(_) => cfg!(feature = "tch"),
            Self::Wgpu | Self::WgpuIndex(_) => cfg!(feature = "wgpu"),
            Self::Cuda(_) => cfg!(feature = "cuda"),
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::DeviceNotCompiled`] names the missing Cargo feature,
    /// [`Error::DeviceUnavailable`] the missing device or driver.
    pub fn open(self) -> Result<Device> {
        if !self.is_compiled() {
            return Err(Error::DeviceNotCompiled {
                device: self.to_string(),
                feature: self.feature(),
            });
        }
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "tch")]
            Self::Tch | Self::TchCuda(_) => open_tch(self),
            #[cfg(feature = "wgpu")]
            Self::Wgpu | Self::WgpuIndex(_) => open_wgpu(self),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => open_cuda(self, index),
            #[allow(unreachable_patterns)]
            _ => Err(Error::DeviceNotCompiled {
                device: self.to_string(),
                feature: self.feature(),
            }),
        }
    }
}

#[cfg(any(feature = "tch", feature = "wgpu", feature = "cuda"))]
fn unavailable(spec: DeviceSpec, reason: impl fmt::Display) -> Error {
    Error::DeviceUnavailable {
        device: spec.to_string(),
        reason: reason.to_string(),
    }
}

// LibTorch is deprecated in Burn 0.22 and works; its removal upstream costs these functions.
#[cfg(feature = "tch")]
#[allow(deprecated)]
fn open_tch(spec: DeviceSpec) -> Result<Device> {
    let DeviceSpec::TchCuda(index) = spec else {
        return Ok(Device::libtorch());
    };
    let device = Device::libtorch_cuda(index);
    let present = Device::enumerate(burn::tensor::DeviceType::LibTorch);
    if present.contains(&device) {
        Ok(device)
    } else {
        Err(unavailable(
            spec,
            "LibTorch finds no such CUDA device; check `nvidia-smi` and that LibTorch was built for CUDA",
        ))
    }
}

#[cfg(feature = "wgpu")]
fn open_wgpu(spec: DeviceSpec) -> Result<Device> {
    let found = Device::enumerate(burn::tensor::DeviceType::Wgpu);
    let hint = "install a Vulkan, Metal or DirectX 12 driver \
                (scripts/setup-vulkan.sh installs a software one on Debian)";
    match spec {
        DeviceSpec::WgpuIndex(index) => match found.get(index) {
            Some(device) => Ok(device.clone()),
            None => Err(unavailable(
                spec,
                format!("wgpu finds {} adapter(s); {hint}", found.len()),
            )),
        },
        _ if found.is_empty() => Err(unavailable(spec, format!("wgpu finds no adapter; {hint}"))),
        _ => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(spec: DeviceSpec, index: usize) -> Result<Device> {
    let fix = "install NVIDIA's driver and the CUDA toolkit's NVRTC, and check `nvidia-smi`";
    // The driver is loaded at run time. Where there is none, no device is found; what else can be wrong with
    // it is a panic inside the loader.
    let found =
        std::panic::catch_unwind(|| Device::enumerate(burn::tensor::DeviceType::Cuda).len())
            .map_err(|_| unavailable(spec, format!("the CUDA driver cannot be used; {fix}")))?;
    match found {
        0 => Err(unavailable(spec, format!("CUDA finds no device; {fix}"))),
        _ if index < found => Ok(Device::cuda(index)),
        _ => {
            let reason = format!("CUDA finds {found} device(s), counted from 0; {fix}");
            Err(unavailable(spec, reason))
        }
    }
}

/// Whether operations on this device run on the pure-Rust backend outside of autodiff, where the
/// fast forms of [`crate::kernels`] apply.
#[cfg(feature = "flex")]
pub(crate) fn is_plain_flex(device: &Device) -> bool {
    matches!(device.as_dispatch(), burn::backend::DispatchDevice::Flex(_))
}

/// Whether operations on this device run on LibTorch outside of autodiff.
#[cfg(feature = "tch")]
pub(crate) fn is_plain_torch(device: &Device) -> bool {
    matches!(
        device.as_dispatch(),
        burn::backend::DispatchDevice::LibTorch(_)
    )
}

/// Whether Burn's own gradient of GELU is that of the error function on this device. Elsewhere
/// (0.22.1) it is that of the tanh approximation, which is off by about 5e-4.
pub(crate) fn has_exact_gelu_gradient(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "flex")]
        burn::backend::DispatchDevice::Flex(_) => true,
        #[cfg(feature = "tch")]
        burn::backend::DispatchDevice::LibTorch(_) => true,
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// The name of a device's backend, as users write it.
pub fn backend_name(device: &Device) -> &'static str {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "flex")]
        burn::backend::DispatchDevice::Flex(_) => "flex",
        #[cfg(feature = "tch")]
        burn::backend::DispatchDevice::LibTorch(_) => "tch",
        #[allow(unreachable_patterns)]
        other if format!("{other:?}").contains("Cuda") => "cuda",
        #[allow(unreachable_patterns)]
        _ => "wgpu",
    }
}

/// Whether a device multiplies and adds in an element type. `flex` takes half precision only to
/// convert it, whatever it says.
pub(crate) fn computes_in(device: &Device, dtype: FloatDType) -> bool {
    backend_name(device) != "flex" && device.supports_dtype(dtype)
}

/// Largest relative error against a reference in f32 that results in half precision may have. Rounding to `b` bits of
/// mantissa is off by `2^-b` at most, and a network rounds some hundred times on the way, errors that add up as their
/// squares do: allowed is 8 times the rounding of one, 1/32 for bfloat16 and 1/256 for f16. The largest that the
/// fixtures have shown are half and four fifths of it.
pub fn half_tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::Bf16 => 8.0 * 2f64.powi(-8),
        _ => 8.0 * 2f64.powi(-11),
    }
}

/// Largest relative error against a reference that f32 results on this device may have,
/// `‖a − b‖ / ‖b‖`. Stated once, here, and used by every parity test.
pub fn f32_tolerance(spec: DeviceSpec) -> f64 {
    match spec {
        DeviceSpec::Flex | DeviceSpec::Tch => 1e-5,
        DeviceSpec::TchCuda(_)
        | DeviceSpec::Wgpu
        | DeviceSpec::WgpuIndex(_)
        | DeviceSpec::Cuda(_) => 1e-4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["flex", "tch", "tch:1", "wgpu", "wgpu:0", "cuda:2"] {
            assert_eq!(name.parse::<DeviceSpec>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse::<DeviceSpec>().unwrap(), DeviceSpec::Cuda(0));
    }

    #[test]
    fn unknown_names_list_what_is_accepted() {
        for name in ["cpu", "tch:", "tch:x", "flex:0", "", "wgpu:-1"] {
            let error = name.parse::<DeviceSpec>().unwrap_err().to_string();
            assert!(error.contains("accepted: flex, tch"), "{error}");
        }
    }

    #[test]
    #[cfg(feature = "cuda")]
    fn a_cuda_device_that_is_not_there_is_an_error_with_the_fix() {
        let error = DeviceSpec::Cuda(1000).open().unwrap_err().to_string();
        for part in ["cuda:1000", "CUDA finds", "nvidia-smi"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_device_that_is_not_compiled_in_names_its_feature() {
        for spec in [DeviceSpec::Tch, DeviceSpec::Wgpu, DeviceSpec::Cuda(0)] {
            if !spec.is_compiled() {
                let error = spec.open().unwrap_err().to_string();
                assert!(
                    error.contains(&format!("--features {}", spec.feature())),
                    "{error}"
                );
            }
        }
    }
}
