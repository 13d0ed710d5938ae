//! Neighbourhood queries (`models/pointnet2_utils.py` upstream): farthest point sampling, ball
//! query, and interpolation from the three nearest points.
//!
//! Each has one form in tensor operations for every device ([`portable`]) and, on `flex`, one
//! over slices ([`fin_core::kernels::neighbours`]), whose indices are the reference's to the last.
//! The tensor forms follow the same formulas; where a device rounds otherwise, a point that lies
//! within rounding of a radius may be in on one and out on the other.

use burn::tensor::{Int, Tensor};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Where farthest point sampling begins.
///
/// Upstream draws a point each time, so that a cloud's features differ from call to call. Here it
/// is the first point unless asked otherwise: points of a mesh are drawn in random order, so the
/// first is a random one already, and the same one every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At this point of every cloud.
    Index(usize),
    /// At points drawn by this seed, one a cloud.
    Seeded(u64),
}

impl Default for Start {
    fn default() -> Self {
        Self::Index(0)
    }
}

impl Start {
    /// The first point of each of `batch` clouds of `points` points.
    ///
    /// Panics where there is no such point.
    pub fn of(self, batch: usize, points: usize) -> Vec<usize> {
        match self {
            Self::Index(index) => {
                assert!(index < points, "no point {index} of {points}");
                vec![index; batch]
            }
            Self::Seeded(seed) => {
                assert!(points > 0, "no points to begin at");
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                let draw = |_| (random.next_u64() % points as u64) as usize;
                (0..batch).map(draw).collect()
            }
        }
    }
}

/// Farthest point sampling: `xyz` `[batch, points, 3]` → indices `[batch, count]`, each the point
/// farthest from those before it. Where there are fewer points, the first fills the rest.
///
/// Panics where there are no points, or none of the index to begin at.
pub fn farthest_points(xyz: &Tensor<3>, count: usize, start: Start) -> Tensor<2, Int> {
    #[cfg(feature = "flex")]
    if let Some(found) = fast::farthest_points(xyz, count, start) {
        return found;
    }
    portable::farthest_points(xyz, count, start)
}

/// Ball query: of `xyz` `[batch, points, 3]`, the first `neighbours` in order that are within
/// `radius` of each of `centres` `[batch, groups, 3]`, as indices `[batch, groups, neighbours]`;
/// the first of them fills the rest. Where none is within, which upstream has no index for, it is
/// the nearest.
///
/// Panics where there are no points, or `neighbours` is 0.
pub fn ball_query(
    xyz: &Tensor<3>,
    centres: &Tensor<3>,
    radius: f64,
    neighbours: usize,
) -> Tensor<3, Int> {
    #[cfg(feature = "flex")]
    if let Some(found) = fast::ball_query(xyz, centres, radius, neighbours) {
        return found;
    }
    portable::ball_query(xyz, centres, radius, neighbours)
}

/// Features at `xyz` `[batch, points, 3]` from those, `[batch, known, channels]`, at
/// `known` `[batch, known, 3]`: the mean of the three nearest, weighted by one over the square of
/// the distance plus 1e-8 (`PointNetFeaturePropagation` upstream). A square that rounding made
/// negative counts as zero.
///
/// Panics where fewer than three are known.
pub fn interpolate(xyz: &Tensor<3>, known: &Tensor<3>, features: Tensor<3>) -> Tensor<3> {
    let [batch, points, _] = xyz.dims();
    let [_, count, channels] = features.dims();
    assert!(
        count >= 3,
        "{count} points are known; at least 3 are needed"
    );
    let (squares, index) = portable::square_distances(xyz, known).sort_with_indices(2);
    let squares = squares.slice([0..batch, 0..points, 0..3]).clamp_min(0.0);
    let index = index.slice([0..batch, 0..points, 0..3]);
    let weights = (squares + 1e-8).recip();
    let weights = weights.clone() / weights.sum_dim(2);
    let first = Tensor::arange(0..batch as i64, &index.device()) * count as i64;
    let index = index + first.reshape([batch, 1, 1]);
    let rows = features
        .reshape([batch * count, channels])
        .select(0, index.reshape([batch * points * 3]))
        .reshape([batch, points, 3, channels]);
    let sum = (rows * weights.reshape([batch, points, 3, 1])).sum_dim(2);
    sum.reshape([batch, points, channels])
}

/// The square of a radius as it is compared with distances.
pub(crate) fn limit(radius: f64) -> f32 {
    (radius * radius) as f32
}

/// In tensor operations, for every device.
pub mod portable {
    use burn::tensor::{Int, Tensor, TensorData};

    use super::{Start, limit};

    /// See [`farthest_points`](super::farthest_points).
    pub fn farthest_points(xyz: &Tensor<3>, count: usize, start: Start) -> Tensor<2, Int> {
        let [batch, points, _] = xyz.dims();
        let device = xyz.device();
        let start: Vec<i64> = start
            .of(batch, points)
            .into_iter()
            .map(|i| i as i64)
            .collect();
        let mut next = Tensor::<2, Int>::from_data(TensorData::new(start, [batch, 1]), &device);
        let axes = axes(xyz);
        let mut distances = Tensor::<2>::full([batch, points], 1e10, &device);
        let mut chosen = Vec::with_capacity(count);
        for _ in 0..count {
            chosen.push(next.clone());
            let [x, y, z] = axes.clone().map(|axis| {
                let from = axis.clone().gather(1, next.clone());
                let difference = axis - from;
                difference.clone() * difference
            });
            let found = (x + y) + z;
            let nearer = found.clone().lower(distances.clone());
            distances = distances.mask_where(nearer, found);
            next = distances.clone().argmax(1);
        }
        Tensor::cat(chosen, 1)
    }

