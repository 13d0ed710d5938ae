//! Forms for LibTorch at inference, as a backend extension: its own operations over several at a time,
//! which are what PyTorch runs in eager mode. Burn composes the same of single operations, each a pass over memory.

#![allow(deprecated)]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, LibTorch, backend_extension};
use burn::tensor::Tensor;

use super::{Activation, AttentionBias, QUICK_GELU_SCALE};

/// Operations that LibTorch has in one. An operand that may be absent comes with a flag, as in
/// [`super::flex::FinKernels`].
#[backend_extension(LibTorch)]
pub(super) trait TorchKernels: Backend {
    /// See [`super::linear`].
    fn torch_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        has_bias: bool,
        activation: Activation,
    ) -> FloatTensor<Self>;

    /// [`Activation::forward`].
    fn torch_activation(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;

    /// See [`super::attention`]; `bias`, `[batch or 1, heads or 1, seq or 1, seq]`, is added to the scores.
    fn torch_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        heads: usize,
        scale: f64,
    ) -> FloatTensor<Self>;

    /// See [`super::batch_norm_running`].
    fn torch_batch_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
}

pub(super) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    activation: Activation,
) -> Tensor<D> {
    let x = x.cast(weight.dtype());
    let weight = weight.into_dispatch();
    let has_bias = bias.is_some();
    Tensor::from_dispatch(<Dispatch as TorchKernels>::torch_linear(
        x.into_dispatch(),
        weight.clone(),
        bias.map_or(weight, Tensor::into_dispatch),
        has_bias,
        activation,
    ))
}

pub(super) fn activation<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as TorchKernels>::torch_activation(
        x.into_dispatch(),
        activation,
    ))
}

pub(super) fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    bias: &AttentionBias,
    heads: usize,
    scale: f64,
) -> Tensor<3> {
    let dtype = query.dtype();
    let [batch, seq] = bias.key.dims();
    let keys = bias.key.clone().reshape([batch, 1, 1, seq]);
    let bias = match &bias.position {
        Some(position) => keys + super::to_f32(position.clone()).unsqueeze(),
        None => keys,
    };
    Tensor::from_dispatch(<Dispatch as TorchKernels>::torch_attention(
        query.into_dispatch(),
        key.cast(dtype).into_dispatch(),
        value.cast(dtype).into_dispatch(),
        bias.into_dispatch(),
        heads,
        scale,
    ))
}

pub(super) fn batch_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    mean: Tensor<1>,
    variance: Tensor<1>,
    eps: f64,
) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as TorchKernels>::torch_batch_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        mean.into_dispatch(),
        variance.into_dispatch(),
        eps,
    ))
}

/// LibTorch's handle of a tensor of floats.
type Handle = FloatTensor<LibTorch>;

impl TorchKernels for LibTorch {
    fn torch_linear(
        x: Handle,
        weight: Handle,
        bias: Handle,
        has_bias: bool,
        activation: Activation,
    ) -> Handle {
        let bias = has_bias.then_some(&bias.tensor);
        let y = <Handle>::new(x.tensor.linear(&weight.tensor, bias));
        match activation {
            Activation::Identity => y,
            activation => Self::torch_activation(y, activation),
        }
    }

    fn torch_activation(x: Handle, activation: Activation) -> Handle {
        match activation {
            Activation::Identity => x,
            Activation::Gelu => x.unary_ops(|mut x| x.gelu_("none"), |x| x.gelu("none")),
            Activation::GeluTanh => x.unary_ops(|mut x| x.gelu_("tanh"), |x| x.gelu("tanh")),
            Activation::QuickGelu => {
                let mut gate = x.tensor.g_mul_scalar(f64::from(QUICK_GELU_SCALE));
                let _ = gate.sigmoid_();
                let _ = gate.g_mul_(&x.tensor);
                <Handle>::new(gate)
            }
            Activation::Relu => x.unary_ops(|mut x| x.relu_(), |x| x.relu()),
            Activation::Relu6 => x.unary_ops(|mut x| x.clamp_(0.0, 6.0), |x| x.clamp(0.0, 6.0)),
            Activation::Silu => x.unary_ops(|mut x| x.silu_(), |x| x.silu()),
            Activation::Tanh => x.unary_ops(|mut x| x.tanh_(), |x| x.tanh()),
        }
    }

    fn torch_attention(
        query: Handle,
        key: Handle,
        value: Handle,
        bias: Handle,
        heads: usize,
        scale: f64,
    ) -> Handle {
        let [query, key, value] = [query, key, value].map(|x| {
            let [batch, seq, hidden] = [0, 1, 2].map(|axis| x.tensor.size()[axis]);
            let heads = heads as i64;
            let split = x.tensor.reshape([batch, seq, heads, hidden / heads]);
            split.transpose(1, 2)
        });
        // The type of the mask is left to the operation, which adds it in f32 whatever the others are in.
        let bias = Some(&bias.tensor);
        let context = tch::Tensor::scaled_dot_product_attention(
            &query, &key, &value, bias, 0.0, false, scale, false,
        );
        <Handle>::new(context.transpose(1, 2).flatten(2, 3).contiguous())
    }

    fn torch_batch_norm(
        x: Handle,
        weight: Handle,
        bias: Handle,
        mean: Handle,
        variance: Handle,
        eps: f64,
    ) -> Handle {
        let [weight, bias] = [&weight, &bias].map(|x| Some(&x.tensor));
        let [mean, variance] = [&mean, &variance].map(|x| Some(&x.tensor));
        // No training, and no momentum therefore.
        let y = (x.tensor).batch_norm(weight, bias, mean, variance, false, 0.0, eps, false);
        <Handle>::new(y)
    }
}
