//! Processors from `preprocessor_config.json` and `processor_config.json`.

use std::path::Path;

use kyoka_core::nearest;
use kyoka_nn::{ConfigError, ConfigFields};
use serde_json::{Map, Value};

use super::{CropProcessor, Idefics3Processor, ImageProcessor, PatchShape, Qwen2VlProcessor, TargetSize};
use crate::{PixelScale, Resample};

/// Largest side that a configuration may ask for.
const MAX_SIDE: u64 = 16_384;
/// Largest number of pixels that a configuration may ask for.
const MAX_PIXELS: u64 = 1 << 28;

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
    pub fn from_folder(folder: &Path) -> Result<Self, ConfigError> {
        Fields(ConfigFields::of_processor(folder, "image_processor")?).processor()
    }

    /// The processor of a `preprocessor_config.json`.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        Fields(ConfigFields::read(path)?).processor()
    }

    /// The processor of the content of a `preprocessor_config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_config(fields: &Map<String, Value>, path: &Path) -> Result<Self, ConfigError> {
        Fields(ConfigFields::new(fields, path)).processor()
    }
}

impl PixelScale {
    /// How a checkpoint's processor scales pixels, whatever it does before; to [-1, 1] where the folder has none.
    ///
    /// # Errors
    /// As [`ImageProcessor::from_folder`], but a processor that is not known scales by what it states.
    pub fn from_folder(folder: &Path) -> Result<Self, ConfigError> {
        let files = ["processor_config.json", "preprocessor_config.json"];
        if !files.iter().any(|file| folder.join(file).is_file()) {
            let [mean, std] = Colours::Half.values();
            return Ok(Self::new(mean, std));
        }
        let fields = Fields(ConfigFields::of_processor(folder, "image_processor")?);
        fields.scale(match fields.family() {
            Ok(Family::Crop(_, colours)) => colours,
            _ => Colours::Half,
        })
    }
}

/// The fields of a processor's configuration.
struct Fields(ConfigFields);

impl Fields {
    fn processor(&self) -> Result<ImageProcessor, ConfigError> {
        Ok(match self.family()? {
            Family::Crop(resample, colours) => {
                let crop = self.0.flag("do_center_crop", true)?;
                let crop_size = if crop { Some(self.exact_size("crop_size")?) } else { None };
                ImageProcessor::Crop(CropProcessor { crop_size, ..self.whole(resample, colours)? })
            }
            Family::Whole(resample) => ImageProcessor::Crop(self.whole(resample, Colours::Half)?),
            Family::Idefics3 => ImageProcessor::Idefics3(self.idefics3()?),
            Family::Qwen2Vl => ImageProcessor::Qwen2Vl(self.qwen2_vl()?),
        })
    }

    fn family(&self) -> Result<Family, ConfigError> {
        let field = ["image_processor_type", "feature_extractor_type"]
            .into_iter()
            .find(|field| self.0.get(field).is_some())
            .unwrap_or("image_processor_type");
        let full = self.0.get(field).and_then(Value::as_str).unwrap_or_default();
        let name = full.strip_suffix("Fast").or_else(|| full.strip_suffix("Pil")).unwrap_or(full);
        let known = FAMILIES.iter().find(|(known, _)| *known == name);
        known.map(|&(_, family)| family).ok_or_else(|| {
            let names = FAMILIES.map(|(known, _)| known);
            let nearest = nearest(name, names).map_or_else(|| names.join(", "), str::to_owned);
            self.0.fault(field, &format!("a known processor (nearest: {nearest})"))
        })
    }

    fn whole(&self, resample: Resample, colours: Colours) -> Result<CropProcessor, ConfigError> {
        let size = if self.0.flag("do_resize", true)? { Some(self.target_size()?) } else { None };
        let (resample, scale) = (self.resample(resample)?, self.scale(colours)?);
        Ok(CropProcessor { size, crop_size: None, resample, scale })
    }

    fn idefics3(&self) -> Result<Idefics3Processor, ConfigError> {
        let longest_edge = if self.0.flag("do_resize", true)? {
            Some(self.0.part("size", "longest_edge", MAX_SIDE)?)
        } else {
            None
        };
        Ok(Idefics3Processor {
            longest_edge,
            tile: self.0.part("max_image_size", "longest_edge", MAX_SIDE)?,
            do_image_splitting: self.0.flag("do_image_splitting", true)?,
            resample: self.resample(Resample::Lanczos)?,
            scale: self.scale(Colours::Half)?,
        })
    }

