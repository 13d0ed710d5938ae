//! Image files to pixels, and pixels to what a network takes.
//!
//! [`read_image`] decodes JPEG, PNG, WebP, GIF (its first frame), BMP and TIFF, told apart by
//! their content, into an [`RgbImage`]. An [`ImageTransform`] is preprocessing as data: resizing,
//! cropping and scaling as torchvision's transforms do it to images of Pillow, to the last bit of
//! every pixel.
//!
//! | in the file | here, as Pillow's `convert("RGB")` has it |
//! | --- | --- |
//! | grey, 1 to 8 bits | the same in all three channels |
//! | palette | its colours |
//! | alpha | dropped: nothing is laid over a background |
//! | RGB or grey with alpha, 16 bits | the upper 8 bits |
//! | grey alone, 16 bits | cut at 255, so that all but the darkest is white |
//! | CMYK | converted without a colour profile |
//! | an EXIF orientation | turned and mirrored the way the picture was taken |
//!
//! Colour profiles are not applied. What Pillow does not open either, and TIFF with palettes,
//! YCbCr or floating-point samples, is an error. Pixels outside of a GIF's first frame are black.
//!
//! Every format decodes to the same bits as in Pillow. JPEG leaves its arithmetic to the decoder,
//! so fin has one of its own with that of libjpeg-turbo at its default settings: baseline and
//! progressive, grey, RGB, YCbCr, CMYK and YCCK, at any whole ratio of resolutions. Arithmetic
//! coding, lossless JPEG and 12 bits are errors. What is not the same is rare: what is made of a
//! damaged file that is read all the same, of a progressive one whose later scans were left out,
//! and of JPEG data inside TIFF, which the `image` crate decodes and rounds in its own way.
//!
//! ```
//! use fin_core::image::{ImageTransform, Interpolation, Resize, RgbImage};
//!
//! let transform = ImageTransform {
//!     resize: Some(Resize::ShorterSide(256)),
//!     interpolation: Interpolation::Bilinear,
//!     crop: Some([224, 224]),
//!     mean: [0.485, 0.456, 0.406],
//!     std: [0.229, 0.224, 0.225],
//! };
//! let image = RgbImage::new(640, 480, vec![128; 640 * 480 * 3]).unwrap();
//! let pixels = transform.apply(&image)?;
//! assert_eq!((pixels.width(), pixels.height()), (224, 224));
//! assert_eq!(transform.normalize(&pixels).len(), 3 * 224 * 224);
//! # Ok::<(), fin_core::Error>(())
//! ```

mod augment;
mod decode;
mod files;
mod jpeg;
mod resample;
mod transform;

pub use augment::{Augmentation, ColourJitter, RandomCrop};
pub use decode::{MAX_PIXELS, decode_image, read_image};
pub use files::{image_files, images_by_class, is_image_path};
pub use resample::{Interpolation, resize};
pub use transform::{ImageTransform, Resize};

/// An image of 8-bit red, green and blue.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// An image of row-major `[height, width, 3]` values, or `None` where their number is another
    /// or there is no pixel.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Option<Self> {
        let values = width.checked_mul(height)?.checked_mul(3)?;
        (values > 0 && values == pixels.len()).then_some(Self {
            width,
            height,
            pixels,
        })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Row-major `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// One row, `[width, 3]`.
    fn row(&self, y: usize) -> &[u8] {
        &self.pixels[y * self.width * 3..(y + 1) * self.width * 3]
    }
}

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({} × {})", self.width, self.height)
    }
}
