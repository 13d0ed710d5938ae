//! Where the files of a backbone are looked for.

use std::env;
use std::path::{Path, PathBuf};

use fin_core::{Error, Result};

use crate::catalogue::ModelRow;
use crate::hub::{DEFAULT_ENDPOINT, Found, Hub, HubConfig, HubSource, NotFound, find};

/// The places where a backbone's directory may be, in the order in which they are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locations {
    /// Directories that hold a directory `<name>` for each backbone.
    pub by_name: Vec<PathBuf>,
    /// The Hugging Face hub and its cache. Without it, or where it is offline, nothing is
    /// downloaded.
    pub hub: Option<HubConfig>,
}

impl Locations {
    /// The places that the environment names:
    ///
    /// 1. `$FIN_MODELS/<name>`;
    /// 2. `$FIN_CACHE/<name>`, or `$XDG_CACHE_HOME/fin/<name>`, or `~/.cache/fin/<name>`;
    /// 3. the source in the Hugging Face cache, or else on the hub: [`HubConfig::from_env`].
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
        Self {
            by_name: path("FIN_MODELS").into_iter().chain(cache).collect(),
            hub: HubConfig::from_env(),
        }
    }

    /// The same places without downloads.
    pub fn offline(mut self) -> Self {
        if let Some(hub) = &mut self.hub {
            hub.offline = true;
        }
        self
    }

    /// The directory of a backbone that is on this machine; makes no request.
    ///
    /// # Errors
    /// [`Error::Argument`] saying which files to put where, where it is in none of the places.
    pub fn resolve(&self, row: &ModelRow) -> Result<PathBuf> {
        match self.look(row) {
            Ok(Place::Directory(directory)) => Ok(directory),
            Ok(Place::Snapshot(found)) => Ok(found.snapshot),
            Err(not_found) => Err(self.not_on_this_machine(row, &not_found, None)),
        }
    }

    /// The directory of a backbone, downloaded where it is not on this machine.
    ///
    /// # Errors
    /// As [`Locations::resolve`] where nothing may be downloaded or the hub cannot be reached;
    /// otherwise as [`Hub::fetch`].
    pub fn fetch(&self, row: &ModelRow) -> Result<PathBuf> {
        let Some(config) = self.hub.as_ref().filter(|hub| !hub.offline) else {
            return self.resolve(row);
        };
        let hub = Hub::new(config.clone());
        let source = HubSource::from(row);
        let not_found = match self.look(row) {
            Ok(Place::Directory(directory)) => return Ok(directory),
            Ok(Place::Snapshot(found)) if found.is_known_whole => return Ok(found.snapshot),
            Ok(Place::Snapshot(found)) => return hub.make_whole(&source, found),
            Err(not_found) => not_found,
        };
        hub.download(&source).map_err(|failure| {
            if failure.is_unreachable {
                self.not_on_this_machine(row, &not_found, Some(&failure.error))
            } else {
                failure.error
            }
        })
    }

    fn look(&self, row: &ModelRow) -> Result<Place, NotFound> {
        let mut looked = Vec::new();
        for parent in &self.by_name {
            let directory = parent.join(&row.name);
            if is_model(&directory) {
                return Ok(Place::Directory(directory));
            }
            looked.push(directory);
        }
        let not_found = match &self.hub {
            None => NotFound::default(),
            Some(hub) => match find(&hub.cache, &HubSource::from(row)) {
                Ok(found) => return Ok(Place::Snapshot(found)),
                Err(not_found) => not_found,
            },
        };
        looked.extend(not_found.looked);
        Err(NotFound {
            looked,
            ..not_found
        })
    }

    fn not_on_this_machine(
        &self,
        row: &ModelRow,
        not_found: &NotFound,
        failure: Option<&Error>,
    ) -> Error {
        let name = &row.name;
        let list: Vec<String> = not_found
            .looked
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let target = match list.first() {
            Some(first) => first.as_str(),
            None => "a directory",
        };
        let mut places = if list.is_empty() {
            "there is no place to look (set FIN_MODELS)".into()
        } else {
            format!("looked in {}", list.join(", "))
        };
        for reason in &not_found.reasons {
            places.push_str("; ");
            places.push_str(reason);
        }
        let why = match (&self.hub, failure) {
            (_, Some(failure)) => format!("They cannot be downloaded now: {failure}. "),
            (Some(_), None) => "Downloads are switched off (--offline or HF_HUB_OFFLINE). ".into(),
            (None, None) => String::new(),
        };
        let endpoint = self
            .hub
            .as_ref()
            .map_or(DEFAULT_ENDPOINT, |hub| hub.endpoint.trim_end_matches('/'));
        Error::argument(
            "model",
            format!(
                "the files of `{name}` are not on this machine: {places}. {why}Put these files of \
                 {endpoint}/{} into {target}: config.json, model.safetensors (or \
                 pytorch_model.bin), tokenizer.json (or vocab.txt, spiece.model or \
                 sentencepiece.bpe.model), tokenizer_config.json and, \
                 where the repository has them, modules.json, sentence_bert_config.json, \
                 config_sentence_transformers.json and the directories 1_Pooling, 2_Dense and \
                 2_Normalize. Or give the directory that holds them in place of the name",
                row.source
            ),
        )
    }
}

/// Where a backbone is.
enum Place {
    Directory(PathBuf),
    Snapshot(Found),
}

fn is_model(directory: &Path) -> bool {
    directory.join("config.json").is_file() || directory.join("modules.json").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn put(directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::write(directory.join(name), "{}").unwrap();
        }
    }

    fn offline(cache: PathBuf) -> Option<HubConfig> {
        Some(HubConfig {
            offline: true,
            ..HubConfig::new(cache)
        })
    }

    #[test]
    fn the_first_place_that_has_the_model_wins() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let row = find("sbert-base-en").unwrap();
        let locations = Locations {
            by_name: vec![root.join("models"), root.join("cache")],
            hub: offline(root.join("hub")),
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
        let snapshot = repository.join("snapshots").join(COMMIT);
        put(&snapshot);
        assert!(locations.resolve(row).is_err());
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), format!("{COMMIT}\n")).unwrap();
        assert_eq!(locations.resolve(row).unwrap(), snapshot);
        assert_eq!(locations.fetch(row).unwrap(), snapshot);

        std::fs::remove_file(snapshot.join("model.safetensors")).unwrap();
        let error = locations.fetch(row).unwrap_err().to_string();
        let lacks = format!("{COMMIT} lacks model.safetensors");
        assert!(error.contains(&lacks), "{error}");
        assert!(error.contains("HF_HUB_OFFLINE"), "{error}");

        for place in ["cache/sbert-base-en", "models/sbert-base-en"] {
            put(&root.join(place));
            assert_eq!(locations.resolve(row).unwrap(), root.join(place));
        }
    }

    #[test]
    fn a_cache_under_the_former_name_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("models--bert-base-cased");
        let snapshot = repository.join("snapshots").join(COMMIT);
        put(&snapshot);
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), COMMIT).unwrap();
        let locations = Locations {
            by_name: Vec::new(),
            hub: offline(dir.path().into()),
        };
        let found = locations.resolve(find("bert-base-en").unwrap()).unwrap();
        assert_eq!(found, snapshot);
    }

    #[test]
    fn no_place_at_all_is_said() {
        let error = Locations::default().resolve(find("bert-base-en").unwrap());
        assert!(error.unwrap_err().to_string().contains("FIN_MODELS"));
    }
}
