//! Neighbourhoods in clouds of points: farthest point sampling, balls, nearest points.
//!
//! Indices are to the bit those of the PyTorch code that PointNet++ is known by
//! (<https://github.com/yanx27/Pointnet_Pointnet2_pytorch>, `models/pointnet2_utils.py`) on
//! x86-64, so distances are rounded as they are there:
//!
//! - farthest point sampling takes `(Δx² + Δy²) + Δz²`, each operation rounded;
//! - balls and nearest points take `(−2·a·b + |a|²) + |b|²`, where `a·b` is what a matrix product
//!   of MKL gives for three terms, `fma(z, z', fma(y, y', x·x'))`, and the squares are summed as
//!   above. Products of fewer than 400 terms in all, and of a single row, PyTorch sums without the
//!   fused operation; networks have none so small.
//!
//! Points are passed over in order, 16 at a time. At the few thousand points of a cloud that takes
//! less time than a tree or grid would save.

use super::simd::multiversion;

/// Points in a block.
const LANES: usize = 16;

/// What a distance is before any point was chosen.
const FAR: f32 = 1e10;

/// Points of a cloud, axis by axis.
#[derive(Debug, Clone, Default)]
pub struct Cloud {
    len: usize,
    /// Blocks of x, y, z and the square of the length; those that fill up the last block are not a
    /// number in the last of these.
    blocks: Vec<[[f32; LANES]; 4]>,
}

/// A square of a length, as it is rounded here.
#[inline(always)]
fn square([x, y, z]: [f32; 3]) -> f32 {
    (x * x + y * y) + z * z
}

/// The square of a distance by the dot product.
#[inline(always)]
fn by_product(a: [f32; 3], a_square: f32, b: [f32; 3], b_square: f32) -> f32 {
    let dot = a[2].mul_add(b[2], a[1].mul_add(b[1], a[0] * b[0]));
    (-2.0 * dot + a_square) + b_square
}

