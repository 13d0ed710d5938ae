//! Which files of a repository the readers need.
//!
//! One function answers this for a repository on the hub, by its listing, and for a snapshot on
//! disk, by what is there. A new family is a value of [`FileSet`] and its line in
//! [`FileSet::needs`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use fin_core::{Error, Result};
use serde::Deserialize;

use crate::catalogue::Task;

/// What a family of models reads from its repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileSet {
    /// A text model of Hugging Face or sentence-transformers: configuration, weights, tokenizer,
    /// and the modules that `modules.json` names.
    Text,
    /// Weights, and a configuration where there is one.
    Image,
    /// Configuration, weights and tokenizer of a model of texts and images.
    TextImage,
}

impl From<Task> for FileSet {
    fn from(task: Task) -> Self {
        match task {
            Task::TextToText => Self::Text,
            Task::ImageToImage | Task::MeshToMesh => Self::Image,
            Task::TextToImage => Self::TextImage,
        }
    }
}

/// A family's needs as data.
struct Needs {
    /// One of these has to be there; the first that is decides which weights are taken.
    configs: &'static [(&'static str, &'static [&'static str])],
    /// Forms of tokenizers, the first that is there is taken: files that belong together.
    tokenizers: &'static [&'static [&'static str]],
    /// `modules.json` may say that the model is in sub-directories.
    modules: bool,
    /// Files that are read where they exist.
    optional: &'static [&'static str],
}

impl FileSet {
    fn needs(self) -> Needs {
        match self {
            Self::Text => Needs {
                configs: &[(CONFIG, &WEIGHTS)],
                tokenizers: &[
                    &["tokenizer.json"],
                    &["vocab.txt"],
                    &["spiece.model"],
                    &["sentencepiece.bpe.model"],
                ],
                modules: true,
                optional: &[
                    "tokenizer_config.json",
                    "special_tokens_map.json",
                    "added_tokens.json",
                    "sentence_bert_config.json",
                ],
            },
            Self::Image => Needs {
                configs: &[],
                tokenizers: &[],
                modules: false,
                optional: &["config.json", "preprocessor_config.json"],
            },
            Self::TextImage => Needs {
                configs: &[(CONFIG, &WEIGHTS), (OPEN_CLIP_CONFIG, &OPEN_CLIP_WEIGHTS)],
                tokenizers: &[
                    &["tokenizer.json"],
                    &["vocab.json", "merges.txt"],
                    &["sentencepiece.bpe.model"],
                ],
                modules: false,
                optional: &[
                    "tokenizer_config.json",
                    "special_tokens_map.json",
                    "added_tokens.json",
                    "preprocessor_config.json",
                ],
            },
        }
    }
}

pub(super) const MODULES: &str = "modules.json";
pub(super) const CONFIG: &str = "config.json";
/// Read from the root, whatever the modules are.
const PROMPTS: &str = "config_sentence_transformers.json";
/// Forms of weights, the first that is there is taken. An index (`.index.json`) names its parts.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// What open_clip calls its configuration and weights.
const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";
const OPEN_CLIP_WEIGHTS: [&str; 2] = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"];

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Settings,
    Tokenizer,
    Weights,
}

/// What is taken of a repository.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// Paths in the repository, each once.
    pub files: Vec<(String, Role)>,
    /// What is needed and not there, in words for people.
    pub missing: Vec<String>,
}

