//! The range that similarity scores are given in.

use std::fmt;
use std::str::FromStr;

use fin_core::{Error, Result};

/// A range of scores that is mapped to `[0, 1]`, written `0..5`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreRange {
    min: f32,
    max: f32,
}

impl Default for ScoreRange {
    /// `0..1`, which leaves scores as they are.
    fn default() -> Self {
        Self { min: 0.0, max: 1.0 }
    }
}

impl ScoreRange {
    /// Scores from `min` to `max`, both inclusive.
    ///
    /// # Errors
    /// [`Error::Argument`] where the two are not finite or not in order.
    pub fn new(min: f32, max: f32) -> Result<Self> {
        if min.is_finite() && max.is_finite() && min < max {
            Ok(Self { min, max })
        } else {
            Err(Error::argument(
                "score range",
                format!("{min}..{max} is not a range: two finite numbers, the smaller first"),
            ))
        }
    }

    /// These scores in `[0, 1]`.
    ///
    /// # Errors
    /// [`Error::Argument`] names the row, counted from 1, of one that is out of range.
    pub fn scaled(self, mut scores: Vec<f32>) -> Result<Vec<f32>> {
        for (row, score) in scores.iter_mut().enumerate() {
            *score = self
                .scale(*score)
                .map_err(|reason| Error::argument("score", format!("row {}: {reason}", row + 1)))?;
        }
        Ok(scores)
    }

    /// The score in `[0, 1]`, or what is wrong with it.
    pub(crate) fn scale(self, score: f32) -> Result<f32, String> {
        if score >= self.min && score <= self.max {
            // Computed in double precision, so that equal fractions of any range are equal.
            let (score, min, max) = (f64::from(score), f64::from(self.min), f64::from(self.max));
            Ok(((score - min) / (max - min)) as f32)
        } else {
            Err(format!("score {score} is outside of {self}"))
        }
    }
}

impl fmt::Display for ScoreRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.min, self.max)
    }
}

impl FromStr for ScoreRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |part: &str| part.trim().parse::<f32>().ok();
        match text
            .split_once("..")
            .map(|(min, max)| (number(min), number(max)))
        {
            Some((Some(min), Some(max))) => Self::new(min, max),
            _ => Err(Error::argument(
                "score range",
                format!("`{text}` is not a range such as 0..5"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_round_trip_and_bad_ones_are_refused() {
        for text in ["0..5", "-1..1", "0.5..2.5"] {
            assert_eq!(text.parse::<ScoreRange>().unwrap().to_string(), text);
        }
        for text in ["5", "5..0", "1..1", "a..b", "0..inf", "nan..1", ""] {
            assert!(text.parse::<ScoreRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_ends_map_to_zero_and_one() {
        let range: ScoreRange = "-1..1".parse().unwrap();
        assert_eq!(
            [-1.0, 0.0, 1.0].map(|score| range.scale(score)),
            [Ok(0.0), Ok(0.5), Ok(1.0)]
        );
        assert_eq!(ScoreRange::default().scale(0.3), Ok(0.3));
    }
}
