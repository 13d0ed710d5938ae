//! Pictures of meshes, for a person to tell them by.

use super::{Mesh, cross, dot, minus};

/// Samples along each side of a pixel.
const SAMPLES: usize = 3;
/// Part of the picture that the mesh fills.
const FILLED: f64 = 0.92;
/// Where the eye is, from the middle of the mesh; y is up.
const EYE: [f64; 3] = [0.58, 0.42, 1.0];
/// Where the lamp is: near the eye, to its left and above.
const LAMP: [f64; 3] = [0.1, 0.75, 1.0];
/// Colours of the surface in full light, of the other side of it, and of what is behind.
const SURFACE: [f64; 3] = [0.60, 0.71, 0.84];
const INSIDE: [f64; 3] = [0.80, 0.68, 0.58];
const BEHIND: [f64; 3] = [1.0, 1.0, 1.0];
/// Light of what the lamp does not reach.
const AMBIENT: f64 = 0.28;
/// Neighbouring triangles are shaded as one curved surface where the cosine of the angle between
/// them is above this.
const CREASE: f64 = 0.6;
/// Triangles around a vertex, at most, for it to be shaded smoothly.
const MEETING: usize = 128;
/// Radius of a point beside the picture's side, for a cloud of a thousand points.
const POINT: f64 = 0.012;

/// A square picture of `size` by `size` pixels, red, green and blue of 8 bits each, from the top
/// left on: the mesh at three quarters from above, with y upwards, as large as fits, on white. The
/// back of a surface, where it is open or its triangles are turned, is brown. A point cloud is drawn
/// as discs that are darker with distance.
///
/// No triangle's size or place makes this fail; a picture of no size is empty.
pub fn render(mesh: &Mesh, size: usize) -> Vec<u8> {
    if size == 0 {
        return Vec::new();
    }
    let Some(view) = View::of(mesh, size * SAMPLES) else {
        return vec![255; size * size * 3];
    };
    let mut canvas = Canvas::new(size * SAMPLES);
    if mesh.is_point_cloud() {
        points(mesh, &view, &mut canvas);
    } else {
        surface(mesh, &view, &mut canvas);
    }
    canvas.averaged(size)
}

/// From the mesh's coordinates to samples, and depth towards the eye.
struct View {
    right: [f64; 3],
    up: [f64; 3],
    eye: [f64; 3],
    centre: [f64; 3],
    scale: f64,
    side: f64,
}

impl View {
    fn of(mesh: &Mesh, side: usize) -> Option<Self> {
        let eye = normalized(EYE);
        let right = normalized(cross([0.0, 1.0, 0.0], eye));
        let up = cross(eye, right);
        let axes = [right, up, eye];
        let mut low = [f64::INFINITY; 3];
        let mut high = [f64::NEG_INFINITY; 3];
        let mut include = |vertex: &[f32; 3]| {
            for (axis, direction) in axes.iter().enumerate() {
                let at = dot(vertex.map(f64::from), *direction);
                low[axis] = low[axis].min(at);
                high[axis] = high[axis].max(at);
            }
        };
        if mesh.is_point_cloud() {
            mesh.vertices.iter().for_each(&mut include);
        } else {
            // A vertex that no triangle uses can be anywhere.
            for triangle in &mesh.triangles {
                mesh.corners(*triangle).iter().for_each(&mut include);
            }
        }
        let middle = [0, 1, 2].map(|axis| (low[axis] + high[axis]) / 2.0);
        let centre =
            [0, 1, 2].map(|i| (0..3).map(|axis| axes[axis][i] * middle[axis]).sum::<f64>());
        let extent = (high[0] - low[0]).max(high[1] - low[1]);
        let side = side as f64;
        // A point, or a line towards the eye, has no extent.
        let scale = if extent > 0.0 {
            side * FILLED / extent
        } else {
            1.0
        };
        (centre.iter().all(|x| x.is_finite()) && scale.is_finite()).then_some(Self {
            right,
            up,
            eye,
            centre,
            scale,
            side,
        })
    }

    /// Column, row and depth in samples.
    fn project(&self, vertex: [f32; 3]) -> [f64; 3] {
        let from = minus(vertex.map(f64::from), self.centre);
        [
            self.side / 2.0 + dot(from, self.right) * self.scale,
            self.side / 2.0 - dot(from, self.up) * self.scale,
            dot(from, self.eye) * self.scale,
        ]
    }
}

