//! The rows of the catalogue.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use fin_core::{Error, Pooling, Result};
use serde::{Deserialize, Serialize};

use crate::nearest;

/// What a backbone's embeddings are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Texts with texts.
    TextToText,
    /// Images with images.
    ImageToImage,
    /// Texts with images.
    TextToImage,
    /// 3D meshes with meshes.
    MeshToMesh,
}

impl Task {
    /// Every task.
    pub const ALL: [Self; 4] = [
        Self::TextToText,
        Self::ImageToImage,
        Self::TextToImage,
        Self::MeshToMesh,
    ];

    /// Name, as in `text-to-text`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TextToText => "text-to-text",
            Self::ImageToImage => "image-to-image",
            Self::TextToImage => "text-to-image",
            Self::MeshToMesh => "mesh-to-mesh",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = Error;

    /// # Errors
    /// [`Error::Argument`] listing the names.
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|task| task.name() == text)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                Error::argument(
                    "task",
                    format!("`{text}` is not a task; accepted are {names}"),
                )
            })
    }
}

/// A backbone in the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRow {
    /// What users write.
    pub name: String,
    /// What its embeddings are compared with.
    pub task: Task,
    /// Length of an embedding.
    pub output_dim: usize,
    /// Family of the network: `transformer`, `cnn` or `pointnet`.
    pub architecture: String,
    /// One line.
    pub description: String,
    /// Upstream repository, `organisation/name` on huggingface.co.
    pub source: String,
    /// Its name before it moved, which caches may still have.
    #[serde(default)]
    pub former_source: Option<String>,
    /// Licence of the weights, as an SPDX expression.
    pub licence: String,
    /// Pooling, where the model's directory has no `modules.json`.
    pub pooling: Pooling,
    /// Whether embeddings have unit length, where the model's directory has no `modules.json`.
    pub normalize: bool,
    /// Largest number of tokens upstream; the model's own configuration decides.
    pub max_length: usize,
}

#[derive(Deserialize)]
struct Catalogue {
    model: Vec<ModelRow>,
}

/// The embedded catalogue; a test checks that it can be read.
static CATALOGUE: LazyLock<Vec<ModelRow>> = LazyLock::new(|| {
    let catalogue: Catalogue =
        toml::from_str(include_str!("catalogue.toml")).expect("the embedded catalogue is valid");
    catalogue.model
});

/// The backbones of a task, or all, in the catalogue's order.
pub fn list_models(task: Option<Task>) -> Vec<&'static ModelRow> {
    CATALOGUE
        .iter()
        .filter(|row| task.is_none_or(|task| row.task == task))
        .collect()
}

/// The backbone of this name.
///
/// # Errors
/// [`Error::Argument`] suggesting the nearest names.
pub fn find(name: &str) -> Result<&'static ModelRow> {
    if let Some(row) = CATALOGUE.iter().find(|row| row.name == name) {
        return Ok(row);
    }
    let quote = |names: Vec<&str>| {
        let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        quoted.join(", ")
    };
    let all = || CATALOGUE.iter().map(|row| row.name.as_str());
    let near = nearest(name, all());
    let hint = if near.is_empty() {
        format!("the catalogue has {}", quote(all().collect()))
    } else {
        format!("did you mean {}?", quote(near))
    };
    Err(Error::argument(
        "model",
        format!("`{name}` is neither a directory nor in the catalogue; {hint}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_is_whole_and_every_name_is_found() {
        let rows = list_models(None);
        assert!(!rows.is_empty());
        let names: HashSet<_> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.len(), rows.len());
        for row in rows {
            assert_eq!(find(&row.name).unwrap(), row);
            assert!(row.output_dim > 0 && row.max_length > 2, "{}", row.name);
            assert!(!row.description.is_empty() && !row.licence.is_empty());
            assert_eq!(row.source.split('/').count(), 2, "{}", row.source);
            assert!(
                !row.name.contains(['/', '\\']),
                "a name must not look like a path"
            );
        }
    }

    #[test]
    fn the_filter_is_by_task() {
        assert_eq!(
            list_models(Some(Task::TextToText)),
            list_models(None)
                .into_iter()
                .filter(|row| row.task == Task::TextToText)
                .collect::<Vec<_>>()
        );
        for task in Task::ALL {
            assert_eq!(task.name().parse::<Task>().unwrap(), task);
        }
        let error = "text".parse::<Task>().unwrap_err().to_string();
        assert!(
            error.ends_with("text-to-text, image-to-image, text-to-image, mesh-to-mesh"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_name_suggests_near_ones_or_lists_all() {
        let error = find("bert-base").unwrap_err().to_string();
        assert!(error.contains("did you mean `bert-base-en`"), "{error}");
        let error = find("qqq").unwrap_err().to_string();
        for row in list_models(None) {
            assert!(error.contains(&format!("`{}`", row.name)), "{error}");
        }
    }
}
