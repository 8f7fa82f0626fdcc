//! The vision transformer (arXiv 2010.11929) in the shapes of SigLIP, CLIP and DINOv2: one feature a patch.

use std::sync::Arc;

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor, TensorData},
};
use kyoka_core::{ImageInput, ModalityEncoder, ModalityFeatures};
use kyoka_nn::{
    EncoderLayer, EncoderLayerConfig, Linear, Linears, NamedLinears, Norm, WeightInit, indices,
    masked_attention,
};
use serde::{Deserialize, Serialize};

use crate::{patches::Patches, positions};

/// How the learned positions are laid over the patches of a picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VitPositions {
    /// As they are; bicubic interpolation for pictures of another size (DINOv2, CLIP, SigLIP).
    #[default]
    Interpolated,
    /// The nearest one by the fraction of the picture's own height and width (SmolVLM, Idefics3; NaViT, arXiv
    /// 2307.06304).
    Bucketed,
}

/// Sizes of the encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Height of the pictures in pixels, a multiple of the patch; with a width, that of the learned positions.
    pub height: usize,
    /// Width of the pictures in pixels, a multiple of the patch.
    pub width: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Sizes of a layer.
    pub layer: EncoderLayerConfig,
    /// A token before the patches that is no feature of its own (CLIP, DINOv2). Default false.
    #[serde(default)]
    pub class_token: bool,
    /// A bias in the patch embedding. Default true.
    #[serde(default = "yes")]
    pub patch_bias: bool,
    /// A norm before the first layer (CLIP). Default false.
    #[serde(default)]
    pub pre_norm: bool,
    /// A norm after the last layer. Default true; CLIP has none for patches.
    #[serde(default = "yes")]
    pub post_norm: bool,
    /// How positions fit pictures.
    #[serde(default)]
    pub positions: VitPositions,
}

fn yes() -> bool {
    true
}

impl VitConfig {
    /// Three layers of width 96 over 28 x 28 pictures in 16 patches: about 0.35 M parameters.
    pub fn tiny() -> Self {
        Self::new(28, 7, 3, EncoderLayerConfig::plain(96, 3, 384, 1e-6))
    }

    /// Square pictures, everything else as usual.
    pub fn new(side: usize, patch_size: usize, num_layers: usize, layer: EncoderLayerConfig) -> Self {
        let (height, width) = (side, side);
        let (class_token, pre_norm, positions) = (false, false, VitPositions::Interpolated);
        Self {
            height,
            width,
            patch_size,
            num_layers,
            layer,
            class_token,
            patch_bias: true,
            pre_norm,
            post_norm: true,
            positions,
        }
    }

    /// Rows and columns of the learned positions.
    pub fn grid(&self) -> [usize; 2] {
        [self.height / self.patch_size, self.width / self.patch_size]
    }
}

/// Patch embedding, learned positions, pre-norm layers, final norm.
#[derive(Module, Debug)]
pub struct VitEncoder {
    /// Weight `[3 * patch * patch, D]`: a convolution whose stride is its width.
    pub patch_embedding: Linear,
    /// Shape `[1, D]`, where there is one.
    pub class_embedding: Option<Param<Tensor<2>>>,
    /// Shape `[P, D]`, the class token's first.
    pub position_embedding: Param<Tensor<2>>,
    /// Norm before the first layer, where there is one.
    pub pre_norm: Option<Norm>,
    /// The layers.
    pub layers: Vec<EncoderLayer>,
    /// Norm after the last layer, where there is one.
    pub norm: Option<Norm>,
    #[module(skip)]
    config: VitConfig,
}

impl VitEncoder {
    /// An encoder with seeded weights.
    ///
    /// # Panics
    /// If the patch does not divide the picture.
    pub fn new(config: &VitConfig, init: &mut WeightInit) -> Self {
        let VitConfig { height, width, patch_size, num_layers, layer, .. } = *config;
        assert!(
            height % patch_size == 0 && width % patch_size == 0,
            "vit: patches of {patch_size} do not divide a picture of {height} x {width}"
        );
        let [rows, columns] = config.grid();
        let positions = rows * columns + usize::from(config.class_token);
        let norm = |wanted: bool, init: &WeightInit| {
            wanted.then(|| Norm::new(layer.norm, layer.d_model, layer.norm_epsilon, init))
        };
        Self {
            patch_embedding: init.linear(3 * patch_size * patch_size, layer.d_model, config.patch_bias),
            class_embedding: config.class_token.then(|| init.uniform([1, layer.d_model], 0.02)),
            position_embedding: init.uniform([positions, layer.d_model], 0.02),
            pre_norm: norm(config.pre_norm, init),
            layers: (0..num_layers).map(|_| EncoderLayer::new(layer, init)).collect(),
            norm: norm(config.post_norm, init),
            config: config.clone(),
        }
    }

