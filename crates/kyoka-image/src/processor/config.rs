//! Processors from `preprocessor_config.json` and `processor_config.json`; what they leave out is what transformers takes.

use std::{fs, path::Path};

use kyoka_core::nearest;
use kyoka_nn::{ConfigError, ConfigFields};
use serde::Deserialize;
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

/// Processors of models, for configurations that do not name theirs.
const MODELS: [(&str, &str); 12] = [
    ("clip", "CLIPImageProcessor"),
    ("clip_vision_model", "CLIPImageProcessor"),
    ("dinov2", "BitImageProcessor"),
    ("siglip", "SiglipImageProcessor"),
    ("siglip_vision_model", "SiglipImageProcessor"),
    ("vit", "ViTImageProcessor"),
    ("smolvlm", "SmolVLMImageProcessor"),
    ("idefics3", "Idefics3ImageProcessor"),
    ("qwen2_vl", "Qwen2VLImageProcessor"),
    ("qwen2_5_vl", "Qwen2VLImageProcessor"),
    ("qwen2_5_omni", "Qwen2VLImageProcessor"),
    ("qwen2_5_omni_thinker", "Qwen2VLImageProcessor"),
];

/// Side of the pictures of CLIP, DINOv2, SigLIP and ViT.
const SIDE: usize = 224;
/// Side of a tile of SmolVLM and Idefics3, and the longest side before a picture is split.
const TILE: usize = 364;
const LONGEST_EDGE: usize = 4 * TILE;
/// Fewest and most pixels of Qwen2-VL and its successors.
const PIXELS: [usize; 2] = [56 * 56, 28 * 28 * 1280];
/// Sides of their patches, patches a side that the merger takes together, frames of a patch.
const PATCHES: PatchShape = PatchShape { patch_size: 14, merge_size: 2, temporal_patch_size: 2 };

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
    /// else `preprocessor_config.json`. One that does not name its kind is that of the model in `config.json`; sizes and
    /// bounds that are left out are those of transformers.
    ///
    /// # Errors
    /// Names the file, and the field that is missing, negative, zero, of another kind or too large to be meant.
    pub fn from_folder(folder: &Path) -> Result<Self, ConfigError> {
        Fields::of_folder(folder)?.processor()
    }

    /// The processor of the content of a `preprocessor_config.json`, which must name its kind; `path` is for messages.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_config(fields: &Map<String, Value>, path: &Path) -> Result<Self, ConfigError> {
        Fields { fields: ConfigFields::new(fields, path), model: None }.processor()
    }
}

impl Model {
    /// The name of its processor.
    fn processor(&self) -> Option<&str> {
        let own = self.image_processor_type.as_deref();
        let known = MODELS.iter().find(|(model, _)| *model == self.model_type);
        own.or(known.map(|(_, processor)| *processor))
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
        let fields = Fields::of_folder(folder)?;
        fields.scale(match fields.family() {
            Ok(Family::Crop(_, colours)) => colours,
            _ => Colours::Half,
        })
    }
}

/// The fields of a processor's configuration, and the model it belongs to.
struct Fields {
    fields: ConfigFields,
    /// What `config.json` says of the model.
    model: Option<Model>,
}

/// The fields of `config.json` that tell which processor a model has.
#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    model_type: String,
    image_processor_type: Option<String>,
}

impl Fields {
    /// The configuration of a folder. A `config.json` that cannot be read is no concern of the processor's.
    fn of_folder(folder: &Path) -> Result<Self, ConfigError> {
        let fields = ConfigFields::of_processor(folder, "image_processor")?;
        let model = fs::read(folder.join("config.json")).ok();
        Ok(Self { fields, model: model.and_then(|json| serde_json::from_slice(&json).ok()) })
    }

    fn processor(&self) -> Result<ImageProcessor, ConfigError> {
        let family = self.family()?;
        Ok(match family {
            Family::Crop(resample, colours) => {
                let crop = self.fields.flag("do_center_crop", true)?;
                let crop_size = if crop { Some(self.exact_size("crop_size")?) } else { None };
                ImageProcessor::Crop(CropProcessor { crop_size, ..self.whole(family, resample, colours)? })
            }
            Family::Whole(resample) => ImageProcessor::Crop(self.whole(family, resample, Colours::Half)?),
            Family::Idefics3 => ImageProcessor::Idefics3(self.idefics3()?),
            Family::Qwen2Vl => ImageProcessor::Qwen2Vl(self.qwen2_vl()?),
        })
    }

