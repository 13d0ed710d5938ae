//! Point clouds: columns, NumPy's arrays and PCD.
//!
//! The first byte says how the rest becomes a file: columns, of either extension; an array as it is,
//! or its dictionary and, after 0xFF, its data; PCD as it is, or a header and, after 0xFF,
//! compressed points, whose unfolded length the two bytes before the header are.

#![no_main]

use fin_fuzz::{exercise_mesh, parts};
use fin_pointnet::mesh::MeshFormat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else { return };
    match kind % 6 {
        0 => exercise_mesh(MeshFormat::Xyz, "a.xyz", rest),
        1 => exercise_mesh(MeshFormat::Xyz, "a.xyzrgb", rest),
        2 => exercise_mesh(MeshFormat::Npy, "a.npy", rest),
        3 => {
            let [dictionary, values] = parts(rest);
            let dictionary = dictionary.unwrap_or_default();
            let mut file = b"\x93NUMPY\x02\0".to_vec();
            file.extend((dictionary.len() as u32).to_le_bytes());
            file.extend(dictionary);
            file.extend(values.unwrap_or_default());
            exercise_mesh(MeshFormat::Npy, "a.npy", &file);
        }
        4 => exercise_mesh(MeshFormat::Pcd, "a.pcd", rest),
        _ => {
            let [low, high, rest @ ..] = rest else { return };
            let [header, packed] = parts(rest);
            let packed = packed.unwrap_or_default();
            let mut file = header.unwrap_or_default().to_vec();
            file.extend(b"\nDATA binary_compressed\n");
            file.extend((packed.len() as u32).to_le_bytes());
            file.extend(u32::from(u16::from_le_bytes([*low, *high])).to_le_bytes());
            file.extend(packed);
            exercise_mesh(MeshFormat::Pcd, "a.pcd", &file);
        }
    }
});
