//! What is asked of `cargo xtask bench`.

use crate::parity::features;
use crate::root;

/// Those whose training steps are timed.
const TRAINED: [&str; 2] = ["all-minilm-l6-v2", "efficientnet-lite0"];

/// One model of each family.
const USUAL: [&str; 4] = [
    "all-minilm-l6-v2",
    "efficientnet-lite0",
    "clip-base-en",
    "pointnet-base",
];

/// Those that `--scaling` measures: of texts and of images.
const SCALED: [&str; 2] = ["all-minilm-l6-v2", "efficientnet-lite0"];

const PEERS: [&str; 4] = ["torch", "torch-compile", "onnx", "openvino"];

const PRECISIONS: [&str; 4] = ["f32", "int8", "f16", "bf16"];

const KNOWN: &str = "--backends, --models, --batch, --length, --points, --mixed, --precision, \
                     --threads, --seconds, --rounds, --peers, --scaling, --training, --write";

/// What is asked for.
#[derive(Debug, PartialEq)]
pub struct Options {
    pub models: Vec<String>,
    pub backends: Vec<String>,
    /// What weights are held in; int8 on `flex` alone, f16 and bf16 on the others alone.
    pub precisions: Vec<String>,
    /// Options of the bench `models` that change shapes, with their values.
    pub shapes: Vec<(String, String)>,
    /// Whether texts have all lengths up to the one given.
    pub mixed: bool,
    pub threads: usize,
    /// For how long a shape is repeated.
    pub seconds: f64,
    /// How often all sides of a model are measured by turns.
    pub rounds: usize,
    pub peers: Vec<String>,
    pub scaling: bool,
    pub training: bool,
    /// Name of the files of `benches/results/` that are written.
    pub write: Option<String>,
}

impl Options {
    pub fn parse(args: &[String]) -> Result<Self, String> {
        let (mut models, mut seconds) = (None, None);
        let mut options = Self {
            models: Vec::new(),
            backends: vec!["flex".into()],
            precisions: vec![PRECISIONS[0].into()],
            shapes: Vec::new(),
            mixed: false,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            seconds: 0.0,
            rounds: 1,
            peers: Vec::new(),
            scaling: false,
            training: false,
            write: None,
        };
        let mut args = args.iter().peekable();
        while let Some(arg) = args.next() {
            let mut value = || {
                let value = args.next_if(|next| !next.starts_with("--"));
                value.ok_or_else(|| format!("`{arg}` needs a value"))
            };
            match arg.as_str() {
                "--models" => models = Some(list(value()?)),
                "--backends" => options.backends = list(value()?),
                "--precision" => options.precisions = list(value()?),
                "--batch" | "--length" | "--points" => {
                    let value = value()?;
                    for part in list(value) {
                        positive::<usize>(arg, &part)?;
                    }
                    options.shapes.push((arg.clone(), value.clone()));
                }
                "--threads" => options.threads = positive(arg, value()?)?,
                "--seconds" => seconds = Some(positive(arg, value()?)?),
                "--rounds" => options.rounds = positive(arg, value()?)?,
                "--peers" => {
                    options.peers = value().map_or(PEERS.map(String::from).to_vec(), |v| list(v));
                }
                "--mixed" => options.mixed = true,
                "--scaling" => options.scaling = true,
                "--training" => options.training = true,
                "--write" => options.write = Some(value().cloned().unwrap_or_default()),
                other => return Err(format!("unknown argument `{other}`; known: {KNOWN}")),
            }
        }
        if options.scaling && (options.training || !options.peers.is_empty()) {
            return Err(
                "--scaling measures fin's inference alone; leave out --training and --peers".into(),
            );
        }
        if options.scaling && options.rounds > 1 {
            return Err("--scaling measures everything once; leave out --rounds".into());
        }
        if let Some(name) = &mut options.write {
            if name.is_empty() {
                *name = match (options.training, options.scaling) {
                    (true, _) => "training".into(),
                    (_, true) => "scaling".into(),
                    _ => "bench".into(),
                };
            }
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
            if !name.chars().all(is_plain) {
                return Err(format!(
                    "--write: `{name}` is not of letters, digits and `-`"
                ));
            }
        }
        if options.mixed && (options.training || options.scaling) {
            return Err("--training and --scaling have no padding; leave out --mixed".into());
        }
        if options.training && !options.shapes.is_empty() {
            return Err(
                "the shapes of --training are fixed; leave out --batch and its like".into(),
            );
        }
        if let Some(unknown) = options
            .precisions
            .iter()
            .find(|precision| !PRECISIONS.contains(&precision.as_str()))
        {
            let known = PRECISIONS.join(", ");
            return Err(format!("no precision `{unknown}`; known: {known}"));
        }
        if options.precisions != PRECISIONS[..1] && (options.training || options.scaling) {
            return Err("--training and --scaling are in f32; leave out --precision".into());
        }
        options.seconds = seconds.unwrap_or(if options.scaling { 1.0 } else { 10.0 });
        if options.training && options.peers.is_empty() {
            options.peers = vec![PEERS[0].into()];
        }
        if let Some(unknown) = options
            .peers
            .iter()
            .find(|peer| !PEERS.contains(&peer.as_str()))
        {
            return Err(format!("no peer `{unknown}`; known: {}", PEERS.join(", ")));
        }
        features(&options.backends.join(","))?;
        options.models = options.choose(models)?;
        Ok(options)
    }

