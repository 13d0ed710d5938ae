//! Five ways to fine-tune, a configuration of `fin fit` each (`fixtures/recipes`): the data is made
//! ready, the model is measured, trained and measured again, and where that is asked for, PyTorch does
//! the same with the same settings.

mod material;
mod multilingual;
mod peer;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::{Outcome, capture, cargo, fin, option, root};
use material::Material;
use peer::Peer;

/// A kind of data with its configuration.
struct Recipe {
    /// Name of the configuration.
    name: &'static str,
    /// Makes model and data ready.
    prepare: fn(&Request) -> Result<Material, String>,
    /// Arguments of `fin eval`.
    eval: &'static [&'static str],
    /// Metrics that are printed.
    metrics: &'static [&'static str],
    /// The PyTorch script, and what every setting is there.
    peer: Peer,
}

/// What is asked for.
struct Request {
    /// Directory of data that is given.
    data: Option<PathBuf>,
    /// Directory for what is of no further use.
    work: PathBuf,
    seed: String,
    /// Points that are sampled of a mesh.
    points: Option<String>,
    /// Whether PyTorch is to do it too.
    with_peer: bool,
}

const RECIPES: [Recipe; 5] = [
    Recipe {
        name: "text",
        prepare: material::text,
        eval: &["--task", "sts", "--no-header"],
        metrics: &["spearman", "pearson"],
        peer: peer::TEXT,
    },
    Recipe {
        name: "image",
        prepare: material::image,
        eval: &["--task", "retrieval", "--k", "1,10"],
        metrics: &["map@10", "recall@10"],
        peer: peer::IMAGE,
    },
    Recipe {
        name: "text-image",
        prepare: material::text_image,
        eval: &["--task", "retrieval", "--k", "1,10"],
        metrics: &["text-to-image recall@10", "image-to-text recall@10"],
        peer: peer::CLIP,
    },
    Recipe {
        name: "multilingual",
        prepare: multilingual::material,
        eval: &["--task", "retrieval", "--k", "1,10"],
        metrics: &["text-to-image recall@10", "image-to-text recall@10"],
        peer: peer::CLIP,
    },
    Recipe {
        name: "mesh",
        prepare: material::mesh,
        eval: &["--task", "retrieval", "--k", "1,10"],
        metrics: &["map@10", "mrr@10"],
        peer: peer::MESH,
    },
];

const OPTIONS: [&str; 2] = ["--data", "--seed"];

pub fn run(args: &[String]) -> Outcome {
    let names = RECIPES.map(|recipe| recipe.name).join(", ");
    let Some((name, args)) = args.split_first() else {
        return Err(format!("name a recipe: {names}"));
    };
    let recipe = RECIPES
        .iter()
        .find(|recipe| recipe.name == name)
        .ok_or_else(|| format!("no recipe `{name}`; there are {names}"))?;
    let (flags, args): (Vec<String>, Vec<String>) =
        args.iter().cloned().partition(|arg| arg == "--peer");
    let data = option(&args, "--data", &OPTIONS)?
        .map(|data| std::path::absolute(&data).map_err(|e| format!("{data}: {e}")))
        .transpose()?;
    let configuration = root().join(format!("fixtures/recipes/{name}.toml"));
    let settings = settings(&configuration)?;
    let given = |key: &str| settings.get(key).map(ToString::to_string);
    let seed = match option(&args, "--seed", &OPTIONS)? {
        Some(seed) => seed,
        None => given("seed").ok_or_else(|| format!("{}: no seed", configuration.display()))?,
    };
    if !flags.is_empty() {
        peer::check(&recipe.peer, &settings)?;
    }

    let started = Instant::now();
    crate::run(cargo().args(["build", "--release", "--package", "fin-cli"]))?;
    let built = Instant::now();
    let work = std::env::temp_dir().join(format!("fin-recipe-{}", std::process::id()));
    std::fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    let request = Request {
        data,
        work: work.clone(),
        seed,
        points: given("points"),
        with_peer: !flags.is_empty(),
    };
    let outcome = steps(recipe, &request, &configuration, &settings);
    // What the recipe made is small and of no further use.
    let _ = std::fs::remove_dir_all(&work);
    outcome?;
    println!(
        "\nDone in {:.0} seconds, after a build of {:.0}.",
        built.elapsed().as_secs_f64(),
        built.duration_since(started).as_secs_f64()
    );
    Ok(())
}

