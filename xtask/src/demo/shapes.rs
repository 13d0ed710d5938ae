//! Families of shapes with parameters, and their files: data for a demonstration that needs no
//! download.

use std::f32::consts::{PI, TAU};
use std::io;
use std::path::Path;

/// A surface of polygons, their corners counterclockwise from outside.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    pub vertices: Vec<[f32; 3]>,
    pub faces: Vec<Vec<u32>>,
}

/// Draws a shape of a family.
type Draw = fn(&mut Random) -> Shape;

/// The families by name.
pub const FAMILIES: [(&str, Draw); 14] = [
    ("beads", beads),
    ("chair", chair),
    ("cone", cone),
    ("cross", cross),
    ("dumbbell", dumbbell),
    ("ellipsoid", ellipsoid),
    ("gear", gear),
    ("mug", mug),
    ("spring", spring),
    ("star", star),
    ("table", table),
    ("torus", torus),
    ("twisted", twisted),
    ("vase", vase),
];

/// Extensions of [`write()`].
pub const FORMATS: [&str; 5] = ["ply", "obj", "off", "stl", "glb"];

/// SplitMix64 (Steele et al. 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Even in the range.
    fn between(&mut self, from: f32, to: f32) -> f32 {
        let unit = (self.next() >> 40) as f32 / (1u64 << 24) as f32;
        from + (to - from) * unit
    }

    /// One of `from..=to`.
    fn count(&mut self, from: usize, to: usize) -> usize {
        from + (self.next() % (to - from + 1) as u64) as usize
    }
}

impl Shape {
    /// A shape of the family, stretched by up to a fifth along each axis and then turned to lie in
    /// any direction.
    pub fn draw(draw: Draw, random: &mut Random) -> Self {
        let mut shape = draw(random);
        let stretch = [0; 3].map(|_| random.between(0.9, 1.1));
        let turn = rotation(random);
        for v in &mut shape.vertices {
            let place = [0, 1, 2].map(|k| v[k] * stretch[k]);
            *v = turn.map(|row| (0..3).map(|k| row[k] * place[k]).sum());
        }
        shape
    }

    fn add(&mut self, other: Self) {
        let first = self.vertices.len() as u32;
        self.vertices.extend(other.vertices);
        let faces = other.faces.into_iter();
        self.faces
            .extend(faces.map(|face| face.into_iter().map(|v| v + first).collect()));
    }

    fn moved(mut self, by: [f32; 3]) -> Self {
        for v in &mut self.vertices {
            (0..3).for_each(|i| v[i] += by[i]);
        }
        self
    }

    /// Quadrilaterals between rows of points; rows, and the points in them, close to a ring where
    /// that is asked for.
    fn grid(rows: &[Vec<[f32; 3]>], ring_of_rows: bool, ring_in_row: bool) -> Self {
        let (n, m) = (rows.len(), rows[0].len());
        let at = |i: usize, j: usize| ((i % n) * m + j % m) as u32;
        let mut faces = Vec::new();
        for i in 0..n - usize::from(!ring_of_rows) {
            for j in 0..m - usize::from(!ring_in_row) {
                faces.push(vec![at(i, j), at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)]);
            }
        }
        Self {
            vertices: rows.concat(),
            faces,
        }
    }

    /// A profile of `(radius, height)` turned about the y axis.
    fn revolved(profile: &[(f32, f32)], segments: usize) -> Self {
        let rows: Vec<Vec<[f32; 3]>> = profile
            .iter()
            .map(|&(radius, y)| {
                let angle = |j: usize| TAU * j as f32 / segments as f32;
                let point = |j| [radius * angle(j).cos(), y, radius * angle(j).sin()];
                (0..segments).map(point).collect()
            })
            .collect();
        Self::grid(&rows, false, true)
    }

    /// A ring of points moved up, with its bottom and top closed.
    fn prism(outline: &[[f32; 2]], height: f32) -> Self {
        Self::column(height, 1, |_| outline.to_vec())
    }

    /// Outlines above each other, with bottom and top closed.
    fn column(height: f32, levels: usize, outline: impl Fn(f32) -> Vec<[f32; 2]>) -> Self {
        let rows: Vec<Vec<[f32; 3]>> = (0..=levels)
            .map(|i| {
                let part = i as f32 / levels as f32;
                let y = height * (part - 0.5);
                outline(part).into_iter().map(|[x, z]| [x, y, z]).collect()
            })
            .collect();
        let mut shape = Self::grid(&rows, false, true);
        // Outlines need not be convex, but their centre sees every point.
        let m = rows[0].len();
        for (row, y) in [(0, -height / 2.0), (levels, height / 2.0)] {
            let centre = shape.vertices.len() as u32;
            shape.vertices.push([0.0, y, 0.0]);
            for j in 0..m {
                let at = |j: usize| (row * m + j % m) as u32;
                let [first, last] = if row == 0 { [j, j + 1] } else { [j + 1, j] };
                shape.faces.push(vec![centre, at(first), at(last)]);
            }
        }
        shape
    }

    fn cuboid(centre: [f32; 3], size: [f32; 3]) -> Self {
        let [x, z] = [size[0] / 2.0, size[2] / 2.0];
        let outline = [[-x, -z], [x, -z], [x, z], [-x, z]];
        Self::prism(&outline, size[1]).moved(centre)
    }

    fn sphere(radius: f32) -> Self {
        let profile: Vec<(f32, f32)> = (0..=12)
            .map(|i| {
                let angle = PI * i as f32 / 12.0;
                (radius * angle.sin(), -radius * angle.cos())
            })
            .collect();
        Self::revolved(&profile, 24)
    }

    /// A tube around a path; its ends are open.
    fn tube(path: impl Fn(f32) -> [f32; 3], steps: usize, radius: f32, is_ring: bool) -> Self {
        let rows: Vec<Vec<[f32; 3]>> = (0..steps + usize::from(!is_ring))
            .map(|i| {
                let t = i as f32 / steps as f32;
                let (here, next) = (path(t), path(t + 1e-3));
                let along = unit([0, 1, 2].map(|k| next[k] - here[k]));
                let side = unit(cross_product(along, [0.0, 1.0, 0.013]));
                let up = cross_product(side, along);
                (0..12)
                    .map(|j| {
                        let (sin, cos) = (TAU * j as f32 / 12.0).sin_cos();
                        [0, 1, 2].map(|k| here[k] + radius * (cos * side[k] + sin * up[k]))
                    })
                    .collect()
            })
            .collect();
        Self::grid(&rows, is_ring, true)
    }
}

