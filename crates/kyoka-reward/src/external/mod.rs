//! Rewards that another program gives, over a pipe or HTTP: what goes there, what comes back, and what becomes of failures.

#[cfg(feature = "http")]
mod chat;
#[cfg(feature = "http")]
mod http;
mod program;
mod wire;

use std::time::{Duration, Instant};

use kyoka_core::{Completion, Reward, RewardContext, RewardError, RewardFn, SettingsFault};

#[cfg(feature = "http")]
pub use self::http::{HttpReward, HttpRewardSettings};
pub use self::program::{ProgramReward, ProgramRewardSettings, stop_programs};
use self::wire::{answer, request};
#[cfg(feature = "http")]
pub(crate) use self::{
    chat::ChatEndpoint,
    http::{check_address, token},
};
use crate::gate::Gate;

/// Most bytes of an answer.
const LONGEST_ANSWER: usize = 16 << 20;

/// Longest wait before another try.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Why a judge gave no answer.
#[derive(Debug)]
struct NoAnswer {
    /// What was expected and what came.
    reason: String,
    /// Whether it may come the next time.
    again: bool,
    /// How long the judge asks to be left alone first.
    pause: Option<Duration>,
}

impl NoAnswer {
    /// One that another try may mend.
    fn now(reason: String) -> Self {
        Self { reason, again: true, pause: None }
    }
}

/// How a question reaches a judge.
trait Ask: Send + Sync {
    /// The name in logs, unless the recipe gives another one.
    const NAME: &'static str;

    /// Whether each answer must have the number of its question.
    const IS_NUMBERED: bool;

    /// What the judge is called in messages.
    fn judge(&self) -> String;

    /// Sends a request, a line of JSON, and waits for the answer until `deadline`.
    fn ask(&self, request: &str, deadline: Instant) -> Result<String, NoAnswer>;
}

/// How often and how long a judge is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Patience {
    time_limit: Duration,
    retries: u32,
    concurrency: usize,
}

impl Patience {
    /// Checks the ranges.
    pub fn new(time_limit_s: f64, retries: u32, concurrency: usize) -> Result<Self, SettingsFault> {
        let holds = time_limit_s > 0.0 && time_limit_s <= 86_400.0;
        SettingsFault::unless(holds, "time_limit_s", "a number above 0 and at most 86400", time_limit_s)?;
        SettingsFault::unless(retries <= 10, "retries", "at most 10", retries)?;
        let holds = (1..=64).contains(&concurrency);
        SettingsFault::unless(holds, "concurrency", "a number from 1 to 64", concurrency)?;
        Ok(Self { time_limit: Duration::from_secs_f64(time_limit_s), retries, concurrency })
    }
}

/// Checks the ranges of a [`Patience`].
pub(crate) fn check_patience(
    time_limit_s: f64,
    retries: u32,
    concurrency: usize,
) -> Result<(), SettingsFault> {
    Patience::new(time_limit_s, retries, concurrency).map(drop)
}

/// Tries until an answer comes; what is wrong with the last one where none does, and how often was tried.
fn patiently<T>(retries: u32, mut once: impl FnMut() -> Result<T, NoAnswer>) -> Result<T, String> {
    let mut tries = 0;
    loop {
        let NoAnswer { reason, again, pause } = match once() {
            Ok(answer) => return Ok(answer),
            Err(none) => none,
        };
        if !again || tries == retries {
            let times = if tries == 0 { String::new() } else { format!(" ({} tries)", tries + 1) };
            return Err(format!("{reason}{times}"));
        }
        tries += 1;
        let waited = pause.unwrap_or_else(|| Duration::from_millis(100) * 2_u32.pow(tries));
        std::thread::sleep(waited.min(LONGEST_PAUSE));
    }
}

/// A reward that another program gives.
struct External<A> {
    asking: A,
    patience: Patience,
    gate: Gate,
}

impl<A: Ask> External<A> {
    fn new(asking: A, patience: Patience) -> Self {
        Self { asking, gate: Gate::new(patience.concurrency), patience }
    }

    /// Rewards of a group; each of them a failure where no answer comes.
    fn rewards(&self, context: &RewardContext<'_>, completions: &[Completion]) -> Vec<Reward> {
        // Other rewards of the recipe may be asked by more threads.
        let judged = self.gate.pass(|| {
            patiently(self.patience.retries, || {
                let (id, request) = request(context, completions)?;
                let text = self.asking.ask(&request, Instant::now() + self.patience.time_limit)?;
                answer(&text, (id, A::IS_NUMBERED), completions.len(), A::NAME).map_err(NoAnswer::now)
            })
        });
        judged.unwrap_or_else(|reason| {
            let fault = format!("{}: row {}: {reason}", self.asking.judge(), context.sample.id);
            vec![Reward::failed(fault); completions.len()]
        })
    }
}

impl<A: Ask> RewardFn for External<A> {
    fn name(&self) -> &str {
        A::NAME
    }

    fn concurrency(&self) -> usize {
        self.patience.concurrency
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        Ok(self.rewards(context, std::slice::from_ref(completion)).remove(0))
    }

    fn score_group(
        &self,
        context: &RewardContext<'_>,
        completions: &[Completion],
    ) -> Result<Vec<Reward>, RewardError> {
        if completions.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.rewards(context, completions))
    }
}

/// A reward that passes everything on to the [`External`] it holds.
macro_rules! external {
    ($Reward:ident) => {
        impl RewardFn for $Reward {
            fn name(&self) -> &str {
                self.0.name()
            }

            fn concurrency(&self) -> usize {
                self.0.concurrency()
            }

            fn score(
                &self,
                context: &RewardContext<'_>,
                completion: &Completion,
            ) -> Result<Reward, RewardError> {
                self.0.score(context, completion)
            }

            fn score_group(
                &self,
                context: &RewardContext<'_>,
                completions: &[Completion],
            ) -> Result<Vec<Reward>, RewardError> {
                self.0.score_group(context, completions)
            }
        }
    };
}

use external;
