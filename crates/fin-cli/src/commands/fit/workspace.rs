//! The directories of a run: where the model goes, and its checkpoints until then.

use std::path::{Path, PathBuf};

use fin_core::atomic::{self, AtomicDir};
use fin_core::{Error, Result};
use fin_train::checkpoint;
use serde_json::{Map, Value, json};

use super::settings::Settings;
use crate::report::check_replaceable;

/// Name of the file in the directory of checkpoints that says which model they are of.
const MODEL: &str = "model.json";

/// Name of the directory of the best network beside the checkpoints.
const BEST: &str = "best";

/// Where a run writes.
#[derive(Debug)]
pub struct Workspace {
    output: PathBuf,
    checkpoints: PathBuf,
    /// The settings that checkpoints do not record themselves.
    model: Map<String, Value>,
}

impl Workspace {
    /// Checks that the output may be written, before anything takes time.
    pub fn new(output: &Path, overwrite: bool, settings: &Settings) -> Result<Self> {
        let Some(name) = output.file_name() else {
            let reason = format!("`{}` has no name of its own", output.display());
            return Err(Error::argument("output", reason));
        };
        check_replaceable(output, overwrite, "--output")?;
        drop(AtomicDir::create(output)?);
        let mut checkpoints = name.to_owned();
        checkpoints.push(".checkpoint");
        Ok(Self {
            output: output.to_path_buf(),
            checkpoints: output.with_file_name(checkpoints),
            model: identity(settings),
        })
    }

    /// The directory for the model.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// The directory for checkpoints.
    pub fn checkpoints(&self) -> &Path {
        &self.checkpoints
    }

    /// The directory for the best network.
    pub fn best(&self) -> PathBuf {
        self.checkpoints.join(BEST)
    }

    /// The newest checkpoint, to go on from.
    pub fn newest(&self) -> Result<Option<PathBuf>> {
        let Some(newest) = checkpoint::latest(&self.checkpoints)? else {
            return Ok(None);
        };
        let path = self.checkpoints.join(MODEL);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let saved: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|e| Error::invalid(&path, format!("is not what it should be: {e}")))?;
        for (field, here) in &self.model {
            let there = saved.get(field).unwrap_or(&Value::Null);
            if there != here {
                let reason = format!(
                    "the checkpoint was made with {there}, this run has {here}; resume with the \
                     same settings, or delete {} to start anew",
                    self.checkpoints.display()
                );
                return Err(Error::config(path, field, reason));
            }
        }
        Ok(Some(newest))
    }

    /// Refuses to start anew where an earlier run left checkpoints.
    pub fn expect_no_checkpoints(&self) -> Result<()> {
        match checkpoint::latest(&self.checkpoints)? {
            None => Ok(()),
            Some(_) => Err(Error::invalid(
                &self.checkpoints,
                "holds checkpoints of a run that was cut off; pass --resume to go on from them, \
                 or delete the directory to start anew",
            )),
        }
    }

    /// Makes the directory for checkpoints.
    pub fn begin(&self) -> Result<()> {
        let directory = &self.checkpoints;
        std::fs::create_dir_all(directory).map_err(Error::io(directory, "create"))?;
        let path = directory.join(MODEL);
        let text = serde_json::to_string_pretty(&self.model)
            .map_err(|e| Error::invalid(&path, format!("cannot be written: {e}")))?;
        atomic::write(path, text.as_bytes())
    }

    /// Deletes the directory for checkpoints.
    pub fn end(&self) -> Result<()> {
        let directory = &self.checkpoints;
        if directory.exists() {
            std::fs::remove_dir_all(directory).map_err(Error::io(directory, "remove"))?;
        }
        Ok(())
    }

    /// After a failure: deletes the directory where it holds no checkpoint to go on from.
    /// Returns whether it holds one.
    pub fn keep_what_can_be_resumed(&self) -> bool {
        match checkpoint::latest(&self.checkpoints) {
            Ok(None) => {
                // The failure itself is what is reported.
                let _ = self.end();
                false
            }
            Ok(Some(_)) => true,
            Err(_) => false,
        }
    }
}

/// The settings that make a model what it is before training.
fn identity(settings: &Settings) -> Map<String, Value> {
    let model = settings.model.as_deref().map(|model| {
        // One directory can be written in several ways.
        match std::fs::canonicalize(model) {
            Ok(path) => path.display().to_string(),
            Err(_) => model.to_owned(),
        }
    });
    let fields = [
        ("model", Value::from(model)),
        ("pooling", Value::from(settings.pooling.clone())),
        ("max_length", Value::from(settings.max_length)),
        ("output_dim", Value::from(settings.output_dim)),
        ("normalize", Value::from(settings.normalize)),
        ("prompt", Value::from(settings.prompt.clone())),
        ("freeze", Value::from(settings.freeze)),
        (
            "freeze_pattern",
            Value::from(settings.freeze_pattern.clone()),
        ),
        ("lock", json!(settings.lock)),
        ("points", Value::from(settings.points)),
        ("image_size", Value::from(settings.image_size)),
        ("augment", Value::from(settings.augment)),
    ];
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(output: &Path, overwrite: bool) -> Result<Workspace> {
        Workspace::new(output, overwrite, &Settings::default())
    }

    #[test]
    fn only_models_are_replaced_and_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("tuned");
        workspace(&output, false).unwrap();
        assert!(!output.exists());
        std::fs::create_dir(&output).unwrap();
        workspace(&output, false).unwrap();
        std::fs::write(output.join("notes.txt"), "mine").unwrap();
        let error = workspace(&output, true).unwrap_err().to_string();
        assert!(error.contains("something other than a model"), "{error}");
        std::fs::write(output.join("config.json"), "{}").unwrap();
        let error = workspace(&output, false).unwrap_err().to_string();
        assert!(error.contains("--overwrite"), "{error}");
        workspace(&output, true).unwrap();
        assert!(output.join("notes.txt").exists());
        assert!(workspace(Path::new(".."), true).is_err());
    }

    #[test]
    fn checkpoints_of_another_model_are_not_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("tuned/");
        let first = workspace(&output, false).unwrap();
        assert_eq!(first.checkpoints(), dir.path().join("tuned.checkpoint"));
        assert_eq!(first.newest().unwrap(), None);
        first.begin().unwrap();
        assert!(!first.keep_what_can_be_resumed());
        assert!(!first.checkpoints().exists());

        first.begin().unwrap();
        let step = first.checkpoints().join("step-00000004");
        std::fs::create_dir(&step).unwrap();
        std::fs::write(step.join("state.json"), "{}").unwrap();
        assert!(first.keep_what_can_be_resumed());
        assert_eq!(first.newest().unwrap(), Some(step));
        let error = first.expect_no_checkpoints().unwrap_err().to_string();
        assert!(error.contains("--resume"), "{error}");
        let settings = Settings {
            max_length: Some(16),
            ..Settings::default()
        };
        let other = Workspace::new(&output, false, &settings).unwrap();
        let error = other.newest().unwrap_err().to_string();
        assert!(
            error.contains("max_length") && error.contains("null"),
            "{error}"
        );
    }
}
