//! What a caller runs: a recipe with options and with what the program brings along.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use burn::tensor::Device;
use kyoka_core::{
    AdvantageEstimator, CausalLm, EnvironmentFactory, PartError, PolicyLoss, RewardFn, RolloutEngine,
};
use kyoka_data::RowSource;
use kyoka_environment::Tool;
use kyoka_image::ImageEncoder;
use kyoka_nn::WeightInit;
use kyoka_trainer::{EvalReport, EvalSummary, Observer, StepReport, TrainError};
use toml::Table;

use crate::{
    Error, EvalOptions, MultimodalTask, Plan, PlanOptions, Policy, Recipe, choose_device,
    doors::{Doors, EngineContext, EngineDoor, brought, local_engine},
    engine::{CustomEngine, EngineKind},
    environment::Environments,
    evaluating::evaluate_with,
    execution::Execution,
    freezing::Frozen,
    generating::open,
    model::{ModelSettings, Opened},
    open_device_with,
    own_image_encoder::{self, MakeImageEncoder, RunImageEncoder, open_seeing},
    plan::plan_with,
    preparing::{Prepared, check_media, prepare},
    reading::Fault,
    rewards::Rewards,
    run::{RunFolder, RunSummary, check_settings, refuse_taken},
};

/// What a user decides besides the recipe.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Seed of weights, order, augmentation and sampling.
    pub seed: u64,
    /// Folder of the run; `runs/<recipe>-<seed>` (numbered if taken) when not given.
    pub out: Option<PathBuf>,
    /// Device name, see [`choose_device`](crate::choose_device).
    pub device: String,
    /// Folder of a run to go on with.
    pub resume: Option<PathBuf>,
    /// Set from outside to stop with a checkpoint: sampling and evaluation are given up, an update under way is finished.
    pub stop: Arc<AtomicBool>,
    /// Set once the run has its folder. Before that there is nothing to keep, and `stop` is not looked at.
    pub started: Arc<AtomicBool>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            out: None,
            device: "auto".to_owned(),
            resume: None,
            stop: Arc::default(),
            started: Arc::default(),
        }
    }
}

/// Where the results are.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The run's folder.
    pub run_folder: PathBuf,
    /// What came out.
    pub summary: RunSummary,
}

/// Memory for the features of frozen towers, pictures and sounds each.
pub(crate) const FEATURE_BYTES: usize = 2 << 30;

/// Hears everything and says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Observer for Quiet {
    fn on_step(&mut self, _: &StepReport) -> Result<(), TrainError> {
        Ok(())
    }
    fn on_eval(&mut self, _: &str, _: usize, _: &[EvalReport]) -> Result<(), TrainError> {
        Ok(())
    }
}

/// A recipe on its way to a trained policy, with what the program brings along for it.
///
/// ```no_run
/// use kyoka::{Quiet, Recipe, Run, core::{Completion, Reward, RewardContext, RewardError, RewardFn}};
///
/// /// 1 for a completion of at most so many letters.
/// #[derive(serde::Deserialize)]
/// struct Short {
///     letters: usize,
/// }
///
/// impl RewardFn for Short {
///     fn name(&self) -> &str {
///         "short"
///     }
///     fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
///         Ok(Reward::graded("short", f32::from(completion.text.chars().count() <= self.letters)))
///     }
/// }
///
/// // The recipe says: [[reward]] kind = "custom", name = "short", weight = 0.1, settings = { letters = 40 }
/// let recipe = Recipe::named("mine.toml")?;
/// let run = Run::new(recipe).with_reward("short", |settings| Ok(Box::new(settings.try_into::<Short>()?)));
/// run.train(&mut Quiet)?;
/// # Ok::<(), kyoka::Error>(())
/// ```
///
/// `I` is what encodes pictures: Kyoka's encoders, or one of the program; see [`Run::with_image_encoder`].
pub struct Run<I: RunImageEncoder = ImageEncoder> {
    recipe: Recipe,
    options: TrainOptions,
    doors: Doors,
    engines: BTreeMap<String, EngineDoor<I>>,
    policy: PolicyMaker<I>,
    open: PolicyOpener<I>,
}

/// Makes the policy that is trained: what was opened, with settings and seed, on a device.
type PolicyMaker<I> =
    Arc<dyn Fn(&Opened, (&ModelSettings, u64), &Device) -> Result<Policy<I>, Error> + Send + Sync>;

/// Opens the policy of a checkpoint with its task: a model, an adapter, a device.
type PolicyOpener<I> =
    Arc<dyn Fn(&Path, Option<&Path>, &Device) -> Result<(Policy<I>, MultimodalTask), Error> + Send + Sync>;

impl<I: RunImageEncoder> Clone for Run<I> {
    fn clone(&self) -> Self {
        let Self { recipe, options, doors, engines, policy, open } = self;
        Self {
            recipe: recipe.clone(),
            options: options.clone(),
            doors: doors.clone(),
            engines: engines.clone(),
            policy: policy.clone(),
            open: open.clone(),
        }
    }
}

