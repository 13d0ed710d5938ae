//! PointNet++ embedding models of meshes and point clouds.

pub mod mesh;
