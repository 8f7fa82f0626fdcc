//! `kyoka eval`: how good is a model on a split?

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kyoka_core::{Modality, RewardFn};
use kyoka_trainer::{EvalSummary, Evaluation, TrainableLm, evaluate};

use crate::{
    Error, MultimodalTask, Recipe, RewardConfig,
    doors::{Doors, local_engine},
    environment::Environments,
    eval_settings::EvalSettings,
    generating::open,
    hub::checkpoint_folder,
    model_folder::{is_hugging_face, locate},
    open_device,
    preparing::{Addition, Room, additions_to, check_judged},
    reading::{Fault, Places},
    recipe::{DataSettings, limited},
    rewards::{Rewards, check_opponents, check_rewards, check_turns},
    source::Dataset,
};

/// What `kyoka eval` is asked.
#[derive(Debug, Clone)]
pub struct EvalOptions {
    /// A run's folder (its newest checkpoint is taken), a checkpoint's, or a Hugging Face folder (or its name).
    pub model: PathBuf,
    /// Folder of a PEFT adapter for a Hugging Face model.
    pub adapter: Option<PathBuf>,
    /// Whose dataset, rewards and `[eval]` to take; a run's own when not given.
    pub recipe: Option<Recipe>,
    /// The dataset, instead of the recipe's.
    pub dataset: Option<String>,
    /// Kinds of rewards, each with weight 1, instead of the recipe's.
    pub rewards: Vec<String>,
    /// The split.
    pub split: String,
    /// A sense to blank out.
    pub blank: Option<Modality>,
    /// Rows; 0 takes all.
    pub max_rows: usize,
    /// Completions a row, instead of the recipe's.
    pub samples: Option<usize>,
    /// Temperature of the draws, instead of the recipe's.
    pub temperature: Option<f32>,
    /// Longest completion, instead of the recipe's.
    pub max_new_tokens: Option<usize>,
    /// Seed of the draws.
    pub seed: u64,
    /// Device name.
    pub device: String,
}

/// Longest completion where neither a recipe nor the user says it.
const MAX_NEW_TOKENS: usize = 256;

/// What completions are asked and judged by.
struct Terms {
    data: DataSettings,
    rewards: Vec<RewardConfig>,
    eval: EvalSettings,
    stop: Vec<String>,
    environments: Option<Environments>,
    /// Most tokens that its observations take.
    observation_tokens: usize,
}

/// Evaluates a model on a split of a dataset. `warn` hears what the user should know about the data.
///
/// # Errors
/// If the model cannot be opened, nobody says which dataset and rewards to take, the split does not exist, or a row does
/// not fit the model or the rewards.
pub fn evaluate_checkpoint(options: &EvalOptions, warn: &mut dyn FnMut(&str)) -> Result<EvalSummary, Error> {
    evaluate_with(options, &Doors::default(), &open, warn)
}

/// Opens a policy with its task: a model, an adapter, a device.
pub(crate) type OpenPolicy<'a, M> =
    dyn Fn(&Path, Option<&Path>, &Device) -> Result<(M, MultimodalTask), Error> + 'a;

/// [`evaluate_checkpoint`], with what a program brings.
pub(crate) fn evaluate_with<M: TrainableLm>(
    options: &EvalOptions,
    doors: &Doors,
    open: &OpenPolicy<'_, M>,
    warn: &mut dyn FnMut(&str),
) -> Result<EvalSummary, Error> {
    let folder = checkpoint_folder(&options.model)?;
    let terms = options.terms(&folder, doors)?;
    let rewards = Rewards::make(&terms.rewards, doors);
    let refused = |fault: Fault| Error::argument("reward", fault.message(&Places::default()));
    let rewards = rewards.map_err(refused)?;
    let device = open_device(&options.device)?;
    let read = Dataset::open(&terms.data, doors)?.rows(&options.split)?;
    let (policy, task) = open(&folder, options.adapter.as_deref(), &device)?;
    let tools = terms.environments.as_ref().map_or(&[][..], Environments::tools);
    let task = task.with_blank(options.blank).with_tools(tools);
    let room = Room { task: &task, limit: policy.max_positions(), data: &terms.data };
    let longest = [Addition::Sampled(terms.eval.max_new_tokens + terms.observation_tokens)];
    let mut warnings = read.warnings;
    let samples = room.keep(read.rows, |row| row, |row| additions_to(row, &task, &longest), &mut warnings)?;
    check_judged(&rewards, &samples)?;
    warnings.iter().for_each(|warning| warn(warning));
    let samples = limited(&samples, options.max_rows);
    let reward = rewards.sum(&device)?;
    let engine = local_engine(task.tokenizer());
    let evaluation = Evaluation {
        task: &task,
        reward: &reward as &dyn RewardFn,
        engine: &engine,
        episodes: terms.environments.as_ref().map(Environments::rules),
        sampling: terms.eval.sampling(&terms.stop),
        num_samples: terms.eval.samples,
        seed: options.seed,
        interrupt: None,
    };
    let summary = evaluate((0, &policy), &evaluation, &options.split, samples)?.summary;
    match &summary.failures {
        Some(failures) if failures.count == failures.of => {
            return Err(Error::unanswered("eval", failures));
        }
        Some(failures) => warn(&failures.to_string()),
        None => {}
    }
    Ok(summary)
}

