//! Runs a recipe from the first row to the report.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use kyoka_core::{Modality, RewardFn, RolloutEngine, Sample};
use kyoka_data::{DataError, ReadOptions, RowFault, read_jsonl};
use kyoka_text::Tokenizer;
use kyoka_trainer::{
    AdamWConfig, CheckpointStore, EvalSummary, Evaluation, Observer, RlStage, SampleRecord, Session,
    SftStage, Stage, StepReport, Task, TrainError, evaluate,
};
use serde_json::json;

use crate::{
    Error, MultimodalTask, Policy, PolicyConfig, Recipe, dataset_folder, load_policy, open_device,
    recipe::Settings,
    run::{RunLog, RunSummary, peak_rss_mb, write_report},
};

/// What a user decides besides the recipe.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Seed of weights, order, augmentation and sampling.
    pub seed: u64,
    /// Folder of the run; `runs/<recipe>-<seed>` (numbered if taken) when not given.
    pub out: Option<PathBuf>,
    /// Device name, see [`open_device`].
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

/// Hears everything and says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Observer for Quiet {
    fn on_step(&mut self, _: &StepReport) -> Result<(), TrainError> {
        Ok(())
    }
    fn on_eval(&mut self, _: &'static str, _: usize, _: &[EvalSummary]) -> Result<(), TrainError> {
        Ok(())
    }
    fn on_warning(&mut self, _: &str) {}
}

/// Everything that is fixed before the first step.
struct Prepared {
    settings: Settings,
    task: MultimodalTask,
    splits: BTreeMap<String, Vec<Sample>>,
    config: PolicyConfig,
    tokenizer_json: Vec<u8>,
}

/// Trains a recipe, writing everything into the run's folder.
///
/// # Errors
/// Before anything runs if recipe, data or device are unusable; later if a medium is broken, the disk is full or the
/// loss is not finite. What was written until then is whole, and the run can be resumed.
pub fn train(recipe: &Recipe, options: &TrainOptions, observer: &mut dyn Observer) -> Result<Outcome, Error> {
    let settings = recipe.settings()?;
    if i64::try_from(options.seed).is_err() {
        let reason = format!("seed: expected at most {}, got {}", i64::MAX, options.seed);
        return Err(Error::Recipe { name: recipe.name().to_owned(), reason });
    }
    let device = open_device(&options.device)?;
    let run_folder = match &options.resume {
        Some(folder) => folder.clone(),
        None => new_run_folder(recipe, options)?,
    };
    if options.resume.is_some() {
        refuse_other_recipe(&run_folder, recipe.name(), &settings, options.seed)?;
    }
    let prepared = prepare(settings, options.seed)?;
    let run = Run { recipe, options, run_folder: &run_folder, prepared: &prepared };
    let model = prepared.config.build(options.seed, &device.autodiff());
    run.execute(model, observer)
}

/// Reads the data, checks every row, and builds the task.
fn prepare(settings: Settings, seed: u64) -> Result<Prepared, Error> {
    let folder = dataset_folder(&settings.data.dataset)?;
    let tokenizer_path = folder.join("tokenizer.json");
    let tokenizer_json = fs::read(&tokenizer_path).map_err(|error| Error::file(&tokenizer_path, error))?;
    let tokenizer = Tokenizer::from_bytes(&tokenizer_json)?;
    let config = PolicyConfig::named(&settings.model.config, tokenizer.vocab_size())?;
    let task = MultimodalTask::new(tokenizer, config.clone(), settings.augment, seed);
    let mut splits = BTreeMap::new();
    let sft = [&settings.sft, &settings.sft_continued].into_iter().flatten().map(|stage| stage.data.as_str());
    let names = sft.chain(settings.rl.iter().map(|rl| rl.data.as_str()));
    for name in names.chain(settings.eval.splits.iter().map(String::as_str)) {
        if !splits.contains_key(name) {
            splits.insert(name.to_owned(), read_split(&folder, name, settings.data.allow_outside)?);
        }
    }
    check_rows(&settings, &task, &splits, config.decoder.max_positions)?;
    Ok(Prepared { settings, task, splits, config, tokenizer_json })
}

