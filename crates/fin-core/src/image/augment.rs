//! Random changes to training images, as torchvision's transforms do them to images of Pillow.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{ImageTransform, RgbImage, resize};
use crate::error::{Error, Result};

/// Random changes to an image before the network sees it in training. What is drawn is a function
/// of a seed.
///
/// ```
/// use fin_core::image::{Augmentation, RandomCrop};
///
/// let augmentation = Augmentation {
///     crop: Some(RandomCrop { scale: [0.5, 1.0], ..RandomCrop::default() }),
///     flip: 0.5,
///     colour: None,
/// };
/// assert_eq!(augmentation.fault(), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// A random part of the image in place of the transform's resizing and cropping.
    pub crop: Option<RandomCrop>,
    /// Probability that left and right change places.
    pub flip: f64,
    /// Random changes of brightness, contrast, saturation and hue.
    pub colour: Option<ColourJitter>,
}

/// A part of random size, shape and place, resized to what the network takes: torchvision's
/// `RandomResizedCrop`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomCrop {
    /// Smallest and largest share of the image's area. Default: 0.08 and 1.
    pub scale: [f64; 2],
    /// Smallest and largest width over height. Default: 3/4 and 4/3.
    pub ratio: [f64; 2],
}

impl Default for RandomCrop {
    fn default() -> Self {
        Self {
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
        }
    }
}

/// Factors drawn from `1 − x` to `1 + x` (not below 0) for brightness, contrast and saturation, and
/// from `−hue` to `hue` turns of the colour circle, applied in random order: torchvision's
/// `ColorJitter`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColourJitter {
    /// Of the change from black.
    pub brightness: f64,
    /// Of the change from the image's mean grey.
    pub contrast: f64,
    /// Of the change from grey.
    pub saturation: f64,
    /// At most 0.5.
    pub hue: f64,
}

/// Draws of a part before the middle of the image is taken, as in torchvision.
const TRIES: usize = 10;

impl Augmentation {
    /// Random part, flip and colours of usual strength.
    pub fn standard() -> Self {
        Self {
            crop: Some(RandomCrop {
                scale: [0.5, 1.0],
                ..RandomCrop::default()
            }),
            flip: 0.5,
            colour: Some(ColourJitter {
                brightness: 0.2,
                contrast: 0.2,
                saturation: 0.2,
                hue: 0.0,
            }),
        }
    }

    /// The first field that cannot be used, and why.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if let Some(crop) = &self.crop {
            let [low, high] = crop.scale;
            if !(low > 0.0 && low <= high && high <= 1.0) {
                let reason = format!("{low} to {high}; shares above 0 and up to 1 are accepted");
                return Some(("crop.scale", reason));
            }
            let [low, high] = crop.ratio;
            if !(low > 0.0 && low <= high && high.is_finite()) {
                let reason = format!("{low} to {high}; numbers above 0 are accepted, in order");
                return Some(("crop.ratio", reason));
            }
        }
        if !(0.0..=1.0).contains(&self.flip) {
            let reason = format!("{}; a probability from 0 to 1 is accepted", self.flip);
            return Some(("flip", reason));
        }
        let colour = self.colour.unwrap_or_default();
        for (field, value, most) in [
            ("colour.brightness", colour.brightness, f64::MAX),
            ("colour.contrast", colour.contrast, f64::MAX),
            ("colour.saturation", colour.saturation, f64::MAX),
            ("colour.hue", colour.hue, 0.5),
        ] {
            if !(0.0..=most).contains(&value) {
                return Some((field, format!("{value} is not of the accepted range")));
            }
        }
        None
    }

    /// The image as the network is to see it: changed at random, in the size that `transform` gives.
    ///
    /// # Errors
    /// [`Error::Argument`] where a field cannot be used; those of [`ImageTransform::apply`].
    pub fn apply(
        &self,
        image: &RgbImage,
        transform: &ImageTransform,
        seed: u64,
    ) -> Result<RgbImage> {
        if let Some((field, reason)) = self.fault() {
            return Err(Error::argument(format!("augmentation.{field}"), reason));
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut image = match (&self.crop, transform.output_size()) {
            (Some(crop), Some([height, width])) => {
                let part = cut(image, crop.draw(image, &mut random));
                resize(&part, width, height, transform.interpolation)
            }
            _ => transform.apply(image)?,
        };
        // Always drawn, so that what follows does not depend on the probability.
        if random.random::<f64>() < self.flip {
            mirror(&mut image);
        }
        if let Some(colour) = &self.colour {
            colour.apply(&mut image, &mut random);
        }
        Ok(image)
    }
}

