//! Meshes and point clouds from files, points on their surfaces, and pictures of them.
//!
//! | format | extensions | what is read |
//! | --- | --- | --- |
//! | PLY | `ply` | text and both binary orders; polygons and triangle strips, or points with normals |
//! | OBJ | `obj` | polygons, or points; materials, groups, curves and lines are left aside |
//! | OFF | `off` | text; polygons, or points with normals |
//! | STL | `stl` | text and binary; equal corners become one vertex |
//! | glTF 2 | `gltf`, `glb` | triangles of the default scene where its nodes put them, or points |
//! | PCD | `pcd` | points, with normals; text, binary and compressed |
//! | NumPy | `npy` | points, `[n, 3]`, or with normals `[n, 6]` |
//! | columns | `xyz`, `xyzn`, `xyzrgb`, `pts` | points a line, with normals; colours are left aside |
//!
//! Polygons become triangles as fans around their first corner. Units and the upward axis are left
//! as they are in the file.
//!
//! What is out of order in a file is an error that says where, but for these repairs:
//!
//! - Triangles without area stay, and are never sampled. A mesh without any area is an error.
//! - Faces of fewer than three corners are left out. A file with no others is an error.
//! - Points of a cloud that are NaN or infinite are left out, as scanners write them where they saw
//!   nothing. In a mesh such a vertex is an error where a face uses it, and otherwise becomes a copy
//!   of one that is used.
//! - A normal of no length, or that is NaN, becomes zero.
//!
//! Reading takes no more memory than the file's size and 64 MiB beside the file itself (compressed
//! PCD: eight times the size and 64 MiB); a file that says it holds more than that, or that does, is
//! refused.
//!
//! ```
//! use std::path::Path;
//! use fin_pointnet::mesh::{Mesh, MeshFormat};
//!
//! let text = b"v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n";
//! let square = Mesh::read(MeshFormat::Obj, text, Path::new("square.obj"))?;
//! assert_eq!(square.triangles(), [[0, 1, 2], [0, 2, 3]]);
//! assert_eq!(square.sample(1024, 0).len(), 1024);
//! # Ok::<(), fin_core::Error>(())
//! ```

mod build;
mod files;
mod gltf;
mod npy;
mod obj;
mod off;
mod pcd;
mod ply;
mod render;
mod sample;
mod stl;
mod text;
mod xyz;

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use fin_core::{Error, Result};

use self::text::without_mark;

pub use files::{is_mesh_path, mesh_files, meshes_by_class};
pub use render::render;
pub use sample::OrientedPoints;

/// A surface of triangles, or a cloud of points where there are none.
#[derive(Clone, PartialEq)]
pub struct Mesh {
    vertices: Vec<[f32; 3]>,
    normals: Option<Vec<[f32; 3]>>,
    triangles: Vec<[u32; 3]>,
    origin: [f64; 3],
}

impl Mesh {
    /// Opens a file whose extension names its format.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read; [`Error::InvalidFile`] or, in text, [`Error::Row`]
    /// where its format is not known, is not what its extension says, or asks for something other
    /// than what the file holds.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let Some(format) = MeshFormat::from_path(path) else {
            return Err(Error::invalid(
                path,
                format!(
                    "has no extension of a mesh or point cloud; known are {}",
                    MeshFormat::EXTENSIONS.join(", ")
                ),
            ));
        };
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        Self::read(format, &bytes, path)
    }

    /// Reads a file's content. `path` is what errors name, and where the files are that a glTF
    /// file refers to.
    ///
    /// # Errors
    /// As [`Mesh::open`].
    pub fn read(format: MeshFormat, bytes: &[u8], path: &Path) -> Result<Self> {
        if let Some(found) = MeshFormat::from_content(bytes)
            && found != format
        {
            return Err(Error::invalid(
                path,
                format!("is to be read as {format}, but its content is {found}; rename it"),
            ));
        }
        match format {
            MeshFormat::Ply => ply::read(bytes, path),
            MeshFormat::Obj => obj::read(bytes, path),
            MeshFormat::Off => off::read(bytes, path),
            MeshFormat::Stl => stl::read(bytes, path),
            MeshFormat::Gltf => gltf::read(bytes, path),
            MeshFormat::Pcd => pcd::read(bytes, path),
            MeshFormat::Npy => npy::read(bytes, path),
            MeshFormat::Xyz => xyz::read(bytes, path),
        }
    }

    /// A mesh of vertices and triangles of indices into them, or a point cloud where there are no
    /// triangles.
    ///
    /// # Errors
    /// [`Error::Argument`] where there is no vertex, a coordinate is not finite, an index is out of
    /// range, or triangles have no area.
    pub fn new(vertices: Vec<[f32; 3]>, triangles: Vec<[u32; 3]>) -> Result<Self> {
        let fault = |reason: String| Err(Error::argument("mesh", reason));
        if vertices.is_empty() {
            return fault("has no vertices".to_owned());
        }
        if let Some(i) = vertices.iter().position(|v| !is_finite(v)) {
            return fault(format!("vertex {i} is {:?}", vertices[i]));
        }
        let count = vertices.len();
        for triangle in &triangles {
            if triangle.iter().any(|&i| i as usize >= count) {
                return fault(format!("{triangle:?} is a triangle of {count} vertices"));
            }
        }
        let mesh = Self {
            vertices,
            normals: None,
            triangles,
            origin: [0.0; 3],
        };
        if !mesh.has_surface() && !mesh.is_point_cloud() {
            return fault("has triangles, but none with an area".to_owned());
        }
        Ok(mesh)
    }

    /// The same point cloud with a normal a point, `[x, y, z]` of any length.
    ///
    /// # Errors
    /// [`Error::Argument`] where this has triangles or another number of points.
    pub fn with_normals(mut self, normals: Vec<[f32; 3]>) -> Result<Self> {
        if !self.is_point_cloud() || normals.len() != self.vertices.len() {
            let reason = format!(
                "{} normals for {} vertices and {} triangles; a point cloud takes one a point",
                normals.len(),
                self.vertices.len(),
                self.triangles.len()
            );
            return Err(Error::argument("normals", reason));
        }
        self.normals = Some(normals.into_iter().map(unit).collect());
        Ok(self)
    }

    /// Positions of the vertices or points, `[x, y, z]` from [`Mesh::origin`].
    pub fn vertices(&self) -> &[[f32; 3]] {
        &self.vertices
    }

    /// Vertices of each triangle, counterclockwise from outside.
    pub fn triangles(&self) -> &[[u32; 3]] {
        &self.triangles
    }

    /// Normals of a point cloud's points, of length 1 or 0, where the file has them. Those of a mesh
    /// with triangles are not kept: its normals are its triangles'.
    pub fn normals(&self) -> Option<&[[f32; 3]]> {
        self.normals.as_deref()
    }

    /// Whether there are points alone.
    pub fn is_point_cloud(&self) -> bool {
        self.triangles.is_empty()
    }

    /// What positions are measured from. It is zero but for files of more than single precision
    /// whose first vertex is 1024 or more from zero along an axis: there it is that vertex, so that
    /// coordinates like those of maps keep their digits.
    pub fn origin(&self) -> [f64; 3] {
        self.origin
    }

    fn corners(&self, triangle: [u32; 3]) -> [[f32; 3]; 3] {
        triangle.map(|i| self.vertices[i as usize])
    }

    fn has_surface(&self) -> bool {
        self.triangles
            .iter()
            .any(|&triangle| twice_area(self.corners(triangle)) > 0.0)
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("vertices", &self.vertices.len())
            .field("normals", &self.normals.as_ref().map(Vec::len))
            .field("triangles", &self.triangles.len())
            .field("origin", &self.origin)
            .finish()
    }
}

