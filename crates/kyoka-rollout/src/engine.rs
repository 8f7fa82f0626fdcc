//! Sampling in this process.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use burn::{module::Module, tensor::Tensor};
use kyoka_core::{
    AnsweredTurn, CausalLm, Episode, Episodes, GroupSink, Prompt, Reply, Rollout, RolloutEngine,
    RolloutError, RolloutGroup, RolloutRequest, SamplingConfig, StopReason, Stream, on_threads, stream_rng,
};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::{
    device_draw::DeviceDraw,
    sampling::{Drawn, draw},
};

/// Turns token ids into text, to find stop texts.
pub type DecodeText = Box<dyn Fn(&[u32]) -> String + Send + Sync>;

/// Samples from a model that lives in this process.
pub struct LocalEngine<M> {
    /// The policy without gradients, and its version; none before weights are published and after they are let go.
    published: Mutex<Option<(u64, M)>>,
    /// The tokens that end a completion.
    pub end_ids: Vec<u32>,
    /// Tokens that are never drawn: media placeholders and other special tokens.
    pub banned_ids: Vec<u32>,
    /// Needed only when stop texts are used.
    pub decode_text: Option<DecodeText>,
    /// Most completions under way at once; at least one group is always taken. Default 512.
    pub max_rows: usize,
    /// Draw where the logits are and read back the tokens alone, instead of reading back the logits. Default `None`: wherever
    /// logits are not in host memory already.
    pub draw_on_device: Option<bool>,
    /// Looked at before every token: once it is set, [`generate`](RolloutEngine::generate) gives
    /// [`RolloutError::Interrupted`]. Default: none.
    pub interrupt: Option<Arc<AtomicBool>>,
}

/// A completion under way.
struct Row<'a> {
    prompt: usize,
    place: usize,
    rng: ChaCha8Rng,
    drawn: Rollout,
    /// What answers its turns.
    episode: Option<Box<dyn Episode + 'a>>,
    /// Tokens that it has read between turns.
    observed: usize,
}

impl Row<'_> {
    /// The tokens of the turn under way.
    fn turn(&self) -> &[u32] {
        &self.drawn.token_ids[self.drawn.turns.last().map_or(0, |turn| turn.end)..]
    }
}

/// What becomes of a row behind a token.
enum Next {
    /// Another token is drawn.
    Token,
    /// It goes on behind the last token and what an environment said.
    Segment(Prompt),
    /// It has ended.
    End(StopReason),
}

impl<M: CausalLm + Module> LocalEngine<M> {
    /// An engine that bans `banned_ids` and ends at `end_id`; it gets its weights with
    /// [`publish`](RolloutEngine::publish).
    pub fn new(end_id: u32, banned_ids: Vec<u32>) -> Self {
        Self {
            published: Mutex::default(),
            end_ids: vec![end_id],
            banned_ids,
            decode_text: None,
            max_rows: 512,
            draw_on_device: None,
            interrupt: None,
        }
    }

    /// The engine over a policy that does not change.
    pub fn with_model(mut self, model: &M) -> Self {
        self.published = Mutex::new(Some((0, model.valid())));
        self
    }

    /// The policy and its version; weights are shared, not copied.
    fn model(&self) -> (u64, M) {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.clone().expect("rollout: expected weights to be published first")
    }

    fn check(&self, model: &M, request: &RolloutRequest<'_>) -> Result<(), RolloutError> {
        request.sampling.validate()?;
        assert!(request.group_size > 0, "rollout: expected a group size of at least 1, got 0");
        assert!(
            request.sampling.stop.is_empty() || self.decode_text.is_some(),
            "rollout: stop texts need `decode_text`"
        );
        let (new_tokens, max_positions) = (most_tokens(request), model.max_positions());
        for (index, asked) in request.prompts.iter().enumerate() {
            let prompt = asked.prompt;
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
}

/// Most tokens of a completion, what is read between its turns included.
fn most_tokens(request: &RolloutRequest<'_>) -> usize {
    let observed = request.episodes.map_or(0, Episodes::max_observation_tokens);
    request.sampling.max_new_tokens + observed
}

/// What drawing a token needs of an engine, for all threads.
struct Stepper<'a> {
    sampling: &'a SamplingConfig,
    banned_ids: &'a [u32],
    end_ids: &'a [u32],
    decode_text: Option<&'a DecodeText>,
}

impl<'a> Stepper<'a> {
    fn new<M>(engine: &'a LocalEngine<M>, sampling: &'a SamplingConfig) -> Self {
        let LocalEngine { banned_ids, end_ids, decode_text, .. } = engine;
        Self { sampling, banned_ids, end_ids, decode_text: decode_text.as_ref() }
    }

