//! Preprocessing as data.

use serde::{Deserialize, Serialize};

use super::RgbImage;
use super::resample::{Interpolation, resize};
use crate::error::{Error, Result};

/// The size that an image is brought to before it is cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The shorter side gets this many pixels, the other one keeps the ratio, rounded down.
    ShorterSide(usize),
    /// Height and width, whatever becomes of the ratio.
    Exact([usize; 2]),
}

/// From an image to the values that a network takes, as torchvision's `ImageClassification`
/// presets do it to images of Pillow: resize, crop in the middle, divide by 255, subtract `mean`
/// and divide by `std`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTransform {
    /// Before the crop.
    pub resize: Option<Resize>,
    /// Of the resizing.
    pub interpolation: Interpolation,
    /// Height and width of what is cut from the middle. Where there is less, black is put around.
    pub crop: Option<[usize; 2]>,
    /// Mean of red, green and blue, in values from 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue, in values from 0 to 1.
    pub std: [f32; 3],
}

/// The most pixels of a side that can be asked for.
const MOST_SIDE: usize = 1 << 13;

/// The most pixels that a resized image may have before it is cropped. What asks for more is
/// thousands of times as long as it is wide.
const MOST_RESIZED: usize = 1 << 28;

impl ImageTransform {
    /// The first field that cannot be used, and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let resize = match self.resize {
            Some(Resize::ShorterSide(side)) => vec![side],
            Some(Resize::Exact(size)) => size.to_vec(),
            None => Vec::new(),
        };
        let crop = self.crop.map_or(Vec::new(), |size| size.to_vec());
        for (field, sides) in [("resize", resize), ("crop", crop)] {
            if let Some(side) = sides.iter().find(|side| !(1..=MOST_SIDE).contains(*side)) {
                let reason = format!("{side} pixels; 1 to {MOST_SIDE} are accepted");
                return Some((field, reason));
            }
        }
        if self.mean.iter().any(|mean| !mean.is_finite()) {
            return Some(("mean", "three numbers are needed".into()));
        }
        if self.std.iter().any(|std| !(std.is_finite() && *std > 0.0)) {
            return Some(("std", "three numbers above zero are needed".into()));
        }
        None
    }

    /// Height and width of the result, or `None` where they depend on the image.
    pub fn output_size(&self) -> Option<[usize; 2]> {
        match (self.crop, self.resize) {
            (Some(crop), _) => Some(crop),
            (None, Some(Resize::Exact(size))) => Some(size),
            (None, _) => None,
        }
    }

    /// The same for another size of the result, square, with the resizing scaled along.
    pub fn with_output_size(mut self, size: usize) -> Self {
        let scale = |pixels: usize, from: usize| {
            (pixels as f64 * size as f64 / from.max(1) as f64).round() as usize
        };
        self.resize = match (self.resize, self.crop) {
            (Some(Resize::ShorterSide(side)), Some([height, width])) => Some(Resize::ShorterSide(
                scale(side, height.min(width)).max(size),
            )),
            (Some(Resize::Exact([height, width])), Some([crop_height, crop_width])) => {
                Some(Resize::Exact([
                    scale(height, crop_height),
                    scale(width, crop_width),
                ]))
            }
            _ => Some(Resize::Exact([size, size])),
        };
        self.crop = Some([size, size]);
        self
    }

    /// Resizes and crops.
    ///
    /// # Errors
    /// [`Error::Argument`] where a field cannot be used, or the image is so long and thin that it
    /// would be resized beyond all measure.
    pub fn apply(&self, image: &RgbImage) -> Result<RgbImage> {
        if let Some((field, reason)) = self.fault() {
            return Err(Error::argument(format!("transform.{field}"), reason));
        }
        let size = match self.resize {
            None => [image.height, image.width],
            Some(Resize::Exact(size)) => size,
            Some(Resize::ShorterSide(side)) => {
                let (short, long) = if image.width <= image.height {
                    (image.width, image.height)
                } else {
                    (image.height, image.width)
                };
                // Python's `int(side * long / short)`.
                let other = ((side * long) as f64 / short as f64) as usize;
                if image.width <= image.height {
                    [other, side]
                } else {
                    [side, other]
                }
            }
        };
        let [height, width] = size;
        if height.saturating_mul(width) > MOST_RESIZED {
            let reason = format!(
                "an image of {} × {} pixels would become {width} × {height}; crop it first",
                image.width, image.height
            );
            return Err(Error::argument("transform.resize", reason));
        }
        let resized = resize(image, width, height, self.interpolation);
        Ok(match self.crop {
            Some(size) => centre(&resized, size),
            None => resized,
        })
    }

    /// The values of a resized and cropped image, `[3, height, width]`.
    pub fn normalize(&self, image: &RgbImage) -> Vec<f32> {
        let mut values = vec![0.0; image.pixels.len()];
        self.normalize_into(image, &mut values);
        values
    }

    /// [`ImageTransform::normalize`] into memory that is there already.
    ///
    /// # Panics
    /// Where `values` has not as many places as the image has values.
    pub fn normalize_into(&self, image: &RgbImage, values: &mut [f32]) {
        assert_eq!(values.len(), image.pixels.len(), "one place a value");
        let plane = image.width * image.height;
        for (channel, values) in values.chunks_exact_mut(plane).enumerate() {
            // A value has 256 states. The order of operations is torchvision's.
            let table: [f32; 256] = std::array::from_fn(|value| {
                (value as f32 / 255.0 - self.mean[channel]) / self.std[channel]
            });
            let pixels = image.pixels.as_chunks::<3>().0.iter();
            for (value, pixel) in values.iter_mut().zip(pixels) {
                *value = table[usize::from(pixel[channel])];
            }
        }
    }
}

