//! Meshes from what parsers find, in two passes: the first counts, so that the second fills arrays
//! of the right size, and so that no count in a file's header is believed.

use std::path::Path;

use fin_core::{Error, Result};

use super::{Mesh, is_finite, unit};

/// Memory that any file may claim beside its size.
pub(super) const SLACK: u64 = 60 << 20;

/// Distance from zero along an axis from which coordinates of more than single precision are kept
/// relative to the first of them.
const FAR: f64 = 1024.0;

/// What is wrong with a file, and where.
#[derive(Debug)]
pub(super) enum Problem {
    /// In a line, counted from 1.
    Line(u64, String),
    /// Elsewhere; the reason says where.
    File(String),
}

impl Problem {
    pub(super) fn at(self, path: &Path) -> Error {
        match self {
            Self::Line(line, reason) => Error::row(path, line, reason),
            Self::File(reason) => Error::invalid(path, reason),
        }
    }
}

/// Outcome of parsing.
pub(super) type Parsed<T = ()> = std::result::Result<T, Problem>;

/// A [`Problem`] that is in no line.
pub(super) fn fault<T>(reason: impl Into<String>) -> Parsed<T> {
    Err(Problem::File(reason.into()))
}

/// Runs a parser over a file of `size` bytes, once to count and once to fill.
pub(super) fn build(
    path: &Path,
    size: usize,
    mut parse: impl FnMut(&mut Builder) -> Parsed,
) -> Result<Mesh> {
    let mut builder = Builder::default();
    let mesh = parse(&mut builder)
        .and_then(|()| builder.allocate(size))
        .and_then(|mut builder| parse(&mut builder).map(|()| builder))
        .and_then(Builder::finish);
    mesh.map_err(|problem| problem.at(path))
}

/// Numbers of things in a file.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    vertices: u64,
    normals: u64,
    polygons: u64,
    triangles: u64,
}

/// Takes what a parser finds.
#[derive(Debug, Default)]
pub(super) struct Builder {
    /// From the first pass; none during it.
    totals: Option<Counts>,
    counts: Counts,
    corners: u64,
    first: u32,
    previous: u32,
    origin: Option<[f64; 3]>,
    vertices: Vec<[f32; 3]>,
    normals: Vec<[f32; 3]>,
    triangles: Vec<[u32; 3]>,
}

impl Builder {
    /// Whether values are wanted; in the first pass it is enough to say that there is one.
    pub(super) fn wants_values(&self) -> bool {
        self.totals.is_some()
    }

    /// Vertices so far.
    pub(super) fn vertices(&self) -> u64 {
        self.counts.vertices
    }

    /// Triangles so far.
    pub(super) fn triangles(&self) -> u64 {
        self.counts.triangles
    }

    /// Whether there was a polygon.
    pub(super) fn has_polygons(&self) -> bool {
        self.counts.polygons > 0
    }

    /// A vertex of single precision.
    pub(super) fn vertex_f32(&mut self, position: [f32; 3]) {
        self.counts.vertices += 1;
        if self.wants_values() {
            self.origin.get_or_insert([0.0; 3]);
            self.vertices.push(position);
        }
    }

    /// A vertex of more than single precision.
    pub(super) fn vertex(&mut self, position: [f64; 3]) {
        self.counts.vertices += 1;
        if self.wants_values() {
            let position = relative(position, &mut self.origin);
            self.vertices.push(position);
        }
    }

    /// The normal of a vertex, in the vertices' order.
    pub(super) fn normal(&mut self, normal: [f32; 3]) {
        self.counts.normals += 1;
        if self.wants_values() && self.keeps_normals() {
            self.normals.push(unit(normal));
        }
    }

    /// The next corner of a polygon, by the vertex's number from 0. Fails where there is no such
    /// vertex.
    pub(super) fn corner(&mut self, vertex: u64) -> std::result::Result<(), String> {
        self.corners += 1;
        let Some(totals) = &self.totals else {
            return Ok(());
        };
        if vertex >= totals.vertices {
            return Err(format!(
                "a face refers to vertex {vertex} (counted from 0), but there are {} vertices",
                totals.vertices
            ));
        }
        let vertex = vertex as u32;
        match self.corners {
            1 => self.first = vertex,
            2 => {}
            _ => self.triangles.push([self.first, self.previous, vertex]),
        }
        self.previous = vertex;
        Ok(())
    }

