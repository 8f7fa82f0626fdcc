//! What a plan knows of a recipe: sizes, lengths of its rows, weight of its media.

use std::collections::BTreeMap;

use burn::tensor::Device;
use kyoka_algorithms::CriticKind;
use kyoka_core::{Sample, Task, parameter_shapes};
use kyoka_data::PreferenceRow;
use kyoka_nn::WeightInit;
use kyoka_trainer::{JudgementKind, PackItem};

use super::{
    phases::{Batch, EVAL_PROMPTS, Knobs, Others, Phase, sampling, training},
    sizes::{PolicySizes, TowerRows, media_of},
    stores::{DECODED_ROWS, feature_bytes, media_bytes, spread},
    trained::Trained,
};
use crate::{
    Error,
    freezing::Frozen,
    preparing::Prepared,
    stages::{StageConfig, StageSettings},
};

/// How much longer sampled completions are expected to be than worked ones.
const LONGER_THAN_WORKED: f64 = 1.1;

pub(super) struct Facts<'a> {
    prepared: &'a Prepared,
    pub sizes: PolicySizes,
    pub media_store_bytes: usize,
    pub feature_store_bytes: usize,
    /// Values by parameter.
    parameters: BTreeMap<String, usize>,
    /// Whether no stage trains a tower.
    frozen_towers: bool,
}

impl<'a> Facts<'a> {
    pub fn of(prepared: &'a Prepared) -> Result<Self, Error> {
        let config = &prepared.opened.config;
        let sizes = PolicySizes::new(config);
        let mut blank = WeightInit::blank(&Device::default());
        let shapes = parameter_shapes(&config.build_with(&mut blank)).into_iter();
        let parameters = shapes.map(|(name, shape)| (name, shape.iter().product())).collect();
        let frozen_towers = Frozen::new(&prepared.settings.model.freeze, config).holds_towers(config);
        Ok(Self {
            prepared,
            sizes,
            media_store_bytes: media_bytes(prepared)?,
            feature_store_bytes: if frozen_towers { feature_bytes(prepared, &sizes) } else { 0 },
            parameters,
            frozen_towers,
        })
    }

    /// Parameters of the policy, adapters included.
    pub fn params(&self) -> usize {
        self.parameters.values().sum()
    }

    /// What learns in a stage; `augment` says whether its media are changed each time.
    fn trained(&self, stage: &str, augment: bool) -> Trained {
        let Prepared { settings, opened, .. } = self.prepared;
        let further = settings.model.freeze_in.get(stage).cloned().unwrap_or_default();
        let frozen = Frozen::new(&[settings.model.freeze.clone(), further].concat(), &opened.config);
        let seen_again = !augment || settings.augment.changes_nothing();
        Trained::of(&self.parameters, &frozen, self.frozen_towers && seen_again)
    }

    pub fn tokens_per_micro_batch(&self) -> usize {
        self.prepared.settings.stage.iter().map(StageConfig::token_budget).max().unwrap_or(0)
    }