/// A file format of meshes or point clouds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MeshFormat {
    /// Polygon File Format of Stanford, text and binary.
    Ply,
    /// Wavefront OBJ.
    Obj,
    /// Object File Format of Geomview.
    Off,
    /// STL, text and binary.
    Stl,
    /// glTF 2.0, as JSON and as GLB.
    Gltf,
    /// The Point Cloud Library's format.
    Pcd,
    /// An array of NumPy.
    Npy,
    /// Columns of numbers, a point a line.
    Xyz,
}

impl MeshFormat {
    /// All formats.
    pub const ALL: [Self; 8] = [
        Self::Ply,
        Self::Obj,
        Self::Off,
        Self::Stl,
        Self::Gltf,
        Self::Pcd,
        Self::Npy,
        Self::Xyz,
    ];

    /// Extensions of all formats.
    pub const EXTENSIONS: &'static [&'static str] = &[
        "ply", "obj", "off", "stl", "gltf", "glb", "pcd", "npy", "xyz", "xyzn", "xyzrgb", "pts",
    ];

    /// The format that a path's extension stands for, without regard to case.
    pub fn from_path(path: impl AsRef<Path>) -> Option<Self> {
        let extension = path.as_ref().extension().and_then(OsStr::to_str)?;
        Some(match extension.to_ascii_lowercase().as_str() {
            "ply" => Self::Ply,
            "obj" => Self::Obj,
            "off" => Self::Off,
            "stl" => Self::Stl,
            "gltf" | "glb" => Self::Gltf,
            "pcd" => Self::Pcd,
            "npy" => Self::Npy,
            "xyz" | "xyzn" | "xyzrgb" | "pts" => Self::Xyz,
            _ => return None,
        })
    }

    /// The format that content begins with the signature of. OBJ, STL and columns have none.
    fn from_content(bytes: &[u8]) -> Option<Self> {
        let first = without_mark(bytes).split(u8::is_ascii_whitespace).next()?;
        if first == b"ply" {
            Some(Self::Ply)
        } else if bytes.starts_with(gltf::MAGIC) {
            Some(Self::Gltf)
        } else if off::keyword(first).is_some() {
            Some(Self::Off)
        } else if pcd::is_pcd(bytes) {
            Some(Self::Pcd)
        } else if bytes.starts_with(fin_core::npy::MAGIC) {
            Some(Self::Npy)
        } else {
            None
        }
    }
}

impl fmt::Display for MeshFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ply => "PLY",
            Self::Obj => "OBJ",
            Self::Off => "OFF",
            Self::Stl => "STL",
            Self::Gltf => "glTF",
            Self::Pcd => "PCD",
            Self::Npy => "an array of NumPy",
            Self::Xyz => "columns of numbers",
        })
    }
}

fn is_finite(point: &[f32; 3]) -> bool {
    point.iter().all(|x| x.is_finite())
}

/// A vector scaled to length 1, or zero where that cannot be.
fn unit(vector: [f32; 3]) -> [f32; 3] {
    let vector = vector.map(f64::from);
    let length = dot(vector, vector).sqrt();
    if length > 0.0 && length.is_finite() {
        vector.map(|x| (x / length) as f32)
    } else {
        [0.0; 3]
    }
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn minus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

/// The vector along a triangle's normal that is twice its area long.
fn area_vector(corners: [[f32; 3]; 3]) -> [f64; 3] {
    let [a, b, c] = corners.map(|corner| corner.map(f64::from));
    cross(minus(b, a), minus(c, a))
}

fn twice_area(corners: [[f32; 3]; 3]) -> f64 {
    let vector = area_vector(corners);
    dot(vector, vector).sqrt()
}
