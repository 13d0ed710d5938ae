//! Writes the points that a model takes of meshes, as `.npy` files `[points, 3]` under the names
//! of the meshes, for programs that are to see the same points.
//!
//! ```sh
//! cargo run --release --example sample_points -- MESHES POINTS CLOUDS
//! ```

use std::error::Error;
use std::path::Path;

use fin_pointnet::MeshOptions;
use fin_pointnet::mesh::{Mesh, mesh_files};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [meshes, points, clouds] = &arguments[..] else {
        return Err("three arguments are needed: MESHES POINTS CLOUDS".into());
    };
    let (meshes, clouds) = (Path::new(meshes), Path::new(clouds));
    let (count, seed) = (points.parse()?, MeshOptions::default().seed);
    for path in mesh_files(meshes)? {
        let target = clouds
            .join(path.strip_prefix(meshes)?)
            .with_extension("npy");
        if let Some(directory) = target.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let points = Mesh::open(&path)?.sample(count, seed);
        let header = format!(
            "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, 3), }}\n",
            points.len()
        );
        let mut file = b"\x93NUMPY\x01\0".to_vec();
        file.extend(u16::try_from(header.len())?.to_le_bytes());
        file.extend(header.into_bytes());
        let values = points.as_flattened().iter();
        file.extend(values.flat_map(|value| value.to_le_bytes()));
        std::fs::write(target, file)?;
    }
    Ok(())
}
