//! Reading and writing of weights.
//!
//! A [`Checkpoint`] is an ordered set of named tensors from one or more files: safetensors
//! (one file, or shards with an index) or PyTorch's `.bin`/`.pth`/`.pt` (zip and legacy pickles).
//! Nothing is copied at opening: safetensors files are mapped into memory, and PyTorch storages
//! are read tensor by tensor. [`load`](fn@load) puts the tensors into a Burn module and reports every
//! tensor that was used, left over or missing; [`save_module`] writes a module as safetensors under
//! upstream key names.
//!
//! Files may be damaged or hostile. Offsets, shapes and counts are checked against the file
//! before anything is allocated by them: opening takes no more memory than the file has bytes
//! and 64 MiB, and no single allocation is beyond twice the file's size and 64 MiB.

mod archive;
mod checkpoint;
mod convert;
mod freeze;
mod load;
mod mapping;
mod parameters;
mod pickle;
mod pytorch;
mod safetensors;
mod save;

pub use checkpoint::{Checkpoint, DType, TensorEntry};
pub use convert::{FloatType, MappedTensor, Mapping, map, write_converted};
pub use freeze::{freeze, freeze_by, is_match};
pub use load::{LoadReport, Names, load};
pub use parameters::parameters;
pub use save::{save, save_module, state_dict};