/// A rotation, each as likely as any other (Shoemake 1992, *Uniform Random Rotations*).
fn rotation(random: &mut Random) -> [[f32; 3]; 3] {
    let part = random.between(0.0, 1.0);
    let [first, second] = [0; 2].map(|_| random.between(0.0, TAU).sin_cos());
    let [inner, outer] = [(1.0 - part).sqrt(), part.sqrt()];
    let (x, y) = (inner * first.0, inner * first.1);
    let (z, w) = (outer * second.0, outer * second.1);
    [
        [
            1.0 - 2.0 * (y * y + z * z),
            2.0 * (x * y - z * w),
            2.0 * (x * z + y * w),
        ],
        [
            2.0 * (x * y + z * w),
            1.0 - 2.0 * (x * x + z * z),
            2.0 * (y * z - x * w),
        ],
        [
            2.0 * (x * z - y * w),
            2.0 * (y * z + x * w),
            1.0 - 2.0 * (x * x + y * y),
        ],
    ]
}

fn cross_product(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

fn unit(v: [f32; 3]) -> [f32; 3] {
    let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    v.map(|x| x / norm)
}

fn torus(random: &mut Random) -> Shape {
    let radius = random.between(0.15, 0.45);
    let circle = |t: f32| [(TAU * t).cos(), 0.0, (TAU * t).sin()];
    Shape::tube(circle, 48, radius, true)
}

fn cone(random: &mut Random) -> Shape {
    let (height, top) = (random.between(1.2, 2.4), random.between(0.0, 0.4));
    let half = height / 2.0;
    Shape::revolved(&[(0.0, -half), (1.0, -half), (top, half), (0.0, half)], 32)
}

/// A superquadric (Barr 1981).
fn ellipsoid(random: &mut Random) -> Shape {
    let [a, b] = [0; 2].map(|_| random.between(0.6, 1.3));
    let axes = [1.0, random.between(0.5, 1.6), random.between(0.6, 1.0)];
    let power = |x: f32, e: f32| x.signum() * x.abs().powf(e);
    let rows: Vec<Vec<[f32; 3]>> = (0..=24)
        .map(|i| {
            let (up, out) = (PI * (i as f32 / 24.0 - 0.5)).sin_cos();
            (0..32)
                .map(|j| {
                    let (sin, cos) = (TAU * j as f32 / 32.0).sin_cos();
                    [
                        axes[0] * power(out, a) * power(cos, b),
                        axes[1] * power(up, a),
                        axes[2] * power(out, a) * power(sin, b),
                    ]
                })
                .collect()
        })
        .collect();
    Shape::grid(&rows, false, true)
}

fn spring(random: &mut Random) -> Shape {
    let (turns, height) = (random.between(2.5, 5.5), random.between(1.0, 2.6));
    let radius = random.between(0.08, 0.18);
    let path = |t: f32| {
        let angle = TAU * turns * t;
        [0.7 * angle.cos(), height * (t - 0.5), 0.7 * angle.sin()]
    };
    Shape::tube(path, (turns * 24.0) as usize, radius, false)
}

fn star(random: &mut Random) -> Shape {
    let (points, inner) = (random.count(4, 8), random.between(0.3, 0.6));
    let outline: Vec<[f32; 2]> = (0..2 * points)
        .map(|i| {
            let (sin, cos) = (PI * i as f32 / points as f32).sin_cos();
            let radius = if i % 2 == 0 { 1.0 } else { inner };
            [radius * cos, radius * sin]
        })
        .collect();
    Shape::prism(&outline, random.between(0.3, 0.9))
}

fn gear(random: &mut Random) -> Shape {
    let (teeth, depth) = (random.count(9, 18), random.between(0.12, 0.25));
    let outline: Vec<[f32; 2]> = (0..4 * teeth)
        .map(|i| {
            let (sin, cos) = (TAU * i as f32 / (4 * teeth) as f32).sin_cos();
            let radius = if i % 4 < 2 { 1.0 } else { 1.0 - depth };
            [radius * cos, radius * sin]
        })
        .collect();
    Shape::prism(&outline, random.between(0.25, 0.7))
}

fn twisted(random: &mut Random) -> Shape {
    let (turn, width) = (random.between(1.2, 3.2), random.between(0.3, 0.6));
    let depth = width * random.between(0.5, 1.0);
    Shape::column(2.0, 32, |part| {
        let (sin, cos) = (turn * part).sin_cos();
        let corners = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]];
        let turned = |[x, z]: [f32; 2]| {
            let (x, z) = (x * width, z * depth);
            [cos * x - sin * z, sin * x + cos * z]
        };
        // Narrow strips, so that a side that bends looks smooth.
        let outline = (0..32).map(|i| {
            let (from, to) = (corners[i / 8], corners[(i / 8 + 1) % 4]);
            let part = (i % 8) as f32 / 8.0;
            turned([0, 1].map(|k| from[k] + part * (to[k] - from[k])))
        });
        outline.collect()
    })
}

