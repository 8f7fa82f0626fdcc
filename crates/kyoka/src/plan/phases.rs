//! Bytes and arithmetic of the phases of a run.

use kyoka_trainer::{PackItem, plan_micro_batches};
use serde::Serialize;

use super::{
    sizes::{PolicySizes, TowerRows},
    trained::{Learning, Trained},
};

/// Logits that the output head holds at once, in values; twice on the way back.
const HEAD_CHUNK: usize = 1 << 22;

/// Prompts that an evaluation reads together.
pub(super) const EVAL_PROMPTS: usize = 128;

/// Completions under way at once.
pub(super) const MAX_ROWS: usize = 512;

/// What a user can turn to make a run fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Knobs {
    pub tokens_per_micro_batch: usize,
    pub gradient_checkpointing: bool,
    /// Rank of adapters that are suggested for a decoder that learns whole; it is frozen itself then.
    pub lora_rank: Option<usize>,
}

/// A batch of prompts with the lengths of their completions.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub items: Vec<PackItem>,
    /// Of one prompt, in the mean.
    pub rows: TowerRows,
    pub media_bytes: usize,
}

/// Models beside the policy, in policies.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Others {
    pub reference: bool,
    /// Whether it has a trunk of its own.
    pub critic: bool,
    /// Whether the loss reads the whole distribution of every token.
    pub entropy: bool,
    /// Parameters of its own that a reward model has which an earlier stage has trained; 0 without one.
    pub reward_model: usize,
}

impl Others {
    /// What stays from one stage to the next.
    pub fn between(self) -> Self {
        Self { reward_model: self.reward_model, ..Self::default() }
    }
}

/// Bytes of one phase by what they hold, at its peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PhaseBytes {
    /// Parameters of policy, reference, critic and reward model.
    pub weights: usize,
    /// Gradients of the parameters that are trained.
    pub gradients: usize,
    /// Moments of the optimizer.
    pub optimizer: usize,
    /// Keys and values.
    pub caches: usize,
    /// What layers keep for the way back, or hold on their way.
    pub activations: usize,
    /// Logits and their slopes.
    pub logits: usize,
    /// Preprocessed pictures and sounds.
    pub media: usize,
}

impl PhaseBytes {
    /// The sum.
    pub fn total(&self) -> usize {
        let Self { weights, gradients, optimizer, caches, activations, logits, media } = *self;
        weights + gradients + optimizer + caches + activations + logits + media
    }
}

/// One phase of a step.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// `sft`, `rollout`, `train` or `eval`.
    pub name: String,
    /// Tokens that go through the decoder in a step of it.
    pub tokens: usize,
    /// Billions of multiplications and additions of a step of it.
    pub gflop: f64,
    /// Micro-batches of a step of it; 0 where nothing is trained.
    pub micro_batches: usize,
    /// Bytes at its peak.
    pub bytes: PhaseBytes,
}

/// Bytes that are there whatever the phase: weights and moments.
fn standing(trained: Trained, others: Others) -> PhaseBytes {
    // Reference and critic share what is frozen with the policy; the reference of an adapted policy is its base.
    let reference =
        if others.reference && trained.decoder != Learning::Adapters { trained.params } else { 0 };
    let critic = if others.critic { trained.params } else { 0 };
    PhaseBytes {
        weights: 4 * (trained.all + reference + critic + others.reward_model),
        optimizer: 8 * (trained.params + critic),
        ..PhaseBytes::default()
    }
}

/// Values that one micro-batch keeps and turns over on its way back.
fn trained_values(
    sizes: &PolicySizes,
    (rows, targets): (usize, usize),
    media: TowerRows,
    (trained, knobs): (Trained, Knobs),
) -> usize {
    // A matrix that learns keeps what it multiplied.
    let decoder = &match trained.decoder {
        Learning::Nothing => sizes.decoder.frozen(),
        Learning::Whole | Learning::Adapters => sizes.decoder,
    };
    let last_rows = 2 * targets * decoder.d_model;
    // Frozen towers keep nothing; their widest place is before the decoder's.
    let towers = if trained.towers { sizes.towers_kept(media) } else { sizes.projectors_kept(media) };
    if !knobs.gradient_checkpointing {
        return towers + decoder.kept(rows, targets) + last_rows + decoder.slopes(rows);
    }
    let inputs = decoder.num_layers * rows * decoder.d_model + last_rows;
    let layer = decoder.kept_in_layer(rows, rows) + decoder.slopes(rows);
    (inputs + layer).max(towers + 2 * rows * decoder.d_model)
}

