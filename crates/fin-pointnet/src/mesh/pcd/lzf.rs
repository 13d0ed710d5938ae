//! LZF, as in Marc Lehmann's liblzf: runs of bytes as they are, and copies of what came before.

/// What so many bytes unfold to at most: a copy of 264 bytes takes three.
pub(super) fn most(compressed: usize) -> usize {
    compressed.saturating_mul(88)
}

/// Unfolds to exactly so many bytes, or `None`.
pub(super) fn unfold(mut bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut unfolded = Vec::with_capacity(length);
    while let Some((&control, rest)) = bytes.split_first() {
        bytes = rest;
        if control < 32 {
            let (run, rest) = bytes.split_at_checked(usize::from(control) + 1)?;
            if unfolded.len() + run.len() > length {
                return None;
            }
            unfolded.extend_from_slice(run);
            bytes = rest;
            continue;
        }
        let mut copied = usize::from(control >> 5);
        if copied == 7 {
            let (&more, rest) = bytes.split_first()?;
            copied += usize::from(more);
            bytes = rest;
        }
        let (&low, rest) = bytes.split_first()?;
        bytes = rest;
        let back = (usize::from(control & 31) << 8 | usize::from(low)) + 1;
        copied += 2;
        let start = unfolded.len().checked_sub(back)?;
        if unfolded.len() + copied > length {
            return None;
        }
        // Copies may reach into what they write.
        for i in start..start + copied {
            unfolded.push(unfolded[i]);
        }
    }
    (unfolded.len() == length).then_some(unfolded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_copies() {
        assert_eq!(unfold(b"\x02abc", 3).unwrap(), b"abc");
        // Three bytes from one back, and eleven from three back.
        assert_eq!(unfold(b"\x00a\x20\x00", 4).unwrap(), b"aaaa");
        assert_eq!(
            unfold(b"\x02abc\xe0\x02\x02", 14).unwrap(),
            b"abcabcabcabcab"
        );
        assert_eq!(unfold(b"", 0).unwrap(), b"");
    }

    #[test]
    fn lies_are_refused() {
        for (bytes, length) in [
            (&b"\x02ab"[..], 3),
            (b"\x02abc", 2),
            (b"\x02abc", 4),
            (b"\x00a\x20\x01", 4),
            (b"\x20\x00", 3),
            (b"\x00a\xe0", 20),
            (b"\x00a\xe0\x00", 20),
            (b"\x00a\x20", 4),
            (b"\x00a\x20\x00", 3),
        ] {
            assert_eq!(unfold(bytes, length), None, "{bytes:?}");
        }
    }
}