struct Canvas {
    side: usize,
    colours: Vec<[u8; 3]>,
    depths: Vec<f32>,
}

impl Canvas {
    fn new(side: usize) -> Self {
        Self {
            side,
            colours: vec![BEHIND.map(level); side * side],
            depths: vec![f32::NEG_INFINITY; side * side],
        }
    }

    fn put(&mut self, column: usize, row: usize, depth: f64, colour: impl FnOnce() -> [f64; 3]) {
        let at = row * self.side + column;
        if depth as f32 > self.depths[at] {
            self.depths[at] = depth as f32;
            self.colours[at] = colour().map(level);
        }
    }

    /// Samples whose middles are from `low` to `high`, which may be anywhere.
    fn range(&self, low: f64, high: f64) -> std::ops::Range<usize> {
        let clamp = |x: f64| x.clamp(0.0, self.side as f64) as usize;
        clamp((low - 0.5).ceil())..clamp((high - 0.5).floor() + 1.0)
    }

    fn averaged(&self, size: usize) -> Vec<u8> {
        let mut pixels = Vec::with_capacity(size * size * 3);
        for row in 0..size {
            for column in 0..size {
                let mut sum = [0_u32; 3];
                for y in 0..SAMPLES {
                    let start = (row * SAMPLES + y) * self.side + column * SAMPLES;
                    for colour in &self.colours[start..start + SAMPLES] {
                        for (sum, value) in sum.iter_mut().zip(colour) {
                            *sum += u32::from(*value);
                        }
                    }
                }
                let count = (SAMPLES * SAMPLES) as u32;
                pixels.extend(sum.map(|sum| ((sum + count / 2) / count) as u8));
            }
        }
        pixels
    }
}

fn level(x: f64) -> u8 {
    (x * 255.0).round() as u8
}

fn normalized(v: [f64; 3]) -> [f64; 3] {
    let length = dot(v, v).sqrt();
    v.map(|x| x / length)
}

fn surface(mesh: &Mesh, view: &View, canvas: &mut Canvas) {
    let shading = Shading::of(mesh);
    let lamp = normalized(
        [0, 1, 2].map(|i| view.right[i] * LAMP[0] + view.up[i] * LAMP[1] + view.eye[i] * LAMP[2]),
    );
    for (i, &triangle) in mesh.triangles.iter().enumerate() {
        let corners = mesh.corners(triangle).map(|corner| view.project(corner));
        let [a, b, c] = corners;
        let doubled = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]);
        if doubled == 0.0 || !doubled.is_finite() {
            continue;
        }
        let normals = shading.normals(mesh, i);
        let bounds = |axis: usize| {
            let values = corners.map(|corner| corner[axis]);
            let low = values.into_iter().fold(f64::INFINITY, f64::min);
            (low, values.into_iter().fold(f64::NEG_INFINITY, f64::max))
        };
        let ((left, right), (top, bottom)) = (bounds(0), bounds(1));
        for row in canvas.range(top, bottom) {
            for column in canvas.range(left, right) {
                let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
                let part = |p: [f64; 3], q: [f64; 3]| {
                    ((p[0] - x) * (q[1] - y) - (q[0] - x) * (p[1] - y)) / doubled
                };
                let parts = [part(b, c), part(c, a), part(a, b)];
                if parts.iter().any(|part| *part < 0.0) {
                    continue;
                }
                let blend = |values: [f64; 3]| dot(parts, values);
                let depth = blend(corners.map(|corner| corner[2]));
                canvas.put(column, row, depth, || {
                    let normal = [0, 1, 2].map(|axis| blend(normals.map(|n| n[axis])));
                    lit(normal, doubled < 0.0, view, lamp)
                });
            }
        }
    }
}

/// The colour of a place of the surface that shows its front to the eye, or its back.
fn lit(normal: [f64; 3], front: bool, view: &View, lamp: [f64; 3]) -> [f64; 3] {
    let (sign, colour) = if front {
        (1.0, SURFACE)
    } else {
        (-1.0, INSIDE)
    };
    let length = dot(normal, normal).sqrt();
    if length <= 0.0 {
        return colour.map(|x| x * AMBIENT);
    }
    let normal = normal.map(|x| sign * x / length);
    let light = dot(normal, lamp).max(0.0);
    // Edges that turn away darken a little, so that shapes of one brightness keep an outline.
    let facing = dot(normal, view.eye).clamp(0.0, 1.0);
    let bright = (AMBIENT + (1.0 - AMBIENT) * light) * (0.72 + 0.28 * facing.sqrt());
    let half = normalized([0, 1, 2].map(|i| lamp[i] + view.eye[i]));
    let shine = 0.18 * dot(normal, half).max(0.0).powi(40);
    colour.map(|x| (x * bright * 1.15 + shine).clamp(0.0, 1.0))
}

