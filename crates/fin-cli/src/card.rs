//! The model card of a tuned model: `README.md` in its directory, in Markdown with the front matter
//! that the Hugging Face hub reads (its documentation of model cards has the fields).

use std::fmt::{self, Display, Formatter, Write};
use std::io::Read;
use std::path::Path;

use fin_core::Result;
use fin_registry::{Modality, Registry};
use fin_train::Metrics;
use serde::Deserialize;

use crate::data::metric_rows;

/// Name of the file.
pub const FILE: &str = "README.md";

/// Bytes of a base model's card that are looked at.
const CARD_BYTES: u64 = 1 << 18;

/// Stands for the directory of the model.
const DIR: &str = "DIR";

/// What a model was made from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Base {
    /// Name in the catalogue, or of the directory.
    pub name: String,
    /// Where the weights are from: a repository of the hub, `organisation/name`, or in words.
    pub source: Option<String>,
    /// Licence of the weights, as its source has it.
    pub licence: Option<String>,
}

impl Base {
    /// Of a name in the catalogue, its row; of a directory, its `fin.json`, or else the front matter
    /// of its card.
    pub fn find(name_or_dir: &str, registry: &Registry) -> Result<Self> {
        let path = Path::new(name_or_dir);
        if !name_or_dir.contains(std::path::is_separator) && !path.is_dir() {
            let row = registry.catalogue.find(name_or_dir)?;
            let is_own = row.source == "embedded";
            return Ok(Self {
                name: row.name.clone(),
                source: (!is_own).then(|| row.source.clone()),
                licence: Some(row.licence.clone()),
            });
        }
        let whole = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let name = whole.file_name().unwrap_or(whole.as_os_str());
        let manifest = Manifest::read(path);
        let card = beginning(&path.join(FILE)).unwrap_or_default();
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            source: manifest.source,
            licence: manifest
                .licence
                .or_else(|| front_matter(&card, "license").filter(|found| found != "unknown")),
        })
    }

    /// The repository of the hub.
    fn repository(&self) -> Option<&str> {
        let source = self.source.as_deref()?;
        let (organisation, name) = source.split_once('/')?;
        let is_name = |part: &str| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && part.chars().all(is_part)
        };
        (is_name(organisation) && is_name(name)).then_some(source)
    }
}

/// What a `fin.json` says that a card repeats.
#[derive(Debug, Default, Deserialize)]
struct Manifest {
    dialect: Option<String>,
    architecture: Option<serde_json::Value>,
    source: Option<String>,
    licence: Option<String>,
}

impl Manifest {
    /// Of a directory; empty where it has none that can be read.
    fn read(directory: &Path) -> Self {
        let path = directory.join("fin.json");
        fin_core::json::read(&path).unwrap_or_default()
    }
}

