//! Completions of several turns from an engine that knows single turns.

use kyoka_core::{
    AnsweredTurn, Episode, GroupSink, Prompt, Reply, Rollout, RolloutEngine, RolloutError, RolloutGroup,
    RolloutPrompt, RolloutRequest, SamplingConfig, StopReason, Stream, stream_rng,
};
use rand::Rng;

/// Leads completions through their turns over an engine that completes prompts and knows nothing of turns, as servers do: every
/// turn is asked for behind a prompt that holds all that went before.
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
    /// Tokens drawn in the turn under way.
    in_turn: usize,
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
    /// Takes in a piece of a turn; why the completion has ended, if it has.
    fn goes_on(&mut self, piece: Rollout, room: Room) -> Result<Option<StopReason>, RolloutError> {
        let Rollout { token_ids, logprobs, entropies, stop_reason, .. } = piece;
        self.in_turn += token_ids.len();
        self.prompt.token_ids.extend(&token_ids);
        self.drawn.token_ids.extend(token_ids);
        self.drawn.logprobs.extend(logprobs);
        self.drawn.entropies.extend(entropies);
        let end = self.drawn.token_ids.len();
        // It was asked for less than it has room for.
        if stop_reason == StopReason::Length && end < room.drawn {
            return Ok(None);
        }
        let turn = self.drawn.token_ids[end - self.in_turn..].to_vec();
        let Reply { reward, next } = self.episode.answer(&turn, stop_reason)?;
        self.in_turn = 0;
        let mut answered = AnsweredTurn { end, reward, observation: None };
        let ended = match next {
            Err(stop_reason) => Some(stop_reason),
            Ok(seen) if end >= room.drawn || self.observed + seen.len() > room.observed => {
                Some(StopReason::Length)
            }
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
        let mut open = Vec::with_capacity(request.prompts.len() * request.group_size);
        for (index, asked) in request.prompts.iter().enumerate() {
            for place in 0..request.group_size {
                let drawn = Rollout::of_turn(Vec::new(), Vec::new(), Vec::new(), StopReason::Length);
                let (prompt, episode) = (asked.prompt.clone(), episodes.open(index, place)?);
                open.push(Conversation { index, place, prompt, drawn, in_turn: 0, observed: 0, episode });
            }
        }
        let mut done: Vec<Vec<Option<Rollout>>> = vec![vec![None; request.group_size]; request.prompts.len()];
        for round in 0.. {
            // No completion may be longer than was asked for: all are asked for what the longest has left.
            let longest = open.iter().map(|conversation| conversation.drawn.token_ids.len()).max();
            let Some(longest) = longest else { break };
            let sampling =
                SamplingConfig { max_new_tokens: room.drawn - longest, ..request.sampling.clone() };
            let asked = open.iter().map(|Conversation { index, place, prompt, .. }| {
                let place = [request.prompts[*index].key, *place as u64, round];
                let key = stream_rng(request.seed, Stream::Rollout, &place).next_u64();
                RolloutPrompt { prompt, sample: None, key }
            });
            let asked: Vec<RolloutPrompt<'_>> = asked.collect();
            let turns = RolloutRequest {
                prompts: &asked,
                group_size: 1,
                sampling: &sampling,
                seed: request.seed,
                episodes: None,
            };
            let groups = self.0.generate_all(turns)?;
            let mut going = Vec::with_capacity(open.len());
            for (mut conversation, group) in open.into_iter().zip(groups) {
                let RolloutGroup { mut rollouts, policy_version, .. } = group;
                match conversation.goes_on(rollouts.remove(0), room)? {
                    None => going.push(conversation),
                    Some(stop_reason) => {
                        let Conversation { index, place, drawn, .. } = conversation;
                        done[index][place] = Some(Rollout { stop_reason, ..drawn });
                        if done[index].iter().all(Option::is_some) {
                            let rollouts = std::mem::take(&mut done[index]).into_iter().flatten().collect();
                            let prompt = request.prompts[index].prompt.clone();
                            sink(index, RolloutGroup { prompt, rollouts, policy_version })?;
                        }
                    }
                }
            }
            open = going;
        }
        Ok(())
    }
}