impl Selection {
    /// The weights of the model itself, where they are one file.
    pub fn single_weights(&self) -> Option<&str> {
        let mut weights = self.files.iter().filter(|(_, role)| *role == Role::Weights);
        // A dense head's weights come after the transformer's.
        let (first, _) = weights.next()?;
        (!first.ends_with(".index.json")).then_some(first)
    }
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    class: String,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Chooses from the files `names` of a repository. `read` gives the content of one of them, and
/// is asked for `modules.json` and shard indexes alone; `place` is named in errors.
///
/// # Errors
/// Those of `read`, and [`Error::InvalidFile`] where a file that was read is damaged or leads out
/// of the repository.
pub(super) fn select(
    set: FileSet,
    names: &BTreeSet<String>,
    place: &Path,
    read: &mut dyn FnMut(&str) -> Result<Vec<u8>>,
) -> Result<Selection> {
    let mut chooser = Chooser {
        needs: set.needs(),
        names,
        place,
        read,
        selection: Selection::default(),
    };
    chooser.choose()?;
    Ok(chooser.selection)
}

struct Chooser<'a> {
    needs: Needs,
    names: &'a BTreeSet<String>,
    place: &'a Path,
    read: &'a mut dyn FnMut(&str) -> Result<Vec<u8>>,
    selection: Selection,
}

impl Chooser<'_> {
    fn choose(&mut self) -> Result<()> {
        if !self.needs.modules {
            return self.model("");
        }
        if !self.names.contains(MODULES) {
            self.model("")?;
            self.optional("", &[PROMPTS]);
            return Ok(());
        }
        self.take(MODULES.into(), Role::Settings);
        let modules: Vec<Module> = self.parse(MODULES)?;
        for (i, module) in modules.iter().enumerate() {
            let directory = module.path.trim_end_matches('/');
            if !directory.is_empty() && !is_inside(directory) {
                let reason = format!("`{directory}` leads outside of the model directory");
                return Err(Error::config(
                    self.place.join(MODULES),
                    format!("[{i}].path"),
                    reason,
                ));
            }
            match module.class.rsplit('.').next().unwrap_or_default() {
                _ if i == 0 => self.model(directory)?,
                "Dense" => {
                    self.required(directory, CONFIG);
                    self.weights(directory, &WEIGHTS)?;
                }
                "Pooling" => self.required(directory, CONFIG),
                _ => self.optional(directory, &[CONFIG]),
            }
        }
        self.optional("", &[PROMPTS]);
        Ok(())
    }

    /// The files of a network in a directory, the root being `""`.
    fn model(&mut self, directory: &str) -> Result<()> {
        let has = |name: &str| self.names.contains(&join(directory, name));
        let configs = self.needs.configs;
        let mut weights: &[&str] = &WEIGHTS;
        if let Some(first) = configs.first() {
            let (config, of_config) = *configs.iter().find(|(name, _)| has(name)).unwrap_or(first);
            weights = of_config;
            self.required(directory, config);
        }
        self.weights(directory, weights)?;
        let tokenizers = self.needs.tokenizers;
        let has = |name: &&str| self.names.contains(&join(directory, name));
        match tokenizers.iter().find(|files| files.iter().all(has)) {
            Some(files) => {
                for file in *files {
                    self.take(join(directory, file), Role::Tokenizer);
                }
            }
            None if tokenizers.is_empty() => {}
            None => {
                let forms: Vec<String> = tokenizers.iter().map(|form| form.join(" and ")).collect();
                let forms: Vec<&str> = forms.iter().map(String::as_str).collect();
                self.lack(directory, &forms);
            }
        }
        self.optional(directory, self.needs.optional);
        Ok(())
    }

    /// The first of these forms of weights that is there.
    fn weights(&mut self, directory: &str, forms: &[&str]) -> Result<()> {
        let found = forms
            .iter()
            .map(|name| join(directory, name))
            .find(|path| self.names.contains(path));
        let Some(path) = found else {
            self.lack(directory, forms);
            return Ok(());
        };
        self.take(path.clone(), Role::Weights);
        if path.ends_with(".index.json") {
            let index: Index = self.parse(&path)?;
            let parts: BTreeSet<String> = index.weight_map.into_values().collect();
            for part in parts {
                if !is_inside(&part) {
                    let reason = format!("`{part}` leads outside of the model directory");
                    let path = self.place.join(&path);
                    return Err(Error::config(path, "weight_map", reason));
                }
                let part = join(directory, &part);
                if self.names.contains(&part) {
                    self.take(part, Role::Weights);
                } else {
                    self.selection.missing.push(part);
                }
            }
        }
        Ok(())
    }

    fn required(&mut self, directory: &str, name: &str) {
        let path = join(directory, name);
        if self.names.contains(&path) {
            self.take(path, Role::Settings);
        } else {
            self.selection.missing.push(path);
        }
    }

    fn optional(&mut self, directory: &str, names: &[&str]) {
        for name in names {
            let path = join(directory, name);
            if self.names.contains(&path) {
                self.take(path, Role::Settings);
            }
        }
    }

    /// One of these is needed, and there is none.
    fn lack(&mut self, directory: &str, names: &[&str]) {
        let (first, others) = names.split_first().unwrap_or((&"", &[]));
        let first = join(directory, first);
        let others = others.join(", ");
        self.selection
            .missing
            .push(format!("{first} (or one of {others})"));
    }

    fn take(&mut self, path: String, role: Role) {
        if !self.selection.files.iter().any(|(taken, _)| *taken == path) {
            self.selection.files.push((path, role));
        }
    }

    fn parse<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        let bytes = (self.read)(name)?;
        serde_json::from_slice(&bytes).map_err(|e| Error::invalid(self.place.join(name), e))
    }
}