    /// Hidden rows after the last norm, class tokens included.
    ///
    /// # Shapes
    /// - output: `[B, P, D]`, a row of it a view; all inputs have one size
    ///
    /// # Panics
    /// If there is no input, the sizes differ, or a patch does not divide them.
    pub fn hidden_states(&self, inputs: &[&ImageInput], device: &Device) -> Tensor<3> {
        let patches = Patches::of(inputs, self.config.patch_size);
        self.hidden_states_of(patches.tensor(device), &patches)
    }

    /// The patches of pictures as rows of numbers, which the first layer multiplies.
    ///
    /// # Shapes
    /// - output: `[B N, 3 S S]`, `B` views of `N` patches of side `S`
    ///
    /// # Panics
    /// As [`VitEncoder::hidden_states`].
    pub fn patch_rows(&self, inputs: &[&ImageInput], device: &Device) -> Tensor<2> {
        Patches::of(inputs, self.config.patch_size).tensor(device)
    }

    /// [`VitEncoder::hidden_states`] of rows that may be tracked, for gradients with respect to pixels; `inputs` are the
    /// pictures that the rows were made of.
    ///
    /// # Shapes
    /// - input: `[B N, 3 S S]`, as [`VitEncoder::patch_rows`] gives them
    /// - output: `[B, P, D]`, `P` the patches and the class token, where there is one
    ///
    /// # Panics
    /// As [`VitEncoder::hidden_states`], and if the rows are not those of `inputs`.
    pub fn hidden_states_of_rows(&self, rows: Tensor<2>, inputs: &[&ImageInput]) -> Tensor<3> {
        self.hidden_states_of(rows, &Patches::of(inputs, self.config.patch_size))
    }

    fn hidden_states_of(&self, patch_rows: Tensor<2>, patches: &Patches) -> Tensor<3> {
        let (b, [rows, columns]) = (patches.num_views(), patches.grid());
        let [_, d] = self.position_embedding.dims();
        let positions = rows * columns;
        assert_eq!(patch_rows.dims()[0], b * positions, "vit: expected a row for each patch of the pictures");
        let embedded = self.patch_embedding.forward(patch_rows);
        let embedded: Tensor<3> = embedded.reshape([b, positions, d]) + self.patch_positions(patches);
        let embedded = match self.class_row() {
            Some(class) => Tensor::cat(vec![class.reshape([1, 1, d]).expand([b, 1, d]), embedded], 1),
            None => embedded,
        };
        let [_, t, _] = embedded.dims();
        let mut hidden = embedded.reshape([b * t, d]);
        if let Some(norm) = &self.pre_norm {
            hidden = norm.forward(hidden);
        }
        hidden = self.run(hidden, [b, t], patches.seen.as_deref());
        if let Some(norm) = &self.norm {
            hidden = norm.forward(hidden);
        }
        hidden.reshape([b, t, d])
    }

    /// All layers over `b` sequences of `t` positions; `seen` says which patches hold some of the picture.
    fn run(&self, hidden: Tensor<2>, [b, t]: [usize; 2], seen: Option<&[bool]>) -> Tensor<2> {
        let Some(first) = self.layers.first() else { return hidden };
        let Some(seen) = seen else {
            return EncoderLayer::run(&self.layers, hidden, &Arc::new(first.layout(&vec![t; b])));
        };
        let class = t - seen.len() / b;
        let of_view = |view: &[bool]| [vec![true; class], view.to_vec()].concat();
        let seen: Vec<bool> = seen.chunks_exact(t - class).flat_map(of_view).collect();
        let attention = |qkv| masked_attention(qkv, self.config.layer.heads(), t, &seen);
        self.layers.iter().fold(hidden, |hidden, layer| layer.forward(hidden, attention))
    }

    /// The class token with its position, `[1, D]`.
    fn class_row(&self) -> Option<Tensor<2>> {
        let class = self.class_embedding.as_ref()?;
        Some(class.val() + self.position_embedding.val().narrow(0, 0, 1))
    }

    /// Learned positions of every patch, `[1, P, D]` or `[B, P, D]`.
    fn patch_positions(&self, patches: &Patches) -> Tensor<3> {
        let (learned, grid) = (self.config.grid(), patches.grid());
        let [total, d] = self.position_embedding.dims();
        let class = usize::from(self.class_embedding.is_some());
        let table = self.position_embedding.val().narrow(0, class, total - class);
        let count = grid[0] * grid[1];
        match self.config.positions {
            VitPositions::Interpolated if grid == learned => table.unsqueeze(),
            VitPositions::Interpolated => {
                let weights = positions::bicubic(learned, grid, &table.device());
                weights.matmul(table).unsqueeze()
            }
            VitPositions::Bucketed => {
                let rows = positions::buckets(learned, grid, patches.num_views(), patches.seen.as_deref());
                let same = rows.chunks_exact(count).all(|view| view == &rows[..count]);
                let rows = if same { &rows[..count] } else { &rows[..] };
                let picked = table.clone().select(0, indices(rows, &table.device()));
                picked.reshape([rows.len() / count, count, d])
            }
        }
    }
}

