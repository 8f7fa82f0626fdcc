//! Completions of several turns: environments as an engine meets them.

use kyoka_core::{
    Action, Environment, EnvironmentError, EnvironmentFactory, Episode, Episodes, Part, Prompt, Reply,
    Rollout, RolloutError, Sample, StopReason, Stream, Task, TaskError, stream_rng,
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
        let parts = [sample.parts.clone(), shown].concat();
        Ok(Sample { parts, ..sample.clone() })
    }
}

/// The prompts of rows, and what leads their completions on.
pub(crate) struct LaidOut<'a> {
    /// The prompts, with what episodes show first.
    pub prompts: Vec<Prompt>,
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
        let mut prompts = Vec::with_capacity(rows.len());
        let mut played = Vec::with_capacity(rows.len());
        for AskedRow { sample, augment, place } in rows {
            let seed = stream_rng(seed, Stream::Environment, place).next_u64();
            let prompt = match rules {
                None => task.prompt(sample, augment),
                Some(rules) => rules.opened(sample, seed).and_then(|opened| task.prompt(&opened, augment)),
            };
            prompts.push(prompt.map_err(TrainError::row(sample))?);
            played.push((sample, seed));
        }
        let episodes = rules.map(|rules| TaskEpisodes { rules, task, rows: played });
        Ok(Self { prompts, episodes })
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
        let failed = |source| RolloutError::Environment { index, source };
        let (sample, seed) = self.rows[index];
        let mut environment = self.rules.environments.open().map_err(failed)?;
        // What it shows first is in the prompt.
        drop(environment.reset(sample, seed).map_err(failed)?);
        Ok(Box::new(TaskEpisode { episodes: self, index, environment, turn: 0 }))
    }
}

struct TaskEpisode<'a> {
    episodes: &'a TaskEpisodes<'a>,
    index: usize,
    environment: Box<dyn Environment>,
    turn: usize,
}

impl TaskEpisode<'_> {
    fn observation(&self, parts: &[Part], ended: StopReason) -> Result<Prompt, TaskError> {
        let seen = self.episodes.task.observation(parts, ended)?;
        if seen.is_empty() {
            Err("expected an observation of at least one token, got none".into())
        } else {
            Ok(seen)
        }
    }
}

impl Episode for TaskEpisode<'_> {
    fn answer(&mut self, turn: &[u32], ended: StopReason) -> Result<Reply, RolloutError> {
        let failed = |source| RolloutError::Environment { index: self.index, source };
        let TaskEpisodes { task, rules, .. } = self.episodes;
        let drawn = Rollout::of_turn(turn.to_vec(), Vec::new(), Vec::new(), ended);
        let text = task.read(&drawn, turn.len()).text;
        let answer = self.environment.step(&Action { text: &text, turn: self.turn }).map_err(failed)?;
        self.turn += 1;
        let next = match () {
            () if answer.done => Err(StopReason::Environment),
            () if ended == StopReason::Length => Err(StopReason::Length),
            () if self.turn >= rules.max_turns => Err(StopReason::Turns),
            () => Ok(self.observation(&answer.parts, ended).map_err(failed)?),
        };
        Ok(Reply { reward: answer.reward, next })
    }
}
