//! An image encoder: square tiles of a picture, each through one matrix. It has parameters, so it comes in by its type.

use kyoka::{
    burn::{
        self,
        module::Module,
        tensor::{Device, Tensor},
    },
    core::{ImageInput, ModalityEncoder, ModalityFeatures},
    nn::{Linear, Linears, NamedLinears, WeightInit},
};
use serde::Deserialize;

/// Settings of the encoder.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Tiles in a row and in a column.
    pub tiles: usize,
    /// Width of a tile's vector.
    pub width: usize,
}

/// What a tile looks like, without a view of the others.
#[derive(Module, Debug)]
pub struct Tiles {
    embedding: Linear,
    tiles: usize,
    d_output: usize,
}

impl Tiles {
    /// An encoder with weights from `init`, for pictures of `height` by `width` pixels.
    pub fn new(settings: Settings, size: [usize; 2], init: &mut WeightInit) -> Result<Self, String> {
        let (Settings { tiles, width: d_output }, [height, width]) = (settings, size);
        if !height.is_multiple_of(tiles) || !width.is_multiple_of(tiles) {
            return Err(format!("tiles: expected a divisor of {height} and {width}, got {tiles}"));
        }
        let pixels = 3 * (height / tiles) * (width / tiles);
        Ok(Self { embedding: init.linear(pixels, d_output, true), tiles, d_output })
    }
}

impl Linears for Tiles {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        found.push((format!("{prefix}embedding"), &mut self.embedding));
    }
}

impl ModalityEncoder for Tiles {
    type Input = ImageInput;

    fn d_output(&self) -> usize {
        self.d_output
    }

    fn num_positions(&self, _: &ImageInput) -> usize {
        self.tiles * self.tiles
    }

    fn encode(&self, pictures: &[&ImageInput], device: &Device) -> ModalityFeatures {
        let (n, t) = (pictures.len(), self.tiles);
        let (h, w) = (pictures[0].height / t, pictures[0].width / t);
        let values: Vec<f32> = pictures.iter().flat_map(|picture| picture.pixel_values.to_vec()).collect();
        let tiles = Tensor::<1>::from_floats(values.as_slice(), device).reshape([n, 3, t, h, t, w]);
        let rows = tiles.permute([0, 2, 4, 1, 3, 5]).reshape([n * t * t, 3 * h * w]);
        ModalityFeatures { embeddings: self.embedding.forward(rows).tanh(), lengths: vec![t * t; n] }
    }
}
