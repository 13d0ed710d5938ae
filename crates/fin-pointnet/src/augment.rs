//! Random changes to training clouds, as `provider.py` upstream makes them.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Random changes to a cloud before the network sees it in training, in this order: rotation,
/// scale, shift, jitter, dropout. What is drawn is a function of a seed.
///
/// ```
/// use fin_pointnet::{Axis, PointAugmentation};
///
/// let augmentation = PointAugmentation {
///     rotate: Some(Axis::Z),
///     ..PointAugmentation::standard()
/// };
/// assert_eq!(augmentation.fault(), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PointAugmentation {
    /// Turns the cloud about this axis, the upward one, by any angle; normals turn along.
    pub rotate: Option<Axis>,
    /// Smallest and largest factor of the coordinates.
    pub scale: Option<[f64; 2]>,
    /// Moves the cloud by up to this much along each axis.
    pub shift: f64,
    /// Moves every point.
    pub jitter: Option<Jitter>,
    /// Largest share of points that are replaced by the first one; the share is drawn first.
    pub dropout: f64,
}

/// An axis of the coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// The first.
    X,
    /// The second, upward in ModelNet40 as it was resampled for PointNet++.
    #[default]
    Y,
    /// The third.
    Z,
}

/// Moves of single points.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jitter {
    /// Standard deviation along each axis.
    pub sigma: f64,
    /// Largest move along each axis.
    pub clip: f64,
}

impl Default for Jitter {
    fn default() -> Self {
        Self {
            sigma: 0.01,
            clip: 0.05,
        }
    }
}

impl PointAugmentation {
    /// All of them, with upstream's numbers, about the second axis.
    pub fn standard() -> Self {
        Self {
            rotate: Some(Axis::Y),
            scale: Some([0.8, 1.25]),
            shift: 0.1,
            jitter: Some(Jitter::default()),
            dropout: 0.875,
        }
    }

    /// The first field that cannot be used, and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if let Some([low, high]) = self.scale
            && !(low > 0.0 && low <= high && high.is_finite())
        {
            let reason = format!("{low} to {high}; numbers above 0 are accepted, in order");
            return Some(("scale", reason));
        }
        let jitter = self.jitter.unwrap_or_default();
        for (field, value, most) in [
            ("shift", self.shift, f64::MAX),
            ("jitter.sigma", jitter.sigma, f64::MAX),
            ("jitter.clip", jitter.clip, f64::MAX),
            ("dropout", self.dropout, 1.0),
        ] {
            if !(0.0..=most).contains(&value) {
                return Some((field, format!("{value} is not of the accepted range")));
            }
        }
        None
    }

    /// Changes a cloud of `columns` values a point, 3 or 6 with normals, in place.
    pub fn apply(&self, values: &mut [f32], columns: usize, seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        if let Some(axis) = self.rotate {
            rotate(values, axis, uniform(&mut random) * std::f64::consts::TAU);
        }
        if let Some([low, high]) = self.scale {
            scale(values, columns, low + (high - low) * uniform(&mut random));
        }
        if self.shift > 0.0 {
            let offset = [(); 3].map(|()| (2.0 * uniform(&mut random) - 1.0) * self.shift);
            shift(values, columns, offset);
        }
        if let Some(Jitter { sigma, clip }) = self.jitter {
            let noise = || (sigma * normal(&mut random)).clamp(-clip, clip);
            jitter(values, columns, noise);
        }
        if self.dropout > 0.0 {
            let ratio = uniform(&mut random) * self.dropout;
            drop_points(values, columns, || uniform(&mut random) <= ratio);
        }
    }
}

/// Turns coordinates and normals about an axis; positive angles turn as `rotate_point_cloud_by_angle`
/// upstream does about the second axis, and likewise about the others.
fn rotate(values: &mut [f32], axis: Axis, angle: f64) {
    let (sin, cos) = angle.sin_cos();
    let [a, b] = match axis {
        Axis::X => [1, 2],
        Axis::Y => [2, 0],
        Axis::Z => [0, 1],
    };
    for vector in values.as_chunks_mut::<3>().0 {
        let (x, y) = (f64::from(vector[a]), f64::from(vector[b]));
        vector[a] = (x * cos + y * sin) as f32;
        vector[b] = (y * cos - x * sin) as f32;
    }
}

fn scale(values: &mut [f32], columns: usize, factor: f64) {
    for row in values.chunks_exact_mut(columns) {
        row[..3]
            .iter_mut()
            .for_each(|x| *x = (f64::from(*x) * factor) as f32);
    }
}

fn shift(values: &mut [f32], columns: usize, offset: [f64; 3]) {
    for row in values.chunks_exact_mut(columns) {
        for (x, offset) in row.iter_mut().zip(offset) {
            *x = (f64::from(*x) + offset) as f32;
        }
    }
}

fn jitter(values: &mut [f32], columns: usize, mut noise: impl FnMut() -> f64) {
    for row in values.chunks_exact_mut(columns) {
        row[..3]
            .iter_mut()
            .for_each(|x| *x = (f64::from(*x) + noise()) as f32);
    }
}

/// Replaces points by the first one.
fn drop_points(values: &mut [f32], columns: usize, mut dropped: impl FnMut() -> bool) {
    let first = values[..columns].to_vec();
    for row in values.chunks_exact_mut(columns) {
        if dropped() {
            row.copy_from_slice(&first);
        }
    }
}

/// A number of `[0, 1)`, of 53 bits.
fn uniform(random: &mut impl Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// From the standard normal distribution (Box and Muller 1958).
fn normal(random: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(random)).ln()).sqrt();
    radius * (uniform(random) * std::f64::consts::TAU).cos()
}