/// The beginning of a text file.
fn beginning(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(CARD_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A plain value of a card's front matter.
fn front_matter(card: &str, key: &str) -> Option<String> {
    let mut lines = card.lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let mut lines = lines.take_while(|line| line.trim_end() != "---");
    let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let value = value.trim().trim_matches(['"', '\'']).trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.+ ".contains(c);
    let usable = !value.is_empty() && value.len() <= 64 && value.chars().all(is_plain);
    usable.then(|| value.to_owned())
}

/// The library whose format a directory has.
#[derive(Debug, Clone, PartialEq)]
enum Library {
    SentenceTransformers,
    Transformers,
    OpenClip,
    /// With the name of the network.
    Torchvision(Option<String>),
    Timm(Option<String>),
    None,
}

impl Library {
    /// By the files that a model was saved as.
    fn of(directory: &Path, modality: Modality) -> Self {
        let manifest = Manifest::read(directory);
        match (modality, manifest.dialect.as_deref()) {
            (Modality::Text, _) => Self::SentenceTransformers,
            (Modality::TextImage, Some("open_clip")) => Self::OpenClip,
            (Modality::TextImage, Some("transformers")) => Self::Transformers,
            (Modality::TextImage, _) => Self::SentenceTransformers,
            (Modality::Image, _) => {
                let name = manifest.architecture.as_ref();
                let name = name.and_then(|value| value.as_str()).map(str::to_owned);
                match name.as_deref().and_then(|name| {
                    let lite = name.strip_prefix("efficientnet_lite");
                    let lite = lite.map(|rest| format!("tf_efficientnet_lite{rest}"));
                    lite.or_else(|| name.starts_with("tf_").then(|| name.to_owned()))
                }) {
                    Some(name) => Self::Timm(Some(name)),
                    None => Self::Torchvision(name),
                }
            }
            (Modality::Mesh, _) => Self::None,
        }
    }

    /// Name on the hub; what no library of the hub opens is fin's.
    fn name(&self) -> &'static str {
        match self {
            Self::SentenceTransformers => "sentence-transformers",
            Self::Transformers => "transformers",
            Self::OpenClip => "open_clip",
            Self::Timm(_) => "timm",
            Self::Torchvision(_) | Self::None => "fin",
        }
    }

    /// A program in Python that opens the model, and what it needs.
    fn example(&self, modality: Modality) -> Option<(&'static str, String)> {
        let items = match modality {
            Modality::Text => "[\"A boat waits at the pier.\", \"The clock is broken.\"]",
            _ => "[\"A boat waits at the pier.\", Image.open(\"pier.jpg\")]",
        };
        Some(match self {
            Self::SentenceTransformers => {
                let image = match modality {
                    Modality::Text => "",
                    _ => "from PIL import Image\n",
                };
                let code = format!(
                    "{image}from sentence_transformers import SentenceTransformer\n\n\
                     model = SentenceTransformer(\"{DIR}\")\n\
                     embeddings = model.encode({items})\n"
                );
                ("sentence-transformers", code)
            }
            Self::Transformers => {
                let code = format!(
                    "from transformers import CLIPModel, CLIPProcessor\n\n\
                     model = CLIPModel.from_pretrained(\"{DIR}\")\n\
                     processor = CLIPProcessor.from_pretrained(\"{DIR}\")\n"
                );
                ("transformers", code)
            }
            Self::OpenClip => {
                let code = format!(
                    "import open_clip\n\n\
                     model, preprocess = open_clip.create_model_from_pretrained(\"local-dir:{DIR}\")\n\
                     tokenizer = open_clip.get_tokenizer(\"local-dir:{DIR}\")\n"
                );
                ("open_clip", code)
            }
            Self::Torchvision(Some(name)) => {
                let code = format!(
                    "import torchvision\n\
                     from safetensors.torch import load_file\n\n\
                     model = torchvision.models.{name}()\n\
                     # The classifier, which is no part of an embedding model, is missing.\n\
                     model.load_state_dict(load_file(\"{DIR}/model.safetensors\"), strict=False)\n"
                );
                ("torchvision", code)
            }
            Self::Timm(Some(name)) => {
                let code = format!(
                    "import timm\n\
                     from safetensors.torch import load_file\n\n\
                     model = timm.create_model(\"{name}\", num_classes=0)\n\
                     model.load_state_dict(load_file(\"{DIR}/model.safetensors\"))\n"
                );
                ("timm", code)
            }
            Self::Torchvision(None) | Self::Timm(None) | Self::None => return None,
        })
    }
}

/// What a card says. Nothing in it depends on where the model is or on how long training took, so
/// that equal runs write equal cards.
#[derive(Debug)]
pub struct Card<'a> {
    pub base: Base,
    pub modality: Modality,
    /// Length of an embedding.
    pub dim: usize,
    pub loss: &'a str,
    /// Number of training examples.
    pub examples: usize,
    /// Use, file and size of the data.
    pub data: Vec<[String; 3]>,
    /// Settings that were not the default.
    pub arguments: Vec<(String, String)>,
    /// How the run went: names and values.
    pub run: Vec<(String, String)>,
    /// What was measured before and after, and a sentence about what on.
    pub metrics: Option<(&'a Metrics, &'a Metrics, String)>,
}

