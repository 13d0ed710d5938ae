//! Models of texts and images: encode, search, eval, classify, init, fit, wise-ft, convert.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Run, Scratch, fin, fixture, names, run};
use fin_core::output::read_npy_f32;
use fin_core::weights::Checkpoint;
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// A small CLIP in the files of `transformers`.
fn model() -> PathBuf {
    fixture("clip/transformers")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The images of the reference, in its order.
fn images() -> Vec<PathBuf> {
    let image = |i| fixture(&format!("clip/images/{i}.png"));
    (0..4).map(image).collect()
}

/// The texts of the reference, in its order.
fn texts(name: &str) -> Vec<String> {
    let json = fs::read(fixture(&format!("clip/{name}.reference.json"))).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    serde_json::from_value(json["texts"].clone()).unwrap()
}

/// A tensor of the reference, row by row.
fn reference(name: &str, tensor: &str) -> Vec<Vec<f32>> {
    let bytes = fs::read(fixture(&format!("clip/{name}.reference.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(tensor).unwrap();
    let values: Vec<f32> = view
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let rows = values.chunks(view.shape()[1]).map(<[f32]>::to_vec);
    rows.collect()
}

/// As `.jsonl`, which has room for any text.
fn lines(texts: &[String]) -> String {
    let line = |text: &String| format!("{}\n", Value::from(text.as_str()));
    texts.iter().map(line).collect()
}

fn encode(model: &Path, input: &Path, output: &Path, more: &[&str]) -> Run {
    let mut command = fin();
    command.args(["encode", text(input), "--output", text(output)]);
    command.args(["--model", text(model), "--format", "json"]);
    command.args(more).output().unwrap().into()
}

fn npy(path: &Path) -> Vec<Vec<f32>> {
    let (values, [_, dim]) = read_npy_f32(path).unwrap();
    values.chunks(dim).map(<[f32]>::to_vec).collect()
}

/// Asserts that rows are those of a reference, to the rounding of single precision.
fn close(found: &[Vec<f32>], expected: &[Vec<f32>]) {
    let largest = expected
        .iter()
        .flatten()
        .fold(0.0f32, |a, b| a.max(b.abs()));
    let error = common::max_difference(found, expected);
    assert!(error <= 1e-5 * largest, "{error} of {largest}");
}

#[test]
fn texts_images_and_both_in_one_column_have_the_embeddings_of_the_reference() {
    let scratch = Scratch::new();
    for name in ["transformers", "open_clip", "open_clip-xlm-roberta"] {
        let model = fixture(&format!("clip/{name}"));
        let input = scratch.write("texts.jsonl", lines(&texts(name)));
        let expected = reference(name, "text.features");
        let output = scratch.out(&format!("{name}-texts.npy"));
        let summary = encode(&model, &input, &output, &["--no-normalize"]).ok();
        let summary = summary.json();
        assert_eq!(
            (&summary["rows"], &summary["paths"]),
            (&4.into(), &Value::Null)
        );
        close(&npy(&output), &expected);

        let of_images = reference(name, "image.features");
        let output = scratch.out(&format!("{name}-images.npy"));
        let directory = fixture("clip/images");
        encode(&model, &directory, &output, &["--no-normalize"]).ok();
        close(&npy(&output), &of_images);

        let mut cells = Vec::new();
        let mut both = Vec::new();
        let rows = texts(name).into_iter().zip(expected);
        for ((text, row), (image, of_image)) in rows.zip(images().iter().zip(of_images)) {
            cells.extend([text, image.display().to_string()]);
            both.extend([row, of_image]);
        }
        let input = scratch.write("both.jsonl", lines(&cells));
        let output = scratch.out(&format!("{name}-both.npy"));
        let more = ["--no-normalize", "--batch-size", "3"];
        encode(&model, &input, &output, &more).ok();
        close(&npy(&output), &both);
    }
}

#[test]
fn every_form_of_output_names_its_items() {
    let scratch = Scratch::new();
    let image = images()[1].display().to_string();
    let input = scratch.write(
        "both.csv",
        format!("id,item\n1,a boat\n2,{image}\n3,\"a, b\"\n"),
    );
    let column = ["--column", "item"];
    let out = |name: &str| scratch.out(name);
    encode(&model(), &input, &out("rows.npy"), &column).ok();
    let rows = npy(&out("rows.npy"));
    encode(&model(), &input, &out("rows.jsonl"), &column).ok();
    let found = fs::read_to_string(out("rows.jsonl")).unwrap();
    let found: Vec<Value> = found
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for ((line, item), row) in found.iter().zip(["a boat", &image, "a, b"]).zip(&rows) {
        assert_eq!(line["item"], item);
        let values: Vec<f32> = serde_json::from_value(line["embedding"].clone()).unwrap();
        assert_eq!(&values, row);
    }
    assert_eq!(found.len(), 3);
    encode(&model(), &input, &out("rows.parquet"), &column).ok();
    let parquet = fs::read(out("rows.parquet")).unwrap();
    assert_eq!(
        (&parquet[..4], &parquet[parquet.len() - 4..]),
        (&b"PAR1"[..], &b"PAR1"[..])
    );
    let holds = |part: &str| {
        let mut windows = parquet.windows(part.len());
        windows.any(|window| window == part.as_bytes())
    };
    for part in ["item", "a boat", image.as_str(), "a, b"] {
        assert!(holds(part), "{part}");
    }
}

#[test]
fn what_cells_are_can_be_said() {
    let scratch = Scratch::new();
    fs::copy(&images()[0], scratch.path("0.png")).unwrap();
    fs::copy(&images()[0], scratch.path("picture")).unwrap();
    let input = scratch.write("items.csv", "item\n0.png\nboat.png\n");
    let out = |name: &str| scratch.out(name);
    // What ends like an image is one, unless told otherwise.
    encode(&model(), &input, &out("no.npy"), &[]).fails_with(&["boat.png"]);
    let as_text = ["--modality", "text"];
    encode(&model(), &input, &out("texts.npy"), &as_text).ok();
    let alone = scratch.write("alone.csv", "item\nboat.png\n");
    encode(&model(), &alone, &out("alone.npy"), &as_text).ok();
    close(&npy(&out("texts.npy"))[1..], &npy(&out("alone.npy")));

    let one = scratch.write("one.csv", "label,path\nx,0.png\n");
    encode(&model(), &one, &out("one.npy"), &["--column", "path"]).ok();
    let as_image = ["--modality", "image"];
    encode(&model(), &one, &out("image.npy"), &as_image).ok();
    assert_eq!(npy(&out("one.npy")), npy(&out("image.npy")));
    // Of a name that says nothing, too.
    let odd = scratch.write("odd.csv", "path\npicture\n");
    encode(&model(), &odd, &out("odd.npy"), &as_image).ok();
    assert_eq!(npy(&out("odd.npy")), npy(&out("image.npy")));

    let kinds = ["--modality", "sound"];
    let refused = encode(&model(), &one, &out("x.npy"), &kinds);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("sound"), "{}", refused.stderr);
    let text_model = fixture("text/bert-tiny");
    encode(&text_model, &one, &out("x.npy"), &as_image).fails_with(&["modality", "one kind"]);
    let image_model = fixture("images/efficientnet");
    encode(&image_model, &one, &out("x.npy"), &as_text).fails_with(&["modality", "one kind"]);
    assert!(!out("x.npy").exists());
}

fn search(corpus: &Path, queries: &[&str]) -> Value {
    let mut args = vec!["search", "--format", "json", "-k", "3", "--corpus"];
    let model = model();
    args.extend([text(corpus), "--model", text(&model)]);
    for query in queries {
        args.extend(["--query", query]);
    }
    run(args).ok().json()
}

#[test]
fn each_kind_finds_each() {
    let scratch = Scratch::new();
    let texts = texts("transformers");
    let logits = reference("transformers", "logits_per_text");
    let best = |scores: &mut dyn Iterator<Item = f32>| {
        let scores: Vec<f32> = scores.collect();
        (0..4)
            .max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
            .unwrap()
    };

    // Images by texts.
    let found = search(&fixture("clip/images"), &[&texts[0], &texts[1]]);
    for (i, row) in logits[..2].iter().enumerate() {
        assert_eq!(found[i]["query"], texts[i].as_str());
        let hits = found[i]["results"].as_array().unwrap();
        assert_eq!(hits.len(), 3);
        assert_eq!(hits[0]["index"], best(&mut row.iter().copied()));
        assert!(hits[0]["item"].as_str().unwrap().ends_with(".png"));
    }

    // Texts by an image.
    let corpus = scratch.write("texts.jsonl", lines(&texts));
    let query = images()[2].clone();
    let found = search(&corpus, &[text(&query)]);
    let hit = &found[0]["results"][0];
    assert_eq!(hit["index"], best(&mut logits.iter().map(|row| row[2])));
    assert_eq!(
        hit["item"],
        texts[hit["index"].as_u64().unwrap() as usize].as_str()
    );

    // Images by an image, and texts by a text.
    let found = search(&fixture("clip/images"), &[text(&query)]);
    let hit = &found[0]["results"][0];
    assert_eq!(hit["item"], text(&query));
    assert!((hit["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    let found = search(&corpus, &[&texts[3]]);
    assert_eq!(found[0]["results"][0]["index"], 3);
}

const COLOURS: [(&str, [u8; 3]); 4] = [
    ("red", [220, 30, 30]),
    ("green", [30, 200, 40]),
    ("blue", [30, 40, 220]),
    ("white", [240, 240, 240]),
];

/// Pictures of stripes with what they show, as rows of `text,image`.
fn captions(scratch: &Scratch, name: &str) -> PathBuf {
    let directory = scratch.path(name);
    fs::create_dir(&directory).unwrap();
    let mut rows = "text,image\n".to_owned();
    for (colour, value) in COLOURS {
        for (way, is_across) in [("across", true), ("down", false)] {
            let image = image::RgbImage::from_fn(36, 36, |x, y| {
                let place = if is_across { y } else { x };
                image::Rgb(if place / 6 % 2 == 0 {
                    value
                } else {
                    [10, 10, 10]
                })
            });
            let file = format!("{colour}-{way}.png");
            image.save(directory.join(&file)).unwrap();
            rows.push_str(&format!("\"{colour} stripes, {way}\",{name}/{file}\n"));
        }
    }
    scratch.write(&format!("{name}.csv"), rows)
}

fn evaluate(model: &Path, data: &Path, more: &[&str]) -> Value {
    let mut args = vec![
        "eval",
        "--task",
        "retrieval",
        "--k",
        "1,3",
        "--format",
        "json",
    ];
    args.extend(["--model", text(model), "--data", text(data)]);
    args.extend(more);
    run(args).ok().json()
}

#[test]
fn rows_are_measured_both_ways_in_either_order_and_shown() {
    let scratch = Scratch::new();
    let rows = captions(&scratch, "captions");
    let first = evaluate(&model(), &rows, &[]);
    assert_eq!((&first["texts"], &first["images"]), (&8.into(), &8.into()));
    let turned = fs::read_to_string(&rows).unwrap();
    let turned: Vec<String> = turned
        .lines()
        .map(|line| {
            let (text, image) = line.rsplit_once(',').unwrap();
            format!("{image},{text}\n")
        })
        .collect();
    assert_eq!(turned[0], "image,text\n");
    let turned = scratch.write("turned.csv", turned.concat());
    let second = evaluate(&model(), &turned, &[]);
    let metrics = |found: &Value| -> Vec<(String, f64)> {
        let found = found.as_object().unwrap().iter();
        let found = found.filter(|(name, _)| name.contains("_to_") || name.contains('@'));
        found
            .map(|(name, value)| (name.clone(), value.as_f64().unwrap()))
            .collect()
    };
    assert_eq!(metrics(&first), metrics(&second));
    for way in ["text", "image"] {
        let of_way = metrics(&first);
        let of_way = of_way.iter().filter(|(name, _)| name.starts_with(way));
        assert!(of_way.count() >= 8, "{first}");
    }

    let report = scratch.out("report.html");
    let before = fixture("clip/transformers-gelu");
    let more = ["--before", text(&before), "--report", text(&report)];
    let shown = evaluate(
        &model(),
        &rows,
        &[&more[..], &["--report-queries", "5"]].concat(),
    );
    assert_eq!(metrics(&shown), metrics(&first));
    assert!(!metrics(&shown["before"]["metrics"]).is_empty());
    let page = fs::read_to_string(&report).unwrap();
    assert_eq!(
        page.matches("data:image/").count(),
        5 * 3,
        "three pictures for each of five texts"
    );
    for part in ["red stripes, across", "before", "after", "blue-down.png"] {
        assert!(page.contains(part), "{part}");
    }

    // A row of two texts among them is pointed out, in training too.
    let odd = fs::read_to_string(&rows).unwrap() + "a boat,captions/boat.avif\n";
    let odd = scratch.write("odd.csv", odd);
    let warning = "1 of 9 rows of";
    let once = model();
    let args = [
        "eval",
        "--task",
        "retrieval",
        "--model",
        text(&once),
        "--data",
    ];
    let noted = run([&args[..], &[text(&odd)]].concat()).ok().stderr;
    assert!(
        noted.contains(warning) && noted.contains("boat.avif"),
        "{noted}"
    );
    let noted = run([&args[..], &[text(&rows)]].concat()).ok().stderr;
    assert!(!noted.contains("warning"), "{noted}");
    let output = scratch.out("odd");
    let noted = fit(&once, &odd, &output, &["--max-steps", "1"]).ok().stderr;
    assert!(
        noted.contains(warning) && noted.contains("boat.avif"),
        "{noted}"
    );

    // Further documents would be of one kind.
    let corpus = scratch.write("corpus.txt", "x\n");
    let mut args = vec!["eval", "--task", "retrieval", "--model"];
    let model = model();
    args.extend([
        text(&model),
        "--data",
        text(&rows),
        "--corpus",
        text(&corpus),
    ]);
    run(args).fails_with(&["corpus", "both ways"]);
}

fn classify(scratch: &Scratch, more: &[&str]) -> Run {
    let model = model();
    let mut args = vec!["classify", "--model", text(&model)];
    args.extend(more);
    let run = run(args);
    scratch.out_is_empty();
    run
}

#[test]
fn labels_have_the_probabilities_of_the_reference() {
    let scratch = Scratch::new();
    let image = images()[1].clone();
    let image = text(&image);
    let texts = texts("transformers");
    // The third text of the reference is empty and no label.
    let labels = [texts[0].as_str(), texts[1].as_str(), texts[3].as_str()];
    let file = scratch.write("labels.jsonl", lines(&labels.map(str::to_owned)));
    let logits = reference("transformers", "logits_per_text");
    let logits = [0, 1, 3].map(|text| f64::from(logits[text][1]));
    let sum: f64 = logits.iter().map(|x| x.exp()).sum();
    let mut args = vec!["--labels-file", text(&file), "--template", "{}"];
    args.push(image);
    let found = classify(&scratch, &[&args[..], &["--format", "json"]].concat()).ok();
    let found = found.json();
    assert_eq!(found[0]["path"], image);
    let found = found[0]["labels"].as_array().unwrap();
    assert_eq!(found.len(), 3);
    for one in found {
        let place = labels
            .iter()
            .position(|label| one["label"] == *label)
            .unwrap();
        let expected = logits[place].exp() / sum;
        let probability = one["probability"].as_f64().unwrap();
        assert!(
            (probability - expected).abs() < 1e-5,
            "{found:?} {logits:?}"
        );
    }

    // As a table, best first, and no more than asked for.
    let table = classify(&scratch, &[&args[..], &["-k", "2"]].concat())
        .ok()
        .stdout;
    let table: Vec<&str> = table.lines().collect();
    assert_eq!((table.len(), table[0]), (3, image));
    for (line, one) in table[1..].iter().zip(found) {
        let label = one["label"].as_str().unwrap();
        let probability = one["probability"].as_f64().unwrap();
        assert_eq!(*line, format!("  {probability:.4}  {label}"));
    }
}

#[test]
fn several_templates_are_one_mean() {
    let scratch = Scratch::new();
    let photos = fixture("clip/images");
    let labels = [
        "--labels",
        "cat, boat,cat",
        text(&photos),
        "--format",
        "json",
    ];
    let both = ["--template", "a {}", "--template", "the {}, {}"];
    let found = classify(&scratch, &[&labels[..], &both].concat())
        .ok()
        .json();
    let cells = ["a cat", "the cat, cat", "a boat", "the boat, boat"].map(str::to_owned);
    let input = scratch.write("prompts.jsonl", lines(&cells));
    let written = tempfile::tempdir().unwrap();
    let unit = |input: &Path, name: &str| {
        let output = written.path().join(name);
        encode(&model(), input, &output, &["--normalize"]).ok();
        npy(&output)
    };
    let (prompts, pictures) = (unit(&input, "texts.npy"), unit(&photos, "images.npy"));
    let dot =
        |a: &[f64], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum() };
    let class = |i: usize| -> Vec<f64> {
        let pair = prompts[2 * i].iter().zip(&prompts[2 * i + 1]);
        let sum: Vec<f64> = pair.map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
        let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        sum.iter().map(|x| x / norm).collect()
    };
    let config: Value =
        serde_json::from_slice(&fs::read(model().join("config.json")).unwrap()).unwrap();
    // The fixture's scale is not that of the configuration; it is in its logits.
    assert!(config["logit_scale_init_value"].is_number());
    let logits = reference("transformers", "logits_per_text");
    let rows = [("text.features", 0), ("image.features", 0)];
    let rows = rows.map(|(name, row)| reference("transformers", name)[row].clone());
    let wide = |row: &[f32]| row.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let length = |row: &[f32]| dot(&wide(row), row).sqrt();
    let cosine = dot(&wide(&rows[0]), &rows[1]) / (length(&rows[0]) * length(&rows[1]));
    let scale = f64::from(logits[0][0]) / cosine;
    assert_eq!(found.as_array().unwrap().len(), 4);
    for (one, picture) in found.as_array().unwrap().iter().zip(&pictures) {
        let [cat, boat] = [0, 1].map(|i| (scale * dot(&class(i), picture)).exp());
        let labels = one["labels"].as_array().unwrap();
        assert_eq!(labels.len(), 2, "a label given twice is one");
        for label in labels {
            let share = if label["label"] == "cat" { cat } else { boat };
            let expected = share / (cat + boat);
            let found = label["probability"].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }
}

#[test]
fn what_cannot_be_classified() {
    let scratch = Scratch::new();
    let image = images()[0].clone();
    let image = text(&image);
    let two = ["--labels", "a,b"];
    let refused = |more: &[&str], parts: &[&str]| {
        classify(&scratch, more).fails_with(parts);
    };
    refused(&["no.png", two[0], two[1]], &["no.png"]);
    refused(
        &[image, "--labels", "a"],
        &["labels", "1 label", "at least 2"],
    );
    refused(
        &[image, "--labels", "a,a,"],
        &["labels", "1 label", "at least 2"],
    );
    let empty = scratch.write("empty.txt", "");
    refused(&[image, "--labels-file", text(&empty)], &["empty.txt"]);
    let blank = scratch.write("blank.txt", "\n\n");
    refused(&[image, "--labels-file", text(&blank)], &["blank.txt"]);
    let none = scratch.path("none.txt");
    refused(&[image, "--labels-file", text(&none)], &["none.txt"]);
    let template = [image, two[0], two[1], "--template", "a photo"];
    refused(&template, &["template", "`a photo`", "{}"]);
    let broken = scratch.write("broken.png", "no image");
    refused(&[text(&broken), two[0], two[1]], &["broken.png"]);
    let usage = classify(&scratch, &[image]);
    assert_eq!(usage.code, Some(2), "{}", usage.stderr);
    let text_model = fixture("text/bert-tiny");
    let args = [
        "classify",
        image,
        "--model",
        text(&text_model),
        two[0],
        two[1],
    ];
    run(args).fails_with(&["model", "does not compare"]);
}

/// A directory with the configuration and tokenizer of the small model, without its weights.
fn without_weights(scratch: &Scratch) -> PathBuf {
    let directory = scratch.path("untrained");
    fs::create_dir(&directory).unwrap();
    for name in names(&model()) {
        if name != "model.safetensors" {
            fs::copy(model().join(&name), directory.join(&name)).unwrap();
        }
    }
    directory
}

#[test]
fn models_are_made_from_a_configuration() {
    let scratch = Scratch::new();
    let directory = without_weights(&scratch);
    let make = |name: &str, seed: &str| {
        let output = scratch.out(name);
        let args = ["init", text(&directory), "--seed", seed, "--format", "json"];
        let made = run([&args[..], &["--output", text(&output)]].concat()).ok();
        assert_eq!(made.json()["dim"], 24);
        fs::read(output.join("model.safetensors")).unwrap()
    };
    let first = make("first", "1");
    assert_eq!(first, make("again", "1"));
    assert_ne!(first, make("other", "2"));
    let weights = fs::read(model().join("model.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&weights).unwrap();
    let made = SafeTensors::deserialize(&first).unwrap();
    let shapes = |file: &SafeTensors<'_>| {
        let mut shapes: Vec<(String, Vec<usize>)> = file
            .tensors()
            .into_iter()
            .filter(|(name, _)| !name.ends_with("position_ids"))
            .map(|(name, view)| (name, view.shape().to_vec()))
            .collect();
        shapes.sort();
        shapes
    };
    assert_eq!(shapes(&made), shapes(&expected));
    let output = scratch.path("rows.npy");
    encode(&scratch.out("first"), &fixture("clip/images"), &output, &[]).ok();

    // Nothing is replaced unasked, and what has weights of its own serves as well.
    let taken = scratch.out("first");
    let taken = ["init", text(&directory), "--output", text(&taken)];
    run(taken).fails_with(&["first", "--overwrite"]);
    run([&taken[..], &["--overwrite"]].concat()).ok();
    fs::remove_file(directory.join("config.json")).unwrap();
    let output = scratch.out("none");
    run(["init", text(&directory), "--output", text(&output)]).fails_with(&["untrained"]);
    assert!(!output.exists());
}

fn fit(model: &Path, train: &Path, output: &Path, more: &[&str]) -> Run {
    let mut command = fin();
    command.args([
        "fit",
        "--loss",
        "clip",
        "--format",
        "json",
        "--batch-size",
        "8",
    ]);
    command.args(["--model", text(model), "--train", text(train)]);
    command.args(["--output", text(output), "--learning-rate", "1e-3"]);
    command.args(more).output().unwrap().into()
}

/// Values of every parameter of a model by name, whatever their type in the file; some upstream
/// files number the positions too.
fn tensors(directory: &Path) -> Vec<(String, Vec<f32>)> {
    let file = Checkpoint::open(directory.join("model.safetensors")).unwrap();
    let names = file.iter().map(|(name, _)| name);
    let names = names.filter(|name| !name.ends_with("position_ids"));
    let mut found: Vec<(String, Vec<f32>)> = names
        .map(|name| (name.to_owned(), file.read_f32(name).unwrap()))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Names of the tensors that are not as they were.
fn moved(before: &Path, after: &Path) -> Vec<String> {
    let (before, after) = (tensors(before), tensors(after));
    assert_eq!(before.len(), after.len());
    let pairs = before.into_iter().zip(after);
    let pairs = pairs.filter_map(|((name, old), (same, new))| {
        assert_eq!(name, same);
        (old != new).then_some(name)
    });
    pairs.collect()
}

#[test]
fn captions_are_learned_and_models_between_are_measured() {
    let scratch = Scratch::new();
    let train = captions(&scratch, "captions");
    let tuned = scratch.out("tuned");
    let more = ["--eval", text(&train), "--k", "1,3", "--epochs", "60"];
    let learned = ["--loss-option", "learn_temperature=true"];
    let run_ = fit(&model(), &train, &tuned, &[&more[..], &learned].concat()).ok();
    let result = run_.json();
    let name = result["after"].as_object().unwrap().keys();
    let recalls: Vec<&String> = name.filter(|name| name.ends_with("recall@3")).collect();
    assert_eq!(recalls.len(), 2, "{result}");
    for name in recalls {
        let [before, after] = ["before", "after"].map(|part| result[part][name].as_f64().unwrap());
        assert!(after > before, "{name}: {before} to {after}");
    }
    let first = result["first_loss"].as_f64().unwrap();
    assert!(result["last_loss"].as_f64().unwrap() < first);
    assert!(moved(&model(), &tuned).contains(&"logit_scale".to_owned()));
    // What is measured in training is what eval measures of the saved model.
    let measured = evaluate(&tuned, &train, &[]);
    for (name, value) in result["after"].as_object().unwrap() {
        let difference = measured[name].as_f64().unwrap() - value.as_f64().unwrap();
        assert!(difference.abs() < 1e-6, "{name}");
    }

    let before = model();
    let between = scratch.out("between");
    let ends = ["--before", text(&before), "--after", text(&tuned)];
    let asked = ["--data", text(&train), "--task", "retrieval", "--k", "1,3"];
    let written = ["--alpha", "0.5", "--output", text(&between)];
    let more = ["--alphas", "0,0.5,1", "--format", "json"];
    let curve = run([&["wise-ft"], &ends[..], &asked, &written, &more].concat()).ok();
    let curve = curve.json();
    let curve = curve["curve"].as_array().unwrap();
    let alphas: Vec<f64> = curve
        .iter()
        .map(|at| at["alpha"].as_f64().unwrap())
        .collect();
    assert_eq!(alphas, [0.0, 0.5, 1.0]);
    let ends_of = [&result["before"], &result["after"]];
    let middle = evaluate(&between, &train, &[]);
    for (at, expected) in [(0, ends_of[0]), (2, ends_of[1])] {
        assert_eq!(&curve[at]["metrics"], expected);
    }
    for (name, value) in curve[1]["metrics"].as_object().unwrap() {
        assert_eq!(&middle[name], value, "{name}");
    }
    let table = run([&["wise-ft"], &ends[..], &asked].concat()).ok().stdout;
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["alpha", "0", "0.25", "0.5", "0.75", "1"]);

    let refused = |more: &[&str], parts: &[&str]| {
        run([&["wise-ft"], more].concat()).fails_with(parts);
    };
    let far = ["--alphas", "0,2"];
    refused(&[&ends[..], &asked, &far].concat(), &["alphas", "2"]);
    let above = scratch.out("above");
    let far = ["--alpha", "1.5", "--output", text(&above)];
    refused(&[&ends[..], &far].concat(), &["alpha: 1.5"]);
    assert!(!above.exists());
    let text_model = fixture("text/bert-tiny");
    let other = ["--before", text(&text_model), "--after", text(&tuned)];
    refused(&[&other[..], &asked].concat(), &["before", "texts"]);
    let gelu = fixture("clip/transformers-gelu");
    let other = ["--before", text(&gelu), "--after", text(&tuned)];
    let none = scratch.out("none");
    let written = ["--alpha", "0.5", "--output", text(&none)];
    refused(&[&other[..], &written].concat(), &["before", "shape"]);
    assert!(!none.exists());
}

#[test]
fn towers_and_parameters_stay_as_they_are_where_asked() {
    let scratch = Scratch::new();
    let train = captions(&scratch, "captions");
    let trained = |name: &str, more: &[&str]| {
        let output = scratch.out(name);
        let steps = ["--max-steps", "2", "--epochs", "2"];
        fit(&model(), &train, &output, &[&steps[..], more].concat()).ok();
        output
    };
    let is_of = |name: &str, tower: &str| name.starts_with(tower);
    let plain = moved(&model(), &trained("plain", &[]));
    for tower in [
        "vision_model.",
        "text_model.",
        "visual_projection.",
        "text_projection.",
    ] {
        assert!(plain.iter().any(|name| is_of(name, tower)), "{tower}");
    }
    let locked = moved(&model(), &trained("image", &["--lock", "image"]));
    assert!(
        locked.iter().all(|name| name.starts_with("text_")),
        "{locked:?}"
    );
    assert!(locked.contains(&"text_projection.weight".to_owned()));
    let locked = moved(&model(), &trained("text", &["--lock", "text"]));
    assert!(
        locked.iter().all(|name| name.starts_with("vis")),
        "{locked:?}"
    );
    assert!(locked.contains(&"visual_projection.weight".to_owned()));
    let pattern = ["--freeze-pattern", "text_model.*,*.bias"];
    let frozen = moved(&model(), &trained("frozen", &pattern));
    let expected = plain
        .iter()
        .filter(|name| !is_of(name, "text_model.") && !name.ends_with(".bias"));
    assert_eq!(
        frozen.iter().collect::<Vec<_>>(),
        expected.collect::<Vec<_>>()
    );

    // The same gradients in parts, so nearly the same weights.
    let whole = tensors(&scratch.out("plain"));
    let parts = tensors(&trained("parts", &["--mini-batch-size", "3"]));
    let start = tensors(&model());
    let (mut way, mut apart) = (0.0f64, 0.0f64);
    for (((name, a), (same, b)), (_, from)) in whole.iter().zip(&parts).zip(&start) {
        assert_eq!(name, same);
        // A key's bias has no gradient but rounding, which Adam makes a step of.
        if name.ends_with("k_proj.bias") {
            continue;
        }
        for ((a, b), from) in a.iter().zip(b).zip(from) {
            way += f64::from(a - from).powi(2);
            apart += f64::from(a - b).powi(2);
        }
    }
    assert!(way > 0.0 && apart < 1e-4 * way, "{apart:e} of {way:e}");

    let output = scratch.out("none");
    let refused = |more: &[&str], parts: &[&str]| {
        fit(&model(), &train, &output, more).fails_with(parts);
        assert!(!output.exists());
    };
    refused(&["--lock", "image,text"], &["lock", "nothing left"]);
    refused(&["--lock", "image", "--augment"], &["locked image tower"]);
    refused(&["--freeze-pattern", "image.*"], &["freeze", "`image.*`"]);
    refused(&["--mini-batch-size", "0"], &["mini"]);
    refused(&["--image-size", "64"], &["image-size", "64"]);
    let usage = fit(&model(), &train, &output, &["--lock", "sound"]);
    assert_eq!(usage.code, Some(2), "{}", usage.stderr);
    assert!(usage.stderr.contains("text, image"), "{}", usage.stderr);
    let text_model = fixture("text/bert-tiny");
    fit(&text_model, &train, &output, &["--lock", "image"])
        .fails_with(&["lock", "means nothing to a model of texts"]);
    let bad = fs::read_to_string(&train).unwrap() + "nothing,captions/none.png\n";
    let bad = scratch.write("bad.csv", bad);
    fit(&model(), &bad, &output, &[]).fails_with(&["captions/none.png"]);
    assert!(!output.exists());
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_weights() {
    let scratch = Scratch::new();
    let train = captions(&scratch, "captions");
    let more = ["--epochs", "12", "--checkpoint-every", "2"];
    let more = [&more[..], &["--loss-option", "learn_temperature=true"]].concat();
    let whole = scratch.out("whole");
    fit(&model(), &train, &whole, &more).ok();
    let cut = scratch.out("cut");
    let mut child = fin()
        .args([
            "fit",
            "--loss",
            "clip",
            "--format",
            "json",
            "--batch-size",
            "8",
        ])
        .args(["--model", text(&model()), "--train", text(&train)])
        .args(["--output", text(&cut), "--learning-rate", "1e-3"])
        .args(&more)
        .spawn()
        .unwrap();
    let checkpoints = scratch.out("cut.checkpoint");
    for _ in 0..6000 {
        let has_one = fs::read_dir(&checkpoints).is_ok_and(|entries| {
            let mut names = entries.flatten().map(|entry| entry.file_name());
            names.any(|name| name.to_string_lossy().starts_with("step-"))
        });
        if has_one || child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // A machine so fast that the run was over has its result all the same.
    if !cut.exists() {
        let resumed = [&more[..], &["--resume"]].concat();
        fit(&model(), &train, &cut, &resumed).ok();
    }
    assert_eq!(moved(&whole, &cut), [""; 0]);
    assert!(!moved(&model(), &whole).is_empty());
}

/// A catalogue with a row for the small model.
fn catalogue(scratch: &Scratch) -> PathBuf {
    scratch.write(
        "mine.toml",
        "[[model]]\n\
         name = \"mine\"\n\
         task = \"text-to-image\"\n\
         output_dim = 24\n\
         architecture = \"transformer\"\n\
         description = \"A small CLIP\"\n\
         source = \"somebody/mine\"\n\
         weights = \"model.safetensors\"\n\
         licence = \"MIT\"\n\
         dialect = \"transformers\"\n\
         pooling = \"cls\"\n\
         normalize = false\n\
         max_length = 20\n\n\
         [model.preprocessing]\n\
         kind = \"text-image\"\n\
         tokens = \"byte-pair\"\n\n\
         [model.preprocessing.image]\n\
         resize = { shorter_side = 32 }\n\
         interpolation = \"bicubic\"\n\
         crop = [32, 32]\n\
         mean = [0.48145466, 0.4578275, 0.40821073]\n\
         std = [0.26862954, 0.26130258, 0.27577711]\n",
    )
}

#[test]
fn checkpoints_are_converted_by_a_row_of_ones_own() {
    let scratch = Scratch::new();
    let rows = catalogue(&scratch);
    let shown = run(["models", "--catalogue", text(&rows), "--format", "json"]).ok();
    assert!(shown.stdout.contains("\"mine\""), "{}", shown.stdout);
    let input = scratch.write("texts.jsonl", lines(&texts("transformers")));
    let expected = scratch.path("expected.npy");
    encode(&model(), &input, &expected, &["--no-normalize"]).ok();
    close(&npy(&expected), &reference("transformers", "text.features"));
    for (dtype, tolerance) in [("f32", 1e-5), ("f16", 2e-3)] {
        let to = scratch.out(dtype);
        let mut command = fin();
        command
            .env("FIN_CATALOGUE", &rows)
            .args(["convert-weights", "mine"]);
        command.arg("--from").arg(model()).arg("--to").arg(&to);
        command.args(["--dtype", dtype, "--format", "json"]);
        command
            .arg("--verify")
            .arg(&expected)
            .arg("--texts")
            .arg(&input);
        let report: Run = command.output().unwrap().into();
        let report = report.ok().json();
        let error = report["verify_relative_error"].as_f64().unwrap();
        assert!(error < tolerance, "{error}");
        let mapping = &report["report"]["mappings"][0];
        assert_eq!(
            (&mapping["missing"], &mapping["unused"]),
            (&json!([]), &json!([]))
        );
        let manifest = fs::read(to.join("fin.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(
            (
                &manifest["family"],
                &manifest["licence"],
                &manifest["source"]
            ),
            (&"clip".into(), &"MIT".into(), &"somebody/mine".into())
        );
        let output = scratch.path(&format!("{dtype}.npy"));
        let converted = encode(&to, &fixture("clip/images"), &output, &["--no-normalize"]);
        converted.ok();
        let (found, expected) = (npy(&output), reference("transformers", "image.features"));
        let largest = expected
            .iter()
            .flatten()
            .fold(0.0f32, |a, b| a.max(b.abs()));
        let apart = common::max_difference(&found, &expected);
        assert!(
            f64::from(apart / largest) < tolerance,
            "{apart} of {largest}"
        );
    }

    // What it gives is wrong: nothing is written.
    let wrong = scratch.path("wrong.npy");
    let turned: Vec<String> = texts("transformers").into_iter().rev().collect();
    let turned = scratch.write("turned.jsonl", lines(&turned));
    encode(&model(), &turned, &wrong, &["--no-normalize"]).ok();
    let to = scratch.out("wrong");
    let mut args = vec!["convert-weights", "mine", "--catalogue", text(&rows)];
    let model = model();
    args.extend(["--from", text(&model), "--to", text(&to)]);
    let checked = ["--verify", text(&wrong), "--texts", text(&input)];
    run([&args[..], &checked].concat()).fails_with(&["wrong.npy", "nothing was written"]);
    assert!(!to.exists());
    let bert = fixture("text/bert-tiny");
    args[5] = text(&bert);
    run(args).fails_with(&["bert-tiny"]);
    assert!(!to.exists());
}

#[test]
fn what_cannot_be_read_leaves_nothing() {
    let scratch = Scratch::new();
    let output = scratch.out("rows.npy");
    let list = scratch.write("list.csv", "item\na boat\nnone.png\n");
    encode(&model(), &list, &output, &[]).fails_with(&["none.png"]);
    scratch.out_is_empty();
    let broken = scratch.write("broken.png", "no image");
    encode(&model(), &broken, &output, &[]).fails_with(&["broken.png"]);
    scratch.out_is_empty();
    let skip = ["--on-error", "skip"];
    encode(&model(), &broken, &output, &skip).fails_with(&["none of 1 item"]);
    scratch.out_is_empty();
    let corpus = fixture("clip/images");
    let model = model();
    let args = ["search", "--model", text(&model), "--corpus", text(&corpus)];
    run([&args[..], &["--query", "none.png"]].concat()).fails_with(&["none.png"]);
    let summary = encode(&model, &list, &output, &skip).ok().json();
    assert_eq!(summary["rows"], 1);
    let skipped = summary["skipped"][0].as_str().unwrap();
    assert!(skipped.ends_with("none.png"), "{skipped}");
}
