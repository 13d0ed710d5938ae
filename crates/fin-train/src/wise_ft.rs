//! Weights between those before and those after fine-tuning.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use fin_core::weights::Names;
use fin_core::{Embedder, Error, Result};

/// The embedder whose weights are `1 - alpha` of those of `before` and `alpha` of those of `after`
/// (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", WiSE-FT). At 0 and at 1 they are
/// the one's and the other's to the bit. All else is `after`'s.
///
/// # Errors
/// [`Error::Argument`] where `alpha` is not between 0 and 1, or where the two are not of the same
/// form: it names a parameter that one of them lacks or has in another shape.
pub fn wise_ft<E: Embedder>(before: &E, after: E, alpha: f64) -> Result<E> {
    let names = after.names();
    let network = after.network().clone();
    let network = interpolate(before.network(), network, &names, alpha)?;
    Ok(after.with_network(network))
}

/// The module whose parameters are `1 - alpha` of those of `before` and `alpha` of those of
/// `after`, paired by their paths; `names` are for errors.
///
/// Means and variances of batch normalisations are interpolated like parameters: they stay those of
/// some distribution, and the paper's networks are treated so. They are not what the interpolated
/// network would measure, which takes data. Counters of batches are `after`'s, as nothing is computed
/// from them.
///
/// # Errors
/// As [`wise_ft`].
pub fn interpolate<M: Module>(before: &M, after: M, names: &Names, alpha: f64) -> Result<M> {
    if !(0.0..=1.0).contains(&alpha) {
        let reason = format!("{alpha} is not between 0 (before) and 1 (after)");
        return Err(Error::argument("alpha", reason));
    }
    let mut collected = Collector::default();
    before.visit(&mut collected);
    let mut mixer = Mixer {
        before: collected.parameters,
        names,
        alpha,
        path: Vec::new(),
        error: None,
    };
    let module = after.map(&mut mixer);
    if let Some(error) = mixer.error {
        return Err(error);
    }
    let mut left: Vec<String> = mixer
        .before
        .into_values()
        .map(|it| names.key(&it.path))
        .collect();
    left.sort();
    match left.first() {
        Some(key) => Err(lacking("after", key)),
        None => Ok(module),
    }
}

fn lacking(which: &str, key: &str) -> Error {
    let reason = format!("the model has no parameter `{key}`, which the other one has");
    Error::argument(which, reason)
}

/// A parameter, flattened.
struct Parameter {
    path: Vec<String>,
    shape: Vec<usize>,
    values: Tensor<1>,
}

#[derive(Default)]
struct Collector {
    path: Vec<String>,
    parameters: HashMap<String, Parameter>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = param.val().detach();
        let parameter = Parameter {
            path: self.path.clone(),
            shape: values.dims().to_vec(),
            values: values.flatten(0, D - 1),
        };
        self.parameters.insert(self.path.join("."), parameter);
    }
}

struct Mixer<'a> {
    before: HashMap<String, Parameter>,
    names: &'a Names,
    alpha: f64,
    path: Vec<String>,
    error: Option<Error>,
}

impl ModuleMapper for Mixer<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(before) = self.before.remove(&self.path.join(".")) else {
            let error = lacking("before", &self.names.key(&self.path));
            self.error.get_or_insert(error);
            return param;
        };
        let shape = param.lazy_shape().to_vec();
        if before.shape != shape {
            let key = self.names.key(&self.path);
            let reason = format!(
                "`{key}` has shape {:?}, in the other model it has {shape:?}",
                before.shape
            );
            self.error.get_or_insert(Error::argument("before", reason));
            return param;
        }
        let alpha = self.alpha;
        if alpha == 1.0 {
            return param;
        }
        param.map(|after| {
            let before = before
                .values
                .to_device(&after.device())
                .reshape(after.dims());
            if alpha == 0.0 {
                return before;
            }
            before.mul_scalar(1.0 - alpha) + after.mul_scalar(alpha)
        })
    }
}