impl Linears for VitEncoder {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        found.push((format!("{prefix}patch_embedding"), &mut self.patch_embedding));
        self.layers.linears(&format!("{prefix}layers."), found);
    }
}

impl ModalityEncoder for VitEncoder {
    type Input = ImageInput;

    fn d_output(&self) -> usize {
        self.position_embedding.dims()[1]
    }

    fn num_positions(&self, input: &ImageInput) -> usize {
        let side = self.config.patch_size;
        input.num_views * (input.height / side) * (input.width / side)
    }

    fn encode(&self, inputs: &[&ImageInput], device: &Device) -> ModalityFeatures {
        assert!(!inputs.is_empty(), "vit: expected at least one picture, got none");
        let lengths: Vec<usize> = inputs.iter().map(|input| self.num_positions(input)).collect();
        let class = usize::from(self.class_embedding.is_some());
        // Pictures of one size run together; most often there is one size.
        let mut sizes: Vec<[usize; 2]> = inputs.iter().map(|input| [input.height, input.width]).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let mut rows = Vec::with_capacity(sizes.len());
        let mut order = vec![0; inputs.len()];
        let mut next = 0;
        for size in sizes {
            let of_size = |place: &usize| [inputs[*place].height, inputs[*place].width] == size;
            let places: Vec<usize> = (0..inputs.len()).filter(of_size).collect();
            let alike: Vec<&ImageInput> = places.iter().map(|&place| inputs[place]).collect();
            let hidden = self.hidden_states(&alike, device);
            let [b, t, d] = hidden.dims();
            rows.push(hidden.narrow(1, class, t - class).reshape([b * (t - class), d]));
            for place in places {
                order[place] = next;
                next += lengths[place];
            }
        }
        let embeddings = match rows.len() {
            1 => rows.remove(0),
            _ => {
                let places = order.iter().zip(&lengths).flat_map(|(&start, &len)| start..start + len);
                Tensor::cat(rows, 0).select(0, indices(&places.collect::<Vec<_>>(), device))
            }
        };
        ModalityFeatures { embeddings, lengths }
    }
}

impl Patches {
    /// All patches, `[N, 3 * patch * patch]`.
    fn tensor(&self, device: &Device) -> Tensor<2> {
        let width = self.values.len() / (self.num_views() * self.grid()[0] * self.grid()[1]);
        let rows = self.values.len() / width;
        Tensor::from_data(TensorData::new(self.values.clone(), [rows, width]), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageProcessor;

    fn process(shade: u8) -> ImageInput {
        let values = (0..784).map(|i| (i as u8).wrapping_mul(shade)).collect();
        ImageProcessor::default().process(&crate::Picture::grey(28, 28, values)).unwrap()
    }

    #[test]
    fn features_of_a_picture_do_not_depend_on_its_neighbours() {
        let device = Device::default();
        let encoder = VitEncoder::new(&VitConfig::tiny(), &mut WeightInit::new(1, &device));
        let (first, second) = (process(3), process(7));
        let both = encoder.encode(&[&first, &second], &device).embeddings;
        let alone = encoder.encode(&[&second], &device).embeddings;
        let difference = (both.narrow(0, 16, 16) - alone).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn pictures_of_two_sizes_keep_their_order() {
        let device = Device::default();
        let config = VitConfig { class_token: true, pre_norm: true, ..VitConfig::tiny() };
        let encoder = VitEncoder::new(&config, &mut WeightInit::new(1, &device));
        let small = |shade: f32| ImageInput::one_view(vec![shade; 3 * 14 * 21].into(), [3, 14, 21]);
        let inputs = [process(3), small(0.3), process(7), small(0.9)];
        let inputs: Vec<&ImageInput> = inputs.iter().collect();
        let all = encoder.encode(&inputs, &device);
        assert_eq!(all.lengths, [16, 6, 16, 6]);
        let mut start = 0;
        for (input, length) in inputs.into_iter().zip(all.lengths) {
            let alone = encoder.encode(&[input], &device).embeddings;
            let got = all.embeddings.clone().narrow(0, start, length);
            assert!((got - alone).abs().max().into_scalar::<f32>() < 1e-5);
            start += length;
        }
    }
}
