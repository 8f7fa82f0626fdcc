//! The `<think>` and `<answer>` sections of a completion.

use std::ops::Range;

use kyoka_core::Completion;

pub(crate) const THINK: [&str; 2] = ["<think>", "</think>"];
pub(crate) const ANSWER: [&str; 2] = ["<answer>", "</answer>"];

/// The trimmed text of the last `<answer>` section that stands after the reasoning; where no such section is begun, what
/// the last `\boxed{…}` there holds.
///
/// An answer inside an unclosed or open `<think>` does not count. Of several turns the last one answers.
///
/// ```
/// use kyoka_core::Completion;
/// use kyoka_reward::answer;
///
/// let of = |text: &str| {
///     let completion = Completion { text: text.to_owned(), ..Completion::default() };
///     answer(&completion).map(str::to_owned)
/// };
/// assert_eq!(of("<think> 1? </think> <answer> 2 </answer>").as_deref(), Some("2"));
/// assert_eq!(of("<think> 1? </think> It is \\boxed{2}.").as_deref(), Some("2"));
/// assert_eq!(of("<think> <answer> 2 </answer>"), None);
/// assert_eq!(of("<answer> 2"), None);
/// ```
pub fn answer(completion: &Completion) -> Option<&str> {
    let after_think = after_reasoning(completion)?;
    let Some(start) = after_think.rfind(ANSWER[0]) else { return boxed(after_think) };
    let section = &after_think[start + ANSWER[0].len()..];
    Some(section[..section.find(ANSWER[1])?].trim())
}

/// What the last turn says after its reasoning; `None` where that is not closed.
pub(crate) fn after_reasoning(completion: &Completion) -> Option<&str> {
    let text = completion.last_turn();
    match text.rfind(THINK[1]) {
        Some(end) => Some(&text[end + THINK[1].len()..]),
        None if completion.think_opened || text.contains(THINK[0]) => None,
        None => Some(text),
    }
}

/// What the last `\boxed{…}` of a text holds.
pub(crate) fn boxed(text: &str) -> Option<&str> {
    const OPEN: &str = "\\boxed{";
    let inside = &text[text.rfind(OPEN)? + OPEN.len()..];
    Some(inside[..group(inside)?].trim())
}

