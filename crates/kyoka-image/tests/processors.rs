//! Pictures become what the processors of transformers make of them: value for value of those on Pillow, and within two
//! levels of those on torchvision, whose weights have fewer bits.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use kyoka_image::{ImageProcessor, Picture};
use safetensors::SafeTensors;
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).join(name)
}

fn manifest() -> Value {
    serde_json::from_slice(&fs::read(golden("manifest.json")).unwrap()).unwrap()
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> Option<Vec<f32>> {
    let data = tensors.tensor(name).ok()?;
    Some(data.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect())
}

/// The golden pixels of every picture, by file.
fn pictures() -> Vec<(String, Picture)> {
    let bytes = fs::read(golden("golden_images/decoded_rgb.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let picture = |file: &String| {
        let on_white = tensors.tensor(&format!("{file}/rgb_on_white"));
        let view = on_white.or_else(|_| tensors.tensor(&format!("{file}/rgb"))).unwrap();
        let (shape, rgb) = (view.shape(), view.data().to_vec());
        (file.clone(), Picture { height: shape[0], width: shape[1], rgb })
    };
    manifest()["images"].as_object().unwrap().keys().map(picture).collect()
}

#[test]
fn files_decode_to_the_pixels_that_pillow_reads() {
    for (file, expected) in pictures() {
        let bytes = fs::read(golden("images").join(&file)).unwrap();
        let picture = Picture::decode(&bytes).unwrap();
        let size = [expected.height, expected.width];
        let probed = Picture::probe(Cursor::new(&bytes)).unwrap();
        assert_eq!(([probed.0, probed.1], [picture.height, picture.width]), (size, size), "{file}");
        let most = match file.as_str() {
            "rgb420_34x27.jpg" => 8,
            name if name.ends_with("jpg") => 3,
            _ => 0,
        };
        let far = picture.rgb.iter().zip(&expected.rgb).filter(|(a, b)| a.abs_diff(**b) > most).count();
        assert!(far * 100 <= picture.rgb.len(), "{file}: {far} of {} values are far", picture.rgb.len());
        assert!(most == 8 || far == 0, "{file}: {far} values are far");
    }
}

#[test]
fn every_processor_gives_the_values_of_transformers() {
    let (manifest, pictures) = (manifest(), pictures());
    let path = golden("manifest.json");
    let mut compared = 0;
    for (name, about) in manifest["processors"].as_object().unwrap() {
        let processor = ImageProcessor::from_config(about["config"].as_object().unwrap(), &path).unwrap();
        let bytes = fs::read(golden(&format!("golden_images/{name}.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for (file, picture) in &pictures {
            let Some(expected) = floats(&tensors, &format!("{file}/pixel_values")) else {
                assert!(
                    about["errors"][file].is_string() && processor.process(picture).is_err(),
                    "{name}, {file}"
                );
                continue;
            };
            let input = processor.process(picture).unwrap();
            let got = match &processor {
                ImageProcessor::Qwen2Vl(processor) => processor.patches.unfold(&input),
                _ => input.pixel_values.to_vec(),
            };
            assert_eq!(got.len(), expected.len(), "{name}, {file}");
            let std =
                about["config"]["image_std"].as_array().unwrap().iter().map(|std| std.as_f64().unwrap());
            let level = std.fold(0.0, f64::max) * 255.0;
            let on_pillow = about["class"].as_str().unwrap().ends_with("Pil");
            let mut far = 0;
            for (place, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let levels = f64::from((got - expected).abs()) * level;
                let most = if on_pillow { 5e-4 } else { 2.2 };
                assert!(levels < most, "{name}, {file}, value {place}: {got}, not {expected}");
                far += usize::from(levels > 1.5);
            }
            assert!(far * 100 <= expected.len(), "{name}, {file}: {far} of {} are far", expected.len());
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}
