//! Process-supervised GRPO: credit where a step was made (after arXiv 2402.03300, section 4.1.3).
//!
//! The paper's form, [`StepCredit::ToGo`] with an outcome weight of 0: the verdicts on all steps of the group are
//! normalised together, and `A_t` is the sum of those that end at or after token `t`.
//!
//! Deviation 1, the default [`StepCredit::AtStep`]: verdicts are normalised over the completions of the group that made
//! the same step, and go to the step's tokens alone. A later step then earns nothing for an earlier one, and a step that
//! the whole group gets right or wrong gives no credit anywhere.
//! Deviation 2: every token gets the outcome advantage of GRPO besides, weighted.

use std::ops::Range;

use kyoka_core::{AdvantageError, AdvantageEstimator, Advantages, CreditedStep, GroupRewards};
use serde::{Deserialize, Serialize};

use super::{Grpo, outcome::mean_std};

/// Which tokens get a step's credit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepCredit {
    /// The tokens that state the step, normalised over verdicts on the same step. The default.
    #[default]
    AtStep,
    /// Every token up to it, normalised over all verdicts of the group: the paper's.
    ToGo,
}

/// Outcome credit everywhere, step credit at the step.
#[derive(Debug, Clone, Copy)]
pub struct ProcessGrpo {
    /// Weight of the outcome advantage. Default 1.
    pub outcome_weight: f64,
    /// Weight of the step advantage. Default 1.
    pub step_weight: f64,
    /// Which tokens get a step's credit. Default the step's own.
    pub step_credit: StepCredit,
    /// Added to the standard deviations. Default 1e-6.
    pub epsilon: f64,
}

impl Default for ProcessGrpo {
    fn default() -> Self {
        Self { outcome_weight: 1.0, step_weight: 1.0, step_credit: StepCredit::AtStep, epsilon: 1e-6 }
    }
}

impl AdvantageEstimator for ProcessGrpo {
    fn min_group_size(&self) -> usize {
        2
    }

    fn estimate(&self, groups: &[GroupRewards]) -> Result<Advantages, AdvantageError> {
        let mut advantages = Grpo { epsilon: self.epsilon, ..Grpo::default() }.estimate(groups)?;
        if self.outcome_weight != 1.0 {
            let values = advantages.per_token.iter_mut().flatten();
            values.for_each(|value| *value *= self.outcome_weight as f32);
        }
        let mut first_row = 0;
        for (group_index, group) in groups.iter().enumerate() {
            let rows = &mut advantages.per_token[first_row..first_row + group.totals.len()];
            self.add_steps(group_index, group, rows)?;
            first_row += group.totals.len();
        }
        Ok(advantages)
    }
}

