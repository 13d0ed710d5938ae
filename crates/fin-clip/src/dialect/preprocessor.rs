//! `preprocessor_config.json` of `transformers`' `CLIPImageProcessor`, in its older and newer
//! forms, or the same within `processor_config.json`.

use std::path::{Path, PathBuf};

use fin_core::image::{ImageTransform, Interpolation, Resize};
use fin_core::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::section;
use crate::preprocessing::{CropRounding, MEAN, Preprocessing, STD};

pub(super) const FILE: &str = "preprocessor_config.json";
/// Where version 5 writes it.
pub(super) const PROCESSOR: &str = "processor_config.json";

/// Its names of the resized size, the crop, mean and standard deviation.
pub(super) const FIELDS: [&str; 4] = ["size", "crop_size", "image_mean", "image_std"];

#[derive(Debug, Deserialize)]
#[serde(default)]
struct PreprocessorJson {
    do_resize: bool,
    do_center_crop: bool,
    do_rescale: bool,
    do_normalize: bool,
    size: Size,
    crop_size: Size,
    resample: u8,
    rescale_factor: f64,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

impl Default for PreprocessorJson {
    fn default() -> Self {
        Self {
            do_resize: true,
            do_center_crop: true,
            do_rescale: true,
            do_normalize: true,
            size: Size::Side(224),
            crop_size: Size::Side(224),
            resample: 3,
            rescale_factor: RESCALE,
            image_mean: MEAN,
            image_std: STD,
        }
    }
}

const RESCALE: f64 = 1.0 / 255.0;

/// The older form is a number, the newer one says what it means.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Size {
    Side(usize),
    Shortest { shortest_edge: usize },
    Exact { height: usize, width: usize },
}

/// Pillow's numbers for its filters.
const FILTERS: [(u8, Interpolation); 4] = [
    (0, Interpolation::Nearest),
    (1, Interpolation::Lanczos),
    (2, Interpolation::Bilinear),
    (3, Interpolation::Bicubic),
];

/// What a directory says, and which file says it.
pub(super) fn read(directory: &Path) -> Result<(Preprocessing, PathBuf)> {
    let path = directory.join(FILE);
    if path.is_file() {
        let json = section::read(&path, "", &fin_core::json::read(&path)?)?;
        return Ok((from_json(&path, json)?, path));
    }
    let path = directory.join(PROCESSOR);
    if path.is_file() {
        let json: Value = fin_core::json::read(&path)?;
        let Some(json) = json.get("image_processor") else {
            return Err(Error::config(&path, "image_processor", "missing"));
        };
        let json = section::read(&path, "image_processor", json)?;
        return Ok((from_json(&path, json)?, path));
    }
    Err(Error::invalid(
        directory,
        format!("does not say how images are preprocessed; looked for {FILE} and {PROCESSOR}"),
    ))
}

fn from_json(path: &Path, json: PreprocessorJson) -> Result<Preprocessing> {
    for (field, on) in [
        ("do_rescale", json.do_rescale),
        ("do_normalize", json.do_normalize),
    ] {
        if !on {
            return Err(Error::config(
                path,
                field,
                "false is not supported; supported: true",
            ));
        }
    }
    if (json.rescale_factor - RESCALE).abs() > 1e-9 {
        let reason = format!("{} is not supported; supported: 1/255", json.rescale_factor);
        return Err(Error::config(path, "rescale_factor", reason));
    }
    let filter = FILTERS.iter().find(|(number, _)| *number == json.resample);
    let Some((_, interpolation)) = filter else {
        let reason = format!("{} is not supported; supported: 0 to 3", json.resample);
        return Err(Error::config(path, "resample", reason));
    };
    let resize = match json.size {
        Size::Side(side)
        | Size::Shortest {
            shortest_edge: side,
        } => Resize::ShorterSide(side),
        Size::Exact { height, width } => Resize::Exact([height, width]),
    };
    let crop = match json.crop_size {
        Size::Side(side) => [side, side],
        Size::Exact { height, width } => [height, width],
        Size::Shortest { .. } => {
            let reason = "a crop has a height and a width, or is a number for both";
            return Err(Error::config(path, "crop_size", reason));
        }
    };
    Ok(Preprocessing {
        transform: ImageTransform {
            resize: json.do_resize.then_some(resize),
            interpolation: *interpolation,
            crop: json.do_center_crop.then_some(crop),
            mean: json.image_mean,
            std: json.image_std,
        },
        crop: CropRounding::Down,
    })
}

/// The file's content.
pub(super) fn write(preprocessing: &Preprocessing) -> Result<Value> {
    let transform = &preprocessing.transform;
    let size = match transform.resize {
        Some(Resize::ShorterSide(side)) => json!({"shortest_edge": side}),
        Some(Resize::Exact([height, width])) => json!({"height": height, "width": width}),
        None => json!({"shortest_edge": 224}),
    };
    let [height, width] = transform.crop.unwrap_or([224, 224]);
    let filter = FILTERS
        .iter()
        .find(|(_, filter)| *filter == transform.interpolation);
    let resample = filter.map_or(3, |(number, _)| *number);
    let numbers = |values: [f32; 3]| values.map(shortest);
    Ok(json!({
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_resize": transform.resize.is_some(),
        "size": size,
        "resample": resample,
        "do_center_crop": transform.crop.is_some(),
        "crop_size": {"height": height, "width": width},
        "do_rescale": true,
        "rescale_factor": RESCALE,
        "do_normalize": true,
        "image_mean": numbers(transform.mean),
        "image_std": numbers(transform.std),
        "do_convert_rgb": true,
    }))
}

/// The shortest decimal of an f32, as a number of JSON.
pub(super) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