    /// All phases of the recipe; `at_limit` says whether completions run to their limit.
    pub fn phases(&self, knobs: Knobs, at_limit: bool) -> Vec<Phase> {
        let settings = &self.prepared.settings;
        let sizes = &self.sizes;
        let mut phases = Vec::new();
        let mut others = Others::default();
        let observed = settings.observation_tokens();
        for stage in &settings.stage {
            let own = self.own_knobs(knobs, stage.token_budget());
            let name = stage.name.as_str();
            match &stage.settings {
                StageSettings::Sft(config) => {
                    let batch = self.worked((&config.data, at_limit), config.batch_size);
                    let trained = self.trained(name, config.augment);
                    phases.push(training(name, sizes, &batch, (trained, own), others.between()));
                }
                StageSettings::Preference(config) => {
                    let batch = self.compared((&config.data, at_limit), config.batch_size);
                    let beside = Others { reference: config.reference_every > 0, ..others.between() };
                    phases.push(training(name, sizes, &batch, (self.trained(name, false), own), beside));
                }
                StageSettings::UnpairedPreference(config) => {
                    let batch = self.worked((&config.data, at_limit), config.batch_size);
                    let beside = Others { reference: true, ..others.between() };
                    phases.push(training(name, sizes, &batch, (self.trained(name, false), own), beside));
                }
                StageSettings::RewardModel(config) => {
                    let asked = (config.data.as_str(), at_limit);
                    let batch = match config.rows {
                        JudgementKind::Pairs => self.compared(asked, config.batch_size),
                        JudgementKind::Labels | JudgementKind::Scores => {
                            self.worked(asked, config.batch_size)
                        }
                    };
                    // The reward model learns; the policy that it started from stands beside it as a reference does.
                    let beside = Others { reference: true, ..Others::default() };
                    let trained = self.trained(name, false);
                    phases.push(training(name, sizes, &batch, (trained, own), beside));
                    // It stays, without its moments; what is frozen it shares with the policy.
                    others.reward_model = trained.params;
                }
                StageSettings::Rl(rl) => {
                    let algorithm = rl.algorithm.resolve();
                    others = Others {
                        reference: algorithm.kl_coef > 0.0,
                        critic: algorithm.critic == CriticKind::Separate,
                        entropy: algorithm.entropy_coef > 0.0 || algorithm.entropy_target > 0.0,
                        ..others
                    };
                    let drawn = rl.sampling.max_new_tokens;
                    let drawn_now = if at_limit { drawn } else { self.expected_tokens(drawn) };
                    // What is read between turns counts at its limit.
                    let [capacity, new_tokens] = [drawn, drawn_now].map(|tokens| tokens + observed);
                    let asked = (rl.data.as_str(), at_limit);
                    let batch = self.sampled(asked, rl.prompts_per_step, rl.group_size, new_tokens);
                    let trained = self.trained(name, rl.augment);
                    phases.push(sampling("rollout", sizes, &batch, capacity, (trained, own, others)));
                    phases.push(training("train", sizes, &batch, (trained, own), others));
                }
            }
        }
        for split in settings.eval.all_splits() {
            let rows = match settings.eval.max_rows {
                0 => self.prepared.splits[split].len(),
                rows => rows.min(self.prepared.splits[split].len()),
            };
            let drawn = settings.eval.max_new_tokens;
            let drawn_now = if at_limit { drawn } else { self.expected_tokens(drawn) };
            let [capacity, new_tokens] = [drawn, drawn_now].map(|tokens| tokens + observed);
            let batch =
                self.sampled((split, at_limit), rows.min(EVAL_PROMPTS), settings.eval.samples, new_tokens);
            // Moments stand while a stage is evaluated: those of the stage that trains most.
            let stages = settings.stage.iter().map(|stage| self.trained(&stage.name, false));
            if let Some(trained) = stages.max_by_key(|trained| trained.params) {
                phases.push(sampling("eval", sizes, &batch, capacity, (trained, knobs, others)));
            }
        }
        phases
    }

    /// A stage's own budget of tokens, unless the knobs say less.
    fn own_knobs(&self, knobs: Knobs, budget: usize) -> Knobs {
        Knobs { tokens_per_micro_batch: budget.min(knobs.tokens_per_micro_batch), ..knobs }
    }

    /// Length of a sampled completion: about that of the worked ones, where the policy has learned from such.
    fn expected_tokens(&self, limit: usize) -> usize {
        let Some(sft) = self.prepared.settings.stage.iter().find_map(StageConfig::sft) else { return limit };
        let lengths = self.prepared.splits[&sft.data].iter().filter_map(|sample| self.target_len(sample));
        let (mut sum, mut count) = (0, 0);
        lengths.for_each(|len| {
            sum += len;
            count += 1;
        });
        let mean = sum as f64 / f64::from(count.max(1)) * LONGER_THAN_WORKED;
        (mean.ceil() as usize).clamp(1, limit)
    }

