//! Parameters that training leaves as they are, by their names.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;

use super::load::Names;
use super::parameters::parameters;
use crate::error::{Error, Result};

/// Takes the gradient from every parameter whose key in a weights file one of `patterns` stands
/// for: `*` in them is any characters, `?` is one.
///
/// # Errors
/// [`Error::Argument`] names a pattern that stands for no parameter.
pub fn freeze<M: Module>(module: M, names: &Names, patterns: &[String]) -> Result<M> {
    freeze_by(module, |path| names.key(path), patterns)
}

/// [`freeze`](fn@freeze) with a parameter's key by its path.
///
/// # Errors
/// Those of [`freeze`](fn@freeze).
pub fn freeze_by<M: Module>(
    module: M,
    key: impl Fn(&[String]) -> String,
    patterns: &[String],
) -> Result<M> {
    if patterns.is_empty() {
        return Ok(module);
    }
    let paths = parameters(&module);
    let keys: Vec<String> = paths.iter().map(|(path, _)| key(path)).collect();
    for pattern in patterns {
        if !keys.iter().any(|key| is_match(pattern, key)) {
            let shown: Vec<String> = keys.iter().take(3).map(|key| format!("`{key}`")).collect();
            let reason = format!(
                "`{pattern}` is no parameter's name; there are {} and {} more, and `*` stands for \
                 any characters",
                shown.join(", "),
                keys.len() - shown.len()
            );
            return Err(Error::argument("freeze-pattern", reason));
        }
    }
    let mut freezer = Freezer {
        key,
        patterns,
        path: Vec::new(),
    };
    Ok(module.map(&mut freezer))
}

/// Whether a name is what a pattern of `*` and `?` stands for.
pub fn is_match(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Place after the last star, and how much of the name it stands for.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                star = Some((p, n));
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after, end)) = &mut star else {
                    return false;
                };
                *end += 1;
                (p, n) = (*after, *end);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

struct Freezer<'a, F> {
    key: F,
    patterns: &'a [String],
    path: Vec<String>,
}

impl<F: Fn(&[String]) -> String> ModuleMapper for Freezer<'_, F> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let key = (self.key)(&self.path);
        match self.patterns.iter().any(|pattern| is_match(pattern, &key)) {
            true => param.set_require_grad(false),
            false => param,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "encoder.0.weight", true),
            ("encoder.*.weight", "encoder.0.dense.weight", true),
            ("encoder.*.weight", "encoder.0.dense.bias", false),
            ("*.bias", "a.bias.bias", true),
            ("*.bias", "a.bias.weight", false),
            ("layer.?.*", "layer.1.weight", true),
            ("layer.?.*", "layer.11.weight", false),
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXbXb", false),
            ("weight", "weights", false),
            ("**", "x", true),
            ("é?", "éé", true),
            ("*", "visual.proj", true),
            ("visual.*", "visual.proj", true),
            ("visual.*", "text.proj", false),
            ("*.ln_?.*", "visual.transformer.resblocks.0.ln_1.bias", true),
            ("*.ln_?.*", "visual.ln_pre.bias", false),
            ("visual", "visual.proj", false),
            ("*proj", "visual.proj", true),
            ("*proj*weight", "a.proj.proj.weight", true),
        ] {
            assert_eq!(is_match(pattern, name), expected, "{pattern} {name}");
        }
    }
}
