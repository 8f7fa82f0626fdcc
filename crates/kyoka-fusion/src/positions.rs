//! How the tokens of a prompt are numbered.

use kyoka_core::{Modality, Prompt};
use kyoka_nn::Position;
use serde::{Deserialize, Serialize};

use crate::packing::PromptPlaces;

/// How positions run through a prompt with media.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PositionScheme {
    /// One after the other, media or not.
    #[default]
    Plain,
    /// Tokens of a picture are numbered by time, row and column, and what follows goes on after the largest (multi-axis
    /// rope, Qwen2-VL, arXiv 2409.12191).
    Grid {
        /// Positions a second of a clip; without, one a step.
        ticks_per_second: Option<f64>,
        /// Whether text behind a clip also goes on after its last moment (Qwen2.5-Omni), not after rows and columns
        /// only (Qwen2-VL).
        clips_advance: bool,
    },
}

/// The grid of a picture's tokens: steps of time, rows, columns; and the seconds a step takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TokenGrid {
    pub steps: usize,
    pub rows: usize,
    pub columns: usize,
    pub seconds_per_step: f64,
}

impl PositionScheme {
    /// Positions of a batch of prompts; `grids` holds those of each prompt's pictures.
    ///
    /// # Panics
    /// If a picture's span does not have the tokens of its grid.
    pub(crate) fn places(self, prompts: &[&Prompt], grids: &[Vec<TokenGrid>]) -> PromptPlaces {
        let mut places = PromptPlaces::default();
        for (prompt, grids) in prompts.iter().zip(grids) {
            let before = places.positions.len();
            match self {
                Self::Plain => places.positions.extend((0..prompt.len()).map(|place| [place; 3])),
                Self::Grid { .. } => self.grid_places(prompt, grids, &mut places.positions),
            }
            let largest = places.positions[before..].iter().flatten().max();
            places.next.push(largest.map_or(0, |largest| largest + 1));
            places.lengths.push(prompt.len());
        }
        places
    }

    fn grid_places(self, prompt: &Prompt, grids: &[TokenGrid], positions: &mut Vec<Position>) {
        let Self::Grid { ticks_per_second, clips_advance } = self else { return };
        let mut spans = prompt.spans_of(Modality::Image).zip(grids).peekable();
        let (mut place, mut next) = (0, 0);
        while place < prompt.len() {
            match spans.peek() {
                Some((span, grid)) if span.positions.start == place => {
                    let count = grid.steps * grid.rows * grid.columns;
                    assert_eq!(
                        span.positions.len(),
                        count,
                        "positions: expected a span of the picture's grid"
                    );
                    let moment = |step: usize| {
                        let ticks = ticks_per_second.map(|ticks| ticks * grid.seconds_per_step);
                        ticks.map_or(step, |ticks| (step as f64 * ticks) as usize)
                    };
                    for step in 0..grid.steps {
                        let cells = (0..grid.rows * grid.columns).map(|cell| {
                            [next + moment(step), next + cell / grid.columns, next + cell % grid.columns]
                        });
                        positions.extend(cells);
                    }
                    let mut extent = grid.rows.max(grid.columns);
                    if clips_advance {
                        extent = extent.max(moment(grid.steps - 1) + 1);
                    }
                    next += extent;
                    place += count;
                    spans.next();
                }
                _ => {
                    positions.push([next; 3]);
                    next += 1;
                    place += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::ModalitySpan;

    use super::*;

    #[test]
    fn rows_and_columns_are_numbered_and_text_goes_on_after_the_largest() {
        let span = ModalitySpan { modality: Modality::Image, positions: 1..7 };
        let prompt = Prompt { token_ids: vec![0; 8], spans: vec![span], ..Prompt::default() };
        let grid = TokenGrid { steps: 1, rows: 2, columns: 3, seconds_per_step: 0.0 };
        let scheme = PositionScheme::Grid { ticks_per_second: Some(25.0), clips_advance: false };
        let places = scheme.places(&[&prompt], &[vec![grid]]);
        let expected =
            [[0, 0, 0], [1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 2, 1], [1, 2, 2], [1, 2, 3], [4, 4, 4]];
        assert_eq!(places.positions, expected);
        assert_eq!((places.next, places.lengths), (vec![5], vec![8]));
    }

    #[test]
    fn a_clip_moves_on_by_its_seconds() {
        let span = ModalitySpan { modality: Modality::Image, positions: 0..2 };
        let prompt = Prompt { token_ids: vec![0; 3], spans: vec![span], ..Prompt::default() };
        let grid = TokenGrid { steps: 2, rows: 1, columns: 1, seconds_per_step: 1.5 };
        let places = |clips_advance| {
            let scheme = PositionScheme::Grid { ticks_per_second: Some(3.0), clips_advance };
            let places = scheme.places(&[&prompt], &[vec![grid]]);
            (places.positions[1..].to_vec(), places.next[0])
        };
        assert_eq!(places(false), (vec![[4, 0, 0], [1, 1, 1]], 5));
        assert_eq!(places(true), (vec![[4, 0, 0], [5, 5, 5]], 6));
    }
}
