//! What a completion is worth.

use std::ops::Range;

use crate::Sample;

/// A decoded completion, as rewards see it.
#[derive(Debug, Clone, Default)]
pub struct Completion {
    /// The text, special tokens of the end left out.
    pub text: String,
    /// The tokens as they were drawn, end token included; encoding `text` again may give others. Empty where a completion
    /// did not come from a policy.
    pub token_ids: Vec<u32>,
    /// Byte range of each token in `text`; special tokens have an empty range.
    pub token_spans: Vec<Range<usize>>,
    /// The turns that an environment has answered, in order; empty without one.
    pub turns: Vec<CompletedTurn>,
    /// Whether the prompt ended inside the reasoning: some chat templates write `<think>` themselves, and the text goes on
    /// from there.
    pub think_opened: bool,
    /// Whether it ended by itself rather than at a limit of tokens.
    pub finished: bool,
    /// The limit of tokens it was sampled under.
    pub max_new_tokens: usize,
}

impl Completion {
    /// Byte ranges of the turns in `text`, in order; all of it where it is one turn.
    pub fn turn_ranges(&self) -> Vec<Range<usize>> {
        let mut ranges = Vec::with_capacity(self.turns.len().max(1));
        let mut start = 0;
        for turn in &self.turns {
            let last = turn.tokens.end.checked_sub(1).and_then(|last| self.token_spans.get(last));
            let end = last.map_or(self.text.len(), |span| span.end).max(start);
            ranges.push(start..end);
            start = end;
        }
        match ranges.last_mut() {
            // What stands behind the last answered turn belongs to it.
            Some(last) => last.end = self.text.len(),
            None => ranges.push(0..self.text.len()),
        }
        // Bytes of one letter are of one turn.
        ranges.retain(|range| self.text.get(range.clone()).is_some());
        ranges
    }

    /// The text of the last turn: where an answer stands.
    pub fn last_turn(&self) -> &str {
        let last = self.turn_ranges().pop();
        last.and_then(|range| self.text.get(range)).unwrap_or(&self.text)
    }
}

/// A turn of a completion, and what an environment gave for it.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletedTurn {
    /// Its tokens, those that the policy drew in all turns counted.
    pub tokens: Range<usize>,
    /// What it was worth by itself, if the environment says so.
    pub reward: Option<f32>,
}

/// What the question was, and how far training has come.
#[derive(Debug, Clone, Copy)]
pub struct RewardContext<'a> {
    /// The row: prompt, media, answers, step labels, and columns that Kyoka does not know.
    pub sample: &'a Sample,
    /// Where the stage stands.
    pub progress: RewardProgress,
}

impl<'a> RewardContext<'a> {
    /// A row outside of any stage: an evaluation, a test.
    pub fn of(sample: &'a Sample) -> Self {
        Self { sample, progress: RewardProgress::default() }
    }
}

/// How far a stage has come when completions are judged: the same for all completions of a step, and in a run that is
/// resumed with its own settings the same as in one that was not. A resume with more steps has another share from there on. A
/// reward that changes over a stage follows from it alone.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RewardProgress {
    /// Steps of the stage that are done.
    pub step: usize,
    /// Steps of the stage; 0 outside of one.
    pub total_steps: usize,
    /// The share of held-out rows that the run's newest evaluation found answered rightly; `None` before the first one, outside of
    /// a run, and where no reward can tell.
    pub accuracy: Option<f64>,
}

impl RewardProgress {
    /// The share of the stage that is done, in [0, 1]; 1 outside of one: what counts at the end is what counts in an
    /// evaluation.
    pub fn share(self) -> f64 {
        if self.total_steps == 0 { 1.0 } else { (self.step as f64 / self.total_steps as f64).min(1.0) }
    }
}

/// The verdict on one reasoning step, credited at the tokens that state it.
#[derive(Debug, Clone, PartialEq)]
pub struct StepVerdict {
    /// Number of the rule that says it, where several do; verdicts of different rules are on different steps.
    pub rule: usize,
    /// Place of the step in the row's `steps`.
    pub step: usize,
    /// Tokens of the completion that state it, at least one: a word of a real vocabulary is often several.
    pub tokens: Range<usize>,
    /// Its reward.
    pub value: f32,
}

/// The reward of one completion.
///
/// `total` is `None` when nothing could be said: an ungraded completion takes no part in training. It is never
/// turned into 0.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reward {
    /// The sum that training uses, or `None` if ungraded.
    pub total: Option<f32>,
    /// The unweighted parts under their names.
    pub parts: Vec<(String, f32)>,
    /// Verdicts on single steps, for process supervision.
    pub steps: Vec<StepVerdict>,
    /// Whether the answer is right, from a rule that can tell; what counts for pass@k, and what VAPO imitates.
    pub right: Option<bool>,
    /// What the total is the sum of, weight and value each, for a credit that normalises them apart (GDPO); empty for a
    /// reward of one piece. All completions of a prompt have the same terms.
    pub terms: Vec<(f32, f32)>,
    /// Why nothing could be said, where that is a failure: a judge that did not answer, say. The run goes on and reports it.
    pub fault: Option<String>,
}

