//! From components of any resolution to red, green and blue.

/// Samples of one component, in whole blocks.
pub(super) struct Plane {
    pub(super) samples: Vec<u8>,
    pub(super) stride: usize,
    /// What of it belongs to the picture.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Pixels to a sample, across and down.
    pub(super) ratio: [usize; 2],
}

impl Plane {
    fn row(&self, y: usize) -> &[u8] {
        &self.samples[y * self.stride..][..self.width]
    }

    /// A row at full resolution, in the first values of `out`; `sums` is space to work in. Both
    /// have room for `width * ratio[0]` values.
    ///
    /// As in libjpeg, what is stored at half the resolution is interpolated: samples lie in the
    /// middle of their pixels, so that a pixel is three quarters of its own sample and a quarter
    /// of the one on its other side. Components of one or two columns and other ratios are
    /// repeated.
    pub(super) fn upsample(&self, y: usize, sums: &mut [u16], out: &mut [u8]) {
        let [across, down] = self.ratio;
        let near = self.row((y / down).min(self.height - 1));
        let far = if y.is_multiple_of(2) {
            (y / 2).saturating_sub(1)
        } else {
            (y / 2 + 1).min(self.height - 1)
        };
        // Interpolation across and down is rounded once, at the end; the halves are rounded down
        // and up in turn.
        match self.ratio {
            [1, 1] => out[..self.width].copy_from_slice(near),
            [1, 2] => {
                let round = 1 + (y % 2) as u16;
                for ((out, &near), &far) in out.iter_mut().zip(near).zip(self.row(far)) {
                    *out = ((3 * u16::from(near) + u16::from(far) + round) >> 2) as u8;
                }
            }
            [2, 1] if self.width > 2 => {
                for (sum, &near) in sums.iter_mut().zip(near) {
                    *sum = u16::from(near);
                }
                widen::<2>(&sums[..self.width], [1, 2], out);
            }
            [2, 2] if self.width > 2 => {
                for ((sum, &near), &far) in sums.iter_mut().zip(near).zip(self.row(far)) {
                    *sum = 3 * u16::from(near) + u16::from(far);
                }
                widen::<4>(&sums[..self.width], [8, 7], out);
            }
            _ => {
                for (out, &sample) in out.chunks_exact_mut(across).zip(near) {
                    out.fill(sample);
                }
            }
        }
    }
}

/// Two values for each of `input`, divided by two to the power of `BITS`.
fn widen<const BITS: u32>(input: &[u16], round: [u16; 2], out: &mut [u8]) {
    let value = |near: u16, far: u16, round: u16| ((3 * near + far + round) >> BITS) as u8;
    let last = input.len() - 1;
    let (first, end) = (input[0], input[last]);
    out[0] = value(first, first, round[0]);
    for (out, pair) in out[1..].chunks_exact_mut(2).zip(input.windows(2)) {
        out[0] = value(pair[0], pair[1], round[1]);
        out[1] = value(pair[1], pair[0], round[0]);
    }
    out[2 * last + 1] = value(end, end, round[1]);
}

/// What the components are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Grey,
    Rgb,
    /// T.871's luminance and two differences.
    Ycc,
    /// Inks, stored as what they leave, which is how Adobe's programs and Pillow have it.
    Cmyk,
    /// The same, the first three as luminance and differences.
    Ycck,
}

/// T.871's conversion in fixed point of 16 bits.
#[inline(always)]
fn rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let half = 1 << 15;
    [
        y + ((91_881 * cr + half) >> 16),
        y + ((-22_554 * cb - 46_802 * cr + half) >> 16),
        y + ((116_130 * cb + half) >> 16),
    ]
    .map(|value| value.clamp(0, 255) as u8)
}

/// What Pillow makes of an ink and black, without a colour profile: `left` is what black leaves.
fn inked(ink: u8, left: u8) -> u8 {
    let product = u32::from(ink) * u32::from(left) + 128;
    left.saturating_sub((((product >> 8) + product) >> 8) as u8)
}

