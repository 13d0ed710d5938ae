//! Turns a published checkpoint into a model directory, whose `model.safetensors` the library of
//! the same network loads.
//!
//! `cargo run --release -p fin-cnn --example convert -- resnet50 resnet50-11ad3fa6.pth OUT_DIR`

use std::path::Path;

use fin_cnn::{ImageEmbedder, ImageOptions, ModelConfig};
use fin_core::{DeviceSpec, Embedder, Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [architecture, checkpoint, directory] = &arguments[..] else {
        let reason = "an architecture, a checkpoint and a new directory are needed";
        return Err(Error::argument("convert", reason));
    };
    let device = DeviceSpec::Flex.open()?;
    let config = ModelConfig::preset(architecture, None)?;
    let options = ImageOptions::default();
    let model = ImageEmbedder::open_checkpoint(checkpoint, &config, &options, &device)?;
    println!("{}", model.report());
    model.save(Path::new(directory))
}