/// Normals of triangles, and which meet where, to shade smoothly what is smooth.
struct Shading {
    /// Area vectors.
    faces: Vec<[f32; 3]>,
    places: Vec<u32>,
    /// Where in `meeting` the triangles of each place begin.
    starts: Vec<u32>,
    meeting: Vec<u32>,
}

impl Shading {
    fn of(mesh: &Mesh) -> Self {
        // Scaled so that neither tiny nor huge meshes leave the range of numbers.
        let largest =
            (mesh.vertices.iter().flatten()).fold(0.0_f64, |m, x| m.max(f64::from(x.abs())));
        let faces: Vec<[f32; 3]> = (mesh.triangles.iter())
            .map(|&triangle| {
                let [a, b, c] = mesh
                    .corners(triangle)
                    .map(|v| v.map(|x| f64::from(x) / largest));
                let vector = cross(minus(b, a), minus(c, a));
                vector.map(|x| x as f32)
            })
            .collect();
        let places = places(&mesh.vertices);
        let place = |vertex: &u32| places[*vertex as usize] as usize;
        // Counted, summed, and filled from the end of each place's part to its beginning.
        let mut starts = vec![0; mesh.vertices.len() + 1];
        let corners = || mesh.triangles.iter().flatten();
        corners().for_each(|vertex| starts[place(vertex)] += 1);
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut meeting = vec![0; sum as usize];
        for (i, triangle) in mesh.triangles.iter().enumerate() {
            for vertex in triangle {
                let start = &mut starts[place(vertex)];
                *start -= 1;
                meeting[*start as usize] = i as u32;
            }
        }
        Self {
            faces,
            places,
            starts,
            meeting,
        }
    }

    fn normals(&self, mesh: &Mesh, triangle: usize) -> [[f64; 3]; 3] {
        let face = normalized(self.faces[triangle].map(f64::from));
        mesh.triangles[triangle].map(|vertex| {
            let place = self.places[vertex as usize] as usize;
            let meeting = self.starts[place] as usize..self.starts[place + 1] as usize;
            if meeting.len() > MEETING {
                return face;
            }
            let mut sum = [0.0; 3];
            for other in &self.meeting[meeting] {
                let other = self.faces[*other as usize].map(f64::from);
                // Not where it is NaN for want of length.
                if dot(normalized(other), face) > CREASE {
                    (0..3).for_each(|axis| sum[axis] += other[axis]);
                }
            }
            match dot(sum, sum) > 0.0 {
                true => normalized(sum),
                false => face,
            }
        })
    }
}

/// The first vertex at the place of each.
fn places(vertices: &[[f32; 3]]) -> Vec<u32> {
    let key = |i: u32| vertices[i as usize].map(|x| (x + 0.0).to_bits());
    let mut order: Vec<u32> = (0..vertices.len() as u32).collect();
    order.sort_unstable_by_key(|&i| (key(i), i));
    let mut places = vec![0; vertices.len()];
    for same in order.chunk_by(|&a, &b| key(a) == key(b)) {
        for &i in same {
            places[i as usize] = same[0];
        }
    }
    places
}

