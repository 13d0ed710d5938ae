//! What a mistyped name may have meant.

/// The known names that `name` is most likely a misspelling or a shorter form of, at most three,
/// best first.
///
/// ```
/// let known = ["epochs", "batch_size", "learning_rate"];
/// assert_eq!(fin_registry::nearest("epoch", known), ["epochs"]);
/// assert!(fin_registry::nearest("xyz", known).is_empty());
/// ```
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    const SHOWN: usize = 3;
    /// Jaro-Winkler similarity below which two names have nothing to do with each other.
    const ALIKE: f64 = 0.75;
    let name = name.to_lowercase();
    let mut scored: Vec<(f64, &str)> = known
        .into_iter()
        .map(|known| {
            let lower = known.to_lowercase();
            let contains = name.len() > 2 && (lower.contains(&name) || name.contains(&lower));
            let score = strsim::jaro_winkler(&name, &lower);
            (if contains { score.max(ALIKE) } else { score }, known)
        })
        .filter(|(score, _)| *score >= ALIKE)
        .collect();
    scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    scored
        .into_iter()
        .take(SHOWN)
        .map(|(_, known)| known)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_comes_first() {
        let known = ["bert-base-multi", "bert-base-en", "resnet-base"];
        assert_eq!(nearest("bert-base-eng", known)[0], "bert-base-en");
        assert_eq!(nearest("BERT-base-multy", known)[0], "bert-base-multi");
        assert_eq!(nearest("resnet", known), ["resnet-base"]);
        assert!(nearest("", known).is_empty());
    }
}
