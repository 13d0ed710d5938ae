//! How scores are spread.

use serde::Serialize;

/// Mean and quantiles of scores, the latter interpolated linearly between neighbours, as
/// `torch.quantile` has it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distribution {
    /// Number of scores.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Smallest score.
    pub min: f64,
    /// A quarter of the scores is below this.
    pub lower_quartile: f64,
    /// Half of the scores is below this.
    pub median: f64,
    /// Three quarters of the scores are below this.
    pub upper_quartile: f64,
    /// Largest score.
    pub max: f64,
}

impl Distribution {
    /// Of these scores; `None` where there are none.
    pub fn of(scores: &[f32]) -> Option<Self> {
        let mut sorted: Vec<f64> = scores.iter().copied().map(f64::from).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let quantile = |share: f64| {
            let at = share * (sorted.len() - 1) as f64;
            let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
            below + (above - below) * at.fract()
        };
        Some(Self {
            count: sorted.len(),
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            min,
            lower_quartile: quantile(0.25),
            median: quantile(0.5),
            upper_quartile: quantile(0.75),
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        // At ranks 1.25, 2.5 and 3.75 of 1, 1, 2, 3, 4, 7, counted from 0.
        let found = Distribution::of(&[4.0, 1.0, 7.0, 2.0, 3.0, 1.0]).unwrap();
        let expected = Distribution {
            count: 6,
            mean: 3.0,
            min: 1.0,
            lower_quartile: 1.25,
            median: 2.5,
            upper_quartile: 3.75,
            max: 7.0,
        };
        assert_eq!(found, expected);
        assert_eq!(Distribution::of(&[]), None);
        let one = Distribution::of(&[0.5]).unwrap();
        assert_eq!((one.min, one.lower_quartile, one.max), (0.5, 0.5, 0.5));
    }
}
