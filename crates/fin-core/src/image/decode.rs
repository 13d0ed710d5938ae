//! Files to pixels.

use std::io::Cursor;
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, guess_format,
};

use super::RgbImage;
use super::jpeg::{Jpeg, Problem};
use crate::error::{Error, Result};

/// The usual largest number of pixels: 100 million, some 300 MB decoded.
pub const MAX_PIXELS: u64 = 100_000_000;

/// What the largest sensible file of one pixel takes: four channels of 16 bits.
const BYTES_PER_PIXEL: u64 = 8;

/// What a file may hold besides its pixels: metadata, thumbnails, further frames.
const BESIDES: u64 = 256 << 20;

const FORMATS: [(ImageFormat, &str); 6] = [
    (ImageFormat::Jpeg, "JPEG"),
    (ImageFormat::Png, "PNG"),
    (ImageFormat::WebP, "WebP"),
    (ImageFormat::Gif, "GIF"),
    (ImageFormat::Bmp, "BMP"),
    (ImageFormat::Tiff, "TIFF"),
];

/// Reads an image file of at most `max_pixels` pixels.
///
/// The format is told by the content, not by the extension, and the size by the header, before
/// memory is taken for the pixels.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read; [`Error::InvalidFile`] where it is no image, is
/// damaged or cut short, or has more pixels.
pub fn read_image(path: impl AsRef<Path>, max_pixels: u64) -> Result<RgbImage> {
    let path = path.as_ref();
    let size = std::fs::metadata(path)
        .map_err(Error::io(path, "open"))?
        .len();
    let most = max_pixels.saturating_mul(BYTES_PER_PIXEL) + BESIDES;
    if size > most {
        let reason = format!("{size} bytes are more than an image of {max_pixels} pixels takes");
        return Err(Error::invalid(path, reason));
    }
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    decode_image(&bytes, path, max_pixels)
}

/// [`read_image`] for the content of a file; `path` is what errors call it.
///
/// # Errors
/// As [`read_image`], but for [`Error::Io`].
pub fn decode_image(bytes: &[u8], path: impl AsRef<Path>, max_pixels: u64) -> Result<RgbImage> {
    let path = path.as_ref();
    if bytes.is_empty() {
        return Err(Error::invalid(path, "is empty; an image was expected"));
    }
    let known = guess_format(bytes)
        .ok()
        .and_then(|format| FORMATS.into_iter().find(|(known, _)| *known == format));
    let Some((format, name)) = known else {
        let names = FORMATS.map(|(_, name)| name).join(", ");
        return Err(Error::invalid(
            path,
            format!("is no image that can be read; readable are {names}"),
        ));
    };
    let (pixels, orientation) = if format == ImageFormat::Jpeg {
        jpeg(bytes, path, max_pixels)?
    } else {
        other(bytes, path, max_pixels, format, name)?
    };
    let mut turned = DynamicImage::ImageRgb8(pixels);
    turned.apply_orientation(orientation);
    let rgb = turned.into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    RgbImage::new(width, height, rgb.into_raw())
        .ok_or_else(|| Error::invalid(path, "the decoded image has no pixels"))
}

/// Refuses what the header says before memory is taken for it.
fn check_size(path: &Path, [width, height]: [u64; 2], max_pixels: u64) -> Result<()> {
    let pixels = width * height;
    if pixels == 0 {
        let reason = format!("the header says {width} × {height} pixels: there is no image");
        return Err(Error::invalid(path, reason));
    }
    if pixels > max_pixels {
        let reason = format!(
            "the header says {width} × {height} pixels, more than the {max_pixels} allowed; \
             scale the image down, or raise the limit if the file is trusted"
        );
        return Err(Error::invalid(path, reason));
    }
    Ok(())
}

/// The pixels of a JPEG file and how the picture was taken.
fn jpeg(bytes: &[u8], path: &Path, max_pixels: u64) -> Result<(::image::RgbImage, Orientation)> {
    let refused = |problem: Problem| {
        let reason = match problem {
            Problem::CutShort => "the JPEG image is cut short".to_owned(),
            Problem::Damaged(detail) => format!("the JPEG image is damaged ({detail})"),
            Problem::Unsupported(detail) => {
                format!("the JPEG image is of a kind that is not read ({detail})")
            }
        };
        Error::invalid(path, reason)
    };
    let jpeg = Jpeg::open(bytes).map_err(refused)?;
    let [width, height] = jpeg.size();
    check_size(path, [width as u64, height as u64], max_pixels)?;
    if !ends(bytes) {
        let reason = "the JPEG image ends before its end marker: the file was cut short";
        return Err(Error::invalid(path, reason));
    }
    let orientation = jpeg.exif().and_then(Orientation::from_exif_chunk);
    let pixels = jpeg.decode().map_err(refused)?;
    let rgb = ::image::RgbImage::from_raw(width as u32, height as u32, pixels)
        .ok_or_else(|| Error::invalid(path, "the decoded image has no pixels"))?;
    Ok((rgb, orientation.unwrap_or(Orientation::NoTransforms)))
}

