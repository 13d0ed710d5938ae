//! Fast forms on Burn's `flex` backend, as a backend extension.

use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchTensorKind, Flex, backend_extension,
};
use burn::tensor::{Device, Shape, Tensor, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::attention::{self, Heads, Items};
use super::product::{Matrix, product};
use super::simd;
use super::{Activation, AttentionBias, slices};

/// Operations that `flex` runs in fused form, within autodiff with a backward pass of their own (`training`).
///
/// An operand that may be absent comes with a flag; where the flag is unset the operand is any
/// tensor (cloning one is a reference count) and is not read.
#[backend_extension(Flex, Autodiff)]
pub(super) trait FinKernels: Backend {
    /// See [`super::linear`].
    fn fin_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        has_bias: bool,
        activation: Activation,
    ) -> FloatTensor<Self>;

    /// See [`super::layer_norm`].
    fn fin_layer_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        has_residual: bool,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;

    /// See [`super::rms_norm`].
    fn fin_rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64)
    -> FloatTensor<Self>;
}

pub(super) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    activation: Activation,
) -> Tensor<D> {
    let weight = weight.into_dispatch();
    let has_bias = bias.is_some();
    Tensor::from_dispatch(<Dispatch as FinKernels>::fin_linear(
        x.into_dispatch(),
        weight.clone(),
        bias.map_or(weight, Tensor::into_dispatch),
        has_bias,
        activation,
    ))
}

pub(super) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    residual: Option<Tensor<D>>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    let weight = weight.into_dispatch();
    let has_residual = residual.is_some();
    Tensor::from_dispatch(<Dispatch as FinKernels>::fin_layer_norm(
        x.into_dispatch(),
        residual.map_or_else(|| weight.clone(), Tensor::into_dispatch),
        has_residual,
        weight,
        bias.into_dispatch(),
        eps,
    ))
}

pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as FinKernels>::fin_rms_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        eps,
    ))
}

/// The tokens of `x` `[batch, seq, hidden]` without the padding behind each item's, `[1, tokens, hidden]`; none
/// where there is no padding, or the tensor is not for the fast forms.
pub(super) fn pack(x: &Tensor<3>, lengths: &[usize]) -> Option<Tensor<3>> {
    let [batch, seq, hidden] = x.dims();
    assert!(
        lengths.len() == batch && lengths.iter().all(|length| *length <= seq),
        "lengths {lengths:?} of {batch} items of {seq}"
    );
    let tokens: usize = lengths.iter().sum();
    if tokens == 0 || tokens == batch * seq {
        return None;
    }
    slices::map(x, |x, _| {
        let mut packed = Vec::with_capacity(tokens * hidden);
        for (item, length) in x.chunks_exact(seq * hidden).zip(lengths) {
            packed.extend_from_slice(&item[..length * hidden]);
        }
        (packed, [1, tokens, hidden])
    })
}

/// What [`pack`] has packed, `[1, tokens, hidden]`, as `[batch, seq, hidden]` with zeros for padding.
pub(super) fn unpack(x: &Tensor<3>, lengths: &[usize], seq: usize) -> Tensor<3> {
    let unpacked = slices::map(x, |x, [_, _, hidden]| {
        let mut padded = vec![0.0; lengths.len() * seq * hidden];
        let mut rest = x;
        for (item, length) in padded.chunks_exact_mut(seq * hidden).zip(lengths) {
            let (values, others) = rest.split_at(length * hidden);
            item[..values.len()].copy_from_slice(values);
            rest = others;
        }
        (padded, [lengths.len(), seq, hidden])
    });
    unpacked.expect("layers keep a tensor where it is")
}

/// [`super::attention`]: of padded items `[batch, seq, heads · head_dim]`, or where `bias` has their lengths, one
/// after another.
pub(super) fn attention(
    inputs: [Tensor<3>; 3],
    bias: &AttentionBias,
    heads: usize,
    scale: f64,
) -> Tensor<3> {
    let [query, key, value] = inputs.map(contiguous);
    let dims = query.dims();
    assert!(
        key.dims() == dims && value.dims() == dims,
        "attention: query, key and value differ in shape"
    );
    let position = bias.position.clone().map(contiguous);
    let key_bias;
    let items = match &bias.lengths {
        Some(lengths) => Items::Packed(lengths),
        None => {
            key_bias = contiguous(bias.key.clone());
            assert_eq!(key_bias.dims(), dims[..2], "attention: key bias shape");
            Items::Padded {
                seq: dims[1],
                key_bias: key_bias.values(),
            }
        }
    };
    let of = Heads {
        items,
        hidden: dims[2],
        heads,
        scale: scale as f32,
        position: position.as_ref().map(|x| (x.values(), x.dims()[1])),
    };
    let mut out = vec![0.0f32; query.values().len()];
    attention::attention(query.values(), key.values(), value.values(), &of, &mut out);
    Tensor::from_data(TensorData::new(out, Shape::from(dims)), &Device::flex())
}

/// Panics where the tensor is not one of floats on this backend, which `is_fast` has been asked about.
fn contiguous<const D: usize>(x: Tensor<D>) -> Contiguous {
    match x.into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(x)) => Contiguous::new(x),
        _ => panic!("a tensor of another backend"),
    }
}

/// A contiguous view of a tensor's elements, with the tensor that owns them.
pub(super) struct Contiguous(FlexTensor, std::ops::Range<usize>);

