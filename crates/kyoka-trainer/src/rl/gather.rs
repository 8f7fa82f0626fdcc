//! The groups of a step: sampled, judged as they end, and replaced where they say nothing.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Instant,
};

use kyoka_algorithms::Algorithm;
use kyoka_core::{
    Completion, Prompt, Reward, RewardContext, RewardFn, RewardProgress, Rollout, RolloutEngine,
    RolloutError, RolloutGroup, RolloutRequest, Sample, SamplingConfig, Task,
};
use kyoka_data::Shuffled;

use super::{
    config::RlConfig,
    groups::{JudgedGroup, Place},
    stats::GatherStats,
};
use crate::{
    EpisodeRules, TrainError, TrainState, TrainableLm,
    episodes::{AskedRow, LaidOut},
};

/// Where groups come from: rows in their order, an engine, a judge.
pub(super) struct Gatherer<'a, M> {
    /// The stage's name.
    pub stage: String,
    pub config: &'a RlConfig,
    pub task: &'a dyn Task,
    pub reward: &'a dyn RewardFn,
    pub engine: &'a dyn RolloutEngine<M>,
    pub episodes: Option<EpisodeRules<'a>>,
    pub samples: &'a [Sample],
    pub order: Shuffled,
    /// Stages of reinforcement learning before this one.
    pub ordinal: u64,
    /// Looked at before each group is judged: once it is set, the step is given up.
    pub interrupt: Option<&'a AtomicBool>,
}

/// Most threads that judge at the same time.
const MAX_JUDGES: usize = 64;

/// A row that is asked.
#[derive(Clone, Copy)]
struct Asked {
    row: usize,
    place: Place,
}

/// What the draws of a request follow from, beside the prompts' keys. The first stage of a run draws as ever.
fn request_seed(seed: u64, ordinal: u64, step: u64, round: u64) -> u64 {
    seed ^ (step << 8 | round) << 16 ^ ordinal << 56
}

