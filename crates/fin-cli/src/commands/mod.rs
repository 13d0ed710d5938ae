//! The commands.

pub mod check;
pub mod classify;
pub mod convert;
pub mod download;
pub mod encode;
pub mod eval;
pub mod fit;
pub mod init;
pub mod mine;
pub mod models;
pub mod search;
pub mod split;
pub mod synthesize;
pub mod wise_ft;
