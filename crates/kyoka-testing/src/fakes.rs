//! Stand-ins for the parts of a run: each does the least that its trait asks for.

use std::sync::atomic::{AtomicU64, Ordering};

use kyoka_core::{
    Action, Answer, Completion, Environment, EnvironmentError, EnvironmentFactory, GroupSink, Part, Prompt,
    Reward, RewardContext, RewardError, RewardFn, Rollout, RolloutEngine, RolloutError, RolloutGroup,
    RolloutRequest, Sample, StopReason, Task, TaskError,
};

/// A row with a prompt of text.
pub fn sample(id: &str, prompt: &str) -> Sample {
    Sample { id: id.to_owned(), ..Sample::asking(vec![Part::Text(prompt.to_owned())]) }
}

/// A task whose texts are token ids with spaces between them: a row's prompt is its id, a completion its tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

fn ids(text: &str) -> Result<Vec<u32>, TaskError> {
    Ok(text.split(' ').map(str::parse).collect::<Result<_, _>>()?)
}

impl Task for Echo {
    fn prompt(&self, sample: &Sample, _: Option<&[u64]>) -> Result<Prompt, TaskError> {
        Ok(Prompt { token_ids: ids(&sample.id)?, ..Prompt::default() })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, TaskError> {
        ids(text)
    }

    /// What is said, token by token.
    fn observation(&self, parts: &[Part], _: Option<u32>) -> Result<Prompt, TaskError> {
        let texts = parts.iter().map(|part| match part {
            Part::Text(text) => ids(text),
            Part::Media(_) => Err("expected text, got a medium".into()),
        });
        let token_ids = texts.collect::<Result<Vec<_>, _>>()?.concat();
        Ok(Prompt { token_ids, ..Prompt::default() })
    }

    fn read(&self, rollout: &Rollout, max_new_tokens: usize) -> Completion {
        let token_ids = rollout.token_ids.clone();
        let text = token_ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let mut end = 0;
        let span = |id: &u32| {
            let start = end;
            end = start + id.to_string().len() + 1;
            start..end - 1
        };
        let token_spans = token_ids.iter().map(span).collect();
        let (turns, finished) = (rollout.completed_turns(), true);
        Completion { text, token_ids, token_spans, turns, finished, max_new_tokens, ..Completion::default() }
    }
}

/// A reward of the number that a function makes of each completion's text.
pub struct Scored<F>(pub F);

impl<F: Fn(&str) -> Option<f32> + Send + Sync> RewardFn for Scored<F> {
    fn name(&self) -> &str {
        "scored"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        Ok(Reward { total: (self.0)(&completion.text), ..Reward::default() })
    }
}

/// An environment that says a word behind the first turn, and gives 1 where the second turn repeats it, else 0. The word is one of
/// the tokens `0..words` and follows from the seed alone.
#[derive(Debug, Clone, Copy)]
pub struct Tells {
    /// How many words there are.
    pub words: u64,
}

struct Telling {
    words: u64,
    word: String,
}

impl EnvironmentFactory for Tells {
    fn open(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        Ok(Box::new(Telling { words: self.words, word: String::new() }))
    }
}

impl Environment for Telling {
    fn reset(&mut self, _: &Sample, seed: u64) -> Result<Vec<Part>, EnvironmentError> {
        self.word = (seed % self.words).to_string();
        Ok(Vec::new())
    }

    fn step(&mut self, action: &Action<'_>) -> Result<Answer, EnvironmentError> {
        if action.turn == 0 {
            return Ok(Answer { parts: vec![Part::Text(self.word.clone())], ..Answer::default() });
        }
        let right = f32::from(action.text == self.word);
        Ok(Answer { reward: Some(right), done: true, ..Answer::default() })
    }
}

/// An engine that reads its completions off a script, and knows when it was told of weights.
pub struct Scripted<F> {
    /// The tokens of completion `place` of the prompt with `key`.
    pub script: F,
    published: AtomicU64,
    /// How often weights were published, and how often they were let go.
    calls: [AtomicU64; 2],
}

impl<F: Fn(u64, usize) -> Vec<u32> + Send + Sync> Scripted<F> {
    /// An engine over a script.
    pub fn new(script: F) -> Self {
        Self { script, published: AtomicU64::new(0), calls: Default::default() }
    }

    /// The version that was published last, how often weights were published, and how often they were let go.
    pub fn told(&self) -> (u64, u64, u64) {
        let [published, released] = self.calls.each_ref().map(|count| count.load(Ordering::SeqCst));
        (self.published.load(Ordering::SeqCst), published, released)
    }
}

impl<M, F: Fn(u64, usize) -> Vec<u32> + Send + Sync> RolloutEngine<M> for Scripted<F> {
    fn banned_ids(&self) -> &[u32] {
        &[]
    }

    fn publish(&self, version: u64, _: &M) -> Result<(), RolloutError> {
        self.published.store(version, Ordering::SeqCst);
        self.calls[0].fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn release(&self) {
        self.calls[1].fetch_add(1, Ordering::SeqCst);
    }

    /// The last prompt first, so that nobody relies on an order.
    fn generate(&self, request: RolloutRequest<'_>, sink: &mut GroupSink<'_>) -> Result<(), RolloutError> {
        for (index, asked) in request.prompts.iter().enumerate().rev() {
            let rollout = |place: usize| {
                let token_ids = (self.script)(asked.key, place);
                let logprobs = vec![-1.0; token_ids.len()];
                Rollout::of_turn(token_ids, logprobs, Vec::new(), StopReason::EndToken)
            };
            let rollouts = (0..request.group_size).map(rollout).collect();
            let policy_version = self.published.load(Ordering::SeqCst);
            sink(index, RolloutGroup { prompt: asked.prompt.clone(), rollouts, policy_version })?;
        }
        Ok(())
    }
}
