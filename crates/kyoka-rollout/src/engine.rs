//! Sampling in this process.

use kyoka_core::{
    CausalLm, Prompt, Rollout, RolloutEngine, RolloutError, RolloutGroup, RolloutRequest, SamplingConfig,
    StopReason, Stream, stream_rng,
};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::sampling::{Drawn, draw};

/// Turns token ids into text, to find stop texts.
pub type DecodeText = Box<dyn Fn(&[u32]) -> String + Send + Sync>;

/// Samples from a model that lives in this process.
pub struct LocalEngine<M> {
    /// The policy, without gradients.
    pub model: M,
    /// The token that ends a completion.
    pub end_id: u32,
    /// Tokens that are never drawn: media placeholders and other special tokens.
    pub banned_ids: Vec<u32>,
    /// Needed only when stop texts are used.
    pub decode_text: Option<DecodeText>,
    /// Most completions under way at once; at least one group is always taken. Default 512.
    pub max_rows: usize,
}

/// A completion under way.
struct Row {
    prompt: usize,
    place: usize,
    rng: ChaCha8Rng,
    token_ids: Vec<u32>,
    logprobs: Vec<f32>,
}

impl<M: CausalLm + Sync> LocalEngine<M> {
    /// An engine that bans `banned_ids` and ends at `end_id`.
    pub fn new(model: M, end_id: u32, banned_ids: Vec<u32>) -> Self {
        Self { model, end_id, banned_ids, decode_text: None, max_rows: 512 }
    }

    fn check(&self, request: &RolloutRequest<'_>) -> Result<(), RolloutError> {
        request.sampling.validate()?;
        assert!(request.group_size > 0, "rollout: expected a group size of at least 1, got 0");
        assert!(
            request.sampling.stop.is_empty() || self.decode_text.is_some(),
            "rollout: stop texts need `decode_text`"
        );
        let (new_tokens, max_positions) = (request.sampling.max_new_tokens, self.model.max_positions());
        for (index, prompt) in request.prompts.iter().enumerate() {
            if prompt.is_empty() {
                return Err(RolloutError::EmptyPrompt { index });
            }
            if prompt.len() + new_tokens > max_positions {
                let prompt_tokens = prompt.len();
                return Err(RolloutError::TooLong { index, prompt_tokens, new_tokens, max_positions });
            }
        }
        Ok(())
    }

    /// Completes a chunk of prompts; `first` is the place of its first prompt in the request.
    fn generate_chunk(
        &self,
        request: &RolloutRequest<'_>,
        first: usize,
        prompts: &[Prompt],
        groups: &mut Vec<RolloutGroup>,
    ) -> Result<(), RolloutError> {
        let group_size = request.group_size;
        let references: Vec<&Prompt> = prompts.iter().collect();
        let prefill = self.model.prefill(&references);
        let mut cache = prefill.cache;
        self.model.branch(&mut cache, group_size, request.sampling.max_new_tokens);
        let row = |index: usize| {
            let (prompt, place) = (first + index / group_size, index % group_size);
            let rng = stream_rng(request.seed, Stream::Rollout, &[prompt as u64, place as u64]);
            Row { prompt, place, rng, token_ids: Vec::new(), logprobs: Vec::new() }
        };
        let mut open: Vec<Row> = (0..prompts.len() * group_size).map(row).collect();
        let mut done: Vec<Vec<Option<Rollout>>> = vec![vec![None; group_size]; prompts.len()];
        // The first tokens of a group come from the prompt's last position; later ones from each row's own.
        let mut logits = prefill.logits;
        let mut rows_per_logits = group_size;
        loop {
            // One wait for the device a token.
            let [_, vocab] = logits.dims();
            let table: Vec<f32> =
                logits.try_into_vec_as().map_err(|_| RolloutError::NotFinite { index: first })?;
            let stepped: Vec<Option<StopReason>> = open
                .par_iter_mut()
                .enumerate()
                .map(|(index, row)| {
                    let start = index / rows_per_logits * vocab;
                    self.step(row, &table[start..start + vocab], request.sampling)
                })
                .collect::<Result<_, _>>()?;
            let num_open = open.len();
            let mut kept = Vec::with_capacity(num_open);
            let mut still_open = Vec::with_capacity(num_open);
            for (index, (row, stopped)) in open.into_iter().zip(stepped).enumerate() {
                match stopped {
                    None => {
                        kept.push(index);
                        still_open.push(row);
                    }
                    Some(stop_reason) => {
                        let Row { prompt, place, token_ids, logprobs, .. } = row;
                        done[prompt - first][place] = Some(Rollout { token_ids, logprobs, stop_reason });
                    }
                }
            }
            if still_open.is_empty() {
                break;
            }
            if kept.len() < num_open {
                self.model.retain(&mut cache, &kept);
            }
            open = still_open;
            let last: Vec<u32> =
                open.iter().map(|row| *row.token_ids.last().expect("an open row has a token")).collect();
            logits = self.model.decode(&mut cache, &last);
            rows_per_logits = 1;
        }
        groups.extend(done.into_iter().zip(prompts).map(|(rollouts, prompt)| RolloutGroup {
            prompt: prompt.clone(),
            rollouts: rollouts.into_iter().map(|rollout| rollout.expect("every row has ended")).collect(),
            policy_version: request.policy_version,
        }));
        Ok(())
    }

    /// Draws the next token of a row; the reason if it ends the row.
    fn step(
        &self,
        row: &mut Row,
        logits: &[f32],
        sampling: &SamplingConfig,
    ) -> Result<Option<StopReason>, RolloutError> {
        let Drawn { token, logprob } = draw(logits, sampling, &self.banned_ids, &mut row.rng)
            .ok_or(RolloutError::NotFinite { index: row.prompt })?;
        row.token_ids.push(token);
        row.logprobs.push(logprob);
        if token == self.end_id {
            return Ok(Some(StopReason::EndToken));
        }
        if let (false, Some(decode)) = (sampling.stop.is_empty(), &self.decode_text) {
            let text = decode(&row.token_ids);
            if sampling.stop.iter().any(|stop| text.contains(stop)) {
                return Ok(Some(StopReason::StopText));
            }
        }
        Ok((row.token_ids.len() >= sampling.max_new_tokens).then_some(StopReason::Length))
    }
}

impl<M: CausalLm + Sync> RolloutEngine for LocalEngine<M> {
    fn generate(&self, request: RolloutRequest<'_>) -> Result<Vec<RolloutGroup>, RolloutError> {
        self.check(&request)?;
        let prompts_at_once = (self.max_rows / request.group_size).max(1);
        let mut groups = Vec::with_capacity(request.prompts.len());
        for (chunk, prompts) in request.prompts.chunks(prompts_at_once).enumerate() {
            self.generate_chunk(&request, chunk * prompts_at_once, prompts, &mut groups)?;
        }
        Ok(groups)
    }
}