/// A rectangle within an image.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl RandomCrop {
    fn draw(&self, image: &RgbImage, random: &mut impl Rng) -> Part {
        let (width, height) = (image.width as f64, image.height as f64);
        let between = |random: &mut dyn Rng, [low, high]: [f64; 2]| {
            low + (high - low) * random.random::<f64>()
        };
        for _ in 0..TRIES {
            let area = width * height * between(random, self.scale);
            let ratio = between(random, self.ratio.map(f64::ln)).exp();
            let w = (area * ratio).sqrt().round_ties_even() as usize;
            let h = (area / ratio).sqrt().round_ties_even() as usize;
            if (1..=image.width).contains(&w) && (1..=image.height).contains(&h) {
                return Part {
                    left: random.random_range(0..=image.width - w),
                    top: random.random_range(0..=image.height - h),
                    width: w,
                    height: h,
                };
            }
        }
        // The middle, in the nearest shape that is allowed.
        let [low, high] = self.ratio;
        let (w, h) = match width / height {
            ratio if ratio < low => (width, (width / low).round_ties_even()),
            ratio if ratio > high => ((height * high).round_ties_even(), height),
            _ => (width, height),
        };
        let (w, h) = ((w as usize).max(1), (h as usize).max(1));
        Part {
            left: (image.width - w) / 2,
            top: (image.height - h) / 2,
            width: w,
            height: h,
        }
    }
}

fn cut(image: &RgbImage, part: Part) -> RgbImage {
    let rows = part.top..part.top + part.height;
    let pixels = rows
        .flat_map(|y| &image.row(y)[part.left * 3..(part.left + part.width) * 3])
        .copied()
        .collect();
    RgbImage {
        width: part.width,
        height: part.height,
        pixels,
    }
}

fn mirror(image: &mut RgbImage) {
    let width = image.width * 3;
    for row in image.pixels.chunks_exact_mut(width) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

impl ColourJitter {
    fn apply(&self, image: &mut RgbImage, random: &mut impl Rng) {
        let mut order = [0, 1, 2, 3];
        for i in (1..order.len()).rev() {
            order.swap(i, random.random_range(0..=i));
        }
        let mut factor = |strength: f64| {
            let low = (1.0 - strength).max(0.0);
            (low + (1.0 + strength - low) * random.random::<f64>()) as f32
        };
        let [brightness, contrast, saturation] =
            [self.brightness, self.contrast, self.saturation].map(&mut factor);
        let hue = self.hue * (2.0 * random.random::<f64>() - 1.0);
        for step in order {
            match step {
                0 if self.brightness > 0.0 => change_brightness(image, brightness),
                1 if self.contrast > 0.0 => change_contrast(image, contrast),
                2 if self.saturation > 0.0 => change_saturation(image, saturation),
                3 if self.hue > 0.0 => turn_hue(image, hue),
                _ => {}
            }
        }
    }
}

/// Pillow's `Image.blend` of one value: `from` at 0, `to` at 1, beyond them too.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let (from, to) = (f32::from(from), f32::from(to));
    // Cut, not rounded; out of range the conversion stops at the ends.
    (from + factor * (to - from)) as u8
}

