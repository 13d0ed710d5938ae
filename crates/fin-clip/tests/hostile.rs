//! Model directories of every dialect that are damaged, ask for more than they hold, or lead
//! elsewhere.

#[path = "../../fin-core/tests/hostile/counting.rs"]
mod counting;

use std::io::Write;
use std::path::{Path, PathBuf};

use fin_clip::{ClipConversion, ClipEmbedder, ClipOptions, Dialect, is_clip_directory};
use fin_core::weights::{self, Checkpoint};
use fin_core::{BatchLimits, DeviceSpec};
use serde_json::{Value, json};
use tempfile::TempDir;

const MODELS: [&str; 4] = [
    "transformers",
    "transformers-gelu",
    "open_clip",
    "open_clip-xlm-roberta",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/clip")
}

/// A copy of a model of the fixtures.
fn copy(name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    directory
}

/// The same as sentence-transformers has it.
fn sentence_transformers() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::rename(
        copy("transformers").keep(),
        directory.path().join("0_CLIPModel"),
    )
    .unwrap();
    let modules = json!([
        {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]);
    write(directory.path(), "modules.json", &modules.to_string());
    directory
}

fn write(directory: &Path, file: &str, content: &str) {
    std::fs::write(directory.join(file), content).unwrap();
}

fn json_of(directory: &Path, file: &str) -> Value {
    let text = std::fs::read_to_string(directory.join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Bytes of all files of a directory.
fn size_of(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => size_of(&entry.path()),
            false => entry.metadata().unwrap().len() as usize,
        })
        .sum()
}

/// Opens a directory within the memory that its files may claim.
fn open_with(directory: &Path, options: &ClipOptions) -> Result<ClipEmbedder, String> {
    let device = DeviceSpec::Flex.open().unwrap();
    // The tokens of the device's own threads and tables are made before anything is counted.
    counting::within_limits(size_of(directory), || {
        ClipEmbedder::open(directory, options, &device)
    })
    .map_err(|error| error.to_string())
}

/// What is said of a directory; the conversion, which reads no weight, must not panic either.
fn refusal(directory: &Path, what: &str) -> String {
    let _ = counting::within_limits(size_of(directory), || ClipConversion::plan(directory, None));
    match open_with(directory, &ClipOptions::default()) {
        Ok(_) => panic!("{what}: was opened"),
        Err(error) => error,
    }
}

/// Replaces values of a file by their pointers, one at a time, and checks that the error names the
/// file and the field. `null` takes the field away.
fn refuses(directory: &Path, file: &str, cases: &[(&str, Value, &str)]) {
    let before = json_of(directory, file);
    for (pointer, value, field) in cases {
        let mut changed = before.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = changed
            .pointer_mut(parent)
            .unwrap()
            .as_object_mut()
            .unwrap();
        match value {
            Value::Null => {
                parent
                    .remove(name)
                    .unwrap_or_else(|| panic!("no {pointer}"));
            }
            value => {
                parent.insert(name.into(), value.clone());
            }
        }
        write(directory, file, &changed.to_string());
        let what = format!("{pointer}: {value}");
        let error = refusal(directory, &what);
        let path = directory.join(file);
        assert!(
            error.starts_with(path.to_str().unwrap()) && error.contains(&format!("`{field}`")),
            "{what}: {error}"
        );
    }
    write(directory, file, &before.to_string());
    open_with(directory, &ClipOptions::default()).unwrap();
}

fn huge() -> Value {
    json!(u64::MAX)
}

#[test]
fn every_fixture_opens_within_the_limits() {
    for name in MODELS {
        let directory = copy(name);
        open_with(directory.path(), &ClipOptions::default()).unwrap();
    }
    let directory = sentence_transformers();
    let model = open_with(directory.path(), &ClipOptions::default()).unwrap();
    assert_eq!(model.dialect(), Dialect::SentenceTransformers);
}

