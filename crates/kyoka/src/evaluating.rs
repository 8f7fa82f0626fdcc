//! `kyoka eval`: how good is a checkpoint on a split?

use std::path::{Path, PathBuf};

use kyoka_core::{Modality, RewardFn, RolloutEngine};
use kyoka_trainer::{CheckpointStore, EvalSummary, Evaluation, evaluate};

use crate::{
    Error, MultimodalTask, Policy, Recipe, dataset_folder, load_policy, open_device,
    preparing::{Addition, Room, additions_to, check_judged, read_split},
    recipe::limited,
};

/// What `kyoka eval` is asked.
#[derive(Debug, Clone)]
pub struct EvalOptions {
    /// A run's folder or a checkpoint's.
    pub folder: PathBuf,
    /// The split.
    pub split: String,
    /// A sense to blank out.
    pub blank: Option<Modality>,
    /// Rows; 0 takes all.
    pub max_rows: usize,
    /// Device name.
    pub device: String,
}

/// Evaluates a checkpoint on a split of the run's dataset; a run's folder stands for its newest checkpoint. `warn` hears
/// what the user should know about the data.
///
/// # Errors
/// If the folder holds no run or checkpoint, or the split does not exist.
pub fn evaluate_checkpoint(options: &EvalOptions, warn: &mut dyn FnMut(&str)) -> Result<EvalSummary, Error> {
    let device = open_device(&options.device)?;
    let (run_folder, checkpoint) = locate(&options.folder)?;
    let settings = Recipe::of_run(&run_folder)?.0.settings()?;
    let (policy, config, (tokenizer, template)) = load_policy(&checkpoint, &device)?;
    let folder = dataset_folder(&settings.data.dataset)?;
    let read = read_split(&folder, &options.split, &settings.data)?;
    let task = MultimodalTask::new(tokenizer, config.clone(), settings.augment, 0)
        .with_template(template)
        .with_blank(options.blank);
    let room = Room { task: &task, limit: config.decoder.max_positions, data: &settings.data };
    let longest = [Addition::Sampled(settings.eval.max_new_tokens)];
    let mut warnings = read.warnings;
    let samples = room.keep(read.rows, |row| row, |row| additions_to(row, &task, &longest), &mut warnings)?;
    check_judged(&settings.rules(), &samples)?;
    warnings.iter().for_each(|warning| warn(warning));
    let reward = settings.reward(&device)?;
    let engine = |policy: Policy| -> Box<dyn RolloutEngine> { Box::new(task.engine(policy)) };
    let evaluation = Evaluation {
        task: &task,
        reward: &reward as &dyn RewardFn,
        engine: &engine,
        max_new_tokens: settings.eval.max_new_tokens,
        stop: settings.stop_texts(),
    };
    let samples = limited(&samples, options.max_rows);
    Ok(evaluate(&policy, &evaluation, &options.split, samples)?.summary)
}

/// The run's folder and the checkpoint meant by `folder`.
pub(crate) fn locate(folder: &Path) -> Result<(PathBuf, PathBuf), Error> {
    if folder.join("state.json").is_file() {
        let run = folder.parent().and_then(Path::parent).unwrap_or(Path::new("."));
        return Ok((run.to_owned(), folder.to_owned()));
    }
    let store = CheckpointStore::new(folder.join("checkpoints"), Default::default(), Vec::new());
    let latest =
        store.latest().ok_or_else(|| Error::file(folder, "holds neither a checkpoint nor a run with one"))?;
    Ok((folder.to_owned(), latest))
}
