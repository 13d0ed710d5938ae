//! Optimisers by name against the reference libraries' steps, made by
//! `fixtures/optimizers/generate.py`.
#![cfg(feature = "flex")]

mod common;

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use common::{Bag, exclusive, fixture, questions_and_answers};
use fin_core::weights::{Checkpoint, Names};
use fin_core::{Embedder, Error, Result};
use fin_train::callback::{Callback, Context};
use fin_train::checkpoint::latest;
use fin_train::optim::{Optimizer, OptimizerConfig, groups};
use fin_train::{
    Dataset, Options, TrainConfig, Trainer, loss_from_name, optimizer_from_name, optimizer_names,
};
use serde_json::{Value, json};

#[derive(Module, Debug)]
struct Three {
    weight: Param<Tensor<2>>,
    filters: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
}

struct Steps {
    tensors: Checkpoint,
    json: Value,
}

impl Steps {
    fn open() -> Self {
        let json = std::fs::read(fixture("optimizers/steps.json")).unwrap();
        Self {
            tensors: Checkpoint::open(fixture("optimizers/steps.safetensors")).unwrap(),
            json: serde_json::from_slice(&json).unwrap(),
        }
    }

    fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let shape = self.tensors.get(name).unwrap().shape().to_vec();
        let values = self.tensors.read_f32(name).unwrap();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn start(&self, device: &Device) -> Three {
        Three {
            weight: Param::from_tensor(self.tensor("start.weight", device)),
            filters: Param::from_tensor(self.tensor("start.filters", device)),
            bias: Param::from_tensor(self.tensor("start.bias", device)),
        }
    }

    /// Gradients that are those of a step.
    fn gradients(&self, step: usize, module: &Three, device: &Device) -> GradientsParams {
        let of = |name| format!("grad.{step}.{name}");
        let loss = (module.weight.val() * self.tensor(&of("weight"), device)).sum()
            + (module.filters.val() * self.tensor(&of("filters"), device)).sum()
            + (module.bias.val() * self.tensor(&of("bias"), device)).sum();
        GradientsParams::from_grads(loss.backward(), module)
    }

    fn rates(&self) -> Vec<f64> {
        serde_json::from_value(self.json["rates"].clone()).unwrap()
    }
}

fn values(module: &Three) -> [Vec<f32>; 3] {
    [
        module.weight.val().into_data().try_into_vec().unwrap(),
        module.filters.val().into_data().try_into_vec().unwrap(),
        module.bias.val().into_data().try_into_vec().unwrap(),
    ]
}

fn optimizer(case: &Value) -> Optimizer {
    let name = case["optimizer"].as_str().unwrap();
    let rule = optimizer_from_name(name, case["options"].as_object().unwrap()).unwrap();
    let config = OptimizerConfig {
        weight_decay: case["weight_decay"].as_f64(),
        max_grad_norm: 0.0,
    };
    Optimizer::new(rule, &config)
}

#[test]
fn every_step_is_the_reference_library_s() {
    let steps = Steps::open();
    let device = Device::flex().autodiff();
    let mut seen = std::collections::BTreeSet::new();
    for (number, case) in steps.json["cases"].as_array().unwrap().iter().enumerate() {
        seen.insert(case["optimizer"].as_str().unwrap());
        let mut optimizer = optimizer(case);
        let mut module = steps.start(&device);
        for (step, rate) in steps.rates().into_iter().enumerate() {
            let gradients = steps.gradients(step, &module, &device);
            module = optimizer.step(module, gradients, rate).unwrap().0;
            let names = ["weight", "filters", "bias"];
            for (name, found) in names.iter().zip(values(&module)) {
                let key = format!("case{number}.{step}.{name}");
                let expected = steps.tensors.read_f32(&key).unwrap();
                let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
                let pairs = found.iter().zip(&expected);
                let error = norm(&mut pairs.map(|(a, b)| f64::from(a - b)))
                    / norm(&mut expected.iter().map(|x| f64::from(*x)));
                assert!(error < 1e-6, "{case} {key}: {error}");
            }
        }
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>().len(),
        optimizer_names().count()
    );
}

