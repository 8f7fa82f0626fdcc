//! Does the completion keep to the form?

use kyoka_core::{Completion, Reward, RewardContext, RewardError, RewardFn};

/// 1 if the completion is exactly `<think> … </think> <answer> … </answer>` and ended by itself; else 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct Format;

impl RewardFn for Format {
    fn name(&self) -> &str {
        "format"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let kept = completion.finished && keeps_form(&completion.text);
        Ok(Reward::graded(self.name(), f32::from(kept)))
    }
}

fn keeps_form(text: &str) -> bool {
    let section = |text: &'_ str, open: &str, close: &str| -> Option<usize> {
        let inner = text.strip_prefix(open)?;
        let length = inner.find(close)?;
        let plain = !inner[..length].contains('<') && !inner[..length].trim().is_empty();
        plain.then_some(open.len() + length + close.len())
    };
    let text = text.trim();
    let Some(think_end) = section(text, "<think>", "</think>") else { return false };
    let rest = text[think_end..].trim_start();
    section(rest, "<answer>", "</answer>").is_some_and(|end| end == rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_wants_both_sections_once_and_nothing_else() {
        assert!(keeps_form("<think> a </think> <answer> 2 </answer>"));
        assert!(keeps_form("<think>a</think>\n<answer>2</answer>\n"));
        for wrong in [
            "",
            "<answer> 2 </answer>",
            "<think> a </think>",
            "<think> a </think> <answer> </answer>",
            "<think> a </think> <answer> 2 </answer> 2",
            "<think> a <answer> 2 </answer> </think>",
            "<think> <think> a </think> <answer> 2 </answer>",
        ] {
            assert!(!keeps_form(wrong), "{wrong}");
        }
    }
}
