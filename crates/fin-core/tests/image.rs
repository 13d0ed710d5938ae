//! Images of every format and kind against Pillow's pixels and torchvision's transforms of them,
//! and files that are to be refused. All come from `fixtures/images/generate.py`.

use std::path::{Path, PathBuf};

use fin_core::Error;
use fin_core::image::{
    ImageTransform, Interpolation, MAX_PIXELS, Resize, RgbImage, read_image, resize,
};
use safetensors::SafeTensors;
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/images")
}

fn read(name: &str) -> RgbImage {
    let path = fixtures().join("files").join(name);
    read_image(path, MAX_PIXELS).unwrap_or_else(|e| panic!("{e}"))
}

fn json(path: &str) -> Value {
    let text = std::fs::read_to_string(fixtures().join(path)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(format!("{name}.reference.safetensors"))).unwrap()
}

/// Largest difference from a reference of `[height, width, 3]`.
fn difference(found: &RgbImage, reference: &SafeTensors<'_>, name: &str) -> u8 {
    let expected = reference.tensor(name).unwrap();
    let size = [found.height(), found.width(), 3];
    assert_eq!(expected.shape(), size, "{name}");
    let values = found.pixels().iter().zip(expected.data());
    values.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// Reads every file of a folder and compares the pixels; returns their number.
fn all_are_pillows(folder: &str, reference: &SafeTensors<'_>) -> usize {
    let mut different = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(fixtures().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("large") {
            continue;
        }
        let image = read_image(&path, MAX_PIXELS).unwrap_or_else(|e| panic!("{e}"));
        let largest = difference(&image, reference, name);
        if largest > 0 {
            different.push(format!("{name} by {largest}"));
        }
        count += 1;
    }
    assert!(different.is_empty(), "{different:?}");
    count
}

#[test]
fn every_format_decodes_to_pillows_bits() {
    let bytes = bytes("files");
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    assert!(all_are_pillows("files", &reference) >= 50);
}

/// Every sampling, coding and colour, sizes that are no whole blocks, and files that are damaged
/// and read all the same. From `fixtures/images/jpegs.py`.
#[test]
fn every_kind_of_jpeg_decodes_to_pillows_bits() {
    let bytes = bytes("jpeg");
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let count = all_are_pillows("jpeg", &reference);
    assert_eq!(count, reference.len());
    assert!(count >= 140, "{count} files");
}

#[test]
fn larger_images_in_lossy_formats() {
    let bytes = bytes("large");
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    for name in ["large.webp", "large.jpg"] {
        assert_eq!(difference(&read(name), &reference, name), 0, "{name}");
    }
}

fn interpolation(case: &Value) -> Interpolation {
    serde_json::from_value(case["interpolation"].clone()).unwrap()
}

#[test]
fn resizing_is_pillows_to_the_bit() {
    let bytes = bytes("files");
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let image = read("rgb.png");
    let cases = json("files.reference.json");
    let cases = cases["resize"].as_array().unwrap();
    assert_eq!(cases.len(), 24);
    for (i, case) in cases.iter().enumerate() {
        let [height, width]: [usize; 2] = serde_json::from_value(case["size"].clone()).unwrap();
        let found = resize(&image, width, height, interpolation(case));
        let largest = difference(&found, &reference, &format!("resize.{i}"));
        assert_eq!(largest, 0, "{case}");
    }
}

#[test]
fn transforms_are_torchvisions_to_the_bit() {
    let bytes = bytes("files");
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let image = read("rgb.png");
    // Pillow's ROTATE_90 is against the clock.
    let (width, height) = (image.width(), image.height());
    let pixels = (0..width)
        .rev()
        .flat_map(|x| (0..height).map(move |y| (y * width + x) * 3))
        .flat_map(|at| image.pixels()[at..at + 3].to_vec());
    let turned = RgbImage::new(height, width, pixels.collect()).unwrap();
    let cases = json("files.reference.json");
    let cases = cases["transform"].as_array().unwrap();
    assert_eq!(cases.len(), 14);
    for (i, case) in cases.iter().enumerate() {
        let sizes: Option<Vec<usize>> = serde_json::from_value(case["resize"].clone()).unwrap();
        let transform = ImageTransform {
            resize: sizes.map(|sizes| match sizes[..] {
                [side] => Resize::ShorterSide(side),
                [height, width] => Resize::Exact([height, width]),
                _ => panic!("{case}"),
            }),
            interpolation: interpolation(case),
            crop: serde_json::from_value(case["crop"].clone()).unwrap(),
            mean: serde_json::from_value(case["mean"].clone()).unwrap(),
            std: serde_json::from_value(case["std"].clone()).unwrap(),
        };
        let image = if case["turned"] == true {
            &turned
        } else {
            &image
        };
        let found = transform.apply(image).unwrap();
        let expected = reference.tensor(&format!("transform.{i}")).unwrap();
        assert_eq!(
            expected.shape(),
            [3, found.height(), found.width()],
            "{case}"
        );
        let values: Vec<u8> = transform
            .normalize(&found)
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert!(values == expected.data(), "{case}");
    }
}

/// Resized to 256 and cropped to 224 with cubics, as before EfficientNet B0.
#[test]
fn a_whole_preset_from_a_file() {
    let bytes = bytes("large");
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let transform = ImageTransform {
        resize: Some(Resize::ShorterSide(256)),
        interpolation: Interpolation::Bicubic,
        crop: Some([224, 224]),
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
    let found = transform.apply(&read("large.webp")).unwrap();
    assert_eq!(difference(&found, &reference, "preset.efficientnet_b0"), 0);
}

#[test]
fn bad_files_are_refused_by_name() {
    let reasons = json("bad/reasons.json");
    let reasons = reasons.as_object().unwrap();
    assert!(reasons.len() >= 25);
    for (name, why) in reasons {
        let path = fixtures().join("bad").join(name);
        let error = match read_image(&path, MAX_PIXELS) {
            Err(error) => error,
            Ok(image) => panic!("{name} ({why}) was read as {image:?}"),
        };
        let message = error.to_string();
        println!("{message}");
        assert!(matches!(error, Error::InvalidFile { .. }), "{message}");
        assert!(message.contains(name), "{message}");
    }
    for name in ["bomb.png", "bomb.jpg", "bomb.gif", "bomb.bmp"] {
        let path = fixtures().join("bad").join(name);
        let message = read_image(path, MAX_PIXELS).unwrap_err().to_string();
        assert!(
            message.contains("more than the 100000000 allowed"),
            "{message}"
        );
    }
}

#[test]
fn the_limit_is_on_pixels_and_inclusive() {
    let path = fixtures().join("files/rgb.png");
    assert!(read_image(&path, 61 * 47).is_ok());
    let message = read_image(&path, 61 * 47 - 1).unwrap_err().to_string();
    assert!(message.contains("61 × 47"), "{message}");
}

#[test]
fn the_content_counts_and_not_the_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("picture.jpg");
    std::fs::copy(fixtures().join("files/rgb.png"), &path).unwrap();
    assert_eq!(read_image(&path, MAX_PIXELS).unwrap(), read("rgb.png"));
}

#[test]
fn missing_files_and_directories_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.png");
    for path in [directory.path(), &missing] {
        let error = read_image(path, MAX_PIXELS).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
}
