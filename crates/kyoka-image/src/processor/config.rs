//! Processors from `preprocessor_config.json` and `processor_config.json`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kyoka_core::nearest;
use serde_json::{Map, Value};

use super::{CropProcessor, Idefics3Processor, ImageProcessor, PatchShape, Qwen2VlProcessor, TargetSize};
use crate::{PixelScale, Resample};

/// Largest side that a configuration may ask for.
const MAX_SIDE: u64 = 16_384;
/// Largest number of pixels that a configuration may ask for.
const MAX_PIXELS: u64 = 1 << 28;

/// Why a processor could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is no JSON object, or has none for pictures.
    #[error("{path}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A field does not hold what it must.
    #[error("{path}: {field}: expected {expected}, got {got}")]
    Field {
        /// The file.
        path: PathBuf,
        /// Its name.
        field: String,
        /// What it must hold.
        expected: String,
        /// What it holds.
        got: String,
    },
}

/// Families by the names that transformers gives their processors, suffixes left out.
const FAMILIES: [(&str, Family); 8] = [
    ("CLIPImageProcessor", Family::Crop(Resample::Bicubic, Colours::Clip)),
    ("CLIPFeatureExtractor", Family::Crop(Resample::Bicubic, Colours::Clip)),
    ("BitImageProcessor", Family::Crop(Resample::Bicubic, Colours::Clip)),
    ("SiglipImageProcessor", Family::Whole(Resample::Bicubic)),
    ("ViTImageProcessor", Family::Whole(Resample::Bilinear)),
    ("SmolVLMImageProcessor", Family::Idefics3),
    ("Idefics3ImageProcessor", Family::Idefics3),
    ("Qwen2VLImageProcessor", Family::Qwen2Vl),
];

/// What a configuration means, and the defaults of what it leaves out.
#[derive(Clone, Copy)]
enum Family {
    /// The middle of a resized picture.
    Crop(Resample, Colours),
    /// The whole picture at one size.
    Whole(Resample),
    Idefics3,
    Qwen2Vl,
}

/// Mean and deviation of the channels.
#[derive(Clone, Copy)]
enum Colours {
    Clip,
    Half,
}

impl Colours {
    #[expect(clippy::excessive_precision, reason = "the digits that CLIP states")]
    fn values(self) -> [[f32; 3]; 2] {
        match self {
            Self::Clip => {
                [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]]
            }
            Self::Half => [[0.5; 3]; 2],
        }
    }
}

impl ImageProcessor {
    /// The processor of a checkpoint folder: `image_processor` within `processor_config.json` where that is there,
    /// else `preprocessor_config.json`.
    ///
    /// # Errors
    /// Names the file, and the field that is missing, negative, zero, of another kind or too large to be meant.
    pub fn from_folder(folder: &Path) -> Result<Self, ProcessorError> {
        let nested = folder.join("processor_config.json");
        if nested.is_file() {
            let content = read(&nested)?;
            if let Some(Value::Object(fields)) = content.get("image_processor") {
                return Fields { path: &nested, prefix: "image_processor.", fields }.processor();
            }
        }
        Self::from_file(&folder.join("preprocessor_config.json"))
    }

    /// The processor of a `preprocessor_config.json`.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_file(path: &Path) -> Result<Self, ProcessorError> {
        Fields { path, prefix: "", fields: &read(path)? }.processor()
    }

    /// The processor of the content of a `preprocessor_config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_config(fields: &Map<String, Value>, path: &Path) -> Result<Self, ProcessorError> {
        Fields { path, prefix: "", fields }.processor()
    }
}

fn read(path: &Path) -> Result<Map<String, Value>, ProcessorError> {
    let bytes = fs::read(path).map_err(|source| ProcessorError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ProcessorError::Parse { path: path.to_owned(), reason: error.to_string() })
}

