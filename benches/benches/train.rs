//! Steps of training with random weights: forward pass, in-batch negatives between the two halves of
//! the batch, backward pass, clipping by the global norm and AdamW, as `fin_train::Trainer` does them.
//! all-MiniLM-L6-v2 on 32 texts of 32 tokens, with its dropout, and EfficientNet-Lite0 on 16 images of
//! 224 × 224, with its stochastic depth. Prints a line of JSON a network.
//!
//! ```sh
//! cargo bench --package fin-benches --bench train -- all-minilm-l6-v2
//! ```
//!
//! A name chooses one network, whose peak memory is then that of the process. With `FIN_BENCH_DUMP`, a
//! directory, nothing is timed: what `scripts/reference/bench_peers.py` needs for the same step goes there,
//! with the losses of two steps without dropout and stochastic depth. `FIN_BENCH_DEVICE` chooses the device (`flex` where
//! unset), `FIN_BENCH_SECONDS` for how long steps are repeated (10).

use std::path::Path;
use std::process::ExitCode;

use burn::nn::DropoutConfig;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor};
use fin_benches::dump::{self, Dump, values};
use fin_benches::{
    Outcome, batch, forget_peak, measure, mini_lm_config, network, peak_memory, shape_name,
    summary, token_ids,
};
use fin_cnn::efficientnet::EfficientNetConfig;
use fin_cnn::{Architecture, BackboneConfig, CnnBackbone, CnnNetwork, Dialect, ImageBatch};
use fin_core::weights::{self, Names};
use fin_core::{EmbeddingNetwork, MapPooling};
use fin_train::TrainConfig;
use fin_train::dataset::BatchTargets;
use fin_train::loss::{Loss, MultipleNegativesRankingLoss};
use fin_train::optim::{Optimizer, groups};
use fin_transformer::TextBackbone;
use fin_transformer::bert::{Bert, BertConfig};
use serde_json::json;

const TEXTS: usize = 32;
const TOKENS: usize = 32;
const IMAGES: usize = 16;
const SIZE: usize = 224;

/// A network on its way, with what a step needs.
struct Training<N: EmbeddingNetwork> {
    /// Taken out for the time of a step.
    network: Option<N>,
    batch: N::Batch,
    optimizer: Optimizer,
    loss: MultipleNegativesRankingLoss,
    learning_rate: f64,
}

impl<N: EmbeddingNetwork> Training<N> {
    fn new(network: N, batch: N::Batch) -> Outcome<Self> {
        let config = TrainConfig::default();
        let groups = groups(&network, &Names::default(), 1.0, &[]);
        Ok(Self {
            network: Some(network.train()),
            batch,
            optimizer: config.optimizer()?.with_groups(groups),
            loss: MultipleNegativesRankingLoss::default(),
            learning_rate: config.learning_rate,
        })
    }

    /// One step; the loss before it.
    fn step(&mut self) -> Outcome<f32> {
        let network = self.network.take().ok_or("a step failed before")?;
        let embeddings = network.embed(&self.batch);
        let half = embeddings.dims()[0] / 2;
        let columns = [0, half].map(|first| embeddings.clone().narrow(0, first, half));
        let loss = self.loss.forward(&columns, &BatchTargets::None)?;
        let value = loss.clone().try_into_scalar::<f32>();
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        let (network, norm) = self
            .optimizer
            .step(network, gradients, self.learning_rate)?;
        if !norm.is_finite() {
            return Err(format!("the norm of the gradients is {norm}").into());
        }
        self.network = Some(network);
        value.map_err(|e| format!("the loss cannot be read: {e}").into())
    }

    fn losses(&mut self) -> Outcome<Vec<f32>> {
        (0..2).map(|_| self.step()).collect()
    }
}

/// MiniLM with this dropout, and its batch.
fn mini_lm(dropout: f64, device: &Device) -> Outcome<Training<fin_transformer::TextNetwork>> {
    let config = BertConfig {
        hidden_dropout_prob: dropout,
        attention_probs_dropout_prob: dropout,
        ..mini_lm_config()
    };
    let network = network(&config, device)?;
    let batch = batch(TEXTS, TOKENS, &device.clone().autodiff());
    Training::new(network, batch)
}

/// Normalised pixels, `[IMAGES, 3, SIZE, SIZE]`.
fn pixels(device: &Device) -> Tensor<4> {
    device.seed(2);
    let noise = Distribution::Normal(0.0, 1.0);
    Tensor::random([IMAGES, 3, SIZE, SIZE], noise, device)
}

