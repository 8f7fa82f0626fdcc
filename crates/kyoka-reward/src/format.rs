//! Does the completion keep to the form?

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, SettingsFault};
use serde::{Deserialize, Serialize};

use crate::{
    Pattern,
    sections::{ANSWER, THINK, after_reasoning, boxed},
};

/// 1 if the completion keeps to the form and ended by itself; else 0. Of several turns the last one is looked at.
///
/// ```
/// use kyoka_core::{Completion, RewardContext, RewardFn, Sample};
/// use kyoka_reward::{Form, Format};
///
/// let text = "<plan> look </plan> <reply> two </reply>".to_owned();
/// let completion = Completion { text, finished: true, ..Completion::default() };
/// let form = Form::Tags(vec!["plan".to_owned(), "reply".to_owned()]);
/// let reward = Format { form }.score(&RewardContext::of(&Sample::default()), &completion).unwrap();
/// assert_eq!(reward.total, Some(1.0));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Format {
    /// The form. Default `think_answer`.
    #[serde(skip_serializing_if = "is_think_answer")]
    pub form: Form,
}

/// How a completion is laid out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `<think> … </think> <answer> … </answer>` and nothing else: [`Tags`](Self::Tags) of these two. The first `<think>` may be
    /// left out, and must be where the prompt ends with it already.
    #[default]
    ThinkAnswer,
    /// After the reasoning, if there is any, exactly one `\boxed{…}` that is closed and not empty; prose may stand around it.
    Boxed,
    /// A section for each name, in this order: `<name> … </name>`. Each tag stands once, no section is empty, and nothing but white
    /// space stands outside; any other text may stand inside, `<` too. Where the prompt ends with `<think>`, a first section of
    /// that name has begun already.
    Tags(Vec<String>),
    /// A pattern that is found in the text of up to 1 MiB, white space at both ends left out; `^` and `$` hold it to all of it. Where the prompt ends
    /// with `<think>`, the text begins with that.
    Regex(Pattern),
}

fn is_think_answer(form: &Form) -> bool {
    *form == Form::ThinkAnswer
}

impl OwnSettings for Format {
    fn check(&self) -> Result<(), SettingsFault> {
        let Form::Tags(names) = &self.form else { return Ok(()) };
        let fault = |reason: String| Err(SettingsFault { path: vec!["form".into(), "tags".into()], reason });
        let unfit = |name: &&String| {
            name.is_empty() || name.contains(|letter: char| letter.is_whitespace() || "<>/".contains(letter))
        };
        match names.iter().find(unfit) {
            _ if names.is_empty() => fault("expected at least one name, got none".to_owned()),
            Some(name) => fault(format!("expected names without spaces, `<`, `>` and `/`, got {name:?}")),
            None if names.iter().enumerate().any(|(place, name)| names[..place].contains(name)) => {
                fault(format!("expected each name once, got {names:?}"))
            }
            None => Ok(()),
        }
    }
}

impl Format {
    fn is_kept(&self, completion: &Completion) -> bool {
        let (text, opened) = (completion.last_turn().trim(), completion.think_opened);
        match &self.form {
            Form::ThinkAnswer => {
                let rest = if opened { text } else { text.strip_prefix(THINK[0]).unwrap_or(text) };
                are_sections(
                    rest,
                    &[THINK, ANSWER].map(|[open, close]| [open.to_owned(), close.to_owned()]),
                    true,
                )
            }
            Form::Boxed => after_reasoning(completion).is_some_and(|said| {
                said.matches("\\boxed{").count() == 1 && boxed(said).is_some_and(|inside| !inside.is_empty())
            }),
            Form::Tags(names) => {
                let tags: Vec<_> =
                    names.iter().map(|name| [format!("<{name}>"), format!("</{name}>")]).collect();
                let opened = opened && tags.first().is_some_and(|[open, _]| open == THINK[0]);
                are_sections(text, &tags, opened)
            }
            Form::Regex(_) if text.len() > LONGEST => false,
            Form::Regex(pattern) if opened => pattern.regex().is_match(&format!("{}{text}", THINK[0])),
            Form::Regex(pattern) => pattern.regex().is_match(text),
        }
    }
}

