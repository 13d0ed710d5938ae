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

/// Turns coordinates and normals about an axis, in upstream's directions: of `rotate_point_cloud`,
/// `rotate_point_cloud_z` and, about the first axis, `rotate_perturbation_point_cloud`.
fn rotate(values: &mut [f32], axis: Axis, angle: f64) {
    let (sin, cos) = angle.sin_cos();
    let [a, b] = match axis {
        Axis::X => [1, 2],
        Axis::Y => [2, 0],
        Axis::Z => [1, 0],
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::Points;
    use fin_core::weights::Checkpoint;

    fn numpy() -> Checkpoint {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../fixtures/pointnet/numpy.safetensors"
        );
        Checkpoint::open(path).unwrap()
    }

    fn close(found: &[f32], reference: &Checkpoint, name: &str) {
        let expected = reference.read_f32(name).unwrap();
        let width = expected.len() / 50;
        for (found, expected) in found.chunks_exact(6).zip(expected.chunks_exact(width)) {
            for (a, b) in found.iter().zip(expected) {
                assert!(
                    (a - b).abs() <= 1e-6 * b.abs().max(1.0),
                    "{name}: {a} for {b}"
                );
            }
        }
    }

    #[test]
    fn each_change_is_numpys() {
        let reference = numpy();
        let cloud = reference.read_f32("cloud").unwrap();
        for (axis, name) in [(Axis::X, "x"), (Axis::Y, "y"), (Axis::Z, "z")] {
            let mut values = cloud.clone();
            rotate(&mut values, axis, 2.25);
            close(&values, &reference, &format!("rotate.{name}"));
        }
        let mut values = cloud.clone();
        scale(&mut values, 6, 0.875);
        close(&values, &reference, "scale");
        let mut values = cloud.clone();
        shift(&mut values, 6, [0.05, -0.1, 0.025]);
        close(&values, &reference, "shift");
        let mut values = cloud.clone();
        let mut noise = reference.read_f32("noise").unwrap().into_iter();
        jitter(&mut values, 6, || f64::from(noise.next().unwrap()));
        assert_eq!(noise.next(), None);
        close(&values, &reference, "jitter");
        let mut values = cloud.clone();
        let mut mask = reference.read_f32("mask").unwrap().into_iter();
        drop_points(&mut values, 6, || mask.next() == Some(1.0));
        close(&values, &reference, "dropout");
        let centred = Points::new(cloud, 6).unwrap().in_unit_sphere();
        close(centred.values(), &reference, "normalized");
    }

    /// 4,000 points at the corners of a cube, with normals.
    fn cube() -> Vec<f32> {
        let corner = |i: usize| [i & 1, i >> 1 & 1, i >> 2 & 1].map(|bit| bit as f32 - 0.5);
        (0..4000)
            .flat_map(|i| [corner(i), [0.0, 1.0, 0.0]])
            .flatten()
            .collect()
    }

    fn changed(augmentation: PointAugmentation, seed: u64) -> Vec<f32> {
        let mut values = cube();
        augmentation.apply(&mut values, 6, seed);
        values
    }

    #[test]
    fn what_is_drawn_is_a_function_of_the_seed_and_within_its_limits() {
        let standard = PointAugmentation::standard();
        assert_eq!(standard.fault(), None);
        assert_eq!(changed(standard, 7), changed(standard, 7));
        assert_ne!(changed(standard, 7), changed(standard, 8));
        assert_eq!(changed(PointAugmentation::default(), 7), cube());

        let none = PointAugmentation::default();
        let mut drawn: [Vec<f32>; 4] = Default::default();
        for seed in 0..200 {
            let turned = changed(
                PointAugmentation {
                    rotate: Some(Axis::Y),
                    ..none
                },
                seed,
            );
            for (now, before) in turned.chunks_exact(6).zip(cube().chunks_exact(6)) {
                assert_eq!((now[1], &now[3..]), (before[1], &before[3..]));
                assert!((now[0].hypot(now[2]) - 0.5f32.hypot(0.5)).abs() < 1e-6);
            }
            drawn[0].push(turned[0].atan2(turned[2]));
            let scaled = changed(
                PointAugmentation {
                    scale: Some([0.8, 1.25]),
                    ..none
                },
                seed,
            );
            drawn[1].push(scaled[0] / -0.5);
            let shifted = changed(PointAugmentation { shift: 0.1, ..none }, seed);
            drawn[2].extend([0, 1, 2].map(|axis| shifted[axis] + 0.5));
            let dropped = changed(
                PointAugmentation {
                    dropout: 0.875,
                    ..none
                },
                seed,
            );
            let first = dropped
                .chunks_exact(6)
                .filter(|row| row[..3] == [-0.5; 3])
                .count();
            // An eighth is there to begin with.
            drawn[3].push((first as f32 - 500.0) / 3500.0);
        }
        let pi = std::f32::consts::PI;
        for (values, [low, high]) in
            drawn
                .iter()
                .zip([[-pi, pi], [0.8, 1.25], [-0.1, 0.1], [0.0, 0.92]])
        {
            let (min, max) = values.iter().fold((f32::MAX, f32::MIN), |(min, max), v| {
                (min.min(*v), max.max(*v))
            });
            assert!(low - 1e-5 <= min && max <= high + 1e-5, "{min} to {max}");
            assert!(max - min > 0.8 * (high - low), "{min} to {max}");
        }

        let jitter = Jitter {
            sigma: 0.01,
            clip: 0.015,
        };
        let moved = changed(
            PointAugmentation {
                jitter: Some(jitter),
                ..none
            },
            3,
        );
        let moves = moved.chunks_exact(6).zip(
            cube()
                .chunks_exact(6)
                .map(<[f32]>::to_vec)
                .collect::<Vec<_>>(),
        );
        let moves: Vec<f32> = moves
            .flat_map(|(now, before)| [0, 1, 2].map(|axis| now[axis] - before[axis]))
            .collect();
        let largest = moves.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!((largest - 0.015).abs() < 1e-6, "{largest}");
        // Of a normal distribution, 13.4 % are beyond 1.5 standard deviations.
        let clipped =
            moves.iter().filter(|x| x.abs() > 0.014999).count() as f64 / moves.len() as f64;
        assert!((clipped - 0.1336).abs() < 0.012, "{clipped}");
    }

    #[test]
    fn numbers_that_cannot_be_used_are_named() {
        let standard = PointAugmentation::standard();
        let jitter = |sigma, clip| PointAugmentation {
            jitter: Some(Jitter { sigma, clip }),
            ..standard
        };
        for (augmentation, field) in [
            (
                PointAugmentation {
                    scale: Some([0.0, 1.0]),
                    ..standard
                },
                "scale",
            ),
            (
                PointAugmentation {
                    scale: Some([1.2, 1.0]),
                    ..standard
                },
                "scale",
            ),
            (
                PointAugmentation {
                    shift: -0.1,
                    ..standard
                },
                "shift",
            ),
            (
                PointAugmentation {
                    shift: f64::NAN,
                    ..standard
                },
                "shift",
            ),
            (
                PointAugmentation {
                    dropout: 1.5,
                    ..standard
                },
                "dropout",
            ),
            (jitter(f64::INFINITY, 0.1), "jitter.sigma"),
            (jitter(0.1, -1.0), "jitter.clip"),
        ] {
            assert_eq!(augmentation.fault().unwrap().0, field);
        }
    }
}