    /// Draws the next token of a row from its logits.
    fn draw(&self, row: &mut Row<'_>, logits: &[f32]) -> Option<Drawn> {
        draw(logits, self.sampling, self.banned_ids, &mut row.rng)
    }

    /// Adds the next token to a row; the reason if it ends the turn.
    fn push(&self, row: &mut Row<'_>, drawn: Option<Drawn>) -> Result<Option<StopReason>, RolloutError> {
        let sampling = self.sampling;
        let Drawn { token, logprob, entropy } = drawn.ok_or(RolloutError::NotFinite { index: row.prompt })?;
        row.drawn.token_ids.push(token);
        row.drawn.logprobs.push(logprob);
        row.drawn.entropies.push(entropy);
        if self.end_ids.contains(&token) {
            return Ok(Some(StopReason::EndToken));
        }
        if let (false, Some(decode)) = (sampling.stop.is_empty(), self.decode_text) {
            let text = decode(row.turn());
            if sampling.stop.iter().any(|stop| text.contains(stop)) {
                return Ok(Some(StopReason::StopText));
            }
        }
        Ok((row.drawn.token_ids.len() >= sampling.max_new_tokens).then_some(StopReason::Length))
    }
}

/// Everything under way in one call of [`LocalEngine::generate`].
struct Generation<'a, M: CausalLm> {
    engine: &'a LocalEngine<M>,
    model: &'a M,
    request: &'a RolloutRequest<'a>,
    /// Draws on the device, where that is asked for.
    device_draw: Option<DeviceDraw<'a>>,
    /// Prompts read so far.
    read: usize,
    cache: Option<M::Cache>,
    /// Open rows, in the order of the cache.
    open: Vec<Row<'a>>,
    done: Vec<Vec<Option<Rollout>>>,
    /// Prompts whose completions have all ended, not given to the sink yet.
    whole: Vec<usize>,
}

impl<'a, M: CausalLm> Generation<'a, M> {
    /// Reads the next `count` prompts and draws the first token of their completions, which join the others.
    fn admit(&mut self, count: usize) -> Result<(), RolloutError> {
        let (model, group_size) = (self.model, self.request.group_size);
        let first = self.read;
        let asked = &self.request.prompts[first..first + count];
        let prompts: Vec<&Prompt> = asked.iter().map(|asked| asked.prompt).collect();
        self.read += count;
        let prefill = model.prefill(&prompts);
        let mut cache = prefill.cache;
        model.branch(&mut cache, group_size, most_tokens(self.request));
        let row = |index: usize| {
            let (prompt, place) = (first + index / group_size, index % group_size);
            let key = self.request.prompts[prompt].key;
            let rng = stream_rng(self.request.seed, Stream::Rollout, &[key, place as u64]);
            let drawn = Rollout::of_turn(Vec::new(), Vec::new(), Vec::new(), StopReason::Length);
            let episode = self.request.episodes.map(|episodes| episodes.open(prompt, place)).transpose()?;
            Ok(Row { prompt, place, rng, drawn, episode, observed: 0 })
        };
        let rows = match self.request.episodes {
            None => (0..count * group_size).map(row).collect::<Result<_, RolloutError>>()?,
            Some(_) => {
                let opened = on_threads((0..count * group_size).collect(), row);
                opened.into_iter().collect::<Result<_, RolloutError>>()?
            }
        };
        // The first tokens of a group come from the prompt's last position.
        let rows = self.draw(rows, (&mut cache, prefill.logits), group_size)?;
        // Where every completion ended at its first token, nothing joins: the cache still has their rows.
        if rows.is_empty() {
            return Ok(());
        }
        self.open.extend(rows);
        match &mut self.cache {
            Some(running) => model.append(running, cache),
            None => self.cache = Some(cache),
        }
        Ok(())
    }

    /// Reads the last tokens of all open rows and draws the next ones.
    fn advance(&mut self) -> Result<(), RolloutError> {
        let Some(mut cache) = self.cache.take() else { return Ok(()) };
        let open = std::mem::take(&mut self.open);
        if open.is_empty() {
            return Ok(());
        }
        let last = |row: &Row<'_>| *row.drawn.token_ids.last().expect("an open row has a token");
        let token_ids: Vec<u32> = open.iter().map(last).collect();
        let logits = self.model.decode(&mut cache, &token_ids);
        self.open = self.draw(open, (&mut cache, logits), 1)?;
        self.cache = Some(cache);
        Ok(())
    }

