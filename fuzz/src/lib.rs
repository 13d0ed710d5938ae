//! What the targets share: memory that is counted, scratch files in memory, and the walk over
//! everything that an opened checkpoint offers.

pub mod pickle;

#[path = "../../crates/fin-core/tests/hostile/counting.rs"]
mod counting;

use std::path::{Path, PathBuf};

pub use counting::within_limits;
use fin_core::Error;
use fin_core::weights::{Checkpoint, DType};
use fin_pointnet::mesh::{Mesh, MeshFormat, render};

/// A directory in memory that is this process's own, made once.
pub fn scratch() -> PathBuf {
    let parent = Path::new("/dev/shm");
    let parent = if parent.is_dir() {
        parent
    } else {
        Path::new("/tmp")
    };
    let directory = parent.join(format!("fin-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a scratch directory");
    directory
}

/// Writes a scratch file in place of what it held.
pub fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a scratch file");
}

/// Opens a checkpoint of `size` bytes and reads all there is in it.
pub fn exercise_checkpoint(path: &Path, size: usize) {
    within_limits(size, || {
        let checkpoint = match Checkpoint::open(path) {
            Ok(checkpoint) => checkpoint,
            Err(error) => return check_error(&error),
        };
        assert!(!checkpoint.is_empty());
        assert_eq!(checkpoint.len(), checkpoint.iter().count());
        for (name, entry) in checkpoint.iter() {
            assert!(checkpoint.has_prefix(name));
            let read = checkpoint.read_f32(name);
            match (entry.dtype(), read) {
                (DType::I64 | DType::Other(_), read) => check_error(&read.unwrap_err()),
                (_, Ok(values)) => {
                    assert_eq!(
                        values.len(),
                        entry.shape().iter().product::<usize>(),
                        "{name}"
                    );
                }
                (_, Err(error)) => check_error(&error),
            }
        }
        if let Err(error) = checkpoint.check_finite() {
            check_error(&error);
        }
    });
}

/// Reads a mesh and uses what is in it.
pub fn exercise_mesh(format: MeshFormat, name: &str, bytes: &[u8]) {
    let path = scratch().join(name);
    let mesh = match within_limits(bytes.len(), || Mesh::read(format, bytes, &path)) {
        Ok(mesh) => mesh,
        Err(error) => return check_error(&error),
    };
    let count = mesh.vertices().len();
    assert!(count > 0 && mesh.vertices().iter().flatten().all(|x| x.is_finite()));
    let indices = mesh.triangles().iter().flatten();
    assert!(indices.copied().all(|i| (i as usize) < count));
    let points = mesh.sample(16, 0);
    assert!(points.len() == 16 && points.iter().flatten().all(|x| x.is_finite()));
    if let Some(oriented) = mesh.sample_oriented(16, 0) {
        assert_eq!(oriented.points, points);
        assert!(oriented.normals.iter().flatten().all(|x| x.abs() <= 1.001));
    }
    assert_eq!(render(&mesh, 8).len(), 8 * 8 * 3);
}

/// Errors can be printed, and are for the user: they say something.
pub fn check_error(error: &Error) {
    assert!(error.to_string().len() > 10);
}

/// Splits at the byte 0xFF, which no UTF-8 text holds; missing parts are `None`.
pub fn parts<const N: usize>(data: &[u8]) -> [Option<&[u8]>; N] {
    let mut parts = data.splitn(N, |byte| *byte == 0xFF);
    std::array::from_fn(|_| parts.next())
}