/// EfficientNet-Lite0 with its stochastic depth or without, and its batch.
fn lite(is_stochastic: bool, device: &Device) -> Outcome<Training<CnnNetwork>> {
    let config = match lite_config()? {
        BackboneConfig::EfficientNet(config) if !is_stochastic => {
            BackboneConfig::EfficientNet(EfficientNetConfig {
                stochastic_depth: 0.0,
                ..config
            })
        }
        config => config,
    };
    device.seed(1);
    let network = CnnNetwork {
        backbone: config.init(device),
        dropout: DropoutConfig::new(config.dropout()).init(),
        projection: None,
        pooling: MapPooling::Mean,
        normalize: false,
    };
    let pixels = pixels(device).into_data();
    let pixels = Tensor::from_data(pixels, &device.clone().autodiff());
    Training::new(network, ImageBatch::Pixels(pixels))
}

fn lite_config() -> Outcome<BackboneConfig> {
    Ok(Architecture::Named("efficientnet_lite0".into()).config()?)
}

/// Writes weights, inputs and losses of two steps.
fn write(name: &str, directory: &Path, device: &Device) -> Outcome<()> {
    let dump = Dump::create(directory, name)?;
    let (inputs, losses, reference) = if name == MINI_LM {
        let mut training = mini_lm(0.0, device)?;
        if let Some(TextBackbone::Bert(bert)) = training.network.as_ref().map(|n| &n.backbone) {
            weights::save_module(dump.weights(), bert, &Bert::names())?;
        }
        let ids = token_ids(TEXTS, TOKENS).into_iter().flatten();
        let ids: Vec<f32> = ids.map(|id| id as f32).collect();
        let reference = json!({
            "library": "transformers",
            "class": "BertModel",
            "config": mini_lm_config(),
            "normalize": true,
        });
        let inputs = ("input_ids", vec![TEXTS, TOKENS], ids);
        (inputs, training.losses()?, reference)
    } else {
        let mut training = lite(false, device)?;
        let config = lite_config()?;
        let depth = match &config {
            BackboneConfig::EfficientNet(config) => config.stochastic_depth,
            BackboneConfig::ResNet(_) => 0.0,
        };
        let names = Dialect::of_saved(&config).names(&config);
        let backbone = training.network.as_ref().map(|network| &network.backbone);
        if let Some(CnnBackbone::EfficientNet(model)) = backbone {
            weights::save_module(dump.weights(), model, &names)?;
        }
        let reference = json!({
            "library": "timm",
            "class": "tf_efficientnet_lite0",
            "drop_path_rate": depth,
            "normalize": false,
        });
        let inputs = (
            "pixels",
            vec![IMAGES, 3, SIZE, SIZE],
            values(pixels(device))?,
        );
        (inputs, training.losses()?, reference)
    };
    let (kind, shape, values) = inputs;
    let items = shape[0];
    let losses = ("losses", vec![losses.len()], losses);
    let shape = dump.shape(&shape_name(&shape), items, [(kind, shape, values), losses])?;
    dump.finish(true, &reference, &[shape])
}

/// Times steps and prints the line.
fn time<N: EmbeddingNetwork>(
    name: &str,
    shape: &[usize],
    mut training: Training<N>,
) -> Outcome<()> {
    forget_peak();
    let times = measure(|| training.step().map(|_| ()))?;
    let mut row = summary(&times, shape[0]);
    row["model"] = json!(name);
    row["shape"] = json!(shape_name(shape));
    row["peak_mib"] = json!(peak_memory());
    println!("{row}");
    Ok(())
}

const MINI_LM: &str = "all-minilm-l6-v2";
const LITE: &str = "efficientnet-lite0";

fn main() -> ExitCode {
    fin_benches::end(run())
}

fn run() -> Outcome<()> {
    let device = fin_benches::device()?;
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    if let Some(unknown) = asked
        .iter()
        .find(|name| ![MINI_LM, LITE].contains(&name.as_str()))
    {
        return Err(format!("no training of `{unknown}`; there are: {MINI_LM}, {LITE}").into());
    }
    let directory = dump::directory();
    for name in [MINI_LM, LITE] {
        if !asked.is_empty() && !asked.iter().any(|asked| asked == name) {
            continue;
        }
        match (&directory, name) {
            (Some(directory), _) => write(name, directory, &device)?,
            (None, MINI_LM) => {
                let training = mini_lm(mini_lm_config().hidden_dropout_prob, &device)?;
                time(name, &[TEXTS, TOKENS], training)?;
            }
            (None, _) => time(name, &[IMAGES, 3, SIZE, SIZE], lite(true, &device)?)?,
        }
    }
    Ok(())
}
