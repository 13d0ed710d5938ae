//! What parameters a module has.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Path and shape of every parameter, in the module's order. Of a module that was never used, none is
/// made for it.
pub fn parameters<M: Module>(module: &M) -> Vec<(Vec<String>, Vec<usize>)> {
    let mut visitor = Parameters::default();
    module.visit(&mut visitor);
    visitor.found
}

#[derive(Default)]
struct Parameters {
    path: Vec<String>,
    found: Vec<(Vec<String>, Vec<usize>)>,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = param.lazy_shape().to_vec();
        self.found.push((self.path.clone(), shape));
    }
}