/// ITU-R 601-2 luma as in Pillow's `convert("L")`.
fn luma(&[r, g, b]: &[u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

fn change_brightness(image: &mut RgbImage, factor: f32) {
    let table: [u8; 256] = std::array::from_fn(|value| blend(0, value as u8, factor));
    image
        .pixels
        .iter_mut()
        .for_each(|x| *x = table[usize::from(*x)]);
}

fn change_contrast(image: &mut RgbImage, factor: f32) {
    let pixels = image.pixels.as_chunks::<3>().0;
    let sum: u64 = pixels.iter().map(|pixel| u64::from(luma(pixel))).sum();
    let mean = (sum as f64 / pixels.len() as f64 + 0.5) as u8;
    let table: [u8; 256] = std::array::from_fn(|value| blend(mean, value as u8, factor));
    image
        .pixels
        .iter_mut()
        .for_each(|x| *x = table[usize::from(*x)]);
}

fn change_saturation(image: &mut RgbImage, factor: f32) {
    for pixel in image.pixels.as_chunks_mut::<3>().0 {
        let grey = luma(pixel);
        *pixel = pixel.map(|value| blend(grey, value, factor));
    }
}

/// Turns the hue by a share of the colour circle, in Pillow's HSV of 8 bits.
fn turn_hue(image: &mut RgbImage, turns: f64) {
    let shift = ((turns * 255.0) as i32).rem_euclid(256) as u8;
    for pixel in image.pixels.as_chunks_mut::<3>().0 {
        let [h, s, v] = to_hsv(*pixel);
        *pixel = from_hsv([h.wrapping_add(shift), s, v]);
    }
}

fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let part = |value: u8| f32::from(most - value) / range;
    let hue = if r == most {
        part(b) - part(g)
    } else if g == most {
        2.0 + part(r) - part(b)
    } else {
        4.0 + part(g) - part(r)
    };
    let hue = (hue / 6.0 + 1.0) % 1.0;
    let saturation = range / f32::from(most);
    [(hue * 255.0) as u8, (saturation * 255.0) as u8, most]
}

fn from_hsv([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let (saturation, value) = (f32::from(s) / 255.0, f32::from(v));
    let sixth = f32::from(h) * 6.0 / 255.0;
    let within = sixth - sixth.floor();
    let level = |share: f32| (value * (1.0 - share)).round() as u8;
    let (p, q, t) = (
        level(saturation),
        level(saturation * within),
        level(saturation * (1.0 - within)),
    );
    match sixth.floor() as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Interpolation, Resize};

    fn transform() -> ImageTransform {
        ImageTransform {
            resize: Some(Resize::ShorterSide(16)),
            interpolation: Interpolation::Bilinear,
            crop: Some([14, 14]),
            mean: [0.5; 3],
            std: [0.5; 3],
        }
    }

    fn image(width: usize, height: usize) -> RgbImage {
        let pixels = (0..width * height * 3).map(|i| (i * 37 % 251) as u8);
        RgbImage::new(width, height, pixels.collect()).unwrap()
    }

    #[test]
    fn a_seed_says_what_is_drawn_and_the_size_is_the_networks() {
        let standard = Augmentation {
            colour: Some(ColourJitter {
                hue: 0.1,
                ..Augmentation::standard().colour.unwrap()
            }),
            ..Augmentation::standard()
        };
        for image in [image(40, 23), image(1, 9), image(300, 2)] {
            let one = standard.apply(&image, &transform(), 1).unwrap();
            assert_eq!((one.width(), one.height()), (14, 14));
            assert_eq!(one, standard.apply(&image, &transform(), 1).unwrap());
            assert_ne!(one, standard.apply(&image, &transform(), 2).unwrap());
        }
    }

    #[test]
    fn without_anything_it_is_the_transform() {
        let image = image(40, 23);
        let same = Augmentation::default().apply(&image, &transform(), 1);
        assert_eq!(same.unwrap(), transform().apply(&image).unwrap());
    }

    #[test]
    fn a_flip_of_certainty_is_a_mirror() {
        let flip = Augmentation {
            flip: 1.0,
            ..Augmentation::default()
        };
        let image = image(40, 23);
        let plain = transform().apply(&image).unwrap();
        let mut mirrored = flip.apply(&image, &transform(), 5).unwrap();
        assert_ne!(mirrored, plain);
        mirror(&mut mirrored);
        assert_eq!(mirrored, plain);
    }

    /// The share of the area and the shape stay within what was asked for.
    #[test]
    fn parts_are_of_the_size_that_was_asked_for() {
        let crop = RandomCrop {
            scale: [0.2, 0.4],
            ..RandomCrop::default()
        };
        let image = image(200, 100);
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let (mut least, mut most) = (f64::MAX, 0.0f64);
        for _ in 0..200 {
            let part = crop.draw(&image, &mut random);
            assert!(part.left + part.width <= 200 && part.top + part.height <= 100);
            let share = (part.width * part.height) as f64 / 20_000.0;
            (least, most) = (least.min(share), most.max(share));
            let ratio = part.width as f64 / part.height as f64;
            assert!((0.72..1.38).contains(&ratio), "{ratio}");
        }
        assert!((0.19..0.23).contains(&least) && (0.37..0.41).contains(&most));
        // No part of a line has one of these shapes.
        let line = self::image(100, 1);
        let part = RandomCrop::default().draw(&line, &mut random);
        assert_eq!((part.width, part.height, part.left), (1, 1, 49));
    }

    #[test]
    fn colours_change_as_in_pillow() {
        let text = include_str!("../../../../fixtures/images/colours.json");
        let cases: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
        assert_eq!(cases.len(), 13);
        for case in &cases {
            let bytes =
                |field: &str| -> Vec<u8> { serde_json::from_value(case[field].clone()).unwrap() };
            let mut image = RgbImage::new(16, 16, bytes("input")).unwrap();
            let factor = case["factor"].as_f64().unwrap();
            match case["change"].as_str().unwrap() {
                "brightness" => change_brightness(&mut image, factor as f32),
                "contrast" => change_contrast(&mut image, factor as f32),
                "saturation" => change_saturation(&mut image, factor as f32),
                "hue" => turn_hue(&mut image, factor),
                other => panic!("{other}"),
            }
            assert_eq!(image.pixels, bytes("output"), "{} {factor}", case["change"]);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_field() {
        for (augmentation, field) in [
            (
                Augmentation {
                    flip: 1.5,
                    ..Augmentation::default()
                },
                "augmentation.flip",
            ),
            (
                Augmentation {
                    crop: Some(RandomCrop {
                        scale: [0.0, 1.0],
                        ..RandomCrop::default()
                    }),
                    ..Augmentation::default()
                },
                "augmentation.crop.scale",
            ),
            (
                Augmentation {
                    colour: Some(ColourJitter {
                        hue: 0.7,
                        ..ColourJitter::default()
                    }),
                    ..Augmentation::default()
                },
                "augmentation.colour.hue",
            ),
        ] {
            let error = augmentation
                .apply(&image(20, 20), &transform(), 0)
                .unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