impl Reward {
    /// A reward with one part.
    pub fn graded(name: &str, value: f32) -> Self {
        Self { total: Some(value), parts: vec![(name.to_owned(), value)], ..Self::default() }
    }

    /// 1 or 0 for an answer that is right or not.
    pub fn answered(name: &str, right: bool) -> Self {
        Self { right: Some(right), ..Self::graded(name, f32::from(right)) }
    }

    /// The explicit "cannot say".
    pub fn ungraded() -> Self {
        Self::default()
    }

    /// Nothing could be said, and that is a failure: it is reported, and counts towards the share that stops a run.
    pub fn failed(fault: impl Into<String>) -> Self {
        Self { fault: Some(fault.into()), ..Self::default() }
    }

    /// Whether the completion is right: what a rule says of its answer, else whether it earns something.
    pub fn is_right(&self) -> bool {
        self.right.unwrap_or(self.total.unwrap_or(0.0) > 0.0)
    }

    /// A part by name.
    pub fn part(&self, name: &str) -> Option<f32> {
        self.parts.iter().find(|(part, _)| part == name).map(|&(_, value)| value)
    }
}

/// Judges completions.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not judge completions",
    note = "implement `RewardFn`: a name, and a score that may be an error or `Reward::ungraded()`, never 0 for a failure"
)]
pub trait RewardFn: Send + Sync {
    /// Name of its part in logs and reports.
    fn name(&self) -> &str;

    /// Names of the parts that it reports: its own, unless it reports several.
    fn part_names(&self) -> Vec<&str> {
        vec![self.name()]
    }

    /// How many groups it judges at the same time; at least 1. Rules compute, and one after the other is best; a judge that waits
    /// for a program or a server says how many it may be asked at once.
    fn concurrency(&self) -> usize {
        1
    }

    /// What it has counted since it was made, by names for the log: requests, tokens, cost of a judge elsewhere. Empty for rules.
    fn counters(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Refuses a row that can never be judged, before a run begins: a field that is missing, an answer that the rule
    /// cannot read. By default every row is taken.
    ///
    /// # Errors
    /// Says which field of the row is unfit, and why.
    fn check_sample(&self, _sample: &Sample) -> Result<(), UnfitRow> {
        Ok(())
    }

    /// The reward of one completion.
    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError>;

    /// The rewards of several completions of one prompt, for judges that read the prompt once for all of them.
    fn score_group(
        &self,
        context: &RewardContext<'_>,
        completions: &[Completion],
    ) -> Result<Vec<Reward>, RewardError> {
        completions.iter().map(|completion| self.score(context, completion)).collect()
    }

    /// [`score_group`](Self::score_group), and a look at what came: this is what callers call, and nothing to implement.
    ///
    /// # Errors
    /// If there is not one reward a completion, a number is not finite, or a verdict stands outside its completion.
    fn judge(
        &self,
        context: &RewardContext<'_>,
        completions: &[Completion],
    ) -> Result<Vec<Reward>, RewardError> {
        let rewards = self.score_group(context, completions)?;
        let (expected, got) = (completions.len(), rewards.len());
        let named = || (self.name().to_owned(), context.sample.id.clone());
        if got != expected {
            let (reward, id) = named();
            return Err(RewardError::Count { reward, id, expected, got });
        }
        for (completion, given) in completions.iter().zip(&rewards) {
            given.check(completion.token_spans.len(), named)?;
        }
        Ok(rewards)
    }
}

impl<R: RewardFn + ?Sized> RewardFn for Box<R> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn part_names(&self) -> Vec<&str> {
        (**self).part_names()
    }

    fn concurrency(&self) -> usize {
        (**self).concurrency()
    }

    fn counters(&self) -> Vec<(String, f64)> {
        (**self).counters()
    }

    fn check_sample(&self, sample: &Sample) -> Result<(), UnfitRow> {
        (**self).check_sample(sample)
    }

    fn score(&self, context: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        (**self).score(context, completion)
    }

    fn score_group(
        &self,
        context: &RewardContext<'_>,
        completions: &[Completion],
    ) -> Result<Vec<Reward>, RewardError> {
        (**self).score_group(context, completions)
    }
}

impl Reward {
    /// An error that names rule and row, if a number is not finite or a verdict stands outside a completion of
    /// `num_tokens`.
    fn check(&self, num_tokens: usize, named: impl Fn() -> (String, String)) -> Result<(), RewardError> {
        let within = |tokens: &Range<usize>| !tokens.is_empty() && tokens.end <= num_tokens;
        if let Some(StepVerdict { step, tokens, .. }) = self.steps.iter().find(|step| !within(&step.tokens)) {
            let ((reward, id), step, got) = (named(), *step, tokens.clone());
            return Err(RewardError::StepTokens { reward, id, step, expected: num_tokens, got });
        }
        let steps = self.steps.iter().map(|verdict| verdict.value);
        let terms = self.terms.iter().flat_map(|&(weight, value)| [weight, value]);
        let parts = self.parts.iter().map(|(_, value)| *value);
        match self.total.into_iter().chain(steps).chain(terms).chain(parts).find(|value| !value.is_finite()) {
            Some(got) => {
                let (reward, id) = named();
                Err(RewardError::NotFinite { reward, id, got })
            }
            None => Ok(()),
        }
    }
}

