//! Models of meshes: init, encode, search, eval, fit, convert.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, Scratch, fin, fixture, names, run};
use fin_core::output::read_npy_f32;
use serde_json::{Value, json};

/// A small PointNet++ in a directory; its weights are as training upstream leaves them.
fn model(scratch: &Scratch) -> PathBuf {
    let directory = scratch.path("small");
    fs::create_dir(&directory).unwrap();
    let reference = fs::read(fixture("pointnet/ssg.json")).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let config = json!({
        "family": "pointnet",
        "architecture": reference["architecture"],
        "points": 256,
    });
    fs::write(directory.join("fin.json"), config.to_string()).unwrap();
    let weights = directory.join("pytorch_model.bin");
    fs::copy(fixture("pointnet/ssg.pth"), weights).unwrap();
    directory
}

/// A box as an OBJ file, its corners on a grid of `parts` to an edge where they bulge.
fn solid(size: [f64; 3], bulge: f64) -> String {
    const PARTS: usize = 4;
    let mut text = String::new();
    let mut count = 0;
    for axis in 0..3 {
        for side in [-1.0, 1.0] {
            for i in 0..PARTS * PARTS {
                let corners = [(0, 0), (1, 0), (1, 1), (0, 1)].map(|(a, b)| {
                    let at = |place: usize| 2.0 * place as f64 / PARTS as f64 - 1.0;
                    let (u, v) = (at(i / PARTS + a), at(i % PARTS + b));
                    let mut place = [0.0; 3];
                    place[axis] = side * (1.0 + bulge * (1.0 - u * u) * (1.0 - v * v));
                    place[(axis + 1) % 3] = u;
                    place[(axis + 2) % 3] = v;
                    place
                });
                for place in corners {
                    let [x, y, z] = [0, 1, 2].map(|k| place[k] * size[k]);
                    text.push_str(&format!("v {x} {y} {z}\n"));
                }
                let faces: Vec<String> = (1..=4).map(|k| (count + k).to_string()).collect();
                text.push_str(&format!("f {}\n", faces.join(" ")));
                count += 4;
            }
        }
    }
    text
}

