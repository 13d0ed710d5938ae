//! From a name or a directory to a model.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use fin_core::{Embedder, EmbeddingNetwork, Error, Result};
use fin_transformer::TextEmbedder;

pub use fin_transformer::TextOptions as ModelOptions;

use crate::catalogue::{ModelRow, find};
use crate::locations::Locations;

/// Opens a model by its name in the catalogue, or from a directory.
///
/// What contains a path separator, or exists as a directory, is a directory. A name is looked for
/// in [`Locations::from_env`], and downloaded where it is in none of these places.
///
/// # Errors
/// [`Error::Argument`] where the name is unknown; those of [`Locations::fetch`] and of
/// [`TextEmbedder::open`].
pub fn build_model(
    name_or_dir: &str,
    options: &ModelOptions,
    device: &Device,
) -> Result<TextEmbedder> {
    build_model_from(&Locations::from_env(), name_or_dir, options, device)
}

/// [`build_model`] with a choice of the places that names are looked for in.
///
/// # Errors
/// As [`build_model`].
pub fn build_model_from(
    locations: &Locations,
    name_or_dir: &str,
    options: &ModelOptions,
    device: &Device,
) -> Result<TextEmbedder> {
    let path = Path::new(name_or_dir);
    if name_or_dir.contains(std::path::is_separator) || path.is_dir() {
        return TextEmbedder::open(path, options, device);
    }
    let row = find(name_or_dir)?;
    let directory = locations.fetch(row)?;
    let model = TextEmbedder::open(&directory, &with_defaults(row, &directory, options), device)?;
    check_width(row, directory, options, model.network().output_dim())?;
    Ok(model)
}

/// A directory without modules has the pooling and normalisation of its row. Its length is in its
/// own configuration.
fn with_defaults(row: &ModelRow, directory: &Path, options: &ModelOptions) -> ModelOptions {
    let mut options = options.clone();
    if !directory.join("modules.json").is_file() {
        options.pooling.get_or_insert_with(|| vec![row.pooling]);
        options.normalize.get_or_insert(row.normalize);
    }
    options
}

/// A directory whose embeddings have another length is not the model of this name.
fn check_width(
    row: &ModelRow,
    directory: PathBuf,
    options: &ModelOptions,
    found: usize,
) -> Result<()> {
    let as_upstream = options.output_dim.is_none() && options.pooling.is_none();
    if as_upstream && found != row.output_dim {
        return Err(Error::invalid(
            directory,
            format!(
                "holds a model whose embeddings have {found} components; those of `{}` have {}. \
                 Replace it by the files of https://huggingface.co/{}, or give its path to use it \
                 as it is",
                row.name, row.output_dim, row.source
            ),
        ));
    }
    Ok(())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use fin_core::Pooling;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fixtures/text")
            .join(name)
    }

    #[test]
    fn a_directory_is_opened_as_it_is() {
        let path = fixture("bert-tiny");
        let device = Device::flex();
        let options = ModelOptions::default();
        let model = build_model(path.to_str().unwrap(), &options, &device).unwrap();
        assert_eq!(model.network().output_dim(), 32);
        assert!(model.network().normalize);
        let error = build_model("./no/such/model", &options, &device)
            .unwrap_err()
            .to_string();
        assert!(error.contains("./no/such/model"), "{error}");
    }

    #[test]
    fn another_model_under_a_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let source = fixture("bert-tiny-plain");
        let target = dir.path().join("bert-base-en");
        std::fs::create_dir(&target).unwrap();
        for entry in std::fs::read_dir(source).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
        }
        let locations = Locations {
            by_name: vec![dir.path().to_path_buf()],
            hub: None,
        };
        let open = |options: &ModelOptions| {
            build_model_from(&locations, "bert-base-en", options, &Device::flex())
        };
        let error = open(&ModelOptions::default()).unwrap_err().to_string();
        assert!(
            error.contains("32 components; those of `bert-base-en` have 768"),
            "{error}"
        );
        let options = ModelOptions {
            output_dim: Some(8),
            ..ModelOptions::default()
        };
        assert_eq!(open(&options).unwrap().network().output_dim(), 8);
    }

    #[test]
    fn a_row_speaks_where_the_directory_is_silent() {
        let row = find("sbert-base-en").unwrap();
        let chosen = ModelOptions {
            pooling: Some(vec![Pooling::Cls]),
            ..ModelOptions::default()
        };
        let options = with_defaults(row, &fixture("bert-tiny-plain"), &chosen);
        assert_eq!(options.pooling, Some(vec![Pooling::Cls]));
        assert_eq!((options.normalize, options.max_length), (Some(false), None));
        assert_eq!(with_defaults(row, &fixture("bert-tiny"), &chosen), chosen);
    }
}
