//! A run under way: its folder, its stages in turn, its evaluations and its summary.

use std::{collections::BTreeMap, fs, path::Path, sync::atomic::Ordering};

use kyoka_core::{RewardFn, RolloutEngine};
use kyoka_reward::WeightedSum;
use kyoka_trainer::{
    AdamWConfig, CheckpointStore, EpisodeRules, EvalReport, EvalRules, EvalSummary, Evaluation,
    JudgementKind, Judgements, Observer, PreferenceStage, Progress, Resumed, RewardModelStage, RlParts,
    RlStage, Session, SftStage, Stage, StageKind, TrainError, TrainState, TrainableFn, TrainableLm,
    UnpairedStage, evaluate,
};
use serde_json::json;

use crate::{
    Error, Outcome, Recipe, TrainOptions,
    doors::Doors,
    freezing::Frozen,
    preparing::Prepared,
    recipe::limited,
    run::{
        LogPlace, RunFolder, RunLog, RunSummary, check_data, config_text, data_path, data_prints,
        peak_rss_mb, write_report,
    },
    stages::{StageConfig, StageSettings},
};

/// A run under way.
pub(crate) struct Execution<'a, M> {
    pub recipe: &'a Recipe,
    pub options: &'a TrainOptions,
    pub doors: &'a Doors,
    /// The device's name.
    pub device: String,
    pub prepared: &'a Prepared,
    pub reward: &'a WeightedSum,
    pub engine: &'a dyn RolloutEngine<M>,
    /// What answers the policy between its turns.
    pub episodes: Option<EpisodeRules<'a>>,
}