fn vase(random: &mut Random) -> Shape {
    let [belly, neck, lip] =
        [(0.5, 0.9), (0.15, 0.4), (0.3, 0.6)].map(|(from, to)| random.between(from, to));
    let height = random.between(1.6, 2.4);
    let profile: Vec<(f32, f32)> = [(0.0, 0.0), (0.4, 0.0)]
        .into_iter()
        .chain((0..=24).map(|i| {
            let t = i as f32 / 24.0;
            // Cubic Bézier curve from foot to lip by way of belly and neck.
            let s = 1.0 - t;
            let radius = 0.4 * s.powi(3)
                + 3.0 * belly * 1.6 * s * s * t
                + 3.0 * neck * 0.4 * s * t * t
                + lip * t.powi(3);
            (radius, height * t)
        }))
        .collect();
    Shape::revolved(&profile, 32)
}

fn mug(random: &mut Random) -> Shape {
    let (radius, height) = (random.between(0.5, 0.8), random.between(1.0, 1.5));
    let (wall, half) = (0.08, height / 2.0);
    let profile = [
        (0.0, -half),
        (radius, -half),
        (radius, half),
        (radius - wall, half),
        (radius - wall, wall - half),
        (0.0, wall - half),
    ];
    let mut shape = Shape::revolved(&profile, 32);
    let reach = random.between(0.25, 0.45);
    let rise = height * random.between(0.25, 0.38);
    let handle = |t: f32| {
        let (sin, cos) = (PI * (t - 0.5)).sin_cos();
        [radius + reach * cos, rise * sin, 0.0]
    };
    shape.add(Shape::tube(handle, 24, random.between(0.06, 0.11), false));
    shape
}

/// Legs from the floor up to `height` at the corners of a rectangle.
fn legs(width: f32, depth: f32, height: f32, thickness: f32) -> Shape {
    let mut shape = Shape::default();
    let [x, z] = [(width - thickness) / 2.0, (depth - thickness) / 2.0];
    for [x, z] in [[-x, -z], [x, -z], [x, z], [-x, z]] {
        let size = [thickness, height, thickness];
        shape.add(Shape::cuboid([x, height / 2.0, z], size));
    }
    shape
}