/// A prompt's completions with their rewards.
type Judged = Vec<(Rollout, Completion, Reward)>;

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
        stats.counters = self.reward.counters();
        self.check_ungraded(step, &stats)?;
        Ok((groups, stats))
    }

    /// Refuses a step of which too little could be judged.
    fn check_ungraded(&self, step: usize, stats: &GatherStats) -> Result<(), TrainError> {
        let (most, got) = (self.config.max_ungraded, stats.ungraded as f64 / stats.judged.max(1) as f64);
        if got <= most {
            return Ok(());
        }
        Err(TrainError::Ungraded {
            stage: self.stage.clone(),
            step,
            expected: most,
            got: format!("{} of {}", stats.ungraded, stats.judged),
            fault: stats.fault.clone().unwrap_or_else(|| "no reward could say anything".to_owned()),
        })
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
        let rows = asked.iter().map(|Asked { row, place }| AskedRow {
            sample: &self.samples[*row],
            augment: self.config.augment.then_some(place.as_slice()),
            place,
        });
        let laid_out = LaidOut::new(self.task, self.episodes, state.seed, rows.collect())?;
        let wanted = laid_out.asked();
        let request = RolloutRequest {
            prompts: &wanted,
            group_size: self.config.group_size,
            sampling: &self.config.sampling,
            seed: request_seed(state.seed, self.ordinal, step as u64, round as u64),
            episodes: laid_out.episodes(),
        };
        let accuracy = state.progress.accuracy;
        let progress = RewardProgress { step, total_steps: self.config.total_steps(), accuracy };
        let groups = self.sample(&asked, request, progress, stats)?;
        let greedy = algorithm.advantage.needs_greedy_rollout();
        let likeliest = match greedy {
            true => {
                let sampling = SamplingConfig { temperature: 0.0, ..self.config.sampling.clone() };
                let request = RolloutRequest { group_size: 1, sampling: &sampling, ..request };
                self.sample(&asked, request, progress, stats)?
            }
            false => Vec::new(),
        };
        let tokens = groups.iter().chain(&likeliest).flatten();
        let tokens = tokens.map(|(rollout, ..)| rollout.token_ids.len()).sum::<usize>();
        state.progress.generated_tokens += tokens as u64;
        stats.generated_tokens += tokens;
        likeliest.iter().flatten().for_each(|(.., reward)| stats.judge(reward));
        let likeliest = likeliest.iter().map(|judged| judged.first().and_then(|(.., reward)| reward.total));
        let greedy_totals = likeliest.chain(std::iter::repeat(None));
        let mut judged = Vec::with_capacity(groups.len());
        // The prompts are those that were asked, whatever an engine hands back with its group.
        for (((asked, prompt), group), greedy_total) in
            asked.iter().zip(laid_out.prompts).zip(groups).zip(greedy_totals)
        {
            judged.push(self.graded((*asked, prompt), group, greedy_total, stats));
        }
        stats.seconds.rollout += started.elapsed().as_secs_f64();
        // What is left of a group after ungraded completions must still be comparable.
        let fewest = algorithm.advantage.min_group_size().max(1);
        judged.retain(|group| group.rollouts.len() >= fewest && (!greedy || group.greedy_total.is_some()));
        Ok(judged)
    }

    /// Samples; beside it every group is judged as soon as it ends, by as many threads as the reward wants. The groups are in the
    /// order of the prompts.
    fn sample(
        &self,
        asked: &[Asked],
        request: RolloutRequest<'_>,
        progress: RewardProgress,
        stats: &mut GatherStats,
    ) -> Result<Vec<Judged>, TrainError> {
        let step = progress.step + 1;
        let failed = |source| TrainError::Rollout { stage: self.stage.clone(), step, source };
        let (to_judge, ended) = mpsc::channel::<(usize, RolloutGroup)>();
        // The channel ends with its last judge.
        let ended = Arc::new(Mutex::new(ended));
        // Set when sampling or a judge has failed: what is left to judge is of no use.
        let given_up = AtomicBool::new(false);
        let judge = |ended: Arc<Mutex<mpsc::Receiver<(usize, RolloutGroup)>>>| {
            let (mut groups, mut seconds): (Vec<(usize, Judged)>, f64) = (Vec::new(), 0.0);
            loop {
                let next = ended.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((index, group)) = next else { break };
                if given_up.load(Ordering::Relaxed) {
                    break;
                }
                if self.interrupt.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                    given_up.store(true, Ordering::Relaxed);
                    return Err(failed(RolloutError::Interrupted));
                }
                let started = Instant::now();
                let judged = self.judged(&self.samples[asked[index].row], progress, group);
                if judged.is_err() {
                    given_up.store(true, Ordering::Relaxed);
                }
                groups.push((index, judged?));
                seconds += started.elapsed().as_secs_f64();
            }
            Ok((groups, seconds))
        };
        let judges = self.reward.concurrency().clamp(1, asked.len().clamp(1, MAX_JUDGES));
        let (sampled, judged) = std::thread::scope(|scope| {
            let judge = &judge;
            let judging: Vec<_> = (0..judges)
                .map(|_| {
                    let ended = ended.clone();
                    scope.spawn(move || judge(ended))
                })
                .collect();
            drop(ended);
            let mut seen = vec![false; asked.len()];
            let mut is_judged_out = false;
            let sampled = self.engine.generate(request, &mut |index, group| {
                request.check(index, &group, self.engine.banned_ids(), &mut seen)?;
                // A judge that has failed takes no more groups, and sampling on would be in vain.
                to_judge.send((index, group)).map_err(|_| {
                    is_judged_out = true;
                    RolloutError::Interrupted
                })
            });
            if sampled.is_err() {
                given_up.store(true, Ordering::Relaxed);
            }
            drop(to_judge);
            let joined = judging
                .into_iter()
                .map(|judge| judge.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            let joined: Result<Vec<_>, TrainError> = joined.collect();
            (sampled.map_err(|error| (error, is_judged_out)), joined)
        });
        // What the judge found is the cause only where sampling was ended for it.
        if let Err((error, false)) = sampled {
            return Err(failed(error));
        }
        let mut groups: Vec<Option<Judged>> = asked.iter().map(|_| None).collect();
        let mut longest = 0.0_f64;
        for (judged, seconds) in judged? {
            longest = longest.max(seconds);
            judged.into_iter().for_each(|(index, group)| groups[index] = Some(group));
        }
        stats.seconds.reward += longest;
        let (expected, got) = (groups.len(), groups.iter().flatten().count());
        if got != expected {
            return Err(failed(RolloutError::Count { what: "groups, one a prompt", expected, got }));
        }
        Ok(groups.into_iter().flatten().collect())
    }

    fn judged(
        &self,
        sample: &Sample,
        progress: RewardProgress,
        group: RolloutGroup,
    ) -> Result<Judged, TrainError> {
        let limit = self.config.sampling.max_new_tokens;
        let read = |rollout| self.task.read(rollout, limit);
        let completions: Vec<Completion> = group.rollouts.iter().map(read).collect();
        let rewards = self.reward.judge(&RewardContext { sample, progress }, &completions)?;
        let judged = group.rollouts.into_iter().zip(completions).zip(rewards);
        Ok(judged.map(|((rollout, completion), reward)| (rollout, completion, reward)).collect())
    }

    /// A group without the completions of which nothing could be said.
    fn graded(
        &self,
        (Asked { row, place }, prompt): (Asked, Prompt),
        judged: Judged,
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
            stats.judge(&reward);
            if reward.total.is_some() {
                group.rollouts.push(rollout);
                group.completions.push(completion);
                group.rewards.push(reward);
            }
        }
        group
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use kyoka_algorithms::AlgorithmOverrides;
    use kyoka_core::{AudioInput, ImageInput};
    use kyoka_fusion::{Decoder, DecoderConfig, MultimodalLm, NoEncoder};
    use kyoka_nn::WeightInit;
    use kyoka_testing::{Echo, Scored, Scripted, sample};

    use super::*;
    use crate::LearningRate;

    type Policy = MultimodalLm<NoEncoder<ImageInput>, NoEncoder<AudioInput>>;

    #[test]
    fn requests_of_other_steps_rounds_and_stages_draw_apart() {
        let places = (0..3).flat_map(|ordinal| {
            (0..40).flat_map(move |step| (0..5).map(move |round| (ordinal, step, round)))
        });
        let seeds: std::collections::HashSet<u64> =
            places.map(|(ordinal, step, round)| request_seed(7, ordinal, step, round)).collect();
        assert_eq!(seeds.len(), 3 * 40 * 5);
        assert_eq!(request_seed(7, 0, 3, 1), 7 ^ (3 << 8 | 1) << 16, "recorded runs draw as they did");
    }

    fn state() -> TrainState<Policy> {
        let config =
            DecoderConfig { d_model: 16, num_layers: 1, d_head: 8, d_hidden: 16, ..DecoderConfig::tiny(12) };
        let mut init = WeightInit::new(1, &Device::flex().autodiff());
        TrainState::new(Policy::text_only(Decoder::new(&config, &mut init)), 1)
    }

    fn config(algorithm: &str) -> RlConfig {
        let algorithm: AlgorithmOverrides = toml::from_str(algorithm).unwrap();
        let config = RlConfig::new("rows", LearningRate::fixed(1e-3));
        RlConfig { algorithm, prompts_per_step: 3, group_size: 2, augment: false, ..config }
    }

    /// The texts of every group and what was counted; else what is said.
    type Outcome = Result<(Vec<Vec<String>>, GatherStats), String>;

    /// Version of the weights, how often they came and how often they were let go.
    type Told = (u64, u64, u64);

    /// What a step gathers under a script and a judge, and what the engine was told.
    fn gathered(
        algorithm: &str,
        script: impl Fn(u64, usize) -> Vec<u32> + Send + Sync,
        judge: impl Fn(&str) -> Option<f32> + Send + Sync,
    ) -> (Outcome, Told) {
        let samples: Vec<Sample> = (0..9).map(|id| sample(&id.to_string(), "?")).collect();
        let (config, engine, reward) = (config(algorithm), Scripted::new(script), Scored(judge));
        let gatherer = Gatherer {
            stage: "rl".to_owned(),
            config: &config,
            task: &Echo,
            reward: &reward,
            engine: &engine as &dyn RolloutEngine<Policy>,
            episodes: None,
            samples: &samples,
            order: Shuffled::new(samples.len(), 1),
            ordinal: 0,
            interrupt: None,
        };
        let built = config.algorithm.build(config.group_size).unwrap();
        let mut state = state();
        state.progress.policy_version = 7;
        let gathered = gatherer.gather(&built, &mut state).map_err(|error| error.to_string());
        let texts =
            |group: &JudgedGroup<'_>| group.completions.iter().map(|done| done.text.clone()).collect();
        (gathered.map(|(groups, stats)| (groups.iter().map(texts).collect(), stats)), engine.told())
    }

    fn length(text: &str) -> Option<f32> {
        Some(text.split(' ').count() as f32)
    }

    #[test]
    fn groups_come_back_in_the_order_of_the_prompts_whatever_the_engines() {
        let (gathered, told) = gathered("", |key, place| vec![key as u32; place + 1], length);
        let (groups, stats) = gathered.unwrap();
        assert_eq!(groups, [["0", "0 0"], ["1", "1 1"], ["2", "2 2"]]);
        assert_eq!((stats.generated_tokens, stats.ungraded, stats.refills), (9, 0, None));
        assert_eq!(told, (7, 1, 1), "told of the weights once, and let go of them once");
    }

    #[test]
    fn what_cannot_be_judged_is_left_out_and_a_group_of_one_with_it() {
        // The first completion of the second prompt is ungraded.
        let judge = |text: &str| length(text).filter(|_| text != "1");
        let (gathered, _) = gathered("", |key, place| vec![key as u32; place + 1], judge);
        let (groups, stats) = gathered.unwrap();
        assert_eq!((groups.len(), stats.ungraded), (2, 1), "one completion compares with nothing");
    }

    #[test]
    fn a_step_of_which_too_little_can_be_judged_ends_the_run() {
        let judge = |text: &str| length(text).filter(|_| text.contains(' '));
        let (half, _) = gathered("", |key, place| vec![key as u32; place + 1], judge);
        assert_eq!(half.unwrap().1.ungraded, 3, "half of the completions is not too much");
        let judge = |text: &str| length(text).filter(|_| text == "0 0" || text == "0");
        let (most, told) = gathered("", |key, place| vec![key as u32; place + 1], judge);
        let said = "rl, step 1: expected at most a share of 0.5 of the completions without a reward (rl.max_ungraded), \
                    got 4 of 6: no reward could say anything";
        assert_eq!((most.err().unwrap(), told), (said.to_owned(), (7, 1, 1)));
    }

    #[test]
    fn groups_without_spread_are_replaced_for_some_rounds() {
        let (gathered, told) = gathered("dynamic_sampling = true", |_, _| vec![5], length);
        let (groups, stats) = gathered.unwrap();
        assert_eq!((groups.len(), stats.refills), (0, Some(3)));
        assert_eq!(stats.generated_tokens, 4 * 3 * 2, "the groups that were thrown away count");
        assert_eq!(told, (7, 1, 1));
    }

    #[test]
    fn a_greedy_baseline_is_one_more_completion_a_prompt() {
        let (gathered, _) = gathered("preset = 'remax'", |key, place| vec![key as u32; place + 1], length);
        assert_eq!(gathered.unwrap().1.generated_tokens, 3 * 3 + 3);
    }

    #[test]
    fn a_reward_that_is_no_number_ends_the_step_with_its_row() {
        let judge = |text: &str| Some(if text == "1" { f32::NAN } else { 1.0 });
        let (gathered, _) = gathered("", |key, place| vec![key as u32; place + 1], judge);
        let said = gathered.err().unwrap();
        assert!(
            said.starts_with("reward scored: row ") && said.contains("expected a finite number"),
            "{said}"
        );
    }

    #[test]
    fn an_empty_completion_is_the_engines_fault() {
        let (gathered, _) = gathered("", |key, _| vec![1; key as usize], length);
        let said = gathered.err().unwrap();
        assert_eq!(
            said,
            "rl, step 1: rollout: prompt 0: expected a completion of at least one token, got an empty one"
        );
    }
}