/// Why no completion of a row can ever be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct UnfitRow {
    /// The row's field.
    pub field: &'static str,
    /// What was expected there, and what stands there.
    pub reason: String,
}

/// Why a completion could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum RewardError {
    /// The row lacks what the rule compares with.
    #[error("reward {reward}: row {id} has no {field}")]
    MissingField {
        /// The rule.
        reward: String,
        /// The row.
        id: String,
        /// What it lacks.
        field: &'static str,
    },
    /// The judge could not do its work.
    #[error("reward {reward}: row {id}: {source}")]
    Failed {
        /// The judge.
        reward: String,
        /// The row.
        id: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is not one reward a completion.
    #[error("reward {reward}: row {id}: expected {expected} rewards, one a completion, got {got}")]
    Count {
        /// The rule.
        reward: String,
        /// The row.
        id: String,
        /// Completions.
        expected: usize,
        /// Rewards.
        got: usize,
    },
    /// The rule gave something that is not a number.
    #[error("reward {reward}: row {id}: expected a finite number, got {got}")]
    NotFinite {
        /// The rule.
        reward: String,
        /// The row.
        id: String,
        /// The value.
        got: f32,
    },
    /// A gate lets through more than all, or less than nothing.
    #[error("reward {reward}: row {id}: expected a number in [0, 1] of a gate, got {got}")]
    Gate {
        /// The rule.
        reward: String,
        /// The row.
        id: String,
        /// The value.
        got: f32,
    },
    /// A verdict stands at tokens that the completion does not have, or at none.
    #[error(
        "reward {reward}: row {id}: step {step}: expected at least one token within 0..{expected}, got {got:?}"
    )]
    StepTokens {
        /// The rule.
        reward: String,
        /// The row.
        id: String,
        /// The step.
        step: usize,
        /// Tokens of the completion.
        expected: usize,
        /// Where the verdict stands.
        got: Range<usize>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives what it holds, whatever is asked.
    struct Canned(Vec<Reward>);

    impl RewardFn for Canned {
        fn name(&self) -> &str {
            "canned"
        }

        fn score(&self, _: &RewardContext<'_>, _: &Completion) -> Result<Reward, RewardError> {
            Ok(Reward::ungraded())
        }

        fn score_group(&self, _: &RewardContext<'_>, _: &[Completion]) -> Result<Vec<Reward>, RewardError> {
            Ok(self.0.clone())
        }
    }

    fn judged(rewards: Vec<Reward>) -> Result<Vec<Reward>, String> {
        let sample = Sample { id: "row-7".into(), ..Sample::default() };
        let completion =
            Completion { text: "ab".into(), token_spans: vec![0..1, 1..2], ..Completion::default() };
        Canned(rewards).judge(&RewardContext::of(&sample), &[completion]).map_err(|error| error.to_string())
    }

    #[test]
    fn verdicts_outside_the_completion_are_refused_with_their_row() {
        let stated = |tokens| {
            let steps = vec![StepVerdict { rule: 0, step: 3, tokens, value: 1.0 }];
            judged(vec![Reward { total: Some(0.0), steps, ..Reward::default() }])
        };
        assert!(stated(0..2).is_ok());
        let expected = "reward canned: row row-7: step 3: expected at least one token within 0..2, got 1..3";
        assert_eq!(stated(1..3), Err(expected.to_owned()));
        assert!(stated(1..1).is_err(), "a step that no token states");
    }

    #[test]
    fn a_share_is_of_the_stage_and_whole_outside_of_one() {
        let share = |step, total_steps| RewardProgress { step, total_steps, accuracy: None }.share();
        assert_eq!([share(0, 4), share(1, 4), share(9, 4), share(0, 0)], [0.0, 0.25, 1.0, 1.0]);
    }

    #[test]
    fn a_reward_a_completion_and_finite_numbers() {
        assert_eq!(judged(vec![Reward::ungraded()]), Ok(vec![Reward::ungraded()]));
        let expected = "reward canned: row row-7: expected 1 rewards, one a completion, got 0";
        assert_eq!(judged(Vec::new()), Err(expected.to_owned()));
        let total = Reward::graded("total", f32::NAN);
        let term = Reward { terms: vec![(1.0, f32::INFINITY)], ..Reward::graded("total", 1.0) };
        let steps = vec![StepVerdict { rule: 0, step: 0, tokens: 0..1, value: f32::NAN }];
        let step = Reward { steps, ..Reward::graded("total", 1.0) };
        let parts = vec![("part".to_owned(), f32::NAN)];
        let part = Reward { parts, ..Reward::graded("total", 1.0) };
        for reward in [total, term, step, part] {
            let error = judged(vec![reward]).unwrap_err();
            assert!(error.starts_with("reward canned: row row-7: expected a finite number, got "), "{error}");
        }
    }
}
