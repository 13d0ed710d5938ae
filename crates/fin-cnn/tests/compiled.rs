//! The form of a network that runs at inference on `flex` against the network it is made of, for
//! every kind of block, with random weights and statistics, and sizes that nothing divides.
//!
//! The kernels' own tests, in `fin-core`, cover every instruction set that the processor has.
#![cfg(feature = "flex")]

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::DropoutConfig;
use burn::tensor::{Device, Distribution, Tensor};
use fin_cnn::efficientnet::{EfficientNetConfig, Padding, StageConfig};
use fin_cnn::layers::NormConfig;
use fin_cnn::resnet::{ResNetConfig, ResidualBlock};
use fin_cnn::{BackboneConfig, CnnBackbone, CnnNetwork, ImageBatch};
use fin_core::nn::LinearConfig;
use fin_core::{Backbone, DeviceSpec, MapPooling};

/// `‖a − b‖ / ‖b‖`.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let pairs = a.iter().zip(b);
    let difference: f64 = pairs
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    (difference / b.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

fn check<const D: usize>(what: &str, found: Tensor<D>, expected: Tensor<D>) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let error = relative(&values(found), &values(expected));
    assert!(error < 1e-5, "{what}: {error:e}");
}

/// Gives vectors (the numbers of batch normalisations, and biases) random values from 0.5 to 1.5,
/// which a variance may have.
struct Randomize;

impl ModuleMapper for Randomize {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D > 1 {
            return param;
        }
        param.map(|x| x.random_like(Distribution::Uniform(0.5, 1.5)))
    }
}

fn resnet(block: ResidualBlock) -> BackboneConfig {
    BackboneConfig::ResNet(ResNetConfig {
        layers: vec![2, 1, 2],
        planes: vec![12, 20, 33],
        stem_channels: 19,
        ..ResNetConfig::new(block, [1; 4])
    })
}

fn efficientnet(squeeze_excite: bool, padding: Padding) -> BackboneConfig {
    let stage = |expand, kernel, stride, channels, layers| StageConfig {
        expand,
        kernel,
        stride,
        channels,
        layers,
    };
    BackboneConfig::EfficientNet(EfficientNetConfig {
        stem_channels: 20,
        stages: vec![
            stage(1, 3, 1, 12, 2),
            stage(6, 5, 2, 24, 2),
            stage(4, 3, 2, 40, 2),
            stage(3, 7, 1, 17, 1),
        ],
        head_channels: 70,
        squeeze_excite,
        padding,
        norm: NormConfig::TENSORFLOW,
        stochastic_depth: 0.2,
        dropout: 0.2,
    })
}

fn networks(device: &Device) -> Vec<(&'static str, CnnBackbone)> {
    device.seed(5);
    let configs = [
        ("basic", resnet(ResidualBlock::Basic)),
        ("bottleneck", resnet(ResidualBlock::Bottleneck)),
        ("efficientnet", efficientnet(true, Padding::Symmetric)),
        ("tensorflow", efficientnet(true, Padding::Same)),
        ("lite", efficientnet(false, Padding::Same)),
    ];
    configs
        .map(|(name, config)| (name, config.init(device).map(&mut Randomize)))
        .into()
}

