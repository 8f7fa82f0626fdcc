//! What answers a policy between its turns: a simulator, a tool, a game.

use serde_json::{Value, json};

use crate::{Part, Sample, StopReason};

/// Anything that can go wrong with an environment.
pub type EnvironmentError = Box<dyn std::error::Error + Send + Sync>;

/// What the policy did.
#[derive(Debug, Clone, Copy)]
pub struct Action<'a> {
    /// What it wrote in this turn, reasoning and all, special tokens of the end left out.
    pub text: &'a str,
    /// Turns before this one.
    pub turn: usize,
    /// How it ended: behind an end token, at a stop text, or cut off at the limit of tokens, after which no turn follows.
    pub ended: StopReason,
}

/// A tool as the policy is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSchema {
    /// By which it is called.
    pub name: String,
    /// What it does, for the policy to read.
    pub description: String,
    /// JSON schema of the object of its arguments.
    pub parameters: Value,
}

impl ToolSchema {
    /// The function schema that chat templates and servers take.
    pub fn to_json(&self) -> Value {
        let Self { name, description, parameters } = self;
        json!({
            "type": "function",
            "function": {"name": name, "description": description, "parameters": parameters},
        })
    }
}

/// What an environment answers.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// What the policy sees and hears next, at least one part; not used when the episode is over.
    pub parts: Vec<Part>,
    /// What the turn was worth, a finite number; `None` if it is not judged by itself.
    pub reward: Option<f32>,
    /// Whether the episode is over.
    pub done: bool,
}

/// One episode after the other: a row's start, and an answer to every turn.
///
/// Row and seed decide everything: all completions of a prompt begin alike, and a run that is resumed meets what it would have
/// met. Calls may block: up to 64 episodes begin or answer at the same time, each on a thread.
pub trait Environment: Send {
    /// Begins an episode and gives what the prompt shows besides the row, behind it. It is asked once more than there are completions:
    /// for the prompt that they share. What it shows is not counted when rows are looked at before a run; a prompt that becomes too
    /// long with it ends the run at its step.
    ///
    /// # Errors
    /// If the row cannot be played.
    fn reset(&mut self, row: &Sample, seed: u64) -> Result<Vec<Part>, EnvironmentError>;

    /// Answers a turn.
    ///
    /// # Errors
    /// If the environment itself fails. What the policy did wrong is no error, but an answer.
    fn step(&mut self, action: &Action<'_>) -> Result<Answer, EnvironmentError>;
}

/// Opens environments, one for every episode under way.
///
/// ```
/// use kyoka_core::{Action, Answer, Environment, EnvironmentError, EnvironmentFactory, Part, Sample};
///
/// /// Asks once more where the answer is wrong.
/// struct Again(Vec<String>);
///
/// impl Environment for Again {
///     fn reset(&mut self, row: &Sample, _seed: u64) -> Result<Vec<Part>, EnvironmentError> {
///         self.0 = row.answers();
///         Ok(Vec::new())
///     }
///     fn step(&mut self, action: &Action<'_>) -> Result<Answer, EnvironmentError> {
///         let right = self.0.iter().any(|answer| answer == action.text);
///         let parts = vec![Part::Text("Look again.".to_owned())];
///         Ok(Answer { parts, reward: Some(f32::from(right)), done: right })
///     }
/// }
///
/// struct Patience;
///
/// impl EnvironmentFactory for Patience {
///     fn open(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
///         Ok(Box::new(Again(Vec::new())))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` opens no environments",
    note = "implement `EnvironmentFactory`: `open` gives an `Environment`, which begins episodes and answers turns"
)]
pub trait EnvironmentFactory: Send + Sync {
    /// Tools that the policy may call in its turns: the chat template tells it of them. Default none.
    fn tools(&self) -> &[ToolSchema] {
        &[]
    }

    /// An environment in which no episode is under way.
    ///
    /// # Errors
    /// If none can be had.
    fn open(&self) -> Result<Box<dyn Environment>, EnvironmentError>;
}
