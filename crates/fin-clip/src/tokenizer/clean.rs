//! What open_clip does to a text before it is cut into tokens (`open_clip/tokenizer.py`).

use super::html::unescape;
use super::mojibake::fix_text;

/// `basic_clean` and `whitespace_clean`: damage mended, HTML's character references resolved twice,
/// runs of white space made one space. This is all that open_clip does before a tokenizer of
/// `transformers`, XLM-RoBERTa's for one (`clean="whitespace"`).
pub fn clean_whitespace(text: &str) -> String {
    let text = unescape(&unescape(&fix_text(text)));
    let mut out = String::with_capacity(text.len());
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// [`clean_whitespace`] in small letters, before open_clip's own tokenizer (`clean="lower"`).
pub fn clean_lower(text: &str) -> String {
    clean_whitespace(text).to_lowercase()
}

/// What Python's `str.split` splits at.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}