/// Bytes of a group of LaTeX whose brace is open, up to the one that closes it; an escaped brace is none.
pub(crate) fn group(text: &str) -> Option<usize> {
    let mut depth = 1_usize;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => (),
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// A text without the `\boxed{…}` that is all of it.
pub(crate) fn unboxed(text: &str) -> &str {
    let whole = text.trim();
    match boxed(whole) {
        Some(inside) if whole.rfind("\\boxed{") == Some(0) && whole.ends_with('}') => inside,
        _ => whole,
    }
}

/// Byte ranges of the reasoning, one a turn that reasons: what stands between `<think>` and `</think>`, or the turn's end if it is
/// never closed. Where the prompt opened it, or `<think>` was left out before a `</think>`, it begins with the turn.
pub fn think(completion: &Completion) -> Vec<Range<usize>> {
    let in_turn = |turn: Range<usize>| {
        let text = &completion.text[turn.clone()];
        let start = match text.find(THINK[0]) {
            _ if completion.think_opened => 0,
            Some(at) => at + THINK[0].len(),
            None if text.contains(THINK[1]) => 0,
            None => return None,
        };
        let length = text[start..].find(THINK[1]).unwrap_or(text.len() - start);
        Some(turn.start + start..turn.start + start + length)
    };
    completion.turn_ranges().into_iter().filter_map(in_turn).collect()
}

/// The first MiB of a text: more is not looked at.
pub(crate) fn beginning(text: &str) -> &str {
    let end = (0..=text.len().min(1 << 20)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}

/// Most words of the reasoning that are looked at.
const MOST_WORDS: usize = 50_000;

/// The words of the reasoning with the tokens that state each; none where no token does.
pub(crate) fn reasoning_words(completion: &Completion) -> Vec<(&str, Option<Range<usize>>)> {
    let text = completion.text.as_str();
    let base = text.as_ptr() as usize;
    let words = think(completion).into_iter().flat_map(|range| beginning(&text[range]).split_whitespace());
    let words = words.take(MOST_WORDS).map(|word| {
        let start = word.as_ptr() as usize - base;
        (word, tokens_of(completion, start..start + word.len()))
    });
    words.collect()
}

/// The tokens that state a range of bytes, at least one; none where its first or last byte is of no token.
pub(crate) fn tokens_of(completion: &Completion, bytes: Range<usize>) -> Option<Range<usize>> {
    let spans = &completion.token_spans;
    let token_of = |byte: usize| {
        let place = spans.partition_point(|span| span.end <= byte);
        spans.get(place).filter(|span| span.contains(&byte)).map(|_| place)
    };
    Some(token_of(bytes.start)?..token_of(bytes.end.checked_sub(1)?)? + 1)
}

#[cfg(test)]
pub(crate) mod tests_support {
    use kyoka_core::{Completion, Origin, Place, Sample};

    pub fn sample(answer: Option<&str>, steps: &[&str]) -> Sample {
        Sample {
            id: "r1".into(),
            answer: answer.map(Into::into),
            steps: steps.iter().map(|&step| step.to_owned()).collect(),
            origin: Origin { file: "rows.jsonl".into(), place: Place::Line(1) },
            ..Sample::default()
        }
    }

    /// One token a word, the space before it included.
    pub fn completion(text: &str) -> Completion {
        let mut token_spans = Vec::new();
        let mut start = 0;
        for (at, _) in text.match_indices(' ') {
            if at > start {
                token_spans.push(start..at);
                start = at;
            }
        }
        token_spans.push(start..text.len());
        Completion {
            text: text.to_owned(),
            token_spans,
            finished: true,
            max_new_tokens: 32,
            ..Completion::default()
        }
    }

    /// The same after a prompt that ends with `<think>`.
    pub fn opened(text: &str) -> Completion {
        Completion { think_opened: true, ..completion(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        tests_support::{completion, opened},
        *,
    };

    fn reasoning(completion: &Completion) -> Option<&str> {
        think(completion).pop().map(|range| completion.text[range].trim())
    }

    #[test]
    fn a_prompt_that_opens_the_reasoning_is_read_as_if_the_completion_had() {
        assert_eq!(reasoning(&opened("a b </think> <answer> 2 </answer>")), Some("a b"));
        assert_eq!(answer(&opened("a b </think> <answer> 2 </answer>")), Some("2"));
        assert_eq!(reasoning(&opened("a <answer> 2 </answer>")), Some("a <answer> 2 </answer>"));
        assert_eq!(answer(&opened("a <answer> 2 </answer>")), None, "still thinking");
        assert_eq!(answer(&completion("a <answer> 2 </answer>")), Some("2"));
        assert_eq!(reasoning(&completion("a <answer> 2 </answer>")), None);
        assert_eq!(reasoning(&completion("a b </think> <answer> 2 </answer>")), Some("a b"));
    }

    #[test]
    fn every_turn_reasons_and_the_last_one_answers() {
        let mut told =
            completion("<think> a b </think> <answer> 1 </answer> <think> c </think> <answer> 2 </answer>");
        let turn = |tokens| kyoka_core::CompletedTurn { tokens, reward: None };
        told.turns = vec![turn(0..7), turn(7..13)];
        let words: Vec<&str> = reasoning_words(&told).into_iter().map(|(word, _)| word).collect();
        assert_eq!((words, answer(&told)), (vec!["a", "b", "c"], Some("2")));
        let context = kyoka_core::Sample::default();
        let context = kyoka_core::RewardContext::of(&context);
        let form = |told: &Completion| {
            kyoka_core::RewardFn::score(&crate::Format::default(), &context, told).unwrap().total
        };
        assert_eq!(form(&told), Some(1.0));
        told.turns.clear();
        assert_eq!(form(&told), Some(0.0), "twice in one turn");
        told.turns = vec![turn(0..7), turn(7..9)];
        assert_eq!((told.last_turn(), answer(&told)), (&told.text[told.token_spans[7].start..], Some("2")));
    }

    #[test]
    fn a_box_is_the_answer_where_no_section_is_begun() {
        let of = |text: &str| answer(&completion(text)).map(str::to_owned);
        assert_eq!(of("so \\boxed{1} or \\boxed{\\frac{1}{2}}.").as_deref(), Some("\\frac{1}{2}"));
        assert_eq!(of("<think> \\boxed{1} </think> no"), None);
        assert_eq!(of("\\boxed{1} <answer> 2"), None);
        assert_eq!(of("\\boxed{1"), None);
        assert_eq!(unboxed(" \\boxed{42} "), "42");
        assert_eq!(unboxed("a \\boxed{42}"), "a \\boxed{42}");
        assert_eq!(unboxed("\\boxed{1} or \\boxed{2}"), "\\boxed{1} or \\boxed{2}");
    }
}
