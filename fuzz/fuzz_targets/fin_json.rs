//! `fin.json`, which describes an image model, and the preprocessing in it.

#![no_main]

use fin_cnn::ModelConfig;
use fin_core::image::RgbImage;
use fin_fuzz::{check_error, put, scratch, within_limits};
use libfuzzer_sys::fuzz_target;

/// Pixels of a result that is still made here.
const MOST_PIXELS: usize = 1 << 18;

fuzz_target!(|data: &[u8]| {
    let path = scratch().join("fin.json");
    put(&path, data);
    within_limits(data.len(), || {
        let config = match ModelConfig::read(&path) {
            Ok(config) => config,
            Err(error) => return check_error(&error),
        };
        let network = config.architecture.config().expect("checked at reading");
        assert!(network.hidden_size() > 0);
        let [height, width] = config
            .preprocessing
            .output_size()
            .expect("checked at reading");
        if height * width > MOST_PIXELS {
            return;
        }
        for (width, height) in [(1, 1), (7, 3), (1, 64)] {
            let image = RgbImage::new(width, height, vec![200; width * height * 3]).unwrap();
            match config.preprocessing.apply(&image) {
                Ok(image) => drop(config.preprocessing.normalize(&image)),
                Err(error) => check_error(&error),
            }
        }
    });
});