#[test]
fn a_configuration_of_transformers_names_the_field_at_fault() {
    let directory = copy("transformers");
    let mut cases = vec![
        (
            "/projection_dim".to_string(),
            json!(0),
            "projection_dim".to_string(),
        ),
        ("/projection_dim".into(), huge(), "projection_dim".into()),
        (
            "/projection_dim".into(),
            json!("24"),
            "projection_dim".into(),
        ),
        ("/text_config".into(), Value::Null, "text_config".into()),
        ("/vision_config".into(), Value::Null, "vision_config".into()),
        ("/text_config".into(), json!("small"), "text_config".into()),
        (
            "/text_config_dict".into(),
            json!([1, 2]),
            "text_config".into(),
        ),
        (
            "/text_config/vocab_size".into(),
            json!(0),
            "text_config.vocab_size".into(),
        ),
        (
            "/text_config/vocab_size".into(),
            huge(),
            "text_config.vocab_size".into(),
        ),
        (
            "/text_config/max_position_embeddings".into(),
            huge(),
            "text_config.max_position_embeddings".into(),
        ),
        (
            "/text_config/eos_token_id".into(),
            huge(),
            "text_config.eos_token_id".into(),
        ),
        (
            "/vision_config/num_channels".into(),
            json!(4),
            "vision_config.num_channels".into(),
        ),
        (
            "/vision_config/image_size".into(),
            huge(),
            "vision_config.image_size".into(),
        ),
        (
            "/vision_config/image_size".into(),
            json!([32, 16]),
            "vision_config.image_size".into(),
        ),
        (
            "/vision_config/image_size".into(),
            json!("32"),
            "vision_config.image_size".into(),
        ),
        (
            "/vision_config/patch_size".into(),
            json!(0),
            "vision_config.patch_size".into(),
        ),
        (
            "/vision_config/patch_size".into(),
            json!(33),
            "vision_config.patch_size".into(),
        ),
    ];
    for tower in ["text_config", "vision_config"] {
        for (field, value) in [
            ("hidden_size", json!(0)),
            ("hidden_size", huge()),
            ("hidden_size", json!(-1)),
            ("hidden_size", json!("wide")),
            ("intermediate_size", json!(99_999_999_999u64)),
            ("num_hidden_layers", json!(0)),
            ("num_hidden_layers", json!(16_777_216)),
            ("num_attention_heads", json!(0)),
            ("num_attention_heads", json!(3)),
            ("hidden_act", json!("swish_of_tomorrow")),
            ("hidden_act", json!(1)),
            ("layer_norm_eps", json!(0.0)),
            ("layer_norm_eps", json!("small")),
            ("attention_dropout", json!(1.0)),
        ] {
            cases.push((
                format!("/{tower}/{field}"),
                value,
                format!("{tower}.{field}"),
            ));
        }
    }
    let cases: Vec<(&str, Value, &str)> = cases
        .iter()
        .map(|(pointer, value, field)| (pointer.as_str(), value.clone(), field.as_str()))
        .collect();
    refuses(directory.path(), "config.json", &cases);

    refuses(
        directory.path(),
        "preprocessor_config.json",
        &[
            ("/size", huge(), "size"),
            ("/size", json!("large"), "size"),
            ("/size", json!({"longest_edge": 32}), "size"),
            ("/crop_size", json!(16), "crop_size"),
            ("/crop_size", huge(), "crop_size"),
            ("/crop_size", json!({"shortest_edge": 32}), "crop_size"),
            ("/do_center_crop", json!(false), "crop_size"),
            ("/do_rescale", json!(false), "do_rescale"),
            ("/do_normalize", json!("yes"), "do_normalize"),
            ("/rescale_factor", json!(1.0), "rescale_factor"),
            ("/resample", json!(7), "resample"),
            ("/image_mean", json!([0.5, 0.5]), "image_mean"),
            ("/image_std", json!([0.5, 0.5, 0.0]), "image_std"),
        ],
    );

    // Asked for by name, what is another model's is not looked at further.
    let options = ClipOptions {
        dialect: Some(Dialect::Transformers),
        ..ClipOptions::default()
    };
    let mut config = json_of(directory.path(), "config.json");
    config["model_type"] = json!("bert");
    write(directory.path(), "config.json", &config.to_string());
    let error = open_with(directory.path(), &options).unwrap_err();
    assert!(
        error.contains("`model_type`") && error.contains("`bert`"),
        "{error}"
    );
    let error = refusal(directory.path(), "bert");
    assert!(error.contains("no CLIP model found"), "{error}");
}