/// The rows of `<folder>/<split>.jsonl`.
fn read_split(folder: &Path, split: &str, allow_outside: bool) -> Result<Vec<Sample>, Error> {
    let path = folder.join(format!("{split}.jsonl"));
    if !path.is_file() {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let jsonl = entries.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
        let mut known: Vec<String> =
            jsonl.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect();
        known.sort();
        return Err(Error::UnknownSplit { name: split.to_owned(), path, known: known.join(", ") });
    }
    Ok(read_jsonl(&path, ReadOptions { allow_outside })?)
}

/// Refuses rows that lack what a stage needs or cannot fit the model, before anything runs.
fn check_rows(
    settings: &Settings,
    task: &MultimodalTask,
    splits: &BTreeMap<String, Vec<Sample>>,
    limit: usize,
) -> Result<(), Error> {
    for config in [&settings.sft, &settings.sft_continued].into_iter().flatten() {
        let fault = |sample: &Sample| match (task.target(sample), task.prompt_len(sample)) {
            (Err(error), _) => Some(("completion", error.to_string())),
            (_, Err(error)) => Some(("prompt", error.to_string())),
            (Ok(target), Ok(prompt)) => {
                too_long(prompt, target.len(), limit).map(|message| ("completion", message))
            }
        };
        refuse_faults(&splits[&config.data], fault)?;
    }
    let judged = settings.rl.iter().map(|rl| (&rl.data, rl.sampling.max_new_tokens));
    let judged = judged.chain(settings.eval.splits.iter().map(|split| (split, settings.eval.max_new_tokens)));
    for (split, new_tokens) in judged {
        check_lengths(task, &splits[split], new_tokens, limit)?;
        refuse_faults(&splits[split], |sample| {
            let missing = settings.reward.iter().find_map(|reward| reward.missing_field(sample));
            missing.map(|(field, reward)| (field, format!("missing, which the reward {reward} needs")))
        })?;
    }
    Ok(())
}

fn too_long(prompt: usize, new_tokens: usize, limit: usize) -> Option<String> {
    let fits = prompt + new_tokens <= limit;
    (!fits).then(|| format!("{prompt} tokens and {new_tokens} new ones exceed the model's {limit} positions"))
}

/// Refuses rows whose prompt and completion cannot fit the model.
fn check_lengths(
    task: &MultimodalTask,
    samples: &[Sample],
    new_tokens: usize,
    limit: usize,
) -> Result<(), Error> {
    refuse_faults(samples, |sample| match task.prompt_len(sample) {
        Ok(prompt) => too_long(prompt, new_tokens, limit).map(|message| ("prompt", message)),
        Err(error) => Some(("prompt", error.to_string())),
    })
}

