//! Weight files: the formats that are read, to the last bit, and the damaged and hostile ones
//! that are refused. Files and expectations come from `fixtures/text/generate.py`.

use std::path::{Path, PathBuf};

use burn::module::{Initializer, Module, Param};
use burn::tensor::{AllocationProperty, Device, Tensor};
use fin_core::nn::EmbeddingConfig;
use fin_core::weights::{self, Checkpoint, Names};
use fin_core::{DeviceSpec, Error};
use serde_json::Value;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text/bad")
}

fn expected() -> Value {
    let text = std::fs::read_to_string(directory().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn every_format_is_read_to_the_bit() {
    let expected = expected();
    let files = expected["accept"].as_object().unwrap();
    assert!(files.len() >= 8);
    for (file, tensors) in files {
        let checkpoint = Checkpoint::open(directory().join(file)).unwrap_or_else(|e| panic!("{e}"));
        for (name, tensor) in tensors.as_object().unwrap() {
            let entry = checkpoint
                .get(name)
                .unwrap_or_else(|| panic!("{file}: no {name}"));
            let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).unwrap();
            assert_eq!(entry.shape(), shape, "{file}: {name}");
            if !tensor["dtype"].as_str().unwrap().contains("float") {
                continue;
            }
            let found = checkpoint.read_f32(name).unwrap();
            let values: Vec<Option<f64>> =
                serde_json::from_value(tensor["values"].clone()).unwrap();
            for (i, (found, value)) in found.iter().zip(&values).enumerate() {
                if let Some(value) = value {
                    assert_eq!(
                        found.to_bits(),
                        (*value as f32).to_bits(),
                        "{file}: {name}[{i}]"
                    );
                }
            }
        }
    }
}

#[test]
fn damaged_and_hostile_files_are_refused_by_name() {
    let expected = expected();
    for (file, why) in expected["refuse"].as_object().unwrap() {
        let path = directory().join(file);
        // Some are damaged in a storage, which is read with its tensor.
        let outcome = Checkpoint::open(&path).and_then(|checkpoint| checkpoint.check_finite());
        let error = outcome
            .expect_err(&format!("{file} ({why}) was read"))
            .to_string();
        assert!(error.contains(file.as_str()), "{file}: {error}");
    }
    assert!(!Path::new("/tmp/fin-pwned").exists(), "a pickle ran code");
}

#[test]
fn a_pickle_that_asks_to_run_code_is_called_what_it_is() {
    for file in ["evil.bin", "evil_zip.bin"] {
        let error = Checkpoint::open(directory().join(file)).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("system") && message.contains("refused"),
            "{message}"
        );
        assert!(matches!(error, Error::UnsafePickle { .. }), "{message}");
    }
}

#[test]
fn a_claim_of_a_huge_storage_allocates_nothing() {
    let path = directory().join("oversized_storage_zip.bin");
    // Refusing the file and reading what is there are both right; what must not happen is an
    // allocation of the terabytes it claims, which would abort this process.
    if let Ok(checkpoint) = Checkpoint::open(&path) {
        for (name, _) in checkpoint.iter() {
            let _ = checkpoint.read_f32(name);
        }
    }
}

#[test]
fn non_finite_values_are_found_on_request() {
    let checkpoint = Checkpoint::open(directory().join("nan.safetensors")).unwrap();
    let error = checkpoint.check_finite().unwrap_err();
    assert!(
        matches!(error, Error::NotFinite { count, .. } if count >= 1),
        "{error}"
    );
}

#[test]
fn a_missing_file_and_a_directory_without_weights_are_named() {
    let error = Checkpoint::open("/nonexistent-fin/model.safetensors")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/nonexistent-fin/model.safetensors"),
        "{error}"
    );
    let empty = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(empty.path()).unwrap_err().to_string();
    assert!(
        error.contains("model.safetensors.index.json, pytorch_model.bin"),
        "{error}"
    );
}

#[test]
fn an_index_may_name_files_of_its_own_directory_alone() {
    let directory = tempfile::tempdir().unwrap();
    let index = directory.path().join("model.safetensors.index.json");
    for file in [
        "../secret.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "model.safetensors.index.json",
    ] {
        std::fs::write(&index, format!("{{\"weight_map\": {{\"w\": {file:?}}}}}")).unwrap();
        let error = Checkpoint::open(&index).unwrap_err().to_string();
        assert!(error.contains("not a plain file name"), "{error}");
    }
}

