//! Models and data of the recipes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Request;
use crate::{Outcome, cache, capture, cargo, command, demo, fin};

/// What a recipe runs on.
pub struct Material {
    /// The model to start from.
    pub model: PathBuf,
    pub train: PathBuf,
    /// What is measured, each by itself.
    pub held_out: Vec<PathBuf>,
    /// Arguments of the PyTorch script that say the same.
    pub peer: Vec<OsString>,
}

/// Arguments, some of which are paths.
pub fn arguments(parts: &[&dyn AsRef<std::ffi::OsStr>]) -> Vec<OsString> {
    parts.iter().map(|part| part.as_ref().into()).collect()
}

/// all-MiniLM-L6-v2 and the STS benchmark.
pub fn text(request: &Request) -> Result<Material, String> {
    const FILES: [&str; 2] = ["stsb-en-train.csv", "stsb-en-test.csv"];
    let advice = format!(
        "the STS benchmark is in no package; give a directory with {} and {} (sentence, sentence, \
         score from 0 to 5, no header): cargo xtask recipe text --data DIR",
        FILES[0], FILES[1]
    );
    let data = request.data.as_ref().ok_or_else(|| advice.clone())?;
    let [train, test] = FILES.map(|name| data.join(name));
    for path in [&train, &test] {
        if !path.is_file() {
            return Err(format!("{} is not there; {advice}", path.display()));
        }
    }
    let model = demo::fetch()?;
    Ok(Material {
        peer: arguments(&[&model, &train, &test]),
        model,
        train,
        held_out: vec![test],
    })
}

/// EfficientNet-Lite0 with its ImageNet weights, and photographs by class.
pub fn image(request: &Request) -> Result<Material, String> {
    let data = match &request.data {
        Some(data) => data.clone(),
        None => demo::images::data()?,
    };
    let [train, test] = ["train", "test"].map(|part| data.join(part));
    let (model, weights) = (demo::images::model()?, demo::images::checkpoint()?);
    Ok(Material {
        peer: arguments(&[&"--weights", &weights, &"--train", &train, &"--test", &test]),
        model,
        train,
        held_out: vec![test],
    })
}

/// A small CLIP without training, and emoji with words for them.
pub fn text_image(request: &Request) -> Result<Material, String> {
    let data = match &request.data {
        Some(data) => data.clone(),
        None => cache()?.join("emoji"),
    };
    demo::clip::prepare(&data)?;
    clip(request, &data, vec![data.join("held-out.csv")])
}

/// A model without training of the data's configuration.
pub fn clip(request: &Request, data: &Path, held_out: Vec<PathBuf>) -> Result<Material, String> {
    let (model, train) = (request.work.join("untrained"), data.join("train.csv"));
    init(&data.join("configuration"), &model, &request.seed)?;
    let mut peer = arguments(&[&"--model", &model, &"--train", &train, &"--eval"]);
    peer.extend(held_out.iter().map(OsString::from));
    Ok(Material {
        model,
        train,
        held_out,
        peer,
    })
}

/// A PointNet++ without training, and families of made shapes; PyTorch sees the points that fin takes
/// of them.
pub fn mesh(request: &Request) -> Result<Material, String> {
    let data = match &request.data {
        Some(data) => data.clone(),
        None => request.work.join("shapes"),
    };
    demo::meshes::prepare(&data)?;
    let [train, test] = ["train", "test"].map(|part| data.join(part));
    let model = request.work.join("untrained");
    init(Path::new("pointnet-base"), &model, &request.seed)?;
    let clouds = request.work.join("clouds");
    if request.with_peer {
        let points = request.points.as_deref().ok_or("mesh.toml has no points")?;
        let mut sample = command(example("sample_points")?);
        sample.arg(&data).arg(points).arg(&clouds);
        crate::run(&mut sample)?;
    }
    let [train_clouds, test_clouds] = ["train", "test"].map(|part| clouds.join(part));
    Ok(Material {
        peer: arguments(&[
            &"--model",
            &model,
            &"--train",
            &train_clouds,
            &"--test",
            &test_clouds,
        ]),
        model,
        train,
        held_out: vec![test],
    })
}

fn init(model: &Path, target: &Path, seed: &str) -> Outcome {
    let mut init = fin();
    init.arg("init").arg(model).args(["--seed", seed]);
    crate::run(init.arg("--output").arg(target))
}

/// An example of fin-pointnet from a release build.
fn example(name: &str) -> Result<PathBuf, String> {
    let mut build = cargo();
    build.args(["build", "--release", "--message-format", "json"]);
    // With the program beside it, nothing is built in another form.
    build.args(["--package", "fin-cli", "--package", "fin-pointnet"]);
    let messages = capture(build.args(["--example", name]))?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| format!("cargo built no example {name}"))
}
