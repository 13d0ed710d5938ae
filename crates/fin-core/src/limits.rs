//! How much memory a file may claim.
//!
//! A few bytes of a file can ask for many of memory: a header of small values, a pickle that
//! repeats itself, a view that shows one element a billion times. What is built from a file is
//! therefore estimated before it is built, never too low, and held to the file's size. What
//! describes the content and what repeats it stay, together, within the file's size and
//! [`SLACK`]; reading a tensor whose bytes are all in the file makes no single allocation beyond
//! twice the file's size.

/// Bytes that any file may claim, however small.
pub(crate) const SLACK: u64 = 64 << 20;

/// Part of the slack that is for the description; the rest is for what repeats content.
const DESCRIPTION: u64 = 48 << 20;

/// Memory for what describes a file's content, counted down.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
}

/// The file asks for more than its [`Budget`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exceeded;

impl Budget {
    /// A budget of so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { left: bytes }
    }

    /// What a file of `size` bytes may claim for its description.
    pub(crate) fn of_file(size: u64) -> Self {
        Self::new(size / 2 + DESCRIPTION)
    }

    /// Takes `bytes`.
    pub(crate) fn spend(&mut self, bytes: u64) -> Result<(), Exceeded> {
        self.left = self.left.checked_sub(bytes).ok_or(Exceeded)?;
        Ok(())
    }

    /// Gives back `bytes` that were taken for a moment.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        self.left += bytes;
    }
}

/// What a tensor that repeats the content of a file of `size` bytes may take while it is read.
pub(crate) fn repeated(size: u64) -> u64 {
    size / 2 + SLACK - DESCRIPTION
}

/// Upper bound of what parsing this JSON allocates, where a value takes up to `value` bytes.
///
/// Every value but the first has a separator before it. Separators inside of strings are counted
/// as well.
pub(crate) fn json(text: &[u8], value: u64) -> u64 {
    let separators = text.iter().filter(|byte| b",:[{".contains(byte)).count() as u64;
    separators
        .saturating_mul(value)
        .saturating_add(2 * text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_once() {
        let mut budget = Budget::of_file(10);
        assert_eq!(budget.spend(5), Ok(()));
        assert_eq!(budget.spend(DESCRIPTION + 1), Err(Exceeded));
        assert_eq!(budget.spend(DESCRIPTION), Ok(()));
        assert_eq!(budget.spend(u64::MAX), Err(Exceeded));
    }
}
