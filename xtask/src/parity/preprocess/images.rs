//! Decoding of pictures, and the processors.

use std::io::Cursor;

use anyhow::{Context, Result, ensure};
use kyoka::image::{ImageError, ImageProcessor, Picture, smart_resize};
use kyoka_core::ImageInput;
use serde_json::{Map, Value};

use super::{Folder, Golden, Tensors, jpeg};
use crate::parity::report::{Checks, Levels, Precision, Report};

const FOLDER: &str = "golden_images";

pub fn run(folder: &Folder, report: &mut Report) {
    for (file, about) in folder.section("images") {
        report.checks("preprocess decode", &file, false, |checks| decode(folder, &file, &about, checks));
    }
    for (name, about) in folder.section("processors") {
        processor(folder, &name, &about, report);
    }
    let entries = std::fs::read_dir(folder.root.join(FOLDER)).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with("smart_resize.json")).collect();
    names.sort();
    for name in names {
        report.checks("preprocess sizes", &name, false, |checks| sizes(folder, &name, checks));
    }
}

/// The picture as it must be decoded: transparency over white, turned as its EXIF tag says.
fn decode(folder: &Folder, file: &str, about: &Value, checks: &mut Checks) -> Result<()> {
    let goldens = folder.tensors(&format!("{FOLDER}/decoded_rgb.safetensors"))?;
    let bytes = folder.bytes(&format!("images/{file}"))?;
    let picture = Picture::decode(&bytes)?;
    let turned = goldens.find(&format!("{file}/rgb_exif_applied"))?;
    let golden = turned.map_or_else(|| flat(&goldens, file), Ok)?;
    checks.shape("rgb shape", &[picture.height, picture.width, 3], &golden.shape);
    let (height, width) = Picture::probe(Cursor::new(&bytes))?;
    checks.shape("size read from the header", &[height, width], &golden.shape[..2]);
    let is_png = bytes.starts_with(b"\x89PNG");
    if is_png && bytes.get(24) == Some(&16) {
        // Sixteen bits to eight: every tool has its own way.
        return Ok(());
    }
    let coarse = jpeg::is_coarse(&bytes) || about["mode"] == "CMYK";
    let bound = match (is_png, coarse) {
        (true, _) => Levels { share: 1.0, typical: 0.0, most: 0.0, mean: 0.0 },
        (false, false) => Levels { share: 1.0, typical: 3.0, most: 3.0, mean: 3.0 },
        (false, true) => Levels { share: 0.99, typical: 8.0, most: 255.0, mean: 255.0 },
    };
    let got: Vec<f64> = picture.rgb.iter().map(|&byte| f64::from(byte)).collect();
    checks.levels("rgb", &got, &golden.values, bound);
    Ok(())
}

/// The pixels that processors start from: the file's own orientation, transparency over white.
fn flat(goldens: &Tensors, file: &str) -> Result<Golden> {
    match goldens.find(&format!("{file}/rgb_on_white"))? {
        Some(golden) => Ok(golden),
        None => goldens.get(&format!("{file}/rgb")),
    }
}

fn picture(goldens: &Tensors, file: &str) -> Result<Picture> {
    let Golden { shape, values } = flat(goldens, file)?;
    ensure!(shape.len() == 3 && shape[2] == 3, "{file}: expected height, width, 3, got {shape:?}");
    Ok(Picture { height: shape[0], width: shape[1], rgb: values.iter().map(|&value| value as u8).collect() })
}

/// One processor with all its pictures.
struct Case {
    processor: ImageProcessor,
    pixels: Tensors,
    goldens: Tensors,
}

