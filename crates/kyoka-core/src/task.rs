//! What the training loops ask of a dataset and its text.

use crate::{Completion, Part, Prompt, Rollout, Sample};

/// Anything that can be wrong with a row's text or media.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// Turns rows into prompts and targets, and completions into text.
///
/// A task is asked from several threads at once. It gives the same for the same row and place, so that a run that is
/// resumed sees what it would have seen.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no task: it cannot turn rows into prompts",
    note = "implement `Task`: `prompt`, `encode` and `read`; `kyoka::MultimodalTask` is one for text, pictures and sounds"
)]
pub trait Task: Send + Sync {
    /// The prompt of a row, its media decoded. `augment` is the place of this use of the row (stage, step, slot); the
    /// same place gives the same random changes, `None` gives none.
    ///
    /// # Errors
    /// If the text cannot be laid out or a medium cannot be read; the caller adds file and row.
    fn prompt(&self, sample: &Sample, augment: Option<&[u64]>) -> Result<Prompt, TaskError>;

    /// Token ids of a completion's text, end token included.
    ///
    /// # Errors
    /// If the text cannot be written as tokens.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TaskError>;

    /// Token ids of the row's worked completion, end token included.
    ///
    /// # Errors
    /// If the row has none, or it cannot be written as tokens.
    fn target(&self, sample: &Sample) -> Result<Vec<u32>, TaskError> {
        let text = sample.completion.as_deref();
        self.encode(text.ok_or("the row has no worked completion, which SFT needs")?)
    }

    /// What an environment says after a turn of the policy, laid out as the policy's family does, up to where its next turn
    /// begins. `closed_by` is the end token that the policy closed the turn with, if it did.
    ///
    /// # Errors
    /// If the parts cannot be laid out. By default nothing can: such a task has one turn.
    fn observation(&self, _parts: &[Part], _closed_by: Option<u32>) -> Result<Prompt, TaskError> {
        Err("this task has one turn: it cannot lay out what an environment says".into())
    }

    /// A completion as rewards see it.
    fn read(&self, rollout: &Rollout, max_new_tokens: usize) -> Completion;
}
