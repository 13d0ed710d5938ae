//! glTF 2.0, as JSON with buffers beside it or in it, and as one binary file (GLB).
//!
//! The meshes of the default scene (or the first, or of all nodes where there is no scene) are
//! joined, each where its nodes put it. Triangles, strips and fans are read; points where there are
//! no triangles; lines are left aside, and so are skins and morph targets: the mesh is the one at
//! rest. A mirroring transformation turns the triangles, as the format asks for. Buffers are
//! `data:` URIs or files below the directory of the file. Extensions that compress geometry
//! (`KHR_draco_mesh_compression`, `EXT_meshopt_compression`) and unknown ones that the file says
//! are required are refused by name.
//!
//! The JSON is read by serde rather than by the crate `gltf`, which reads everything a scene can
//! have and panics where an accessor reaches beyond its buffer.

mod accessor;
mod document;
mod transform;

use std::cell::Cell;
use std::path::Path;

use fin_core::{Error, Result};

use self::accessor::{Buffers, Elements};
use self::document::{Accessor, Document, Node, Primitive, get};
use self::transform::Transform;
use super::Mesh;
use super::build::{Builder, Parsed, build, claim, fault};

/// Begins every GLB file.
pub(super) const MAGIC: &[u8] = b"glTF";
/// Types of a GLB file's chunks.
const JSON: &[u8] = b"JSON";
const BIN: &[u8] = b"BIN\0";

/// Nodes within nodes that are followed.
const DEEPEST: usize = 1000;

/// Primitives that any file may have, by repetition too, beside one a byte; gone through twice.
const MOST_PRIMITIVES: usize = 1 << 20;

const POINTS: u32 = 0;
const LINES: std::ops::RangeInclusive<u32> = 1..=3;
const TRIANGLES: u32 = 4;
const STRIP: u32 = 5;
const FAN: u32 = 6;

pub(super) fn read(bytes: &[u8], path: &Path) -> Result<Mesh> {
    let (json, binary) = if bytes.starts_with(MAGIC) {
        chunks(bytes).map_err(|problem| problem.at(path))?
    } else {
        (super::text::without_mark(bytes), None)
    };
    let document = Document::parse(json, bytes.len()).map_err(|problem| problem.at(path))?;
    let buffers = Buffers::open(&document, binary, path)?;
    // What was decoded counts as claimed; what was read from other files adds to the size.
    let size = (bytes.len() + buffers.read()).saturating_sub(buffers.held());
    let scene = Scene {
        document: &document,
        buffers: &buffers,
        size,
        has_triangles: document
            .meshes
            .iter()
            .flat_map(|mesh| &mesh.primitives)
            .any(|primitive| primitive.mode >= TRIANGLES),
        visited: Cell::new(0),
    };
    build(path, size, |builder| scene.walk(builder))
}

/// The JSON and the binary chunk of a GLB file.
fn chunks(bytes: &[u8]) -> Parsed<(&[u8], Option<&[u8]>)> {
    let number = |at: usize| -> Parsed<usize> {
        match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            Some(number) => Ok(u32::from_le_bytes(*number) as usize),
            None => fault(format!("the file ends within its header, at byte {at}")),
        }
    };
    let (version, length) = (number(4)?, number(8)?);
    if version != 2 {
        return fault(format!("is version {version} of GLB; version 2 is read"));
    }
    if length > bytes.len() {
        return fault(format!(
            "the header says {length} bytes, but the file has {}; it is cut off",
            bytes.len()
        ));
    }
    let chunk = |at: usize| -> Parsed<(&[u8], &[u8])> {
        let (length, kind) = (number(at)?, bytes.get(at + 4..at + 8).unwrap_or_default());
        match bytes.get(at + 8..).and_then(|rest| rest.get(..length)) {
            Some(content) => Ok((kind, content)),
            None => fault(format!(
                "the chunk at byte {at} says {length} bytes, but the file ends before"
            )),
        }
    };
    let (kind, json) = chunk(12)?;
    if kind != JSON {
        return fault("its first chunk is not of type JSON");
    }
    let mut at = 20 + json.len();
    while at < length.max(12) {
        let (kind, content) = chunk(at)?;
        if kind == BIN {
            return Ok((json, Some(content)));
        }
        at += 8 + content.len();
    }
    Ok((json, None))
}