#[derive(Module, Debug)]
struct Pair {
    first: Param<Tensor<2>>,
    layer_norm: Param<Tensor<1>>,
}

fn pair() -> Pair {
    let device = DeviceSpec::Flex.open().unwrap();
    Pair {
        first: Initializer::Zeros.init([2, 3], &device),
        layer_norm: Initializer::Zeros.init([3], &device),
    }
}

#[test]
fn loading_accounts_for_every_tensor_and_saving_returns_it() {
    let device = DeviceSpec::Flex.open().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let first: Vec<f32> = (0..6).map(|i| i as f32 / 7.0).collect();
    let tensor = |name: &str, shape: &[usize], values: &[f32]| {
        (name.to_string(), shape.to_vec(), values.to_vec())
    };
    let tensors = [
        tensor("bert.first", &[2, 3], &first),
        tensor("bert.LayerNorm", &[3], &[1.0, 2.0, 3.0]),
        tensor("cls.bias", &[1], &[0.0]),
        tensor("surprise", &[1], &[0.0]),
    ];
    weights::save(&path, &tensors).unwrap();
    let mut names = Names::with_renames([("layer_norm", "LayerNorm")]);
    names.prefix = "bert.".into();
    names.ignored = vec!["cls.*".into()];
    let (module, report) =
        weights::load(pair(), &Checkpoint::open(&path).unwrap(), &names, &device).unwrap();
    assert_eq!(report.used, ["bert.first", "bert.LayerNorm"]);
    assert_eq!(report.ignored, ["cls.bias"]);
    assert_eq!(report.unused, ["surprise"]);
    assert_eq!(weights::state_dict(&module, &names)[..], tensors[..2]);

    // Missing and misshapen tensors are errors that say what was asked for.
    weights::save(&path, &tensors[1..]).unwrap();
    let error =
        weights::load(pair(), &Checkpoint::open(&path).unwrap(), &names, &device).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("1 tensor(s) missing: `bert.first`"),
        "{error}"
    );
    weights::save(
        &path,
        &[tensor("bert.first", &[3, 2], &first), tensors[1].clone()],
    )
    .unwrap();
    let error =
        weights::load(pair(), &Checkpoint::open(&path).unwrap(), &names, &device).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`bert.first` has shape [3, 2], the configuration asks for [2, 3]"),
        "{error}"
    );
}

/// The table of a file.
fn table(path: &Path, device: &Device) -> Tensor<2> {
    let table = EmbeddingConfig::new(5, 4).init(device);
    let checkpoint = Checkpoint::open(path).unwrap();
    let (table, _) = weights::load(table, &checkpoint, &Names::default(), device).unwrap();
    table.weight.into_value()
}

#[test]
#[cfg(all(unix, target_endian = "little"))]
fn a_table_stays_in_its_file_until_it_is_written_to() {
    let device = DeviceSpec::Flex.open().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let values: Vec<f32> = (0..20).map(|i| i as f32 / 7.0).collect();
    let save = |values: &[f32]| {
        let tensor = ("weight".to_string(), vec![5, 4], values.to_vec());
        weights::save(&path, &[tensor]).unwrap();
    };
    save(&values);
    let property = |table: Tensor<2>| table.into_data().into_parts().0.property();
    assert_eq!(property(table(&path, &device)), AllocationProperty::File);
    // For training it is copied at once.
    let trained = table(&path, &device.clone().autodiff());
    assert_ne!(property(trained.inner()), AllocationProperty::File);

    let held = table(&path, &device);
    let doubled = held.clone() * 2.0;
    let written = table(&path, &device).slice_fill([0..1, 0..4], 9.0);
    // A file in the place of this one changes nothing, nor does its end.
    save(&[0.5; 20]);
    let read = |table: Tensor<2>| table.into_data().try_into_vec::<f32>().unwrap();
    assert_eq!(read(table(&path, &device)), [0.5; 20]);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(read(held), values);
    assert_eq!(read(written)[..5], [9.0, 9.0, 9.0, 9.0, values[4]]);
    let expected: Vec<f32> = values.iter().map(|x| x * 2.0).collect();
    assert_eq!(read(doubled), expected);
}