fn pixels(shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

#[test]
fn feature_maps_of_every_block_agree() {
    let device = DeviceSpec::Flex.open().unwrap();
    for (name, network) in networks(&device) {
        let compiled = network.compile();
        assert!(matches!(compiled, CnnBackbone::Blocked(_)), "{name}");
        assert_eq!(compiled.hidden_size(), network.hidden_size());
        for shape in [
            [1, 3, 33, 47],
            [3, 3, 64, 50],
            [2, 3, 9, 100],
            [1, 3, 17, 17],
        ] {
            let x = pixels(shape, &device);
            let (found, expected) = (compiled.feature_maps(&x), network.feature_maps(&x));
            assert_eq!(found.len(), expected.len());
            let last = expected.last().unwrap().clone();
            check(
                &format!("{name} {shape:?}"),
                compiled.forward(&x),
                last.clone(),
            );
            for (i, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                check(&format!("{name} {shape:?} map {i}"), found, expected);
            }
        }
    }
}

/// Large enough that images go through the first layers one or a few at a time.
#[test]
fn large_batches_agree() {
    let device = DeviceSpec::Flex.open().unwrap();
    for (name, network) in networks(&device) {
        for shape in [[7, 3, 224, 201], [3, 3, 301, 330]] {
            let x = pixels(shape, &device);
            let compiled = network.compile().forward(&x);
            check(
                &format!("{name} {shape:?}"),
                compiled,
                network.fold().forward(&x),
            );
        }
    }
}

#[test]
fn poolings_and_projections_agree() {
    let device = DeviceSpec::Flex.open().unwrap();
    for (name, backbone) in networks(&device) {
        for pooling in MapPooling::ALL {
            let head = LinearConfig::new(backbone.hidden_size(), 11).init(&device);
            for projection in [None, Some(head)] {
                let network = CnnNetwork {
                    backbone: backbone.clone(),
                    dropout: DropoutConfig::new(0.2).init(),
                    projection,
                    pooling,
                    normalize: false,
                };
                let x = pixels([3, 3, 65, 71], &device);
                let (folded, what) = (network.fold(), format!("{name} {pooling}"));
                check(&what, folded.features(&x), network.features(&x));
                let batch = ImageBatch::Pixels(x);
                let expected = network.embed_unnormalized(&batch);
                check(&what, folded.embed_unnormalized(&batch), expected);
            }
        }
    }
}

/// The plan keeps memory from one batch to the next: what was there before must not matter.
#[test]
fn results_do_not_depend_on_batches_before_or_beside() {
    let device = DeviceSpec::Flex.open().unwrap();
    for (name, network) in networks(&device) {
        let compiled = network.compile();
        let x = pixels([4, 3, 70, 70], &device);
        let first = values(compiled.forward(&x));
        compiled.forward(&pixels([2, 3, 133, 99], &device));
        compiled.forward(&(pixels([9, 3, 40, 40], &device) * f32::NAN));
        assert_eq!(values(compiled.forward(&x)), first, "{name}");
        let beside = std::thread::scope(|scope| {
            let run = || scope.spawn(|| values(compiled.forward(&x)));
            let threads = [run(), run(), run()];
            threads.map(|thread| thread.join().unwrap())
        });
        for found in beside {
            assert_eq!(found, first, "{name}");
        }
    }
}

#[test]
#[should_panic(expected = "f32 on flex outside of autodiff")]
fn pixels_under_autodiff_are_refused() {
    let device = DeviceSpec::Flex.open().unwrap();
    let (_, network) = networks(&device).remove(0);
    network
        .compile()
        .forward(&pixels([1, 3, 32, 32], &device.autodiff()));
}

#[test]
fn networks_in_8_bits_are_close_and_see_every_image_alone() {
    let device = DeviceSpec::Flex.open().unwrap();
    for (name, network) in networks(&device) {
        let coarse = network.quantize().unwrap();
        // Large enough that images go through the first layers a few at a time.
        for shape in [[3, 3, 64, 50], [5, 3, 301, 330]] {
            let x = pixels(shape, &device);
            let [exact, found] =
                [&network.compile(), &coarse].map(|network| values(network.forward(&x)));
            let error = relative(&found, &exact);
            assert!((1e-4..0.05).contains(&error), "{name} {shape:?}: {error}");
            let image = found.len() / shape[0];
            for i in 0..shape[0] {
                let alone = coarse.forward(&x.clone().narrow(0, i, 1));
                let beside = &found[i * image..][..image];
                assert_eq!(values(alone), beside, "{name} {shape:?}, image {i}");
            }
            let wrong = x.clone().slice_fill([1..2, 0..1, 5..6, 7..8], f32::NAN);
            let lost = values(coarse.forward(&wrong));
            for (i, (lost, kept)) in lost.iter().zip(&found).enumerate() {
                let right = if i / image == 1 {
                    !lost.is_finite()
                } else {
                    lost == kept
                };
                assert!(right, "{name} {shape:?}, value {i}: {lost}, {kept} before");
            }
        }
        let again = coarse.quantize().unwrap_err().to_string();
        assert!(again.contains("precision"), "{again}");
    }
}
