//! Runs a recipe from the first row to the report.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kyoka_core::{RewardFn, RolloutEngine};
use kyoka_reward::WeightedSum;
use kyoka_trainer::{
    AdamWConfig, CheckpointStore, EvalReport, EvalRules, EvalSummary, Evaluation, Observer, PreferenceStage,
    Progress, Resumed, RewardModelStage, RlStage, Session, SftStage, Stage, StepReport, TrainError,
    TrainableFn, evaluate,
};
use serde_json::json;

use crate::{
    Error, Policy, Recipe, choose_device,
    freezing::Frozen,
    open_device_with,
    preparing::{Prepared, check_media, prepare},
    recipe::limited,
    run::{
        LogPlace, RunFolder, RunLog, RunSummary, check_data, check_settings, config_text, data_path,
        data_prints, peak_rss_mb, refuse_taken, write_report,
    },
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
    fn on_eval(&mut self, _: &'static str, _: usize, _: &[EvalReport]) -> Result<(), TrainError> {
        Ok(())
    }
}

/// Trains a recipe, writing everything into the run's folder, which no other process may use meanwhile.
///
/// A run that is resumed goes on from its newest checkpoint that can be read, with its own recipe, seed and rows; the
/// settings in [`RESUMABLE`](crate::RESUMABLE) may differ.
///
/// # Errors
/// Before anything runs if recipe, data or device are unusable or the folder is taken; later if a medium is broken, the
/// disk is full, the loss is not finite or the run is told to stop. What was written until then is whole, the error says
/// which checkpoint stands, and the run can be resumed.
pub fn train(recipe: &Recipe, options: &TrainOptions, observer: &mut dyn Observer) -> Result<Outcome, Error> {
    let settings = recipe.checked()?;
    // A run's own recipe holds every default, read or not.
    if options.resume.is_none() {
        recipe.check()?;
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
    let prepared = prepare(settings, options.seed)?;
    prepared.warnings.iter().try_for_each(|warning| observer.on_warning(warning))?;
    check_media(&prepared)?;
    let frozen = Frozen::new(&prepared.settings.model.freeze, &prepared.opened.config);
    let model = prepared.opened.policy(options.seed, &device.autodiff())?;
    let model = match frozen.holds_towers(&prepared.opened.config) {
        true => model.with_feature_cache(FEATURE_BYTES),
        false => model,
    };
    let reward = prepared.settings.reward(&kyoka_core::CausalLm::device(&model).without_autodiff())?;
    let run = Run { recipe, options, device: chosen.name, prepared: &prepared, reward: &reward };
    run.execute(model, reopened, observer)
}

struct Run<'a> {
    recipe: &'a Recipe,
    options: &'a TrainOptions,
    /// The device's name.
    device: String,
    prepared: &'a Prepared,
    reward: &'a WeightedSum,
}

/// Makes an engine that gives up sampling when the run is told to stop.
type Engine<'a> = &'a dyn Fn(Policy) -> Box<dyn RolloutEngine>;

