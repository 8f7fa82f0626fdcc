//! The groups of a step: sampled, judged, and refilled where some say nothing.

use std::time::Instant;

use kyoka_algorithms::Algorithm;
use kyoka_core::{
    Completion, Metrics, Prompt, Reward, RewardContext, RewardFn, Rollout, RolloutGroup, RolloutRequest,
    Sample, SamplingConfig,
};
use kyoka_data::Shuffled;

use super::{
    config::RlConfig,
    groups::{JudgedGroup, Place, log_rewards},
};
use crate::{EngineFactory, Session, Task, TrainError, TrainableLm};

/// Where groups come from: rows in their order, an engine, a judge.
pub(super) struct Gatherer<'a, M> {
    pub config: &'a RlConfig,
    pub task: &'a dyn Task,
    pub reward: &'a dyn RewardFn,
    pub engine: EngineFactory<'a, M>,
    pub samples: &'a [Sample],
    pub order: Shuffled,
}

/// The groups of a step.
pub(super) struct Gathered<'a> {
    pub groups: Vec<JudgedGroup<'a>>,
    /// Tokens that the engine never draws.
    pub banned: Vec<u32>,
}

/// One round, not yet judged.
struct Sampled {
    /// Row and place of each group.
    places: Vec<(usize, Place)>,
    groups: Vec<RolloutGroup>,
    /// A greedy completion of each prompt, or nothing.
    likeliest: Vec<RolloutGroup>,
    banned: Vec<u32>,
}

impl Sampled {
    fn num_tokens(&self) -> usize {
        let groups = self.groups.iter().chain(&self.likeliest);
        groups.flat_map(|group| &group.rollouts).map(|rollout| rollout.token_ids.len()).sum()
    }
}

impl<'a, M: TrainableLm> Gatherer<'a, M> {
    /// The prompt of a row; the same place gives the same random changes.
    pub fn prompt(&self, row: usize, place: &[u64]) -> Result<Prompt, TrainError> {
        let sample = &self.samples[row];
        let prompt = self.task.prompt(sample, self.config.augment.then_some(place));
        prompt.map_err(TrainError::row(sample))
    }

