//! Image files of every format that is read. Their memory is bounded by pixels, not by bytes.

#![no_main]

use fin_core::image::decode_image;
use fin_fuzz::check_error;
use libfuzzer_sys::fuzz_target;

const MOST_PIXELS: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    match decode_image(data, "image", MOST_PIXELS) {
        Ok(image) => {
            assert!((image.width() * image.height()) as u64 <= MOST_PIXELS);
            assert_eq!(image.pixels().len(), image.width() * image.height() * 3);
        }
        Err(error) => check_error(&error),
    }
});
