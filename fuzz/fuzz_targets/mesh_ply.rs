//! PLY files.

#![no_main]

use fin_fuzz::exercise_mesh;
use fin_pointnet::mesh::MeshFormat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| exercise_mesh(MeshFormat::Ply, "a.ply", data));