/// The fields of a configuration, with the place they came from.
struct Fields<'a> {
    path: &'a Path,
    prefix: &'a str,
    fields: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn processor(&self) -> Result<ImageProcessor, ProcessorError> {
        Ok(match self.family()? {
            Family::Crop(resample, colours) => {
                let crop = self.flag("do_center_crop", true)?;
                let crop_size = if crop { Some(self.exact_size("crop_size")?) } else { None };
                ImageProcessor::Crop(CropProcessor { crop_size, ..self.whole(resample, colours)? })
            }
            Family::Whole(resample) => ImageProcessor::Crop(self.whole(resample, Colours::Half)?),
            Family::Idefics3 => ImageProcessor::Idefics3(self.idefics3()?),
            Family::Qwen2Vl => ImageProcessor::Qwen2Vl(self.qwen2_vl()?),
        })
    }

    fn family(&self) -> Result<Family, ProcessorError> {
        let field = ["image_processor_type", "feature_extractor_type"]
            .into_iter()
            .find(|field| self.fields.contains_key(*field))
            .unwrap_or("image_processor_type");
        let full = self.fields.get(field).and_then(Value::as_str).unwrap_or_default();
        let name = full.strip_suffix("Fast").or_else(|| full.strip_suffix("Pil")).unwrap_or(full);
        let known = FAMILIES.iter().find(|(known, _)| *known == name);
        known.map(|&(_, family)| family).ok_or_else(|| {
            let names = FAMILIES.map(|(known, _)| known);
            let nearest = nearest(name, names).map_or_else(|| names.join(", "), str::to_owned);
            self.fault(field, &format!("a known processor (nearest: {nearest})"))
        })
    }

    fn whole(&self, resample: Resample, colours: Colours) -> Result<CropProcessor, ProcessorError> {
        let size = if self.flag("do_resize", true)? { Some(self.target_size()?) } else { None };
        let (resample, scale) = (self.resample(resample)?, self.scale(colours)?);
        Ok(CropProcessor { size, crop_size: None, resample, scale })
    }

    fn idefics3(&self) -> Result<Idefics3Processor, ProcessorError> {
        let longest_edge = if self.flag("do_resize", true)? {
            Some(self.part("size", "longest_edge", MAX_SIDE)?)
        } else {
            None
        };
        Ok(Idefics3Processor {
            longest_edge,
            tile: self.part("max_image_size", "longest_edge", MAX_SIDE)?,
            do_image_splitting: self.flag("do_image_splitting", true)?,
            resample: self.resample(Resample::Lanczos)?,
            scale: self.scale(Colours::Half)?,
        })
    }

    fn qwen2_vl(&self) -> Result<Qwen2VlProcessor, ProcessorError> {
        // `min_pixels` and `max_pixels`, where given, stand above `size`.
        let bound = |name: &str, part: &str| match self.fields.get(name) {
            None | Some(Value::Null) => self.part("size", part, MAX_PIXELS),
            Some(value) => self.positive(name, Some(value), MAX_PIXELS),
        };
        let bounds = [bound("min_pixels", "shortest_edge")?, bound("max_pixels", "longest_edge")?];
        if bounds[0] > bounds[1] {
            return Err(self.fault("size", "fewest pixels not above most pixels"));
        }
        let side = |name: &str| self.positive(name, self.fields.get(name), 1024);
        let patches = PatchShape {
            patch_size: side("patch_size")?,
            merge_size: side("merge_size")?,
            temporal_patch_size: side("temporal_patch_size")?,
        };
        Ok(Qwen2VlProcessor {
            pixels: self.flag("do_resize", true)?.then_some(bounds),
            patches,
            resample: self.resample(Resample::Bicubic)?,
            scale: self.scale(Colours::Clip)?,
        })
    }

    /// `size`: a number, `shortest_edge`, or height and width.
    fn target_size(&self) -> Result<TargetSize, ProcessorError> {
        let edge = match self.fields.get("size") {
            Some(Value::Object(parts)) => parts.get("shortest_edge").is_some_and(|edge| !edge.is_null()),
            Some(Value::Number(_)) => matches!(self.family()?, Family::Crop(..)),
            _ => false,
        };
        if !edge {
            let [height, width] = self.exact_size("size")?;
            return Ok(TargetSize::Exact(height, width));
        }
        let number = self.fields.get("size").filter(|size| size.is_number());
        Ok(TargetSize::ShortestEdge(match number {
            Some(size) => self.positive("size", Some(size), MAX_SIDE)?,
            None => self.part("size", "shortest_edge", MAX_SIDE)?,
        }))
    }

    /// A number for a square, or height and width.
    fn exact_size(&self, name: &str) -> Result<[usize; 2], ProcessorError> {
        if let Some(size) = self.fields.get(name).filter(|size| size.is_number()) {
            let side = self.positive(name, Some(size), MAX_SIDE)?;
            return Ok([side, side]);
        }
        Ok([self.part(name, "height", MAX_SIDE)?, self.part(name, "width", MAX_SIDE)?])
    }

    /// A positive number within an object.
    fn part(&self, name: &str, part: &str, most: u64) -> Result<usize, ProcessorError> {
        let value = self.fields.get(name).and_then(|object| object.get(part));
        self.positive(&format!("{name}.{part}"), value, most)
    }

    fn positive(&self, field: &str, value: Option<&Value>, most: u64) -> Result<usize, ProcessorError> {
        let number = value.and_then(Value::as_u64).filter(|number| (1..=most).contains(number));
        let expected = format!("a number from 1 to {most}");
        number.map(|number| number as usize).ok_or_else(|| self.wrong(field, &expected, value))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, ProcessorError> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.fault(name, "true or false")),
        }
    }

    fn resample(&self, default: Resample) -> Result<Resample, ProcessorError> {
        match self.fields.get("resample") {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_u64().and_then(Resample::from_pillow).ok_or_else(|| {
                self.fault("resample", "0 (nearest), 1 (Lanczos), 2 (bilinear) or 3 (bicubic)")
            }),
        }
    }

    fn scale(&self, colours: Colours) -> Result<PixelScale, ProcessorError> {
        let [mean, std] = colours.values();
        let rescale_factor = match self.fields.get("rescale_factor") {
            None | Some(Value::Null) => 1.0 / 255.0,
            Some(value) => value
                .as_f64()
                .filter(|factor| factor.is_finite() && *factor > 0.0)
                .ok_or_else(|| self.fault("rescale_factor", "a number above 0"))?,
        };
        let normalize = self.flag("do_normalize", true)?;
        let channels = |name: &str, default: [f32; 3], lowest: f32| match self.fields.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => three(value)
                .filter(|values| values.iter().all(|value| value.is_finite() && *value > lowest))
                .ok_or_else(|| self.fault(name, "three numbers, those of image_std above 0")),
        };
        let (mean, std) = (channels("image_mean", mean, f32::MIN)?, channels("image_std", std, 0.0)?);
        Ok(PixelScale {
            rescale_factor: if self.flag("do_rescale", true)? { rescale_factor } else { 1.0 },
            image_mean: if normalize { mean } else { [0.0; 3] },
            image_std: if normalize { std } else { [1.0; 3] },
        })
    }

    fn fault(&self, field: &str, expected: &str) -> ProcessorError {
        self.wrong(field, expected, self.fields.get(field))
    }

    fn wrong(&self, field: &str, expected: &str, value: Option<&Value>) -> ProcessorError {
        let mut got = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
        if got.chars().count() > 80 {
            got = got.chars().take(80).chain(['…']).collect();
        }
        ProcessorError::Field {
            path: self.path.to_owned(),
            field: format!("{}{field}", self.prefix),
            expected: expected.to_owned(),
            got,
        }
    }
}

