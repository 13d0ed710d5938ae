//! Prints the token ids of every line of stdin as a JSON list of lists.
//!
//! `cargo run --release -p fin-transformer --example token_ids -- MODEL_DIR < texts.txt`

use std::error::Error;
use std::io::{BufRead, stdin};

use fin_core::{DeviceSpec, Embedder};
use fin_transformer::{TextEmbedder, TextOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args()
        .nth(1)
        .ok_or("usage: token_ids MODEL_DIR < texts.txt")?;
    let device = DeviceSpec::default().open()?;
    let model = TextEmbedder::open(directory, &TextOptions::default(), &device)?;
    let texts: Vec<String> = stdin().lock().lines().collect::<Result<_, _>>()?;
    let ids: Vec<Vec<u32>> = model
        .preprocess(&texts)?
        .into_iter()
        .map(|text| text.ids)
        .collect();
    println!("{}", serde_json::to_string(&ids)?);
    Ok(())
}