impl Card<'_> {
    /// The card of the model in a directory.
    pub fn markdown(&self, directory: &Path) -> String {
        let library = Library::of(directory, self.modality);
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self
            .front_matter(&mut out, &library)
            .and_then(|()| self.body(&mut out, &library));
        out
    }

    fn front_matter(&self, f: &mut String, library: &Library) -> fmt::Result {
        f.push_str("---\n");
        let licence = self.base.licence.as_deref().unwrap_or("unknown");
        let id = licence.to_ascii_lowercase();
        // The hub's names are SPDX's in lower case.
        if id.contains([' ', '/', '(']) || id.starts_with("licenseref") {
            writeln!(f, "license: other\nlicense_name: {}", Quoted(licence))?;
        } else {
            writeln!(f, "license: {}", Quoted(&id))?;
        }
        if let Some(repository) = self.base.repository() {
            writeln!(f, "base_model: {}", Quoted(repository))?;
        }
        writeln!(f, "library_name: {}", library.name())?;
        let (task, tags): (_, &[&str]) = match self.modality {
            Modality::Text => (
                Some("sentence-similarity"),
                &["sentence-similarity", "feature-extraction"],
            ),
            Modality::Image => (Some("image-feature-extraction"), &["image-similarity"]),
            Modality::TextImage => (Some("zero-shot-image-classification"), &["clip"]),
            Modality::Mesh => (None, &["3d", "pointnet"]),
        };
        if let Some(task) = task {
            writeln!(f, "pipeline_tag: {task}")?;
        }
        f.push_str("tags:\n");
        let library = Some(library.name()).filter(|name| *name != "fin");
        for tag in library.iter().chain(tags).chain(&["fin"]) {
            writeln!(f, "- {tag}")?;
        }
        writeln!(f, "- loss:{}", self.loss)?;
        writeln!(f, "- dataset_size:{}\n---\n", self.examples)
    }

    fn body(&self, f: &mut String, library: &Library) -> fmt::Result {
        let base = &self.base;
        let name = Plain(&base.name);
        writeln!(f, "# {name}, fine-tuned\n")?;
        let embeds = match self.modality {
            Modality::Text => "texts",
            Modality::Image => "images",
            Modality::TextImage => "texts and images",
            Modality::Mesh => "3D meshes and point clouds",
        };
        writeln!(
            f,
            "An embedding model that turns {embeds} into vectors of {} numbers, for search and \
             comparison. It is [{name}](#base-model), fine-tuned with the loss `{}`.\n",
            self.dim, self.loss
        )?;
        f.push_str("## Base model\n\n");
        writeln!(f, "- Name: {name}")?;
        let source = match (base.repository(), &base.source) {
            (Some(repository), _) => format!("<https://huggingface.co/{repository}>"),
            (None, Some(source)) => Plain(source).to_string(),
            (None, None) if base.name == crate::args::DEFAULT_MODEL => "part of fin".into(),
            (None, None) => "unknown".into(),
        };
        writeln!(f, "- Source: {source}")?;
        let licence = base.licence.as_deref().unwrap_or("unknown");
        writeln!(f, "- Licence of its weights: {}\n", Plain(licence))?;

        f.push_str("## Use\n\n`DIR` is the directory that this file is in. With fin:\n\n```sh\n");
        match self.modality {
            Modality::Text => {
                writeln!(f, "fin encode texts.txt --model {DIR} --output texts.npy")?;
                writeln!(
                    f,
                    "fin search --model {DIR} --corpus corpus.txt --query \"how do I …\" -k 5"
                )?;
            }
            Modality::Image => {
                writeln!(f, "fin encode photos/ --model {DIR} --output photos.npy")?;
                writeln!(
                    f,
                    "fin search --model {DIR} --corpus photos/ --query pier.jpg"
                )?;
            }
            Modality::TextImage => {
                writeln!(f, "fin encode photos/ --model {DIR} --output photos.npy")?;
                writeln!(
                    f,
                    "fin search --model {DIR} --corpus photos/ --query \"a boat at a pier\""
                )?;
            }
            Modality::Mesh => {
                writeln!(f, "fin encode meshes/ --model {DIR} --output meshes.npy")?;
                writeln!(
                    f,
                    "fin search --model {DIR} --corpus meshes/ --query teapot.obj"
                )?;
            }
        }
        f.push_str("```\n\n");
        if let Some((library, code)) = library.example(self.modality) {
            writeln!(f, "With {library}:\n\n```python\n{code}```\n")?;
        }

        f.push_str("## Training\n\n");
        let row = |cells: &[String; 3]| cells.clone().to_vec();
        let data: Vec<Vec<String>> = self.data.iter().map(row).collect();
        table(f, &["data", "file", "size"], &data)?;
        let pairs = |pairs: &[(String, String)]| -> Vec<Vec<String>> {
            let row = |(name, value): &(String, String)| vec![name.clone(), value.clone()];
            pairs.iter().map(row).collect()
        };
        table(f, &["run", ""], &pairs(&self.run))?;
        match &self.arguments[..] {
            [] => f.push_str("All settings were fin's defaults.\n\n"),
            arguments => {
                f.push_str("Settings that were not fin's defaults:\n\n");
                table(f, &["setting", "value"], &pairs(arguments))?;
            }
        }
        if let Some((before, after, about)) = &self.metrics {
            writeln!(f, "## Evaluation\n\n{}\n", Plain(about))?;
            let rows = metric_rows(&[("before", before), ("after", after)]);
            table(f, &["metric", "before", "after"], &rows[1..])?;
        }
        writeln!(f, "Made by fin {}.", env!("CARGO_PKG_VERSION"))
    }
}