    fn family(&self) -> Result<Family, ConfigError> {
        let field = ["image_processor_type", "feature_extractor_type"]
            .into_iter()
            .find(|field| self.fields.get(field).is_some())
            .unwrap_or("image_processor_type");
        let named = self.fields.get(field).map(|name| name.as_str().unwrap_or_default());
        let full = named.or_else(|| self.model.as_ref().and_then(Model::processor)).unwrap_or_default();
        let name = full.strip_suffix("Fast").or_else(|| full.strip_suffix("Pil")).unwrap_or(full);
        let known = FAMILIES.iter().find(|(known, _)| *known == name);
        known.map(|&(_, family)| family).ok_or_else(|| {
            let names = FAMILIES.map(|(known, _)| known);
            let nearest = nearest(name, names).map_or_else(|| names.join(", "), str::to_owned);
            self.fields.fault(field, &format!("a known processor (nearest: {nearest})"))
        })
    }

    fn whole(
        &self,
        family: Family,
        resample: Resample,
        colours: Colours,
    ) -> Result<CropProcessor, ConfigError> {
        let size = if self.fields.flag("do_resize", true)? { Some(self.target_size(family)?) } else { None };
        let (resample, scale) = (self.resample(resample)?, self.scale(colours)?);
        Ok(CropProcessor { size, crop_size: None, resample, scale })
    }

    fn idefics3(&self) -> Result<Idefics3Processor, ConfigError> {
        let longest_edge = match self.fields.flag("do_resize", true)? {
            true => Some(self.part("size", "longest_edge", LONGEST_EDGE, MAX_SIDE)?),
            false => None,
        };
        Ok(Idefics3Processor {
            longest_edge,
            tile: self.part("max_image_size", "longest_edge", TILE, MAX_SIDE)?,
            do_image_splitting: self.fields.flag("do_image_splitting", true)?,
            resample: self.resample(Resample::Lanczos)?,
            scale: self.scale(Colours::Half)?,
        })
    }

    fn qwen2_vl(&self) -> Result<Qwen2VlProcessor, ConfigError> {
        // `min_pixels` and `max_pixels`, where given, stand above `size`, in which either spelling is found.
        let bound = |name: &str, part: &str, default: usize| {
            let within = |part: &str| self.fields.get("size").is_some_and(|size| size.get(part).is_some());
            match self.fields.get(name) {
                Some(_) => self.fields.count(name, None, MAX_PIXELS),
                None if within(name) => self.fields.part("size", name, MAX_PIXELS),
                None => self.part("size", part, default, MAX_PIXELS),
            }
        };
        let bounds = [
            bound("min_pixels", "shortest_edge", PIXELS[0])?,
            bound("max_pixels", "longest_edge", PIXELS[1])?,
        ];
        if bounds[0] > bounds[1] {
            return Err(self.fields.fault("size", "fewest pixels not above most pixels"));
        }
        let side = |name: &str, default: usize| self.fields.count(name, Some(default), 1024);
        let patches = PatchShape {
            patch_size: side("patch_size", PATCHES.patch_size)?,
            merge_size: side("merge_size", PATCHES.merge_size)?,
            temporal_patch_size: side("temporal_patch_size", PATCHES.temporal_patch_size)?,
        };
        Ok(Qwen2VlProcessor {
            pixels: self.fields.flag("do_resize", true)?.then_some(bounds),
            patches,
            resample: self.resample(Resample::Bicubic)?,
            scale: self.scale(Colours::Clip)?,
        })
    }

    /// A number within an object; `default` where the whole object is absent.
    fn part(&self, name: &str, part: &str, default: usize, most: u64) -> Result<usize, ConfigError> {
        if self.fields.get(name).is_none() { Ok(default) } else { self.fields.part(name, part, most) }
    }

    /// `size`: a number, `shortest_edge`, or height and width.
    fn target_size(&self, family: Family) -> Result<TargetSize, ConfigError> {
        let crops = matches!(family, Family::Crop(..));
        let edge = match self.fields.get("size") {
            Some(Value::Object(parts)) => parts.get("shortest_edge").is_some_and(|edge| !edge.is_null()),
            Some(Value::Number(_)) | None => crops,
            _ => false,
        };
        if !edge {
            let [height, width] = self.exact_size("size")?;
            return Ok(TargetSize::Exact(height, width));
        }
        Ok(TargetSize::ShortestEdge(match self.fields.get("size") {
            Some(Value::Object(_)) => self.fields.part("size", "shortest_edge", MAX_SIDE)?,
            _ => self.fields.count("size", Some(SIDE), MAX_SIDE)?,
        }))
    }

    /// A number for a square, or height and width.
    fn exact_size(&self, name: &str) -> Result<[usize; 2], ConfigError> {
        if self.fields.get(name).is_none_or(Value::is_number) {
            let side = self.fields.count(name, Some(SIDE), MAX_SIDE)?;
            return Ok([side, side]);
        }
        Ok([self.fields.part(name, "height", MAX_SIDE)?, self.fields.part(name, "width", MAX_SIDE)?])
    }