/// A training step over a batch.
pub(super) fn training(
    name: &str,
    sizes: &PolicySizes,
    batch: &Batch,
    (trained, knobs): (Trained, Knobs),
    others: Others,
) -> Phase {
    let trained = trained.suggested(sizes, knobs.lora_rank);
    let micro_batches = plan_micro_batches(&batch.items, knobs.tokens_per_micro_batch);
    let mut bytes = standing(trained, others);
    let gradients = bytes.optimizer / 2;
    bytes.gradients = if micro_batches.len() > 1 { 2 * gradients } else { gradients };
    bytes.media = batch.items.len() * batch.media_bytes;
    let (mut tokens, mut flop) = (0, 0.0);
    for micro_batch in &micro_batches {
        let prompts = micro_batch.len();
        let (mut rows, mut targets, mut pairs) = (0, 0, 0.0);
        for (item, places) in micro_batch {
            let PackItem { prompt_len, completion_lens } = &batch.items[*item];
            rows += prompt_len;
            pairs += (prompt_len * prompt_len) as f64 / 2.0;
            for len in places.iter().map(|&place| completion_lens[place]) {
                rows += len.saturating_sub(1);
                targets += len;
                pairs += (len * prompt_len) as f64 + (len * len) as f64 / 2.0;
            }
        }
        let media = TowerRows { image: prompts * batch.rows.image, audio: prompts * batch.rows.audio };
        let activations = 4 * trained_values(sizes, (rows, targets), media, (trained, knobs));
        let chunk = (targets * sizes.vocab).min(HEAD_CHUNK.max(16 * sizes.vocab));
        let whole = if others.entropy { 3 * targets * sizes.vocab } else { 0 };
        let logits = 4 * (2 * chunk + whole);
        if activations + logits > bytes.activations + bytes.logits {
            (bytes.activations, bytes.logits) = (activations, logits);
        }
        tokens += rows;
        // The way forth, slopes of the inputs, those of the matrices if they learn; forth again if layers are computed
        // again. The output's logits are computed twice whatever learns.
        let (learns, again) =
            (f64::from(trained.decoder == Learning::Whole), f64::from(knobs.gradient_checkpointing));
        let products = (2.0 + again + learns) * sizes.decoder.flop(rows);
        let towers = match trained {
            Trained { towers: true, .. } => 3.0 + again,
            Trained { kept_features: true, .. } => 0.0,
            Trained { .. } => 1.0,
        };
        let [encoders, projectors] = sizes.towers_flop(media);
        flop += products + (3.0 + again) * sizes.decoder.attention_flop(pairs);
        flop += towers * encoders + (3.0 + again) * projectors + (3.0 + learns) * sizes.head_flop(targets);
    }
    Phase { name: name.to_owned(), tokens, gflop: flop / 1e9, micro_batches: micro_batches.len(), bytes }
}

/// Sampling of a batch, all completions to the given lengths; slots hold `capacity` tokens.
pub(super) fn sampling(
    name: &str,
    sizes: &PolicySizes,
    batch: &Batch,
    capacity: usize,
    (trained, knobs, others): (Trained, Knobs, Others),
) -> Phase {
    let trained = trained.suggested(sizes, knobs.lora_rank);
    let mut bytes = standing(trained, others);
    let group = batch.items.first().map_or(1, |item| item.completion_lens.len()).max(1);
    let at_once = batch.items.len().min((MAX_ROWS / group).max(1));
    let read: usize = batch.items[..at_once].iter().map(|item| item.prompt_len).sum();
    let decoder = &sizes.decoder;
    let cached = read + at_once * group * capacity;
    bytes.caches = 4 * decoder.num_layers * cached * sizes.kv_width;
    let media = TowerRows { image: at_once * batch.rows.image, audio: at_once * batch.rows.audio };
    let widest = sizes.towers_widest(media).max(decoder.widest(read)).max(decoder.widest(at_once * group));
    bytes.activations = 4 * widest;
    bytes.logits = 4 * at_once * group * sizes.vocab;
    bytes.media = batch.items.len() * batch.media_bytes;
    let (mut tokens, mut flop) = (0, 0.0);
    for PackItem { prompt_len, completion_lens } in &batch.items {
        let new: usize = completion_lens.iter().sum();
        let seen = |&len: &usize| (len * prompt_len) as f64 + (len * len) as f64 / 2.0;
        let pairs = (prompt_len * prompt_len) as f64 / 2.0 + completion_lens.iter().map(seen).sum::<f64>();
        tokens += prompt_len + new;
        flop += decoder.flop(prompt_len + new) + decoder.attention_flop(pairs) + sizes.head_flop(new);
    }
    let media = TowerRows {
        image: batch.items.len() * batch.rows.image,
        audio: batch.items.len() * batch.rows.audio,
    };
    let [encoders, projectors] = sizes.towers_flop(media);
    flop += projectors + if trained.kept_features { 0.0 } else { encoders };
    Phase { name: name.to_owned(), tokens, gflop: flop / 1e9, micro_batches: 0, bytes }
}