#[test]
fn a_processor_within_another_file() {
    let directory = copy("transformers");
    let preprocessor = json_of(directory.path(), "preprocessor_config.json");
    std::fs::remove_file(directory.path().join("preprocessor_config.json")).unwrap();
    let error = refusal(directory.path(), "no preprocessor");
    assert!(
        error.contains("preprocessor_config.json and processor_config.json"),
        "{error}"
    );
    let processor = json!({"image_processor": preprocessor});
    write(
        directory.path(),
        "processor_config.json",
        &processor.to_string(),
    );
    refuses(
        directory.path(),
        "processor_config.json",
        &[
            ("/image_processor", Value::Null, "image_processor"),
            ("/image_processor", json!([]), "image_processor"),
            (
                "/image_processor/resample",
                json!("best"),
                "image_processor.resample",
            ),
        ],
    );
}

#[test]
fn a_configuration_of_open_clip_names_the_field_at_fault() {
    let directory = copy("open_clip");
    let mut cases = vec![
        (
            "/model_cfg".to_string(),
            Value::Null,
            "model_cfg".to_string(),
        ),
        ("/model_cfg".into(), json!(1), "model_cfg".into()),
        (
            "/preprocess_cfg".into(),
            json!("none"),
            "preprocess_cfg".into(),
        ),
    ];
    for (field, value) in [
        ("embed_dim", Value::Null),
        ("embed_dim", huge()),
        ("embed_dim", json!("24")),
        ("vision_cfg", Value::Null),
        ("text_cfg", Value::Null),
        ("vision_cfg", json!([])),
        ("quick_gelu", json!("yes")),
        ("init_logit_bias", json!(-10.0)),
        ("of_tomorrow", json!(1)),
        ("vision_cfg.head_width", json!(0)),
        ("vision_cfg.head_width", json!(16)),
        ("vision_cfg.layers", json!([3, 4, 6, 3])),
        ("vision_cfg.timm_model_name", json!("resnet50")),
        ("vision_cfg.patch_size", json!(40)),
        ("vision_cfg.patch_size", json!("14")),
        ("vision_cfg.image_size", json!([32, 33])),
        ("vision_cfg.image_size", huge()),
        (
            "vision_cfg.norm_kwargs",
            json!({"elementwise_affine": false}),
        ),
        ("vision_cfg.act_kwargs", json!({"approximate": "tanh"})),
        ("text_cfg.heads", json!(3)),
        ("text_cfg.heads", json!(0)),
        ("text_cfg.vocab_size", json!(0)),
        ("text_cfg.vocab_size", json!(-1)),
        ("text_cfg.context_length", json!(0)),
        ("text_cfg.context_length", huge()),
        ("text_cfg.pool_type", json!("last")),
        ("text_cfg.no_causal_mask", json!(true)),
        ("text_cfg.hf_model_name", json!("roberta-base")),
        ("text_cfg.hf_model_name", json!(["xlm-roberta-base"])),
        ("text_cfg.of_tomorrow", json!(1)),
        ("vision_cfg.width", json!(0)),
        ("text_cfg.width", json!("wide")),
        ("text_cfg.width", huge()),
        ("vision_cfg.layers", json!(0)),
        ("text_cfg.layers", huge()),
        ("vision_cfg.mlp_ratio", json!(-1.0)),
        ("text_cfg.mlp_ratio", json!(1e300)),
        ("text_cfg.mlp_ratio", json!(1e-9)),
    ] {
        let field = format!("model_cfg.{field}");
        cases.push((format!("/{}", field.replace('.', "/")), value, field));
    }
    for (field, value) in [
        ("mode", json!("L")),
        ("size", huge()),
        ("interpolation", json!("nearest")),
        ("resize_mode", json!("longest")),
        ("mean", json!([0.5])),
        ("of_tomorrow", json!(1)),
    ] {
        let field = format!("preprocess_cfg.{field}");
        cases.push((format!("/{}", field.replace('.', "/")), value, field));
    }
    let cases: Vec<(&str, Value, &str)> = cases
        .iter()
        .map(|(pointer, value, field)| (pointer.as_str(), value.clone(), field.as_str()))
        .collect();
    refuses(directory.path(), "open_clip_config.json", &cases);

    let directory = copy("open_clip-xlm-roberta");
    refuses(
        directory.path(),
        "open_clip_config.json",
        &[
            (
                "/model_cfg/text_cfg/hf_pooler_type",
                json!("cls_pooler"),
                "model_cfg.text_cfg.hf_pooler_type",
            ),
            (
                "/model_cfg/text_cfg/hf_proj_type",
                json!("none"),
                "model_cfg.text_cfg.hf_proj_type",
            ),
            (
                "/model_cfg/text_cfg/context_length",
                json!(1_000_000),
                "model_cfg.text_cfg.context_length",
            ),
        ],
    );
    refuses(
        directory.path(),
        "config.json",
        &[
            ("/model_type", json!("bert"), "model_type"),
            ("/num_attention_heads", json!(3), "num_attention_heads"),
            ("/num_hidden_layers", huge(), "num_hidden_layers"),
            ("/hidden_act", json!("swish_of_tomorrow"), "hidden_act"),
        ],
    );
    // Of what is known by its name no other file is read, and its sizes are not the weights'.
    let mut config = json_of(directory.path(), "open_clip_config.json");
    config["model_cfg"]["text_cfg"]["hf_model_name"] = json!("xlm-roberta-base");
    write(
        directory.path(),
        "open_clip_config.json",
        &config.to_string(),
    );
    let error = refusal(directory.path(), "xlm-roberta-base");
    assert!(
        error.contains("text.transformer.embeddings.word_embeddings.weight"),
        "{error}"
    );
}