    /// The next token of every row: drawn where the logits are, or from logits that are read back. Either is the one wait
    /// for the device a token.
    fn drawn(
        &self,
        stepper: &Stepper<'_>,
        rows: &mut [Row<'_>],
        logits: Tensor<2>,
        rows_per_logits: usize,
    ) -> Result<Vec<Option<Drawn>>, RolloutError> {
        let [_, vocab] = logits.dims();
        if let Some(device_draw) = &self.device_draw {
            let uniforms: Vec<f32> = rows.iter_mut().map(|row| row.rng.random::<f64>() as f32).collect();
            return Ok(device_draw.draw(repeated(logits, rows_per_logits), &uniforms));
        }
        let prompt = rows.first().map_or(0, |row| row.prompt);
        let table: Vec<f32> =
            logits.try_into_vec_as().map_err(|_| RolloutError::NotFinite { index: prompt })?;
        let of_row = |index: usize| &table[index / rows_per_logits * vocab..][..vocab];
        Ok(rows.par_iter_mut().enumerate().map(|(index, row)| stepper.draw(row, of_row(index))).collect())
    }

    /// Draws a token for every row of `cache`, keeps what has ended, and returns the rows that go on, in the order of the cache.
    /// Rows whose turn was answered read the answer and draw the first token of their next turn as well. One row of logits
    /// serves `rows_per_logits` rows.
    fn draw(
        &mut self,
        mut rows: Vec<Row<'a>>,
        (cache, mut logits): (&mut M::Cache, Tensor<2>),
        mut rows_per_logits: usize,
    ) -> Result<Vec<Row<'a>>, RolloutError> {
        // Rows that have drawn stand before those that are to draw.
        let mut settled: Vec<Row<'a>> = Vec::with_capacity(rows.len());
        loop {
            let next = self.next_of(&mut rows, logits, rows_per_logits)?;
            let (first, num_rows) = (settled.len(), settled.len() + rows.len());
            let mut kept: Vec<usize> = (0..first).collect();
            let (mut waiting, mut segments) = (Vec::new(), Vec::new());
            for (index, (row, next)) in (first..).zip(rows.into_iter().zip(next)) {
                match next {
                    Next::Token => settled.push(row),
                    Next::Segment(segment) => {
                        segments.push(segment);
                        waiting.push((kept.len(), row));
                    }
                    Next::End(stop_reason) => {
                        self.finish(row, stop_reason);
                        continue;
                    }
                }
                kept.push(index);
            }
            if kept.len() < num_rows && !kept.is_empty() {
                self.model.retain(cache, &kept);
            }
            if waiting.is_empty() {
                return Ok(settled);
            }
            let (places, goes_on): (Vec<usize>, Vec<Row<'a>>) = waiting.into_iter().unzip();
            logits = self.model.extend(cache, &places, &segments.iter().collect::<Vec<_>>());
            (rows, rows_per_logits) = (goes_on, 1);
        }
    }

    /// Draws a token for every row, and says what follows behind it.
    fn next_of(
        &self,
        rows: &mut [Row<'a>],
        logits: Tensor<2>,
        rows_per_logits: usize,
    ) -> Result<Vec<Next>, RolloutError> {
        let stepper = Stepper::new(self.engine, self.request.sampling);
        let drawn = self.drawn(&stepper, rows, logits, rows_per_logits)?;
        let stopped = rows.par_iter_mut().zip(drawn).map(|(row, drawn)| stepper.push(row, drawn));
        let stopped = stopped.collect::<Result<Vec<_>, _>>()?;
        let Some(episodes) = self.request.episodes else {
            return Ok(stopped.into_iter().map(|stopped| stopped.map_or(Next::Token, Next::End)).collect());
        };
        let room =
            Room { observed: episodes.max_observation_tokens(), drawn: self.request.sampling.max_new_tokens };
        // Environments may wait for something: each has a thread while it answers.
        let mut next: Vec<Next> = stopped.iter().map(|_| Next::Token).collect();
        let ended = rows.iter_mut().zip(stopped).zip(&mut next);
        let ended = ended.filter_map(|((row, stopped), next)| Some((row, stopped?, next))).collect();
        let told = on_threads(ended, |(row, ended, next)| {
            *next = answered(row, ended, room)?;
            Ok(())
        });
        told.into_iter().collect::<Result<(), RolloutError>>()?;
        Ok(next)
    }

    /// Keeps a completion that has ended.
    fn finish(&mut self, row: Row<'_>, stop_reason: StopReason) {
        let Row { prompt, place, drawn, .. } = row;
        self.done[prompt][place] = Some(Rollout { stop_reason, ..drawn });
        if self.done[prompt].iter().all(Option::is_some) {
            self.whole.push(prompt);
        }
    }
}

/// Most tokens of a completion, by who writes them.
#[derive(Clone, Copy)]
struct Room {
    observed: usize,
    drawn: usize,
}

/// Shows an environment the turn that has `ended`.
fn answered(row: &mut Row<'_>, ended: StopReason, room: Room) -> Result<Next, RolloutError> {
    let turn = row.turn().to_vec();
    let Some(episode) = &mut row.episode else { return Ok(Next::End(ended)) };
    let Reply { reward, next } = episode.answer(&turn, ended)?;
    let end = row.drawn.token_ids.len();
    let mut answered = AnsweredTurn { end, reward, observation: None };
    // A turn that a limit cut off is judged as it stands; and one that has no room is not begun.
    let next = match next {
        Err(stop_reason) => Next::End(stop_reason),
        Ok(_) if end >= room.drawn => Next::End(StopReason::Length),
        Ok(seen) if row.observed + seen.len() > room.observed => Next::End(StopReason::Observations),
        Ok(seen) => {
            row.observed += seen.len();
            let last = *turn.last().expect("a turn has a token");
            // The last token was drawn and not read yet.
            let mut segment = Prompt { token_ids: vec![last], ..Prompt::default() };
            segment.append(&seen);
            answered.observation = Some(seen);
            Next::Segment(segment)
        }
    };
    row.drawn.turns.push(answered);
    Ok(next)
}

/// Every row `count` times in a row.
fn repeated(rows: Tensor<2>, count: usize) -> Tensor<2> {
    if count == 1 {
        return rows;
    }
    let [n, width] = rows.dims();
    let rows: Tensor<3> = rows.reshape([n, 1, width]);
    rows.repeat_dim(1, count).reshape([n * count, width])
}

impl<M: CausalLm> Generation<'_, M> {
    /// Gives the groups that have become whole to the sink.
    fn give(&mut self, version: u64, sink: &mut GroupSink<'_>) -> Result<(), RolloutError> {
        for prompt in std::mem::take(&mut self.whole) {
            let rollouts = std::mem::take(&mut self.done[prompt]).into_iter().flatten().collect();
            let asked = self.request.prompts[prompt].prompt.clone();
            sink(prompt, RolloutGroup { prompt: asked, rollouts, policy_version: version })?;
        }
        Ok(())
    }
}

impl<M: CausalLm + Module> RolloutEngine<M> for LocalEngine<M> {
    fn banned_ids(&self) -> &[u32] {
        &self.banned_ids
    }