struct Scene<'a> {
    document: &'a Document<'a>,
    buffers: &'a Buffers<'a>,
    size: usize,
    has_triangles: bool,
    /// Primitives gone through; a few bytes can ask for many.
    visited: Cell<usize>,
}

impl Scene<'_> {
    fn walk(&self, builder: &mut Builder) -> Parsed {
        let nodes = &self.document.nodes;
        if nodes.is_empty() {
            for mesh in 0..self.document.meshes.len() {
                self.mesh(mesh, &Transform::IDENTITY, builder)?;
            }
            return Ok(());
        }
        let mut seen = vec![false; nodes.len()];
        let scenes = &self.document.scenes;
        if let Some(scene) = self.document.scene.or((!scenes.is_empty()).then_some(0)) {
            for &root in &get(scenes, scene, "scene")?.nodes {
                self.tree(root, &mut seen, builder)?;
            }
            return Ok(());
        }
        let mut is_child = vec![false; nodes.len()];
        for child in nodes.iter().flat_map(|node| &node.children) {
            if let Some(is_child) = is_child.get_mut(*child) {
                *is_child = true;
            }
        }
        for root in (0..nodes.len()).filter(|&node| !is_child[node]) {
            self.tree(root, &mut seen, builder)?;
        }
        Ok(())
    }

    /// A node and all below it.
    fn tree(&self, root: usize, seen: &mut [bool], builder: &mut Builder) -> Parsed {
        let mut enter = |index: usize, parent: &Transform| -> Parsed<(&Node, Transform)> {
            let node = get(&self.document.nodes, index, "node")?;
            if std::mem::replace(&mut seen[index], true) {
                return fault(format!(
                    "node {index} is its own ancestor or has two parents, which makes no tree"
                ));
            }
            let transform = parent.then(&Transform::of(node));
            if let Some(mesh) = node.mesh {
                self.mesh(mesh, &transform, builder)?;
            }
            Ok((node, transform))
        };
        // Nodes from the root down, each with its children that are left.
        let (node, transform) = enter(root, &Transform::IDENTITY)?;
        let mut path = vec![(node.children.iter(), transform)];
        while let Some((children, transform)) = path.last_mut() {
            let Some(&child) = children.next() else {
                path.pop();
                continue;
            };
            let (node, transform) = enter(child, &transform.clone())?;
            if path.len() == DEEPEST {
                return fault(format!("its nodes are nested more than {DEEPEST} deep"));
            }
            path.push((node.children.iter(), transform));
        }
        Ok(())
    }

    fn mesh(&self, index: usize, transform: &Transform, builder: &mut Builder) -> Parsed {
        let mesh = get(&self.document.meshes, index, "mesh")?;
        self.visited.set(self.visited.get() + mesh.primitives.len());
        if self.visited.get() > self.size + MOST_PRIMITIVES {
            return fault("its nodes repeat more primitives than a file of its size may claim");
        }
        for (i, primitive) in mesh.primitives.iter().enumerate() {
            let mode = primitive.mode;
            if LINES.contains(&mode) || mode == POINTS && self.has_triangles {
                continue;
            }
            if mode > FAN {
                return fault(format!("primitive {i} of mesh {index} has the mode {mode}"));
            }
            self.primitive(primitive, transform, builder)?;
        }
        Ok(())
    }

    fn primitive(
        &self,
        primitive: &Primitive,
        transform: &Transform,
        builder: &mut Builder,
    ) -> Parsed {
        let Some(position) = primitive.attributes.position else {
            return Ok(());
        };
        let accessors = &self.document.accessors;
        let position = get(accessors, position, "accessor")?;
        if position.buffer_view.is_none() && primitive.extensions.draco.is_some() {
            return fault(
                "is compressed by KHR_draco_mesh_compression; save it without compression",
            );
        }
        if position.count == 0 {
            return fault("an accessor has no elements");
        }
        let indices = match primitive.indices {
            Some(indices) => Some(get(accessors, indices, "accessor")?),
            None => None,
        };
        let corners = indices.map_or(position.count, |indices| indices.count);
        // Before anything is made or gone through that a few bytes can ask for.
        claim(
            self.size,
            builder.vertices().saturating_add(position.count),
            builder.triangles().saturating_add(corners / 3),
        )?;
        let before = builder.vertices();
        for place in self.vectors(position, "POSITION")? {
            let place = place?;
            match transform.is_identity() {
                true => builder.vertex_f32(place.map(|x| x as f32)),
                false => builder.vertex(transform.point(place)),
            }
        }
        if primitive.mode == POINTS {
            if let Some(normal) = primitive.attributes.normal {
                let normal = get(accessors, normal, "accessor")?;
                if normal.count != position.count {
                    return fault(format!(
                        "{} positions have {} normals",
                        position.count, normal.count
                    ));
                }
                for normal in self.vectors(normal, "NORMAL")? {
                    builder.normal(transform.normal(normal?).map(|x| x as f32));
                }
            }
            return Ok(());
        }
        let triangles = Triangles {
            mode: primitive.mode,
            mirrored: transform.mirrors(),
        };
        let mut corner = |vertex: u64| -> Parsed<u64> {
            if vertex >= position.count {
                return fault(format!(
                    "a triangle refers to vertex {vertex} (counted from 0) of {}",
                    position.count
                ));
            }
            Ok(before + vertex)
        };
        match indices {
            None => triangles.make((0..position.count).map(&mut corner), builder),
            Some(indices) => {
                let elements = Elements::<1>::new(self.document, self.buffers, indices, "SCALAR")?;
                if indices.is_signed_or_float() {
                    return fault("indices are not of an unsigned type");
                }
                triangles.make(elements.map(|index| corner(index?[0] as u64)), builder)
            }
        }
    }

    fn vectors(&self, accessor: &Accessor, what: &str) -> Parsed<Elements<'_, 3>> {
        if accessor.kind != "VEC3" {
            return fault(format!("{what} is of type {}, not VEC3", accessor.kind));
        }
        Elements::new(self.document, self.buffers, accessor, "VEC3")
    }
}