/// Cuts `[height, width]` from the middle, with black around where there is less.
fn centre(image: &RgbImage, [height, width]: [usize; 2]) -> RgbImage {
    // Where the image begins in the result (when it is smaller) and the result in the image. An
    // odd difference is rounded down in the first case and to the even half in the second.
    let place = |old: usize, new: usize| {
        if new > old {
            ((new - old) / 2, 0, old)
        } else {
            let start = ((old - new) as f64 / 2.0).round_ties_even() as usize;
            (0, start, new)
        }
    };
    let (to_y, from_y, rows) = place(image.height, height);
    let (to_x, from_x, columns) = place(image.width, width);
    let mut pixels = vec![0; width * height * 3];
    for y in 0..rows {
        let old = &image.row(from_y + y)[from_x * 3..(from_x + columns) * 3];
        let start = ((to_y + y) * width + to_x) * 3;
        pixels[start..start + columns * 3].copy_from_slice(old);
    }
    RgbImage {
        width,
        height,
        pixels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transform() -> ImageTransform {
        ImageTransform {
            resize: Some(Resize::ShorterSide(256)),
            interpolation: Interpolation::Bilinear,
            crop: Some([224, 224]),
            mean: [0.5; 3],
            std: [0.5; 3],
        }
    }

    #[test]
    fn another_size_keeps_the_ratio_of_resize_and_crop() {
        let small = transform().with_output_size(112);
        assert_eq!(small.resize, Some(Resize::ShorterSide(128)));
        assert_eq!(small.output_size(), Some([112, 112]));
        let exact = ImageTransform {
            resize: Some(Resize::Exact([64, 64])),
            crop: None,
            ..transform()
        };
        assert_eq!(exact.output_size(), Some([64, 64]));
        assert_eq!(exact.with_output_size(32).output_size(), Some([32, 32]));
    }

    #[test]
    fn a_hair_of_an_image_is_refused_rather_than_blown_up() {
        let hair = RgbImage::new(1, 100_000, vec![0; 300_000]).unwrap();
        let error = transform().apply(&hair).unwrap_err().to_string();
        assert!(error.contains("1 × 100000"), "{error}");
    }

    #[test]
    fn zero_sizes_and_deviations_are_refused() {
        let image = RgbImage::new(2, 2, vec![0; 12]).unwrap();
        let mut zero = transform();
        zero.std[1] = 0.0;
        assert!(zero.apply(&image).unwrap_err().to_string().contains("std"));
        let mut zero = transform();
        zero.crop = Some([0, 3]);
        assert!(zero.apply(&image).unwrap_err().to_string().contains("crop"));
    }

    #[test]
    fn the_format_in_files() {
        let text = r#"{"resize":{"shorter_side":256},"interpolation":"bilinear","crop":[224,224],"mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5]}"#;
        assert_eq!(serde_json::to_string(&transform()).unwrap(), text);
        assert_eq!(
            serde_json::from_str::<ImageTransform>(text).unwrap(),
            transform()
        );
    }
}