/// Most bytes of a text that a pattern is held against.
const LONGEST: usize = 1 << 20;

/// Whether a text is sections of these tags and nothing else; `opened` says that the first has begun before the text.
fn are_sections(text: &str, tags: &[[String; 2]], opened: bool) -> bool {
    let mut rest = text;
    for (number, [open, close]) in tags.iter().enumerate() {
        if number > 0 || !opened {
            let Some(inside) = rest.trim_start().strip_prefix(open.as_str()) else { return false };
            rest = inside;
        }
        let Some((inside, behind)) = rest.split_once(close.as_str()) else { return false };
        let plain = tags.iter().flatten().all(|tag| !inside.contains(tag.as_str()));
        if inside.trim().is_empty() || !plain {
            return false;
        }
        rest = behind;
    }
    rest.trim().is_empty()
}

impl RewardFn for Format {
    fn name(&self) -> &str {
        "format"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        Ok(Reward::graded(self.name(), f32::from(completion.finished && self.is_kept(completion))))
    }
}

#[cfg(test)]
mod tests {
    use kyoka_core::own;

    use super::*;
    use crate::sections::tests_support::{completion, opened};

    fn keeps_form(text: &str, think_opened: bool) -> bool {
        Format::default().is_kept(&Completion { think_opened, ..completion(text) })
    }

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

    fn made(settings: &str) -> Result<Format, String> {
        own(settings.parse().unwrap()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn other_forms_have_rules_of_their_own() {
        let kept = |settings: &str, completion: &Completion| made(settings).unwrap().is_kept(completion);
        let box_form = "form = 'boxed'";
        for (text, right) in [
            ("so \\boxed{4}.", true),
            ("<think> \\boxed{1}? </think> \\boxed{\\frac{1}{2}}", true),
            ("\\boxed{}", false),
            ("\\boxed{1} or \\boxed{2}", false),
            ("\\boxed{1", false),
            ("<think> \\boxed{1}", false),
            ("4", false),
        ] {
            assert_eq!(kept(box_form, &completion(text)), right, "{text}");
        }
        let tags = "form = { tags = ['think', 'plan', 'reply'] }";
        assert!(kept(tags, &completion("<think>a</think> <plan>b < c</plan>\n<reply>d</reply>")));
        assert!(
            kept(tags, &opened("a</think> <plan>b</plan><reply>d</reply>")),
            "the template's own opening"
        );
        for wrong in [
            "<plan>b</plan><reply>d</reply>",
            "a</think> <plan>b</plan><reply>d</reply>",
            "<think>a</think><reply>d</reply><plan>b</plan>",
        ] {
            assert!(!kept(tags, &completion(wrong)), "{wrong}");
        }
        let regex = "form = { regex = '^<think>[^<]+</think>\\s*\\d+$' }";
        assert!(kept(regex, &completion("<think>a</think> 42")) && kept(regex, &opened("a</think> 42")));
        assert!(!kept(regex, &completion("<think>a</think> 42 or 43")));
        assert_eq!(
            made("form = { tags = [] }").unwrap_err(),
            "form: tags: expected at least one name, got none"
        );
        assert!(made("form = { tags = ['a b'] }").unwrap_err().contains("got \"a b\""));
        assert!(made("form = { tags = ['a', 'a'] }").unwrap_err().contains("expected each name once"));
        assert!(made("form = { regex = '(' }").unwrap_err().contains("expected a regular expression"));
        assert!(made("form = 'box'").unwrap_err().contains("did you mean `boxed`?"));
    }

    #[test]
    fn a_completion_that_was_cut_off_keeps_no_form() {
        let cut = Completion { finished: false, ..completion("\\boxed{4}") };
        let rule = made("form = 'boxed'").unwrap();
        let total = |completion: &Completion| {
            rule.score(&RewardContext::of(&kyoka_core::Sample::default()), completion).unwrap().total
        };
        assert_eq!((total(&cut), total(&completion("\\boxed{4}"))), (Some(0.0), Some(1.0)));
    }
}
