//! Completions of several turns from an engine that knows single turns.

use std::collections::BTreeMap;

use kyoka_core::{
    AnsweredTurn, Episode, GroupSink, Prompt, Reply, Rollout, RolloutEngine, RolloutError, RolloutGroup,
    RolloutPrompt, RolloutRequest, SamplingConfig, StopReason, Stream, on_threads, stream_rng,
};
use rand::Rng;

/// Leads completions through their turns over an engine that completes prompts and knows nothing of turns, as servers do: every
/// turn is asked for behind a prompt that holds all that went before. The engine must read that prompt: there is no row for it.
///
/// [`LocalEngine`](crate::LocalEngine) needs none of it: it goes on where a completion stands, without reading it again.
pub struct TurnByTurn<E>(pub E);

/// A completion under way.
struct Conversation<'a> {
    index: usize,
    place: usize,
    /// All that was asked, drawn and read.
    prompt: Prompt,
    drawn: Rollout,
    observed: usize,
    episode: Box<dyn Episode + 'a>,
}

/// Most tokens of a completion, by who writes them.
#[derive(Clone, Copy)]
struct Room {
    drawn: usize,
    observed: usize,
}

impl Conversation<'_> {
    /// Takes in a turn; why the completion has ended, if it has.
    fn goes_on(&mut self, turn: Rollout, room: Room) -> Result<Option<StopReason>, RolloutError> {
        let Rollout { token_ids, logprobs, entropies, stop_reason, .. } = turn;
        let Reply { reward, next } = self.episode.answer(&token_ids, stop_reason)?;
        self.prompt.token_ids.extend(&token_ids);
        self.drawn.token_ids.extend(token_ids);
        self.drawn.logprobs.extend(logprobs);
        self.drawn.entropies.extend(entropies);
        let end = self.drawn.token_ids.len();
        let mut answered = AnsweredTurn { end, reward, observation: None };
        let ended = match next {
            Err(stop_reason) => Some(stop_reason),
            Ok(_) if end >= room.drawn => Some(StopReason::Length),
            Ok(seen) if self.observed + seen.len() > room.observed => Some(StopReason::Observations),
            Ok(seen) => {
                self.observed += seen.len();
                self.prompt.append(&seen);
                answered.observation = Some(seen);
                None
            }
        };
        self.drawn.turns.push(answered);
        Ok(ended)
    }
}

impl<M, E: RolloutEngine<M>> RolloutEngine<M> for TurnByTurn<E> {
    fn banned_ids(&self) -> &[u32] {
        self.0.banned_ids()
    }

    fn publish(&self, version: u64, model: &M) -> Result<(), RolloutError> {
        self.0.publish(version, model)
    }

    fn release(&self) {
        self.0.release();
    }

    fn generate(&self, request: RolloutRequest<'_>, sink: &mut GroupSink<'_>) -> Result<(), RolloutError> {
        let Some(episodes) = request.episodes else { return self.0.generate(request, sink) };
        let room =
            Room { drawn: request.sampling.max_new_tokens, observed: episodes.max_observation_tokens() };
        let places = |index: usize| (0..request.group_size).map(move |place| (index, place));
        let opened = on_threads((0..request.prompts.len()).flat_map(places).collect(), |(index, place)| {
            let drawn = Rollout::of_turn(Vec::new(), Vec::new(), Vec::new(), StopReason::Length);
            let (prompt, episode) = (request.prompts[index].prompt.clone(), episodes.open(index, place)?);
            Ok(Conversation { index, place, prompt, drawn, observed: 0, episode })
        });
        let mut open = opened.into_iter().collect::<Result<Vec<_>, RolloutError>>()?;
        let mut done: Vec<Vec<Option<Rollout>>> = vec![vec![None; request.group_size]; request.prompts.len()];
        for round in 0.. {
            if open.is_empty() {
                break;
            }
            let (turns, policy_version) = self.turns(&request, &open, round)?;
            let answered = on_threads(open.into_iter().zip(turns).collect(), |(mut conversation, turn)| {
                let ended = conversation.goes_on(turn, room)?;
                Ok((conversation, ended))
            });
            open = Vec::new();
            for answered in answered {
                let (conversation, ended): (Conversation<'_>, _) = answered?;
                let Some(stop_reason) = ended else {
                    open.push(conversation);
                    continue;
                };
                let Conversation { index, place, drawn, .. } = conversation;
                done[index][place] = Some(Rollout { stop_reason, ..drawn });
                if done[index].iter().all(Option::is_some) {
                    let rollouts = std::mem::take(&mut done[index]).into_iter().flatten().collect();
                    let prompt = request.prompts[index].prompt.clone();
                    sink(index, RolloutGroup { prompt, rollouts, policy_version })?;
                }
            }
        }
        Ok(())
    }
}

impl<E> TurnByTurn<E> {
    /// The next turn of every conversation, and the version of the weights. What a turn has left to draw is its own, so
    /// that it does not depend on what else is asked: one request for all that have as much left.
    fn turns<M>(
        &self,
        request: &RolloutRequest<'_>,
        open: &[Conversation<'_>],
        round: u64,
    ) -> Result<(Vec<Rollout>, u64), RolloutError>
    where
        E: RolloutEngine<M>,
    {
        let mut by_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, conversation) in open.iter().enumerate() {
            let left = request.sampling.max_new_tokens - conversation.drawn.token_ids.len();
            by_room.entry(left).or_default().push(at);
        }
        let mut turns: Vec<Option<Rollout>> = open.iter().map(|_| None).collect();
        let mut version = 0;
        for (max_new_tokens, places) in by_room {
            let sampling = SamplingConfig { max_new_tokens, ..request.sampling.clone() };
            let asked = places.iter().map(|&at| {
                let Conversation { index, place, prompt, .. } = &open[at];
                let place = [request.prompts[*index].key, *place as u64, round];
                let key = stream_rng(request.seed, Stream::Rollout, &place).next_u64();
                RolloutPrompt { prompt, sample: None, key }
            });
            let asked: Vec<RolloutPrompt<'_>> = asked.collect();
            let groups = self.0.generate_all(RolloutRequest {
                prompts: &asked,
                group_size: 1,
                sampling: &sampling,
                seed: request.seed,
                episodes: None,
            })?;
            for (at, RolloutGroup { mut rollouts, policy_version, .. }) in places.into_iter().zip(groups) {
                turns[at] = rollouts.pop();
                version = policy_version;
            }
        }
        Ok((turns.into_iter().flatten().collect(), version))
    }
}
