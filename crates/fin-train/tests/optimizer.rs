//! AdamW and clipping against a computation by hand in double precision.
#![cfg(feature = "flex")]

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use fin_train::optim::{AdamW, Optimizer, OptimizerConfig};

#[derive(Module, Debug)]
struct Two {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

const WEIGHT: [f64; 4] = [0.5, -1.0, 2.0, 0.25];
const BIAS: [f64; 2] = [0.1, -0.2];

fn adamw(config: &OptimizerConfig) -> Optimizer {
    Optimizer::new(Box::new(AdamW::default()), config)
}

fn module(device: &Device) -> Two {
    let tensor = |values: &[f64]| Tensor::<1>::from_floats(values, device);
    Two {
        weight: Param::from_tensor(tensor(&WEIGHT).reshape([2, 2])),
        bias: Param::from_tensor(tensor(&BIAS)),
    }
}

/// Gradients of step `step`: of the given scale, and different for every element.
fn gradient(step: usize, i: usize, scale: f64) -> f64 {
    scale * ((step * 7 + i * 3) as f64 * 0.37).sin()
}

/// A loss whose gradients are those.
fn gradients(module: &Two, step: usize, scale: f64) -> GradientsParams {
    let device = module.weight.device();
    let values: Vec<f64> = (0..6).map(|i| gradient(step, i, scale)).collect();
    let factors = Tensor::<1>::from_floats(values.as_slice(), &device);
    let all = Tensor::cat(vec![module.weight.val().reshape([4]), module.bias.val()], 0);
    GradientsParams::from_grads((all * factors).sum().backward(), module)
}

fn values(module: &Two) -> Vec<f32> {
    let mut all: Vec<f32> = module.weight.val().into_data().try_into_vec().unwrap();
    all.extend(module.bias.val().into_data().try_into_vec::<f32>().unwrap());
    all
}

/// The same steps, written out.
fn by_hand(config: &OptimizerConfig, rates: &[f64], scale: f64) -> (Vec<f64>, Vec<f64>) {
    let adam = AdamW::default();
    let mut x: Vec<f64> = WEIGHT.into_iter().chain(BIAS).collect();
    let (mut m, mut v, mut norms) = ([0.0; 6], [0.0; 6], Vec::new());
    for (step, rate) in rates.iter().enumerate() {
        let mut g: Vec<f64> = (0..6).map(|i| gradient(step, i, scale)).collect();
        let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
        norms.push(norm);
        if config.max_grad_norm > 0.0 {
            let factor = (config.max_grad_norm / (norm + 1e-6)).min(1.0);
            g.iter_mut().for_each(|g| *g *= factor);
        }
        let t = (step + 1) as i32;
        for i in 0..6 {
            m[i] = adam.beta1 * m[i] + (1.0 - adam.beta1) * g[i];
            v[i] = adam.beta2 * v[i] + (1.0 - adam.beta2) * g[i] * g[i];
            let decay = if i < 4 {
                config.weight_decay.unwrap()
            } else {
                0.0
            };
            x[i] *= 1.0 - rate * decay;
            let (m, v) = (
                m[i] / (1.0 - adam.beta1.powi(t)),
                v[i] / (1.0 - adam.beta2.powi(t)),
            );
            x[i] -= rate * m / (v.sqrt() + adam.eps);
        }
    }
    (x, norms)
}

#[test]
fn steps_agree_with_a_computation_by_hand() {
    let rates = [0.0, 0.01, 0.02, 0.02, 0.01, 0.005];
    for (scale, max_grad_norm) in [(0.1, 1.0), (5.0, 1.0), (5.0, 0.0), (1e-6, 1.0)] {
        let config = OptimizerConfig {
            weight_decay: Some(0.1),
            max_grad_norm,
        };
        let mut optimizer = adamw(&config);
        let mut module = module(&Device::flex().autodiff());
        let (expected, norms) = by_hand(&config, &rates, scale);
        for (step, rate) in rates.iter().enumerate() {
            let gradients = gradients(&module, step, scale);
            let (updated, norm) = optimizer.step(module, gradients, *rate).unwrap();
            assert!(
                (norm - norms[step]).abs() <= 1e-6 * norms[step],
                "{norm} against {}",
                norms[step]
            );
            module = updated;
        }
        for (found, expected) in values(&module).into_iter().zip(expected) {
            assert!(
                (f64::from(found) - expected).abs() < 1e-6,
                "{scale}: {found} against {expected}"
            );
        }
        assert!(
            module.weight.val().is_require_grad(),
            "the updated module can be trained on"
        );
    }
}

#[test]
fn the_state_is_kept_by_path_and_goes_on_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("optimizer.safetensors");
    let device = Device::flex().autodiff();
    let config = OptimizerConfig::default();
    let mut first = adamw(&config);
    let mut one = module(&device);
    for step in 0..3 {
        let gradients = gradients(&one, step, 1.0);
        one = first.step(one, gradients, 0.01).unwrap().0;
    }
    first.save(&path).unwrap();
    // A module of the same values whose parameters have identifiers of their own.
    let numbers = values(&one);
    let tensor = |values: &[f32]| Tensor::<1>::from_floats(values, &device);
    let mut two = Two {
        weight: Param::from_tensor(tensor(&numbers[..4]).reshape([2, 2])),
        bias: Param::from_tensor(tensor(&numbers[4..])),
    };
    let mut second = adamw(&config).load(&path, &two, &Device::flex()).unwrap();
    let mut forgetful = adamw(&config);
    let mut three = two.clone();
    for step in 3..6 {
        let of = |module: &Two| gradients(module, step, 1.0);
        let (a, b, c) = (of(&one), of(&two), of(&three));
        one = first.step(one, a, 0.01).unwrap().0;
        two = second.step(two, b, 0.01).unwrap().0;
        three = forgetful.step(three, c, 0.01).unwrap().0;
    }
    assert_eq!(values(&one), values(&two));
    assert_ne!(values(&one), values(&three), "the state matters");

    let other = burn::nn::LinearConfig::new(3, 2).init(&Device::flex());
    let error = adamw(&config)
        .load(&path, &other, &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("bias") || error.contains("weight"),
        "{error}"
    );
}

#[test]
fn gradients_that_are_not_finite_or_not_there_change_nothing() {
    let device = Device::flex().autodiff();
    let mut optimizer = adamw(&OptimizerConfig::default());
    let module = module(&device);
    let before = values(&module);
    let bad = gradients(&module, 0, f64::INFINITY);
    let (module, norm) = optimizer.step(module, bad, 0.1).unwrap();
    assert!(!norm.is_finite());
    assert_eq!(values(&module), before);
    let error = optimizer
        .step(module, GradientsParams::new(), 0.1)
        .unwrap_err()
        .to_string();
    assert!(error.contains("frozen"), "{error}");
}