#[test]
fn json_is_held_to_a_depth_and_a_number_of_values() {
    let many = |count: usize| {
        let fields: Vec<String> = (0..count).map(|i| format!("\"{i:x}\":0")).collect();
        format!("{{{}}}", fields.join(","))
    };
    for (name, file, inside) in [
        (
            "transformers",
            "config.json",
            r#"{"model_type": "clip", "text_config": "#,
        ),
        ("transformers", "preprocessor_config.json", r#"{"size": "#),
        ("open_clip", "open_clip_config.json", r#"{"model_cfg": "#),
        (
            "open_clip",
            "open_clip_config.json",
            r#"{"model_cfg": {"embed_dim": 24, "text_cfg": "#,
        ),
        (
            "open_clip",
            "fin.json",
            r#"{"family": "clip", "provenance": "#,
        ),
    ] {
        let directory = copy(name);
        let closed = "}".repeat(inside.matches('{').count());
        for content in [
            "{\"a\":".repeat(50_000),
            many(1_000_000),
            // As many as are read at all.
            format!("{inside}{}{closed}", many(200_000)),
            format!("{inside}\"{}\"{closed}", "a".repeat(1 << 20)),
            "1e999".to_string(),
            "\u{feff}{}".to_string(),
            String::new(),
        ] {
            write(directory.path(), file, &content);
            let what = format!("{file} with {}", &content[..content.len().min(60)]);
            let opened = counting::within_limits(size_of(directory.path()), || {
                is_clip_directory(directory.path())
            });
            if opened.is_ok() && file == "fin.json" {
                // Provenance may be anything.
                open_with(directory.path(), &ClipOptions::default()).unwrap();
                continue;
            }
            let error = refusal(directory.path(), &what);
            assert!(
                error.contains(file) || error.contains("no CLIP model"),
                "{what}: {error}"
            );
        }
    }
}

#[test]
fn modules_are_inside_of_their_directory() {
    let directory = sentence_transformers();
    let before = json_of(directory.path(), "modules.json");
    for path in [
        "..",
        "../0_CLIPModel",
        "/",
        "/etc",
        "0_CLIPModel/../..",
        "a/../../b",
    ] {
        let mut modules = before.clone();
        modules[0]["path"] = json!(path);
        write(directory.path(), "modules.json", &modules.to_string());
        for error in [
            refusal(directory.path(), path),
            is_clip_directory(directory.path()).unwrap_err().to_string(),
        ] {
            assert!(
                error.contains("modules.json") && error.contains("`path`"),
                "{error}"
            );
            assert!(error.contains(&format!("`{path}`")), "{error}");
        }
    }
    for path in ["1_CLIPModel", "a\u{0}b", "0_CLIPModel/config.json"] {
        let mut modules = before.clone();
        modules[0]["path"] = json!(path);
        write(directory.path(), "modules.json", &modules.to_string());
        refusal(directory.path(), path);
    }
    for (modules, expected) in [
        (json!([]), "no CLIP model found"),
        (json!({}), "modules.json"),
        (json!([{"path": "0_CLIPModel"}]), "missing field `type`"),
        (json!([{"path": 0, "type": "CLIPModel"}]), "modules.json"),
        (
            json!([before[0], {"path": "1", "type": "a.Dense"}]),
            "`Dense` after a CLIPModel",
        ),
    ] {
        write(directory.path(), "modules.json", &modules.to_string());
        let error = refusal(directory.path(), "modules");
        assert!(error.contains(expected), "{error}");
    }
    write(directory.path(), "modules.json", &before.to_string());
    open_with(directory.path(), &ClipOptions::default()).unwrap();
    // Damage further in is named with its folder.
    write(&directory.path().join("0_CLIPModel"), "config.json", "{}");
    let error = refusal(directory.path(), "config.json");
    assert!(error.contains("0_CLIPModel/config.json"), "{error}");
}

#[test]
fn a_manifest_is_held_to_its_words() {
    let directory = copy("open_clip");
    for (content, expected) in [
        (r#"{"family": "clip", "dialect": "pickled"}"#, "pickled"),
        (r#"{"family": "cnn"}"#, "cnn"),
        (r#"{"dialect": "open_clip"}"#, "family"),
        (r#"{"family": "clip", "colour": 1}"#, "colour"),
        (
            r#"{"family": "clip", "dialect": "transformers"}"#,
            "config.json",
        ),
        (
            r#"{"family": "clip", "dialect": "sentence-transformers"}"#,
            "modules.json",
        ),
    ] {
        write(directory.path(), "fin.json", content);
        let error = refusal(directory.path(), content);
        assert!(error.contains(expected), "{content}: {error}");
    }
}

/// Tensors with their shapes and values.
type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// Weight files of the fixtures, and where they are written anew.
fn weight_files(name: &str) -> (&'static str, &'static str) {
    match name {
        "transformers" => ("model.safetensors", "model.safetensors"),
        "transformers-gelu" => ("pytorch_model.bin", "model.safetensors"),
        "open_clip" => ("open_clip_model.safetensors", "open_clip_model.safetensors"),
        _ => ("open_clip_pytorch_model.bin", "open_clip_model.safetensors"),
    }
}

fn with_weights(name: &str, change: &dyn Fn(&mut Tensors)) -> TempDir {
    let directory = copy(name);
    let (from, to) = weight_files(name);
    let source = Checkpoint::open(directory.path().join(from)).unwrap();
    let floats = source
        .iter()
        .filter(|(key, _)| !key.ends_with("position_ids"));
    let mut tensors: Tensors = floats
        .map(|(key, entry)| {
            let values = source.read_f32(key).unwrap();
            (key.to_string(), entry.shape().to_vec(), values)
        })
        .collect();
    change(&mut tensors);
    drop(source);
    std::fs::remove_file(directory.path().join(from)).unwrap();
    weights::save(directory.path().join(to), &tensors).unwrap();
    directory
}

fn find<'a>(tensors: &'a mut Tensors, key: &str) -> &'a mut (String, Vec<usize>, Vec<f32>) {
    let found = tensors.iter_mut().find(|tensor| tensor.0 == key);
    found.unwrap_or_else(|| panic!("no {key}"))
}

/// A few tensors of each model: of either tower, of layers, tables, projections and the scale.
fn some_keys(name: &str) -> Vec<&'static str> {
    let image = match name {
        "transformers" | "transformers-gelu" => vec![
            "vision_model.embeddings.patch_embedding.weight",
            "vision_model.embeddings.class_embedding",
            "vision_model.encoder.layers.1.self_attn.k_proj.weight",
            "visual_projection.weight",
            "text_model.embeddings.token_embedding.weight",
            "text_model.embeddings.position_embedding.weight",
            "text_projection.weight",
        ],
        _ => vec![
            "visual.conv1.weight",
            "visual.class_embedding",
            "visual.transformer.resblocks.1.attn.in_proj_weight",
            "visual.transformer.resblocks.0.attn.in_proj_bias",
            "visual.positional_embedding",
            "visual.proj",
        ],
    };
    let text = match name {
        "open_clip" => vec![
            "token_embedding.weight",
            "positional_embedding",
            "text_projection",
        ],
        "open_clip-xlm-roberta" => vec![
            "text.transformer.embeddings.word_embeddings.weight",
            "text.proj.0.weight",
            "text.proj.2.weight",
        ],
        _ => vec![],
    };
    [image, text, vec!["logit_scale"]].concat()
}

#[test]
fn weights_of_something_else_are_refused_by_name() {
    for name in MODELS {
        let directory = with_weights(name, &|_| {});
        open_with(directory.path(), &ClipOptions::default()).unwrap();
        for key in some_keys(name) {
            let directory = with_weights(name, &|tensors| tensors.retain(|t| t.0 != key));
            let error = refusal(directory.path(), key);
            assert!(
                error.contains("missing") && error.contains(&format!("`{key}`")),
                "{error}"
            );
            assert!(error.contains(weight_files(name).1), "{error}");

            // One row more, and another number of dimensions.
            let taller = |tensors: &mut Tensors| {
                let (_, shape, values) = find(tensors, key);
                match shape.first_mut() {
                    Some(rows) => *rows += 1,
                    None => shape.push(2),
                }
                values.resize(shape.iter().product(), 0.0);
            };
            let flat = |tensors: &mut Tensors| {
                let (_, shape, values) = find(tensors, key);
                *shape = vec![1, 1, values.len()];
            };
            for change in [&taller as &dyn Fn(&mut Tensors), &flat] {
                let directory = with_weights(name, change);
                let error = refusal(directory.path(), key);
                assert!(error.contains(key), "{error}");
                assert!(error.contains(weight_files(name).1), "{error}");
            }

            let spoil = |tensors: &mut Tensors| find(tensors, key).2[0] = f32::NAN;
            let directory = with_weights(name, &spoil);
            let checked = ClipOptions {
                check: true,
                ..ClipOptions::default()
            };
            let error = open_with(directory.path(), &checked).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
        let directory = with_weights(name, &|tensors| tensors.clear());
        refusal(directory.path(), "no tensors");
    }
}

#[test]
fn no_part_of_a_weight_file_is_taken_for_the_whole() {
    for name in MODELS {
        let directory = copy(name);
        let (file, _) = weight_files(name);
        let path = directory.path().join(file);
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = refusal(directory.path(), file);
            assert!(error.contains(file), "{length}: {error}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = refusal(directory.path(), file);
        assert!(
            error.contains("no weights") || error.contains("safetensors"),
            "{error}"
        );
    }
    // Shapes that no memory holds, and a type that is no number of ours.
    for entry in [
        r#"{"dtype":"F32","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,0]}"#,
        r#"{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}"#,
        r#"{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}"#,
        r#"{"dtype":"I64","shape":[24,16],"data_offsets":[0,3072]}"#,
        r#"{"dtype":"X9","shape":[],"data_offsets":[0,0]}"#,
    ] {
        let directory = copy("transformers");
        let header = format!("{{\"text_projection.weight\":{entry}}}");
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + 3072, 0);
        std::fs::write(directory.path().join("model.safetensors"), file).unwrap();
        let error = refusal(directory.path(), entry);
        assert!(error.contains("model.safetensors"), "{entry}: {error}");
    }
}

#[test]
fn a_vocabulary_beyond_the_token_table() {
    // The special tokens are the last of the fixtures' vocabulary; the weights say the size.
    for (name, key) in [
        (
            "transformers",
            "text_model.embeddings.token_embedding.weight",
        ),
        (
            "transformers-gelu",
            "text_model.embeddings.token_embedding.weight",
        ),
        ("open_clip", "token_embedding.weight"),
    ] {
        let directory = with_weights(name, &|tensors| {
            let (_, shape, values) = find(tensors, key);
            shape[0] = 100;
            values.truncate(100 * shape[1]);
        });
        let (file, pointer) = match name {
            "open_clip" => ("open_clip_config.json", "/model_cfg/text_cfg/vocab_size"),
            _ => ("config.json", "/text_config/vocab_size"),
        };
        let mut config = json_of(directory.path(), file);
        *config.pointer_mut(pointer).unwrap() = json!(100);
        write(directory.path(), file, &config.to_string());
        let device = DeviceSpec::Flex.open().unwrap();
        let outcome = open_with(directory.path(), &ClipOptions::default()).and_then(|model| {
            let texts = ["a photo".to_string()];
            let rows = model.encode_text(&texts, &device, BatchLimits::default());
            rows.map_err(|error| error.to_string())
        });
        let error = outcome.unwrap_err();
        assert!(
            error.contains("beyond the model's vocabulary of 100"),
            "{name}: {error}"
        );
    }
}

#[test]
fn damaged_tokenizers_are_named() {
    let refused = |directory: &TempDir, file: &str, content: &[u8]| {
        std::fs::write(directory.path().join(file), content).unwrap();
        let what = String::from_utf8_lossy(&content[..content.len().min(60)]).into_owned();
        let error = refusal(directory.path(), &what);
        assert!(error.contains(file), "{what}: {error}");
        error
    };
    for name in ["transformers", "open_clip-xlm-roberta"] {
        let directory = copy(name);
        let whole = std::fs::read(directory.path().join("tokenizer.json")).unwrap();
        refused(&directory, "tokenizer.json", &whole[..whole.len() / 2]);
        refused(&directory, "tokenizer.json", b"");
        refused(&directory, "tokenizer.json", b"{}");
    }
    let directory = copy("transformers");
    let mut tokenizer = json_of(directory.path(), "tokenizer.json");
    refused(
        &directory,
        "tokenizer.json",
        br#"{"model": {"type": "BPE", "vocab": {}, "merges": []}}"#,
    );
    tokenizer["model"]["merges"][0] = json!(["no", "such"]);
    refused(
        &directory,
        "tokenizer.json",
        tokenizer.to_string().as_bytes(),
    );
    std::fs::remove_file(directory.path().join("tokenizer.json")).unwrap();
    let error = refusal(directory.path(), "no tokenizer");
    assert!(error.contains("no tokenizer found"), "{error}");

    // Without merges every letter is a token: a vocabulary of bytes is one.
    let directory = copy("transformers-gelu");
    write(directory.path(), "merges.txt", "#version: 0.2\n");
    open_with(directory.path(), &ClipOptions::default()).unwrap();
    let error = refused(&directory, "merges.txt", &vec![b'\n'; 16 << 20]);
    assert!(error.contains("line 1 is ``"), "{error}");
    refused(&directory, "merges.txt", b"#version: 0.2\nt h e\n");
    refused(&directory, "merges.txt", b"\xff\xfe");

    let directory = copy("open_clip");
    let file = "bpe_simple_vocab_16e6.txt.gz";
    let packed = |lines: &str, times: usize| {
        let gzip = flate2::Compression::fast();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), gzip);
        packed.write_all(b"\"version\n").unwrap();
        for _ in 0..times {
            packed.write_all(lines.as_bytes()).unwrap();
        }
        packed.finish().unwrap()
    };
    for lines in ["", "a b c\n", "a\n", "\n"] {
        let error = refused(&directory, file, &packed(lines, 1));
        assert!(
            error.contains("no merges") || error.contains("line 2"),
            "{error}"
        );
    }
    // Little that unpacks to much.
    let error = refused(&directory, file, &packed(&"a".repeat(1 << 20), 64));
    assert!(error.contains("line 2 is too long"), "{error}");
    let long = format!("{} {}\n", "a".repeat(120), "b".repeat(120));
    refused(&directory, file, &packed(&long, 60_000));
    let whole = packed("t h\n", 1000);
    refused(&directory, file, &whole[..whole.len() / 2]);
    refused(&directory, file, &[0x1F, 0x8B, 8, 0]);
}
