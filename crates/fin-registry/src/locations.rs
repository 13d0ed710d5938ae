//! Where the files of a backbone are looked for.

use std::env;
use std::path::{Path, PathBuf};

use fin_core::{Error, Result};

use crate::catalogue::ModelRow;

/// The places where a backbone's directory may be, in the order in which they are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locations {
    /// Directories that hold a directory `<name>` for each backbone.
    pub by_name: Vec<PathBuf>,
    /// Cache of the Hugging Face hub, which holds
    /// `models--<organisation>--<name>/snapshots/<revision>`.
    pub hub: Option<PathBuf>,
}

impl Locations {
    /// The places that the environment names:
    ///
    /// 1. `$FIN_MODELS/<name>`;
    /// 2. `$FIN_CACHE/<name>`, or `$XDG_CACHE_HOME/fin/<name>`, or `~/.cache/fin/<name>`;
    /// 3. the revision `main` of the source in the Hugging Face cache: `$HF_HOME/hub`, or
    ///    `~/.cache/huggingface/hub`.
    pub fn from_env() -> Self {
        let path = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let home = || env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let cache = path("FIN_CACHE")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("fin")))
            .or_else(|| home().map(|home| home.join(".cache/fin")));
        let hub = path("HF_HOME")
            .or_else(|| home().map(|home| home.join(".cache/huggingface")))
            .map(|home| home.join("hub"));
        Self {
            by_name: path("FIN_MODELS").into_iter().chain(cache).collect(),
            hub,
        }
    }

    /// The directory of a backbone.
    ///
    /// # Errors
    /// [`Error::Argument`] saying which files to put where, where it is in none of the places.
    pub fn resolve(&self, row: &ModelRow) -> Result<PathBuf> {
        let mut looked = Vec::new();
        for parent in &self.by_name {
            let directory = parent.join(&row.name);
            if is_model(&directory) {
                return Ok(directory);
            }
            looked.push(directory);
        }
        if let Some(hub) = &self.hub {
            for source in std::iter::once(&row.source).chain(&row.former_source) {
                let repository = hub.join(format!("models--{}", source.replace('/', "--")));
                // A missing or unreadable reference is a model that is not there.
                if let Ok(revision) = std::fs::read_to_string(repository.join("refs/main")) {
                    let directory = repository.join("snapshots").join(revision.trim());
                    if is_model(&directory) {
                        return Ok(directory);
                    }
                }
                looked.push(repository);
            }
        }
        Err(not_found(row, &looked))
    }
}

fn is_model(directory: &Path) -> bool {
    directory.join("config.json").is_file() || directory.join("modules.json").is_file()
}

fn not_found(row: &ModelRow, looked: &[PathBuf]) -> Error {
    let name = &row.name;
    let list: Vec<String> = looked
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let target = match looked.first() {
        Some(first) => first.display().to_string(),
        None => "a directory".into(),
    };
    let places = if list.is_empty() {
        "there is no place to look (set FIN_MODELS)".into()
    } else {
        format!("looked in {}", list.join(", "))
    };
    Error::argument(
        "model",
        format!(
            "the files of `{name}` are not on this machine: {places}. Put these files of \
             https://huggingface.co/{} into {target}: config.json, model.safetensors (or \
             pytorch_model.bin), tokenizer.json (or vocab.txt, spiece.model or \
             sentencepiece.bpe.model), tokenizer_config.json and, where \
             the repository has them, modules.json, sentence_bert_config.json, \
             config_sentence_transformers.json and the directories 1_Pooling, 2_Dense and \
             2_Normalize. Or give the directory that holds them in place of the name",
            row.source
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find;

    fn put(directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("config.json"), "{}").unwrap();
    }

    #[test]
    fn the_first_place_that_has_the_model_wins() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let row = find("sbert-base-en").unwrap();
        let locations = Locations {
            by_name: vec![root.join("models"), root.join("cache")],
            hub: Some(root.join("hub")),
        };
        let error = locations.resolve(row).unwrap_err().to_string();
        for part in [
            "models/sbert-base-en",
            "cache/sbert-base-en",
            "hub/models--sentence-transformers--msmarco-distilbert-base-v3",
            "https://huggingface.co/sentence-transformers/msmarco-distilbert-base-v3",
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }

        let repository = root.join("hub/models--sentence-transformers--msmarco-distilbert-base-v3");
        put(&repository.join("snapshots/0123abc"));
        assert!(locations.resolve(row).is_err());
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), "0123abc\n").unwrap();
        let found = locations.resolve(row).unwrap();
        assert_eq!(found, repository.join("snapshots/0123abc"));

        for place in ["cache/sbert-base-en", "models/sbert-base-en"] {
            put(&root.join(place));
            assert_eq!(locations.resolve(row).unwrap(), root.join(place));
        }
    }

    #[test]
    fn a_cache_under_the_former_name_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("models--bert-base-cased");
        put(&repository.join("snapshots/abc"));
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), "abc").unwrap();
        let locations = Locations {
            by_name: Vec::new(),
            hub: Some(dir.path().into()),
        };
        let found = locations.resolve(find("bert-base-en").unwrap()).unwrap();
        assert_eq!(found, repository.join("snapshots/abc"));
    }

    #[test]
    fn no_place_at_all_is_said() {
        let error = Locations::default().resolve(find("bert-base-en").unwrap());
        assert!(error.unwrap_err().to_string().contains("FIN_MODELS"));
    }
}
