//! How good is the policy on a split?

use std::sync::atomic::{AtomicBool, Ordering};

use kyoka_algorithms::advantage::pass_at_k;
use kyoka_core::{
    Completion, Reward, RewardContext, RewardFn, Rollout, RolloutEngine, RolloutError, RolloutGroup,
    RolloutRequest, Sample, SamplingConfig, Task, on_threads_at_most,
};
use serde::{Deserialize, Serialize};

use crate::{
    EpisodeRules, SampleRecord, TrainError,
    episodes::{AskedRow, LaidOut},
    part_means::PartMeans,
};

/// Mean of every reward part over a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalSummary {
    /// The split.
    pub split: String,
    /// Rows judged.
    pub num_rows: usize,
    /// Means by part over all completions that were judged: the rewards' parts, `total` (what training would use),
    /// `length` (tokens), `truncated_share` (completions that the limit of tokens cut off), `turns` where an environment
    /// answers, `ungraded_share` where some could not be judged, and with several completions
    /// a row `pass@k` for the powers of two up to their number, and that number: the chance that one of `k` is right
    /// ([`pass_at_k`]), where a reward can tell what is right.
    pub parts: Vec<(String, f64)>,
    /// Completions that a judge failed at, of how many, and the first failure; `None` where none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
}

/// Completions that could not be judged because a judge failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// How many.
    pub count: usize,
    /// Of how many.
    pub of: usize,
    /// The first failure.
    pub first: String,
}

impl std::fmt::Display for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, of, first } = self;
        write!(f, "judging failed for {count} of {of} completions, the first time with: {first}")
    }
}

impl EvalSummary {
    /// A mean by name.
    pub fn part(&self, name: &str) -> Option<f64> {
        self.parts.iter().find(|(part, _)| part == name).map(|&(_, value)| value)
    }
}

/// A split evaluated.
#[derive(Debug, Clone)]
pub struct EvalReport {
    /// Means over the split.
    pub summary: EvalSummary,
    /// Every completion.
    pub samples: Vec<SampleRecord>,
}

/// What an evaluation needs.
pub struct Evaluation<'a, M> {
    /// Rows to prompts.
    pub task: &'a dyn Task,
    /// Judges completions; the parts are averaged.
    pub reward: &'a dyn RewardFn,
    /// Draws the completions.
    pub engine: &'a dyn RolloutEngine<M>,
    /// How completions are drawn: greedily at temperature 0.
    pub sampling: SamplingConfig,
    /// What answers the policy between its turns; `None` where a completion is one turn.
    pub episodes: Option<EpisodeRules<'a>>,
    /// Completions a row.
    pub num_samples: usize,
    /// Seed of the draws, and of the episodes of an environment.
    pub seed: u64,
    /// Looked at between batches of rows: once it is set, the evaluation ends with
    /// [`RolloutError::Interrupted`].
    pub interrupt: Option<&'a AtomicBool>,
}

/// Prompts decoded at once.
const CHUNK: usize = 128;

/// Completions of every row, judged; `version` counts the updates of the policy.
///
/// # Errors
/// If a row's media cannot be read, a completion cannot be judged, a reward is not finite, or the evaluation was told to
/// stop.
pub fn evaluate<M>(
    (version, model): (u64, &M),
    evaluation: &Evaluation<'_, M>,
    split: &str,
    samples: &[Sample],
) -> Result<EvalReport, TrainError> {
    let failed = |source| TrainError::Rollout { stage: "eval".to_owned(), step: 0, source };
    evaluation.engine.publish(version, model).map_err(failed)?;
    let mut records = Vec::with_capacity(samples.len() * evaluation.num_samples);
    let mut tally = Tally { num_samples: evaluation.num_samples, ..Tally::default() };
    for (index, chunk) in samples.chunks(CHUNK).enumerate() {
        if evaluation.interrupt.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(failed(RolloutError::Interrupted));
        }
        // Episodes follow from the row's number in the split.
        let places: Vec<[u64; 1]> = (0..chunk.len()).map(|row| [(index * CHUNK + row) as u64]).collect();
        let rows = chunk.iter().zip(&places);
        let rows = rows.map(|(sample, place)| AskedRow { sample, augment: None, place });
        let laid_out = LaidOut::new(evaluation.task, evaluation.episodes, evaluation.seed, rows.collect())?;
        let asked = laid_out.asked();
        let request = RolloutRequest {
            prompts: &asked,
            group_size: evaluation.num_samples,
            sampling: &evaluation.sampling,
            // Rows are numbered within a request, so requests draw apart.
            seed: evaluation.seed ^ ((index as u64) << 32),
            episodes: laid_out.episodes(),
        };
        let groups = evaluation.engine.generate_all(request).map_err(failed)?;
        let asked: Vec<(&Sample, RolloutGroup)> = chunk.iter().zip(groups).collect();
        let judged = on_threads_at_most(evaluation.reward.concurrency(), asked, |(sample, group)| {
            // A judge may take long.
            if evaluation.interrupt.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(failed(RolloutError::Interrupted));
            }
            evaluation.judge(sample, &group).map(|judged| (sample, group, judged))
        });
        for judged in judged {
            let (sample, group, judged) = judged?;
            tally.add(&group.rollouts, &judged);
            records.extend(
                judged.iter().map(|(completion, reward)| SampleRecord::new(sample, completion, reward)),
            );
        }
    }
    evaluation.engine.release();
    Ok(EvalReport { summary: tally.summary(split), samples: records })
}