fn processor(folder: &Folder, name: &str, about: &Value, report: &mut Report) {
    let kind = format!("preprocess {}", about["class"].as_str().unwrap_or("?"));
    let case = match Case::open(folder, name, about) {
        Ok(case) => case,
        Err(error) => return report.broken(&kind, name, &format!("{error:#}")),
    };
    let names = match case.goldens.names("/pixel_values") {
        Ok(names) => names,
        Err(error) => return report.broken(&kind, name, &format!("{error:#}")),
    };
    for file in names {
        report.checks(&kind, &format!("{name}/{file}"), false, |checks| match file.as_str() {
            "batch2" => case.batch(about["batch2"].as_str().unwrap_or_default(), checks),
            _ => case.one(&file, checks),
        });
    }
    for file in about["errors"].as_object().into_iter().flat_map(Map::keys) {
        report.checks(&kind, &format!("{name}/{file}"), false, |checks| {
            let refused = case.processor.process(&picture(&case.pixels, file)?).is_err();
            checks.number("refused", f64::from(u8::from(refused)), 1.0, Precision::Exact);
            Ok(())
        });
    }
}

impl Case {
    fn open(folder: &Folder, name: &str, about: &Value) -> Result<Self> {
        let fields = about["config"].as_object().context("no config")?;
        Ok(Self {
            processor: ImageProcessor::from_config(fields, &folder.root.join("manifest.json"))?,
            pixels: folder.tensors(&format!("{FOLDER}/decoded_rgb.safetensors"))?,
            goldens: folder.tensors(&format!("{FOLDER}/{name}.safetensors"))?,
        })
    }

    fn process(&self, file: &str) -> Result<ImageInput> {
        let picture = picture(&self.pixels, file)?;
        let input = self.processor.process(&picture)?;
        let layout = self.processor.layout(picture.height, picture.width)?;
        ensure!(
            (layout.num_views, layout.height, layout.width, layout.split)
                == (input.num_views, input.height, input.width, input.split),
            "{file}: the layout known beforehand differs: {layout:?}"
        );
        Ok(input)
    }

    fn one(&self, file: &str, checks: &mut Checks) -> Result<()> {
        let input = self.process(file)?;
        for (number, name) in ["rows", "cols"].into_iter().enumerate() {
            if let Some(golden) = self.goldens.find(&format!("{file}/{name}"))? {
                let got = input.split.map_or(0, |split| split[number]);
                checks.compare(name, &[got as f64], &golden.values, Precision::Exact);
            }
        }
        self.compare(file, &[vec![input]], checks)
    }

    /// Rows of files as the manifest writes them: `[a, b]` one after the other.
    fn batch(&self, composition: &str, checks: &mut Checks) -> Result<()> {
        let rows = composition.split('[').skip(1).filter_map(|rest| rest.split(']').next());
        let inputs =
            |row: &str| row.split(',').map(|file| self.process(file.trim())).collect::<Result<Vec<_>>>();
        let rows = rows.map(inputs).collect::<Result<Vec<_>>>()?;
        ensure!(!rows.is_empty(), "the manifest does not say what the batch is made of");
        self.compare("batch2", &rows, checks)
    }

