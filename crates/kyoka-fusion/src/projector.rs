//! From an encoder's features to the decoder's width.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use kyoka_core::{ImageInput, ModalityEncoder, ModalityFeatures};
use kyoka_nn::{Activation, GeluMlp, Linear, Linears, NamedLinears, WeightInit};
use serde::{Deserialize, Serialize};

use crate::positions::TokenGrid;

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
    /// One matrix, as Idefics3 has it, instead of an MLP.
    #[serde(default)]
    pub linear: bool,
    /// Whether that one matrix has a bias, as Qwen2-Audio's.
    #[serde(default)]
    pub linear_bias: bool,
    /// Width between the matrices of the MLP; without, the decoder's.
    #[serde(default)]
    pub d_hidden: Option<usize>,
}

impl ProjectorConfig {
    /// Folds adjacent positions, then an MLP.
    pub fn mlp(fold: usize) -> Self {
        Self { fold, grid_columns: None, linear: false, linear_bias: false, d_hidden: None }
    }

    /// Folds adjacent positions, then one matrix.
    pub fn linear(fold: usize, bias: bool) -> Self {
        Self { linear: true, linear_bias: bias, ..Self::mlp(fold) }
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
        let ProjectorConfig { fold, grid_columns, linear, linear_bias, d_hidden } = config;
        assert!(fold > 0, "projector: expected a fold of at least 1, got 0");
        assert!(
            grid_columns.is_none() || fold.isqrt().pow(2) == fold,
            "projector: expected a square fold on a grid, got {fold}"
        );
        let d_folded = d_input * fold;
        Self {
            linear: linear.then(|| init.linear(d_folded, d_output, linear_bias)),
            mlp: (!linear).then(|| {
                GeluMlp::new([d_folded, d_hidden.unwrap_or(d_output), d_output], Activation::Gelu, init)
            }),
            fold,
            grid_columns,
        }
    }

    /// # Shapes
    /// - input: `[N, D]`, the length of each medium a multiple of the fold
    /// - output: `[N / fold, d_output]`
    ///
    /// # Panics
    /// If a medium's positions do not fold.
    pub fn forward(&self, features: ModalityFeatures) -> Tensor<2> {
        let ModalityFeatures { embeddings, lengths } = features;
        let [n, d] = embeddings.dims();
        if let Some(length) = lengths.iter().find(|length| !length.is_multiple_of(self.fold)) {
            panic!("projector: {length} positions are not a multiple of the fold {}", self.fold);
        }
        let embeddings = match self.grid_columns {
            None => embeddings,
            Some(columns) => fold_squares(embeddings, columns, self.fold.isqrt()),
        };
        let folded = embeddings.reshape([n / self.fold, d * self.fold]);
        match (&self.linear, &self.mlp) {
            (Some(linear), _) => linear.forward(folded),
            (None, Some(mlp)) => mlp.forward(folded),
            (None, None) => unreachable!("a projector has one of the two"),
        }
    }
}

/// Puts the positions of each square of a grid next to each other, squares and positions in reading order. Grids of all
/// media stand one below the other.
fn fold_squares(features: Tensor<2>, columns: usize, side: usize) -> Tensor<2> {
    let [n, d] = features.dims();
    let rows = n / columns;
    assert!(
        rows * columns == n && rows.is_multiple_of(side) && columns.is_multiple_of(side),
        "projector: a grid of {n} positions in {columns} columns does not split into squares of {side}"
    );
    let squares: Tensor<5> = features.reshape([rows / side, side, columns / side, side, d]);
    squares.swap_dims(1, 2).reshape([n, d])
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

    /// The grid on which the tokens of a picture lie.
    ///
    /// # Panics
    /// If the encoder's positions have no grid.
    pub(crate) fn token_grid(&self, input: &ImageInput) -> TokenGrid
    where
        E: ModalityEncoder<Input = ImageInput>,
    {
        let grid = self.encoder.grid(input);
        let [steps, rows, columns] = grid.expect("positions by row and column need an encoder with a grid");
        let side = self.projector.fold.isqrt();
        let seconds_per_step = f64::from(input.seconds_per_step);
        TokenGrid { steps, rows: rows / side, columns: columns / side, seconds_per_step }
    }

    /// All media in one call; rows in the order of the media.
    ///
    /// # Shapes
    /// - output: `[N, d_output]` with `N` the sum of the media's tokens
    pub fn forward(&self, inputs: &[&E::Input], device: &Device) -> Tensor<2> {
        self.projector.forward(self.encoder.encode(inputs, device))
    }
}

impl Linears for Projector {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        if let Some(linear) = &mut self.linear {
            found.push((format!("{prefix}linear"), linear));
        }
        if let Some(mlp) = &mut self.mlp {
            mlp.linears(&format!("{prefix}mlp."), found);
        }
    }
}

impl<E: Module + Linears> Linears for Tower<E> {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        self.encoder.linears(&format!("{prefix}encoder."), found);
        self.projector.linears(&format!("{prefix}projector."), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_of_a_grid_come_together_in_reading_order() {
        // Two rows of four positions: two squares.
        let grid: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let features = Tensor::<1>::from_floats(grid.as_slice(), &Device::default()).reshape([8, 1]);
        let folded = fold_squares(features, 4, 2).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(folded, [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
    }
}