impl<M> Evaluation<'_, M> {
    fn judge(&self, sample: &Sample, group: &RolloutGroup) -> Result<Vec<(Completion, Reward)>, TrainError> {
        let read = |rollout| self.task.read(rollout, self.sampling.max_new_tokens);
        let completions: Vec<Completion> = group.rollouts.iter().map(read).collect();
        let rewards = self.reward.judge(&RewardContext::of(sample), &completions)?;
        Ok(completions.into_iter().zip(rewards).collect())
    }
}

/// What an evaluation adds up.
#[derive(Default)]
struct Tally {
    num_samples: usize,
    num_rows: usize,
    means: PartMeans,
    /// Over rows, the chances that one of so many completions is right.
    passed: PartMeans,
    /// Completions, and those that could not be judged.
    seen: (usize, usize),
    /// Those that a judge failed at, and the first failure.
    failed: (usize, Option<String>),
}

impl Tally {
    /// Adds the completions of a row; ungraded ones are left out.
    fn add(&mut self, rollouts: &[Rollout], judged: &[(Completion, Reward)]) {
        let (mut graded, mut right) = (0, None);
        for (rollout, (_, reward)) in rollouts.iter().zip(judged) {
            self.seen.0 += 1;
            self.seen.1 += usize::from(reward.total.is_none());
            if let Some(fault) = &reward.fault {
                self.failed.0 += 1;
                self.failed.1.get_or_insert_with(|| fault.clone());
            }
            let Some(total) = reward.total else { continue };
            graded += 1;
            self.means.add("length", rollout.token_ids.len() as f64);
            self.means.add("truncated_share", f64::from(u8::from(rollout.is_truncated())));
            if !rollout.turns.is_empty() {
                self.means.add("turns", rollout.turns.len() as f64);
            }
            self.means.add("total", f64::from(total));
            reward.parts.iter().for_each(|(name, value)| self.means.add(name, f64::from(*value)));
            right = reward.right.map(|now| right.unwrap_or(0) + usize::from(now)).or(right);
        }
        self.num_rows += usize::from(graded > 0);
        let Some(right) = right else { return };
        // A row of which fewer completions could be judged says nothing of more tries.
        for k in passes(self.num_samples).filter(|&k| k <= graded) {
            self.passed.add(&pass_at(k), pass_at_k(graded, right, k));
        }
    }

    fn summary(self, split: &str) -> EvalSummary {
        let mut parts = self.means.finish();
        parts.extend(self.passed.finish());
        if let (seen, ungraded @ 1..) = self.seen {
            parts.push(("ungraded_share".to_owned(), ungraded as f64 / seen as f64));
        }
        let (count, first) = self.failed;
        let failures = first.map(|first| Failures { count, of: self.seen.0, first });
        EvalSummary { split: split.to_owned(), num_rows: self.num_rows, parts, failures }
    }
}

/// How many tries `pass@k` is told for where a row has `num_samples` completions: the powers of two up to them, and them.
pub fn passes(num_samples: usize) -> impl Iterator<Item = usize> {
    let powers = std::iter::successors(Some(2), |k| Some(2 * k)).take_while(move |&k| k < num_samples);
    powers.chain((num_samples > 1).then_some(num_samples))
}

/// The name of the chance that one of `k` completions is right.
pub fn pass_at(k: usize) -> String {
    format!("pass@{k}")
}

#[cfg(test)]
mod tests {
    use kyoka_core::StopReason;

    use super::*;

    #[test]
    fn several_completions_a_row_give_their_mean_and_whether_one_is_right() {
        let rollout = |stop_reason| Rollout::of_turn(vec![1, 2], Vec::new(), Vec::new(), stop_reason);
        let rollouts = [rollout(StopReason::EndToken), rollout(StopReason::Length)];
        let judged = |values: [Option<bool>; 2]| {
            values.map(|value| {
                (
                    Completion::default(),
                    value.map_or_else(Reward::ungraded, |right| Reward::answered("accuracy", right)),
                )
            })
        };
        let mut tally = Tally { num_samples: 2, ..Tally::default() };
        tally.add(&rollouts, &judged([Some(true), Some(false)]));
        tally.add(&rollouts, &judged([Some(false), Some(false)]));
        tally.add(&rollouts, &judged([None, None]));
        // One judged completion says nothing of two tries.
        tally.add(&rollouts, &judged([Some(true), None]));
        let summary = tally.summary("test");
        assert_eq!((summary.num_rows, summary.part("ungraded_share")), (3, Some(3.0 / 8.0)));
        let part = |name| summary.part(name);
        assert_eq!([part("accuracy"), part("total"), part("pass@2")], [Some(0.4), Some(0.4), Some(0.5)]);
        assert_eq!([part("truncated_share"), part("length")], [Some(0.4), Some(2.0)]);
    }

    #[test]
    fn chances_are_told_for_powers_of_two_and_for_all_completions() {
        let told = |num_samples| passes(num_samples).collect::<Vec<_>>();
        assert_eq!([told(1), told(2), told(6), told(8)], [vec![], vec![2], vec![2, 4, 6], vec![2, 4, 8]]);
        let rollout = Rollout::of_turn(vec![1], Vec::new(), Vec::new(), StopReason::EndToken);
        let judged = [true, false, false, false, false, false]
            .map(|right| (Completion::default(), Reward::answered("accuracy", right)));
        let mut tally = Tally { num_samples: 6, ..Tally::default() };
        tally.add(&vec![rollout; 6], &judged);
        let summary = tally.summary("test");
        // One of six is right: of k it is one with a chance of k / 6.
        for (name, chance) in [("pass@2", 2.0 / 6.0), ("pass@4", 4.0 / 6.0), ("pass@6", 1.0)] {
            assert!((summary.part(name).unwrap() - chance).abs() < 1e-12, "{name}");
        }
    }
}
