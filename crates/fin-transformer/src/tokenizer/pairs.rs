//! Two texts as one sequence, as cross-encoders read them.

use std::borrow::Cow;

use fin_core::{Error, Result};
use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper, Tokenizer, TruncationDirection};

use super::{TextTokenizer, check_ids};

/// Token ids of two texts, special tokens included, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedPair {
    /// Ids in order.
    pub ids: Vec<u32>,
    /// A token type for each id: of BERT's tokenizer 1 for the second text and what follows it, 0
    /// for all else; of others 0.
    pub token_types: Vec<u32>,
    /// Whether the texts were cut to the maximum length.
    pub truncated: bool,
}

/// A tokenizer of pairs that cuts to a maximum length and never pads.
///
/// Special tokens stand around and between the texts as the tokenizer's class has them. Of a pair
/// that is too long the longer text is cut until both are of one length, then both are
/// (`longest_first` in `transformers`).
#[derive(Debug, Clone)]
pub struct PairTokenizer {
    /// Without special tokens around a text and without a maximum length.
    inner: Tokenizer,
    processor: Option<PostProcessorWrapper>,
    max_length: usize,
    special: usize,
    direction: TruncationDirection,
    pad_id: u32,
    vocab_size: usize,
    do_lower_case: bool,
    has_token_types: bool,
}

impl TextTokenizer {
    /// The same tokenizer for pairs of texts, with the same maximum length for both together.
    ///
    /// # Errors
    /// [`Error::Argument`] where the maximum length leaves no room beside the special tokens of a
    /// pair.
    pub fn into_pairs(self) -> Result<PairTokenizer> {
        let mut inner = self.inner;
        let processor = inner.get_post_processor().cloned();
        let special = processor.as_ref().map_or(0, |it| it.added_tokens(true));
        let truncation = inner.get_truncation();
        let max_length = truncation.map_or(usize::MAX, |truncation| truncation.max_length);
        let direction = truncation.map_or_else(Default::default, |truncation| truncation.direction);
        if max_length <= special {
            let reason = format!(
                "{max_length} leaves no room beside the {special} special tokens of a pair"
            );
            return Err(Error::argument("max-length", reason));
        }
        inner.with_post_processor(None::<PostProcessorWrapper>);
        inner
            .with_truncation(None)
            .map_err(|e| Error::argument("max-length", e))?;
        Ok(PairTokenizer {
            inner,
            processor,
            max_length,
            special,
            direction,
            pad_id: self.pad_id,
            vocab_size: self.vocab_size,
            do_lower_case: self.do_lower_case,
            has_token_types: self.has_token_types,
        })
    }
}

impl PairTokenizer {
    /// Id that batches are padded with.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Largest number of tokens a pair may have, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Tokenises pairs in order, `prefix` put before the first text of each.
    ///
    /// # Errors
    /// [`Error::Argument`] where a text has an id that the model's word table does not hold.
    pub fn encode(&self, pairs: &[(&str, &str)], prefix: &str) -> Result<Vec<TokenizedPair>> {
        let invalid = |e| Error::argument("text", format!("cannot be tokenised: {e}"));
        let texts: Vec<Cow<str>> = pairs
            .iter()
            .flat_map(|(first, second)| [self.prepared(prefix, first), self.prepared("", second)])
            .collect();
        let encodings = self
            .inner
            .encode_batch_fast(texts, false)
            .map_err(invalid)?;
        let mut encodings = encodings.into_iter();
        let mut tokenized = Vec::with_capacity(pairs.len());
        while let (Some(first), Some(second)) = (encodings.next(), encodings.next()) {
            let (pair, truncated) = self.join(first, second).map_err(invalid)?;
            let ids = pair.get_ids().to_vec();
            check_ids(&ids, self.vocab_size)?;
            let token_types = match self.has_token_types {
                true => pair.get_type_ids().to_vec(),
                false => vec![0; ids.len()],
            };
            tokenized.push(TokenizedPair {
                ids,
                token_types,
                truncated,
            });
        }
        Ok(tokenized)
    }

    fn prepared<'a>(&self, prefix: &str, text: &'a str) -> Cow<'a, str> {
        match (self.do_lower_case, prefix.is_empty()) {
            (false, true) => Cow::Borrowed(text),
            (false, false) => Cow::Owned(format!("{prefix}{text}")),
            (true, _) => Cow::Owned(format!("{prefix}{text}").to_lowercase()),
        }
    }

    /// Cuts two texts and puts the special tokens around them.
    ///
    /// The library's own truncation keeps what it cut off in every combination of the two, which
    /// of long texts does not fit into memory.
    fn join(
        &self,
        mut first: Encoding,
        mut second: Encoding,
    ) -> tokenizers::Result<(Encoding, bool)> {
        let lengths = [first.get_ids().len(), second.get_ids().len()];
        let kept = longest_first(lengths, self.max_length - self.special);
        for (text, kept) in [(&mut first, kept[0]), (&mut second, kept[1])] {
            text.truncate(kept, 0, self.direction);
            text.take_overflowing();
        }
        let joined = match &self.processor {
            Some(processor) => processor.process(first, Some(second), true)?,
            None => {
                second.set_type_ids(vec![1; kept[1]]);
                Encoding::merge([first, second], false)
            }
        };
        Ok((joined, kept != lengths))
    }
}

/// How many tokens of each text are kept so that both fit into `room`.
fn longest_first(lengths: [usize; 2], room: usize) -> [usize; 2] {
    let [first, second] = lengths;
    if first + second <= room {
        return lengths;
    }
    let shorter = first.min(second).min(room / 2);
    match first > second {
        true => [room - shorter, shorter],
        false => [shorter, room - shorter],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_text_is_cut_first() {
        for (lengths, room, kept) in [
            ([3, 4], 7, [3, 4]),
            ([3, 9], 8, [3, 5]),
            ([9, 3], 8, [5, 3]),
            ([9, 9], 8, [4, 4]),
            // An odd token goes to the longer text, of two of one length to the second.
            ([9, 9], 7, [3, 4]),
            ([9, 8], 7, [4, 3]),
            ([20, 5], 7, [4, 3]),
            ([0, 20], 7, [0, 7]),
            ([20, 1], 1, [1, 0]),
        ] {
            assert_eq!(longest_first(lengths, room), kept, "{lengths:?} in {room}");
        }
    }
}
