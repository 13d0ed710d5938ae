//! What of a glTF file's JSON is read.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::mesh::build::{Parsed, SLACK, fault};
use crate::mesh::text::shown;

/// Extensions that may be required without changing where vertices are, by their beginnings.
const HARMLESS: [&str; 8] = [
    "KHR_mesh_quantization",
    "KHR_materials_",
    "KHR_texture_",
    "EXT_texture_",
    "KHR_lights_",
    "KHR_animation_",
    "EXT_lights_",
    "MSFT_texture_",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document<'a> {
    pub(super) scene: Option<usize>,
    #[serde(default)]
    pub(super) scenes: Vec<Roots>,
    #[serde(default)]
    pub(super) nodes: Vec<Node>,
    #[serde(default)]
    pub(super) meshes: Vec<Primitives>,
    #[serde(default)]
    pub(super) accessors: Vec<Accessor<'a>>,
    #[serde(default)]
    pub(super) buffer_views: Vec<View>,
    #[serde(default, borrow)]
    pub(super) buffers: Vec<Buffer<'a>>,
    #[serde(default, borrow)]
    extensions_required: Vec<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Versioned<'a> {
    #[serde(borrow)]
    asset: Asset<'a>,
}

#[derive(Deserialize)]
struct Asset<'a> {
    #[serde(borrow)]
    version: Cow<'a, str>,
}

#[derive(Deserialize)]
pub(super) struct Roots {
    #[serde(default)]
    pub(super) nodes: Vec<usize>,
}

#[derive(Deserialize)]
pub(super) struct Node {
    #[serde(default)]
    pub(super) children: Vec<usize>,
    pub(super) mesh: Option<usize>,
    pub(super) matrix: Option<Box<[f64; 16]>>,
    pub(super) translation: Option<Box<[f64; 3]>>,
    pub(super) rotation: Option<Box<[f64; 4]>>,
    pub(super) scale: Option<Box<[f64; 3]>>,
}

#[derive(Deserialize)]
pub(super) struct Primitives {
    #[serde(default)]
    pub(super) primitives: Vec<Primitive>,
}

#[derive(Deserialize)]
pub(super) struct Primitive {
    #[serde(default)]
    pub(super) attributes: Attributes,
    pub(super) indices: Option<usize>,
    #[serde(default = "triangles")]
    pub(super) mode: u32,
    #[serde(default)]
    pub(super) extensions: Compression,
}

fn triangles() -> u32 {
    super::TRIANGLES
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "UPPERCASE", default)]
pub(super) struct Attributes {
    pub(super) position: Option<usize>,
    pub(super) normal: Option<usize>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Compression {
    #[serde(rename = "KHR_draco_mesh_compression")]
    pub(super) draco: Option<IgnoredAny>,
    #[serde(rename = "EXT_meshopt_compression", alias = "KHR_meshopt_compression")]
    pub(super) meshopt: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accessor<'a> {
    pub(super) buffer_view: Option<usize>,
    #[serde(default)]
    pub(super) byte_offset: u64,
    pub(super) component_type: u32,
    #[serde(default)]
    pub(super) normalized: bool,
    pub(super) count: u64,
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    pub(super) sparse: Option<Box<Sparse>>,
}

impl Accessor<'_> {
    pub(super) fn is_signed_or_float(&self) -> bool {
        !matches!(self.component_type, 5121 | 5123 | 5125)
    }
}

#[derive(Deserialize)]
pub(super) struct Sparse {
    pub(super) count: u64,
    pub(super) indices: SparseIndices,
    pub(super) values: SparseValues,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SparseIndices {
    pub(super) buffer_view: usize,
    #[serde(default)]
    pub(super) byte_offset: u64,
    pub(super) component_type: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SparseValues {
    pub(super) buffer_view: usize,
    #[serde(default)]
    pub(super) byte_offset: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    pub(super) buffer: usize,
    #[serde(default)]
    pub(super) byte_offset: u64,
    pub(super) byte_length: u64,
    #[serde(default)]
    pub(super) byte_stride: u64,
    #[serde(default)]
    pub(super) extensions: Compression,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Buffer<'a> {
    #[serde(borrow)]
    pub(super) uri: Option<Cow<'a, str>>,
    pub(super) byte_length: u64,
}

impl<'a> Document<'a> {
    /// Reads the JSON of a file of `size` bytes.
    pub(super) fn parse(json: &'a [u8], size: usize) -> Parsed<Self> {
        // What each opening bracket and each further value can make at most, lists as they grow.
        let claimed: u64 = (json.iter())
            .map(|byte| match byte {
                b'[' => 512,
                b'{' => 320,
                b',' => 32,
                _ => 0,
            })
            .sum();
        if claimed > size as u64 + SLACK {
            return fault(format!(
                "{size} bytes describe more than a file of this size may claim"
            ));
        }
        fn from<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Parsed<T> {
            serde_json::from_slice(json)
                .or_else(|error| fault(format!("is not the JSON of glTF: {error}")))
        }
        // First, because the form of everything else depends on it.
        let version = from::<Versioned>(json)?.asset.version;
        if !version.starts_with("2.") {
            return fault(format!(
                "is version {} of glTF; version 2 is read",
                shown(version.as_bytes())
            ));
        }
        let document: Self = from(json)?;
        for name in &document.extensions_required {
            if !HARMLESS.iter().any(|start| name.starts_with(start)) {
                return fault(format!(
                    "needs the extension {}, which is not read; save it without",
                    shown(name.as_bytes())
                ));
            }
        }
        Ok(document)
    }
}

/// The item that an index refers to.
pub(super) fn get<'a, T>(items: &'a [T], index: usize, what: &str) -> Parsed<&'a T> {
    match items.get(index) {
        Some(item) => Ok(item),
        None => fault(format!(
            "refers to {what} {index}, but there are {} (counted from 0)",
            items.len()
        )),
    }
}