    fn qwen2_vl(&self) -> Result<Qwen2VlProcessor, ConfigError> {
        // `min_pixels` and `max_pixels`, where given, stand above `size`.
        let bound = |name: &str, part: &str| match self.0.get(name) {
            None => self.0.part("size", part, MAX_PIXELS),
            Some(_) => self.0.count(name, None, MAX_PIXELS),
        };
        let bounds = [bound("min_pixels", "shortest_edge")?, bound("max_pixels", "longest_edge")?];
        if bounds[0] > bounds[1] {
            return Err(self.0.fault("size", "fewest pixels not above most pixels"));
        }
        let side = |name: &str| self.0.count(name, None, 1024);
        let patches = PatchShape {
            patch_size: side("patch_size")?,
            merge_size: side("merge_size")?,
            temporal_patch_size: side("temporal_patch_size")?,
        };
        Ok(Qwen2VlProcessor {
            pixels: self.0.flag("do_resize", true)?.then_some(bounds),
            patches,
            resample: self.resample(Resample::Bicubic)?,
            scale: self.scale(Colours::Clip)?,
        })
    }

    /// `size`: a number, `shortest_edge`, or height and width.
    fn target_size(&self) -> Result<TargetSize, ConfigError> {
        let edge = match self.0.get("size") {
            Some(Value::Object(parts)) => parts.get("shortest_edge").is_some_and(|edge| !edge.is_null()),
            Some(Value::Number(_)) => matches!(self.family()?, Family::Crop(..)),
            _ => false,
        };
        if !edge {
            let [height, width] = self.exact_size("size")?;
            return Ok(TargetSize::Exact(height, width));
        }
        Ok(TargetSize::ShortestEdge(if self.0.get("size").is_some_and(Value::is_number) {
            self.0.count("size", None, MAX_SIDE)?
        } else {
            self.0.part("size", "shortest_edge", MAX_SIDE)?
        }))
    }

    /// A number for a square, or height and width.
    fn exact_size(&self, name: &str) -> Result<[usize; 2], ConfigError> {
        if self.0.get(name).is_some_and(Value::is_number) {
            let side = self.0.count(name, None, MAX_SIDE)?;
            return Ok([side, side]);
        }
        Ok([self.0.part(name, "height", MAX_SIDE)?, self.0.part(name, "width", MAX_SIDE)?])
    }

    fn resample(&self, default: Resample) -> Result<Resample, ConfigError> {
        match self.0.get("resample") {
            None => Ok(default),
            Some(value) => value.as_u64().and_then(Resample::from_pillow).ok_or_else(|| {
                self.0.fault("resample", "0 (nearest), 1 (Lanczos), 2 (bilinear) or 3 (bicubic)")
            }),
        }
    }

    fn scale(&self, colours: Colours) -> Result<PixelScale, ConfigError> {
        let [mean, std] = colours.values();
        let rescale_factor = match self.0.get("rescale_factor") {
            None => 1.0 / 255.0,
            Some(value) => value
                .as_f64()
                .filter(|factor| factor.is_finite() && *factor > 0.0)
                .ok_or_else(|| self.0.fault("rescale_factor", "a number above 0"))?,
        };
        let normalize = self.0.flag("do_normalize", true)?;
        let channels = |name: &str, default: [f32; 3], lowest: f32| match self.0.get(name) {
            None => Ok(default),
            Some(value) => three(value)
                .filter(|values| values.iter().all(|value| value.is_finite() && *value > lowest))
                .ok_or_else(|| self.0.fault(name, "three numbers, those of image_std above 0")),
        };
        let (mean, std) = (channels("image_mean", mean, f32::MIN)?, channels("image_std", std, 0.0)?);
        Ok(PixelScale {
            rescale_factor: if self.0.flag("do_rescale", true)? { rescale_factor } else { 1.0 },
            image_mean: if normalize { mean } else { [0.0; 3] },
            image_std: if normalize { std } else { [1.0; 3] },
        })
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
    use std::fs;

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
    fn scales_are_read_of_any_processor() {
        let folder = tempfile::tempdir().unwrap();
        let scale = || PixelScale::from_folder(folder.path()).map_err(|error| error.to_string());
        let half = PixelScale::new([0.5; 3], [0.5; 3]);
        assert_eq!(scale(), Ok(half));
        let write = |config: Value| {
            fs::write(folder.path().join("preprocessor_config.json"), config.to_string()).unwrap();
        };
        write(json!({ "image_processor_type": "CLIPImageProcessor" }));
        let [mean, std] = Colours::Clip.values();
        assert_eq!(scale(), Ok(PixelScale::new(mean, std)));
        write(json!({ "image_processor_type": "Never", "image_mean": [0.1, 0.2, 0.3], "image_std": 0.4 }));
        assert_eq!(scale(), Ok(PixelScale::new([0.1, 0.2, 0.3], [0.4; 3])));
        write(json!({ "image_processor_type": "Never", "image_std": [0.1, 0.0, 0.3] }));
        assert!(scale().unwrap_err().contains("image_std"));
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
        assert!(matches!(ImageProcessor::from_folder(folder.path()), Err(ConfigError::Parse { .. })));
    }
}