impl Run<'_> {
    fn execute(
        &self,
        model: Policy,
        reopened: Option<RunFolder>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, Error> {
        let Prepared { settings, task, splits, .. } = self.prepared;
        let engine = |policy: Policy| -> Box<dyn RolloutEngine> {
            let mut engine = task.engine(policy);
            engine.interrupt = Some(self.options.stop.clone());
            Box::new(engine)
        };
        let rules = settings.eval_rules(self.reward);
        let rules = rules.map_err(|fault| self.recipe.refused(&fault))?;
        let mut stages = self.stages(&engine)?;
        let resuming = reopened.is_some();
        let folder = self.claim(reopened)?;
        let (mut session, resumed) = self.session(model, &folder.path, (rules, resuming), &stages)?;
        let names: Vec<&'static str> = stages.iter().map(|stage| stage.name()).collect();
        let at_end = settings.eval.final_as_text();
        let place = resuming.then(|| log_place(&session, &at_end));
        let mut log = RunLog::open(&folder.path, place, &names, observer)?;
        warn(resumed.as_ref(), &session.progress, &mut log)?;
        let evaluation = Evaluation {
            task,
            reward: self.reward,
            engine: &engine,
            sampling: settings.eval.sampling(settings.stop_texts()),
            num_samples: settings.eval.samples,
            seed: self.options.seed,
            interrupt: Some(&self.options.stop),
        };
        let reports = |policy: &Policy, names: &[String]| {
            let report = |split: &String| {
                evaluate(policy, &evaluation, split, limited(&splits[split], settings.eval.max_rows))
            };
            names.iter().map(report).collect::<Result<Vec<EvalReport>, TrainError>>()
        };
        for (index, stage) in stages.iter_mut().enumerate() {
            log.begin_stage(stage.total_steps());
            session.run_stage(index, stage.as_mut(), &mut log, &|policy| {
                reports(policy, &settings.eval.splits)
            })?;
        }
        let unwatched: Vec<String> = settings.eval.unwatched().cloned().collect();
        if let (Some(last), false) = (names.last(), unwatched.is_empty()) {
            log.at_end = true;
            let evaluate = |policy: &Policy| reports(policy, &unwatched);
            session.evaluate_at_end((last, &at_end), &mut log, &evaluate)?;
        }
        drop(log);
        let summary = self.summary(&folder.path, &session, &names)?;
        write_report(&folder.path)?;
        Ok(Outcome { run_folder: folder.path.clone(), summary })
    }

    /// The session of a new run, or of one that goes on with what it goes on from.
    fn session(
        &self,
        model: Policy,
        run_folder: &Path,
        (rules, resuming): (EvalRules, bool),
        stages: &[Box<dyn Stage<Policy> + '_>],
    ) -> Result<(Session<Policy>, Option<Resumed>), Error> {
        let mut session = Session::new(model, self.options.seed, self.checkpoint_store(run_folder));
        session.stop = self.options.stop.clone();
        session.trainable = self.trainable();
        session.gradient_checkpointing = self.prepared.settings.gradient_checkpointing;
        session.evaluation = rules;
        let settings =
            |stage: usize| stages.get(stage).map_or_else(AdamWConfig::default, |s| s.optimization().1);
        let resumed = if resuming { session.resume(settings)? } else { None };
        Ok((session, resumed))
    }

    fn stages<'s>(&'s self, engine: Engine<'s>) -> Result<Vec<Box<dyn Stage<Policy> + 's>>, Error> {
        let Prepared { settings, task, splits, pairs, .. } = self.prepared;
        let seed = self.options.seed;
        let mut stages: Vec<Box<dyn Stage<Policy> + 's>> = Vec::new();
        for (name, config) in [("sft", &settings.sft), ("sft_continued", &settings.sft_continued)] {
            if let Some(config) = config {
                stages.push(Box::new(SftStage::new(name, config, task, &splits[&config.data], seed)?));
            }
        }
        if let Some(config) = &settings.preference {
            stages.push(Box::new(PreferenceStage::new(config, task, &pairs[&config.data], seed)?));
        }
        if let Some(config) = &settings.reward_model {
            stages.push(Box::new(RewardModelStage::new(config, task, &pairs[&config.data], seed)?));
        }
        if let Some(config) = &settings.rl {
            let reward: &dyn RewardFn = self.reward;
            stages.push(Box::new(RlStage::new(config, task, (reward, engine), &splits[&config.data], seed)?));
        }
        Ok(stages)
    }

    /// The run's folder, new or given back, with what decides the run written into it.
    fn claim(&self, reopened: Option<RunFolder>) -> Result<RunFolder, Error> {
        let prints = data_prints(self.prepared);
        let (folder, prints) = match reopened {
            Some(folder) => {
                let prints = check_data(&folder.path, prints)?;
                (folder, prints)
            }
            None => {
                let base = format!("{}-seed{}", self.recipe.name(), self.options.seed);
                let folder = RunFolder::create(self.options.out.as_deref(), &Path::new("runs").join(base))?;
                (folder, prints)
            }
        };
        let text = config_text(self.recipe.name(), &self.prepared.settings, self.options.seed);
        write_whole(&folder.path.join("config.toml"), &text)?;
        let prints = serde_json::to_string_pretty(&prints).expect("names and hashes serialise");
        write_whole(&data_path(&folder.path), &prints)?;
        self.options.started.store(true, Ordering::Relaxed);
        Ok(folder)
    }

    /// Which parameters each stage trains; `None` if all do.
    fn trainable(&self) -> Option<TrainableFn<Policy>> {
        let Prepared { settings, opened, .. } = self.prepared;
        let (model, config) = (settings.model.clone(), opened.config.clone());
        if model.freeze.is_empty() && model.freeze_in.is_empty() && config.adapters.is_none() {
            return None;
        }
        Some(Box::new(move |stage, policy| {
            let further = model.freeze_in.get(stage).cloned().unwrap_or_default();
            Frozen::new(&[model.freeze.clone(), further].concat(), &config).apply(policy)
        }))
    }

    fn checkpoint_store(&self, run_folder: &Path) -> CheckpointStore {
        let opened = &self.prepared.opened;
        let config = serde_json::to_vec_pretty(&opened.config).expect("sizes and names serialise");
        let mut extra = opened.files.clone();
        extra.push(("config.json".to_owned(), config));
        CheckpointStore::new(run_folder.join("checkpoints"), self.prepared.settings.checkpoints, extra)
    }

    /// Writes `summary.json` from the run's log and state.
    fn summary(
        &self,
        run_folder: &Path,
        session: &Session<Policy>,
        stages: &[&'static str],
    ) -> Result<RunSummary, Error> {
        let path = run_folder.join("metrics.jsonl");
        let text = fs::read_to_string(&path).map_err(|error| Error::file(&path, error))?;
        let mut summary = RunSummary {
            recipe: self.recipe.name().to_owned(),
            seed: self.options.seed,
            device: self.device.clone(),
            wall_s: session.progress.elapsed_s,
            rl_steps: if stages.last() == Some(&"rl") { session.progress.step } else { 0 },
            generated_tokens: session.progress.generated_tokens,
            trained_tokens: session.progress.trained_tokens,
            params: burn::module::Module::num_params(&session.model),
            peak_rss_mb: peak_rss_mb(),
            phase_s: session.progress.phase_s.clone(),
            eval: BTreeMap::new(),
        };
        // Later evaluations of a stage replace earlier ones: the last one stands.
        for line in text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
            let moment = match line["step"].as_u64() {
                Some(0) => "at_start".to_owned(),
                _ => format!("after_{}", line["stage"].as_str().unwrap_or_default()),
            };
            let summaries: Vec<EvalSummary> =
                serde_json::from_value(line["eval"].clone()).unwrap_or_default();
            for split in summaries {
                let mut means: BTreeMap<String, f64> = split.parts.into_iter().collect();
                means.insert("rows".to_owned(), split.num_rows as f64);
                summary.eval.entry(split.split).or_default().insert(moment.clone(), means);
            }
        }
        let path = run_folder.join("summary.json");
        let text = serde_json::to_string_pretty(&json!(summary)).expect("numbers and names serialise");
        write_whole(&path, &text)?;
        Ok(summary)
    }
}

/// Where the log of a resumed run goes on; `at_end` are the settings of the evaluation after the last step.
fn log_place(session: &Session<Policy>, at_end: &str) -> LogPlace {
    let Progress { stage, step, evaluation, final_evaluation, .. } = &session.progress;
    let known = evaluation
        .as_ref()
        .is_some_and(|known| known.step == *step && known.settings == session.evaluation.settings);
    LogPlace {
        place: (*stage, *step),
        evaluated: known,
        evaluated_at_end: final_evaluation.as_deref() == Some(at_end),
    }
}

/// Says which checkpoints could not be read.
fn warn(resumed: Option<&Resumed>, progress: &Progress, log: &mut RunLog<'_>) -> Result<(), TrainError> {
    let Some(Resumed { checkpoint, unreadable }) = resumed else { return Ok(()) };
    for (path, error) in unreadable {
        let (path, from) = (path.display(), checkpoint.display());
        log.on_warning(&format!(
            "{path} cannot be read and was renamed to {path}.broken ({error}); the run goes on from {from}, step {}",
            progress.step
        ))?;
    }
    Ok(())
}

/// Writes a file aside and renames it into place.
fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let aside = path.with_extension("tmp");
    let written = fs::write(&aside, text).and_then(|()| fs::rename(&aside, path));
    written.map_err(|error| Error::file(path, error))
}
