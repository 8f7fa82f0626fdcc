//! Who draws completions: what it is asked, what it must give, and a look at what it gave.

use crate::{
    Prompt, Rollout, RolloutError, RolloutGroup, Sample, SamplingConfig, StopReason,
    rollout::observation_tokens,
};

/// A prompt to complete.
#[derive(Debug, Clone, Copy)]
pub struct RolloutPrompt<'a> {
    /// The prompt as the model reads it.
    pub prompt: &'a Prompt,
    /// The row that it was made of, with what an episode shows first: what an engine elsewhere reads, which lays out the text
    /// itself. `None` where no dataset stands behind the prompt, and for a turn behind others, which has no row.
    pub sample: Option<&'a Sample>,
    /// What the draws of its completions follow from, beside the request's seed: the same key draws the same, whatever
    /// stands beside the prompt in the request.
    pub key: u64,
}

impl<'a> RolloutPrompt<'a> {
    /// Prompts without rows, each with its place as key.
    pub fn numbered(prompts: &'a [Prompt]) -> Vec<Self> {
        let numbered = prompts.iter().zip(0..);
        numbered.map(|(prompt, key)| Self { prompt, sample: None, key }).collect()
    }
}

/// What is asked of an engine.
#[derive(Clone, Copy)]
pub struct RolloutRequest<'a> {
    /// The prompts; each becomes a group.
    pub prompts: &'a [RolloutPrompt<'a>],
    /// Completions a prompt.
    pub group_size: usize,
    /// How to draw them.
    pub sampling: &'a SamplingConfig,
    /// Same seed and keys, same completions, whatever the batching.
    pub seed: u64,
    /// What answers the turns of each completion; `None` where a completion is one turn.
    pub episodes: Option<&'a dyn Episodes>,
}

/// What lies between the turns of completions: an engine shows it what was drawn, and goes on behind what it says.
pub trait Episodes: Send + Sync {
    /// Most tokens that the observations of a completion take together.
    fn max_observation_tokens(&self) -> usize;

    /// Begins the episode of completion `place` of prompt number `index`.
    ///
    /// # Errors
    /// If it cannot be played.
    fn open(&self, index: usize, place: usize) -> Result<Box<dyn Episode + '_>, RolloutError>;
}

/// The episode of one completion.
pub trait Episode: Send {
    /// Answers a turn, given its tokens and how it ended. Calls may block.
    ///
    /// # Errors
    /// If the environment fails.
    fn answer(&mut self, turn: &[u32], ended: StopReason) -> Result<Reply, RolloutError>;
}

/// What follows a turn.
#[derive(Debug, Clone)]
pub struct Reply {
    /// What the turn was worth by itself, if that is said.
    pub reward: Option<f32>,
    /// What the policy reads before its next turn, at least a token; or why there is none.
    pub next: Result<Prompt, StopReason>,
}