impl<I: RunImageEncoder> fmt::Debug for Run<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { recipe, options, doors, .. } = self;
        f.debug_struct("Run")
            .field("recipe", recipe)
            .field("options", options)
            .field("doors", doors)
            .finish_non_exhaustive()
    }
}

impl Run {
    /// A run of a recipe, with the default options.
    pub fn new(recipe: Recipe) -> Self {
        let policy =
            |opened: &Opened, (_, seed): (&ModelSettings, u64), device: &Device| opened.policy(seed, device);
        Self::of(recipe, Doors::default(), Arc::new(policy), Arc::new(open))
    }

    /// A run of a recipe whose policy sees through an encoder of one's own, by type as modules with parameters are:
    /// `[model] image_encoder = { name = "NAME" }`. `make` gets its `settings`, height and width of the pictures, which all have
    /// one size, and draws its weights. A checkpoint holds them; it is read by programs that bring the encoder.
    ///
    /// `make` is also asked for encoders without weights, which say how many positions a picture has.
    pub fn with_image_encoder<I: RunImageEncoder>(
        recipe: Recipe,
        name: &str,
        make: impl Fn(Table, [usize; 2], &mut WeightInit) -> Result<I, PartError> + Send + Sync + 'static,
    ) -> Run<I> {
        let make: MakeImageEncoder<I> = Arc::new(make);
        let image_encoder = Some(own_image_encoder::door(name, make.clone()));
        let doors = Doors { image_encoder, ..Doors::default() };
        let to_open = make.clone();
        Run::of(
            recipe,
            doors,
            Arc::new(move |opened, from, device| opened.policy_seeing(&make, from, device)),
            Arc::new(move |model, adapter, device| open_seeing(&to_open, (model, adapter), device)),
        )
    }
}

impl<I: RunImageEncoder> Run<I> {
    fn of(recipe: Recipe, doors: Doors, policy: PolicyMaker<I>, open: PolicyOpener<I>) -> Self {
        Self { recipe, options: TrainOptions::default(), doors, engines: BTreeMap::new(), policy, open }
    }

    /// The run with other options.
    pub fn with_options(mut self, options: TrainOptions) -> Self {
        self.options = options;
        self
    }

    /// Brings a reward: `[[reward]] kind = "custom", name = "NAME", weight = ...`; `make` gets its `settings`.
    pub fn with_reward(
        mut self,
        name: &str,
        make: impl Fn(Table) -> Result<Box<dyn RewardFn>, PartError> + Send + Sync + 'static,
    ) -> Self {
        self.doors.rewards.insert(name.to_owned(), Arc::new(make));
        self
    }

    /// Brings an estimator: `advantage = { kind = "custom", name = "NAME", ... }` of an algorithm; `make` gets the other keys.
    pub fn with_advantage(
        mut self,
        name: &str,
        make: impl Fn(Table) -> Result<Box<dyn AdvantageEstimator>, PartError> + Send + Sync + 'static,
    ) -> Self {
        self.doors.algorithm.add_advantage(name, Arc::new(make));
        self
    }

    /// Brings a policy loss: `loss = { kind = "custom", name = "NAME", ... }` of an algorithm; `make` gets the other keys.
    pub fn with_policy_loss(
        mut self,
        name: &str,
        make: impl Fn(Table) -> Result<Box<dyn PolicyLoss>, PartError> + Send + Sync + 'static,
    ) -> Self {
        self.doors.algorithm.add_loss(name, Arc::new(make));
        self
    }

