//! Resizing as Pillow does it (`src/libImaging/Resample.c`, after the general idea of a
//! convolution whose kernel widens with the scale): coefficients in double precision, rounded to
//! 22 bits after the point, one pass along rows and one along columns, each rounded to 8 bits.
//! Rows come first, unless the height loses more than twice as many pixels as the width, as in
//! Pillow 13 (<https://github.com/python-pillow/Pillow/pull/9549>); in versions before, always.
//!
//! Resizers of other libraries follow the same plan with coefficients of 16 bits, for speed, and
//! are off by one here and there; a network's reference numbers are made with Pillow's.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::RgbImage;

/// How values between pixels are made; all but the first widen with the scale when an image
/// shrinks (antialiasing).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The pixel that the middle of the new one lies in.
    Nearest,
    /// A triangle.
    Bilinear,
    /// Cubics with a = −1/2 (Keys 1981).
    Bicubic,
    /// A sinc windowed by the middle of another, over three pixels to each side.
    Lanczos,
}

impl Interpolation {
    /// Distance at which the kernel becomes zero, in pixels of the larger scale.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn kernel(self, x: f64) -> f64 {
        match self {
            Self::Nearest => 1.0,
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Bicubic => {
                const A: f64 = -0.5;
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos => {
                let sinc = |x: f64| {
                    let x = x * PI;
                    if x == 0.0 { 1.0 } else { x.sin() / x }
                };
                if (-3.0..3.0).contains(&x) {
                    sinc(x) * sinc(x / 3.0)
                } else {
                    0.0
                }
            }
        }
    }
}

/// Bits after the point: 8 of an `i32` are the value's, 2 are left for kernels beyond 0 to 1.
const PRECISION: u32 = 32 - 8 - 2;

/// What one new pixel is made of: where the old ones start, and their shares.
struct Window {
    start: usize,
    shares: Vec<i32>,
}

/// The windows along an axis.
fn windows(old: usize, new: usize, interpolation: Interpolation) -> Vec<Window> {
    let scale = old as f64 / new as f64;
    let widened = scale.max(1.0);
    let support = interpolation.support() * widened;
    let window = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let start = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(old);
        let mut shares: Vec<f64> = (start..end)
            .map(|x| interpolation.kernel((x as f64 - centre + 0.5) * (1.0 / widened)))
            .collect();
        let sum: f64 = shares.iter().sum();
        if sum != 0.0 {
            shares.iter_mut().for_each(|share| *share /= sum);
        }
        let fixed = |share: f64| {
            let scaled = share * f64::from(1 << PRECISION);
            (if share < 0.0 {
                scaled - 0.5
            } else {
                scaled + 0.5
            }) as i32
        };
        Window {
            start,
            shares: shares.into_iter().map(fixed).collect(),
        }
    };
    (0..new).map(window).collect()
}

const HALF: i32 = 1 << (PRECISION - 1);

/// Rounds a sum of shares to 8 bits.
fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Resizes an image to `width` × `height` pixels, both at least 1.
pub fn resize(
    image: &RgbImage,
    width: usize,
    height: usize,
    interpolation: Interpolation,
) -> RgbImage {
    if (width, height) == (image.width, image.height) {
        return image.clone();
    }
    if interpolation == Interpolation::Nearest {
        return nearest(image, width, height);
    }
    if width == image.width {
        return along_columns(image, height, interpolation);
    }
    if height == image.height {
        return along_rows(image, width, interpolation);
    }
    // Which pass is first shows, as each rounds.
    let lost = |old: usize, new: usize| old as i64 - new as i64;
    let rows_lost = lost(image.height, height);
    if rows_lost > 0 && rows_lost > 2 * lost(image.width, width) {
        let short = along_columns(image, height, interpolation);
        along_rows(&short, width, interpolation)
    } else {
        let narrow = along_rows(image, width, interpolation);
        along_columns(&narrow, height, interpolation)
    }
}

fn along_rows(image: &RgbImage, width: usize, interpolation: Interpolation) -> RgbImage {
    let windows = windows(image.width, width, interpolation);
    let mut pixels = vec![0; width * image.height * 3];
    for (y, out) in pixels.chunks_exact_mut(width * 3).enumerate() {
        let row = image.row(y);
        for (window, out) in windows.iter().zip(out.as_chunks_mut::<3>().0) {
            let mut sums = [HALF; 3];
            let old = row[window.start * 3..].as_chunks::<3>().0;
            for (share, old) in window.shares.iter().zip(old) {
                for (sum, value) in sums.iter_mut().zip(old) {
                    *sum += share * i32::from(*value);
                }
            }
            *out = sums.map(rounded);
        }
    }
    RgbImage {
        width,
        height: image.height,
        pixels,
    }
}

fn along_columns(image: &RgbImage, height: usize, interpolation: Interpolation) -> RgbImage {
    let values = image.width * 3;
    let mut pixels = Vec::with_capacity(values * height);
    let mut sums = vec![HALF; values];
    for window in windows(image.height, height, interpolation) {
        sums.fill(HALF);
        for (i, share) in window.shares.iter().enumerate() {
            for (sum, value) in sums.iter_mut().zip(image.row(window.start + i)) {
                *sum += share * i32::from(*value);
            }
        }
        pixels.extend(sums.iter().map(|sum| rounded(*sum)));
    }
    RgbImage {
        width: image.width,
        height,
        pixels,
    }
}

/// The middle of every new pixel, found by adding up as Pillow does, rounding errors included.
fn nearest(image: &RgbImage, width: usize, height: usize) -> RgbImage {
    let places = |old: usize, new: usize| -> Vec<usize> {
        let step = old as f64 / new as f64;
        let mut at = step * 0.5;
        let place = |_| {
            let place = (at as usize).min(old - 1);
            at += step;
            place
        };
        (0..new).map(place).collect()
    };
    let columns = places(image.width, width);
    let mut pixels = Vec::with_capacity(width * height * 3);
    for y in places(image.height, height) {
        let row = image.row(y).as_chunks::<3>().0;
        pixels.extend(columns.iter().flat_map(|&x| row[x]));
    }
    RgbImage {
        width,
        height,
        pixels,
    }
}
