//! Low-rank adapters (Hu et al. 2021, "LoRA").
//!
//! A weight `W` of `[out, in]` is left as it is, and `W + alpha / rank · B A` takes its place, of which
//! `A` (`[rank, in]`) and `B` (`[out, rank]`) alone are trained. What is saved as a model has the sum;
//! adapters can be saved apart, as PEFT has them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{LoraAdapter, Module, ModuleVisitor, Param, Reparameterizer};
use burn::tensor::{Tensor, TensorData};
use fin_core::atomic::AtomicDir;
use fin_core::weights::{self, Names, is_match};
use fin_core::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Which weights have adapters, and of what form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rows of `A`, columns of `B`. Default: 8.
    pub rank: usize,
    /// Times the product, divided by the rank. Default: 16.
    pub alpha: f64,
    /// Linear layers by upstream's name, or by the last part of it, as in `query`; `*` stands for any
    /// characters. Default: the maps to queries and values, under the names that they have in BERT,
    /// DistilBERT, T5 and CLIP.
    pub targets: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let targets = [
            "query", "value", "q_lin", "v_lin", "q", "v", "q_proj", "v_proj",
        ];
        Self {
            rank: 8,
            alpha: 16.0,
            targets: targets.map(String::from).to_vec(),
        }
    }
}

impl LoraConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what is accepted.
    pub fn validate(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::argument(
                "lora.rank",
                "0 is none; 1 or more are needed",
            ));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            let reason = format!("{} is not a positive number", self.alpha);
            return Err(Error::argument("lora.alpha", reason));
        }
        if self.targets.is_empty() {
            return Err(Error::argument("lora.targets", "name one layer at least"));
        }
        Ok(())
    }

    fn is_target(&self, module: &str) -> bool {
        let last = module.rsplit('.').next().unwrap_or(module);
        let mut targets = self.targets.iter();
        targets.any(|target| is_match(target, module) || target == last)
    }

    /// Puts adapters on the weights that this names, and takes the gradient from all else. `A` begins
    /// evenly between `±1/√in`, as PyTorch's linear layers do, and `B` at zero, so that nothing
    /// changes yet.
    ///
    /// # Errors
    /// Those of [`LoraConfig::validate`]; [`Error::Argument`] where no linear layer is named.
    pub fn attach<M: Module>(&self, module: M, names: &Names, seed: u64) -> Result<M> {
        self.validate()?;
        let mut weights = Weights::new(names);
        module.visit(&mut weights);
        let targets: BTreeMap<String, usize> = weights
            .found
            .iter()
            .filter(|(_, key)| self.is_target(key))
            .enumerate()
            .map(|(i, (path, _))| (path.clone(), i))
            .collect();
        if targets.is_empty() {
            let mut last: Vec<&str> = weights
                .found
                .iter()
                .filter_map(|(_, key)| key.rsplit('.').next())
                .collect();
            last.sort_unstable();
            last.dedup();
            let reason = format!(
                "none of {} is a linear layer of this model; its layers are called {}",
                self.targets.join(", "),
                last.join(", ")
            );
            return Err(Error::argument("lora.targets", reason));
        }
        Ok(module.apply_reparameterization(Attach {
            config: self,
            targets,
            seed,
        }))
    }

    /// Writes the adapters of a module as PEFT keeps them: `adapter_config.json` and
    /// `adapter_model.safetensors`. `base` is what they belong to, a name or a directory.
    ///
    /// # Errors
    /// [`Error::Io`]; an existing directory is then as it was before.
    pub fn save_adapters<M: Module>(
        &self,
        module: &M,
        names: &Names,
        base: &str,
        directory: &Path,
    ) -> Result<()> {
        let mut weights = Weights::new(names);
        module.visit(&mut weights);
        let modules: Vec<&String> = weights.found.iter().map(|(_, key)| key).collect();
        let targets: Vec<&&String> = modules.iter().filter(|key| self.is_target(key)).collect();
        let config = json!({
            "peft_type": "LORA",
            "task_type": "FEATURE_EXTRACTION",
            "base_model_name_or_path": base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "target_modules": targets,
        });
        let target = AtomicDir::create(directory)?;
        let path = target.path().join("adapter_config.json");
        std::fs::write(&path, format!("{config:#}\n")).map_err(Error::io(&path, "write"))?;
        let path = target.path().join("adapter_model.safetensors");
        weights::save(&path, &weights.adapters)?;
        target.commit()
    }
}

/// Path and upstream's name of every linear layer, and the adapters under PEFT's names.
struct Weights<'a> {
    names: &'a Names,
    path: Vec<String>,
    found: Vec<(String, String)>,
    adapters: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl<'a> Weights<'a> {
    fn new(names: &'a Names) -> Self {
        Self {
            names,
            path: Vec::new(),
            found: Vec::new(),
            adapters: Vec::new(),
        }
    }
}

/// What burn puts between a weight's path and that of its adapter's matrices.
const LORA: &str = "lora";

impl ModuleVisitor for Weights<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let parts: Vec<&str> = self.path.iter().map(String::as_str).collect();
        if let [.., "weight", LORA, matrix] = parts.as_slice() {
            let weight = &self.path[..self.path.len() - 2];
            let module = self.names.key(weight);
            let module = module.strip_suffix(".weight").unwrap_or(&module);
            // PEFT calls the first map A, burn the one on the left.
            let name = if *matrix == "a" { "lora_B" } else { "lora_A" };
            let tensor = param.val();
            let shape = tensor.dims().to_vec();
            let data = tensor.into_data().convert::<f32>();
            let values = data.try_into_vec().unwrap_or_default();
            let key = format!("base_model.model.{module}.{name}.weight");
            self.adapters.push((key, shape, values));
            return;
        }
        // Tables of vectors are two-dimensional too, and are no maps.
        let is_table = parts.iter().any(|part| part.contains("embedding"));
        if D == 2 && parts.last() == Some(&"weight") && !is_table {
            let key = self.names.key(&self.path);
            let module = key.strip_suffix(".weight").unwrap_or(&key).to_owned();
            self.found.push((self.path.join("."), module));
        }
    }
}

struct Attach<'a> {
    config: &'a LoraConfig,
    /// Numbers of the weights by their paths.
    targets: BTreeMap<String, usize>,
    seed: u64,
}

impl Reparameterizer for Attach<'_> {
    type Reparam = LoraAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LoraAdapter>) {
        let param = param.set_require_grad(false);
        let Some(number) = self.targets.get(path) else {
            return (param, None);
        };
        let shape = param.lazy_shape().to_vec();
        let &[out, width] = shape.as_slice() else {
            return (param, None);
        };
        let device = param.lazy_device();
        let rank = self.config.rank;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(*number as u64);
        let bound = 1.0 / (width as f64).sqrt();
        let values: Vec<f32> = (0..rank * width)
            .map(|_| (bound * (2.0 * rng.random::<f64>() - 1.0)) as f32)
            .collect();
        let first = Tensor::from_data(TensorData::new(values, [rank, width]), &device);
        let adapter = LoraAdapter {
            a: Param::from_tensor(Tensor::zeros([out, rank], &device)),
            b: Param::from_tensor(first),
            scale: self.config.alpha / rank as f64,
        };
        (param, Some(adapter))
    }
}