    /// See [`ball_query`](super::ball_query).
    pub fn ball_query(
        xyz: &Tensor<3>,
        centres: &Tensor<3>,
        radius: f64,
        neighbours: usize,
    ) -> Tensor<3, Int> {
        assert!(neighbours > 0, "no neighbours asked for");
        let [batch, points, _] = xyz.dims();
        let [_, groups, _] = centres.dims();
        let device = xyz.device();
        let squares = square_distances(centres, xyz);
        let beyond = squares.clone().greater_elem(limit(radius));
        let index = Tensor::<1, Int>::arange(0..points as i64, &device);
        let index = index
            .reshape([1, 1, points])
            .expand([batch, groups, points]);
        let sorted = index.mask_fill(beyond, points as i64).sort(2);
        let taken = neighbours.min(points);
        let found = sorted.slice([0..batch, 0..groups, 0..taken]);
        let first = found.clone().slice([0..batch, 0..groups, 0..1]);
        let none = first.clone().equal_elem(points as i64);
        let first = first.mask_where(none, squares.argmin(2));
        let missing = found.clone().equal_elem(points as i64);
        let found = found.mask_where(missing, first.clone().expand([batch, groups, taken]));
        if taken == neighbours {
            return found;
        }
        let rest = first.expand([batch, groups, neighbours - taken]);
        Tensor::cat(vec![found, rest], 2)
    }

    /// Squares of distances by the dot product, as upstream takes them: of `a` `[batch, n, 3]` and
    /// `b` `[batch, m, 3]`, `[batch, n, m]`.
    pub fn square_distances(a: &Tensor<3>, b: &Tensor<3>) -> Tensor<3> {
        let [batch, n, _] = a.dims();
        let [_, m, _] = b.dims();
        let squares = |x: &Tensor<3>| {
            let [x, y, z] = axes(x).map(|axis| axis.clone() * axis);
            (x + y) + z
        };
        let products = a.clone().matmul(b.clone().swap_dims(1, 2)) * -2.0;
        (products + squares(a).reshape([batch, n, 1])) + squares(b).reshape([batch, 1, m])
    }

    /// Coordinates axis by axis, each `[batch, points]`.
    fn axes(xyz: &Tensor<3>) -> [Tensor<2>; 3] {
        let [batch, points, _] = xyz.dims();
        [0, 1, 2].map(|axis| {
            let axis = xyz.clone().slice([0..batch, 0..points, axis..axis + 1]);
            axis.reshape([batch, points])
        })
    }
}

#[cfg(feature = "flex")]
mod fast {
    use burn::tensor::{Int, Tensor, TensorData};
    use fin_core::kernels::neighbours::Cloud;
    use fin_core::kernels::slices;
    use rayon::prelude::*;

    use super::{Start, limit};

    /// None where the points are not where slices can be had.
    pub(super) fn farthest_points(
        xyz: &Tensor<3>,
        count: usize,
        start: Start,
    ) -> Option<Tensor<2, Int>> {
        let [batch, points, _] = xyz.dims();
        let values = slices::values(xyz.clone())?;
        let found: Vec<i64> = start
            .of(batch, points)
            .into_par_iter()
            .zip(values.par_chunks(points * 3))
            .flat_map_iter(|(start, rows)| {
                let found = Cloud::new(rows, 3).farthest(count, start);
                found.into_iter().map(i64::from)
            })
            .collect();
        let data = TensorData::new(found, [batch, count]);
        Some(Tensor::from_data(data, &xyz.device()))
    }

    pub(super) fn ball_query(
        xyz: &Tensor<3>,
        centres: &Tensor<3>,
        radius: f64,
        neighbours: usize,
    ) -> Option<Tensor<3, Int>> {
        let [batch, points, _] = xyz.dims();
        let [_, groups, _] = centres.dims();
        assert!(points > 0 && neighbours > 0, "no points or no neighbours");
        let values = slices::values(xyz.clone())?;
        let from = slices::values(centres.clone())?;
        let mut found = vec![0i64; batch * groups * neighbours];
        let cloud_len = groups * neighbours;
        found
            .par_chunks_mut(cloud_len.max(1))
            .zip(values.par_chunks(points * 3))
            .zip(from.par_chunks(groups.max(1) * 3))
            .for_each(|((found, rows), centres)| {
                let cloud = Cloud::new(rows, 3);
                let mut room = vec![0; neighbours];
                let centres = centres.as_chunks::<3>().0;
                for (found, centre) in found.chunks_exact_mut(neighbours).zip(centres) {
                    let count = group(&cloud, *centre, limit(radius), &mut room);
                    for (i, found) in found.iter_mut().enumerate() {
                        *found = i64::from(room[if i < count { i } else { 0 }]);
                    }
                }
            });
        let data = TensorData::new(found, [batch, groups, neighbours]);
        Some(Tensor::from_data(data, &xyz.device()))
    }

    /// A ball's points, or the nearest where there are none; returns how many, at least one.
    pub(crate) fn group(cloud: &Cloud, centre: [f32; 3], limit: f32, room: &mut [u32]) -> usize {
        let count = cloud.ball(centre, limit, room);
        if count == 0
            && let Some([(nearest, _)]) = cloud.nearest(centre)
        {
            room[0] = nearest;
            return 1;
        }
        count
    }
}

#[cfg(feature = "flex")]
pub(crate) use fast::group;
