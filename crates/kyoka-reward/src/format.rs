//! Does the completion keep to the form?

use kyoka_core::{Completion, Reward, RewardContext, RewardError, RewardFn};
use serde::{Deserialize, Serialize};

use crate::sections::{ANSWER, THINK};

/// 1 if the completion is exactly `<think> … </think> <answer> … </answer>` and ended by itself; else 0.
///
/// Each tag stands once, and nothing but white space outside the two sections, of which neither is empty; any other text
/// may stand inside, `<` too. The first `<think>` may be left out, and must be where the prompt ends with it already. Of several
/// turns the last one is looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {}

impl RewardFn for Format {
    fn name(&self) -> &str {
        "format"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let kept = completion.finished && keeps_form(completion.last_turn(), completion.think_opened);
        Ok(Reward::graded(self.name(), f32::from(kept)))
    }
}

fn keeps_form(text: &str, think_opened: bool) -> bool {
    sections(text.trim(), think_opened).is_some_and(|sections| {
        let plain = |section: &str| THINK.iter().chain(&ANSWER).all(|tag| !section.contains(tag));
        sections.iter().all(|section| !section.trim().is_empty() && plain(section))
    })
}

/// The reasoning and the answer, if nothing stands around them.
fn sections(text: &str, think_opened: bool) -> Option<[&str; 2]> {
    let text = if think_opened { text } else { text.strip_prefix(THINK[0]).unwrap_or(text) };
    let (reasoning, rest) = text.split_once(THINK[1])?;
    let answer = rest.trim_start().strip_prefix(ANSWER[0])?.strip_suffix(ANSWER[1])?;
    Some([reasoning, answer])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_wants_both_sections_once_and_nothing_else() {
        for right in [
            "<think> a </think> <answer> 2 </answer>",
            "<think>a</think>\n<answer>2</answer>\n",
            "<think> 3 < 5, the <b> tag, <thinking> </ think> </think> <answer> x < 5 </answer>",
            "a </think> <answer> 2 </answer>",
        ] {
            assert!(keeps_form(right, false), "{right}");
        }
        for wrong in [
            "",
            "<answer> 2 </answer>",
            "<think> a </think>",
            "<think> a </think> <answer> </answer>",
            "<think> </think> <answer> 2 </answer>",
            "</think> <answer> 2 </answer>",
            "<think> a </think> <answer> 2 </answer> 2",
            "b <think> a </think> <answer> 2 </answer>",
            "<think> a </think> b <answer> 2 </answer>",
            "<think> a <answer> 2 </answer> </think>",
            "<think> <answer> 1 </answer> </think> <answer> 2 </answer>",
            "<think> <think> a </think> <answer> 2 </answer>",
            "<think> a </think> <think> b </think> <answer> 2 </answer>",
            "<think> a </think> <answer> 1 </answer> <answer> 2 </answer>",
            "<think> a </think> <answer> </think> 2 </answer>",
        ] {
            assert!(!keeps_form(wrong, false), "{wrong}");
        }
    }

    #[test]
    fn a_prompt_that_opens_the_reasoning_leaves_no_room_for_a_second_tag() {
        assert!(keeps_form("a </think> <answer> 2 </answer>", true));
        assert!(keeps_form("3 < 5 </think>\n\n<answer>2</answer>", true));
        assert!(!keeps_form("<think> a </think> <answer> 2 </answer>", true));
        assert!(!keeps_form("<answer> 2 </answer>", true));
    }
}