fn join(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        _ => format!("{directory}/{name}"),
    }
}

/// Whether a path of a repository stays inside of the directory that it is put into.
pub(super) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0', ':'])
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES_JSON: &str = r#"[
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}
    ]"#;

    fn choose_with(set: FileSet, names: &[&str], content: &[(&str, &str)]) -> Result<Selection> {
        let names = names.iter().map(ToString::to_string).collect();
        select(set, &names, Path::new("repo"), &mut |name| {
            let found = content.iter().find(|(known, _)| *known == name);
            Ok(found.expect(name).1.as_bytes().to_vec())
        })
    }

    fn choose(names: &[&str], content: &[(&str, &str)]) -> Selection {
        choose_with(FileSet::Text, names, content).unwrap()
    }

    fn paths(selection: &Selection) -> Vec<&str> {
        let mut paths: Vec<_> = selection.files.iter().map(|(p, _)| p.as_str()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn of_a_sentence_transformers_repository_what_its_modules_need() {
        let listing = [
            ".gitattributes",
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "2_Dense/pytorch_model.bin",
            "README.md",
            "config.json",
            "config_sentence_transformers.json",
            "flax_model.msgpack",
            "model.safetensors",
            "modules.json",
            "onnx/model.onnx",
            "openvino/openvino_model.bin",
            "pytorch_model.bin",
            "rust_model.ot",
            "sentence_bert_config.json",
            "special_tokens_map.json",
            "tf_model.h5",
            "tokenizer.json",
            "tokenizer_config.json",
            "train_script.py",
            "vocab.txt",
        ];
        let selection = choose(&listing, &[("modules.json", MODULES_JSON)]);
        assert_eq!(selection.missing, [""; 0]);
        assert_eq!(
            paths(&selection),
            [
                "1_Pooling/config.json",
                "2_Dense/config.json",
                "2_Dense/model.safetensors",
                "config.json",
                "config_sentence_transformers.json",
                "model.safetensors",
                "modules.json",
                "sentence_bert_config.json",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer_config.json",
            ]
        );
        assert_eq!(selection.single_weights(), Some("model.safetensors"));
    }

    #[test]
    fn a_transformer_in_a_sub_directory_has_its_files_there() {
        let modules = r#"[{"path": "0_Transformer", "type": "x.Transformer"},
            {"path": "1_Pooling", "type": "x.Pooling"}]"#;
        let listing = [
            "0_Transformer/config.json",
            "0_Transformer/pytorch_model.bin",
            "0_Transformer/sentence_bert_config.json",
            "0_Transformer/vocab.txt",
            "1_Pooling/config.json",
            "config.json",
            "modules.json",
            "pytorch_model.bin",
            "vocab.txt",
        ];
        let selection = choose(&listing, &[("modules.json", modules)]);
        assert_eq!(selection.missing, [""; 0]);
        let mut expected = listing[..5].to_vec();
        expected.push("modules.json");
        assert_eq!(paths(&selection), expected);
        let weights = Some("0_Transformer/pytorch_model.bin");
        assert_eq!(selection.single_weights(), weights);
    }

    #[test]
    fn shards_are_those_of_the_index() {
        let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}"#;
        let mut listing = vec![
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00001-of-00005.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "spiece.model",
        ];
        let content = [("model.safetensors.index.json", index)];
        let selection = choose(&listing, &content);
        assert_eq!(selection.missing, ["model-00002-of-00002.safetensors"]);
        assert_eq!(selection.single_weights(), None);
        listing.push("model-00002-of-00002.safetensors");
        let selection = choose(&listing, &content);
        assert_eq!(selection.missing, [""; 0]);
        assert_eq!(
            paths(&selection),
            [
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "spiece.model",
            ]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let selection = choose(&["config.json", "README.md"], &[]);
        let missing = selection.missing.join("; ");
        for part in [
            "model.safetensors (or",
            "pytorch_model.bin",
            "tokenizer.json (or",
        ] {
            assert!(missing.contains(part), "{part} is not in: {missing}");
        }
        let listing = [
            "modules.json",
            "config.json",
            "vocab.txt",
            "pytorch_model.bin",
        ];
        let selection = choose(&listing, &[("modules.json", MODULES_JSON)]);
        let missing = selection.missing.join("; ");
        for part in [
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.s",
        ] {
            assert!(missing.contains(part), "{part} is not in: {missing}");
        }
    }

    #[test]
    fn other_families_have_other_needs() {
        let listing = [
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "pytorch_model.bin",
            "vocab.txt",
        ];
        let image = choose_with(FileSet::Image, &listing, &[]).unwrap();
        assert_eq!(paths(&image), listing[..3]);
        let only = choose_with(FileSet::Image, &["pytorch_model.bin"], &[]).unwrap();
        assert_eq!(only.missing, [""; 0]);
        let both = choose_with(FileSet::TextImage, &listing, &[]).unwrap();
        assert_eq!(
            both.missing,
            ["tokenizer.json (or one of vocab.json and merges.txt, sentencepiece.bpe.model)"]
        );
        let listing = [
            "merges.txt",
            "open_clip_config.json",
            "open_clip_pytorch_model.bin",
            "pytorch_model.bin",
            "vocab.json",
        ];
        let open_clip = choose_with(FileSet::TextImage, &listing, &[]).unwrap();
        assert_eq!(open_clip.missing, [""; 0]);
        let expected = [&listing[..3], &listing[4..]].concat();
        assert_eq!(paths(&open_clip), expected);
        // A repository with both is read in the first.
        let listing = [&listing[..], &["config.json", "model.safetensors"]].concat();
        let both = choose_with(FileSet::TextImage, &listing, &[]).unwrap();
        assert_eq!(
            paths(&both),
            [
                "config.json",
                "merges.txt",
                "model.safetensors",
                "vocab.json"
            ]
        );
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        for path in ["../x", "/etc", "a/../../b", "a\\b", "C:x"] {
            let modules = serde_json::json!([{ "path": path, "type": "x.Transformer" }]);
            let content = modules.to_string();
            let names = ["modules.json"];
            let result = choose_with(FileSet::Text, &names, &[("modules.json", &content)]);
            assert!(result.is_err(), "{path}");
            let index = serde_json::json!({ "weight_map": { "a": path } }).to_string();
            let name = "pytorch_model.bin.index.json";
            let error = choose_with(FileSet::Image, &[name], &[(name, &index)]).unwrap_err();
            assert!(error.to_string().contains("leads outside"), "{error}");
        }
    }
}