impl<M: TrainableLm> Execution<'_, M> {
    /// Trains, from where a reopened folder stands or from the start.
    pub fn execute(
        &self,
        model: M,
        reopened: Option<RunFolder>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, Error> {
        let Prepared { settings, task, splits, .. } = self.prepared;
        let rules = settings.eval_rules(self.reward);
        let rules = rules.map_err(|fault| self.recipe.refused(&fault))?;
        let mut stages = self.stages()?;
        let resuming = reopened.is_some();
        let folder = self.claim(reopened)?;
        let (mut session, resumed) = self.session(model, &folder.path, (rules, resuming), &stages)?;
        let names: Vec<String> = stages.iter().map(|stage| stage.name().to_owned()).collect();
        let at_end = settings.eval.final_as_text();
        let place = resuming.then(|| log_place(&session, &at_end));
        let mut log = RunLog::open(&folder.path, place, &names, observer)?;
        warn(resumed.as_ref(), &session.state.progress, &mut log)?;
        let evaluation = Evaluation {
            task,
            reward: self.reward,
            engine: self.engine,
            episodes: self.episodes,
            sampling: settings.eval.sampling(settings.stop_texts()),
            num_samples: settings.eval.samples,
            seed: self.options.seed,
            interrupt: Some(&self.options.stop),
        };
        let reports = |state: &TrainState<M>, names: &[String]| {
            let policy = (state.progress.policy_version, &state.model);
            let report = |split: &String| {
                evaluate(policy, &evaluation, split, limited(&splits[split], settings.eval.max_rows))
            };
            names.iter().map(report).collect::<Result<Vec<EvalReport>, TrainError>>()
        };
        for (index, stage) in stages.iter_mut().enumerate() {
            log.begin_stage(stage.total_steps());
            session
                .run_stage(index, stage.as_mut(), &mut log, &|state| reports(state, &settings.eval.splits))?;
        }
        let unwatched: Vec<String> = settings.eval.unwatched().cloned().collect();
        if let (Some(last), false) = (names.last(), unwatched.is_empty()) {
            log.at_end = true;
            let evaluate = |state: &TrainState<M>| reports(state, &unwatched);
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
        model: M,
        run_folder: &Path,
        (rules, resuming): (EvalRules, bool),
        stages: &[Box<dyn Stage<M> + '_>],
    ) -> Result<(Session<M>, Option<Resumed>), Error> {
        let mut session = Session::new(model, self.options.seed, self.checkpoint_store(run_folder));
        session.stop = self.options.stop.clone();
        session.trainable = self.trainable();
        session.state.gradient_checkpointing = self.prepared.settings.gradient_checkpointing;
        session.evaluation = rules;
        let settings =
            |stage: usize| stages.get(stage).map_or_else(AdamWConfig::default, |s| s.optimization().1);
        let resumed = if resuming { session.resume(settings)? } else { None };
        Ok((session, resumed))
    }

    fn stages<'s>(&'s self) -> Result<Vec<Box<dyn Stage<M> + 's>>, Error> {
        let Prepared { settings, task, splits, pairs, .. } = self.prepared;
        let seed = self.options.seed;
        let mut stages: Vec<Box<dyn Stage<M> + 's>> = Vec::new();
        for StageConfig { name, settings } in &settings.stage {
            stages.push(match settings {
                StageSettings::Sft(config) => {
                    Box::new(SftStage::new(name, config, task, &splits[&config.data], seed)?)
                }
                StageSettings::Preference(config) => {
                    Box::new(PreferenceStage::new(name, config, task, &pairs[&config.data], seed)?)
                }
                StageSettings::UnpairedPreference(config) => {
                    Box::new(UnpairedStage::new(name, config, task, &splits[&config.data], seed)?)
                }
                StageSettings::RewardModel(config) => {
                    let judgements = |split: &String| match config.rows {
                        JudgementKind::Pairs => Judgements::Pairs(&pairs[split]),
                        JudgementKind::Labels | JudgementKind::Scores => Judgements::Single(&splits[split]),
                    };
                    let rows = (judgements(&config.data), config.held_out.as_ref().map(judgements));
                    Box::new(RewardModelStage::new(name, config, task, rows, seed)?)
                }
                StageSettings::Rl(config) => {
                    let foreign = !self.prepared.settings.engine.is_local();
                    let parts = self.doors.algorithm.clone().with_foreign_sampler(foreign);
                    let algorithm = config.algorithm.build_with(config.group_size, &parts);
                    let algorithm = algorithm.map_err(TrainError::algorithm(name))?;
                    let (reward, samples) = (self.reward as &dyn RewardFn, splits[&config.data].as_slice());
                    let (engine, episodes) = (self.engine, self.episodes);
                    let parts = RlParts { algorithm, task, reward, engine, episodes, samples };
                    let earlier = stages.iter().filter(|stage| stage.kind() == StageKind::Rl).count() as u64;
                    Box::new(
                        RlStage::new(name, config, parts, seed)?
                            .behind(earlier, seed)
                            .interrupted_by(&self.options.stop),
                    )
                }
            });
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
    fn trainable(&self) -> Option<TrainableFn<M>> {
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

    /// Steps of the stages of reinforcement learning that are done.
    fn rl_steps(&self, progress: &Progress) -> usize {
        let taken = progress.steps_before.iter().copied().chain([progress.step]);
        let stages = self.prepared.settings.stage.iter().zip(taken);
        stages.filter(|(stage, _)| stage.rl().is_some()).map(|(_, steps)| steps).sum()
    }

    /// Writes `summary.json` from the run's log and state.
    fn summary(
        &self,
        run_folder: &Path,
        session: &Session<M>,
        stages: &[String],
    ) -> Result<RunSummary, Error> {
        let path = run_folder.join("metrics.jsonl");
        let text = fs::read_to_string(&path).map_err(|error| Error::file(&path, error))?;
        let progress = &session.state.progress;
        let mut summary = RunSummary {
            recipe: self.recipe.name().to_owned(),
            seed: self.options.seed,
            device: self.device.clone(),
            wall_s: progress.elapsed_s,
            rl_steps: self.rl_steps(progress),
            stages: stages.to_vec(),
            generated_tokens: progress.generated_tokens,
            trained_tokens: progress.trained_tokens,
            params: burn::module::Module::num_params(&session.state.model),
            peak_rss_mb: peak_rss_mb(),
            phase_s: progress.phase_s,
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
fn log_place<M: TrainableLm>(session: &Session<M>, at_end: &str) -> LogPlace {
    let Progress { stage, step, evaluation, final_evaluation, .. } = &session.state.progress;
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