/// Boxes of many sizes in two kinds: with sides that bulge, and with sides that are hollow.
fn boxes(scratch: &Scratch, name: &str, each: u32) -> PathBuf {
    let root = scratch.path(name);
    for (class, bulge) in [("bulging", 0.35), ("hollow", -0.35)] {
        let directory = root.join(class);
        fs::create_dir_all(&directory).unwrap();
        for i in 0..each {
            let part = |step: u32| 0.5 + f64::from(i * step % 7) / 7.0;
            let text = solid([part(1), part(3), part(5)], bulge);
            fs::write(directory.join(format!("{i:02}.obj")), text).unwrap();
        }
    }
    root
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn encode(model: &Path, input: &Path, output: &Path, more: &[&str]) -> Run {
    let mut command = fin();
    command.args(["encode", text(input), "--output", text(output), "--model"]);
    command.arg(model).args(["--format", "json"]).args(more);
    command.output().unwrap().into()
}

/// The embeddings of what `input` stands for, row by row.
fn embeddings(scratch: &Scratch, model: &Path, input: &Path, more: &[&str]) -> Vec<Vec<f32>> {
    let output = scratch.path("embeddings.npy");
    encode(model, input, &output, more).ok();
    let (values, [_, dim]) = read_npy_f32(&output).unwrap();
    values.chunks(dim).map(<[f32]>::to_vec).collect()
}

/// `‖a − b‖ / ‖b‖`.
fn relative(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let square = |x: f32| x * x;
    let difference: f32 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (difference / b.iter().copied().map(square).sum::<f32>()).sqrt()
}

#[test]
fn a_network_is_made_by_name_and_by_its_seed() {
    let scratch = Scratch::new();
    let make = |name: &str, seed: &str| {
        let output = scratch.out(name);
        let command = ["init", "pointnet-base", "--seed", seed, "--format", "json"];
        let made = run([&command[..], &["--output", text(&output)]].concat()).ok();
        assert_eq!(made.json()["dim"], 512);
        fs::read(output.join("model.safetensors")).unwrap()
    };
    let weights = make("first", "1");
    assert_eq!(weights, make("again", "1"));
    assert_ne!(weights, make("other", "2"));
    let again = ["init", "pointnet-base", "--output"];
    let there = scratch.out("first");
    run([&again[..], &[text(&there)]].concat()).fails_with(&["first", "--overwrite"]);
    run(["init", "resnet-base", "--output", text(&scratch.out("x"))]).fails_with(&[
        "resnet-base",
        "images",
        "published",
    ]);

    // Its conversion by the catalogue's row, from the weights alone, is the same network.
    let converted = scratch.out("converted");
    let mut command = fin();
    command.args(["convert-weights", "pointnet-base", "--format", "json"]);
    command.arg("--from").arg(there.join("model.safetensors"));
    let report: Run = command
        .args(["--to", text(&converted)])
        .output()
        .unwrap()
        .into();
    let mapping = &report.ok().json()["report"]["mappings"][0];
    assert_eq!(mapping["unused"], json!([]));
    let knot = fixture("meshes/knot.ply");
    let found = [&there, &converted]
        .map(|model| embeddings(&scratch, model, &knot, &["--points", "128"]).concat());
    assert_eq!(found[0].len(), 512);
    assert_eq!(found[0], found[1]);
    let manifest = fs::read(converted.join("fin.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["architecture"], "pointnet2_ssg");
    assert_eq!(manifest["licence"], "MIT");
}

#[test]
fn directories_patterns_and_lists_give_the_same_rows_under_their_paths() {
    let scratch = Scratch::new();
    let model = model(&scratch);
    let meshes = boxes(&scratch, "meshes", 3);
    let npy = scratch.out("all.npy");
    let summary = encode(&model, &meshes, &npy, &[]).ok().json();
    assert_eq!((&summary["rows"], &summary["dim"]), (&6.into(), &18.into()));
    assert_eq!(summary["skipped"], json!([]));
    let (values, [_, dim]) = read_npy_f32(&npy).unwrap();
    let paths = fs::read_to_string(scratch.out("all.paths.txt")).unwrap();
    let paths: Vec<&str> = paths.lines().collect();
    let expected: Vec<String> = ["bulging", "hollow"]
        .iter()
        .flat_map(|class| (0..3).map(move |i| format!("{class}/{i:02}.obj")))
        .map(|name| meshes.join(name).display().to_string())
        .collect();
    assert_eq!(paths, expected);

    // Rows of a list are in its order, and its paths relative to it.
    let list = "label,path\na,meshes/hollow/01.obj\nb,meshes/bulging/00.obj\n";
    let list = scratch.write("list.csv", list);
    let jsonl = scratch.out("list.jsonl");
    encode(&model, &list, &jsonl, &["--batch-size", "1"]).ok();
    let lines = fs::read_to_string(&jsonl).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    for (line, row) in lines.iter().zip([4, 0]) {
        assert_eq!(line["path"], expected[row].as_str());
        let found = line["embedding"].as_array().unwrap().iter();
        let found: Vec<f32> = found.map(|value| value.as_f64().unwrap() as f32).collect();
        let error = relative(&found, &values[row * dim..(row + 1) * dim]);
        assert!(error < 1e-5, "{error}");
    }
    let some = embeddings(&scratch, &model, &meshes.join("*/0[12].obj"), &[]);
    assert_eq!(some.len(), 4);
    assert!(relative(&some[0], &values[dim..2 * dim]) < 1e-5);

    // Fewer points are other points, the same ones every time.
    let fewer = embeddings(&scratch, &model, &meshes, &["--points", "64"]);
    assert_eq!(
        fewer,
        embeddings(&scratch, &model, &meshes, &["--points", "64"])
    );
    assert!(relative(&fewer[0], &values[..dim]) > 1e-3);
}

#[test]
fn a_mesh_has_one_embedding_in_every_format() {
    let scratch = Scratch::new();
    let model = model(&scratch);
    let all = fixture("meshes/knot.*");
    let found = embeddings(&scratch, &model, &all, &[]);
    // PLY, STL (each in text and binary), OBJ, OFF, glTF in one file and two.
    assert_eq!(found.len(), 9);
    for other in &found[1..] {
        let error = relative(other, &found[0]);
        assert!(error < 1e-5, "{error}");
    }
}

#[test]
fn translation_and_scale_change_nothing_and_shape_does() {
    let scratch = Scratch::new();
    let model = model(&scratch);
    let knot = fs::read_to_string(fixture("meshes/knot.obj")).unwrap();
    let moved = |name: &str, scale: [f64; 3], offset: [f64; 3]| {
        let lines = knot.lines().map(|line| match line.strip_prefix("v ") {
            Some(place) => {
                let place: Vec<f64> = place
                    .split_whitespace()
                    .map(|x| x.parse().unwrap())
                    .collect();
                let [x, y, z] = [0, 1, 2].map(|k| place[k] * scale[k] + offset[k]);
                format!("v {x} {y} {z}\n")
            }
            None => format!("{line}\n"),
        });
        scratch.write(name, lines.collect::<String>());
        embeddings(&scratch, &model, &scratch.path(name), &[]).concat()
    };
    let origin = moved("a.obj", [1.0; 3], [0.0; 3]);
    for (scale, offset) in [
        (1.0, [10.0, -3.0, 7.0]),
        (2.5, [0.0; 3]),
        (0.013, [0.0; 3]),
        (40.0, [-100.0, 30.0, 0.5]),
        // Of maps: in single precision these coordinates alone would lose the shape.
        (3.0, [447_000.0, 5_411_000.0, 120.0]),
    ] {
        let error = relative(&moved("b.obj", [scale; 3], offset), &origin);
        assert!(error < 1e-4, "{scale}, {offset:?}: {error}");
    }
    assert!(relative(&moved("c.obj", [1.0, 1.0, 2.0], [0.0; 3]), &origin) > 1e-2);
}

#[test]
fn every_kind_of_bad_mesh_is_named_and_left_out_or_ends_the_run() {
    let scratch = Scratch::new();
    let model = model(&scratch);
    let meshes = boxes(&scratch, "meshes", 1);
    let bad: [(&str, &[u8], &str); 8] = [
        ("area.obj", b"v 0 0 0\nv 1 0 0\nf 1 2 1\n", "area"),
        ("cut.stl", &[0; 90], "cut.stl"),
        ("empty.ply", b"", "empty.ply"),
        ("index.off", b"OFF\n1 1 0\n0 0 0\n3 0 1 2\n", "index.off"),
        ("nan.xyz", b"nan nan nan\n", "NaN"),
        ("noise.glb", b"glTF\x02\0\0\0\xff\xff\xff\xff", "noise.glb"),
        (
            "other.obj",
            b"ply\nformat ascii 1.0\nend_header\n",
            "content is PLY",
        ),
        ("shape.npy", b"\x93NUMPY\x01\0\x02\0{}", "shape.npy"),
    ];
    for (name, content, _) in &bad {
        fs::write(meshes.join(name), content).unwrap();
    }
    fs::create_dir(meshes.join("directory.ply")).unwrap();
    let output = scratch.out("all.jsonl");
    let run = encode(&model, &meshes, &output, &["--on-error", "skip"]).ok();
    let summary = run.json();
    assert_eq!(summary["rows"], 2);
    let skipped = summary["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), bad.len());
    for ((name, ..), found) in bad.iter().zip(skipped) {
        assert!(found.as_str().unwrap().ends_with(name), "{found}");
        let line = run.stderr.lines().find(|line| line.contains(name));
        assert!(line.unwrap().starts_with("skipped: "), "{line:?}");
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    fs::remove_file(&output).unwrap();
    for (name, _, reason) in &bad {
        let path = meshes.join(name);
        encode(&model, &path, &output, &[]).fails_with(&[name, reason]);
        encode(&model, &path, &output, &["--on-error", "skip"]).fails_with(&["none of 1 mesh"]);
    }
    encode(&model, &meshes, &output, &["--on-error", "fail"]).fails_with(&[bad[0].0]);
    scratch.out_is_empty();
}

#[test]
fn what_cannot_be_done_is_said_and_leaves_nothing() {
    let scratch = Scratch::new();
    let model = model(&scratch);
    let meshes = boxes(&scratch, "meshes", 2);
    let output = scratch.out("x.npy");
    let one = meshes.join("hollow/00.obj");
    encode(&model, &scratch.path("out"), &output, &[]).fails_with(&["no meshes"]);
    encode(&model, &meshes.join("*.ply"), &output, &[]).fails_with(&["matches no file"]);
    encode(&model, &meshes.join("no.ply"), &output, &[]).fails_with(&["no.ply"]);
    let list = scratch.write("list.txt", "meshes/hollow/00.obj\nmeshes/none.obj\n");
    encode(&model, &list, &output, &[]).fails_with(&["meshes/none.obj"]);
    for (option, value) in [
        ("--image-size", "64"),
        ("--max-length", "8"),
        ("--max-pixels", "100"),
        ("--prompt", "query"),
    ] {
        let name = option.trim_start_matches('-');
        encode(&model, &one, &output, &[option, value]).fails_with(&[name, "meshes", "leave it"]);
    }
    let most = ["--points", "1000000000"];
    encode(&model, &one, &output, &most).fails_with(&["points", "1000000000", "accepted"]);
    encode(&model, &one, &output, &["--pooling", "cls"]).fails_with(&["pooling", "embedding"]);
    encode(&model, &one, &output, &["--modality", "image"]).fails_with(&["modality"]);
    let none = encode(&model, &one, &output, &["--points", "0"]);
    assert_eq!(none.code, Some(2), "{}", none.stderr);
    assert!(none.stderr.contains("--points"), "{}", none.stderr);

    // A model of images does not know points.
    let images = fixture("images/efficientnet");
    let image = fixture("images/files/bits1.png");
    encode(&images, &image, &output, &["--points", "64"]).fails_with(&["points", "images"]);
    scratch.out_is_empty();

    let tuned = scratch.out("tuned");
    let broken = scratch.write("meshes/hollow/99.off", "OFF\n1 1 0\n0 0 0\n3 0 1 2\n");
    fit(&model, &meshes, &tuned, &[]).fails_with(&["hollow/99.off"]);
    fs::remove_file(broken).unwrap();
    let augmented = ["--freeze", "--output-dim", "4", "--augment"];
    fit(&model, &meshes, &tuned, &augmented).fails_with(&["augmentation"]);
    fit(&model, &meshes, &tuned, &["--freeze"]).fails_with(&["freeze", "output-dim"]);
    fit(&model, &meshes, &tuned, &["--max-length", "3"]).fails_with(&["max-length"]);
    scratch.out_is_empty();
}

#[test]
fn a_mesh_finds_itself_and_those_like_it() {
    let scratch = Scratch::new();
    let model = model(&scratch);
    let meshes = boxes(&scratch, "meshes", 4);
    let query = meshes.join("hollow/02.obj");
    let found = run([
        "search",
        "--model",
        text(&model),
        "--corpus",
        text(&meshes),
        "--query",
        text(&query),
        "-k",
        "3",
        "--format",
        "json",
    ])
    .ok()
    .json();
    assert_eq!(found[0]["query"], text(&query));
    let hits = found[0]["results"].as_array().unwrap();
    assert_eq!(hits.len(), 3);
    assert_eq!(hits[0]["path"], text(&query));
    assert!((hits[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
}

fn fit(model: &Path, train: &Path, output: &Path, more: &[&str]) -> Run {
    let mut command = fin();
    command.args(["fit", "--train", text(train), "--output", text(output)]);
    command.arg("--model").arg(model);
    command.args(["--format", "json", "--loss", "triplet_margin"]);
    command.args(["--loss-option", "miner=batch_hard"]);
    command.args(["--batch-size", "8", "--learning-rate", "3e-3"]);
    command.args(more).output().unwrap().into()
}

#[test]
fn classes_are_learned_measured_and_shown() {
    let scratch = Scratch::new();
    let model = model(&scratch);
    let train = boxes(&scratch, "train", 12);
    let test = boxes(&scratch, "test", 6);
    let output = scratch.out("tuned");
    let more = ["--eval", text(&test), "--epochs", "8", "--k", "1,5"];
    let result = fit(&model, &train, &output, &more).ok().json();
    let map = |metrics: &Value| metrics["map@r"].as_f64().unwrap();
    assert!(map(&result["after"]) > map(&result["before"]), "{result}");
    assert_eq!(result["examples"], 24);

    let report = scratch.out("report.html");
    let mut command = fin();
    command.args(["eval", "--model", text(&output), "--before", text(&model)]);
    command.args(["--data", text(&test), "--task", "retrieval", "--k", "1,5"]);
    command.args(["--format", "json", "--report", text(&report)]);
    let run: Run = command
        .args(["--report-queries", "5"])
        .output()
        .unwrap()
        .into();
    let measured = run.ok().json();
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{measured} {result}");
    near(map(&measured), map(&result["after"]));
    near(map(&measured["before"]["metrics"]), map(&result["before"]));
    assert_eq!(
        (&measured["items"], &measured["classes"]),
        (&12.into(), &2.into())
    );
    let page = fs::read_to_string(report).unwrap();
    assert_eq!(
        page.matches("data:image/").count(),
        5 * 6,
        "a query and five hits, five times"
    );
    for part in ["before", "after", "bulging", "hollow/"] {
        assert!(page.contains(part), "{part}");
    }

    // The same by a list of paths and labels.
    let mut list = "path,label\n".to_owned();
    for class in ["bulging", "hollow"] {
        for i in 0..6 {
            list.push_str(&format!("test/{class}/{i:02}.obj,{class}\n"));
        }
    }
    let list = scratch.write("list.csv", list);
    let mut command = fin();
    command.args(["eval", "--model", text(&output), "--data", text(&list)]);
    command.args(["--task", "labelled", "--k", "1,5", "--format", "json"]);
    let run: Run = command.output().unwrap().into();
    near(map(&run.ok().json()), map(&result["after"]));
}

#[test]
fn augmented_frozen_and_resumed_runs() {
    let scratch = Scratch::new();
    let model = model(&scratch);
    let train = boxes(&scratch, "train", 6);
    let weights = |name: &str, more: &[&str]| {
        let output = scratch.out(name);
        fit(
            &model,
            &train,
            &output,
            &[&["--max-steps", "3"], more].concat(),
        )
        .ok();
        fs::read(output.join("model.safetensors")).unwrap()
    };
    let plain = weights("plain", &[]);
    assert_eq!(plain, weights("again", &[]));
    let augmented = weights("augmented", &["--augment"]);
    assert_ne!(plain, augmented);
    assert_eq!(augmented, weights("augmented-again", &["--augment"]));
    let freeze = ["--freeze", "--output-dim", "4"];
    let frozen = weights("frozen", &freeze);
    let longer = [&freeze[..], &["--epochs", "3", "--max-steps", "5"]].concat();
    let output = scratch.out("longer");
    fit(&model, &train, &output, &longer).ok();
    let kept = fs::read(output.join("model.safetensors")).unwrap();
    assert_eq!(frozen, kept, "the backbone stays as it is");
    let head = |name: &str| fs::read(scratch.out(name).join("projection.safetensors")).unwrap();
    assert_ne!(head("frozen"), head("longer"));
    assert_eq!(
        embeddings(&scratch, &output, &train, &[])[0].len(),
        4,
        "the projection is kept"
    );
}

#[test]
fn a_checkpoint_of_training_upstream_is_converted() {
    let scratch = Scratch::new();
    let source = model(&scratch);
    let convert = |from: &Path, name: &str| {
        let to = scratch.out(name);
        let mut command = fin();
        command.args(["convert-weights", "pointnet-base", "--format", "json"]);
        command.arg("--from").arg(from).arg("--to").arg(&to);
        (Run::from(command.output().unwrap()), to)
    };
    let (report, once) = convert(&source, "once");
    let report = report.ok();
    // The small network is not what its name promises, and that is said.
    let note = "output_dim is 512 in the catalogue and 18";
    assert!(report.stderr.contains(note), "{}", report.stderr);
    let mapping = &report.json()["report"]["mappings"][0];
    assert_eq!(mapping["unused"], json!([]));
    assert_eq!(mapping["missing"], json!([]));
    assert_eq!(names(&once), ["fin.json", "model.safetensors"]);
    let (report, twice) = convert(&once, "twice");
    report.ok();
    let weights = |directory: &Path| fs::read(directory.join("model.safetensors")).unwrap();
    assert_eq!(weights(&once), weights(&twice));
    let knot = fixture("meshes/knot.stl");
    let [before, after] =
        [&source, &twice].map(|model| embeddings(&scratch, model, &knot, &[]).concat());
    assert_eq!(before, after);

    // As the network that the row names these weights are misshapen.
    let (report, to) = convert(&fixture("pointnet/ssg.pth"), "misshapen");
    report.fails_with(&["ssg.pth", "sa1.mlp_convs.0.weight"]);
    assert!(!to.exists());
}