impl ProcessGrpo {
    fn add_steps(
        &self,
        group_index: usize,
        group: &GroupRewards,
        rows: &mut [Vec<f32>],
    ) -> Result<(), AdvantageError> {
        let mut verdicts: Vec<(usize, &CreditedStep)> = Vec::new();
        for (completion, steps) in group.steps.iter().enumerate() {
            for step in steps {
                if !step.value.is_finite() {
                    return Err(AdvantageError::NotFinite {
                        group: group_index,
                        completion,
                        got: step.value,
                    });
                }
                verdicts.push((completion, step));
            }
        }
        verdicts.sort_by_key(|(_, verdict)| verdict.step);
        let to_go = self.step_credit == StepCredit::ToGo;
        let mut values = Vec::new();
        for verdicts in verdicts.chunk_by(|(_, a), (_, b)| to_go || a.step == b.step) {
            values.clear();
            values.extend(verdicts.iter().map(|(_, verdict)| f64::from(verdict.value)));
            let (mean, std) = mean_std(&values);
            for (&(completion, verdict), value) in verdicts.iter().zip(&values) {
                let credit = self.step_weight * (value - mean) / (std + self.epsilon);
                let (length, Range { start, end }) = (rows[completion].len(), verdict.tokens.clone());
                assert!(
                    start < end && end <= length,
                    "step of completion {completion}: expected tokens below {length}, got {start}..{end}"
                );
                let start = if to_go { 0 } else { start };
                rows[completion][start..end].iter_mut().for_each(|value| *value += credit as f32);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: usize, token: usize, value: f32) -> CreditedStep {
        CreditedStep { step: (0, step), tokens: token..token + 1, value }
    }

    #[test]
    fn a_step_of_one_token_is_credited_there_only() {
        let group = GroupRewards {
            totals: vec![0.0, 0.0],
            lengths: vec![3, 3],
            steps: vec![vec![step(0, 1, 1.0), step(1, 2, 1.0)], vec![step(0, 1, 0.0), step(1, 2, 1.0)]],
            ..Default::default()
        };
        let advantages = ProcessGrpo::default().estimate(&[group]).unwrap().per_token;
        // Step 0: mean 1/2, standard deviation 1/sqrt(2), so +-1/sqrt(2). Step 1: all right, no credit.
        let half = 0.5_f32.sqrt();
        for (row, sign) in advantages.iter().zip([1.0, -1.0]) {
            assert!((row[1] - sign * half).abs() < 1e-5);
            assert_eq!((row[0], row[2]), (0.0, 0.0));
        }
    }

    #[test]
    fn a_word_of_several_tokens_is_credited_at_all_of_them() {
        let verdict = |tokens, value| vec![CreditedStep { step: (0, 0), tokens, value }];
        let group = GroupRewards {
            totals: vec![0.0, 0.0],
            lengths: vec![4, 3],
            steps: vec![verdict(1..3, 1.0), verdict(1..2, 0.0)],
            ..Default::default()
        };
        let at_step = ProcessGrpo::default().estimate(std::slice::from_ref(&group)).unwrap().per_token;
        let to_go = ProcessGrpo { step_credit: StepCredit::ToGo, ..ProcessGrpo::default() };
        let to_go = to_go.estimate(&[group]).unwrap().per_token;
        let sign = |rows: &[Vec<f32>]| -> Vec<Vec<f32>> {
            let signum = |value: &f32| if *value == 0.0 { 0.0 } else { value.signum() };
            rows.iter().map(|row| row.iter().map(signum).collect()).collect()
        };
        assert_eq!(sign(&at_step), [vec![0.0, 1.0, 1.0, 0.0], vec![0.0, -1.0, 0.0]]);
        assert_eq!(sign(&to_go), [vec![1.0, 1.0, 1.0, 0.0], vec![-1.0, -1.0, 0.0]]);
    }

    #[test]
    fn the_papers_form_sums_what_is_still_to_come() {
        let group = GroupRewards {
            totals: vec![5.0, 0.0],
            lengths: vec![3, 2],
            steps: vec![vec![step(0, 0, 1.0), step(1, 2, 0.0)], vec![step(0, 1, 1.0), step(1, 1, 2.0)]],
            ..Default::default()
        };
        let paper =
            ProcessGrpo { outcome_weight: 0.0, step_credit: StepCredit::ToGo, ..ProcessGrpo::default() };
        let advantages = paper.estimate(&[group]).unwrap().per_token;
        // All verdicts 1, 0, 1, 2: mean 1, variance 2 / 3.
        let unit = (1.5_f32).sqrt();
        for (got, expected) in advantages.concat().iter().zip([-unit, -unit, -unit, unit, unit]) {
            assert!((got - expected).abs() < 1e-5, "{advantages:?}");
        }
    }

    #[test]
    fn without_verdicts_it_is_grpo() {
        let group = super::super::tests::group(&[1.0, 0.0, 0.5]);
        let plain = Grpo::default().estimate(std::slice::from_ref(&group)).unwrap();
        assert_eq!(ProcessGrpo::default().estimate(&[group]).unwrap(), plain);
    }
}