/// The same of a file in any other format, by the `image` crate.
fn other(
    bytes: &[u8],
    path: &Path,
    max_pixels: u64,
    format: ImageFormat,
    name: &str,
) -> Result<(::image::RgbImage, Orientation)> {
    let damaged = |error: ImageError| Error::invalid(path, reason(name, &error));
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(2 * (max_pixels.saturating_mul(BYTES_PER_PIXEL) + BESIDES));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_size(path, [width.into(), height.into()], max_pixels)?;
    let orientation = orientation(&mut decoder, format).map_err(damaged)?;
    let decoded = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    let color = decoded.color();
    let rgb = rgb(decoded).ok_or_else(|| {
        let reason = format!("{name} images of {color:?} samples are not read; convert it to RGB");
        Error::invalid(path, reason)
    })?;
    Ok((rgb, orientation))
}

/// What is wrong, in words that do not depend on the decoder where they can.
fn reason(name: &str, error: &ImageError) -> String {
    // The decoder's own words are behind `image`'s, which repeat the format.
    let source = std::error::Error::source(error);
    let detail = source.map_or_else(|| error.to_string(), ToString::to_string);
    let detail = detail.trim();
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("the {name} image is cut short")
        }
        ImageError::Limits(_) => {
            format!("the {name} image asks for more memory than its size allows ({detail})")
        }
        ImageError::Unsupported(_) => {
            format!("the {name} image is of a kind that is not read ({detail})")
        }
        _ => format!("the {name} image is damaged ({detail})"),
    }
}

/// The orientation from EXIF, or from the tag of a TIFF file.
fn orientation(
    decoder: &mut impl ImageDecoder,
    format: ImageFormat,
) -> Result<Orientation, ImageError> {
    if format == ImageFormat::Tiff {
        return decoder.orientation();
    }
    let Some(chunk) = decoder.exif_metadata()? else {
        return Ok(Orientation::NoTransforms);
    };
    // Some writers keep JPEG's marker in front of it in other formats.
    let chunk = chunk.strip_prefix(b"Exif\0\0").unwrap_or(&chunk);
    Ok(Orientation::from_exif_chunk(chunk).unwrap_or(Orientation::NoTransforms))
}

/// Whether a JPEG stream comes to its end marker. The decoder makes up what is missing in coded
/// data; this finds it.
fn ends(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        // To the next marker: 0xFF and a byte that is neither fill, a stuffed zero, nor a restart.
        let Some(at) = rest.windows(2).position(|pair| {
            pair[0] == 0xff && !matches!(pair[1], 0x00 | 0x01 | 0xd0..=0xd7 | 0xff)
        }) else {
            return false;
        };
        let marker = rest[at + 1];
        rest = &rest[at + 2..];
        if marker == 0xd9 {
            return true;
        }
        // All others have a segment, its length first. Scan data follow without one.
        let Some(length) = rest.first_chunk::<2>() else {
            return false;
        };
        let length = usize::from(u16::from_be_bytes(*length)).max(2);
        let Some(after) = rest.get(length..) else {
            return false;
        };
        rest = after;
    }
}

/// Pillow's `convert("RGB")`; `None` for floating-point samples, which it does not open as colour.
fn rgb(image: DynamicImage) -> Option<::image::RgbImage> {
    let (width, height) = (image.width(), image.height());
    let upper = |value: u16| (value >> 8) as u8;
    let pixels: Vec<u8> = match image {
        DynamicImage::ImageRgb8(image) => return Some(image),
        DynamicImage::ImageLuma8(image) => image.into_raw().iter().flat_map(|&l| [l; 3]).collect(),
        DynamicImage::ImageLumaA8(image) => image.pixels().flat_map(|p| [p[0]; 3]).collect(),
        DynamicImage::ImageRgba8(image) => {
            image.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect()
        }
        DynamicImage::ImageLuma16(image) => image
            .pixels()
            .flat_map(|p| [p[0].min(255) as u8; 3])
            .collect(),
        DynamicImage::ImageLumaA16(image) => {
            image.pixels().flat_map(|p| [upper(p[0]); 3]).collect()
        }
        DynamicImage::ImageRgb16(image) => image.pixels().flat_map(|p| p.0.map(upper)).collect(),
        DynamicImage::ImageRgba16(image) => image
            .pixels()
            .flat_map(|p| [upper(p[0]), upper(p[1]), upper(p[2])])
            .collect(),
        _ => return None,
    };
    ::image::RgbImage::from_raw(width, height, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_jpeg_is_looked_for_outside_of_segments() {
        let start = [0xff, 0xd8];
        let thumbnail = [0xff, 0xe1, 0x00, 0x06, 0xff, 0xd9, 0x00, 0x00];
        let scan = [0xff, 0xda, 0x00, 0x02, 0x12, 0xff, 0x00, 0xff, 0xd0, 0x34];
        let whole = [&start[..], &thumbnail, &scan, &[0xff, 0xd9]].concat();
        assert!(ends(&whole));
        assert!(ends(&[&whole[..], b"what cameras append"].concat()));
        for cut in 2..whole.len() {
            assert!(!ends(&whole[..cut]), "{cut} bytes");
        }
    }
}
