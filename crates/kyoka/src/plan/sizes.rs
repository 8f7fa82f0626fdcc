//! Parameters, kept values and arithmetic of a policy, counted from its configuration.

use kyoka_core::{ImageInput, Prompt};
use kyoka_fusion::ProjectorConfig;
use kyoka_image::ImageEncoderConfig;
use kyoka_nn::{EncoderLayerConfig, NormKind};

use crate::PolicyConfig;

/// A stack of transformer layers, as far as memory and arithmetic go.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stack {
    pub num_layers: usize,
    pub d_model: usize,
    /// Queries, keys and values of a row.
    pub row_width: usize,
    /// What attention gives for a row.
    pub mixed_width: usize,
    pub d_hidden: usize,
    /// Matrices of the MLP: 3 with a gate, else 2.
    pub mlp_matrices: usize,
    /// Values of a layer beside its matrices.
    pub vectors: usize,
    /// Whether its matrices, or adapters beside them, learn.
    learns: bool,
}

impl Stack {
    fn encoder(num_layers: usize, layer: EncoderLayerConfig) -> Self {
        let EncoderLayerConfig { d_model, d_hidden, .. } = layer;
        let mlp_matrices = if layer.gated { 3 } else { 2 };
        let biases = 3 * d_model + d_model + (mlp_matrices - 1) * d_hidden + d_model;
        let scales = if layer.layer_scale { 2 * d_model } else { 0 };
        Self {
            num_layers,
            d_model,
            row_width: 3 * d_model,
            mixed_width: d_model,
            d_hidden,
            mlp_matrices,
            vectors: biases + scales + 2 * norm(layer),
            learns: true,
        }
    }

    fn matrices(&self) -> usize {
        self.d_model * (self.row_width + self.mixed_width + self.mlp_matrices * self.d_hidden)
    }

    pub fn params(&self) -> usize {
        self.num_layers * (self.matrices() + self.vectors)
    }

    /// The stack as far as memory goes if its matrices do not learn: what they multiplied is not kept.
    pub fn frozen(self) -> Self {
        Self { learns: false, ..self }
    }

    /// Values that attention's side of a layer keeps of a row for its way back: input, norm, queries, keys and values.
    fn kept_before(&self) -> usize {
        let multiplied = if self.learns { self.d_model } else { 0 };
        self.d_model + multiplied + self.row_width
    }

    /// Values that the rest of a layer keeps: mixed rows, the sum, its norm, and the MLP between its matrices.
    fn kept_after(&self) -> usize {
        let multiplied = if self.learns { self.d_model + self.d_hidden } else { 0 };
        self.mixed_width + self.d_model + multiplied + (self.mlp_matrices - 1) * self.d_hidden
    }

    /// Values that one layer keeps of `rows` for its way back, of which `last` go on after the attention.
    pub fn kept_in_layer(&self, rows: usize, last: usize) -> usize {
        rows * self.kept_before() + last * self.kept_after()
    }

    /// Values that all layers keep.
    pub fn kept(&self, rows: usize, last: usize) -> usize {
        let full = self.num_layers.saturating_sub(1) * self.kept_in_layer(rows, rows);
        full + if self.num_layers > 0 { self.kept_in_layer(rows, last) } else { 0 }
    }

    /// Slopes alive at the widest place on the way back through a layer.
    pub fn slopes(&self, rows: usize) -> usize {
        rows * (2 * self.d_model + self.row_width.max(self.mlp_matrices * self.d_hidden))
    }

    /// Values alive at the widest place of a pass that keeps nothing.
    pub fn widest(&self, rows: usize) -> usize {
        let attention = self.d_model + self.row_width + self.mixed_width;
        rows * (self.d_model + attention.max(self.mlp_matrices * self.d_hidden))
    }

    /// Multiplications and additions of `rows` through the matrices.
    pub fn flop(&self, rows: usize) -> f64 {
        2.0 * rows as f64 * (self.num_layers * self.matrices()) as f64
    }

    /// Those of attention: scores and sums over `pairs` of positions that see each other.
    pub fn attention_flop(&self, pairs: f64) -> f64 {
        4.0 * pairs * (self.num_layers * self.mixed_width) as f64
    }
}

/// Parameters of a norm.
fn norm(layer: EncoderLayerConfig) -> usize {
    match layer.norm {
        NormKind::Layer => 2 * layer.d_model,
        NormKind::RootMeanSquare => layer.d_model,
    }
}

/// A tower: what it reads, its layers, its projector.
#[derive(Debug, Clone, Copy)]
pub(super) struct TowerSizes {
    pub stack: Stack,
    /// Values of the input of one row of the stack.
    input_width: usize,
    /// Values that the stem keeps a row besides its input.
    stem_kept: usize,
    /// Parameters before the layers.
    stem_params: usize,
    projector_params: usize,
    /// Rows that make one token.
    fold: usize,
    /// Width of the projector's hidden rows; 0 for one matrix.
    projector_hidden: usize,
}

