//! Operations that decide the speed of every model, each with a portable form that runs and
//! differentiates on every device, and a fast form for the pure-Rust device.
//!
//! The portable form is a composition of Burn operations. The fast form is a backend extension
//! of Burn's `flex` backend (the `flex` module here, and `training` within autodiff): fused passes
//! over contiguous memory, with the widest vector instructions that the processor has, chosen at run
//! time. It is taken when the tensors live on `flex` and hold f32; results and gradients of the two
//! agree to rounding, which the tests of this module check.

#[cfg(feature = "flex")]
mod attention;
#[cfg(feature = "flex")]
pub mod blocked;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
pub mod int8;
#[cfg(feature = "flex")]
pub mod neighbours;
pub mod optimizer;
#[cfg(feature = "flex")]
pub mod packed;
#[cfg(feature = "flex")]
mod pool;
#[cfg(feature = "flex")]
mod product;
#[cfg(feature = "flex")]
mod simd;
#[cfg(feature = "flex")]
pub mod slices;
#[cfg(feature = "flex")]
mod tasks;
#[cfg(all(test, feature = "flex"))]
mod testing;
#[cfg(feature = "tch")]
mod torch;
#[cfg(feature = "flex")]
mod training;

use std::sync::Arc;

use burn::nn::Dropout;
use burn::tensor::DType;
use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, gelu_approximate, relu, sigmoid, silu, softmax, tanh};
use burn::tensor::ops::ConvOptions;

use crate::device::has_exact_gelu_gradient;
use crate::precision::to_f32;

#[cfg(feature = "flex")]
pub use pool::on_pool;

/// What `f` gives; without `flex` there is no pool.
#[cfg(not(feature = "flex"))]
pub fn on_pool<T: Send>(_: &burn::tensor::Device, f: impl FnOnce() -> T + Send) -> T {
    f()
}

/// Without `flex` no weights are laid out ahead.
#[cfg(not(feature = "flex"))]
pub mod packed {
    use super::{Activation, Tensor};

    /// None exists.
    #[derive(Debug)]
    pub enum PackedLinear {}

    impl PackedLinear {
        /// None.
        pub fn of(_: Tensor<2>) -> Option<Self> {
            None
        }

        /// Never called.
        pub fn weight(&self) -> Vec<f32> {
            match *self {}
        }

        /// Never called.
        pub fn forward<const D: usize>(
            &self,
            _: &Tensor<D>,
            _: Option<Tensor<1>>,
            _: Activation,
        ) -> Option<Tensor<D>> {
            match *self {}
        }
    }
}

/// Without `flex` there are no layers in 8 bits.
#[cfg(not(feature = "flex"))]
pub mod int8 {
    use super::{Activation, Tensor};

    /// None exists.
    #[derive(Debug)]
    pub enum Int8Linear {}

    impl Int8Linear {
        /// Never called.
        pub fn forward<const D: usize>(&self, _: &Tensor<D>, _: Activation) -> Option<Tensor<D>> {
            match *self {}
        }
    }
}

