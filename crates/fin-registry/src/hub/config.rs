//! What the environment says about the hub.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Address of the hub where nothing else is said.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where models are downloaded from and kept, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// The cache, which holds `models--<organisation>--<name>/{blobs,refs,snapshots}`.
    pub cache: PathBuf,
    /// Address of the hub, beginning with `https://` or `http://`.
    pub endpoint: String,
    /// Access token, sent to `endpoint` and nowhere else.
    pub token: Option<Token>,
    /// No request is made; what is in the cache is used.
    pub offline: bool,
    /// Whether progress is shown, on stderr where that is a terminal.
    pub progress: bool,
    /// How many times a request is made again after a cut connection, a server error or a call to
    /// slow down, before it is given up.
    pub retries: u32,
    /// Wait before the first of these; each further one waits twice as long, up to half a minute.
    pub backoff: Duration,
    /// Longest wait for a connection, and for each piece of an answer.
    pub timeout: Duration,
}

impl HubConfig {
    /// The public hub without a token, into this cache.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            endpoint: DEFAULT_ENDPOINT.into(),
            token: None,
            offline: false,
            progress: true,
            retries: 5,
            backoff: Duration::from_secs(1),
            timeout: Duration::from_secs(30),
        }
    }

    /// What the environment says, in the variables that Python's `huggingface_hub` reads:
    ///
    /// | variable | |
    /// | --- | --- |
    /// | `HF_HUB_CACHE`, or `HUGGINGFACE_HUB_CACHE` | the cache; else `$HF_HOME/hub` |
    /// | `HF_HOME` | else `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface` |
    /// | `HF_ENDPOINT` | address of the hub; else `https://huggingface.co` |
    /// | `HF_TOKEN`, or `HUGGING_FACE_HUB_TOKEN` | token; else the content of the token file |
    /// | `HF_TOKEN_PATH` | the token file; else `$HF_HOME/token` |
    /// | `HF_HUB_OFFLINE`, or `TRANSFORMERS_OFFLINE` | `1`, `on`, `yes` or `true`: offline |
    /// | `HF_HUB_DISABLE_PROGRESS_BARS` | the same: no progress bars |
    ///
    /// `None` where there is neither such a variable nor a home directory.
    pub fn from_env() -> Option<Self> {
        Self::from_vars(|name| std::env::var_os(name), std::env::home_dir())
    }

    fn from_vars(
        var: impl Fn(&str) -> Option<OsString>,
        home_dir: Option<PathBuf>,
    ) -> Option<Self> {
        let home_dir = home_dir.filter(|home| !home.as_os_str().is_empty());
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let path = |name: &str| {
            let path = PathBuf::from(set(name)?);
            match (path.strip_prefix("~"), &home_dir) {
                (Ok(below), Some(home)) => Some(home.join(below)),
                _ => Some(path),
            }
        };
        let text = |name: &str| {
            let value = set(name)?.into_string().ok()?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let is_true = |name: &str| {
            text(name).is_some_and(|value| {
                ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str())
            })
        };

        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| Some(home_dir.as_ref()?.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(hf_home.as_ref()?.join("hub")))?;
        let token = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
            .into_iter()
            .find_map(|name| Some(Token::from_place(&text(name)?, name)))
            .or_else(|| {
                let file = path("HF_TOKEN_PATH").or_else(|| Some(hf_home?.join("token")))?;
                Token::from_file(&file)
            });
        // As upstream: the older variable speaks only where the newer one is not set.
        let offline = match set("HF_HUB_OFFLINE") {
            Some(_) => is_true("HF_HUB_OFFLINE"),
            None => is_true("TRANSFORMERS_OFFLINE"),
        };
        let mut config = Self::new(cache);
        if let Some(endpoint) = text("HF_ENDPOINT") {
            config.endpoint = endpoint;
        }
        config.token = token;
        config.offline = offline;
        config.progress = !is_true("HF_HUB_DISABLE_PROGRESS_BARS");
        Some(config)
    }
}

/// An access token. Its value is in no message and no debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    value: String,
    place: String,
}

impl Token {
    /// A token given by the program.
    pub fn new(value: impl AsRef<str>) -> Self {
        Self::from_place(value.as_ref(), "the token given")
    }

    fn from_place(value: &str, place: impl Into<String>) -> Self {
        Self {
            value: value.trim().to_owned(),
            place: place.into(),
        }
    }

    /// A missing, unreadable or empty file is no token.
    fn from_file(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let token = Self::from_place(&text, path.display().to_string());
        (!token.value.is_empty()).then_some(token)
    }

    pub(super) fn value(&self) -> &str {
        &self.value
    }

    /// Where it was read, for messages.
    pub(super) fn place(&self) -> &str {
        &self.place
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(from {})", self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Option<HubConfig> {
        let var = |name: &str| {
            let found = vars.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        HubConfig::from_vars(var, Some("/home/me".into()))
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |vars: &[(&str, &str)]| read(vars).unwrap().cache;
        assert_eq!(cache(&[]), Path::new("/home/me/.cache/huggingface/hub"));
        let xdg = ("XDG_CACHE_HOME", "/xdg");
        assert_eq!(cache(&[xdg]), Path::new("/xdg/huggingface/hub"));
        let home = ("HF_HOME", "~/hf");
        assert_eq!(cache(&[xdg, home]), Path::new("/home/me/hf/hub"));
        let older = ("HUGGINGFACE_HUB_CACHE", "/older");
        assert_eq!(cache(&[home, older]), Path::new("/older"));
        let newer = ("HF_HUB_CACHE", "/newer");
        assert_eq!(cache(&[home, older, newer]), Path::new("/newer"));
        assert_eq!(cache(&[("HF_HOME", ""), newer]), Path::new("/newer"));
        assert_eq!(HubConfig::from_vars(|_| None, None), None);
    }

    #[test]
    fn offline_and_progress_are_flags() {
        let offline = |vars: &[(&str, &str)]| read(vars).unwrap().offline;
        assert!(!offline(&[]));
        for on in ["1", "ON", "Yes", "true"] {
            assert!(offline(&[("HF_HUB_OFFLINE", on)]), "{on}");
            assert!(offline(&[("TRANSFORMERS_OFFLINE", on)]), "{on}");
        }
        assert!(!offline(&[("HF_HUB_OFFLINE", "0")]));
        let both = [("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")];
        assert!(!offline(&both));
        assert!(read(&[]).unwrap().progress);
        let quiet = read(&[("HF_HUB_DISABLE_PROGRESS_BARS", "1")]).unwrap();
        assert!(!quiet.progress);
        let mirror = read(&[("HF_ENDPOINT", "http://mirror")]).unwrap();
        assert_eq!(mirror.endpoint, "http://mirror");
    }

    #[test]
    fn a_token_is_found_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let home = ("HF_HOME", dir.path().to_str().unwrap());
        assert_eq!(read(&[home]).unwrap().token, None);
        std::fs::write(&file, "hf_file\n").unwrap();
        let config = read(&[home]).unwrap();
        assert_eq!(config.token.as_ref().unwrap().value(), "hf_file");
        let shown = format!("{config:?}");
        assert!(
            !shown.contains("hf_file") && shown.contains("token"),
            "{shown}"
        );
        let config = read(&[home, ("HF_TOKEN", " hf_env ")]).unwrap();
        assert_eq!(config.token.unwrap().value(), "hf_env");
        let path = ("HF_TOKEN_PATH", file.to_str().unwrap());
        assert_eq!(read(&[path]).unwrap().token.unwrap().value(), "hf_file");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(read(&[path]).unwrap().token, None);
    }
}
