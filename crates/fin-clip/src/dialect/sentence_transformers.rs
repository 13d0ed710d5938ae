//! `modules.json` of sentence-transformers, whose first module is a `CLIPModel` with the files of
//! `transformers` in a folder of its own, and whose second, if any, is `Normalize`.

use std::path::{Path, PathBuf};

use fin_core::{Error, Result};
use serde::Deserialize;
use serde_json::json;

use super::{Dialect, Opened, transformers};
use crate::config::ClipConfig;

const MODULES: &str = "modules.json";

/// The folder of the first module where it is written here.
const FOLDER: &str = "0_CLIPModel";

#[derive(Debug, Deserialize)]
struct ModuleJson {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

fn modules(directory: &Path) -> Result<Option<Vec<ModuleJson>>> {
    let path = directory.join(MODULES);
    path.is_file()
        .then(|| fin_core::json::read(&path))
        .transpose()
}

fn class(module: &ModuleJson) -> &str {
    module.kind.rsplit('.').next().unwrap_or_default()
}

/// The folder of a directory's `CLIPModel`, if it has one.
pub(super) fn find(directory: &Path) -> Result<Option<PathBuf>> {
    let modules = modules(directory)?.unwrap_or_default();
    let Some(first) = modules.first().filter(|first| class(first) == "CLIPModel") else {
        return Ok(None);
    };
    let inside = Path::new(&first.path).components().all(|part| {
        matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    });
    if !inside {
        let reason = format!("`{}` is not a folder of the directory", first.path);
        return Err(Error::config(directory.join(MODULES), "path", reason));
    }
    Ok(Some(directory.join(&first.path)))
}

pub(super) fn open(directory: &Path) -> Result<Opened> {
    let path = directory.join(MODULES);
    let Some(folder) = find(directory)? else {
        return Err(Error::invalid(&path, "the first module is no CLIPModel"));
    };
    let rest = modules(directory)?.unwrap_or_default();
    let mut normalize = false;
    for module in rest.iter().skip(1) {
        match class(module) {
            "Normalize" => normalize = true,
            other => {
                let reason =
                    format!("`{other}` after a CLIPModel is not supported; supported: Normalize");
                return Err(Error::config(&path, "type", reason));
            }
        }
    }
    let mut opened = transformers::open(&folder)?;
    opened.dialect = Dialect::SentenceTransformers;
    opened.config.normalize = normalize;
    Ok(opened)
}

/// The files of a directory beside the weights.
pub(super) fn files(
    config: &ClipConfig,
    configuration: Vec<(String, Vec<u8>)>,
    vocabulary: &[(String, Vec<u8>)],
) -> Vec<(String, Vec<u8>)> {
    let mut modules = vec![json!({
        "idx": 0,
        "name": "0",
        "path": FOLDER,
        "type": "sentence_transformers.models.CLIPModel",
    })];
    if config.normalize {
        modules.push(json!({
            "idx": 1,
            "name": "1",
            "path": "1_Normalize",
            "type": "sentence_transformers.models.Normalize",
        }));
    }
    let within = configuration
        .into_iter()
        .chain(vocabulary.iter().cloned())
        .map(|(name, bytes)| (format!("{FOLDER}/{name}"), bytes));
    std::iter::once((MODULES.into(), super::json(&json!(modules))))
        .chain(within)
        .collect()
}