/// Three numbers, or one for all channels.
fn three(value: &Value) -> Option<[f32; 3]> {
    if let Some(number) = value.as_f64() {
        return Some([number as f32; 3]);
    }
    let values: Option<Vec<f32>> =
        value.as_array()?.iter().map(|value| value.as_f64().map(|value| value as f32)).collect();
    values?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(config: Value) -> Result<ImageProcessor, String> {
        let fields = config.as_object().unwrap();
        ImageProcessor::from_config(fields, Path::new("p.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn bounds_of_pixels_are_read_in_both_spellings() {
        let sizes = json!({ "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2 });
        let mut old = sizes.clone();
        old["image_processor_type"] = json!("Qwen2VLImageProcessor");
        let mut new = old.clone();
        old["min_pixels"] = json!(3136);
        old["max_pixels"] = json!(12_845_056);
        new["size"] = json!({ "shortest_edge": 3136, "longest_edge": 12_845_056 });
        let ImageProcessor::Qwen2Vl(read) = parse(old.clone()).unwrap() else { panic!("another family") };
        assert_eq!(read.pixels, Some([3136, 12_845_056]));
        assert_eq!(parse(old), parse(new));
    }

    #[test]
    fn a_number_is_the_shortest_edge_for_clip_and_a_square_for_vit() {
        let clip = json!({ "feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224 });
        let ImageProcessor::Crop(clip) = parse(clip).unwrap() else { panic!("another family") };
        assert_eq!((clip.size, clip.crop_size), (Some(TargetSize::ShortestEdge(224)), Some([224, 224])));
        let vit = json!({ "image_processor_type": "ViTImageProcessorFast", "size": 224 });
        let ImageProcessor::Crop(vit) = parse(vit).unwrap() else { panic!("another family") };
        assert_eq!((vit.size, vit.crop_size), (Some(TargetSize::Exact(224, 224)), None));
        assert_eq!(vit.resample, Resample::Bilinear);
    }

    #[test]
    fn broken_fields_are_named_with_their_file() {
        let siglip = |field: &str, value: Value| {
            let mut config = json!({
                "image_processor_type": "SiglipImageProcessor", "size": { "height": 40, "width": 40 },
            });
            config[field] = value;
            parse(config).unwrap_err()
        };
        for size in
            [json!({ "height": -1, "width": 4 }), json!({ "height": 0, "width": 4 }), json!({ "width": 4 })]
        {
            let error = siglip("size", size);
            assert!(
                error.starts_with("p.json: size.height: expected a number from 1 to 16384, got "),
                "{error}"
            );
        }
        assert!(siglip("size", json!({ "height": 1_u64 << 40, "width": 4 })).contains("size.height"));
        assert!(siglip("resample", json!(9)).contains("resample"));
        assert!(siglip("image_std", json!([0.5, 0.0, 0.5])).contains("image_std"));
        assert!(siglip("image_mean", json!([0.5, 0.5])).contains("image_mean"));
        assert!(siglip("rescale_factor", json!("a")).contains("rescale_factor"));
        assert!(siglip("do_normalize", json!(3)).contains("do_normalize"));
        let unknown = siglip("image_processor_type", json!("SiglipImageProcesor"));
        assert!(unknown.contains("nearest: SiglipImageProcessor"), "{unknown}");
    }

    #[test]
    fn a_missing_or_broken_file_is_named() {
        let missing = ImageProcessor::from_folder(Path::new("no/such")).unwrap_err().to_string();
        assert!(missing.starts_with("no/such/preprocessor_config.json: "), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("preprocessor_config.json"), "[1]").unwrap();
        assert!(matches!(ImageProcessor::from_folder(folder.path()), Err(ProcessorError::Parse { .. })));
    }
}
