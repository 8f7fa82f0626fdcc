#![doc = include_str!("../README.md")]

mod again;
mod elsewhere;
mod median;
mod short;
mod squared;

use kyoka::{Recipe, Run, rollout::TurnByTurn};

pub use again::Again;
pub use elsewhere::Elsewhere;
pub use median::MedianAdvantage;
pub use short::Short;
pub use squared::SquaredLoss;

/// A run of a recipe that may name the fork's parts.
pub fn run(recipe: Recipe) -> Run {
    Run::new(recipe)
        .with_advantage("median", |settings| Ok(Box::new(settings.try_into::<MedianAdvantage>()?)))
        .with_policy_loss("squared", |settings| Ok(Box::new(settings.try_into::<SquaredLoss>()?)))
        .with_reward("short", |settings| Ok(Box::new(settings.try_into::<Short>()?)))
        .with_engine("elsewhere", |context, settings| {
            Ok(Box::new(TurnByTurn(Elsewhere::start(&context, settings.try_into()?))))
        })
        .with_environment("again", |settings| Ok(Box::new(settings.try_into::<Again>()?)))
}