/// A table in Markdown; nothing where there are no rows.
fn table(f: &mut String, heading: &[&str], rows: &[Vec<String>]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(f, "| {} |", heading.join(" | "))?;
    writeln!(f, "|{}", " --- |".repeat(heading.len()))?;
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| Plain(cell).to_string()).collect();
        writeln!(f, "| {} |", cells.join(" | "))?;
    }
    f.push('\n');
    Ok(())
}

/// Text with all that Markdown would take for something else escaped, on one line.
struct Plain<'a>(&'a str);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '\\' | '`' | '*' | '[' | ']' | '<' | '>' | '|' | '&' | '#' | '~' => {
                    write!(f, "\\{char}")?;
                }
                _ if char.is_control() => f.write_char(' ')?,
                _ => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

/// A value of YAML, quoted where it is more than letters, digits and a few signs.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let begins = self.0.starts_with(|c: char| c.is_ascii_alphabetic());
        match begins && self.0.chars().all(is_plain) {
            true => f.write_str(self.0),
            // A string of JSON is one of YAML.
            false => write!(f, "{}", serde_json::Value::from(self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(value: f64) -> Metrics {
        let mut metrics = Metrics::default();
        metrics.insert("mrr@10", value);
        metrics.insert("map@r", f64::NAN);
        metrics
    }

    fn card<'a>(base: Base, before: &'a Metrics, after: &'a Metrics) -> Card<'a> {
        Card {
            base,
            modality: Modality::Text,
            dim: 8,
            loss: "triplet_margin",
            examples: 3,
            data: vec![["training".into(), "a|b.csv".into(), "3 examples".into()]],
            arguments: vec![("prompt".into(), "<img src=x>\n`# *".into())],
            run: vec![("steps".into(), "7".into())],
            metrics: Some((before, after, "On b.csv.".into())),
        }
    }

    #[test]
    fn the_front_matter_is_what_the_hub_reads() {
        let base = Base {
            name: "all-minilm-l6-v2".into(),
            source: Some("sentence-transformers/all-MiniLM-L6-v2".into()),
            licence: Some("Apache-2.0".into()),
        };
        let (before, after) = (metrics(0.25), metrics(0.5));
        let text = card(base.clone(), &before, &after).markdown(Path::new("/nonexistent-fin"));
        let (_, rest) = text.split_once("---\n").unwrap();
        let (front, body) = rest.split_once("\n---\n").unwrap();
        assert_eq!(
            front,
            "license: apache-2.0\n\
             base_model: sentence-transformers/all-MiniLM-L6-v2\n\
             library_name: sentence-transformers\n\
             pipeline_tag: sentence-similarity\n\
             tags:\n\
             - sentence-transformers\n\
             - sentence-similarity\n\
             - feature-extraction\n\
             - fin\n\
             - loss:triplet_margin\n\
             - dataset_size:3"
        );
        assert!(body.contains("| mrr@10 | 0.2500 | 0.5000 |\n| map@r | - | - |\n"));
        assert!(body.contains("SentenceTransformer(\"DIR\")"));
        // What it writes it can read as the card of a base.
        assert_eq!(front_matter(&text, "license").unwrap(), "apache-2.0");
        let other = Base {
            licence: Some("MIT AND BSD-3-Clause".into()),
            source: Some("https://example.org/weights".into()),
            ..base.clone()
        };
        let text = card(other, &before, &after).markdown(Path::new("/nonexistent-fin"));
        assert!(text.contains("license: other\nlicense_name: \"MIT AND BSD-3-Clause\"\n"));
        assert!(!text.contains("base_model"));
        let unknown = Base {
            licence: None,
            ..base
        };
        let text = card(unknown, &before, &after).markdown(Path::new("/nonexistent-fin"));
        assert!(text.contains("license: unknown\n"));
        assert!(text.contains("- Licence of its weights: unknown\n"));
    }

    #[test]
    fn what_users_write_stays_text() {
        let base = Base {
            name: "a\n---\nlicense: mit\n# x".into(),
            source: Some("x/y: z".into()),
            licence: Some("a\nb: c".into()),
        };
        let (before, after) = (metrics(0.25), metrics(0.5));
        let text = card(base, &before, &after).markdown(Path::new("/nonexistent-fin"));
        assert!(text.contains("\nlicense_name: \"a\\nb: c\"\n"), "{text}");
        assert!(
            text.contains("# a --- license: mit \\# x, fine-tuned\n"),
            "{text}"
        );
        assert!(text.contains("| training | a\\|b.csv | 3 examples |"));
        assert!(
            text.contains("| prompt | \\<img src=x\\> \\`\\# \\* |"),
            "{text}"
        );
        assert_eq!(text.lines().filter(|line| *line == "---").count(), 2);
    }

    #[test]
    fn licences_are_taken_from_where_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::from_env().unwrap();
        let path = dir.path().to_str().unwrap();
        let find = || Base::find(path, &registry).unwrap();
        assert_eq!((find().licence, find().source), (None, None));
        for (card, licence) in [
            (
                "---\ntags:\n- x\nlicense: 'mit'\n---\nlicense: gpl\n",
                Some("mit"),
            ),
            ("---\nlicense_name: x\nlicense:\n- mit\n---\n", None),
            ("---\nlicense: unknown\n---\n", None),
            ("license: mit\n", None),
            ("---\ntags: []\n---\nlicense: mit\n", None),
            ("---\nlicense: <b>\n---\n", None),
        ] {
            std::fs::write(dir.path().join(FILE), card).unwrap();
            assert_eq!(find().licence.as_deref(), licence, "{card}");
        }
        let manifest = r#"{"family": "cnn", "licence": "BSD-3-Clause", "source": "timm/x.in1k"}"#;
        std::fs::write(dir.path().join("fin.json"), manifest).unwrap();
        let base = find();
        assert_eq!(base.licence.as_deref(), Some("BSD-3-Clause"));
        assert_eq!(base.repository(), Some("timm/x.in1k"));
        assert_eq!(base.name, dir.path().file_name().unwrap().to_str().unwrap());
        let row = Base::find("all-minilm-l6-v2", &registry).unwrap();
        assert_eq!(
            row.repository(),
            Some("sentence-transformers/all-MiniLM-L6-v2")
        );
        assert_eq!(row.licence.as_deref(), Some("Apache-2.0"));
    }
}
