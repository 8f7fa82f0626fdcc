//! Runs a recipe from the first row to the report.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use kyoka_core::{CausalLm, RolloutEngine};
use kyoka_trainer::{
    AdamWConfig, CheckpointStore, EvalReport, EvalSummary, Evaluation, Observer, PreferenceStage,
    RewardModelStage, RlStage, Session, SftStage, Stage, StepReport, TrainError, TrainableFn, evaluate,
    load_weights,
};
use serde_json::json;

use crate::{
    Error, Policy, Recipe,
    device::meant,
    evaluating::locate,
    freezing::Frozen,
    open_device_with,
    preparing::{Prepared, prepare},
    recipe::{Settings, limited},
    run::{RunLog, RunSummary, peak_rss_mb, write_report},
};

/// What a user decides besides the recipe.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Seed of weights, order, augmentation and sampling.
    pub seed: u64,
    /// Folder of the run; `runs/<recipe>-<seed>` (numbered if taken) when not given.
    pub out: Option<PathBuf>,
    /// Device name, see [`open_device`](crate::open_device).
    pub device: String,
    /// Folder of a run to go on with.
    pub resume: Option<PathBuf>,
    /// Set from outside to stop after the step under way.
    pub stop: Arc<AtomicBool>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self { seed: 1, out: None, device: "auto".to_owned(), resume: None, stop: Arc::default() }
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

/// Trains a recipe, writing everything into the run's folder.
///
/// # Errors
/// Before anything runs if recipe, data or device are unusable; later if a medium is broken, the disk is full or the
/// loss is not finite. What was written until then is whole, and the run can be resumed.
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
    let device = open_device_with(&options.device, settings.precision)?;
    let run_folder = match &options.resume {
        Some(folder) => folder.clone(),
        None => new_run_folder(recipe, options)?,
    };
    if options.resume.is_some() {
        refuse_other_recipe(&run_folder, recipe.name(), &settings, options.seed)?;
    }
    let prepared = prepare(settings, options.seed)?;
    prepared.warnings.iter().try_for_each(|warning| observer.on_warning(warning))?;
    let run = Run { recipe, options, run_folder: &run_folder, prepared: &prepared };
    let frozen = Frozen::new(&prepared.settings.model.freeze, &prepared.opened.config);
    let model = started(prepared.opened.policy(options.seed, &device.autodiff())?, &prepared)?;
    let model = match frozen.holds_towers(&prepared.opened.config) {
        true => model.with_feature_cache(FEATURE_BYTES),
        false => model,
    };
    run.execute(model, observer)
}

/// The policy that the recipe starts from: fresh, or with the weights of a checkpoint.
fn started(fresh: Policy, prepared: &Prepared) -> Result<Policy, Error> {
    let Some(start) = &prepared.settings.model.start else { return Ok(fresh) };
    let (_, checkpoint) = locate(start)?;
    let texts = prepared.opened.files.iter().filter(|(name, _)| name.ends_with("tokenizer.json"));
    for (name, own) in texts {
        let path = checkpoint.join(name);
        let tokenizer = fs::read(&path).map_err(|error| Error::file(&path, error))?;
        if tokenizer != *own {
            return Err(Error::file(path, "expected the recipe's tokenizer, got another one"));
        }
    }
    Ok(load_weights(&checkpoint.join("model.safetensors"), fresh)?)
}

fn new_run_folder(recipe: &Recipe, options: &TrainOptions) -> Result<PathBuf, Error> {
    if let Some(out) = &options.out {
        if out.join("config.toml").exists() {
            return Err(Error::file(out, "holds a run already; name another folder or use --resume"));
        }
        return Ok(out.clone());
    }
    let base = Path::new("runs").join(format!("{}-seed{}", recipe.name(), options.seed));
    let numbered = (2..).map(|number| PathBuf::from(format!("{}-{number}", base.display())));
    let mut candidates = std::iter::once(base.clone()).chain(numbered);
    Ok(candidates.find(|folder| !folder.exists()).expect("there is always another number"))
}

/// A run goes on with its own recipe and seed only.
fn refuse_other_recipe(folder: &Path, recipe: &str, settings: &Settings, seed: u64) -> Result<(), Error> {
    let path = folder.join("config.toml");
    let text = fs::read_to_string(&path).map_err(|error| Error::file(&path, error))?;
    let old = text.parse::<toml::Table>().map_err(|error| Error::file(&path, error))?;
    let new = config_text(recipe, settings, seed).parse::<toml::Table>().expect("settings are valid TOML");
    let mut fields = Vec::new();
    differing("", &toml::Value::Table(old), &toml::Value::Table(new), &mut fields);
    if fields.is_empty() {
        return Ok(());
    }
    Err(Error::OtherRecipe { path: folder.to_owned(), fields: fields.join(", ") })
}

fn differing(path: &str, old: &toml::Value, new: &toml::Value, fields: &mut Vec<String>) {
    match (old, new) {
        (toml::Value::Table(old), toml::Value::Table(new)) => {
            let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            let none = toml::Value::String("(not set)".to_owned());
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differing(&path, old.get(key).unwrap_or(&none), new.get(key).unwrap_or(&none), fields);
            }
        }
        _ if old != new => fields.push(format!("{path} ({old} then, {new} now)")),
        _ => {}
    }
}

