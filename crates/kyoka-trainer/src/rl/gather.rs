//! The groups of a step: sampled, judged as they end, and replaced where they say nothing.

use std::{sync::mpsc, time::Instant};

use kyoka_algorithms::Algorithm;
use kyoka_core::{
    Completion, Prompt, Reward, RewardContext, RewardFn, Rollout, RolloutEngine, RolloutError, RolloutGroup,
    RolloutPrompt, RolloutRequest, Sample, SamplingConfig, Task,
};
use kyoka_data::Shuffled;

use super::{
    config::RlConfig,
    groups::{JudgedGroup, Place},
    stats::GatherStats,
};
use crate::{TrainError, TrainState, TrainableLm};

/// Where groups come from: rows in their order, an engine, a judge.
pub(super) struct Gatherer<'a, M> {
    /// The stage's name.
    pub stage: String,
    pub config: &'a RlConfig,
    pub task: &'a dyn Task,
    pub reward: &'a dyn RewardFn,
    pub engine: &'a dyn RolloutEngine<M>,
    pub samples: &'a [Sample],
    pub order: Shuffled,
}

/// A row that is asked.
#[derive(Clone, Copy)]
struct Asked {
    row: usize,
    place: Place,
}

/// A prompt's completions with their rewards.
type Judged = (Prompt, Vec<(Rollout, Completion, Reward)>);

impl<'a, M: TrainableLm> Gatherer<'a, M> {
    /// The prompt of a row; the same place gives the same random changes.
    pub fn prompt(&self, row: usize, place: &[u64]) -> Result<Prompt, TrainError> {
        let sample = &self.samples[row];
        let prompt = self.task.prompt(sample, self.config.augment.then_some(place));
        prompt.map_err(TrainError::row(sample))
    }

    /// The groups of one step. With dynamic sampling, groups without spread are replaced, for some rounds.
    pub fn gather(
        &self,
        algorithm: &Algorithm,
        state: &mut TrainState<M>,
    ) -> Result<(Vec<JudgedGroup<'a>>, GatherStats), TrainError> {
        let failed = |step| move |source| TrainError::Rollout { stage: self.stage.clone(), step, source };
        let step = state.progress.step + 1;
        let mut stats = GatherStats::default();
        let wanted = self.config.prompts_per_step;
        self.engine.publish(state.progress.policy_version, &state.model).map_err(failed(step))?;
        let mut groups = self.round(algorithm, state, (0, wanted), &mut stats)?;
        stats.count(&groups);
        if algorithm.dynamic_sampling {
            groups.retain(|group| !group.is_useless(algorithm));
            let mut refills = 0;
            while groups.len() < wanted && refills < self.config.max_refills {
                refills += 1;
                let fresh = self.round(algorithm, state, (refills, wanted), &mut stats)?;
                groups.extend(fresh.into_iter().filter(|group| !group.is_useless(algorithm)));
            }
            groups.truncate(wanted);
            stats.refills = Some(refills);
        }
        // The weights change next: an engine in this process need not keep a copy meanwhile.
        self.engine.release();
        Ok((groups, stats))
    }