    fn compare(&self, name: &str, rows: &[Vec<ImageInput>], checks: &mut Checks) -> Result<()> {
        let golden = self.goldens.get(&format!("{name}/pixel_values"))?;
        let (shape, values, channel_len) = match &self.processor {
            ImageProcessor::Qwen2Vl(processor) => {
                let inputs: Vec<&ImageInput> = rows.iter().flatten().collect();
                let grids =
                    inputs.iter().flat_map(|input| processor.patches.grid(input).map(|side| side as f64));
                let grid = self.goldens.get(&format!("{name}/image_grid_thw"))?;
                checks.compare("image_grid_thw", &grids.collect::<Vec<_>>(), &grid.values, Precision::Exact);
                let values: Vec<f32> =
                    inputs.iter().flat_map(|input| processor.patches.unfold(input)).collect();
                let patch = processor.patches.patch_size * processor.patches.patch_size;
                let channel_len = patch * processor.patches.temporal_patch_size;
                (vec![values.len() / (3 * channel_len), 3 * channel_len], values, channel_len)
            }
            _ => {
                let first = &rows[0][0];
                let [height, width] = [first.height, first.width];
                let views = |row: &[ImageInput]| row.iter().map(|input| input.num_views).sum::<usize>();
                let most = rows.iter().map(|row| views(row)).max().unwrap_or(0);
                let (values, mask) = padded(rows, most);
                if let Some(golden) = self.goldens.find(&format!("{name}/pixel_attention_mask"))? {
                    checks.shape(
                        "pixel_attention_mask shape",
                        &[rows.len(), most, height, width],
                        &golden.shape,
                    );
                    checks.compare("pixel_attention_mask", &mask, &golden.values, Precision::Exact);
                }
                let one_view = golden.shape.len() == 4;
                let lead = if one_view { vec![rows.len()] } else { vec![rows.len(), most] };
                ([lead, vec![3, height, width]].concat(), values, height * width)
            }
        };
        checks.shape("pixel_values shape", &shape, &golden.shape);
        let std = self.channel_levels();
        let level = |values: &mut dyn Iterator<Item = f64>| -> Vec<f64> {
            values.enumerate().map(|(place, value)| value * std[place / channel_len % 3]).collect()
        };
        let got = level(&mut values.iter().map(|&value| f64::from(value)));
        let expected = level(&mut golden.values.iter().copied());
        checks.levels(
            "pixel_values",
            &got,
            &expected,
            Levels { share: 0.99, typical: 1.5, most: 6.0, mean: 0.3 },
        );
        Ok(())
    }

    /// What turns a channel's values into levels of 0 to 255.
    fn channel_levels(&self) -> [f64; 3] {
        let std = match &self.processor {
            ImageProcessor::FixedSize(processor) => processor.image_std,
            ImageProcessor::Crop(processor) => processor.scale.image_std,
            ImageProcessor::Idefics3(processor) => processor.scale.image_std,
            ImageProcessor::Qwen2Vl(processor) => processor.scale.image_std,
        };
        std.map(|std| f64::from(std) * 255.0)
    }
}

/// Values and mask of rows of pictures, each row padded with empty views to `most`.
fn padded(rows: &[Vec<ImageInput>], most: usize) -> (Vec<f32>, Vec<f64>) {
    let (mut values, mut mask) = (Vec::new(), Vec::new());
    let plane = rows[0][0].height * rows[0][0].width;
    for (number, row) in rows.iter().enumerate() {
        for input in row {
            values.extend_from_slice(&input.pixel_values);
            match &input.pixel_mask {
                Some(held) => mask.extend(held.iter().map(|&held| f64::from(u8::from(held)))),
                None => mask.resize(mask.len() + input.num_views * plane, 1.0),
            }
        }
        values.resize((number + 1) * most * 3 * plane, 0.0);
        mask.resize((number + 1) * most * plane, 0.0);
    }
    (values, mask)
}

/// Sizes alone, as `smart_resize` has them.
fn sizes(folder: &Folder, name: &str, checks: &mut Checks) -> Result<()> {
    let cases: Vec<Value> = serde_json::from_slice(&folder.bytes(&format!("{FOLDER}/{name}"))?)?;
    let (mut got, mut expected) = (Vec::new(), Vec::new());
    for case in &cases {
        let number = |field: &str| case[field].as_u64().with_context(|| format!("no number {field}"));
        let [h, w, factor] = [number("h")?, number("w")?, number("factor")?].map(|number| number as usize);
        let bounds = [number("min_pixels")?, number("max_pixels")?].map(|number| number as usize);
        got.extend(match smart_resize(h, w, factor, bounds) {
            Ok(size) => size.map(|side| side as f64),
            Err(ImageError::AspectRatio { .. }) => [-1.0; 2],
            Err(error) => return Err(error.into()),
        });
        match case["out_hw"].as_array() {
            Some(size) => expected.extend(size.iter().filter_map(Value::as_f64)),
            None => expected.extend([-1.0; 2]),
        }
    }
    checks.compare(&format!("{} sizes", cases.len()), &got, &expected, Precision::Exact);
    Ok(())
}
