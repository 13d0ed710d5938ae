//! Image files to what the image tower takes.
//!
//! Both dialects resize the shorter side with Pillow's bicubic filter on 8-bit values, cut from the
//! middle and scale by mean and standard deviation: `transformers`' `CLIPImageProcessor` on Pillow
//! (`CLIPImageProcessorPil` of version 5, the "slow" one before) and `image_transform` of
//! open_clip. Pixels here are those, to the bit. The processors of `transformers` on torchvision
//! ("fast") resize in another arithmetic and differ by a level here and there.
//!
//! Where an odd number of rows or columns is cut away, the two begin in different places, and so
//! does [`Preprocessing`].

use fin_core::Result;
use fin_core::image::{ImageTransform, RgbImage};

/// From an image to the values that the image tower takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    /// Resizing, crop, mean and standard deviation.
    pub transform: ImageTransform,
    /// Where the crop begins.
    pub crop: CropRounding,
}

/// Where a crop from the middle begins if an odd number of rows or columns is too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CropRounding {
    /// `⌊n / 2⌋` (`transformers`).
    Down,
    /// `n / 2` rounded to the even neighbour (torchvision, and with it open_clip).
    HalfToEven,
}

/// OpenAI's mean of red, green and blue, which all published models have.
pub const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// The standard deviation to [`MEAN`].
pub const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

impl Preprocessing {
    /// Resizes and crops.
    ///
    /// # Errors
    /// Those of [`ImageTransform::apply`].
    pub fn apply(&self, image: &RgbImage) -> Result<RgbImage> {
        let (Some(size), CropRounding::Down) = (self.transform.crop, self.crop) else {
            return self.transform.apply(image);
        };
        let resized = ImageTransform {
            crop: None,
            ..self.transform.clone()
        };
        Ok(centre(resized.apply(image)?, size))
    }
}

/// Cuts `[height, width]` from the middle as `transformers`' `center_crop`, with black around
/// where there is less.
fn centre(image: RgbImage, [height, width]: [usize; 2]) -> RgbImage {
    // Where the old begins in the new, the new in the old, and how many are taken.
    let place = |old: usize, new: usize| match new > old {
        true => ((new - old).div_ceil(2), 0, old),
        false => (0, (old - new) / 2, new),
    };
    let (to_y, from_y, rows) = place(image.height(), height);
    let (to_x, from_x, columns) = place(image.width(), width);
    let mut pixels = vec![0; width * height * 3];
    for y in 0..rows {
        let from = ((from_y + y) * image.width() + from_x) * 3;
        let to = ((to_y + y) * width + to_x) * 3;
        let row = &image.pixels()[from..from + columns * 3];
        pixels[to..to + columns * 3].copy_from_slice(row);
    }
    RgbImage::new(width, height, pixels).unwrap_or(image)
}

#[cfg(test)]
mod tests {
    use fin_core::image::Interpolation;

    use super::*;

    fn cut(crop: CropRounding, width: usize, size: usize) -> Vec<u8> {
        let columns = (0..width).flat_map(|x| [10 + x as u8; 3]).collect();
        let image = RgbImage::new(width, 1, columns).unwrap();
        let preprocessing = Preprocessing {
            transform: ImageTransform {
                resize: None,
                interpolation: Interpolation::Bicubic,
                crop: Some([1, size]),
                mean: MEAN,
                std: STD,
            },
            crop,
        };
        let found = preprocessing.apply(&image).unwrap();
        found.pixels().iter().step_by(3).copied().collect()
    }

    #[test]
    fn odd_differences() {
        assert_eq!(cut(CropRounding::Down, 5, 2), [11, 12]);
        assert_eq!(cut(CropRounding::HalfToEven, 5, 2), [12, 13]);
        assert_eq!(cut(CropRounding::Down, 3, 2), [10, 11]);
        assert_eq!(cut(CropRounding::HalfToEven, 3, 2), [10, 11]);
        assert_eq!(cut(CropRounding::Down, 1, 4), [0, 0, 10, 0]);
        assert_eq!(cut(CropRounding::HalfToEven, 1, 4), [0, 10, 0, 0]);
    }
}
