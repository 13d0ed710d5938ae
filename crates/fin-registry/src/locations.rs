//! Where the files of a backbone are looked for.

use std::env;
use std::path::{Path, PathBuf};

use fin_core::{Error, Result};

use crate::catalogue::{Architecture, ModelRow};
use crate::embedded;
use crate::hub::{
    DEFAULT_ENDPOINT, Found, Hub, HubConfig, HubSource, NotFound, fetch_address, find,
};

/// The places where a backbone's directory may be, in the order in which they are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locations {
    /// Directories that hold a directory `<name>` for each backbone.
    pub by_name: Vec<PathBuf>,
    /// The Hugging Face hub and its cache. Without it, or where it is offline, nothing is
    /// downloaded.
    pub hub: Option<HubConfig>,
    /// Where files are kept whose source is an address: PyTorch's directory for these.
    pub checkpoints: Option<PathBuf>,
}

impl Locations {
    /// The places that the environment names:
    ///
    /// 1. `$FIN_MODELS/<name>`;
    /// 2. `$FIN_CACHE/<name>`, or `$XDG_CACHE_HOME/fin/<name>`, or `~/.cache/fin/<name>`;
    /// 3. the source in the Hugging Face cache, or else on the hub: [`HubConfig::from_env`];
    /// 4. of a source that is an address, the file in PyTorch's `hub/checkpoints`, which is in
    ///    `$TORCH_HOME`, `$XDG_CACHE_HOME/torch` or `~/.cache/torch`, or else at that address.
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
            checkpoints: path("TORCH_HOME")
                .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("torch")))
                .or_else(|| home().map(|home| home.join(".cache/torch")))
                .map(|torch| torch.join("hub/checkpoints")),
        }
    }

    /// The same places without downloads.
    pub fn offline(mut self) -> Self {
        if let Some(hub) = &mut self.hub {
            hub.offline = true;
        }
        self
    }

    /// The directory of a backbone that is on this machine, or its file of weights where the source
    /// is an address; makes no request.
    ///
    /// # Errors
    /// [`Error::Argument`] saying which files to put where, where it is in none of the places.
    pub fn resolve(&self, row: &ModelRow) -> Result<PathBuf> {
        if row.is_embedded() {
            return embedded::directory(row, self.by_name.last().map(PathBuf::as_path));
        }
        match self.look(row) {
            Ok(Place::Whole(path)) => Ok(path),
            Ok(Place::Snapshot(found)) => Ok(found.snapshot),
            Err(not_found) => Err(self.not_on_this_machine(row, &not_found, None)),
        }
    }

    /// The directory of a backbone, or its file of weights where the source is an address;
    /// downloaded where it is not on this machine.
    ///
    /// # Errors
    /// As [`Locations::resolve`] where nothing may be downloaded or the hub cannot be reached;
    /// otherwise as [`Hub::fetch`].
    pub fn fetch(&self, row: &ModelRow) -> Result<PathBuf> {
        let may_download = |hub: &&HubConfig| !hub.offline && !row.is_embedded();
        let Some(config) = self.hub.as_ref().filter(may_download) else {
            return self.resolve(row);
        };
        let hub = Hub::new(config.clone());
        let source = HubSource::from(row);
        let not_found = match self.look(row) {
            Ok(Place::Whole(path)) => return Ok(path),
            Ok(Place::Snapshot(found)) if found.is_known_whole => return Ok(found.snapshot),
            Ok(Place::Snapshot(found)) => return hub.make_whole(&source, found),
            Err(not_found) => not_found,
        };
        if row.is_address() && row.sha256.is_none() {
            // What could not be checked is not downloaded.
            return Err(self.not_on_this_machine(row, &not_found, None));
        }
        let downloaded = match (&self.checkpoints, row.is_address()) {
            (Some(checkpoints), true) => fetch_address(config, row, checkpoints),
            (None, true) => return Err(self.not_on_this_machine(row, &not_found, None)),
            (_, false) => hub.download(&source),
        };
        downloaded.map_err(|failure| {
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
            if is_model(&directory, row) {
                return Ok(Place::Whole(directory));
            }
            looked.push(directory);
        }
        if row.is_address() {
            let file = self.checkpoints.as_ref().map(|dir| dir.join(&row.weights));
            if let Some(file) = &file
                && file.is_file()
            {
                return Ok(Place::Whole(file.clone()));
            }
            looked.extend(file);
            return Err(NotFound {
                looked,
                ..NotFound::default()
            });
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
            _ if row.is_address() && row.sha256.is_none() => {
                "They are not downloaded, since no digest is known to check them by. ".into()
            }
            (Some(_), None) => "Downloads are switched off (--offline or HF_HUB_OFFLINE). ".into(),
            (None, None) => String::new(),
        };
        let endpoint = self
            .hub
            .as_ref()
            .map_or(DEFAULT_ENDPOINT, |hub| hub.endpoint.trim_end_matches('/'));
        if row.architecture == Architecture::Pointnet {
            return Error::argument(
                "model",
                format!(
                    "the weights of `{name}` are not on this machine: {places}. {why}Fetch {} and \
                     run `fin convert-weights {name} --from {} --to {target}`; or make a model \
                     without training, to be fine-tuned, by `fin init {name} --output DIR`, and \
                     give that directory in place of the name",
                    row.source, row.weights
                ),
            );
        }
        if row.architecture == Architecture::Cnn {
            let (file, page) = match row.is_address() {
                true => (row.weights.clone(), row.source.clone()),
                false => {
                    let page = format!("{endpoint}/{}", row.source);
                    (format!("the file {} of", row.weights), page)
                }
            };
            let what = match row.is_address() {
                true => format!("Put the file {page} into {target}, under its name {file}"),
                false => format!("Put {file} {page} into {target}"),
            };
            return Error::argument(
                "model",
                format!(
                    "the weights of `{name}` are not on this machine: {places}. {why}{what}. Or \
                     give a directory with fin.json and weights in place of the name"
                ),
            );
        }
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
    /// A directory with all there is to it, or a file of weights.
    Whole(PathBuf),
    Snapshot(Found),
}

fn is_model(directory: &Path, row: &ModelRow) -> bool {
    let names = match row.architecture {
        Architecture::Cnn => ["fin.json", &row.weights, "model.safetensors"],
        Architecture::Pointnet => ["fin.json", &row.weights, &row.weights],
        Architecture::Transformer => ["config.json", "modules.json", "open_clip_config.json"],
    };
    names.iter().any(|name| directory.join(name).is_file())
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
            checkpoints: None,
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
            checkpoints: None,
        };
        let found = locations.resolve(find("bert-base-en").unwrap()).unwrap();
        assert_eq!(found, snapshot);
    }

    #[test]
    fn weights_of_an_address_are_found_where_pytorch_keeps_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let row = find("resnet-base").unwrap();
        let locations = Locations {
            by_name: vec![root.join("models")],
            hub: offline(root.join("hub")),
            checkpoints: Some(root.join("torch/hub/checkpoints")),
        };
        let error = locations.fetch(row).unwrap_err().to_string();
        for part in [
            "models/resnet-base",
            "torch/hub/checkpoints/resnet50-11ad3fa6.pth",
            "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
            "HF_HUB_OFFLINE",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        let file = root.join("torch/hub/checkpoints/resnet50-11ad3fa6.pth");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "").unwrap();
        assert_eq!(locations.fetch(row).unwrap(), file);
        let directory = root.join("models/resnet-base");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("fin.json"), "{}").unwrap();
        assert_eq!(locations.fetch(row).unwrap(), directory);
    }

    #[test]
    fn no_place_at_all_is_said() {
        let error = Locations::default().resolve(find("bert-base-en").unwrap());
        assert!(error.unwrap_err().to_string().contains("FIN_MODELS"));
    }
}
