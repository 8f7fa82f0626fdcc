//! What the loops ask of a dataset and its text.

use burn::module::{Module, ModuleDisplay};
use kyoka_core::{Completion, Prompt, Recompute, Rollout, RolloutEngine, Sample};

/// Anything that can be wrong with a row's text or media.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// Turns rows into prompts and targets, and completions into text.
pub trait Task: Sync {
    /// The prompt of a row, its media decoded. `augment` is the place of this use of the row (stage, step, slot); the
    /// same place gives the same random changes, `None` gives none.
    fn prompt(&self, sample: &Sample, augment: Option<&[u64]>) -> Result<Prompt, TaskError>;

    /// Token ids of a completion's text, end token included.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TaskError>;

    /// Token ids of the row's worked completion, end token included.
    fn target(&self, sample: &Sample) -> Result<Vec<u32>, TaskError> {
        let text = sample.completion.as_deref();
        self.encode(text.ok_or("the row has no worked completion, which SFT needs")?)
    }

    /// A completion as rewards see it.
    fn read(&self, rollout: &Rollout, max_new_tokens: usize) -> Completion;
}

/// Makes an engine over a policy without gradients.
pub type EngineFactory<'a, M> = &'a dyn Fn(M) -> Box<dyn RolloutEngine>;

/// A language model whose parameters can be trained, saved and copied: any
/// [`CausalLm`](kyoka_core::CausalLm) that is a Burn module and can recompute.
pub trait TrainableLm: Recompute + Module + ModuleDisplay {}

impl<M: Recompute + Module + ModuleDisplay> TrainableLm for M {}
