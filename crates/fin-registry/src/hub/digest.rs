//! Digests of files, as the hub names them.

use std::fmt;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use fin_core::{Error, Result};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// What identifies a file's content: the hub's ETag, and the name of the file's blob in a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// Of the bytes; files in large-file storage have it.
    Sha256(String),
    /// Of the bytes after git's blob header; files in the git repository itself have it.
    GitSha1(String),
    /// The first digits of the SHA-256 of the bytes; names of PyTorch's files have eight of them.
    Sha256Start(String),
}

impl Digest {
    /// From an ETag or a listing's field: 64 or 40 hexadecimal digits, quoted or not.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        let text = text.to_ascii_lowercase();
        match text.len() {
            _ if !is_hex(&text) => None,
            64 => Some(Self::Sha256(text)),
            40 => Some(Self::GitSha1(text)),
            _ => None,
        }
    }

    /// The hexadecimal digits.
    pub fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitSha1(hex) | Self::Sha256Start(hex) => hex,
        }
    }

    /// The same digest of a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of(&self, path: &Path) -> Result<Self> {
        match self {
            Self::Sha256(_) => sha256(path).map(Self::Sha256),
            Self::Sha256Start(start) => {
                let mut hex = sha256(path)?;
                hex.truncate(start.len());
                Ok(Self::Sha256Start(hex))
            }
            Self::GitSha1(_) => {
                let length = std::fs::metadata(path)
                    .map_err(Error::io(path, "read"))?
                    .len();
                let mut hasher = Sha1::new();
                hasher.update(format!("blob {length}\0"));
                read_into(path, |bytes| hasher.update(bytes))?;
                Ok(Self::GitSha1(hex(&hasher.finalize())))
            }
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "SHA-256 {hex}"),
            Self::GitSha1(hex) => write!(f, "git blob SHA-1 {hex}"),
            Self::Sha256Start(hex) if hex.len() == 64 => write!(f, "SHA-256 {hex}"),
            Self::Sha256Start(hex) => write!(f, "SHA-256 {hex}..."),
        }
    }
}

/// SHA-256 of a file in lower-case hexadecimal digits.
pub(super) fn sha256(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    read_into(path, |bytes| hasher.update(bytes))?;
    Ok(hex(&hasher.finalize()))
}

pub(super) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read_into(path: &Path, mut update: impl FnMut(&[u8])) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::io(path, "read"))? {
            0 => return Ok(()),
            n => update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "hello\n").unwrap();
        // `git hash-object` and `sha256sum`.
        for expected in [
            "ce013625030ba8dba906f756967f9e9ca394464a",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        ] {
            let digest = Digest::parse(expected).unwrap();
            assert_eq!(digest.of(&path).unwrap(), digest);
            let quoted = format!("W/\"{}\"", expected.to_uppercase());
            assert_eq!(Digest::parse(&quoted).unwrap(), digest);
        }
    }

    #[test]
    fn what_is_no_digest_is_none() {
        for text in [
            "",
            "\"\"",
            "../../etc/passwd",
            "abc",
            &"g".repeat(40),
            &"é".repeat(20),
        ] {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
    }
}
