//! From Burn's tensors on `flex` to slices and back.

use burn::tensor::{Tensor, TensorData};

/// Whether [`values`] and [`map`] apply to a tensor: f32 on `flex`, outside of autodiff.
pub fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    super::is_fast(x)
}

/// The values of a tensor, in the order of its axes; none where [`takes`] is false.
pub fn values<const D: usize>(x: Tensor<D>) -> Option<Vec<f32>> {
    let x = takes(&x).then_some(x)?;
    x.into_data().try_into_vec().ok()
}

/// A tensor of what `f` makes of another's values and shape, on the same device; none where
/// [`takes`] is false.
///
/// Panics where the number of values does not fit the shape that `f` gives along with them.
pub fn map<const D: usize, const E: usize>(
    x: &Tensor<D>,
    f: impl FnOnce(&[f32], [usize; D]) -> (Vec<f32>, [usize; E]),
) -> Option<Tensor<E>> {
    let device = takes(x).then(|| x.device())?;
    let (y, shape) = super::flex::read(x.clone(), |values| f(values, x.dims()))?;
    Some(Tensor::from_data(TensorData::new(y, shape), &device))
}