    /// Ends the polygon that the corners since the last one belong to.
    pub(super) fn end_polygon(&mut self) {
        self.counts.polygons += 1;
        self.counts.triangles += self.corners.saturating_sub(2);
        self.corners = 0;
    }

    fn keeps_normals(&self) -> bool {
        let totals = self.totals.unwrap_or_default();
        totals.triangles == 0 && totals.normals == totals.vertices
    }

    /// Ends the first pass.
    fn allocate(&self, size: usize) -> Parsed<Self> {
        let counts = self.counts;
        let mut filling = Self {
            totals: Some(counts),
            ..Self::default()
        };
        if counts.vertices == 0 {
            return fault("holds no vertices");
        }
        if counts.polygons > 0 && counts.triangles == 0 {
            return fault(format!(
                "has {} face(s), but none with three corners or more",
                counts.polygons
            ));
        }
        let normals = if filling.keeps_normals() {
            counts.normals
        } else {
            0
        };
        claim(size, counts.vertices + normals, counts.triangles)?;
        if counts.vertices > u64::from(u32::MAX) {
            return fault(format!(
                "has {} vertices, more than the {} that are read",
                counts.vertices,
                u32::MAX
            ));
        }
        filling.vertices.reserve_exact(counts.vertices as usize);
        filling.normals.reserve_exact(normals as usize);
        filling.triangles.reserve_exact(counts.triangles as usize);
        Ok(filling)
    }

    fn finish(self) -> Parsed<Mesh> {
        finish(Mesh {
            vertices: self.vertices,
            normals: (self.totals.is_some_and(|totals| totals.normals > 0)
                && !self.normals.is_empty())
            .then_some(self.normals),
            triangles: self.triangles,
            origin: self.origin.unwrap_or_default(),
        })
    }
}

/// A position of more than single precision relative to the origin, which the first decides.
pub(super) fn relative(position: [f64; 3], origin: &mut Option<[f64; 3]>) -> [f32; 3] {
    if origin.is_none() && position.iter().all(|x| x.is_finite()) {
        let far = position.iter().any(|x| x.abs() >= FAR);
        *origin = Some(if far { position } else { [0.0; 3] });
    }
    let origin = origin.unwrap_or_default();
    [0, 1, 2].map(|axis| (position[axis] - origin[axis]) as f32)
}

/// Holds what is to be built, so many vectors and triangles, to the size of its file.
pub(super) fn claim(size: usize, vectors: u64, triangles: u64) -> Parsed {
    let bytes = vectors.saturating_add(triangles).saturating_mul(12);
    if bytes > size as u64 + SLACK {
        return fault(format!(
            "{size} bytes describe {vectors} vertices and normals and {triangles} triangles, which \
             take more memory than a file of this size may claim"
        ));
    }
    Ok(())
}

/// Makes the repairs, and refuses what cannot be repaired.
pub(super) fn finish(mut mesh: Mesh) -> Parsed<Mesh> {
    let finite = |vertices: &[[f32; 3]]| vertices.iter().all(is_finite);
    if mesh.is_point_cloud() {
        if !finite(&mesh.vertices) {
            let count = mesh.vertices.len();
            if let Some(normals) = &mut mesh.normals {
                let mut vertices = mesh.vertices.iter();
                normals.retain(|_| vertices.next().is_some_and(is_finite));
            }
            mesh.vertices.retain(is_finite);
            if mesh.vertices.is_empty() {
                return fault(format!("all {count} points are NaN or infinite"));
            }
        }
        return Ok(mesh);
    }
    if !finite(&mesh.vertices) {
        for (i, triangle) in mesh.triangles.iter().enumerate() {
            for vertex in triangle {
                let position = mesh.vertices[*vertex as usize];
                if !is_finite(&position) {
                    return fault(format!(
                        "vertex {vertex} (counted from 0) of triangle {i} is {position:?}, which is \
                         no place; mend the file or remove the triangle"
                    ));
                }
            }
        }
        let used = mesh.vertices[mesh.triangles[0][0] as usize];
        for vertex in &mut mesh.vertices {
            if !is_finite(vertex) {
                *vertex = used;
            }
        }
    }
    if !mesh.has_surface() {
        return fault(format!(
            "none of its {} triangle(s) has an area",
            mesh.triangles.len()
        ));
    }
    Ok(mesh)
}