fn chair(random: &mut Random) -> Shape {
    let [width, depth] = [0; 2].map(|_| random.between(0.8, 1.1));
    let (seat, back) = (random.between(0.7, 1.0), random.between(0.7, 1.3));
    let thickness = random.between(0.08, 0.14);
    let mut shape = legs(width, depth, seat, thickness);
    let plate = [width, thickness, depth];
    shape.add(Shape::cuboid([0.0, seat, 0.0], plate));
    let centre = [0.0, seat + back / 2.0, (thickness - depth) / 2.0];
    shape.add(Shape::cuboid(centre, [width, back, thickness]));
    shape
}

fn table(random: &mut Random) -> Shape {
    let (width, depth) = (random.between(1.2, 2.2), random.between(0.8, 1.2));
    let (height, thickness) = (random.between(0.7, 1.1), random.between(0.06, 0.14));
    let mut shape = legs(width, depth, height, thickness);
    let plate = [width, thickness, depth];
    shape.add(Shape::cuboid([0.0, height, 0.0], plate));
    shape
}

fn cross(random: &mut Random) -> Shape {
    let thickness = random.between(0.2, 0.45);
    let mut shape = Shape::default();
    for axis in 0..3 {
        let mut size = [thickness; 3];
        size[axis] = random.between(1.4, 2.2);
        shape.add(Shape::cuboid([0.0; 3], size));
    }
    shape
}

fn dumbbell(random: &mut Random) -> Shape {
    let (length, bar) = (random.between(1.2, 2.2), random.between(0.08, 0.2));
    let mut shape = Shape::default();
    for side in [-1.0, 1.0] {
        let radius = random.between(0.35, 0.55);
        shape.add(Shape::sphere(radius).moved([side * length / 2.0, 0.0, 0.0]));
    }
    let path = |t: f32| [length * (t - 0.5), 0.0, 0.0];
    shape.add(Shape::tube(path, 8, bar, false));
    shape
}

fn beads(random: &mut Random) -> Shape {
    let (count, radius) = (random.count(6, 12), random.between(0.12, 0.24));
    let mut shape = Shape::default();
    for i in 0..count {
        let (sin, cos) = (TAU * i as f32 / count as f32).sin_cos();
        shape.add(Shape::sphere(radius).moved([cos, 0.0, sin]));
    }
    shape
}

/// Writes a shape in the format of the path's extension, one of [`FORMATS`].
pub fn write(shape: &Shape, path: &Path) -> io::Result<()> {
    let bytes = match path.extension().and_then(|end| end.to_str()) {
        Some("ply") => ply(shape),
        Some("obj") => obj(shape).into_bytes(),
        Some("off") => off(shape).into_bytes(),
        Some("stl") => stl(shape),
        Some("glb") => glb(shape),
        other => return Err(io::Error::other(format!("no format for {other:?}"))),
    };
    std::fs::write(path, bytes)
}

/// Polygons as fans, as readers have it.
fn triangles(shape: &Shape) -> impl Iterator<Item = [u32; 3]> + '_ {
    let fan = |face: &Vec<u32>| -> Vec<[u32; 3]> {
        let pairs = face[1..].windows(2);
        pairs.map(|pair| [face[0], pair[0], pair[1]]).collect()
    };
    shape.faces.iter().flat_map(fan)
}

/// Little-endian.
fn ply(shape: &Shape) -> Vec<u8> {
    let mut out = format!(
        "ply\nformat binary_little_endian 1.0\nelement vertex {}\nproperty float x\n\
         property float y\nproperty float z\nelement face {}\n\
         property list uchar uint vertex_indices\nend_header\n",
        shape.vertices.len(),
        shape.faces.len()
    )
    .into_bytes();
    floats(&mut out, shape.vertices.iter().flatten());
    for face in &shape.faces {
        out.push(face.len() as u8);
        face.iter().for_each(|v| out.extend(v.to_le_bytes()));
    }
    out
}

fn obj(shape: &Shape) -> String {
    let mut out = String::new();
    for [x, y, z] in &shape.vertices {
        out.push_str(&format!("v {x} {y} {z}\n"));
    }
    for face in &shape.faces {
        let corners: Vec<String> = face.iter().map(|v| (v + 1).to_string()).collect();
        out.push_str(&format!("f {}\n", corners.join(" ")));
    }
    out
}

fn off(shape: &Shape) -> String {
    let mut out = format!("OFF\n{} {} 0\n", shape.vertices.len(), shape.faces.len());
    for [x, y, z] in &shape.vertices {
        out.push_str(&format!("{x} {y} {z}\n"));
    }
    for face in &shape.faces {
        let corners: Vec<String> = face.iter().map(u32::to_string).collect();
        out.push_str(&format!("{} {}\n", face.len(), corners.join(" ")));
    }
    out
}

