//! Dynamic sampling: groups that say nothing are replaced (DAPO, arXiv 2503.14476, equation 11).
//!
//! What a group says depends on the estimator: two rewards that differ can still give no credit (pass@k of a group that
//! is all right), and equal totals can give some (verdicts on steps, parts that are normalised apart).

use kyoka_core::{AdvantageError, AdvantageEstimator, GroupRewards};

/// Whether anything tells the completions of a group apart: two rewards that differ.
///
/// The paper's rule, "neither all right nor all wrong", for rewards of any kind. A group of one says nothing.
pub fn is_informative(totals: &[f32]) -> bool {
    totals.windows(2).any(|pair| pair[0] != pair[1])
}

/// Whether `advantage`, which compares the completions of a group, gives any of them credit.
///
/// With a critic it is the spread of the outcomes that counts, as in DAPO and VAPO: values are not known yet, and credit
/// against them is never exactly 0.
///
/// # Errors
/// Those of the estimator.
pub fn gives_credit(
    advantage: &dyn AdvantageEstimator,
    group: &GroupRewards,
) -> Result<bool, AdvantageError> {
    if advantage.needs_values() {
        return Ok(is_informative(&group.totals));
    }
    let advantages = advantage.estimate(std::slice::from_ref(group))?;
    Ok(advantages.per_token.iter().flatten().any(|&advantage| advantage != 0.0))
}

#[cfg(test)]
mod tests {
    use kyoka_core::CreditedStep;

    use super::*;
    use crate::{AlgorithmConfig, Preset, algorithm::Credit};

    fn group(totals: &[f32]) -> GroupRewards {
        GroupRewards {
            totals: totals.to_vec(),
            // Lengths that differ: a baseline weighted by them must not round credit into an equal group.
            lengths: (1..=totals.len()).collect(),
            parts: totals.iter().map(|&total| vec![total]).collect(),
            ..Default::default()
        }
    }

    fn credits(advantage: Credit, group: &GroupRewards) -> bool {
        let critic = AlgorithmConfig::preset(Preset::Ppo).critic;
        let with_critic = matches!(advantage, Credit::Gae | Credit::DecoupledGae | Credit::LengthAdaptiveGae);
        let preset = AlgorithmConfig::preset(Preset::Grpo);
        let critic = if with_critic { critic } else { preset.critic };
        let algorithm =
            AlgorithmConfig { advantage: advantage.into(), critic, pass_k: 2, ..preset }.build(4).unwrap();
        gives_credit(algorithm.advantage.as_ref(), group).unwrap()
    }

    #[test]
    fn a_group_is_kept_where_the_estimator_tells_its_completions_apart() {
        for advantage in [
            Credit::Grpo,
            Credit::ProcessGrpo,
            Credit::DrGrpo,
            Credit::Rloo,
            Credit::ReinforcePlusPlusBaseline,
            Credit::Opo,
            Credit::PassAtK,
            Credit::PassAtKBest,
            Credit::MaxRl,
            Credit::LitePpo,
            Credit::Gdpo,
            Credit::Gpg,
            Credit::Gae,
            Credit::DecoupledGae,
            Credit::LengthAdaptiveGae,
        ] {
            assert!(credits(advantage, &group(&[0.0, 0.0, 0.7, 0.0])), "{advantage:?}");
            assert!(!credits(advantage, &group(&[0.7; 4])), "{advantage:?}");
            assert!(!credits(advantage, &group(&[0.0; 4])), "{advantage:?}");
        }
    }

    #[test]
    fn spread_is_neither_needed_nor_enough() {
        // All right for pass@k; two best ones for the best of k; a mean of 0 for MaxRL.
        assert!(!credits(Credit::PassAtK, &group(&[0.3, 0.7, 0.7, 0.3])));
        assert!(!credits(Credit::PassAtKBest, &group(&[0.7, 0.7, 0.0, 0.0])));
        assert!(!credits(Credit::MaxRl, &group(&[-0.5, 0.5, 0.0, 0.0])));
        let step = |value| vec![CreditedStep { step: (0, 0), tokens: 0..1, value }];
        let steps = [1.0, 0.0, 0.0, 0.0].map(step).to_vec();
        let equal = GroupRewards { steps, ..group(&[0.5; 4]) };
        assert!(credits(Credit::ProcessGrpo, &equal) && !credits(Credit::Grpo, &equal));
        let parts = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![1.0, 0.0], vec![1.0, 0.0]];
        let parts = GroupRewards { parts, part_weights: vec![1.0, 3.0], ..group(&[0.5; 4]) };
        assert!(credits(Credit::Gdpo, &parts) && !credits(Credit::Grpo, &parts));
    }

    #[test]
    fn a_spread_is_informative() {
        assert!(is_informative(&[0.0, 0.0, 1.0]));
        assert!(!is_informative(&[1.0; 4]));
        assert!(!is_informative(&[1.0]));
        assert!(!is_informative(&[]));
    }
}