/// The settings of a configuration.
fn settings(path: &Path) -> Result<toml::Table, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    text.parse().map_err(|e| format!("{}: {e}", path.display()))
}

fn steps(
    recipe: &Recipe,
    request: &Request,
    configuration: &Path,
    settings: &toml::Table,
) -> Outcome {
    let material = (recipe.prepare)(request)?;
    let before = measure(recipe, settings, &material.model, &material.held_out)?;

    println!("== Training on {} ==", material.train.display());
    let tuned = request.work.join("tuned");
    let mut fit = fin();
    fit.arg("fit").arg("--config").arg(configuration);
    fit.args(["--seed", &request.seed, "--format", "json"]);
    fit.arg("--model").arg(&material.model);
    fit.arg("--train").arg(&material.train);
    let report = capture(fit.arg("--output").arg(&tuned))?;
    let report: Value = serde_json::from_str(&report).map_err(|e| format!("fin fit: {e}"))?;
    let after = measure(recipe, settings, &tuned, &material.held_out)?;
    let seconds = number(&report, "seconds")?;

    let peer = match request.with_peer {
        true => {
            println!("== The same in PyTorch ==");
            Some(peer::run(
                &recipe.peer,
                settings,
                &request.seed,
                &material.peer,
            )?)
        }
        false => None,
    };
    println!(
        "\n{} of {}, seed {}\n",
        configuration.display(),
        material.train.display(),
        request.seed
    );
    println!("| measured | | before | after |\n| --- | --- | ---: | ---: |");
    for (i, path) in material.held_out.iter().enumerate() {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        for metric in recipe.metrics {
            let label = match material.held_out.len() {
                1 => (*metric).to_owned(),
                _ => format!("{stem}: {metric}"),
            };
            let ours = [number(&before[i], metric)?, number(&after[i], metric)?];
            row(&label, "fin", ours);
            let Some(report) = &peer else { continue };
            let mut theirs = [0.0; 2];
            for (value, when) in theirs.iter_mut().zip(["before", "after"]) {
                let found = &report[when];
                let several = found.get(stem.as_ref()).unwrap_or(found);
                *value = number(several, metric)?;
            }
            row("", "PyTorch", theirs);
            row("", "difference", [ours[0] - theirs[0], ours[1] - theirs[1]]);
        }
    }
    print!("\nTraining took fin {seconds:.1} seconds");
    match &peer {
        Some(report) => println!(" and PyTorch {:.1}.", peer::seconds(report)?),
        None => println!("."),
    }
    Ok(())
}

/// Prints a row of the table.
fn row(label: &str, who: &str, [before, after]: [f64; 2]) {
    println!("| {label} | {who} | {before:.4} | {after:.4} |");
}

/// Measures a model on every file or directory.
fn measure(
    recipe: &Recipe,
    settings: &toml::Table,
    model: &Path,
    held_out: &[PathBuf],
) -> Result<Vec<Value>, String> {
    let one = |data: &PathBuf| {
        let mut eval = fin();
        eval.args(["eval", "--format", "json"]).args(recipe.eval);
        for (key, flag) in [("image_size", "--image-size"), ("points", "--points")] {
            if let Some(value) = settings.get(key) {
                eval.arg(flag).arg(value.to_string());
            }
        }
        eval.arg("--model").arg(model).arg("--data").arg(data);
        serde_json::from_str(&capture(&mut eval)?).map_err(|e| format!("fin eval: {e}"))
    };
    held_out.iter().map(one).collect()
}

/// A number of a report by its name.
fn number(report: &Value, name: &str) -> Result<f64, String> {
    report[name]
        .as_f64()
        .ok_or_else(|| format!("the report has no number `{name}`: {report}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_every_recipe_is_one_of_the_peer_too() {
        for recipe in &RECIPES {
            let path = root().join(format!("fixtures/recipes/{}.toml", recipe.name));
            let mut settings = settings(&path).unwrap();
            peer::check(&recipe.peer, &settings).unwrap();
            settings.insert("layer_decay".into(), 0.9.into());
            let error = peer::check(&recipe.peer, &settings).unwrap_err();
            assert!(error.contains("layer_decay"), "{error}");
        }
    }
}