impl RolloutRequest<'_> {
    /// Looks at the group of prompt number `index`, as an engine gave it: as many completions as wanted, each of at least a
    /// token and no more than were asked for, none of them `banned`, with a log-probability for every token, and with turns that
    /// were answered exactly where there is something to answer them; each group once. `seen` says of every prompt whether its group has come.
    ///
    /// # Errors
    /// Says what is missing or too much, and of which prompt.
    pub fn check(
        &self,
        index: usize,
        group: &RolloutGroup,
        banned: &[u32],
        seen: &mut [bool],
    ) -> Result<(), RolloutError> {
        match seen.get_mut(index) {
            None => {
                let (what, expected) = ("groups, one a prompt", seen.len());
                return Err(RolloutError::Count { what, expected, got: index + 1 });
            }
            Some(true) => return Err(RolloutError::Twice { index }),
            Some(seen) => *seen = true,
        }
        let (expected, got) = (self.group_size, group.rollouts.len());
        if got != expected {
            return Err(RolloutError::Count { what: "completions of every prompt", expected, got });
        }
        for Rollout { token_ids, logprobs, entropies, turns, .. } in &group.rollouts {
            let expected = token_ids.len();
            if expected == 0 {
                return Err(RolloutError::EmptyCompletion { index });
            }
            let most = self.sampling.max_new_tokens;
            if expected > most {
                return Err(RolloutError::CompletionTooLong { index, expected: most, got: expected });
            }
            let ends: Vec<usize> = turns.iter().map(|turn| turn.end).collect();
            let in_order =
                ends.windows(2).all(|pair| pair[0] < pair[1]) && ends.first().is_none_or(|&end| end > 0);
            let seen_to_the_end = turns.iter().all(|turn| turn.end < expected || turn.observation.is_none());
            if !in_order || ends.last().is_some_and(|&end| end > expected) || !seen_to_the_end {
                let expected = format!(
                    "turns that end at rising places up to {expected}, what is read before the last token"
                );
                return Err(RolloutError::Turns { index, expected, got: ends });
            }
            let read = observation_tokens(turns);
            let unplayed = match self.episodes {
                None => (!turns.is_empty()).then_some("no turns, as nothing answers them".to_owned()),
                Some(_) if turns.is_empty() => Some(
                    "at least one turn that was answered: an engine of single turns needs `TurnByTurn`"
                        .to_owned(),
                ),
                Some(episodes) => {
                    let most = episodes.max_observation_tokens();
                    (read > most).then(|| format!("at most {most} tokens of observations, not {read}"))
                }
            };
            if let Some(expected) = unplayed {
                return Err(RolloutError::Turns { index, expected, got: ends });
            }
            if let Some(got) = turns.iter().filter_map(|turn| turn.reward).find(|reward| !reward.is_finite())
            {
                let source = format!("expected a finite reward of a turn, got {got}").into();
                return Err(RolloutError::Environment { index, source });
            }
            if let Some(&token) = token_ids.iter().find(|id| banned.contains(id)) {
                return Err(RolloutError::BannedToken { index, token });
            }
            if let Some(&got) = logprobs.iter().find(|logprob| !logprob.is_finite() || **logprob > 1e-3) {
                return Err(RolloutError::NoLogprob { index, got });
            }
            if logprobs.len() != expected {
                return Err(RolloutError::MissingLogprobs { index, expected, got: logprobs.len() });
            }
            if !entropies.is_empty() && entropies.len() != expected {
                let what = "entropies of the tokens of a completion, or none";
                return Err(RolloutError::Count { what, expected, got: entropies.len() });
            }
            if let Some(&got) = entropies.iter().find(|entropy| !entropy.is_finite() || **entropy < -1e-3) {
                return Err(RolloutError::NoEntropy { index, got });
            }
        }
        Ok(())
    }
}

/// Takes the group of a prompt, by the prompt's place in the request; an error ends the sampling.
pub type GroupSink<'a> = dyn FnMut(usize, RolloutGroup) -> Result<(), RolloutError> + 'a;

/// Draws completions from a policy of type `M`, in this process or elsewhere.
///
/// An engine is held by a run from its first step to its last. Before completions are wanted it is told of the weights
/// ([`publish`](Self::publish)), and before they change it is told that they are not wanted for a while
/// ([`release`](Self::release)). `kyoka_rollout::LocalEngine` samples in this process.
///
/// ```
/// use kyoka_core::{GroupSink, Rollout, RolloutEngine, RolloutError, RolloutGroup, RolloutRequest, StopReason};
///
/// /// Answers every prompt with its end token.
/// struct Silent;
///
/// impl<M> RolloutEngine<M> for Silent {
///     fn banned_ids(&self) -> &[u32] {
///         &[]
///     }
///     fn publish(&self, _version: u64, _model: &M) -> Result<(), RolloutError> {
///         Ok(())
///     }
///     fn generate(&self, request: RolloutRequest<'_>, sink: &mut GroupSink<'_>) -> Result<(), RolloutError> {
///         for (place, asked) in request.prompts.iter().enumerate() {
///             let end = Rollout::of_turn(vec![0], vec![0.0], Vec::new(), StopReason::EndToken);
///             let rollouts = vec![end; request.group_size];
///             sink(place, RolloutGroup { prompt: asked.prompt.clone(), rollouts, policy_version: 0 })?;
///         }
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not draw completions from a `{M}`",
    note = "implement `RolloutEngine<M>`: `publish` takes over weights, `generate` hands a group a prompt to the sink"
)]
pub trait RolloutEngine<M>: Send + Sync {
    /// Tokens that are never drawn: they have no share of the probabilities, here and wherever completions are scored.
    fn banned_ids(&self) -> &[u32];

