//! `fin.json` that asks for what cannot be held.

#[path = "../../fin-core/tests/hostile/counting.rs"]
mod counting;

use fin_cnn::ModelConfig;

const PREPROCESSING: &str = r#"{"resize": {"shorter_side": 8}, "interpolation": "bilinear",
    "crop": [8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}"#;

fn fin_json(architecture: &str, preprocessing: &str, rest: &str) -> String {
    format!(
        r#"{{"family": "cnn", "architecture": {architecture}, "preprocessing": {preprocessing}
             {rest}}}"#
    )
}

fn resnet(fields: &str) -> String {
    let fields = format!(r#"{{"resnet": {{"block": "basic", {fields}}}}}"#);
    fin_json(&fields, PREPROCESSING, "")
}

fn efficientnet(stage: &str) -> String {
    let fields = format!(
        r#"{{"efficientnet": {{"stem_channels": 8, "stages": [{stage}],
             "head_channels": 8, "squeeze_excite": true, "padding": "symmetric"}}}}"#
    );
    fin_json(&fields, PREPROCESSING, "")
}

fn read(text: &str) -> Result<ModelConfig, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fin.json");
    std::fs::write(&path, text).unwrap();
    counting::within_limits(text.len(), || ModelConfig::read(&path)).map_err(|e| e.to_string())
}

#[test]
fn numbers_that_would_be_allocated_are_bounded() {
    read(&resnet(r#""layers": [1], "planes": [8]"#)).unwrap();
    let stage = r#"{"expand": 2, "kernel": 3, "stride": 1, "channels": 8, "layers": 1}"#;
    read(&efficientnet(stage)).unwrap();
    let named = |from: &str, to: &str, rest| {
        fin_json(r#""resnet18""#, &PREPROCESSING.replace(from, to), rest)
    };
    read(&named("8", "9", r#", "projection": 4"#)).unwrap();

    for (text, field) in [
        (
            resnet(r#""layers": [1000000000000], "planes": [8]"#),
            "layers",
        ),
        (
            resnet(r#""layers": [1000, 1000], "planes": [8, 8]"#),
            "layers",
        ),
        (
            resnet(r#""layers": [1], "planes": [18446744073709551615]"#),
            "planes",
        ),
        (
            resnet(r#""layers": [1], "planes": [8], "stem_channels": 99999999"#),
            "stem_channels",
        ),
        (
            efficientnet(&stage.replace("2", "4611686018427387904")),
            "stages.expand",
        ),
        (efficientnet(&stage.replace("3", "65")), "stages.kernel"),
        // The shortcut and what it is added to would differ in size.
        (efficientnet(&stage.replace("3", "4")), "stages.kernel"),
        (
            efficientnet(&stage.replace("\"layers\": 1", "\"layers\": 18446744073709551615")),
            "stages.layers",
        ),
        (efficientnet(&[stage; 2000].join(",")), "stages.layers"),
        (named("8", "8000000000", ""), "preprocessing.resize"),
        (
            named("[8, 8]", "[8, 18446744073709551615]", ""),
            "preprocessing.crop",
        ),
        (
            named("8", "8", r#", "projection": 18446744073709551615"#),
            "projection",
        ),
        (named("0.5, 0.5]", "0.5, 0.0]", ""), "preprocessing.std"),
        (named("0.5, 0.5]", "0.5, 1e999]", ""), "fin.json"),
        (format!("{{\"family\":{}", "[".repeat(100_000)), "fin.json"),
    ] {
        let error = read(&text).unwrap_err();
        assert!(
            error.contains(field) && error.contains("fin.json"),
            "{error}"
        );
    }
}