impl TowerSizes {
    /// `widths`: values of the input of a row, values that the stem keeps of it besides, parameters of the stem.
    fn new(
        stack: Stack,
        (input_width, stem_kept, stem_params): (usize, usize, usize),
        projector: ProjectorConfig,
        d_model: usize,
    ) -> Self {
        let ProjectorConfig { fold, linear, linear_bias, d_hidden, .. } = projector;
        let d_folded = stack.d_model * fold;
        let (params, projector_hidden) = if linear {
            (d_folded * d_model + if linear_bias { d_model } else { 0 }, 0)
        } else {
            let d_hidden = d_hidden.unwrap_or(d_model);
            (d_folded * d_hidden + d_hidden + d_hidden * d_model + d_model, d_hidden)
        };
        Self { stack, input_width, stem_kept, stem_params, projector_params: params, fold, projector_hidden }
    }

    pub fn params(&self) -> usize {
        self.stack.params() + self.stem_params + self.projector_params
    }

    /// Values kept for the way back.
    pub fn kept(&self, rows: usize) -> usize {
        // The sum after the last layer, its norm, and the stem.
        rows * (self.input_width + self.stem_kept + 2 * self.stack.d_model)
            + self.stack.kept(rows, rows)
            + self.projector_kept(rows)
    }

    /// Those of the projector: the features, and its hidden rows.
    pub fn projector_kept(&self, rows: usize) -> usize {
        rows * self.stack.d_model + rows / self.fold * 2 * self.projector_hidden
    }

    /// Values of the features that make so many tokens.
    pub fn features(&self, tokens: usize) -> usize {
        tokens * self.fold * self.stack.d_model
    }

    /// Values alive at the widest place of a pass that keeps nothing.
    pub fn widest(&self, rows: usize) -> usize {
        (rows * (2 * self.input_width + self.stem_kept)).max(self.stack.widest(rows))
    }

    /// Multiplications and additions of the encoder and of the projector.
    pub fn flop(&self, rows: usize) -> [f64; 2] {
        let of = |params: usize| 2.0 * rows as f64 * params as f64 / self.fold as f64;
        [self.stack.flop(rows) + of(self.stem_params), of(self.projector_params)]
    }
}

/// Rows that a prompt's media take in the towers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TowerRows {
    pub image: usize,
    pub audio: usize,
}

/// A policy.
#[derive(Debug, Clone, Copy)]
pub(super) struct PolicySizes {
    pub decoder: Stack,
    pub vocab: usize,
    pub tied: bool,
    /// Values of keys and values a position and layer.
    pub kv_width: usize,
    pub image: Option<TowerSizes>,
    pub audio: Option<TowerSizes>,
}

impl PolicySizes {
    pub fn new(config: &PolicyConfig) -> Self {
        let decoder = &config.decoder;
        let (h, kv, d_head, d_model) =
            (decoder.num_heads, decoder.num_kv_heads, decoder.d_head, decoder.d_model);
        let row_width = (h + 2 * kv) * d_head;
        let optional = [
            (decoder.qkv_bias, row_width),
            (decoder.out_bias, d_model),
            (decoder.mlp_bias, 2 * decoder.d_hidden + d_model),
            (decoder.qk_norm, 2 * d_head),
        ];
        let present = optional.iter().filter(|(present, _)| *present).map(|(_, count)| count);
        let stack = Stack {
            num_layers: decoder.num_layers,
            d_model,
            row_width,
            mixed_width: h * d_head,
            d_hidden: decoder.d_hidden,
            mlp_matrices: 3,
            vectors: 2 * d_model + present.sum::<usize>(),
            learns: true,
        };
        let image = config.vision.as_ref().map(|vision| match &vision.encoder {
            ImageEncoderConfig::Vit(encoder) => {
                let (d, patch) = (encoder.layer.d_model, 3 * encoder.patch_size * encoder.patch_size);
                let [rows, columns] = encoder.grid();
                let class = if encoder.class_token { 2 * d } else { 0 };
                let bias = if encoder.patch_bias { d } else { 0 };
                let norms = usize::from(encoder.pre_norm) + usize::from(encoder.post_norm);
                let stem = patch * d + bias + rows * columns * d + class + norms * norm(encoder.layer);
                let stack = Stack::encoder(encoder.num_layers, encoder.layer);
                TowerSizes::new(stack, (patch, 0, stem), vision.projector, d_model)
            }
            ImageEncoderConfig::Qwen(encoder) => {
                let (d, side) = (encoder.layer.d_model, encoder.patch_size);
                let patch = 3 * encoder.temporal_patch_size * side * side;
                let stem = patch * d + norm(encoder.layer);
                let stack = Stack::encoder(encoder.num_layers, encoder.layer);
                TowerSizes::new(stack, (patch, 0, stem), vision.projector, d_model)
            }
            // What goes on inside is not known: its weights are counted, and what it gives.
            ImageEncoderConfig::Own(own) => {
                let stack = Stack { num_layers: 0, d_model: own.d_output, ..Stack::default() };
                TowerSizes::new(stack, (0, 0, own.num_params), vision.projector, d_model)
            }
        });
        let audio = config.audio.as_ref().map(|audio| {
            let encoder = &audio.encoder;
            let d = encoder.layer.d_model;
            let positions = encoder.max_positions.unwrap_or(0) * d;
            let convolutions = 3 * encoder.num_mels * d + d + 3 * d * d + d;
            let stem = convolutions + positions + norm(encoder.layer);
            // Two frames a row, three taps each; both convolutions keep what they give before and after the activation.
            let widths = (2 * 3 * encoder.num_mels, 2 * 2 * d + 3 * d + d, stem);
            TowerSizes::new(
                Stack::encoder(encoder.num_layers, encoder.layer),
                widths,
                audio.projector,
                d_model,
            )
        });
        let (vocab, tied) = (decoder.vocab_size, decoder.tie_embeddings);
        Self { decoder: stack, vocab, tied, kv_width: 2 * kv * d_head, image, audio }
    }

