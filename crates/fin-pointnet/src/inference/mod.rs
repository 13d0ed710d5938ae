//! Without `flex` no network is packed.

use burn::tensor::Tensor;

use crate::architecture::PointBackbone;

/// A network of packed layers, of which there are none.
#[derive(Debug)]
pub(crate) enum Plan {}

impl Plan {
    pub(crate) fn new(_: &PointBackbone) -> Option<Self> {
        None
    }

    pub(crate) fn global_size(&self) -> usize {
        match *self {}
    }

    pub(crate) fn embedding_size(&self) -> usize {
        match *self {}
    }

    pub(crate) fn columns(&self) -> usize {
        match *self {}
    }

    pub(crate) fn global(&self, _: &Tensor<3>) -> Option<Tensor<2>> {
        match *self {}
    }

    pub(crate) fn first_stage(&self, _: &Tensor<2>) -> Option<Tensor<2>> {
        match *self {}
    }
}
