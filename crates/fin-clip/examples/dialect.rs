//! Writes a CLIP directory anew in a dialect: `transformers`, `sentence-transformers` or
//! `open_clip`.
//!
//! `cargo run --release -p fin-clip --example dialect -- MODEL_DIR open_clip OUT_DIR`

use std::path::Path;

use fin_clip::{ClipEmbedder, ClipOptions, Dialect};
use fin_core::{DeviceSpec, Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, dialect, target] = &arguments[..] else {
        let reason = "a model directory, a dialect and a new directory are needed";
        return Err(Error::argument("arguments", reason));
    };
    let dialect = Dialect::from_name(dialect).ok_or_else(|| {
        let names = Dialect::ALL.map(Dialect::name).join(", ");
        Error::argument("dialect", format!("`{dialect}` is none; accepted: {names}"))
    })?;
    let device = DeviceSpec::Flex.open()?;
    let model = ClipEmbedder::open(source, &ClipOptions::default(), &device)?;
    println!("{}", model.report());
    model.save_as(dialect, Path::new(target))
}
