//! glTF and GLB files.
//!
//! The first byte says how the rest becomes a file: as it is, or as the JSON and, after 0xFF, the
//! binary chunk of a GLB file with the lengths that belong to them.

#![no_main]

use fin_fuzz::{exercise_mesh, parts};
use fin_pointnet::mesh::MeshFormat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else { return };
    if kind % 2 == 0 {
        return exercise_mesh(MeshFormat::Gltf, "a.gltf", rest);
    }
    let [json, binary] = parts(rest);
    let mut chunks = Vec::new();
    for (kind, content) in [(b"JSON", json), (b"BIN\0", binary)] {
        let content = content.unwrap_or_default();
        chunks.extend((content.len() as u32).to_le_bytes());
        chunks.extend(kind);
        chunks.extend(content);
    }
    let mut file = b"glTF\x02\0\0\0".to_vec();
    file.extend((12 + chunks.len() as u32).to_le_bytes());
    file.extend(chunks);
    exercise_mesh(MeshFormat::Gltf, "a.glb", &file);
});