    /// The models asked for, of those that there are.
    fn choose(&self, asked: Option<Vec<String>>) -> Result<Vec<String>, String> {
        let owned = |names: &[&str]| {
            names
                .iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
        };
        let known = match self.training {
            true => owned(&TRAINED),
            false => catalogue()?,
        };
        let asked = match asked {
            Some(asked) if asked == ["all"] => known.clone(),
            Some(asked) => asked,
            None if self.training => owned(&TRAINED),
            None if self.scaling => owned(&SCALED),
            None => owned(&USUAL),
        };
        match asked.iter().find(|name| !known.contains(name)) {
            None => Ok(asked),
            Some(unknown) => {
                let what = match self.training {
                    true => "training of",
                    false => "model",
                };
                let known = known.join(", ");
                Err(format!("no {what} `{unknown}`; there are: {known}; or all"))
            }
        }
    }
}

fn list(text: &str) -> Vec<String> {
    let parts = text.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(String::from)
        .collect()
}

fn positive<T: std::str::FromStr + PartialOrd + Default>(
    option: &str,
    text: &str,
) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| *number > T::default());
    number.ok_or_else(|| format!("{option}: `{text}` is not a number above 0"))
}

/// Names of the catalogue, in its order.
fn catalogue() -> Result<Vec<String>, String> {
    let path = root().join("crates/fin-registry/src/catalogue.toml");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(names(&text))
}

fn names(catalogue: &str) -> Vec<String> {
    let lines = catalogue.lines();
    let names = lines.filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    names.map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, String> {
        let args: Vec<String> = text.split_whitespace().map(String::from).collect();
        Options::parse(&args)
    }

    #[test]
    fn every_model_of_the_catalogue_is_accepted() {
        let all = parse("--models all").unwrap().models;
        for name in [
            "fin-tiny-en",
            "all-minilm-l6-v2",
            "jina-embedding-t-en-v1",
            "jina-embedding-l-en-v1",
            "distiluse-base-multi",
            "resnet-large",
            "efficientnet-large",
            "clip-base-multi",
            "pointnet-base",
        ] {
            assert!(all.iter().any(|known| known == name), "{name}");
        }
        let some = parse("--models resnet-base,bert-base-en --backends flex,wgpu").unwrap();
        assert_eq!(some.models, ["resnet-base", "bert-base-en"]);
        assert_eq!(some.backends, ["flex", "wgpu"]);
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_there_is() {
        for (args, named) in [
            ("--models resnet51", ["`resnet51`", "resnet-base"]),
            ("--backends metal", ["`metal`", "wgpu"]),
            ("--peers jax", ["`jax`", "torch-compile"]),
            (
                "--training --models resnet-base",
                ["`resnet-base`", "efficientnet-lite0"],
            ),
            ("--model x", ["`--model`", "--models"]),
            ("--batch 8,0", ["--batch", "`0`"]),
            ("--models --write", ["--models", "needs a value"]),
            ("--training --batch 8", ["--training", "--batch"]),
            ("--scaling --mixed", ["--scaling", "--mixed"]),
            ("--precision int4", ["`int4`", "f32, int8, f16, bf16"]),
            ("--training --precision int8", ["--training", "--precision"]),
            ("--write ../x", ["--write", "`../x`"]),
            ("--scaling --peers", ["--scaling", "--peers"]),
            ("--scaling --rounds 2", ["--scaling", "--rounds"]),
            ("--rounds 0", ["--rounds", "`0`"]),
        ] {
            let error = parse(args).unwrap_err();
            for part in named {
                assert!(error.contains(part), "{args}: {error}");
            }
        }
    }

    #[test]
    fn peers_are_all_unless_named() {
        let all = parse("--peers --write").unwrap();
        assert_eq!(
            (all.peers.as_slice(), all.write),
            (&PEERS.map(String::from)[..], Some("bench".into()))
        );
        let named = parse("--write texts-mixed --mixed").unwrap();
        assert_eq!(
            (named.write, named.mixed),
            (Some("texts-mixed".into()), true)
        );
        assert_eq!(
            parse("--scaling --write").unwrap().write,
            Some("scaling".into())
        );
        assert_eq!(
            parse("--peers torch,onnx").unwrap().peers,
            ["torch", "onnx"]
        );
        assert_eq!(parse("--training").unwrap().peers, ["torch"]);
        assert!(parse("").unwrap().peers.is_empty());
    }
}