    fn resample(&self, default: Resample) -> Result<Resample, ConfigError> {
        match self.fields.get("resample") {
            None => Ok(default),
            Some(value) => value.as_u64().and_then(Resample::from_pillow).ok_or_else(|| {
                self.fields.fault("resample", "0 (nearest), 1 (Lanczos), 2 (bilinear) or 3 (bicubic)")
            }),
        }
    }

    fn scale(&self, colours: Colours) -> Result<PixelScale, ConfigError> {
        let [mean, std] = colours.values();
        let rescale_factor = match self.fields.get("rescale_factor") {
            None => 1.0 / 255.0,
            Some(value) => value
                .as_f64()
                .filter(|factor| factor.is_finite() && *factor > 0.0)
                .ok_or_else(|| self.fields.fault("rescale_factor", "a number above 0"))?,
        };
        let normalize = self.fields.flag("do_normalize", true)?;
        let channels = |name: &str, default: [f32; 3], lowest: f32| match self.fields.get(name) {
            None => Ok(default),
            Some(value) => three(value)
                .filter(|values| values.iter().all(|value| value.is_finite() && *value > lowest))
                .ok_or_else(|| self.fields.fault(name, "three numbers, those of image_std above 0")),
        };
        let (mean, std) = (channels("image_mean", mean, f32::MIN)?, channels("image_std", std, 0.0)?);
        Ok(PixelScale {
            rescale_factor: if self.fields.flag("do_rescale", true)? { rescale_factor } else { 1.0 },
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
    fn what_is_left_out_is_what_transformers_takes() {
        let named = |name: &str| parse(json!({ "image_processor_type": name })).unwrap();
        let ImageProcessor::Crop(clip) = named("CLIPImageProcessor") else { panic!("another family") };
        assert_eq!((clip.size, clip.crop_size), (Some(TargetSize::ShortestEdge(224)), Some([224, 224])));
        let ImageProcessor::Crop(siglip) = named("SiglipImageProcessor") else { panic!("another family") };
        assert_eq!((siglip.size, siglip.crop_size), (Some(TargetSize::Exact(224, 224)), None));
        let ImageProcessor::Idefics3(smol) = named("SmolVLMImageProcessor") else { panic!("another family") };
        assert_eq!((smol.longest_edge, smol.tile, smol.do_image_splitting), (Some(1456), 364, true));
        let ImageProcessor::Qwen2Vl(qwen) = named("Qwen2VLImageProcessor") else { panic!("another family") };
        assert_eq!((qwen.pixels, qwen.patches), (Some([3136, 1_003_520]), PATCHES));
        let one = json!({ "image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 5000 });
        let ImageProcessor::Qwen2Vl(one) = parse(one).unwrap() else { panic!("another family") };
        assert_eq!(one.pixels, Some([3136, 5000]));
        let old = json!({ "min_pixels": 3136, "max_pixels": 12_845_056 });
        let old = json!({ "image_processor_type": "Qwen2VLImageProcessor", "size": old });
        let ImageProcessor::Qwen2Vl(old) = parse(old).unwrap() else { panic!("another family") };
        assert_eq!(old.pixels, Some([3136, 12_845_056]));
        // Half of the bounds is a file that transformers refuses too.
        let half = json!({ "image_processor_type": "Qwen2VLImageProcessor", "size": { "shortest_edge": 9 } });
        assert!(parse(half).unwrap_err().contains("size.longest_edge"));
    }

    #[test]
    fn a_processor_without_a_name_is_its_models() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, config: Value| {
            fs::write(folder.path().join(file), config.to_string()).unwrap();
        };
        let read = || ImageProcessor::from_folder(folder.path()).map_err(|error| error.to_string());
        write("preprocessor_config.json", json!({ "do_normalize": true }));
        assert!(read().unwrap_err().contains("image_processor_type: expected a known processor"));
        for (model, processor) in MODELS {
            write("config.json", json!({ "model_type": model }));
            assert_eq!(read(), parse(json!({ "image_processor_type": processor })), "{model}");
        }
        write("config.json", json!({ "model_type": "new", "image_processor_type": "ViTImageProcessor" }));
        assert_eq!(read(), parse(json!({ "image_processor_type": "ViTImageProcessor" })));
        write("config.json", json!({ "model_type": "llama" }));
        assert!(read().unwrap_err().contains("image_processor_type"));
        // A name that is there counts, whatever the model.
        write("preprocessor_config.json", json!({ "image_processor_type": "SiglipImageProcessor" }));
        assert_eq!(read(), parse(json!({ "image_processor_type": "SiglipImageProcessor" })));
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