impl Cloud {
    /// From rows of `columns` values, the first three of which are coordinates. Values after the
    /// last whole row are left aside.
    ///
    /// Panics where there are fewer than three columns.
    pub fn new(rows: &[f32], columns: usize) -> Self {
        assert!(columns >= 3, "points: {columns} values a point");
        let count = rows.len() / columns;
        let mut cloud = Self {
            len: count,
            blocks: vec![[[0.0; LANES]; 4]; count.div_ceil(LANES)],
        };
        for (i, row) in rows.chunks_exact(columns).enumerate() {
            let block = &mut cloud.blocks[i / LANES];
            for (axis, x) in row[..3].iter().enumerate() {
                block[axis][i % LANES] = *x;
            }
            block[3][i % LANES] = square([row[0], row[1], row[2]]);
        }
        cloud
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no points.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A point.
    ///
    /// Panics where there is none of this number.
    pub fn point(&self, i: usize) -> [f32; 3] {
        assert!(i < self.len, "points: no {i} of {}", self.len);
        let block = &self.blocks[i / LANES];
        [0, 1, 2].map(|axis| block[axis][i % LANES])
    }

    /// Farthest point sampling: `start`, then always the point that is farthest from those
    /// chosen, the first of several. Where all are chosen it begins with the first point again.
    ///
    /// Panics where there is no point `start`.
    pub fn farthest(&self, count: usize, start: usize) -> Vec<u32> {
        assert!(start < self.len, "points: no {start} of {}", self.len);
        let mut chosen = vec![0; count];
        let mut distances = vec![[FAR; LANES]; self.blocks.len()];
        // What fills up the last block is never the farthest.
        for i in self.len..self.blocks.len() * LANES {
            distances[i / LANES][i % LANES] = f32::NEG_INFINITY;
        }
        farthest(&self.blocks, start, &mut distances, &mut chosen);
        chosen
    }

    /// The first points, in order, that are no farther from `centre` than the root of `radius²`,
    /// as many as there is room for in `found`; returns how many.
    pub fn ball(&self, centre: [f32; 3], radius_squared: f32, found: &mut [u32]) -> usize {
        let mut count = 0;
        ball(
            &self.blocks,
            self.len,
            centre,
            radius_squared,
            found,
            &mut count,
        );
        count
    }

    /// The `K` nearest points to `centre`, nearest first and the first of several as near, with
    /// the squares of their distances; none where there are fewer points.
    pub fn nearest<const K: usize>(&self, centre: [f32; 3]) -> Option<[(u32, f32); K]> {
        let mut best = [(0, f32::INFINITY); K];
        let from = square(centre);
        for i in 0..self.len {
            let point = self.point(i);
            let distance = by_product(centre, from, point, square(point));
            if best.last().is_some_and(|last| distance < last.1) {
                let place = best.partition_point(|other| other.1 <= distance);
                best[place..].rotate_right(1);
                best[place] = (i as u32, distance);
            }
        }
        (self.len >= K).then_some(best)
    }
}

multiversion! {
    fn farthest(blocks: &[[[f32; LANES]; 4]], start: usize, distances: &mut [[f32; LANES]], chosen: &mut [u32]) {
        let mut next = start;
        for chosen in chosen {
            *chosen = next as u32;
            let from = &blocks[next / LANES];
            let [x, y, z] = [0, 1, 2].map(|axis| from[axis][next % LANES]);
            let mut largest = [f32::NEG_INFINITY; LANES];
            let mut place = [0u32; LANES];
            for (number, (block, distances)) in blocks.iter().zip(&mut *distances).enumerate() {
                for lane in 0..LANES {
                    let d = square([block[0][lane] - x, block[1][lane] - y, block[2][lane] - z]);
                    let old = distances[lane];
                    let new = if d < old { d } else { old };
                    distances[lane] = new;
                    let more = new > largest[lane];
                    largest[lane] = if more { new } else { largest[lane] };
                    place[lane] = if more { number as u32 } else { place[lane] };
                }
            }
            let mut best = (f32::NEG_INFINITY, usize::MAX);
            for lane in 0..LANES {
                let index = place[lane] as usize * LANES + lane;
                if largest[lane] > best.0 || (largest[lane] == best.0 && index < best.1) {
                    best = (largest[lane], index);
                }
            }
            // Where nothing compares, all is not a number.
            next = if best.1 < blocks.len() * LANES { best.1 } else { 0 };
        }
    }
}

multiversion! {
    fn ball(blocks: &[[[f32; LANES]; 4]], len: usize, centre: [f32; 3], limit: f32, found: &mut [u32], count: &mut usize) {
        let from = square(centre);
        let mut n = 0;
        for (number, block) in blocks.iter().enumerate() {
            let mut within = 0u32;
            let [xs, ys, zs, squares] = block;
            for lane in 0..LANES {
                let point = [xs[lane], ys[lane], zs[lane]];
                let beyond = by_product(centre, from, point, squares[lane]) > limit;
                within |= u32::from(!beyond) << lane;
            }
            let first = number * LANES;
            if first + LANES > len {
                within &= (1 << (len - first)) - 1;
            }
            while within != 0 {
                let Some(place) = found.get_mut(n) else {
                    *count = n;
                    return;
                };
                *place = first as u32 + within.trailing_zeros();
                n += 1;
                within &= within - 1;
            }
        }
        *count = n;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::cases;
    use super::*;

    /// Numbers of -1 to 1 from a linear congruential generator.
    fn rows(count: usize, columns: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..count * columns).map(|_| next()).collect()
    }

    #[test]
    fn queries_agree_with_plain_loops() {
        let sizes = [(1, 3), (15, 3), (16, 6), (17, 3), (333, 6)];
        let sizes = cases(&sizes, &[(1, 3), (17, 6)]).iter().copied();
        for (seed, (count, columns)) in sizes.enumerate() {
            let rows = rows(count, columns, seed as u64);
            let cloud = Cloud::new(&rows, columns);
            let point = |i: usize| {
                [
                    rows[i * columns],
                    rows[i * columns + 1],
                    rows[i * columns + 2],
                ]
            };
            assert_eq!(cloud.len(), count);
            assert_eq!(cloud.point(count - 1), point(count - 1));

            let mut expected = vec![];
            let (mut next, mut distances) = (count / 2, vec![FAR; count]);
            for _ in 0..count + 3 {
                expected.push(next as u32);
                let from = point(next);
                for (i, distance) in distances.iter_mut().enumerate() {
                    let to = point(i);
                    let d = square([to[0] - from[0], to[1] - from[1], to[2] - from[2]]);
                    *distance = if d < *distance { d } else { *distance };
                }
                next = 0;
                for i in 0..count {
                    if distances[i] > distances[next] {
                        next = i;
                    }
                }
            }
            assert_eq!(cloud.farthest(count + 3, count / 2), expected);

            for (centre, limit, room) in
                [(0, 0.3f32, 64), (count / 3, 0.8, 8), (count - 1, 9.0, 500)]
            {
                let centre = point(centre);
                let distance =
                    |i: usize| by_product(centre, square(centre), point(i), square(point(i)));
                let inside: Vec<u32> = (0..count)
                    .filter(|i| distance(*i) <= limit)
                    .map(|i| i as u32)
                    .collect();
                let mut found = vec![0; room];
                let n = cloud.ball(centre, limit, &mut found);
                assert_eq!(found[..n], inside[..inside.len().min(room)]);

                let mut order: Vec<usize> = (0..count).collect();
                order.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
                match cloud.nearest::<3>(centre) {
                    Some(found) => {
                        let expected = [0, 1, 2].map(|i| (order[i] as u32, distance(order[i])));
                        assert_eq!(found, expected);
                    }
                    None => assert!(count < 3),
                }
            }
        }
    }
}
