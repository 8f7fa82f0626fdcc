//! Parameters, kept values and arithmetic of a policy, counted from its configuration.

use kyoka_core::Prompt;
use kyoka_image::ImageEncoderConfig;
use kyoka_nn::EncoderLayerConfig;

use crate::PolicyConfig;

/// A stack of transformer layers, as far as memory and arithmetic go.
#[derive(Debug, Clone, Copy)]
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
}

impl Stack {
    fn encoder(num_layers: usize, layer: EncoderLayerConfig) -> Self {
        let EncoderLayerConfig { d_model, d_hidden, .. } = layer;
        let biases = 3 * d_model + d_model + d_hidden + d_model;
        Self {
            num_layers,
            d_model,
            row_width: 3 * d_model,
            mixed_width: d_model,
            d_hidden,
            mlp_matrices: 2,
            vectors: biases + 4 * d_model,
        }
    }

    fn matrices(&self) -> usize {
        self.d_model * (self.row_width + self.mixed_width + self.mlp_matrices * self.d_hidden)
    }

    pub fn params(&self) -> usize {
        self.num_layers * (self.matrices() + self.vectors)
    }

    /// Values that attention's side of a layer keeps of a row for its way back: input, norm, queries, keys and values.
    fn kept_before(&self) -> usize {
        2 * self.d_model + self.row_width
    }

    /// Values that the rest of a layer keeps: mixed rows, the sum, its norm, and the MLP between its matrices.
    fn kept_after(&self) -> usize {
        self.mixed_width + 2 * self.d_model + self.mlp_matrices * self.d_hidden
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

/// A tower: what it reads, its layers, its projector.
#[derive(Debug, Clone, Copy)]
pub(super) struct TowerSizes {
    pub stack: Stack,
    /// Values of the input of one row of the stack.
    input_width: usize,
    /// Values that the stem keeps a row besides its input.
    stem_kept: usize,
    /// Parameters beside the layers.
    other_params: usize,
    /// Rows that make one token.
    fold: usize,
    /// Width of the projector's hidden rows; 0 for one matrix.
    projector_hidden: usize,
}

impl TowerSizes {
    pub fn params(&self) -> usize {
        self.stack.params() + self.other_params
    }

    /// Values kept for the way back.
    pub fn kept(&self, rows: usize) -> usize {
        let projector = rows * self.stack.d_model + rows / self.fold * 2 * self.projector_hidden;
        // The sum after the last layer, its norm, and the stem.
        rows * (self.input_width + self.stem_kept + 2 * self.stack.d_model)
            + self.stack.kept(rows, rows)
            + projector
    }

    /// Values alive at the widest place of a pass that keeps nothing.
    pub fn widest(&self, rows: usize) -> usize {
        (rows * (2 * self.input_width + self.stem_kept)).max(self.stack.widest(rows))
    }

    pub fn flop(&self, rows: usize) -> f64 {
        let others = 2.0 * rows as f64 * self.other_params as f64 / self.fold as f64;
        self.stack.flop(rows) + others
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
        let stack = Stack {
            num_layers: decoder.num_layers,
            d_model,
            row_width,
            mixed_width: h * d_head,
            d_hidden: decoder.d_hidden,
            mlp_matrices: 3,
            vectors: 2 * d_model + if decoder.qkv_bias { row_width } else { 0 },
        };
        let projector = |d_encoder: usize, projector: kyoka_fusion::ProjectorConfig| {
            let d_folded = d_encoder * projector.fold;
            match projector.linear {
                true => (d_folded * d_model, 0),
                false => (d_folded * d_model + d_model + d_model * d_model + d_model, d_model),
            }
        };
        let image = config.vision.as_ref().map(|vision| {
            let (num_layers, layer, input_width, positions) = match &vision.encoder {
                ImageEncoderConfig::Vit(encoder) => {
                    let [rows, columns] = encoder.grid();
                    let positions = rows * columns + usize::from(encoder.class_token);
                    (encoder.num_layers, encoder.layer, 3 * encoder.patch_size.pow(2), positions)
                }
                ImageEncoderConfig::Qwen(encoder) => {
                    let width = 3 * encoder.temporal_patch_size * encoder.patch_size.pow(2);
                    (encoder.num_layers, encoder.layer, width, 0)
                }
            };
            let d = layer.d_model;
            let (projector_params, projector_hidden) = projector(d, vision.projector);
            TowerSizes {
                stack: Stack::encoder(num_layers, layer),
                input_width,
                stem_kept: 0,
                other_params: input_width * d + d + positions * d + 2 * d + projector_params,
                fold: vision.projector.fold,
                projector_hidden,
            }
        });
        let audio = config.audio.as_ref().map(|audio| {
            let encoder = &audio.encoder;
            let d = encoder.layer.d_model;
            let (projector_params, projector_hidden) = projector(d, audio.projector);
            TowerSizes {
                stack: Stack::encoder(encoder.num_layers, encoder.layer),
                // Two frames a row, three taps each.
                input_width: 2 * 3 * encoder.num_mels,
                stem_kept: 2 * 2 * d + 3 * d + d,
                other_params: 3 * encoder.num_mels * d + d + 3 * d * d + d + 2 * d + projector_params,
                fold: audio.projector.fold,
                projector_hidden,
            }
        });
        let (vocab, tied) = (decoder.vocab_size, decoder.tie_embeddings);
        Self { decoder: stack, vocab, tied, kv_width: 2 * kv * d_head, image, audio }
    }

    pub fn params(&self) -> usize {
        let embeddings = self.vocab * self.decoder.d_model * if self.tied { 1 } else { 2 };
        let towers = [self.image, self.audio].into_iter().flatten().map(|tower| tower.params());
        self.decoder.params() + embeddings + self.decoder.d_model + towers.sum::<usize>()
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

    /// Values alive at the widest place of the towers in a pass that keeps nothing.
    pub fn towers_widest(&self, rows: TowerRows) -> usize {
        self.of_towers(rows, TowerSizes::widest)
    }

    pub fn towers_flop(&self, rows: TowerRows) -> f64 {
        self.image.map_or(0.0, |tower| tower.flop(rows.image))
            + self.audio.map_or(0.0, |tower| tower.flop(rows.audio))
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
    let patch = config.vision.as_ref().map_or(1, |vision| match &vision.encoder {
        ImageEncoderConfig::Vit(encoder) => encoder.patch_size,
        ImageEncoderConfig::Qwen(encoder) => encoder.patch_size,
    });
    let image = prompt.images.iter().map(|image| image.num_views * (image.height / patch) * (image.width / patch)).sum();
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
        for (tied, bias) in [(true, false), (false, true)] {
            config.decoder.tie_embeddings = tied;
            config.decoder.qkv_bias = bias;
            let built = config.build(1, &crate::open_device("cpu").unwrap()).num_params();
            assert_eq!(PolicySizes::new(&config).params(), built);
        }
    }
}
