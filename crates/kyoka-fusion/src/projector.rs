//! From an encoder's features to the decoder's width.

use burn::{
    module::Module,
    nn::Linear,
    tensor::{Device, Tensor},
};
use kyoka_core::ModalityEncoder;
use kyoka_nn::{Activation, GeluMlp, WeightInit};
use serde::{Deserialize, Serialize};

/// How features become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Adjacent positions that make one token.
    pub fold: usize,
    /// For features that lie on a grid of this many columns: squares are folded instead of rows. The fold is then a
    /// square number.
    #[serde(default)]
    pub grid_columns: Option<usize>,
    /// One matrix without bias, as Idefics3 has it, instead of an MLP.
    #[serde(default)]
    pub linear: bool,
}

impl ProjectorConfig {
    /// Folds adjacent positions, then an MLP.
    pub fn mlp(fold: usize) -> Self {
        Self { fold, grid_columns: None, linear: false }
    }
}

/// Folds positions into tokens and maps them to the decoder's width.
///
/// Folding is how connectors shorten the sequence: Idefics3 folds squares of patches, Ultravox stacks audio frames.
#[derive(Module, Debug)]
pub struct Projector {
    /// The matrix, when there is one only.
    pub linear: Option<Linear>,
    /// The MLP otherwise.
    pub mlp: Option<GeluMlp>,
    fold: usize,
    #[module(skip)]
    grid_columns: Option<usize>,
}

impl Projector {
    /// Positions of width `d_input` to tokens of width `d_output`.
    ///
    /// # Panics
    /// If the fold is 0, or no square on a grid.
    pub fn new(config: ProjectorConfig, d_input: usize, d_output: usize, init: &mut WeightInit) -> Self {
        let ProjectorConfig { fold, grid_columns, linear } = config;
        assert!(fold > 0, "projector: expected a fold of at least 1, got 0");
        assert!(
            grid_columns.is_none() || fold.isqrt().pow(2) == fold,
            "projector: expected a square fold on a grid, got {fold}"
        );
        let d_folded = d_input * fold;
        Self {
            linear: linear.then(|| init.linear(d_folded, d_output, false)),
            mlp: (!linear).then(|| GeluMlp::new([d_folded, d_output, d_output], Activation::Gelu, init)),
            fold,
            grid_columns,
        }
    }

    /// # Shapes
    /// - input: `[B, P, D]` with `P` a multiple of the fold
    /// - output: `[B * P / fold, d_output]`
    pub fn forward(&self, features: Tensor<3>) -> Tensor<2> {
        let [b, p, d] = features.dims();
        assert!(p % self.fold == 0, "projector: {p} positions are not a multiple of the fold {}", self.fold);
        let features = match self.grid_columns {
            None => features,
            Some(columns) => fold_squares(features, columns, self.fold.isqrt()),
        };
        let folded: Tensor<2> = features.reshape([b * p / self.fold, d * self.fold]);
        match (&self.linear, &self.mlp) {
            (Some(linear), _) => linear.forward(folded),
            (None, Some(mlp)) => mlp.forward(folded),
            (None, None) => unreachable!("a projector has one of the two"),
        }
    }
}

/// Puts the positions of each square of a grid next to each other, squares and positions in reading order.
fn fold_squares(features: Tensor<3>, columns: usize, side: usize) -> Tensor<3> {
    let [b, p, d] = features.dims();
    let rows = p / columns;
    assert!(
        rows * columns == p && rows.is_multiple_of(side) && columns.is_multiple_of(side),
        "projector: a grid of {p} positions in {columns} columns does not split into squares of {side}"
    );
    let squares: Tensor<5> = features.reshape([b * rows / side, side, columns / side, side, d]);
    squares.swap_dims(1, 2).reshape([b, p, d])
}

/// An encoder with its projector: one sense of the policy.
#[derive(Module, Debug)]
pub struct Tower<E: Module> {
    /// Medium to features.
    pub encoder: E,
    /// Features to tokens.
    pub projector: Projector,
}

impl<E: ModalityEncoder> Tower<E> {
    /// How many tokens a medium takes, before it runs.
    pub fn num_tokens(&self, input: &E::Input) -> usize {
        self.encoder.num_positions(input) / self.projector.fold
    }

    /// All media in one call; rows in the order of the media.
    ///
    /// # Shapes
    /// - output: `[N, d_output]` with `N` the sum of the media's tokens
    pub fn forward(&self, inputs: &[&E::Input], device: &Device) -> Tensor<2> {
        self.projector.forward(self.encoder.encode(inputs, device).embeddings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_of_a_grid_come_together_in_reading_order() {
        // Two rows of four positions: two squares.
        let grid: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let features = Tensor::<1>::from_floats(grid.as_slice(), &Device::default()).reshape([1, 8, 1]);
        let folded = fold_squares(features, 4, 2).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(folded, [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
    }
}