#[test]
fn the_state_is_written_down_and_goes_on_to_the_bit() {
    let steps = Steps::open();
    let device = Device::flex().autodiff();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("optimizer.safetensors");
    let bits = |module: &Three| {
        values(module).map(|x| x.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    for case in steps.json["cases"].as_array().unwrap() {
        let mut first = optimizer(case);
        let mut module = steps.start(&device);
        let rates = steps.rates();
        for (step, rate) in rates.iter().enumerate().take(4) {
            let gradients = steps.gradients(step, &module, &device);
            module = first.step(module, gradients, *rate).unwrap().0;
        }
        first.save(&file).unwrap();
        let copy = |x: &Three| {
            let [weight, filters, bias] = values(x);
            let data = |values, shape: Vec<usize>| TensorData::new(values, shape);
            Three {
                weight: Param::from_data(data(weight, vec![3, 5]), &device),
                filters: Param::from_data(data(filters, vec![4, 3, 2, 2]), &device),
                bias: Param::from_data(data(bias, vec![6]), &device),
            }
        };
        let mut resumed = copy(&module);
        let mut second = optimizer(case)
            .load(&file, &resumed, &Device::flex())
            .unwrap();
        for (step, rate) in rates.iter().enumerate().skip(4) {
            let gradients = steps.gradients(step, &module, &device);
            module = first.step(module, gradients, *rate).unwrap().0;
            let gradients = steps.gradients(step, &resumed, &device);
            resumed = second.step(resumed, gradients, *rate).unwrap().0;
            assert_eq!(bits(&resumed), bits(&module), "{case}");
        }
    }
    // The state of another optimiser is refused, whether it has too much or too little.
    let of = |name: &str| optimizer(&json!({"optimizer": name, "options": {}}));
    let module = steps.start(&device);
    let mut adamw = of("adamw");
    let gradients = steps.gradients(0, &module, &device);
    let module = adamw.step(module, gradients, 0.1).unwrap().0;
    adamw.save(&file).unwrap();
    let error = of("lion")
        .load(&file, &module, &Device::flex())
        .unwrap_err();
    assert!(error.to_string().contains("exp_avg_sq"), "{error}");
    let error = of("adafactor")
        .load(&file, &module, &Device::flex())
        .unwrap_err();
    assert!(error.to_string().contains("exp_avg_sq"), "{error}");
}

#[test]
fn options_out_of_range_are_named() {
    for (name, options, part) in [
        ("adamx", json!({}), "adamw, adam, sgd, lion, adafactor"),
        ("adamw", json!({"beta1": 1.0}), "beta1"),
        ("adamw", json!({"eps": -1.0}), "eps"),
        ("adam", json!({"momentum": 0.9}), "momentum"),
        ("sgd", json!({"nesterov": true}), "nesterov"),
        ("sgd", json!({"momentum": -0.1}), "momentum"),
        ("lion", json!({"beta2": 2}), "beta2"),
        ("adafactor", json!({"decay_rate": 0.8}), "decay_rate"),
        ("adafactor", json!({"clip_threshold": 0}), "clip_threshold"),
    ] {
        let error = optimizer_from_name(name, options.as_object().unwrap()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    for name in optimizer_names() {
        let made = optimizer_from_name(name, &Options::new()).unwrap();
        let again = optimizer_from_name(name, &made.options()).unwrap();
        assert_eq!((made.name(), made.options()), (name, again.options()));
    }
}

/// Parts of a network as families have them.
#[derive(Module, Debug)]
struct Layered {
    embeddings: Param<Tensor<1>>,
    layers: Vec<Layer>,
    final_norm: Param<Tensor<1>>,
    dense: Vec<Layer>,
}

#[derive(Module, Debug)]
struct Layer {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

#[test]
fn layers_below_learn_more_slowly() {
    let device = Device::flex().autodiff();
    let ones = || Param::from_tensor(Tensor::<1>::ones([2], &device));
    let layer = || Layer {
        weight: ones(),
        bias: ones(),
    };
    let module = Layered {
        embeddings: ones(),
        layers: vec![layer(), layer(), layer()],
        final_norm: ones(),
        dense: vec![layer()],
    };
    let patterns = ["layers.1.*".to_string()];
    let found = groups(&module, &Names::default(), 0.5, &patterns);
    let of = |path: &str| (found[path].rate, found[path].decays);
    for (path, rate, decays) in [
        ("embeddings", 0.0625, true),
        ("layers.0.weight", 0.125, true),
        ("layers.0.bias", 0.125, false),
        ("layers.1.weight", 0.25, false),
        ("layers.2.weight", 0.5, true),
        ("final_norm", 1.0, false),
        ("dense.0.weight", 1.0, true),
    ] {
        assert_eq!(of(path), (rate, decays), "{path}");
    }

    // A plain step down a gradient of ones moves by the rate, and decays where that holds.
    let rule = optimizer_from_name("sgd", &Options::new()).unwrap();
    let config = OptimizerConfig {
        weight_decay: Some(0.5),
        max_grad_norm: 0.0,
    };
    let mut optimizer = Optimizer::new(rule, &config).with_groups(found.clone());
    let all = |module: &Layered| {
        let mut sum = module.embeddings.val().sum() + module.final_norm.val().sum();
        for layer in module.layers.iter().chain(&module.dense) {
            sum = sum + layer.weight.val().sum() + layer.bias.val().sum();
        }
        sum
    };
    let gradients = GradientsParams::from_grads(all(&module).backward(), &module);
    let (module, _) = optimizer.step(module, gradients, 0.125).unwrap();
    let moved = |x: &Param<Tensor<1>>| 1.0 - f64::from(x.val().mean().into_scalar::<f32>());
    for (path, parameter) in [
        ("embeddings", &module.embeddings),
        ("layers.0.bias", &module.layers[0].bias),
        ("layers.1.weight", &module.layers[1].weight),
        ("layers.2.weight", &module.layers[2].weight),
        ("dense.0.weight", &module.dense[0].weight),
    ] {
        let (rate, decays) = of(path);
        let gradient = if decays { 1.5 } else { 1.0 };
        assert_eq!(moved(parameter), 0.125 * rate * gradient, "{path}");
    }
}

struct StopAt(usize);

impl<E: Embedder> Callback<E> for StopAt {
    fn on_step_end(&mut self, context: &mut Context<'_, E>) -> Result<()> {
        if context.progress().step == self.0 {
            context.request_stop();
        }
        Ok(())
    }
}

#[test]
fn runs_train_and_resume_with_every_optimizer() {
    let _turn = exclusive();
    let device = Device::flex();
    let (questions, answers) = questions_and_answers();
    let data = Dataset::pairs(questions, answers, vec![]).unwrap();
    for (name, rate, options) in [
        ("adam", 0.01, json!({})),
        ("sgd", 0.3, json!({"momentum": 0.9})),
        ("lion", 0.003, json!({})),
        ("adafactor", 0.01, json!({"beta1": 0.9})),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let run = |config: TrainConfig, change: &dyn Fn(Trainer<Bag>) -> Trainer<Bag>| {
            let loss = loss_from_name("multiple_negatives_ranking", &Options::new()).unwrap();
            change(Trainer::new(config, loss).unwrap()).fit(
                Bag::new(&device, 5, 0.2),
                &data,
                &device,
            )
        };
        let config = TrainConfig {
            epochs: 10,
            batch_size: 6,
            learning_rate: rate,
            optimizer: name.into(),
            optimizer_options: options.as_object().unwrap().clone(),
            ..TrainConfig::default()
        };
        let (unbroken, whole) = run(config.clone(), &|trainer| trainer).unwrap();
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        let (first, last) = (mean(&whole.losses[..4]), mean(&whole.losses[16..]));
        assert!(last < 0.8 * first, "{name}: {first} to {last}");
        run(config.clone(), &|trainer| {
            trainer
                .with_checkpoints(directory.path())
                .with_callback(StopAt(7))
        })
        .unwrap();
        let checkpoint = latest(directory.path()).unwrap().unwrap();
        let resume = |trainer: Trainer<Bag>| trainer.resume_from(&checkpoint);
        let (resumed, _) = run(config.clone(), &resume).unwrap();
        assert_eq!(resumed.weights(), unbroken.weights(), "{name}");
        let other = TrainConfig {
            layer_decay: 0.9,
            ..config
        };
        let error = run(other, &resume).unwrap_err();
        assert!(
            matches!(&error, Error::Config { field, .. } if field == "config.layer_decay"),
            "{error}"
        );
    }
}
