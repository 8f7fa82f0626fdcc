//! `kyoka reward check`: what a recipe's rewards make of completions that everybody can judge, before a run is spent on them.

use kyoka_core::Sample;
use kyoka_reward::{Lint, lint};
use kyoka_trainer::TrainError;

use crate::{
    Error, Recipe, doors::Doors, open_device, preparing::check_judged, rewards::Rewards, source::Dataset,
};

/// A recipe's rewards, looked at on the rows of a split.
#[derive(Debug, Clone)]
pub struct CheckedRewards {
    /// The split.
    pub split: String,
    /// Rows that were looked at.
    pub num_rows: usize,
    /// What was found.
    pub lint: Lint,
}

/// Judges gold, wrong, truncated, padded and hostile completions of up to `max_rows` rows by all rewards of a recipe; those
/// rows are spread over the split that the recipe's reinforcement learning reads.
///
/// # Errors
/// If the recipe has no stage of reinforcement learning, its rows cannot be read or judged, or a reward cannot be made.
pub fn check_recipe_rewards(recipe: &Recipe, max_rows: usize) -> Result<CheckedRewards, Error> {
    let doors = Doors::default();
    recipe.check()?;
    let settings = recipe.settings()?;
    let no_stage = "expected a stage of reinforcement learning, whose rows are looked at, got none";
    let stage = settings.rl().last().ok_or_else(|| Error::argument("recipe", no_stage.to_owned()))?;
    let rewards = Rewards::make(&settings.reward, &doors).map_err(|fault| recipe.refused(&fault))?;
    let rows = Dataset::open(&settings.data, &doors)?.rows(&stage.data)?.rows;
    let rows = spread(&rows, max_rows);
    check_judged(&rewards, &rows)?;
    let reward = rewards.steady().sum(&open_device("cpu")?)?;
    let lint = lint(&reward, &rows, stage.sampling.max_new_tokens).map_err(TrainError::from)?;
    Ok(CheckedRewards { split: stage.data.clone(), num_rows: rows.len(), lint })
}

/// Up to so many rows, evenly from all of a split.
pub(crate) fn spread(rows: &[Sample], most: usize) -> Vec<Sample> {
    let count = rows.len().min(most.max(1));
    (0..count).map(|place| rows[place * rows.len() / count].clone()).collect()
}