    pub fn params(&self) -> usize {
        let towers = [self.image, self.audio].into_iter().flatten().map(|tower| tower.params());
        self.decoder_params() + towers.sum::<usize>()
    }

    /// Parameters of the decoder, embeddings and output included.
    pub fn decoder_params(&self) -> usize {
        let embeddings = self.vocab * self.decoder.d_model * if self.tied { 1 } else { 2 };
        self.decoder.params() + embeddings + self.decoder.d_model
    }

    /// Parameters of adapters of a rank on every matrix of the decoder.
    pub fn lora_params(&self, rank: usize) -> usize {
        let Stack { num_layers, d_model, row_width, mixed_width, d_hidden, .. } = self.decoder;
        let sides =
            [(d_model, row_width), (mixed_width, d_model), (d_model, 2 * d_hidden), (d_hidden, d_model)];
        num_layers * rank * sides.iter().map(|(a, b)| a + b).sum::<usize>()
    }

    /// Values that towers keep for their way back.
    pub fn towers_kept(&self, rows: TowerRows) -> usize {
        self.of_towers(rows, TowerSizes::kept)
    }

    /// Values that projectors behind frozen towers keep.
    pub fn projectors_kept(&self, rows: TowerRows) -> usize {
        self.of_towers(rows, TowerSizes::projector_kept)
    }

    /// Values alive at the widest place of the towers in a pass that keeps nothing.
    pub fn towers_widest(&self, rows: TowerRows) -> usize {
        self.of_towers(rows, TowerSizes::widest)
    }

    /// Multiplications and additions of all encoders and of all projectors.
    pub fn towers_flop(&self, rows: TowerRows) -> [f64; 2] {
        let image = self.image.map_or([0.0; 2], |tower| tower.flop(rows.image));
        let audio = self.audio.map_or([0.0; 2], |tower| tower.flop(rows.audio));
        [image[0] + audio[0], image[1] + audio[1]]
    }

    fn of_towers(&self, rows: TowerRows, count: impl Fn(&TowerSizes, usize) -> usize) -> usize {
        self.image.as_ref().map_or(0, |tower| count(tower, rows.image))
            + self.audio.as_ref().map_or(0, |tower| count(tower, rows.audio))
    }

    /// Those of the output, for `rows` of the decoder.
    pub fn head_flop(&self, rows: usize) -> f64 {
        2.0 * rows as f64 * (self.vocab * self.decoder.d_model) as f64
    }
}

/// Rows that the media of a prompt take, and the bytes of their preprocessed values.
pub(super) fn media_of(config: &PolicyConfig, prompt: &Prompt) -> (TowerRows, usize) {
    let patches = |image: &ImageInput| {
        let encoder = config.vision.as_ref().map(|vision| &vision.encoder);
        encoder.map_or(0, |encoder| encoder.num_positions(image.num_views, image.height, image.width))
    };
    let image = prompt.images.iter().map(patches).sum();
    let audio = prompt.audios.iter().map(|audio| audio.frames / 2).sum();
    let values = prompt.images.iter().map(|image| image.pixel_values.len()).sum::<usize>()
        + prompt.audios.iter().map(|audio| audio.input_features.len()).sum::<usize>();
    (TowerRows { image, audio }, 4 * values)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::module::Module;

    use super::*;

    #[test]
    fn parameters_are_counted_as_they_are_built() {
        let mut config = PolicyConfig::tiny(300);
        for other in [false, true] {
            let decoder = &mut config.decoder;
            decoder.tie_embeddings = !other;
            decoder.qkv_bias = other;
            decoder.out_bias = other;
            decoder.mlp_bias = other;
            decoder.qk_norm = other;
            if let Some(ImageEncoderConfig::Vit(encoder)) =
                config.vision.as_mut().map(|vision| &mut vision.encoder)
            {
                encoder.class_token = other;
                encoder.pre_norm = other;
                encoder.layer.gated = other;
                encoder.layer.layer_scale = other;
            }
            let built = config.build(1, &crate::open_device("cpu").unwrap()).num_params();
            assert_eq!(PolicySizes::new(&config).params(), built);
        }
    }
}
