//! A tool: a part of a picture, seen as a picture of its own.

use kyoka_core::{MediaRef, Modality, OwnSettings, Part, Sample, SettingsFault, ToolSchema};
use kyoka_image::Picture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Tool, ToolError};

/// What the numbers of a box count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxUnit {
    /// Pixels of the picture as its file has it.
    #[default]
    Pixels,
    /// Thousandths of its width and height.
    Thousandths,
}

/// Cuts a box out of a picture of the row and shows it: what is small in the whole is large in the part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Crop {
    /// What the numbers of a box count. Default `pixels`.
    pub unit: BoxUnit,
    /// Least height and width of a box in pixels, at least 1. Default 14.
    pub min_side: usize,
}

impl Default for Crop {
    fn default() -> Self {
        Self { unit: BoxUnit::Pixels, min_side: 14 }
    }
}

impl OwnSettings for Crop {
    fn check(&self) -> Result<(), SettingsFault> {
        SettingsFault::unless(self.min_side >= 1, "min_side", "at least 1", self.min_side)
    }
}

/// What the policy asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    bbox_2d: [f64; 4],
    #[serde(default)]
    image: usize,
}

impl Tool for Crop {
    fn schema(&self) -> ToolSchema {
        let unit = match self.unit {
            BoxUnit::Pixels => "pixels",
            BoxUnit::Thousandths => "thousandths of width and height",
        };
        ToolSchema {
            name: "crop".to_owned(),
            description: "Shows a part of a picture enlarged.".to_owned(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "bbox_2d": {
                        "type": "array",
                        "items": {"type": "number"},
                        "minItems": 4,
                        "maxItems": 4,
                        "description": format!("left, top, right, bottom in {unit}"),
                    },
                    "image": {"type": "integer", "description": "which picture, from 0 in the order they were shown"},
                },
                "required": ["bbox_2d"],
            }),
        }
    }

    fn call(&self, arguments: &Value, row: &Sample) -> Result<Vec<Part>, ToolError> {
        let expected = |error| {
            format!("bbox_2d: expected [left, top, right, bottom], and image a whole number: {error}")
        };
        let Arguments { bbox_2d, image } =
            Arguments::deserialize(arguments).map_err(|error| ToolError::Refused(expected(error)))?;
        let pictures: Vec<&MediaRef> =
            row.media().filter(|medium| medium.modality == Modality::Image).collect();
        let Some(medium) = pictures.get(image) else {
            let there = match pictures.len() {
                0 => "a picture, there is none".to_owned(),
                count => format!("0 to {}, got {image}", count - 1),
            };
            return Err(ToolError::Refused(format!("image: expected {there}")));
        };
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", medium.content);
        let bytes = medium.content.read().map_err(|error| ToolError::Failed(named(&error).into()))?;
        let picture = Picture::decode(&bytes).map_err(|error| ToolError::Failed(named(&error).into()))?;
        let [left, top, right, bottom] = self.pixels(bbox_2d, &picture).map_err(ToolError::Refused)?;
        let rows = (top..bottom).flat_map(|row| {
            let start = 3 * (row * picture.width + left);
            picture.rgb[start..start + 3 * (right - left)].iter().copied()
        });
        let part = Picture { height: bottom - top, width: right - left, rgb: rows.collect() };
        let name = format!("{} [{left}, {top}, {right}, {bottom}]", medium.content);
        Ok(vec![Part::Media(MediaRef::bytes(Modality::Image, name, part.to_png()))])
    }
}

impl Crop {
    /// The box in pixels, what lies outside the picture cut off.
    fn pixels(&self, asked: [f64; 4], picture: &Picture) -> Result<[usize; 4], String> {
        let (height, width) = (picture.height as f64, picture.width as f64);
        let scale = match self.unit {
            BoxUnit::Pixels => [1.0; 2],
            BoxUnit::Thousandths => [width / 1000.0, height / 1000.0],
        };
        let limits = match self.unit {
            BoxUnit::Pixels => [width, height],
            BoxUnit::Thousandths => [1000.0; 2],
        };
        let [left, top, right, bottom] = asked;
        let inside = |value: f64, limit: f64| (0.0..=limit).contains(&value);
        let fits = inside(left, limits[0])
            && inside(right, limits[0])
            && inside(top, limits[1])
            && inside(bottom, limits[1]);
        if !fits {
            let [width, height] = limits;
            return Err(format!(
                "bbox_2d: expected left and right within 0 to {width}, top and bottom within 0 to {height}"
            ));
        }
        let place = |value: f64, axis: usize| (value * scale[axis]).round() as usize;
        let pixels = [place(left, 0), place(top, 1), place(right, 0), place(bottom, 1)];
        let least = self.min_side;
        if pixels[2] < pixels[0] + least || pixels[3] < pixels[1] + least {
            return Err(format!(
                "bbox_2d: expected right and bottom at least {least} pixels beyond left and top"
            ));
        }
        Ok(pixels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousandths_are_of_width_and_height_and_odd_boxes_are_refused() {
        let crop = Crop { unit: BoxUnit::Thousandths, min_side: 2 };
        let picture = Picture::grey(40, 60, vec![0; 2400]);
        assert_eq!(crop.pixels([0.0, 250.0, 500.0, 1000.0], &picture), Ok([0, 10, 30, 40]));
        for odd in
            [[0.0, 0.0, 1001.0, 9.0], [0.0, 0.0, 20.0, 900.0], [500.0, 0.0, 100.0, 900.0], [f64::NAN; 4]]
        {
            assert!(crop.pixels(odd, &picture).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_recipe_names_it() {
        let (_, make) = crate::TOOLS.iter().find(|(kind, _)| *kind == "crop").unwrap();
        let tool = make("unit = 'thousandths'".parse().unwrap()).unwrap();
        assert!(tool.schema().parameters.to_string().contains("thousandths"));
        let said = make("min_side = 0".parse().unwrap()).err().unwrap().to_string();
        assert_eq!(said, "min_side: expected at least 1, got 0");
    }

    #[test]
    fn a_picture_that_is_gone_is_an_error_and_no_answer() {
        let row = Sample::asking(vec![Part::Media(MediaRef::file(Modality::Image, "/nowhere/a.png"))]);
        let failed = Crop::default().call(&json!({"bbox_2d": [0, 0, 20, 20]}), &row).unwrap_err();
        assert!(matches!(&failed, ToolError::Failed(error) if error.to_string().contains("/nowhere/a.png")));
    }
}
