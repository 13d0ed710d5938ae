//! Towers whose layers are held in 8 bits.

use std::path::Path;

use fin_clip::{ClipEmbedder, ClipOptions};
use fin_core::{BatchLimits, DeviceSpec, Embedder, Precision};

#[test]
fn both_towers_are_close_to_themselves_in_f32_and_are_not_saved() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/clip");
    let device = DeviceSpec::Flex.open().unwrap();
    let texts = ["a photo of a cat", "a dog in the rain", ""].map(String::from);
    let images: Vec<_> = (0..3)
        .map(|i| fixtures.join(format!("images/{i}.png")))
        .collect();
    for name in ["transformers", "open_clip", "open_clip-xlm-roberta"] {
        let models = [Precision::F32, Precision::Int8].map(|precision| {
            let options = ClipOptions {
                precision,
                normalize: Some(true),
                ..ClipOptions::default()
            };
            ClipEmbedder::open(fixtures.join(name), &options, &device).unwrap()
        });
        let limits = BatchLimits::default();
        let of_texts = models
            .each_ref()
            .map(|model| model.encode_text(&texts, &device, limits).unwrap());
        let of_images = models
            .each_ref()
            .map(|model| model.encode_image(&images, &device, limits).unwrap());
        for [exact, coarse] in [of_texts, of_images] {
            assert_ne!(exact.values, coarse.values, "{name} is not in 8 bits");
            for i in 0..exact.rows() {
                let rows = exact.row(i).iter().zip(coarse.row(i));
                let cosine: f32 = rows.map(|(a, b)| a * b).sum();
                assert!(cosine > 0.999, "{name}, item {i}: cosine {cosine}");
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let saved = directory.path().join("saved");
        assert!(models[1].save(&saved).is_err() && !saved.exists());
    }
}