/// Lists every row in which `fault` finds something, with its field.
fn refuse_faults(
    samples: &[Sample],
    fault: impl Fn(&Sample) -> Option<(&'static str, String)>,
) -> Result<(), Error> {
    let faults: Vec<RowFault> = samples
        .iter()
        .filter_map(|sample| {
            let (field, message) = fault(sample)?;
            let (file, line) = sample.origin.clone();
            Some(RowFault { file, line, field: Some(field.to_owned()), message })
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(DataError::Rows(faults).into()) }
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
        let Prepared { settings, task, splits, .. } = self.prepared;
        let reward = settings.reward();
        let engine = |policy: Policy| -> Box<dyn RolloutEngine> { Box::new(task.engine(policy)) };
        let seed = self.options.seed;
        let mut stages: Vec<Box<dyn Stage<Policy> + '_>> = Vec::new();
        for (name, config) in [("sft", &settings.sft), ("sft_continued", &settings.sft_continued)] {
            if let Some(config) = config {
                stages.push(Box::new(SftStage::new(name, config, task, &splits[&config.data], seed)?));
            }
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
        let mut records: Vec<(String, Vec<SampleRecord>)> = Vec::new();
        for (index, stage) in stages.iter_mut().enumerate() {
            log.begin_stage(stage.total_steps());
            let mut evaluate = |policy: &Policy| {
                records.clear();
                let mut summaries = Vec::with_capacity(settings.eval.splits.len());
                for split in &settings.eval.splits {
                    let samples = limited(&splits[split], settings.eval.max_rows);
                    let (summary, completions) = evaluate(policy, &evaluation, split, samples)?;
                    summaries.push(summary);
                    records.push((split.clone(), completions));
                }
                Ok(summaries)
            };
            session.run_stage(index, stage.as_mut(), &mut log, &mut evaluate)?;
            for (split, completions) in records.drain(..) {
                let place = (stage.name(), stage.total_steps());
                log.eval_samples(place, &split, &completions[..completions.len().min(24)])?;
            }
        }
        drop(log);
        let summary = self.summary(&session, &names)?;
        write_report(self.run_folder)?;
        Ok(Outcome { run_folder: self.run_folder.to_owned(), summary })
    }

    fn checkpoint_store(&self) -> CheckpointStore {
        let config = serde_json::to_vec_pretty(&self.prepared.config).expect("sizes and names serialise");
        let extra = vec![
            ("config.json".to_owned(), config),
            ("tokenizer.json".to_owned(), self.prepared.tokenizer_json.clone()),
        ];
        CheckpointStore::new(self.run_folder.join("checkpoints"), self.prepared.settings.checkpoints, extra)
    }

    /// Writes `summary.json` from the run's log and state.
    fn summary(&self, session: &Session<Policy>, stages: &[&'static str]) -> Result<RunSummary, Error> {
        let path = self.run_folder.join("metrics.jsonl");
        let text = fs::read_to_string(&path).map_err(|error| Error::file(&path, error))?;
        let mut summary = RunSummary {
            recipe: self.recipe.name().to_owned(),
            seed: self.options.seed,
            device: self.options.device.clone(),
            wall_s: session.progress.elapsed_s,
            rl_steps: if stages.last() == Some(&"rl") { session.progress.step } else { 0 },
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

fn limited(samples: &[Sample], max_rows: usize) -> &[Sample] {
    if max_rows == 0 { samples } else { &samples[..samples.len().min(max_rows)] }
}

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

/// Evaluates a checkpoint on a split of the run's dataset; a run's folder stands for its newest checkpoint.
///
/// # Errors
/// If the folder holds no run or checkpoint, or the split does not exist.
pub fn evaluate_checkpoint(options: &EvalOptions) -> Result<EvalSummary, Error> {
    let device = open_device(&options.device)?;
    let (run_folder, checkpoint) = locate(&options.folder)?;
    let settings = Recipe::of_run(&run_folder)?.0.settings()?;
    let (policy, config, tokenizer) = load_policy(&checkpoint, &device)?;
    let folder = dataset_folder(&settings.data.dataset)?;
    let samples = read_split(&folder, &options.split, settings.data.allow_outside)?;
    let task = MultimodalTask::new(tokenizer, config.clone(), settings.augment, 0).with_blank(options.blank);
    check_lengths(&task, &samples, settings.eval.max_new_tokens, config.decoder.max_positions)?;
    let reward = settings.reward();
    let engine = |policy: Policy| -> Box<dyn RolloutEngine> { Box::new(task.engine(policy)) };
    let evaluation = Evaluation {
        task: &task,
        reward: &reward as &dyn RewardFn,
        engine: &engine,
        max_new_tokens: settings.eval.max_new_tokens,
        stop: settings.stop_texts(),
    };
    let samples = limited(&samples, options.max_rows);
    Ok(evaluate(&policy, &evaluation, &options.split, samples)?.0)
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
