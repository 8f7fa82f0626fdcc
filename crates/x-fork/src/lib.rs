#![doc = include_str!("../README.md")]

pub mod again;
pub mod elsewhere;
pub mod median;
pub mod short;
pub mod squared;
pub mod tiles;

use kyoka::{Recipe, Run, rollout::TurnByTurn};

/// A run of a recipe that may name the fork's parts.
pub fn run(recipe: Recipe) -> Run<tiles::Tiles> {
    Run::with_image_encoder(recipe, "tiles", |settings, size, init| {
        Ok(tiles::Tiles::new(settings.try_into()?, size, init)?)
    })
    .with_advantage("median", |settings| Ok(Box::new(settings.try_into::<median::MedianAdvantage>()?)))
    .with_policy_loss("squared", |settings| Ok(Box::new(settings.try_into::<squared::SquaredLoss>()?)))
    .with_reward("short", |settings| Ok(Box::new(settings.try_into::<short::Short>()?)))
    .with_engine("elsewhere", |context, settings| {
        Ok(Box::new(TurnByTurn(elsewhere::Elsewhere::start(&context, settings.try_into()?))))
    })
    .with_environment("again", |settings| Ok(Box::new(settings.try_into::<again::Again>()?)))
}