    /// Takes over the weights of `model`, for everything that is asked from here on. `version` counts the optimizer updates
    /// of the run; a version that the engine has already need not be taken over again.
    ///
    /// # Errors
    /// If the weights cannot be brought to where completions are drawn.
    fn publish(&self, version: u64, model: &M) -> Result<(), RolloutError>;

    /// Says that nothing will be asked before the next [`publish`](Self::publish): an engine in this process lets its copy
    /// of the weights go. Does nothing by default.
    fn release(&self) {}

    /// Completes the prompts and gives each group to the sink as soon as it is whole, in any order, each once.
    ///
    /// Every token has its log-probability in [`SamplingConfig::distribution`] of the published weights.
    ///
    /// # Errors
    /// If the request cannot be met, the sink says so, or sampling was told to stop.
    ///
    /// # Panics
    /// If no weights were published.
    fn generate(&self, request: RolloutRequest<'_>, sink: &mut GroupSink<'_>) -> Result<(), RolloutError>;

    /// [`generate`](Self::generate), and a look at what came: the groups in the order of the prompts. This is what callers
    /// who have nothing to do meanwhile call, and nothing to implement.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and if not every prompt got the completions that were asked for.
    fn generate_all(&self, request: RolloutRequest<'_>) -> Result<Vec<RolloutGroup>, RolloutError> {
        let mut groups: Vec<Option<RolloutGroup>> = request.prompts.iter().map(|_| None).collect();
        let mut seen = vec![false; groups.len()];
        self.generate(request, &mut |index, group| {
            request.check(index, &group, self.banned_ids(), &mut seen)?;
            groups[index] = Some(group);
            Ok(())
        })?;
        let (expected, got) = (groups.len(), groups.iter().flatten().count());
        if got != expected {
            return Err(RolloutError::Count { what: "groups, one a prompt", expected, got });
        }
        Ok(groups.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnsweredTurn;

    fn group(completions: &[(usize, usize)]) -> RolloutGroup {
        let rollout = |&(tokens, logprobs): &(usize, usize)| {
            let (token_ids, logprobs) = (vec![1; tokens], vec![-1.0; logprobs]);
            Rollout::of_turn(token_ids, logprobs, Vec::new(), StopReason::EndToken)
        };
        RolloutGroup {
            prompt: Prompt::default(),
            rollouts: completions.iter().map(rollout).collect(),
            policy_version: 0,
        }
    }

    /// Gives what it holds, whatever is asked.
    struct Canned(Vec<RolloutGroup>);

    impl RolloutEngine<()> for Canned {
        fn banned_ids(&self) -> &[u32] {
            &[]
        }

        fn publish(&self, _: u64, (): &()) -> Result<(), RolloutError> {
            Ok(())
        }

        fn generate(&self, _: RolloutRequest<'_>, sink: &mut GroupSink<'_>) -> Result<(), RolloutError> {
            // The last first: groups come in any order.
            let mut groups = self.0.iter().enumerate().rev();
            groups.try_for_each(|(place, group)| sink(place, group.clone()))
        }
    }

    /// Says how much may be observed, and is not asked.
    struct Observed(usize);

    impl Episodes for Observed {
        fn max_observation_tokens(&self) -> usize {
            self.0
        }

        fn open(&self, _: usize, _: usize) -> Result<Box<dyn Episode + '_>, RolloutError> {
            unreachable!("nothing is sampled")
        }
    }

    #[test]
    fn what_an_engine_gives_is_what_was_asked_for() {
        let (prompts, sampling) = ([Prompt::default(), Prompt::default()], SamplingConfig::default());
        let asked = RolloutPrompt::numbered(&prompts);
        let request =
            RolloutRequest { prompts: &asked, group_size: 2, sampling: &sampling, seed: 0, episodes: None };
        let given = |groups| Canned(groups).generate_all(request).map_err(|error| error.to_string());
        let whole = || group(&[(2, 2), (1, 1)]);
        let lengths = |group: &RolloutGroup| group.rollouts[0].token_ids.len();
        let in_order = given(vec![whole(), group(&[(5, 5), (1, 1)])]).unwrap();
        assert_eq!(in_order.iter().map(lengths).collect::<Vec<_>>(), [2, 5]);
        let told = |entropies: Vec<f32>| {
            let mut group = whole();
            group.rollouts[0].entropies = entropies;
            group
        };
        assert!(given(vec![whole(), told(vec![0.5; 2])]).is_ok());
        let with = |logprob: f32| {
            let mut group = whole();
            group.rollouts[0].logprobs[1] = logprob;
            given(vec![whole(), group]).map(drop)
        };
        for (logprob, shown) in [(f32::NAN, "NaN"), (0.5, "0.5"), (f32::NEG_INFINITY, "-inf")] {
            let said = format!("prompt 1: expected finite log-probabilities of at most 0, got {shown}");
            assert_eq!(with(logprob), Err(said), "what was drawn can be drawn");
        }
        let mut seen = [true, false];
        let again = request.check(0, &whole(), &[], &mut seen).unwrap_err().to_string();
        assert_eq!(again, "prompt 0: expected its group once, got it twice");
        let banned = request.check(1, &whole(), &[7, 1], &mut seen).unwrap_err().to_string();
        assert_eq!(banned, "prompt 1: expected completions without banned tokens, got one with token 1");
        let turned = |ends: &[usize], observed: bool| {
            let observation = observed.then(|| Prompt { token_ids: vec![3], ..Prompt::default() });
            let turn =
                |&end: &usize| AnsweredTurn { end, reward: Some(1.0), observation: observation.clone() };
            let mut group = whole();
            group.rollouts[0].turns = ends.iter().map(turn).collect();
            group.rollouts[1].turns = vec![AnsweredTurn { end: 1, reward: None, observation: None }];
            group
        };
        let played = |group: RolloutGroup, most: usize| {
            let mut seen = [true, false];
            let request = RolloutRequest { episodes: Some(&Observed(most)), ..request };
            request.check(1, &group, &[], &mut seen).map_err(|error| error.to_string())
        };
        let turned = |ends: &[usize], observed: bool| played(turned(ends, observed), 4);
        assert_eq!([turned(&[1], true), turned(&[1, 2], false)], [Ok(()), Ok(())]);
        for (ends, observed) in [(&[2][..], true), (&[3], false), (&[2, 1], false), (&[0], false)] {
            let said = turned(ends, observed).unwrap_err();
            assert!(said.starts_with("prompt 1: expected turns that end at rising places up to 2"), "{said}");
        }
        let said = played(whole(), 4).unwrap_err();
        assert!(
            said.contains("at least one turn that was answered: an engine of single turns needs"),
            "{said}"
        );
        let observation = Some(Prompt { token_ids: vec![3; 5], ..Prompt::default() });
        let mut long = whole();
        long.rollouts[0].turns = vec![AnsweredTurn { end: 1, reward: None, observation }];
        long.rollouts[1].turns = vec![AnsweredTurn { end: 1, reward: None, observation: None }];
        assert!(played(long.clone(), 4).unwrap_err().contains("at most 4 tokens of observations, not 5"));
        assert_eq!(played(long.clone(), 5), Ok(()));
        let unasked = given(vec![whole(), long]).map(drop).unwrap_err();
        assert!(unasked.contains("no turns, as nothing answers them"), "{unasked}");
        for (groups, message) in [
            (vec![whole()], "expected 2 groups, one a prompt, got 1"),
            (vec![whole(), whole(), whole()], "expected 2 groups, one a prompt, got 3"),
            (
                vec![group(&[(65, 65), (1, 1)]), whole()],
                "prompt 0: expected completions of at most 64 tokens, got one of 65",
            ),
            (vec![whole(), group(&[(1, 1)])], "expected 2 completions of every prompt, got 1"),
            (
                vec![group(&[(1, 1), (0, 0)]), whole()],
                "prompt 0: expected a completion of at least one token, got an empty one",
            ),
            (
                vec![whole(), group(&[(2, 0), (1, 1)])],
                "prompt 1: expected 2 log-probabilities of the tokens of a completion, got 0",
            ),
            (
                vec![whole(), told(vec![0.5])],
                "expected 2 entropies of the tokens of a completion, or none, got 1",
            ),
            (
                vec![whole(), told(vec![0.5, f32::INFINITY])],
                "prompt 1: expected finite entropies of at least 0, got inf",
            ),
        ] {
            assert_eq!(given(groups).map(drop), Err(message.to_owned()));
        }
    }
}
