//! Without `flex` no network is packed.

use burn::tensor::Tensor;
use fin_core::Precision;

use crate::architecture::CnnBackbone;

/// A network of packed layers, of which there are none.
#[derive(Debug)]
pub(crate) enum Plan {}

impl Plan {
    pub(crate) fn new(_: &CnnBackbone, _: Precision) -> Option<Self> {
        None
    }

    pub(crate) fn hidden_size(&self) -> usize {
        match *self {}
    }

    pub(crate) fn forward(&self, _: &Tensor<4>) -> Option<Tensor<4>> {
        match *self {}
    }

    pub(crate) fn feature_maps(&self, _: &Tensor<4>) -> Option<Vec<Tensor<4>>> {
        match *self {}
    }
}
