//! Credit assignment: rewards of groups to advantages of tokens.
//!
//! All estimators work on numbers, inside in f64. The outcome `R_i` of a completion is its total plus its token rewards
//! (a divergence penalty in the reward, for one).

use kyoka_core::{AdvantageEstimator, Maker, own};

mod decoupled_gae;
mod dr_grpo;
mod gae;
mod gdpo;
mod gpg;
mod grpo;
mod length_adaptive_gae;
mod lite_ppo;
mod max_rl;
mod opo;
mod outcome;
mod pass_at_k;
mod pass_at_k_best;
mod process_grpo;
mod reinforce;
mod reinforce_plus_plus;
mod reinforce_plus_plus_baseline;
mod remax;
mod rloo;
mod whitening;

pub use decoupled_gae::DecoupledGae;
pub use dr_grpo::DrGrpo;
pub use gae::Gae;
pub use gdpo::Gdpo;
pub use gpg::Gpg;
pub use grpo::Grpo;
pub use length_adaptive_gae::LengthAdaptiveGae;
pub use lite_ppo::LitePpo;
pub use max_rl::MaxRl;
pub use opo::Opo;
pub use outcome::{Singleton, returns_to_go};
pub use pass_at_k::{PassAtK, pass_at_k};
pub use pass_at_k_best::PassAtKBest;
pub use process_grpo::{ProcessGrpo, StepCredit};
pub use reinforce::Reinforce;
pub use reinforce_plus_plus::ReinforcePlusPlus;
pub use reinforce_plus_plus_baseline::ReinforcePlusPlusBaseline;
pub use remax::Remax;
pub use rloo::Rloo;
pub use whitening::Whitening;

/// Estimators with settings of their own: `advantage = { kind = "KIND", ... }`, and what makes them.
#[rustfmt::skip] // A line a kind, as `cargo xtask new` adds them.
pub(crate) const OWN_ADVANTAGES: &[(&str, Maker<dyn AdvantageEstimator>)] = &[
    ("grpo", |settings| Ok(Box::new(own::<Grpo>(settings)?))),
];

#[cfg(test)]
mod tests {
    use kyoka_core::{AdvantageEstimator, GroupRewards};

    use super::*;

    pub(super) fn group(totals: &[f32]) -> GroupRewards {
        GroupRewards {
            totals: totals.to_vec(),
            lengths: vec![1; totals.len()],
            parts: totals.iter().map(|&total| vec![total]).collect(),
            ..Default::default()
        }
    }

    pub(super) fn firsts(estimator: &dyn AdvantageEstimator, totals: &[f32]) -> Vec<f32> {
        let advantages = estimator.estimate(&[group(totals)]).unwrap();
        advantages.per_token.iter().map(|tokens| tokens[0]).collect()
    }

    pub(super) fn assert_close(got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len(), "{got:?} against {expected:?}");
        for (a, b) in got.iter().zip(expected) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{got:?} against {expected:?}");
        }
    }

    fn centred() -> Vec<Box<dyn AdvantageEstimator>> {
        vec![
            Box::new(Grpo::default()),
            Box::new(DrGrpo::default()),
            Box::new(Rloo::default()),
            Box::new(ProcessGrpo::default()),
            Box::new(Opo::default()),
            Box::new(LitePpo::default()),
            Box::new(Gdpo::default()),
            Box::new(Reinforce),
            Box::new(ReinforcePlusPlus::default()),
            Box::new(ReinforcePlusPlusBaseline::default()),
        ]
    }

    #[test]
    fn credit_relative_to_a_mean_sums_to_zero_and_ignores_a_shift() {
        let totals = [0.3, 1.0, -2.0, 0.7, 0.0];
        for (place, estimator) in centred().iter().enumerate() {
            let advantages = firsts(estimator.as_ref(), &totals);
            assert!(advantages.iter().sum::<f32>().abs() < 1e-5, "estimator {place}");
            assert_close(&firsts(estimator.as_ref(), &totals.map(|total| total + 5.0)), &advantages);
        }
    }

    #[test]
    fn equal_rewards_give_no_credit() {
        for estimator in centred() {
            assert_eq!(firsts(estimator.as_ref(), &[0.4; 4]), [0.0; 4]);
        }
        assert_eq!(firsts(&MaxRl, &[0.4; 4]), [0.0; 4]);
        assert_eq!(firsts(&PassAtKBest::default(), &[0.4; 4]), [0.0; 4]);
        assert_eq!(firsts(&PassAtK { k: 2 }, &[1.0; 4]), [0.0; 4]);
    }

    #[test]
    fn bad_rewards_and_groups_of_one_are_refused() {
        let nan = Grpo::default().estimate(&[group(&[1.0, 0.0]), group(&[0.0, f32::NAN])]).unwrap_err();
        assert_eq!(nan.to_string(), "group 1, completion 1: expected a finite reward, got NaN");
        let infinite = ReinforcePlusPlus::default().estimate(&[group(&[f32::INFINITY])]).unwrap_err();
        assert_eq!(infinite.to_string(), "group 0, completion 0: expected a finite reward, got inf");
        let single = Rloo::default().estimate(&[group(&[1.0])]).unwrap_err();
        assert_eq!(single.to_string(), "group 0: rloo needs at least 2 completions a prompt, got 1");
    }

    #[test]
    #[should_panic(expected = "lengths: expected 2 (one a reward), got 1")]
    fn shapes_that_disagree_are_a_callers_bug() {
        let bad = GroupRewards { totals: vec![0.0, 1.0], lengths: vec![1], ..Default::default() };
        let _ = Grpo::default().estimate(&[bad]);
    }

    #[test]
    fn an_empty_batch_has_no_credit() {
        for estimator in centred() {
            assert!(estimator.estimate(&[]).unwrap().per_token.is_empty());
        }
    }
}