impl EvalOptions {
    /// The terms of the recipe or of the model's own run, with what the user says otherwise.
    fn terms(&self, folder: &Path, doors: &Doors) -> Result<Terms, Error> {
        let refused = |name: &str, reason: String| Error::Argument { name: name.to_owned(), reason };
        let rewards = self.rewards.iter().map(|kind| RewardConfig::of_kind(kind));
        let rewards: Vec<RewardConfig> =
            rewards.collect::<Result<_, _>>().map_err(|reason| refused("--reward", reason))?;
        let given = self.dataset.is_some() && !rewards.is_empty();
        let recipe = match &self.recipe {
            Some(recipe) => Some(recipe.clone()),
            // A run has an environment of its own, or none: that is no matter of dataset and rewards.
            None if given && is_hugging_face(folder)? => None,
            None if is_hugging_face(folder)? => {
                let reason = "has no recipe of its own: give --recipe, or --dataset and --reward".to_owned();
                return Err(refused(&folder.display().to_string(), reason));
            }
            None => Some(Recipe::of_run(&locate(folder)?.0)?.0),
        };
        let mut terms = match recipe {
            Some(recipe) => Terms::of(&recipe, doors)?,
            None => Terms::bare(&self.split),
        };
        if let Some(dataset) = &self.dataset {
            terms.data.dataset.clone_from(dataset);
            terms.data.source = None;
        }
        if !rewards.is_empty() {
            terms.rewards = rewards;
        }
        let eval = &mut terms.eval;
        eval.max_new_tokens = self.max_new_tokens.unwrap_or(eval.max_new_tokens);
        eval.samples = self.samples.unwrap_or(eval.samples);
        eval.temperature = self.temperature.or(eval.temperature.filter(|_| self.samples.is_none()));
        eval.check().map_err(|fault| refused("kyoka eval", fault.message(&Places::default())))?;
        check_rewards(&terms.rewards, &[])
            .and_then(|()| check_turns(&terms.rewards, terms.environments.is_some()))
            .and_then(|()| check_opponents(&terms.rewards, (terms.eval.samples, false)))
            .map_err(|fault| refused("--reward", fault.message(&Places::default())))?;
        Ok(terms)
    }
}

impl Terms {
    fn of(recipe: &Recipe, doors: &Doors) -> Result<Self, Error> {
        // How the model was trained is of no matter here: rewards and evaluation are checked below.
        let settings = recipe.settings()?;
        let environments = settings.environment.as_ref().map(|environment| environment.make(doors));
        let environments = environments.transpose().map_err(|fault| recipe.refused(&fault))?;
        Ok(Self {
            observation_tokens: settings.observation_tokens(),
            environments,
            stop: settings.stop_texts().to_vec(),
            data: settings.data,
            rewards: settings.reward,
            eval: settings.eval,
        })
    }

    fn bare(split: &str) -> Self {
        Self {
            data: DataSettings::default(),
            rewards: Vec::new(),
            eval: EvalSettings::greedy(split, MAX_NEW_TOKENS),
            stop: Vec::new(),
            environments: None,
            observation_tokens: 0,
        }
    }
}
