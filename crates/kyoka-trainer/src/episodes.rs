//! Completions of several turns: environments as an engine meets them.

use std::borrow::Cow;

use kyoka_core::{
    Action, Environment, EnvironmentError, EnvironmentFactory, Episode, Episodes, Part, Prompt, Reply,
    Rollout, RolloutError, RolloutPrompt, Sample, StopReason, Stream, Task, TaskError, on_threads,
    stream_rng,
};
use rand::Rng;

use crate::TrainError;

/// What answers the policy between its turns, and for how long.
#[derive(Clone, Copy)]
pub struct EpisodeRules<'a> {
    /// Opens an environment for every completion.
    pub environments: &'a dyn EnvironmentFactory,
    /// Most turns of a completion; at least 1.
    pub max_turns: usize,
    /// Most tokens that the observations of a completion take together.
    pub max_observation_tokens: usize,
}

impl EpisodeRules<'_> {
    /// The row with what its episode shows first behind it: the same for all completions.
    fn opened(&self, sample: &Sample, seed: u64) -> Result<Sample, EnvironmentError> {
        let shown = self.environments.open()?.reset(sample, seed)?;
        let mut opened = sample.clone();
        opened.append(shown);
        Ok(opened)
    }
}

/// The prompts of rows, and what leads their completions on.
pub(crate) struct LaidOut<'a> {
    /// The prompts, with what episodes show first.
    pub prompts: Vec<Prompt>,
    /// Their rows, with that behind them.
    pub samples: Vec<Cow<'a, Sample>>,
    episodes: Option<TaskEpisodes<'a>>,
}

impl<'a> LaidOut<'a> {
    /// Lays out the prompts of rows; `rows` have the place of their random changes, if any, and of their episodes.
    ///
    /// # Errors
    /// If a row cannot be laid out, or its episode not begun.
    pub fn new(
        task: &'a dyn Task,
        rules: Option<EpisodeRules<'a>>,
        seed: u64,
        rows: Vec<AskedRow<'a>>,
    ) -> Result<Self, TrainError> {
        let seeds: Vec<u64> =
            rows.iter().map(|row| stream_rng(seed, Stream::Environment, row.place).next_u64()).collect();
        let played: Vec<(&Sample, u64)> = rows.iter().map(|row| row.sample).zip(seeds).collect();
        let samples: Vec<Cow<'_, Sample>> = match rules {
            None => played.iter().map(|(sample, _)| Cow::Borrowed(*sample)).collect(),
            Some(rules) => {
                let opened = on_threads(played.clone(), |(sample, seed)| {
                    let failed = |error| format!("the environment cannot begin: {error}").into();
                    rules
                        .opened(sample, seed)
                        .map(Cow::Owned)
                        .map_err(failed)
                        .map_err(TrainError::row(sample))
                });
                opened.into_iter().collect::<Result<_, TrainError>>()?
            }
        };
        let prompt = |(row, shown): (&AskedRow<'_>, &Cow<'_, Sample>)| {
            task.prompt(shown, row.augment).map_err(TrainError::row(row.sample))
        };
        let prompts = rows.iter().zip(&samples).map(prompt).collect::<Result<_, TrainError>>()?;
        let episodes = rules.map(|rules| TaskEpisodes { rules, task, rows: played });
        Ok(Self { prompts, samples, episodes })
    }

    /// What an engine is asked: each prompt with its place as key.
    pub fn asked(&self) -> Vec<RolloutPrompt<'_>> {
        let rows = self.prompts.iter().zip(&self.samples).zip(0..);
        rows.map(|((prompt, sample), key)| RolloutPrompt { prompt, sample: Some(sample), key }).collect()
    }

    /// What an engine is told of the turns.
    pub fn episodes(&self) -> Option<&dyn Episodes> {
        self.episodes.as_ref().map(|episodes| episodes as &dyn Episodes)
    }
}

/// A row that is asked.
pub(crate) struct AskedRow<'a> {
    pub sample: &'a Sample,
    /// The place of the random changes of its media.
    pub augment: Option<&'a [u64]>,
    /// The place that its episodes follow from.
    pub place: &'a [u64],
}

/// The environments of the rows of a request, their answers laid out by the task.
struct TaskEpisodes<'a> {
    rules: EpisodeRules<'a>,
    task: &'a dyn Task,
    /// Each with the seed of its episodes.
    rows: Vec<(&'a Sample, u64)>,
}

impl Episodes for TaskEpisodes<'_> {
    fn max_observation_tokens(&self) -> usize {
        self.rules.max_observation_tokens
    }

    fn open(&self, index: usize, _place: usize) -> Result<Box<dyn Episode + '_>, RolloutError> {
        let (sample, seed) = self.rows[index];
        let failed = |source| failed(index, sample, source);
        let mut environment = self.rules.environments.open().map_err(failed)?;
        // What it shows first is in the prompt.
        drop(environment.reset(sample, seed).map_err(failed)?);
        Ok(Box::new(TaskEpisode { episodes: self, index, environment, turn: 0 }))
    }
}

/// An environment's failure, with the row that it was about.
fn failed(index: usize, sample: &Sample, source: EnvironmentError) -> RolloutError {
    let source = format!("{}: row {}: {source}", sample.origin, sample.id).into();
    RolloutError::Environment { index, source }
}

struct TaskEpisode<'a> {
    episodes: &'a TaskEpisodes<'a>,
    index: usize,
    environment: Box<dyn Environment>,
    turn: usize,
}

impl TaskEpisode<'_> {
    fn observation(&self, parts: &[Part], closed_by: Option<u32>) -> Result<Prompt, TaskError> {
        if parts.is_empty() {
            return Err("expected an answer of at least one part where the episode goes on, got none".into());
        }
        let seen = self.episodes.task.observation(parts, closed_by)?;
        if seen.is_empty() {
            Err("expected an observation of at least one token, got none".into())
        } else {
            Ok(seen)
        }
    }
}

impl Episode for TaskEpisode<'_> {
    fn answer(&mut self, turn: &[u32], ended: StopReason) -> Result<Reply, RolloutError> {
        let TaskEpisodes { task, rules, rows } = self.episodes;
        let failed = |source| failed(self.index, rows[self.index].0, source);
        let drawn = Rollout::of_turn(turn.to_vec(), Vec::new(), Vec::new(), ended);
        let text = task.read(&drawn, turn.len()).text;
        let action = Action { text: &text, turn: self.turn, ended };
        let answer = self.environment.step(&action).map_err(failed)?;
        let closed_by = turn.last().copied().filter(|_| ended == StopReason::EndToken);
        self.turn += 1;
        let next = match () {
            () if answer.done => Err(StopReason::Environment),
            () if ended == StopReason::Length => Err(StopReason::Length),
            () if self.turn >= rules.max_turns => Err(StopReason::Turns),
            () => Ok(self.observation(&answer.parts, closed_by).map_err(failed)?),
        };
        Ok(Reply { reward: answer.reward, next })
    }
}