/// Writes a row of pixels. `rows` are the components at full resolution.
pub(super) fn convert(colour: Colour, rows: &[Vec<u8>], out: &mut [u8]) {
    let pixels = out.chunks_exact_mut(3);
    match (colour, rows) {
        (Colour::Grey, [grey]) => {
            for (pixel, &grey) in pixels.zip(grey) {
                pixel.fill(grey);
            }
        }
        (Colour::Rgb, [r, g, b]) => {
            for (((pixel, &r), &g), &b) in pixels.zip(r).zip(g).zip(b) {
                pixel.copy_from_slice(&[r, g, b]);
            }
        }
        (Colour::Ycc, [y, cb, cr]) => {
            // In runs of pixels whose values are worked out side by side.
            const RUN: usize = 16;
            let runs = y.chunks(RUN).zip(cb.chunks(RUN)).zip(cr.chunks(RUN));
            for (out, ((y, cb), cr)) in out.chunks_mut(3 * RUN).zip(runs) {
                let mut values = [[0; 3]; RUN];
                for (((value, &y), &cb), &cr) in values.iter_mut().zip(y).zip(cb).zip(cr) {
                    *value = rgb([y, cb, cr]);
                }
                let count = out.len();
                out.copy_from_slice(&values.as_flattened()[..count]);
            }
        }
        (Colour::Cmyk | Colour::Ycck, [a, b, c, left]) => {
            for ((((pixel, &a), &b), &c), &left) in pixels.zip(a).zip(b).zip(c).zip(left) {
                let inks = match colour {
                    Colour::Cmyk => [a, b, c].map(|kept| 255 - kept),
                    // The complement of the conversion is what is kept.
                    _ => rgb([a, b, c]),
                };
                pixel.copy_from_slice(&inks.map(|ink| inked(ink, left)));
            }
        }
        _ => unreachable!("the colour is chosen by the number of components"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upsampled(ratio: [usize; 2], width: usize, samples: &[u8], y: usize) -> Vec<u8> {
        let plane = Plane {
            samples: samples.to_vec(),
            stride: width,
            width,
            height: samples.len() / width,
            ratio,
        };
        let mut out = vec![0; width * ratio[0]];
        plane.upsample(y, &mut vec![0; width], &mut out);
        out
    }

    #[test]
    fn halves_are_interpolated_to_a_quarter() {
        let row = [0, 100, 200];
        let wide = [0, 25, 75, 125, 175, 200];
        assert_eq!(upsampled([2, 1], 3, &row, 0), wide);
        assert_eq!(upsampled([2, 2], 3, &row, 1), wide);
        let found: Vec<u8> = (0..6).map(|y| upsampled([1, 2], 1, &row, y)[0]).collect();
        assert_eq!(found, wide);
        // (3 · 3 + 1) · 10 / 16, once rounded.
        let corner = [0, 0, 0, 0, 0, 0, 0, 0, 10];
        assert_eq!(upsampled([2, 2], 3, &corner, 5), [0, 0, 0, 2, 8, 10]);
        assert_eq!(upsampled([2, 2], 3, &corner, 4), [0, 0, 0, 2, 6, 7]);
        assert_eq!(upsampled([2, 2], 3, &corner, 3), [0, 0, 0, 1, 2, 2]);
    }

    #[test]
    fn narrow_and_coarser_components_are_repeated() {
        assert_eq!(upsampled([2, 1], 2, &[0, 100], 0), [0, 0, 100, 100]);
        assert_eq!(upsampled([2, 2], 2, &[0, 100], 1), [0, 0, 100, 100]);
        let four = upsampled([4, 1], 3, &[0, 100, 200], 0);
        assert_eq!(four, [0, 0, 0, 0, 100, 100, 100, 100, 200, 200, 200, 200]);
        assert_eq!(upsampled([1, 4], 1, &[0, 100], 5), [100]);
    }

    #[test]
    fn conversion_is_the_formula_rounded() {
        let mut largest = 0.0f64;
        for y in (0..=255).step_by(5) {
            for cb in (0..=255).step_by(3) {
                for cr in 0..=255 {
                    let found = rgb([y, cb, cr]);
                    let (y, cb, cr) = (f64::from(y), f64::from(cb) - 128.0, f64::from(cr) - 128.0);
                    let exact = [
                        y + 1.402 * cr,
                        y - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587,
                        y + 1.772 * cb,
                    ];
                    for (found, exact) in found.iter().zip(exact) {
                        let difference = f64::from(*found) - exact.clamp(0.0, 255.0);
                        largest = largest.max(difference.abs());
                    }
                }
            }
        }
        assert!(largest < 0.51, "{largest}");
    }

    #[test]
    fn inks_darken_what_black_leaves() {
        let pixel = |colour, values: [u8; 4]| {
            let mut out = [0; 3];
            convert(colour, &values.map(|value| vec![value]), &mut out);
            out
        };
        assert_eq!(pixel(Colour::Cmyk, [255; 4]), [255; 3]);
        assert_eq!(pixel(Colour::Cmyk, [255, 255, 255, 0]), [0; 3]);
        assert_eq!(pixel(Colour::Cmyk, [0, 255, 255, 255]), [0, 255, 255]);
        assert_eq!(pixel(Colour::Ycck, [0, 128, 128, 255]), [255; 3]);
        assert_eq!(pixel(Colour::Ycck, [255, 128, 128, 255]), [0; 3]);
    }
}