    /// Brings an engine: `[engine] kind = "custom", name = "NAME"`; `make` gets its `settings`.
    pub fn with_engine(
        mut self,
        name: &str,
        make: impl Fn(EngineContext<'_>, Table) -> Result<Box<dyn RolloutEngine<Policy<I>>>, PartError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.doors.engines.insert(name.to_owned());
        self.engines.insert(name.to_owned(), Arc::new(make));
        self
    }

    /// Brings an environment: `[environment] kind = "custom", name = "NAME"`; `make` gets its `settings`.
    pub fn with_environment(
        mut self,
        name: &str,
        make: impl Fn(Table) -> Result<Box<dyn EnvironmentFactory>, PartError> + Send + Sync + 'static,
    ) -> Self {
        self.doors.environments.insert(name.to_owned(), Arc::new(make));
        self
    }

    /// Brings a source of rows: `[data] source = { kind = "custom", name = "NAME" }`; `make` gets its `settings`.
    pub fn with_source(
        mut self,
        name: &str,
        make: impl Fn(Table) -> Result<Box<dyn RowSource>, PartError> + Send + Sync + 'static,
    ) -> Self {
        self.doors.sources.insert(name.to_owned(), Arc::new(make));
        self
    }

    /// Brings a tool: `{ kind = "custom", name = "NAME" }` among the `tools` of an `[environment]` of kind `tools`; `make` gets its
    /// `settings`.
    pub fn with_tool(
        mut self,
        name: &str,
        make: impl Fn(Table) -> Result<Box<dyn Tool>, PartError> + Send + Sync + 'static,
    ) -> Self {
        self.doors.tools.insert(name.to_owned(), Arc::new(make));
        self
    }

    /// Checks every setting of the recipe, and that the program brings what it names.
    ///
    /// # Errors
    /// As [`Recipe::check`].
    pub fn check(&self) -> Result<(), Error> {
        self.recipe.check_with(&self.doors)
    }

    /// Predicts what the run takes.
    ///
    /// # Errors
    /// As [`plan`](crate::plan).
    pub fn plan(&self, options: &PlanOptions) -> Result<Plan, Error> {
        plan_with(&self.recipe, options, &self.doors)
    }

    /// Evaluates a model on a split, with what the program brings; a custom engine is not asked. A model of a run is
    /// evaluated as its own recipe says where the options name none. `warn` hears what the user should know about the data.
    ///
    /// # Errors
    /// As [`evaluate_checkpoint`](crate::evaluate_checkpoint).
    pub fn evaluate(&self, options: &EvalOptions, warn: &mut dyn FnMut(&str)) -> Result<EvalSummary, Error> {
        let open =
            |model: &Path, adapter: Option<&Path>, device: &Device| (self.open)(model, adapter, device);
        evaluate_with(options, &self.doors, &open, warn)
    }

    /// Trains, writing everything into the run's folder, which no other process may use meanwhile.
    ///
    /// A run that is resumed goes on from its newest checkpoint that can be read, with its own recipe, seed and rows; the
    /// settings in [`RESUMABLE`](crate::RESUMABLE) may differ.
    ///
    /// # Errors
    /// Before anything runs if recipe, data or device are unusable or the folder is taken; later if a medium is broken,
    /// the disk is full, the loss is not finite or the run is told to stop. What was written until then is whole, the error
    /// says which checkpoint stands, and the run can be resumed.
    pub fn train(&self, observer: &mut dyn Observer) -> Result<Outcome, Error> {
        let Self { recipe, options, doors, .. } = self;
        let settings = recipe.checked(doors)?;
        // A run's own recipe holds every default, read or not.
        if options.resume.is_none() {
            recipe.check_with(doors)?;
        }
        if i64::try_from(options.seed).is_err() {
            let reason = format!("seed: expected at most {}, got {}", i64::MAX, options.seed);
            return Err(Error::Recipe { name: recipe.name().to_owned(), reason });
        }
        let chosen = choose_device(&options.device)?;
        let device = open_device_with(&chosen.name, settings.precision)?;
        let reopened = match (&options.resume, &options.out) {
            (Some(folder), _) => {
                let reopened = RunFolder::reopen(folder)?;
                check_settings(folder, recipe.name(), &settings, options.seed)?;
                Some(reopened)
            }
            (None, out) => {
                out.as_deref().map_or(Ok(()), refuse_taken)?;
                None
            }
        };
        let rewards = Rewards::make(&settings.reward, doors).map_err(|fault| recipe.refused(&fault))?;
        let prepared = prepare(settings, (&rewards, doors), options.seed)?;
        prepared.warnings.iter().try_for_each(|warning| observer.on_warning(warning))?;
        check_media(&prepared)?;
        let engine = self.engine(&prepared)?;
        let frozen = Frozen::new(&prepared.settings.model.freeze, &prepared.opened.config);
        let from = (&prepared.settings.model, options.seed);
        let model = (self.policy)(&prepared.opened, from, &device.autodiff())?;
        let model = match frozen.holds_towers(&prepared.opened.config) {
            true => model.with_feature_cache(FEATURE_BYTES),
            false => model,
        };
        let reward = rewards.sum(&CausalLm::device(&model).without_autodiff())?;
        let execution = Execution {
            recipe,
            options,
            doors,
            device: chosen.name,
            prepared: &prepared,
            reward: &reward,
            engine: engine.as_ref(),
            episodes: prepared.environments.as_ref().map(Environments::rules),
        };
        execution.execute(model, reopened, observer)
    }

    /// The engine that the recipe names.
    fn engine(&self, prepared: &Prepared) -> Result<Box<dyn RolloutEngine<Policy<I>>>, Error> {
        let stop = self.options.stop.clone();
        match &prepared.settings.engine {
            EngineKind::Local(_) => {
                let mut engine = local_engine(prepared.task.tokenizer());
                engine.interrupt = Some(stop);
                Ok(Box::new(engine))
            }
            EngineKind::Custom(CustomEngine { name, settings }) => {
                let refused = |fault: Fault| self.recipe.refused(&fault.below("engine"));
                let make = brought(&self.engines, "engine", name).map_err(refused)?;
                let context = EngineContext { tokenizer: prepared.task.tokenizer(), stop };
                let made = make(context, settings.clone());
                made.map_err(|error| refused(Fault::at("settings", error.to_string())))
            }
        }
    }
}

/// Trains a recipe: a [`Run`] that brings nothing along.
///
/// # Errors
/// As [`Run::train`].
pub fn train(recipe: &Recipe, options: &TrainOptions, observer: &mut dyn Observer) -> Result<Outcome, Error> {
    Run::new(recipe.clone()).with_options(options.clone()).train(observer)
}
