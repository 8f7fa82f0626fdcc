//! What to change so that a run fits.

use serde::Serialize;

use super::phases::Knobs;

/// Rank of the adapters that are suggested.
const LORA_RANK: usize = 16;

/// Fewest tokens a micro-batch that are suggested.
const FEWEST_TOKENS: usize = 64;

/// A change with which a run fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Suggestion {
    /// The change, in the words of the command line.
    pub change: String,
    /// Bytes at the peak with it, completions at their limit.
    pub limit_bytes: u64,
}

/// The mildest change of each kind with which `peak` stays within `memory`: smaller micro-batches, layers computed again,
/// adapters. Empty if it does so already.
pub(super) fn fitting(now: Knobs, memory: u64, peak: &dyn Fn(Knobs) -> u64) -> Vec<Suggestion> {
    if peak(now) <= memory {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (gradient_checkpointing, lora_rank) in
        [(false, None), (true, None), (false, Some(LORA_RANK)), (true, Some(LORA_RANK))]
    {
        if now.gradient_checkpointing && !gradient_checkpointing {
            continue;
        }
        // Adapters are no change where the decoder has some, or learns nothing.
        if lora_rank.is_some() && peak(Knobs { lora_rank, ..now }) == peak(now) {
            continue;
        }
        let mut knobs = Knobs { gradient_checkpointing, lora_rank, ..now };
        while peak(knobs) > memory && knobs.tokens_per_micro_batch > FEWEST_TOKENS {
            knobs.tokens_per_micro_batch /= 2;
        }
        let limit_bytes = peak(knobs);
        if limit_bytes <= memory {
            found.push(Suggestion { change: words(now, knobs), limit_bytes });
        }
    }
    found
}

fn words(now: Knobs, then: Knobs) -> String {
    let mut parts = Vec::new();
    if then.gradient_checkpointing && !now.gradient_checkpointing {
        parts.push("--gradient-checkpointing".to_owned());
    }
    if let Some(rank) = then.lora_rank {
        parts.push(format!("adapters of rank {rank} (LoRA)"));
    }
    if then.tokens_per_micro_batch != now.tokens_per_micro_batch {
        parts.push(format!("tokens_per_micro_batch = {}", then.tokens_per_micro_batch));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mildest_change_of_each_kind_that_fits_is_named() {
        let now = Knobs { tokens_per_micro_batch: 8192, gradient_checkpointing: false, lora_rank: None };
        // Weights and moments take 400, a token 1, or a quarter of that if layers are computed again.
        let peak = |knobs: Knobs| {
            let fixed = if knobs.lora_rank.is_some() { 100 } else { 400 };
            let tokens = knobs.tokens_per_micro_batch as u64;
            fixed + if knobs.gradient_checkpointing { tokens / 4 } else { tokens }
        };
        assert!(fitting(now, 9000, &peak).is_empty());
        let changes = |memory| -> Vec<String> {
            fitting(now, memory, &peak).into_iter().map(|suggestion| suggestion.change).collect()
        };
        assert_eq!(
            changes(2500),
            [
                "tokens_per_micro_batch = 2048",
                "--gradient-checkpointing",
                "adapters of rank 16 (LoRA), tokens_per_micro_batch = 2048",
                "--gradient-checkpointing, adapters of rank 16 (LoRA)",
            ]
        );
        assert_eq!(
            changes(300),
            [
                "adapters of rank 16 (LoRA), tokens_per_micro_batch = 128",
                "--gradient-checkpointing, adapters of rank 16 (LoRA), tokens_per_micro_batch = 512",
            ]
        );
        assert!(changes(50).is_empty());
    }
}