/// How corners make triangles.
struct Triangles {
    mode: u32,
    mirrored: bool,
}

impl Triangles {
    fn make(&self, corners: impl Iterator<Item = Parsed<u64>>, builder: &mut Builder) -> Parsed {
        let mut held = [0; 3];
        let mut count = 0_u64;
        for corner in corners {
            let corner = corner?;
            // The corners so far of this triangle, or the ones that the next begins with.
            let place = match self.mode {
                TRIANGLES => (count % 3) as usize,
                _ => count.min(2) as usize,
            };
            held[place] = corner;
            count += 1;
            if place < 2 {
                continue;
            }
            let [a, b, c] = held;
            let turned = self.mode == STRIP && count.is_multiple_of(2);
            let mut triangle = match self.mode {
                STRIP if turned => [a, c, b],
                // The format lists a fan's centre last.
                FAN => [b, c, a],
                _ => [a, b, c],
            };
            if self.mirrored {
                triangle.swap(1, 2);
            }
            for corner in triangle {
                if let Err(reason) = builder.corner(corner) {
                    return fault(reason);
                }
            }
            builder.end_polygon();
            match self.mode {
                STRIP => held = [b, c, c],
                FAN => held = [a, c, c],
                _ => {}
            }
        }
        if self.mode == TRIANGLES && !count.is_multiple_of(3) {
            return fault(format!("{count} corners make no whole number of triangles"));
        }
        Ok(())
    }
}

/// An [`Error`] about a file that another one refers to.
fn beside(path: &Path, uri: &str, reason: &str) -> Error {
    Error::invalid(
        path,
        format!("buffer `{}`: {reason}", super::text::shown(uri.as_bytes())),
    )
}