/// `config.toml`: recipe name, seed and settings.
fn config_text(recipe: &str, settings: &Settings, seed: u64) -> String {
    let mut head = toml::Table::new();
    head.insert("recipe".to_owned(), recipe.into());
    head.insert("seed".to_owned(), toml::Value::Integer(seed as i64));
    format!("{head}{}", settings.to_toml())
}

struct Run<'a> {
    recipe: &'a Recipe,
    options: &'a TrainOptions,
    run_folder: &'a Path,
    prepared: &'a Prepared,
}

impl Run<'_> {
    fn execute(&self, model: Policy, observer: &mut dyn Observer) -> Result<Outcome, Error> {
        let Prepared { settings, task, splits, pairs, .. } = self.prepared;
        let reward = settings.reward(&model.device().without_autodiff())?;
        let engine = |policy: Policy| -> Box<dyn RolloutEngine> { Box::new(task.engine(policy)) };
        let seed = self.options.seed;
        let mut stages: Vec<Box<dyn Stage<Policy> + '_>> = Vec::new();
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
            stages.push(Box::new(RlStage::new(
                config,
                task,
                (&reward, &engine),
                &splits[&config.data],
                seed,
            )?));
        }
        fs::create_dir_all(self.run_folder).map_err(|error| Error::file(self.run_folder, error))?;
        if self.options.resume.is_none() {
            let text = config_text(self.recipe.name(), settings, seed);
            write_whole(&self.run_folder.join("config.toml"), &text)?;
        }
        let mut session = Session::new(model, seed, self.checkpoint_store());
        session.stop = self.options.stop.clone();
        session.trainable = self.trainable();
        session.gradient_checkpointing = settings.gradient_checkpointing;
        if self.options.resume.is_some() {
            session.resume(|stage| {
                stages.get(stage).map_or_else(AdamWConfig::default, |s| s.optimization().1)
            })?;
        }
        let names: Vec<&'static str> = stages.iter().map(|stage| stage.name()).collect();
        let resume_from =
            self.options.resume.is_some().then_some((session.progress.stage, session.progress.step));
        let mut log = RunLog::open(self.run_folder, resume_from, &names, observer)?;
        let evaluation = Evaluation {
            task,
            reward: &reward,
            engine: &engine,
            max_new_tokens: settings.eval.max_new_tokens,
            stop: settings.stop_texts(),
        };
        let evaluate_splits = |policy: &Policy| {
            let report = |split: &String| {
                evaluate(policy, &evaluation, split, limited(&splits[split], settings.eval.max_rows))
            };
            settings.eval.splits.iter().map(report).collect::<Result<Vec<EvalReport>, TrainError>>()
        };
        for (index, stage) in stages.iter_mut().enumerate() {
            log.begin_stage(stage.total_steps());
            session.run_stage(index, stage.as_mut(), &mut log, &evaluate_splits)?;
        }
        drop(log);
        let summary = self.summary(&session, &names)?;
        write_report(self.run_folder)?;
        Ok(Outcome { run_folder: self.run_folder.to_owned(), summary })
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

    fn checkpoint_store(&self) -> CheckpointStore {
        let opened = &self.prepared.opened;
        let config = serde_json::to_vec_pretty(&opened.config).expect("sizes and names serialise");
        let mut extra = opened.files.clone();
        extra.push(("config.json".to_owned(), config));
        CheckpointStore::new(self.run_folder.join("checkpoints"), self.prepared.settings.checkpoints, extra)
    }

    /// Writes `summary.json` from the run's log and state.
    fn summary(&self, session: &Session<Policy>, stages: &[&'static str]) -> Result<RunSummary, Error> {
        let path = self.run_folder.join("metrics.jsonl");
        let text = fs::read_to_string(&path).map_err(|error| Error::file(&path, error))?;
        let mut summary = RunSummary {
            recipe: self.recipe.name().to_owned(),
            seed: self.options.seed,
            device: meant(&self.options.device).to_owned(),
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
            let moment = format!("after_{}", line["stage"].as_str().unwrap_or_default());
            let summaries: Vec<EvalSummary> =
                serde_json::from_value(line["eval"].clone()).unwrap_or_default();
            for split in summaries {
                let mut means: BTreeMap<String, f64> = split.parts.into_iter().collect();
                means.insert("rows".to_owned(), split.num_rows as f64);
                summary.eval.entry(split.split).or_default().insert(moment.clone(), means);
            }
        }
        let path = self.run_folder.join("summary.json");
        let text = serde_json::to_string_pretty(&json!(summary)).expect("numbers and names serialise");
        write_whole(&path, &text)?;
        Ok(summary)
    }
}

/// Writes a file aside and renames it into place.
fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let aside = path.with_extension("tmp");
    let written = fs::write(&aside, text).and_then(|()| fs::rename(&aside, path));
    written.map_err(|error| Error::file(path, error))
}