    fn publish(&self, version: u64, model: &M) -> Result<(), RolloutError> {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some((version, model.valid()));
        Ok(())
    }

    fn release(&self) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn generate(&self, request: RolloutRequest<'_>, sink: &mut GroupSink<'_>) -> Result<(), RolloutError> {
        let (version, model) = self.model();
        self.check(&model, &request)?;
        let num_prompts = request.prompts.len();
        let (vocab, device) = (model.vocab_size(), model.device().without_autodiff());
        let device_draw = || DeviceDraw::new(request.sampling, &self.banned_ids, vocab, &device);
        let mut generation = Generation {
            engine: self,
            model: &model,
            request: &request,
            device_draw: self.draw_on_device.unwrap_or(!model.is_on_host()).then(device_draw),
            read: 0,
            cache: None,
            open: Vec::new(),
            done: vec![vec![None; request.group_size]; num_prompts],
            whole: Vec::new(),
        };
        let groups_at_once = (self.max_rows / request.group_size).max(1);
        while generation.read < num_prompts || !generation.open.is_empty() {
            if self.interrupt.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(RolloutError::Interrupted);
            }
            // Groups stay together: a place is free when a whole group fits. A few at once read their prompts together.
            let free = self.max_rows.saturating_sub(generation.open.len()) / request.group_size;
            let wanted = (num_prompts - generation.read).min(groups_at_once.div_ceil(4));
            if generation.open.is_empty() {
                generation.cache = None;
                generation.admit(groups_at_once.min(num_prompts - generation.read))?;
            } else if wanted > 0 && free >= wanted {
                generation.admit(free.min(num_prompts - generation.read))?;
            }
            generation.advance()?;
            generation.give(version, sink)?;
        }
        Ok(())
    }
}