    /// Samples and judges one round of prompts; moves the data position.
    fn round(
        &self,
        algorithm: &Algorithm,
        state: &mut TrainState<M>,
        (round, count): (usize, usize),
        stats: &mut GatherStats,
    ) -> Result<Vec<JudgedGroup<'a>>, TrainError> {
        let started = Instant::now();
        let (step, position) = (state.progress.step, state.progress.position);
        let stage = state.progress.stage as u64;
        let asked =
            |slot: u64| Asked { row: self.order.row(position + slot), place: [1, stage, position, slot] };
        let asked: Vec<Asked> = (0..count as u64).map(asked).collect();
        state.progress.position += count as u64;
        let prompts = asked.iter().map(|Asked { row, place }| self.prompt(*row, place));
        let prompts = prompts.collect::<Result<Vec<Prompt>, _>>()?;
        let prompts: Vec<RolloutPrompt<'_>> = asked
            .iter()
            .zip(&prompts)
            .zip(0..)
            .map(|((asked, prompt), key)| RolloutPrompt {
                prompt,
                sample: Some(&self.samples[asked.row]),
                key,
            })
            .collect();
        let request = RolloutRequest {
            prompts: &prompts,
            group_size: self.config.group_size,
            sampling: &self.config.sampling,
            seed: state.seed ^ ((step as u64) << 8 | round as u64) << 16,
        };
        let groups = self.sample(&asked, request, step + 1, stats)?;
        let greedy = algorithm.advantage.needs_greedy_rollout();
        let likeliest = match greedy {
            true => {
                let sampling = SamplingConfig { temperature: 0.0, ..self.config.sampling.clone() };
                let request = RolloutRequest { group_size: 1, sampling: &sampling, ..request };
                self.sample(&asked, request, step + 1, stats)?
            }
            false => Vec::new(),
        };
        let tokens = groups.iter().chain(&likeliest).flat_map(|(_, judged)| judged);
        let tokens = tokens.map(|(rollout, ..)| rollout.token_ids.len()).sum::<usize>();
        state.progress.generated_tokens += tokens as u64;
        stats.generated_tokens += tokens;
        let likeliest =
            likeliest.iter().map(|(_, judged)| judged.first().and_then(|(.., reward)| reward.total));
        let greedy_totals = likeliest.chain(std::iter::repeat(None));
        let mut judged = Vec::with_capacity(groups.len());
        for ((asked, group), greedy_total) in asked.iter().zip(groups).zip(greedy_totals) {
            judged.push(self.graded(*asked, group, greedy_total, stats));
        }
        stats.seconds.rollout += started.elapsed().as_secs_f64();
        // What is left of a group after ungraded completions must still be comparable.
        let fewest = algorithm.advantage.min_group_size();
        judged.retain(|group| group.rollouts.len() >= fewest && (!greedy || group.greedy_total.is_some()));
        Ok(judged)
    }

    /// Samples; a thread beside judges every group as soon as it ends. The groups are in the order of the prompts.
    fn sample(
        &self,
        asked: &[Asked],
        request: RolloutRequest<'_>,
        step: usize,
        stats: &mut GatherStats,
    ) -> Result<Vec<Judged>, TrainError> {
        let failed = |source| TrainError::Rollout { stage: self.stage.clone(), step, source };
        let (to_judge, ended) = mpsc::channel::<(usize, RolloutGroup)>();
        let judge = || -> Result<(Vec<Option<Judged>>, f64), TrainError> {
            let mut groups: Vec<Option<Judged>> = asked.iter().map(|_| None).collect();
            let mut seconds = 0.0;
            for (index, group) in ended {
                let started = Instant::now();
                groups[index] = Some(self.judged(&self.samples[asked[index].row], group)?);
                seconds += started.elapsed().as_secs_f64();
            }
            Ok((groups, seconds))
        };
        let (sampled, judged) = std::thread::scope(|scope| {
            let judging = scope.spawn(judge);
            let sampled = self.engine.generate(request, &mut |index, group| {
                if index >= asked.len() {
                    let (what, expected) = ("groups, one a prompt", asked.len());
                    return Err(RolloutError::Count { what, expected, got: index + 1 });
                }
                request.check(index, &group)?;
                // A judge that has failed takes no more groups, and sampling on would be in vain.
                to_judge.send((index, group)).map_err(|_| RolloutError::Interrupted)
            });
            drop(to_judge);
            (sampled, judging.join())
        });
        // What the judge found is the cause where sampling was ended for it.
        let (groups, seconds) = judged.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        sampled.map_err(failed)?;
        stats.seconds.reward += seconds;
        let (expected, got) = (groups.len(), groups.iter().flatten().count());
        if got != expected {
            return Err(failed(RolloutError::Count { what: "groups, one a prompt", expected, got }));
        }
        Ok(groups.into_iter().flatten().collect())
    }

    fn judged(&self, sample: &Sample, group: RolloutGroup) -> Result<Judged, TrainError> {
        let limit = self.config.sampling.max_new_tokens;
        let read = |rollout| self.task.read(rollout, limit);
        let completions: Vec<Completion> = group.rollouts.iter().map(read).collect();
        let rewards = self.reward.judge(&RewardContext { sample }, &completions)?;
        let judged = group.rollouts.into_iter().zip(completions).zip(rewards);
        Ok((
            group.prompt,
            judged.map(|((rollout, completion), reward)| (rollout, completion, reward)).collect(),
        ))
    }

    /// A group without the completions of which nothing could be said.
    fn graded(
        &self,
        Asked { row, place }: Asked,
        (prompt, judged): Judged,
        greedy_total: Option<f32>,
        stats: &mut GatherStats,
    ) -> JudgedGroup<'a> {
        let mut group = JudgedGroup {
            sample: &self.samples[row],
            row,
            place,
            prompt,
            rollouts: Vec::new(),
            completions: Vec::new(),
            rewards: Vec::new(),
            greedy_total,
        };
        for (rollout, completion, reward) in judged {
            if reward.total.is_some() {
                group.rollouts.push(rollout);
                group.completions.push(completion);
                group.rewards.push(reward);
            } else {
                stats.ungraded += 1;
            }
        }
        group
    }
}
