//! Points on a surface.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Mesh, area_vector, dot, unit};

/// Points with a direction each.
#[derive(Debug, Clone, PartialEq)]
pub struct OrientedPoints {
    /// Positions, `[x, y, z]`.
    pub points: Vec<[f32; 3]>,
    /// Unit vectors; zero where a point cloud's file has none.
    pub normals: Vec<[f32; 3]>,
}

impl Mesh {
    /// `count` points, `[x, y, z]` from [`Mesh::origin`].
    ///
    /// Of a mesh they are spread evenly over its surface, independently of one another: a triangle
    /// is drawn with a probability proportional to its area, a place in it uniformly (Osada et al.
    /// 2002, *Shape Distributions*, section 4.2). Of a point cloud they are a random part in random
    /// order; where it has fewer points than asked for, it comes again, in another order.
    ///
    /// The points are a function of the seed and of the triangles' corners in the order of the
    /// file, nothing else: neither of the file's format, nor of vertices that are shared, repeated
    /// or unused, nor of triangles without area. A program that writes a mesh in several formats
    /// mostly writes the same triangles in the same order, and the same digits; then the points are
    /// the same to the bit. Where digits differ, points move as little as the digits do, except for
    /// the few that come to lie in the next triangle. Translation and scaling move the points along
    /// with the mesh.
    pub fn sample(&self, count: usize, seed: u64) -> Vec<[f32; 3]> {
        self.draw(count, seed, |position, _| position)
    }

    /// The points of [`Mesh::sample`] with their normals: of a mesh, those of the triangles, on the
    /// side from which their corners are counterclockwise; of a point cloud, the file's, or `None`
    /// where it has none.
    pub fn sample_oriented(&self, count: usize, seed: u64) -> Option<OrientedPoints> {
        if self.is_point_cloud() && self.normals.is_none() {
            return None;
        }
        let drawn = self.draw(count, seed, |position, index| {
            let normal = match &self.normals {
                Some(normals) => normals[index],
                None => {
                    let vector = area_vector(self.corners(self.triangles[index]));
                    let longest = vector.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
                    unit(vector.map(|x| (x / longest) as f32))
                }
            };
            (position, normal)
        });
        let (points, normals) = drawn.into_iter().unzip();
        Some(OrientedPoints { points, normals })
    }

    /// What `take` makes of each position and the number of its triangle or point.
    fn draw<T>(&self, count: usize, seed: u64, take: impl Fn([f32; 3], usize) -> T) -> Vec<T> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        if self.is_point_cloud() {
            let order = shuffled(self.vertices.len(), count, &mut random);
            let take = |i: usize| take(self.vertices[i], i);
            return order.into_iter().map(take).collect();
        }
        // Areas up to each triangle, in double precision.
        let mut total = 0.0;
        let areas: Vec<f64> = (self.triangles.iter())
            .map(|&triangle| {
                let vector = area_vector(self.corners(triangle));
                total += dot(vector, vector).sqrt();
                total
            })
            .collect();
        let last = areas.partition_point(|&reached| reached < total);
        (0..count)
            .map(|_| {
                let [area, u, v] = [(); 3].map(|()| uniform(&mut random));
                let area = area * total;
                // The first that reaches beyond; one without area reaches no further than the last.
                let index = areas.partition_point(|&reached| reached <= area).min(last);
                (self.place(index, u, v), index)
            })
            .map(|(position, index)| take(position, index))
            .collect()
    }

    /// The place in a triangle that two numbers of `[0, 1)` stand for, evenly spread.
    fn place(&self, triangle: usize, u: f64, v: f64) -> [f32; 3] {
        // The other half of the parallelogram is folded onto the triangle.
        let (u, v) = if u + v > 1.0 {
            (1.0 - u, 1.0 - v)
        } else {
            (u, v)
        };
        let [a, b, c] = self
            .corners(self.triangles[triangle])
            .map(|p| p.map(f64::from));
        [0, 1, 2].map(|i| (a[i] + u * (b[i] - a[i]) + v * (c[i] - a[i])) as f32)
    }
}

/// A number of `[0, 1)`, of 53 bits.
fn uniform(random: &mut impl Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Random numbers below `n`, none twice before all were there.
fn shuffled(n: usize, count: usize, random: &mut impl Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count {
        let wanted = (count - drawn.len()).min(n);
        for i in 0..wanted {
            let other = i + (uniform(random) * (n - i) as f64) as usize;
            order.swap(i, other);
        }
        drawn.extend_from_slice(&order[..wanted]);
    }
    drawn
}