fn points(mesh: &Mesh, view: &View, canvas: &mut Canvas) {
    let count = mesh.vertices.len() as f64;
    // Discs of all points together cover as much, whatever their number.
    let radius = (POINT * view.side * (1000.0 / count).sqrt())
        .min(0.03 * view.side)
        .max(1.5);
    let projected = || mesh.vertices.iter().map(|vertex| view.project(*vertex));
    let near = projected().fold(f64::NEG_INFINITY, |m, p| m.max(p[2]));
    let far = projected().fold(f64::INFINITY, |m, p| m.min(p[2]));
    for [x, y, depth] in projected() {
        let nearness = if near > far {
            (depth - far) / (near - far)
        } else {
            1.0
        };
        for row in canvas.range(y - radius, y + radius) {
            for column in canvas.range(x - radius, x + radius) {
                let (dx, dy) = (column as f64 + 0.5 - x, row as f64 + 0.5 - y);
                let inside = 1.0 - (dx * dx + dy * dy) / (radius * radius);
                if inside < 0.0 {
                    continue;
                }
                // A little ball, in the light of its nearness.
                let height = inside.sqrt();
                let bright = (0.45 + 0.55 * height) * (0.5 + 0.6 * nearness);
                canvas.put(column, row, depth + height * radius, || {
                    SURFACE.map(|x| (x * bright).clamp(0.0, 1.0))
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Corners of a box from -1 to 1 in x, -0.5 to 0.5 in y, -0.25 to 0.25 in z, triangles outwards.
    fn slab() -> Mesh {
        let vertices = (0..8_u32)
            .map(|i| {
                let sign = |bit: u32| if i >> bit & 1 == 1 { 1.0 } else { -1.0 };
                [sign(0), 0.5 * sign(1), 0.25 * sign(2)]
            })
            .collect();
        let quads = [
            [0, 2, 3, 1],
            [4, 5, 7, 6],
            [0, 1, 5, 4],
            [2, 6, 7, 3],
            [0, 4, 6, 2],
            [1, 3, 7, 5],
        ];
        let triangles = quads
            .iter()
            .flat_map(|&[a, b, c, d]| [[a, b, c], [a, c, d]])
            .collect();
        Mesh::new(vertices, triangles).unwrap()
    }

    fn pixel(pixels: &[u8], size: usize, column: usize, row: usize) -> [u8; 3] {
        let at = (row * size + column) * 3;
        [pixels[at], pixels[at + 1], pixels[at + 2]]
    }

    #[test]
    fn the_front_is_blue_the_back_is_brown_and_corners_are_white() {
        let size = 64;
        let mesh = slab();
        let front = render(&mesh, size);
        assert_eq!(front.len(), size * size * 3);
        let [red, _, blue] = pixel(&front, size, 32, 32);
        assert!(blue > red, "{red} {blue}");
        let turned = mesh
            .triangles()
            .iter()
            .map(|&[a, b, c]| [a, c, b])
            .collect();
        let back = render(&Mesh::new(mesh.vertices().to_vec(), turned).unwrap(), size);
        let [red, _, blue] = pixel(&back, size, 32, 32);
        assert!(red > blue, "{red} {blue}");
        for picture in [&front, &back] {
            for (column, row) in [(0, 0), (63, 0), (0, 63), (63, 63)] {
                assert_eq!(pixel(picture, size, column, row), [255; 3]);
            }
        }
    }

    #[test]
    fn size_and_place_do_not_matter() {
        let mesh = slab();
        let picture = render(&mesh, 48);
        for (scale, shift) in [(1e-30_f32, 0.0), (1e30, 0.0), (4.0, 64.0)] {
            let vertices = (mesh.vertices().iter())
                .map(|vertex| vertex.map(|x| x * scale + shift))
                .collect();
            let moved = Mesh::new(vertices, mesh.triangles().to_vec()).unwrap();
            let differ = (render(&moved, 48).iter().zip(&picture))
                .filter(|(a, b)| a.abs_diff(**b) > 2)
                .count();
            // Rounding moves an edge over a sample here and there.
            assert!(differ < 48, "{scale} {shift}: {differ}");
        }
    }

    #[test]
    fn every_sample_inside_of_a_closed_surface_is_covered() {
        let mesh = slab();
        let view = View::of(&mesh, 192).unwrap();
        let mut canvas = Canvas::new(192);
        surface(&mesh, &view, &mut canvas);
        for row in canvas.depths.chunks(192) {
            let covered: Vec<usize> = (0..192).filter(|&x| row[x] > f32::NEG_INFINITY).collect();
            if let (Some(first), Some(last)) = (covered.first(), covered.last()) {
                assert_eq!(last - first + 1, covered.len());
            }
        }
    }

    #[test]
    fn flat_sides_have_one_colour_each() {
        let mesh = slab();
        let mut canvas = Canvas::new(192);
        surface(&mesh, &View::of(&mesh, 192).unwrap(), &mut canvas);
        let colours: std::collections::HashSet<[u8; 3]> = canvas.colours.into_iter().collect();
        assert_eq!(colours.len(), 4, "three sides and what is behind");
    }

    #[test]
    fn single_points_and_nothing() {
        let point = Mesh::new(vec![[3.0, 4.0, 5.0]], vec![]).unwrap();
        let picture = render(&point, 33);
        assert_ne!(pixel(&picture, 33, 16, 16), [255; 3]);
        assert_eq!(pixel(&picture, 33, 0, 0), [255; 3]);
        assert!(render(&point, 0).is_empty());
    }
}