    fn target_len(&self, sample: &Sample) -> Option<usize> {
        self.prepared.task.target(sample).ok().map(|ids| ids.len())
    }

    fn prompt_len(&self, sample: &Sample) -> usize {
        self.prepared.task.prompt_len(sample).unwrap_or(0)
    }

    /// A batch of worked completions: rows spread over all lengths, or the longest ones.
    fn worked(&self, (split, at_limit): (&str, bool), rows: usize) -> Batch {
        let samples = &self.prepared.splits[split];
        let item = |sample: &Sample| PackItem {
            prompt_len: self.prompt_len(sample),
            completion_lens: vec![self.target_len(sample).unwrap_or(1)],
        };
        let mut items: Vec<PackItem> = samples.iter().map(item).collect();
        items.sort_by_key(|item| item.prompt_len + item.completion_lens[0]);
        self.batch(samples, chosen(&items, rows, at_limit))
    }

    /// A batch of pairs: rows spread over all lengths, or the longest ones.
    fn compared(&self, (split, at_limit): (&str, bool), pairs: usize) -> Batch {
        let rows = &self.prepared.pairs[split];
        let len = |text: &str| self.prepared.task.encode(text).map_or(1, |ids| ids.len());
        let item = |row: &PreferenceRow| PackItem {
            prompt_len: self.prompt_len(&row.sample),
            completion_lens: vec![len(&row.chosen), len(&row.rejected)],
        };
        let mut items: Vec<PackItem> = rows.iter().map(item).collect();
        items.sort_by_key(|item| item.prompt_len + item.completion_lens.iter().sum::<usize>());
        let (rows, media_bytes) = self.media(rows.iter().map(|row| &row.sample).collect());
        Batch { items: chosen(&items, pairs, at_limit), rows, media_bytes }
    }

    /// A batch of prompts with completions of one length: prompts spread over all lengths, or the longest ones.
    fn sampled(
        &self,
        (split, at_limit): (&str, bool),
        prompts: usize,
        group: usize,
        new_tokens: usize,
    ) -> Batch {
        let samples = &self.prepared.splits[split];
        let item = |sample: &Sample| PackItem {
            prompt_len: self.prompt_len(sample),
            completion_lens: vec![new_tokens; group],
        };
        let mut items: Vec<PackItem> = samples.iter().map(item).collect();
        items.sort_by_key(|item| item.prompt_len);
        self.batch(samples, chosen(&items, prompts, at_limit))
    }

    fn batch(&self, samples: &[Sample], items: Vec<PackItem>) -> Batch {
        let (rows, media_bytes) = self.media(samples.iter().collect());
        Batch { items, rows, media_bytes }
    }

    /// Rows in the towers and bytes of a prompt's media, in the mean of a few.
    fn media(&self, samples: Vec<&Sample>) -> (TowerRows, usize) {
        let decoded: Vec<(TowerRows, usize)> = spread(&samples, DECODED_ROWS)
            .filter_map(|sample| self.prepared.task.prompt(sample, None).ok())
            .map(|prompt| media_of(&self.prepared.opened.config, &prompt))
            .collect();
        let mean = |value: &dyn Fn(&(TowerRows, usize)) -> usize| {
            decoded.iter().map(value).sum::<usize>().div_ceil(decoded.len().max(1))
        };
        let rows = TowerRows { image: mean(&|(rows, _)| rows.image), audio: mean(&|(rows, _)| rows.audio) };
        (rows, mean(&|(_, bytes)| *bytes))
    }
}

/// `count` of the items (again from the start if there are fewer), spread over all, or the last ones.
fn chosen(items: &[PackItem], count: usize, last: bool) -> Vec<PackItem> {
    if items.is_empty() {
        return Vec::new();
    }
    let place = |i: usize| match last {
        true => items.len() - 1 - i % items.len(),
        false => (2 * i + 1) * items.len() / (2 * count.max(1)) % items.len(),
    };
    (0..count).map(|i| items[place(i)].clone()).collect()
}