/// Binary.
fn stl(shape: &Shape) -> Vec<u8> {
    let mut out = vec![b' '; 80];
    out.extend((triangles(shape).count() as u32).to_le_bytes());
    for triangle in triangles(shape) {
        let corners = triangle.map(|v| shape.vertices[v as usize]);
        let side = |i: usize| [0, 1, 2].map(|k| corners[i][k] - corners[0][k]);
        let normal = unit(cross_product(side(1), side(2)));
        floats(&mut out, normal.iter().chain(corners.iter().flatten()));
        out.extend([0, 0]);
    }
    out
}

/// glTF in one file.
fn glb(shape: &Shape) -> Vec<u8> {
    let mut data = Vec::new();
    floats(&mut data, shape.vertices.iter().flatten());
    let points = data.len();
    let indices = triangles(shape).flatten();
    indices.for_each(|v| data.extend(v.to_le_bytes()));
    let bound = |pick: fn(f32, f32) -> f32| {
        let all = shape.vertices.iter().copied();
        all.reduce(|a, b| [0, 1, 2].map(|k| pick(a[k], b[k])))
    };
    let json = serde_json::json!({
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": shape.vertices.len(), "type": "VEC3",
             "min": bound(f32::min), "max": bound(f32::max)},
            {"bufferView": 1, "componentType": 5125, "count": (data.len() - points) / 4,
             "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": points},
            {"buffer": 0, "byteOffset": points, "byteLength": data.len() - points},
        ],
        "buffers": [{"byteLength": data.len()}],
    });
    let mut text = json.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(4), b' ');
    let mut out = b"glTF".to_vec();
    let words = [2, (12 + 8 + text.len() + 8 + data.len()) as u32];
    words.iter().for_each(|word| out.extend(word.to_le_bytes()));
    for (kind, chunk) in [(b"JSON", text), (b"BIN\0", data)] {
        out.extend((chunk.len() as u32).to_le_bytes());
        out.extend(kind);
        out.extend(chunk);
    }
    out
}

fn floats<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a f32>) {
    values.for_each(|value| out.extend(value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_keep_lengths_and_sides_and_spread_evenly() {
        let mut random = Random::new(3);
        let mut sums = [[0.0f32; 3]; 3];
        for _ in 0..4000 {
            let turn = rotation(&mut random);
            for i in 0..3 {
                let next = cross_product(turn[(i + 1) % 3], turn[(i + 2) % 3]);
                for k in 0..3 {
                    assert!((next[k] - turn[i][k]).abs() < 1e-5, "{turn:?}");
                    sums[i][k] += turn[i][k];
                }
            }
        }
        // Of standard deviation 0.58 each.
        assert!(
            sums.iter().flatten().all(|sum| sum.abs() / 4000.0 < 0.04),
            "{sums:?}"
        );
    }

    #[test]
    fn corners_are_counterclockwise_from_outside() {
        // Families with tubes or rims that are open.
        let open = ["dumbbell", "mug", "spring", "vase"];
        for (name, draw) in FAMILIES {
            let shape = Shape::draw(draw, &mut Random::new(5));
            let (mut volume, mut area, mut sum) = (0.0, 0.0, [0.0; 3]);
            for triangle in triangles(&shape) {
                let [a, b, c] = triangle.map(|v| shape.vertices[v as usize]);
                let side = |to: [f32; 3]| [0, 1, 2].map(|k| to[k] - a[k]);
                let vector = cross_product(side(b), side(c));
                volume += (0..3).map(|k| vector[k] * a[k]).sum::<f32>() / 6.0;
                area += vector.iter().map(|x| x * x).sum::<f32>().sqrt();
                (0..3).for_each(|k| sum[k] += vector[k]);
            }
            assert!(volume > 0.0, "{name} is inside out");
            let rest = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!(
                open.contains(&name) || rest < 1e-4 * area,
                "{name} has holes or turned parts: {rest} of {area}"
            );
        }
    }

    #[test]
    fn shapes_are_whole_and_differ_by_their_seed() {
        for (name, draw) in FAMILIES {
            let shape = Shape::draw(draw, &mut Random::new(1));
            let other = Shape::draw(draw, &mut Random::new(2));
            assert_ne!(shape.vertices, other.vertices, "{name}");
            assert!(
                shape.vertices.iter().flatten().all(|x| x.is_finite()),
                "{name}"
            );
            let count = shape.vertices.len() as u32;
            assert!(shape.faces.iter().flatten().all(|v| *v < count), "{name}");
            assert!(triangles(&shape).count() > 30, "{name}");
        }
    }
}
