//! State that a forward pass changes in training and that is saved with the weights, as
//! `torch.nn.Module.register_buffer` keeps it.
//!
//! Burn's `RunningState` is for the same. It keeps an update aside until the next forward pass,
//! so that a checkpoint written after a step lacks that step, and its clones share one state.
//! Here an update is visible at once and a clone is a snapshot.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param, ParamId,
};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// A vector without gradient that a forward pass may replace: running statistics.
///
/// It lives outside of autodiff on every device. Visitors and mappers see it as a float
/// parameter, so that it is loaded and saved like one; optimisers find no gradient for it.
pub struct Buffer {
    id: ParamId,
    value: Mutex<Tensor<1>>,
}

impl Buffer {
    /// A buffer with this value.
    pub fn new(value: Tensor<1>) -> Self {
        Self::with_id(ParamId::new(), value)
    }

    fn with_id(id: ParamId, value: Tensor<1>) -> Self {
        Self {
            id,
            value: Mutex::new(value.without_autodiff()),
        }
    }

    /// The value, without autodiff; with a tensor on an autodiff device it acts as a constant.
    pub fn value(&self) -> Tensor<1> {
        self.value
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces the value by what `update` makes of it.
    pub fn update(&self, update: impl FnOnce(Tensor<1>) -> Tensor<1>) {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        *value = update(value.clone()).without_autodiff();
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self::with_id(self.id, self.value())
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({:?})", self.value().dims())
    }
}

impl Module for Buffer {
    fn collect_devices(&self, mut devices: Devices) -> Devices {
        let device = self.value().device();
        if !devices.contains(&device) {
            devices.push(device);
        }
        devices
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn to_device(self, device: &Device) -> Self {
        Self::with_id(self.id, self.value().to_device(device))
    }

    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.visit_float(&Param::initialized(self.id, self.value()));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let (id, value, _) = mapper
            .map_float(Param::initialized(self.id, self.value()))
            .consume();
        Self::with_id(id, value)
    }
}

impl ModuleDisplayDefault for Buffer {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&format!("{self:?}")).optional()
    }
}

impl ModuleDisplay for Buffer {}

/// A number that a forward pass may raise: batches seen.
///
/// Visitors and mappers see it as an integer tensor of one element; in files it is a scalar of
/// 64-bit integers, as PyTorch writes `num_batches_tracked`.
pub struct Counter {
    id: ParamId,
    value: AtomicI64,
    device: Device,
}

impl Counter {
    /// A counter at zero, seen by visitors as a tensor on `device`.
    pub fn new(device: &Device) -> Self {
        Self {
            id: ParamId::new(),
            value: AtomicI64::new(0),
            device: device.clone().without_autodiff(),
        }
    }

    /// The number.
    pub fn value(&self) -> i64 {
        self.value.load(Ordering::Relaxed)
    }

    /// Raises the number by one.
    pub fn increment(&self) {
        self.value.fetch_add(1, Ordering::Relaxed);
    }

    fn tensor(&self) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::from([self.value()]), &self.device)
    }
}

impl Clone for Counter {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            value: AtomicI64::new(self.value()),
            device: self.device.clone(),
        }
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counter({})", self.value())
    }
}

impl Module for Counter {
    fn collect_devices(&self, devices: Devices) -> Devices {
        devices
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn to_device(mut self, device: &Device) -> Self {
        self.device = device.clone().without_autodiff();
        self
    }

    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.visit_int(&Param::initialized(self.id, self.tensor()));
    }

    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        let (id, tensor, _) = mapper
            .map_int(Param::initialized(self.id, self.tensor()))
            .consume();
        self.id = id;
        if let Ok(values) = tensor.into_data().convert::<i64>().try_into_vec::<i64>()
            && let [value] = values[..]
        {
            self.value = AtomicI64::new(value);
        }
        self
    }
}

impl ModuleDisplayDefault for Counter {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&format!("{self:?}")).optional()
    }
}

impl ModuleDisplay for Counter {}