impl Contiguous {
    pub(super) fn new(tensor: FlexTensor) -> Self {
        let tensor = if tensor.is_contiguous() {
            tensor
        } else {
            tensor.to_contiguous()
        };
        let start = tensor.layout().start_offset();
        let range = start..start + tensor.layout().num_elements();
        Self(tensor, range)
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.0.storage::<f32>()[self.1.clone()]
    }

    pub(super) fn dims(&self) -> Vec<usize> {
        self.0.layout().shape().to_vec()
    }
}

/// What `f` makes of a tensor's values; none where they are not floats on this backend.
pub(super) fn read<const D: usize, T>(x: Tensor<D>, f: impl FnOnce(&[f32]) -> T) -> Option<T> {
    match x.into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(x)) => Some(f(Contiguous::new(x).values())),
        _ => None,
    }
}

/// Changes tensors by what `f` does to their values, given those of another: in place where nobody
/// else holds them, in a copy otherwise. All hold f32 on this backend, and as many values.
pub(super) fn update<const N: usize>(
    tensors: [Tensor<1>; N],
    other: Tensor<1>,
    f: impl FnOnce([&mut [f32]; N], &[f32]),
) -> [Tensor<1>; N] {
    let mut changed = tensors.map(|tensor| tensor.into_dispatch());
    let values = changed.each_mut().map(|tensor| match &mut tensor.kind {
        DispatchTensorKind::Flex(BackendTensor::Float(x)) => {
            if !x.is_contiguous() || x.layout().start_offset() != 0 {
                *x = x.to_contiguous();
            }
            let count = x.layout().num_elements();
            &mut x.storage_mut::<f32>()[..count]
        }
        _ => &mut [],
    });
    read(other, |other| {
        assert!(
            values.iter().all(|values| values.len() == other.len()),
            "update: tensors of unequal length, or of another backend"
        );
        f(values, other);
    });
    changed.map(Tensor::from_dispatch)
}

/// A tensor of these values.
pub(super) fn output(values: Vec<f32>, dims: Vec<usize>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, Shape::from(dims)))
}

/// A plain split of `rows` into about four pieces a thread, so that uneven threads even out.
pub(super) fn rows_per_task(rows: usize) -> usize {
    rows.div_ceil(4 * rayon::current_num_threads()).max(1)
}

impl FinKernels for Flex {
    fn fin_linear(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        has_bias: bool,
        activation: Activation,
    ) -> FlexTensor {
        let x = Contiguous::new(x);
        let mut dims = x.dims();
        let weight = Contiguous::new(weight);
        let (n, k) = (weight.dims()[0], weight.dims()[1]);
        assert_eq!(
            dims.last(),
            Some(&k),
            "linear: input {dims:?} does not fit weight [{n}, {k}]"
        );
        let m = x.values().len() / k.max(1);
        let bias = has_bias.then(|| Contiguous::new(bias));
        if let Some(bias) = &bias {
            assert_eq!(bias.values().len(), n, "linear: bias length");
        }

        let mut y = vec![0.0f32; m * n];
        product(
            Matrix::rows(x.values(), [m, k]),
            Matrix::rows(weight.values(), [n, k]).transposed(),
            bias.as_ref().map(Contiguous::values),
            activation,
            &mut y,
        );
        if let Some(last) = dims.last_mut() {
            *last = n;
        }
        output(y, dims)
    }

    fn fin_layer_norm(
        x: FlexTensor,
        residual: FlexTensor,
        has_residual: bool,
        weight: FlexTensor,
        bias: FlexTensor,
        eps: f64,
    ) -> FlexTensor {
        let mut x = if x.is_contiguous() && x.layout().start_offset() == 0 {
            x
        } else {
            x.to_contiguous()
        };
        let dims = x.layout().shape().to_vec();
        let count = x.layout().num_elements();
        let width = dims.last().copied().unwrap_or(1).max(1);
        let weight = Contiguous::new(weight);
        let bias = Contiguous::new(bias);
        assert_eq!(weight.values().len(), width, "layer_norm: weight length");
        assert_eq!(bias.values().len(), width, "layer_norm: bias length");
        let residual = has_residual.then(|| Contiguous::new(residual));
        let residual = residual.as_ref().map(|r| {
            assert_eq!(r.values().len(), count, "layer_norm: residual shape");
            r.values()
        });
        // In place where nobody else holds the input; a copy on write otherwise.
        let values = &mut x.storage_mut::<f32>()[..count];
        let chunk = rows_per_task(count / width) * width;
        values
            .par_chunks_mut(chunk)
            .enumerate()
            .for_each(|(i, rows)| {
                let residual = residual.map(|r| &r[i * chunk..i * chunk + rows.len()]);
                simd::layer_norm(rows, residual, weight.values(), bias.values(), eps as f32);
            });
        x
    }

    fn fin_rms_norm(x: FlexTensor, weight: FlexTensor, eps: f64) -> FlexTensor {
        // The input lives on as the residual, so the output is a new tensor.
        let x = Contiguous::new(x);
        let weight = Contiguous::new(weight);
        let dims = x.dims();
        let width = dims.last().copied().unwrap_or(1).max(1);
        assert_eq!(weight.values().len(), width, "rms_norm: weight length");
        let mut y = vec![0.0f32; x.values().len()];
        let chunk = rows_per_task(y.len() / width) * width;
        y.par_chunks_mut(chunk)
            .zip(x.values().par_chunks(chunk))
            .for_each(|(y, x)| simd::rms_norm(y, x, weight.values(), eps as f32));
        output(y, dims)
    }
}