/// Element-wise functions between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x`.
    Identity,
    /// `x·Φ(x)` with the error function (`gelu` in configuration files).
    Gelu,
    /// The tanh approximation of GELU (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `x·σ(1.702·x)`, CLIP's approximation of GELU (`quick_gelu`).
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x·σ(x)` (`silu`, `swish`).
    Silu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// The names that configuration files use.
    pub const NAMES: [&str; 10] = [
        "gelu",
        "gelu_new",
        "gelu_pytorch_tanh",
        "quick_gelu",
        "relu",
        "relu6",
        "silu",
        "swish",
        "tanh",
        "identity",
    ];

    /// From a configuration file's name; one of [`Activation::NAMES`].
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "quick_gelu" => Some(Self::QuickGelu),
            "relu" => Some(Self::Relu),
            "relu6" => Some(Self::Relu6),
            "silu" | "swish" => Some(Self::Silu),
            "tanh" => Some(Self::Tanh),
            "identity" => Some(Self::Identity),
            _ => None,
        }
    }

    /// Applies the function to every element.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        // What Burn has no single operation for.
        #[cfg(feature = "tch")]
        if matches!(self, Self::GeluTanh | Self::Silu) && is_torch(&x) {
            return torch::activation(x, self);
        }
        match self {
            Self::Identity => x,
            Self::Gelu => exact_gelu(x),
            Self::GeluTanh => gelu_approximate(x),
            Self::QuickGelu => x.clone() * sigmoid(x * QUICK_GELU_SCALE),
            Self::Relu => relu(x),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Silu => silu(x),
            Self::Tanh => tanh(x),
        }
    }
}

/// The factor within [`Activation::QuickGelu`].
const QUICK_GELU_SCALE: f32 = 1.702;

/// GELU whose gradient, too, is that of the error function.
fn exact_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let device = x.device();
    if !device.is_autodiff() || has_exact_gelu_gradient(&device) {
        gelu(x)
    } else {
        let phi = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf() * 0.5 + 0.5;
        x * phi
    }
}

/// Whether the fast form applies to this tensor.
#[cfg(feature = "flex")]
fn is_fast<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == burn::tensor::DType::F32 && crate::device::is_plain_flex(&x.device())
}

/// Whether the fast form within autodiff applies to this tensor.
#[cfg(feature = "flex")]
fn is_trained<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device();
    x.dtype() == burn::tensor::DType::F32
        && device.is_autodiff()
        && crate::device::is_plain_flex(&device.without_autodiff())
}

/// Whether LibTorch's own operations apply to this tensor.
#[cfg(feature = "tch")]
fn is_torch<const D: usize>(x: &Tensor<D>) -> bool {
    crate::device::is_plain_torch(&x.device())
}

/// `activation(x·Wᵀ + b)`: `x` `[..., in]`, `weight` `[out, in]`, `bias` `[out]` → `[..., out]`.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    activation: Activation,
) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if is_fast(&x) || is_trained(&x) {
        return flex::linear(x, weight, bias, activation);
    }
    #[cfg(feature = "tch")]
    if is_torch(&x) {
        return torch::linear(x, weight, bias, activation);
    }
    portable::linear(x, weight, bias, activation)
}

/// Layer normalisation of `x` (or of `x + residual`) over the last axis with the biased variance;
/// `weight` and `bias` are `[hidden]`.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    residual: Option<Tensor<D>>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if is_fast(&x) || is_trained(&x) {
        return flex::layer_norm(x, residual, weight, bias, eps);
    }
    portable::layer_norm(x, residual, weight, bias, eps)
}

/// Root-mean-square normalisation over the last axis (Zhang and Sennrich 2019), as T5 has it:
/// `x / √(mean(x²) + eps) · weight`, without centring and without a bias; `weight` is `[hidden]`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if is_fast(&x) || is_trained(&x) {
        return flex::rms_norm(x, weight, eps);
    }
    portable::rms_norm(x, weight, eps)
}

/// Added to the attention scores of a padding key: large enough that its share is exactly zero,
/// small enough that no sum overflows.
pub const MASKED_SCORE: f32 = f32::MIN / 2.0;

/// What is added to attention scores before the softmax.
#[derive(Debug, Clone)]
pub struct AttentionBias {
    /// `[batch, seq]`, added to every score of its key: 0 for a token, [`MASKED_SCORE`] for
    /// padding.
    pub key: Tensor<2>,
    /// `[heads, seq, seq]`, added to the score of its query and key (T5's relative positions).
    pub position: Option<Tensor<3>>,
    /// Where items are without padding ([`without_padding`]), the tokens of each. Queries, keys and values are then
    /// `[1, tokens, heads · head_dim]`, every item sees itself alone, `key` is not looked at, and `position` is of
    /// the longest item.
    pub lengths: Option<Arc<[usize]>>,
}

/// Multi-head dot-product attention (Vaswani et al. 2017, section 3.2), unprojected.
///
/// `query`, `key` and `value` are `[batch, seq, heads · head_dim]`; scores are multiplied by
/// `scale` ([`scaled`] gives the usual one, T5 has 1) before `bias` is added. `dropout` acts on
/// the attention weights, in training alone. Returns `[batch, seq, heads · head_dim]`.
pub fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    bias: &AttentionBias,
    heads: usize,
    scale: f64,
    dropout: &Dropout,
) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if is_fast(&query) {
        return flex::attention([query, key, value], bias, heads, scale);
    }
    assert!(
        bias.lengths.is_none(),
        "attention: items without padding are for `flex`"
    );
    #[cfg(feature = "flex")]
    if is_trained(&query) {
        return training::attention(query, key, value, bias.clone(), heads, scale, dropout);
    }
    #[cfg(feature = "tch")]
    if is_torch(&query) {
        return torch::attention(query, key, value, bias, heads, scale);
    }
    portable::attention(query, key, value, bias, heads, scale, dropout)
}

/// What `layers` make of `x` `[batch, seq, hidden]`, whose items have so many tokens and padding behind them. On
/// `flex`, at inference, the layers see `[1, tokens, hidden]` without it, with `bias` telling the items apart, and
/// zeros are in its place in the result; elsewhere they see `x` and `bias` as they are.
///
/// Panics where there are not as many lengths as items, or one is longer than the items are.
pub fn without_padding(
    x: Tensor<3>,
    lengths: Option<&Arc<[usize]>>,
    bias: AttentionBias,
    layers: impl FnOnce(Tensor<3>, &AttentionBias) -> Tensor<3>,
) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if let Some(lengths) = lengths
        && let Some(packed) = flex::pack(&x, lengths)
    {
        let seq = x.dims()[1];
        drop(x);
        let bias = AttentionBias {
            lengths: Some(lengths.clone()),
            ..bias
        };
        return flex::unpack(&layers(packed, &bias), lengths, seq);
    }
    #[cfg(not(feature = "flex"))]
    let _ = lengths;
    layers(x, &bias)
}

/// Whether [`without_padding`] can leave padding out of a tensor.
pub fn packs(x: &Tensor<3>) -> bool {
    #[cfg(feature = "flex")]
    return is_fast(x);
    #[cfg(not(feature = "flex"))]
    {
        let _ = x;
        false
    }
}

/// `1 / √head_dim`, the scale of scores in scaled dot-product attention.
pub fn scaled(head_dim: usize) -> f64 {
    (head_dim as f64).powf(-0.5)
}

/// Dropout (Srivastava et al. 2014), where the layer takes part in training.
pub fn dropout<const D: usize>(x: Tensor<D>, layer: &Dropout) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if is_trained(&x) {
        return training::dropout(x, layer);
    }
    layer.forward(x)
}

/// Convolution of `x` `[batch, in, height, width]` with `weight` `[out, in / groups, kernel, kernel]`, and
/// `bias` `[out]`; `padding` is before and behind, of the vertical and of the horizontal axis.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: [(usize, usize); 2],
    groups: usize,
) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if is_trained(&x) {
        let depthwise = groups > 1 && groups == x.dims()[1] && groups == weight.dims()[0];
        if depthwise || groups == 1 {
            let window = training::Window {
                stride,
                padding,
                depthwise,
                bias: bias.is_some(),
            };
            return training::conv2d(x, weight, bias, window);
        }
    }
    portable::conv2d(x, weight, bias, stride, padding, groups)
}

/// Batch normalisation of `x` `[batch, channels, height, width]` by given statistics; all else is `[channels]`.
pub fn batch_norm_running(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    mean: Tensor<1>,
    variance: Tensor<1>,
    eps: f64,
) -> Tensor<4> {
    let dtype = x.dtype();
    let x = to_f32(x);
    let [weight, bias, mean, variance] = [weight, bias, mean, variance].map(to_f32);
    #[cfg(feature = "tch")]
    if is_torch(&x) {
        return torch::batch_norm(x, weight, bias, mean, variance, eps).cast(dtype);
    }
    burn::tensor::module::batch_norm(x, weight, bias, mean, variance, eps).cast(dtype)
}

/// Batch normalisation of `x` `[batch, channels, height, width]` by its own statistics, and an
/// activation: the result, and mean and biased variance, both `[channels]` and outside of autodiff. `weight` and `bias` are
/// `[channels]`.
pub fn batch_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
    activation: Activation,
) -> (Tensor<4>, Tensor<1>, Tensor<1>) {
    #[cfg(feature = "flex")]
    if is_trained(&x) {
        let fast = training::batch_norm(x.clone(), weight.clone(), bias.clone(), eps, activation);
        if let Some(result) = fast {
            return result;
        }
    }
    portable::batch_norm(x, weight, bias, eps, activation)
}

/// The forms that run on every device.
///
/// Weights may be in half precision. Inputs are brought to their type; norms and softmax, whose sums of squares
/// and exponentials have neither the digits nor the range there, are taken in f32.
mod portable {
    use super::*;

    pub(super) fn linear<const D: usize>(
        x: Tensor<D>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        activation: Activation,
    ) -> Tensor<D> {
        let x = x.cast(weight.dtype());
        let mut shape = x.dims();
        let in_features = shape[D - 1];
        let rows = shape.iter().product::<usize>() / in_features.max(1);
        shape[D - 1] = weight.dims()[0];
        let mut y = x.reshape([rows, in_features]).matmul(weight.transpose());
        if let Some(bias) = bias {
            y = y + bias.unsqueeze();
        }
        activation.forward(y).reshape(shape)
    }

    pub(super) fn layer_norm<const D: usize>(
        x: Tensor<D>,
        residual: Option<Tensor<D>>,
        weight: Tensor<1>,
        bias: Tensor<1>,
        eps: f64,
    ) -> Tensor<D> {
        let dtype = weight.dtype();
        let x = match residual {
            Some(residual) => to_f32(x) + to_f32(residual),
            None => to_f32(x),
        };
        let (weight, bias) = (to_f32(weight), Some(to_f32(bias)));
        burn::tensor::module::layer_norm(x, weight, bias, eps).cast(dtype)
    }

    pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
        let dtype = weight.dtype();
        let x = to_f32(x);
        let scale = x.clone().square().mean_dim(D - 1) + eps;
        (x / scale.sqrt() * to_f32(weight).unsqueeze()).cast(dtype)
    }

    pub(super) fn attention(
        query: Tensor<3>,
        key: Tensor<3>,
        value: Tensor<3>,
        bias: &AttentionBias,
        heads: usize,
        scale: f64,
        dropout: &Dropout,
    ) -> Tensor<3> {
        let [batch, seq, hidden] = query.dims();
        let head_dim = hidden / heads;
        let split = |x: Tensor<3>| x.reshape([batch, seq, heads, head_dim]).swap_dims(1, 2);
        let dtype = query.dtype();
        let scores = match dtype {
            DType::F32 => split(query).matmul(split(key).swap_dims(2, 3)) * scale,
            // The query is scaled, not the product, which might be too large.
            _ => to_f32((split(query) * scale).matmul(split(key).swap_dims(2, 3))),
        };
        let scores = match &bias.position {
            Some(position) => scores + to_f32(position.clone()).unsqueeze(),
            None => scores,
        };
        let scores = scores + bias.key.clone().reshape([batch, 1, 1, seq]);
        let weights = dropout.forward(softmax(scores, 3)).cast(dtype);
        weights
            .matmul(split(value))
            .swap_dims(1, 2)
            .reshape([batch, seq, hidden])
    }

    pub(super) fn conv2d(
        x: Tensor<4>,
        weight: Tensor<4>,
        bias: Option<Tensor<1>>,
        stride: usize,
        padding: [(usize, usize); 2],
        groups: usize,
    ) -> Tensor<4> {
        let x = x.cast(weight.dtype());
        let options = ConvOptions::new_with_padding([stride; 2], padding, [1; 2], groups);
        burn::tensor::module::conv2d(x, weight, bias, options)
    }

    pub(super) fn batch_norm(
        x: Tensor<4>,
        weight: Tensor<1>,
        bias: Tensor<1>,
        eps: f64,
        activation: Activation,
    ) -> (Tensor<4>, Tensor<1>, Tensor<1>) {
        let [_, channels, height, width] = x.dims();
        // The few values of a fully connected stage can lie much farther from zero than from each
        // other, and the product of mean and scale would then take their digits. A shift changes
        // neither result nor gradient.
        let shift = (height * width == 1).then(|| x.clone().detach().mean_dim(0));
        let x = match &shift {
            Some(shift) => x - shift.clone(),
            None => x,
        };
        let result = burn::tensor::module::batch_norm_train(x, weight, bias, eps);
        let mean = match shift {
            Some(shift) => result.mean + shift.reshape([channels]),
            None => result.mean,
        };
        (
            activation.forward(result.output),
            mean.without_autodiff(),
            result.variance.without_autodiff(),
        )
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::nn::DropoutConfig;
    use burn::tensor::{Device, Distribution};

    fn relative<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
        let norm = |x: Tensor<D>| x.square().sum().sqrt().into_scalar::<f32>();
        let (a, b) = (a.inner(), b.inner());
        // A row of rectified negatives is all zero; then the difference itself must be small.
        norm(a - b.clone()) / norm(b).max(f32::MIN_POSITIVE)
    }

    /// The portable form of the same call, reached by putting the inputs on an autodiff device.
    fn lift<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
        let lifted = Tensor::from_data(x.to_data(), &Device::flex().autodiff());
        assert!(is_fast(x) && !is_fast(&lifted));
        lifted
    }

    fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.5), device)
    }

    #[test]
    fn linear_agrees_with_its_portable_form() {
        let device = Device::flex();
        device.seed(1);
        for (rows, inner, outer) in [(1, 7, 5), (9, 33, 65), (64, 128, 96)] {
            let x = random([2, rows, inner], &device);
            let w = random([outer, inner], &device);
            let b = random([outer], &device);
            for activation in [
                Activation::Identity,
                Activation::Gelu,
                Activation::GeluTanh,
                Activation::QuickGelu,
                Activation::Relu,
                Activation::Relu6,
                Activation::Silu,
                Activation::Tanh,
            ] {
                for bias in [Some(b.clone()), None] {
                    let fast = linear(x.clone(), w.clone(), bias.clone(), activation);
                    let slow =
                        portable::linear(lift(&x), lift(&w), bias.as_ref().map(lift), activation);
                    let error = relative(fast, slow);
                    assert!(
                        error < 1e-6,
                        "{activation:?} {rows}x{inner}x{outer}: {error}"
                    );
                }
            }
        }
    }

    #[test]
    fn layer_norm_agrees_with_its_portable_form() {
        let device = Device::flex();
        device.seed(2);
        for width in [1, 5, 16, 31, 384] {
            let x = random([3, 4, width], &device) + 10.0;
            let r = random([3, 4, width], &device);
            let w = random([width], &device);
            let b = random([width], &device);
            for residual in [Some(r), None] {
                let fast = layer_norm(x.clone(), residual.clone(), w.clone(), b.clone(), 1e-5);
                let slow = portable::layer_norm(
                    lift(&x),
                    residual.as_ref().map(lift),
                    lift(&w),
                    lift(&b),
                    1e-5,
                );
                let error = relative(fast, slow);
                assert!(error < 3e-6, "{width}: {error}");
            }
        }
    }

    #[test]
    fn rms_norm_agrees_with_its_portable_form() {
        let device = Device::flex();
        device.seed(4);
        for width in [1, 5, 16, 31, 384] {
            let x = random([3, 4, width], &device) + 2.0;
            let w = random([width], &device);
            let fast = rms_norm(x.clone(), w.clone(), 1e-6);
            let error = relative(fast, portable::rms_norm(lift(&x), lift(&w), 1e-6));
            assert!(error < 1e-6, "{width}: {error}");
        }
    }

    #[test]
    fn attention_agrees_with_its_portable_form_and_ignores_padding() {
        let device = Device::flex();
        device.seed(3);
        let dropout = DropoutConfig::new(0.0).init();
        for (batch, seq, heads, head_dim) in [(1, 1, 1, 4), (2, 5, 3, 8), (3, 70, 2, 32)] {
            let hidden = heads * head_dim;
            let [q, k, v] = [(); 3].map(|()| random([batch, seq, hidden], &device));
            let mut bias = vec![0.0f32; batch * seq];
            for (i, value) in bias.iter_mut().enumerate() {
                if i % seq > seq / 2 + i / seq {
                    *value = MASKED_SCORE;
                }
            }
            let bias = Tensor::<1>::from_floats(bias.as_slice(), &device).reshape([batch, seq]);
            let position = random([heads, seq, seq], &device);
            for (position, scale) in [(None, scaled(head_dim)), (Some(position), 1.0)] {
                let lifted = AttentionBias {
                    key: lift(&bias),
                    position: position.as_ref().map(lift),
                    lengths: None,
                };
                let key = bias.clone();
                let fast = AttentionBias {
                    key,
                    position,
                    lengths: None,
                };
                let [fq, fk, fv] = [&q, &k, &v].map(Tensor::clone);
                let fast = attention(fq, fk, fv, &fast, heads, scale, &dropout);
                let [lq, lk, lv] = [&q, &k, &v].map(lift);
                let slow = portable::attention(lq, lk, lv, &lifted, heads, scale, &dropout);
                let error = relative(fast, slow);
                assert!(error < 2e-6, "{seq}: {error}");
            }

            // What stands at a padding position must not matter.
            let padding = bias
                .clone()
                .lower_elem(-1.0)
                .unsqueeze_dim::<3>(2)
                .expand([batch, seq, hidden]);
            let bias = AttentionBias {
                key: bias,
                position: None,
                lengths: None,
            };
            let changed = k.clone().mask_fill(padding.clone(), 1e3);
            let changed_v = v.clone().mask_fill(padding, -1e3);
            let fast = attention(q.clone(), k, v, &bias, heads, 1.0, &dropout);
            let other = attention(q, changed, changed_v, &bias, heads, 1.0, &dropout);
            other.into_data().assert_eq(&fast.into_data(), true);
        }
    }
}
