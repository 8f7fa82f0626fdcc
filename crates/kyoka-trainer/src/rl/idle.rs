//! Why a step teaches the policy nothing.

use kyoka_algorithms::Algorithm;
use kyoka_core::{Rollout, StopReason};

use super::{credited::Credited, groups::JudgedGroup};

/// Why no token of a step's fresh groups moves the policy, for the user.
pub(super) fn idle_reason(fresh: &[JudgedGroup<'_>], credited: &Credited, algorithm: &Algorithm) -> String {
    let reason = reason(fresh, credited, algorithm);
    format!("{reason}; nothing to learn from this step")
}

fn reason(fresh: &[JudgedGroup<'_>], credited: &Credited, algorithm: &Algorithm) -> String {
    let rollouts: Vec<&Rollout> = fresh.iter().flat_map(|group| &group.rollouts).collect();
    if rollouts.is_empty() {
        return match algorithm.dynamic_sampling {
            true => {
                "dynamic sampling threw away every group, the refills too: their completions earned the same"
            }
            false => "no completion could be judged",
        }
        .to_owned();
    }
    let credited_rows = rollouts.iter().zip(&credited.advantages);
    let with_credit: Vec<&Rollout> = credited_rows
        .filter(|(_, advantages)| advantages.iter().any(|&advantage| advantage != 0.0))
        .map(|(rollout, _)| *rollout)
        .collect();
    if with_credit.is_empty() {
        return match fresh.iter().all(JudgedGroup::is_flat) {
            true => "all completions of every prompt earned the same".to_owned(),
            false => "rewards differ, but the advantage of every completion is 0".to_owned(),
        };
    }
    let cut_off = with_credit.iter().filter(|rollout| rollout.is_truncated()).count();
    if algorithm.filters.mask_overlong && cut_off == with_credit.len() {
        let crowded =
            with_credit.iter().filter(|rollout| rollout.stop_reason == StopReason::Observations).count();
        if crowded > 0 {
            return format!(
                "of the {cut_off} completions with an advantage, {crowded} ended where the environment's next answer had no \
                 room in environment.max_observation_tokens and the others at the limit of tokens, and mask_overlong leaves \
                 those out"
            );
        }
        let limit = with_credit.iter().map(|rollout| rollout.token_ids.len()).max().unwrap_or(0);
        return format!(
            "the {cut_off} completions with an advantage were cut off at max_new_tokens = {limit}, and mask_overlong \
             leaves those out"
        );
    }
    "the algorithm's filters left no token of a completion with an advantage".to_owned()
}

#[cfg(test)]
mod tests {
    use kyoka_algorithms::{AlgorithmConfig, Preset};
    use kyoka_core::{Prompt, Reward, Sample};

    use super::*;

    fn group(sample: &Sample, totals: [f32; 2], stop_reason: StopReason) -> JudgedGroup<'_> {
        let rollout = || Rollout::of_turn(vec![1; 5], vec![0.0; 5], vec![0.0; 5], stop_reason);
        JudgedGroup {
            sample,
            row: 0,
            place: [0; 4],
            prompt: Prompt::default(),
            rollouts: vec![rollout(), rollout()],
            completions: Vec::new(),
            rewards: totals.map(|total| Reward::graded("accuracy", total)).to_vec(),
            greedy_total: None,
        }
    }

    #[test]
    fn the_reason_is_the_one_that_holds() {
        let sample = Sample::default();
        let mut algorithm = AlgorithmConfig::preset(Preset::Grpo).build(2).unwrap();
        algorithm.filters.mask_overlong = true;
        let credited = |advantages: [f32; 2]| Credited {
            advantages: advantages.map(|advantage| vec![advantage; 5]).to_vec(),
            ..Credited::default()
        };
        let reason = |groups: &[JudgedGroup<'_>], advantages, algorithm: &Algorithm| {
            idle_reason(groups, &credited(advantages), algorithm)
        };
        let flat = [group(&sample, [1.0, 1.0], StopReason::EndToken)];
        assert!(reason(&flat, [0.0, 0.0], &algorithm).starts_with("all completions of every prompt earned"));
        let cut = [group(&sample, [1.0, 0.0], StopReason::Length)];
        let said = reason(&cut, [1.0, -1.0], &algorithm);
        assert!(said.contains("2 completions") && said.contains("max_new_tokens = 5"), "{said}");
        assert!(said.contains("mask_overlong") && !said.contains("earned the same"), "{said}");
        assert!(reason(&[], [0.0, 0.0], &algorithm).starts_with("no completion could be judged"));
        algorithm.dynamic_sampling = true;
        assert!(reason(&[], [0.0, 0.0], &algorithm).starts_with("dynamic sampling"));
        let ended = [group(&sample, [1.0, 0.0], StopReason::EndToken)];
        assert!(reason(&ended, [1.0, -1.0], &algorithm).contains("filters"));
        assert!(reason(&ended, [0.0, 0.0], &algorithm).contains("rewards differ"));
    }
}
