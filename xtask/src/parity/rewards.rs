//! Rewards that shape the length and the form of completions.

use anyhow::{Context, Result};
use kyoka_core::{Completion, Reward, RewardContext, RewardError, RewardFn, Sample};
use kyoka_reward::{CosineLength, RepetitionPenalty, SoftOverlong};

use super::{
    case::Case,
    report::{Checks, Precision},
    unknown,
};

pub fn is_known(kind: &str) -> bool {
    ["dapo_soft_overlong", "cosine_length", "repetition_penalty"].contains(&kind)
}

/// The verdict that a case gives.
struct Verdict(bool);

impl RewardFn for Verdict {
    fn name(&self) -> &str {
        "accuracy"
    }

    fn score(&self, _: &RewardContext<'_>, _: &Completion) -> Result<Reward, RewardError> {
        Ok(Reward::graded(self.name(), f32::from(self.0)))
    }
}

/// The reward of a completion of so many tokens.
fn score(rule: &dyn RewardFn, tokens: usize, max_new_tokens: usize) -> Result<f64> {
    let sample = Sample { id: "case".to_owned(), ..Sample::default() };
    let token_spans = vec![0..0; tokens];
    let completion = Completion { token_spans, finished: true, max_new_tokens, ..Completion::default() };
    let reward = rule.score(&RewardContext::of(&sample), &completion)?;
    reward.total.map(f64::from).context("the completion was not graded")
}

pub fn run(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let count = |name| Ok::<_, anyhow::Error>(case.number(name)? as usize);
    let bound = |name| Ok::<_, anyhow::Error>(case.parameter(name)? as f32);
    let got = match case.kind() {
        "dapo_soft_overlong" => {
            let rule = SoftOverlong { buffer_tokens: count("cache")? };
            score(&rule, count("length")?, count("max_len")?)?
        }
        "cosine_length" => {
            let correct = case.field("correct")?.as_bool().context("correct: expected true or false")?;
            let rule = CosineLength {
                accuracy: Verdict(correct),
                min_wrong: bound("min_value_wrong")?,
                max_wrong: bound("max_value_wrong")?,
                min_correct: bound("min_value_correct")?,
                max_correct: bound("max_value_correct")?,
            };
            score(&rule, count("length")?, count("max_len")?)?
        }
        "repetition_penalty" => {
            let rule = RepetitionPenalty { ngram: count("ngram")?, max_penalty: bound("max_penalty")? };
            f64::from(rule.penalty(&case.counts("token_ids")?))
        }
        other => return unknown("kind", other),
    };
    checks.number("value", got, case.number("value")?, Precision::Single);
    Ok(())
}