    /// Samples and judges one round of prompts; moves the data position.
    fn round(
        &self,
        algorithm: &Algorithm,
        session: &mut Session<M>,
        round: (usize, usize),
        metrics: &mut Metrics,
    ) -> Result<Gathered<'a>, TrainError> {
        let started = Instant::now();
        let greedy = algorithm.advantage.needs_greedy_rollout();
        let sampled = self.sample(session, round, greedy)?;
        let tokens = sampled.num_tokens();
        session.progress.generated_tokens += tokens as u64;
        add(metrics, "generated_tokens", tokens as f64);
        add(metrics, "time/rollout_s", started.elapsed().as_secs_f64());
        let started = Instant::now();
        let mut judged = Vec::with_capacity(sampled.groups.len());
        for (slot, group) in sampled.groups.into_iter().enumerate() {
            let (row, place) = sampled.places[slot];
            let likeliest = sampled.likeliest.get(slot);
            let (group, ungraded) = self.judged(row, place, group, likeliest)?;
            if ungraded > 0 {
                add(metrics, "ungraded", ungraded as f64);
            }
            judged.push(group);
        }
        add(metrics, "time/reward_s", started.elapsed().as_secs_f64());
        // What is left of a group after ungraded completions must still be comparable.
        let fewest = algorithm.advantage.min_group_size();
        judged.retain(|group| group.rollouts.len() >= fewest && (!greedy || group.greedy_total.is_some()));
        Ok(Gathered { groups: judged, banned: sampled.banned })
    }

    /// Completions of the next `count` rows, and the likeliest one of each with `greedy`.
    fn sample(
        &self,
        session: &mut Session<M>,
        (round, count): (usize, usize),
        greedy: bool,
    ) -> Result<Sampled, TrainError> {
        let (step, position) = (session.progress.step, session.progress.position);
        let stage = session.progress.stage as u64;
        let place = |slot: u64| (self.order.row(position + slot), [1, stage, position, slot]);
        let places: Vec<(usize, Place)> = (0..count as u64).map(place).collect();
        session.progress.position += count as u64;
        let prompts = places.iter().map(|(row, place)| self.prompt(*row, place));
        let prompts = prompts.collect::<Result<Vec<Prompt>, _>>()?;
        let engine = (self.engine)(session.model.valid());
        let generate = |group_size, sampling: &SamplingConfig| {
            let request = RolloutRequest {
                prompts: &prompts,
                group_size,
                sampling,
                seed: session.seed ^ ((step as u64) << 8 | round as u64) << 16,
                policy_version: step as u64,
            };
            let failed = |source| TrainError::Rollout { stage: "rl", step: step + 1, source };
            engine.generate(request).and_then(|groups| request.checked(groups)).map_err(failed)
        };
        let groups = generate(self.config.group_size, &self.config.sampling)?;
        let likeliest = match greedy {
            true => generate(1, &SamplingConfig { temperature: 0.0, ..self.config.sampling.clone() })?,
            false => Vec::new(),
        };
        Ok(Sampled { places, groups, likeliest, banned: engine.banned_ids().to_vec() })
    }

    /// A group with its rewards, and how many completions were left out because nothing could be said of them.
    fn judged(
        &self,
        row: usize,
        place: Place,
        group: RolloutGroup,
        likeliest: Option<&RolloutGroup>,
    ) -> Result<(JudgedGroup<'a>, usize), TrainError> {
        let sample = &self.samples[row];
        let greedy = likeliest.map(|group| self.judge(sample, &group.rollouts)).transpose()?;
        let greedy_total = greedy.and_then(|judged| judged.first()?.1.total);
        let verdicts = self.judge(sample, &group.rollouts)?;
        let mut judged = JudgedGroup {
            sample,
            row,
            place,
            prompt: group.prompt,
            rollouts: Vec::new(),
            completions: Vec::new(),
            rewards: Vec::new(),
            greedy_total,
        };
        let mut ungraded = 0;
        for (rollout, (completion, reward)) in group.rollouts.into_iter().zip(verdicts) {
            if reward.total.is_some() {
                judged.rollouts.push(rollout);
                judged.completions.push(completion);
                judged.rewards.push(reward);
            } else {
                ungraded += 1;
            }
        }
        Ok((judged, ungraded))
    }

    fn judge(&self, sample: &Sample, rollouts: &[Rollout]) -> Result<Vec<(Completion, Reward)>, TrainError> {
        let limit = self.config.sampling.max_new_tokens;
        let completions: Vec<Completion> =
            rollouts.iter().map(|rollout| self.task.read(rollout, limit)).collect();
        let rewards = self.reward.judge(&RewardContext { sample }, &completions)?;
        Ok(completions.into_iter().zip(rewards).collect())
    }

    /// The groups of one step. With dynamic sampling, groups without spread are replaced, for some rounds.
    pub fn gather(
        &self,
        algorithm: &Algorithm,
        session: &mut Session<M>,
        metrics: &mut Metrics,
    ) -> Result<Gathered<'a>, TrainError> {
        let wanted = self.config.prompts_per_step;
        let Gathered { mut groups, banned } = self.round(algorithm, session, (0, wanted), metrics)?;
        log_rewards(&groups, metrics);
        if algorithm.dynamic_sampling {
            groups.retain(|group| !group.is_useless(algorithm));
            let mut refills = 0;
            while groups.len() < wanted && refills < self.config.max_refills {
                refills += 1;
                let fresh = self.round(algorithm, session, (refills, wanted), metrics)?;
                groups.extend(fresh.groups.into_iter().filter(|group| !group.is_useless(algorithm)));
            }
            groups.truncate(wanted);
            metrics.set("refills", refills as f64);
        }
        Ok(Gathered { groups, banned })
    }
}

fn add(metrics: &mut Metrics, name: &str, value: f64) {
    let before = metrics.get(name).unwrap_or(0.0);
    metrics.set(name, before + value);
}
