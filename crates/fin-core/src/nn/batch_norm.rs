//! Batch normalisation, as `torch.nn.BatchNorm2d` (Ioffe and Szegedy 2015).

use burn::module::{Flag, Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::buffer::{Buffer, Counter};
use crate::kernels::{self, Activation};

/// Configuration of [`BatchNorm2d`].
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNorm2dConfig {
    /// Number of channels.
    pub num_features: usize,
    /// Added to the variance; 1e-5 in PyTorch unless said otherwise.
    pub eps: f64,
    /// Share of the batch's statistics in the running ones; 0.1 in PyTorch unless said otherwise.
    pub momentum: f64,
}

impl BatchNorm2dConfig {
    /// Normalisation with PyTorch's defaults.
    pub fn new(num_features: usize) -> Self {
        Self {
            num_features,
            eps: 1e-5,
            momentum: 0.1,
        }
    }

    /// With another epsilon.
    pub fn with_eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// With another momentum.
    pub fn with_momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// Makes the layer with weight one, bias zero, running mean zero and running variance one.
    pub fn init(&self, device: &Device) -> BatchNorm2d {
        let shape = [self.num_features];
        let plain = device.clone().without_autodiff();
        BatchNorm2d {
            weight: Initializer::Ones.init(shape, device),
            bias: Initializer::Zeros.init(shape, device),
            running_mean: Buffer::new(Tensor::zeros(shape, &plain)),
            running_var: Buffer::new(Tensor::ones(shape, &plain)),
            num_batches_tracked: Counter::new(device),
            training: Param::from_bool(true),
            eps: self.eps,
            momentum: self.momentum,
        }
    }
}

/// `y = (x − mean) / √(var + eps) · weight + bias`, channel by channel.
///
/// On an autodiff device mean and variance are the batch's and the running ones move towards
/// them, unless the layer is frozen ([`Module::freeze`]); elsewhere they are the running ones.
#[derive(Module, Debug)]
pub struct BatchNorm2d {
    /// `[num_features]`.
    pub weight: Param<Tensor<1>>,
    /// `[num_features]`.
    pub bias: Param<Tensor<1>>,
    /// `[num_features]`.
    pub running_mean: Buffer,
    /// `[num_features]`, of the unbiased variance.
    pub running_var: Buffer,
    /// Batches that the running statistics have seen.
    pub num_batches_tracked: Counter,
    /// Whether the layer takes part in training; cleared by freezing.
    pub training: Param<Flag>,
    /// Added to the variance.
    pub eps: f64,
    /// Share of the batch's statistics in the running ones.
    pub momentum: f64,
}

impl BatchNorm2d {
    /// `[batch, num_features, height, width]` → the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_activated(x, Activation::Identity)
    }

    /// [`BatchNorm2d::forward`] followed by an activation, in one pass where the device has a kernel
    /// for it.
    pub fn forward_activated(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        if x.device().is_autodiff() && self.training.is_enabled() {
            return self.forward_train(x, activation);
        }
        activation.forward(kernels::batch_norm_running(
            x,
            self.weight.val(),
            self.bias.val(),
            self.running_mean.value(),
            self.running_var.value(),
            self.eps,
        ))
    }

    fn forward_train(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        let [batch, _, height, width] = x.dims();
        let count = batch * height * width;
        let (output, mean, variance) =
            kernels::batch_norm(x, self.weight.val(), self.bias.val(), self.eps, activation);
        let momentum = self.momentum;
        let towards =
            |running: Tensor<1>, value: Tensor<1>| running * (1.0 - momentum) + value * momentum;
        self.running_mean.update(|running| towards(running, mean));
        // One value a channel has no variance to learn from.
        if count > 1 {
            let unbiased = variance * (count as f64 / (count as f64 - 1.0));
            self.running_var
                .update(|running| towards(running, unbiased));
        }
        self.num_batches_tracked.increment();
        output
    }

    /// The normalisation with running statistics as `y = x · scale + shift`, both
    /// `[num_features]`.
    pub fn scale_and_shift(&self) -> (Tensor<1>, Tensor<1>) {
        let scale = self.weight.val() / (self.running_var.value() + self.eps).sqrt();
        let shift = self.bias.val() - self.running_mean.value() * scale.clone();
        (scale, shift)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::weights::{self, Checkpoint, Names};
    use crate::{DeviceSpec, Error};

    fn layer(device: &Device) -> BatchNorm2d {
        BatchNorm2dConfig::new(2).init(device)
    }

    #[test]
    fn a_frozen_layer_and_a_clone_keep_their_statistics() {
        let device = DeviceSpec::Flex.open().unwrap().autodiff();
        let x = Tensor::<4>::from_floats([[[[1.0, 2.0]], [[3.0, 7.0]]]], &device);
        let trained = layer(&device);
        let (before, frozen) = (trained.clone(), trained.clone().freeze());
        trained.forward(x.clone());
        frozen.forward(x);
        let mean = |layer: &BatchNorm2d| layer.running_mean.value().into_data();
        mean(&trained).assert_approx_eq::<f32>(&[0.15, 0.5].into(), Default::default());
        // Unbiased: ((1 − 1.5)² + (2 − 1.5)²) / 1, and a tenth of it with nine tenths of 1.
        let var = trained.running_var.value().into_data();
        var.assert_approx_eq::<f32>(&[0.95, 1.7].into(), Default::default());
        assert_eq!(trained.num_batches_tracked.value(), 1);
        for untouched in [before, frozen] {
            mean(&untouched).assert_eq(&[0.0f32, 0.0].into(), true);
            assert_eq!(untouched.num_batches_tracked.value(), 0);
        }
    }

    #[test]
    fn a_counter_may_be_missing_in_files_but_not_of_another_kind() {
        let device = DeviceSpec::Flex.open().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer.safetensors");
        let ones = |name: &str| (name.to_string(), vec![2], vec![1.0f32; 2]);
        let mut tensors = ["weight", "bias", "running_mean", "running_var"]
            .map(ones)
            .to_vec();
        let load = |tensors: &[_]| {
            weights::save(&path, tensors).unwrap();
            let checkpoint = Checkpoint::open(&path).unwrap();
            weights::load(layer(&device), &checkpoint, &Names::default(), &device)
        };
        let (loaded, report) = load(&tensors).unwrap();
        assert_eq!(
            (loaded.num_batches_tracked.value(), report.used.len()),
            (0, 4)
        );
        tensors.push(("num_batches_tracked".into(), vec![], vec![3.0]));
        let error = load(&tensors).unwrap_err();
        assert!(matches!(error, Error::InvalidFile { .. }), "{error}");
    }
}
