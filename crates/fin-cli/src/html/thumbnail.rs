//! Small pictures that are part of the page.

use fin_core::image::{Interpolation, RgbImage, resize};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageResult};

/// Pixels of the longest side, in the file and on the page.
const LONGEST_SIDE: usize = 96;

/// PNG is kept up to this many bytes: drawings and icons stay exact, photographs become JPEG.
const PNG_BYTES: usize = 4096;

/// Of 100.
const JPEG_QUALITY: u8 = 85;

/// A picture of 96 × 96 pixels at most, as an address that holds its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnail {
    address: String,
    width: usize,
    height: usize,
    magnified: usize,
}

impl Thumbnail {
    /// Shrinks an image that is larger. One that is at most half as large is stored as it is and
    /// shown with whole pixels repeated, so that 32 × 32 pixels fill the space too.
    ///
    /// # Errors
    ///
    /// Those of the encoders, to which the caller can add the file's name.
    pub fn new(image: &RgbImage) -> ImageResult<Self> {
        let longest = image.width().max(image.height());
        let shrunk;
        let image = if longest > LONGEST_SIDE {
            let side = |pixels: usize| {
                let scaled = pixels as f64 * LONGEST_SIDE as f64 / longest as f64;
                (scaled.round() as usize).max(1)
            };
            let (width, height) = (side(image.width()), side(image.height()));
            shrunk = resize(image, width, height, Interpolation::Bicubic);
            &shrunk
        } else {
            image
        };
        let (width, height) = (image.width(), image.height());

        let mut png = Vec::new();
        write(image, PngEncoder::new(&mut png))?;
        let (media, bytes) = if png.len() <= PNG_BYTES {
            ("image/png", png)
        } else {
            let mut jpeg = Vec::new();
            let encoder = JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY);
            write(image, encoder)?;
            ("image/jpeg", jpeg)
        };
        Ok(Self {
            address: format!("data:{media};base64,{}", base64::encode(bytes)),
            width,
            height,
            magnified: (LONGEST_SIDE / longest).max(1),
        })
    }

    /// The bytes as a `data:` address, which holds nothing that HTML would have to escape.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Width and height on the page.
    pub fn shown_size(&self) -> (usize, usize) {
        (self.width * self.magnified, self.height * self.magnified)
    }

    /// Whether a pixel of the file is several on the page.
    pub fn is_magnified(&self) -> bool {
        self.magnified > 1
    }
}

fn write(image: &RgbImage, encoder: impl ImageEncoder) -> ImageResult<()> {
    let (width, height) = (image.width() as u32, image.height() as u32);
    encoder.write_image(image.pixels(), width, height, ExtendedColorType::Rgb8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise, which no encoder makes small.
    fn noise(width: usize, height: usize) -> RgbImage {
        let mut state = 1u32;
        let value = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        RgbImage::new(width, height, (0..width * height * 3).map(value).collect()).unwrap()
    }

    fn plain(width: usize, height: usize) -> RgbImage {
        RgbImage::new(width, height, [200, 30, 90].repeat(width * height)).unwrap()
    }

    /// Media type and pixels of what an address holds.
    fn decoded(thumbnail: &Thumbnail) -> (&str, image::RgbImage) {
        let (media, data) = thumbnail.address().split_once(";base64,").unwrap();
        let bytes = base64::decode(data).unwrap();
        (media, image::load_from_memory(&bytes).unwrap().to_rgb8())
    }

    #[test]
    fn large_images_are_shrunk_and_keep_their_proportions() {
        for (size, expected) in [
            ((640, 480), (96, 72)),
            ((480, 640), (72, 96)),
            ((105, 105), (96, 96)),
            ((2000, 3), (96, 1)),
            ((1, 97), (1, 96)),
        ] {
            let thumbnail = Thumbnail::new(&plain(size.0, size.1)).unwrap();
            let (_, pixels) = decoded(&thumbnail);
            let found = (pixels.width() as usize, pixels.height() as usize);
            assert_eq!(found, expected, "{size:?}");
            assert_eq!(thumbnail.shown_size(), expected, "{size:?}");
            assert!(!thumbnail.is_magnified(), "{size:?}");
            assert_eq!(pixels.get_pixel(0, 0).0, [200, 30, 90], "{size:?}");
        }
    }

    #[test]
    fn small_images_are_kept_to_the_bit_and_shown_larger() {
        for (size, shown) in [
            ((32, 32), (96, 96)),
            ((28, 28), (84, 84)),
            ((20, 30), (60, 90)),
            ((1, 1), (96, 96)),
            ((49, 10), (49, 10)),
        ] {
            let image = noise(size.0, size.1);
            let thumbnail = Thumbnail::new(&image).unwrap();
            let (media, pixels) = decoded(&thumbnail);
            assert_eq!(media, "data:image/png");
            assert_eq!(pixels.as_raw().as_slice(), image.pixels(), "{size:?}");
            assert_eq!(thumbnail.shown_size(), shown, "{size:?}");
            assert_eq!(thumbnail.is_magnified(), shown != size, "{size:?}");
        }
    }

    #[test]
    fn what_png_makes_large_is_jpeg() {
        let (media, pixels) = {
            let thumbnail = Thumbnail::new(&noise(96, 64)).unwrap();
            let (media, pixels) = decoded(&thumbnail);
            (media.to_owned(), pixels)
        };
        assert_eq!(media, "data:image/jpeg");
        assert_eq!((pixels.width(), pixels.height()), (96, 64));
        let (media, _) = {
            let thumbnail = Thumbnail::new(&plain(96, 64)).unwrap();
            let (media, pixels) = decoded(&thumbnail);
            (media.to_owned(), pixels)
        };
        assert_eq!(media, "data:image/png");
    }
}
