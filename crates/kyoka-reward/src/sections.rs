//! The `<think>` and `<answer>` sections of a completion.

use std::ops::Range;

use kyoka_core::Completion;

/// Byte range between the last `<tag>` and the `</tag>` that follows it.
fn last_section(text: &str, open: &str, close: &str) -> Option<Range<usize>> {
    let start = text.rfind(open)? + open.len();
    let length = text[start..].find(close)?;
    Some(start..start + length)
}

/// The trimmed text of the last `<answer>` section that stands after the reasoning.
///
/// An answer inside an unclosed or open `<think>` does not count.
///
/// ```
/// use kyoka_reward::answer;
/// assert_eq!(answer("<think> 1? </think> <answer> 2 </answer>"), Some("2"));
/// assert_eq!(answer("<think> <answer> 2 </answer>"), None);
/// assert_eq!(answer("<answer> 2"), None);
/// ```
pub fn answer(text: &str) -> Option<&str> {
    let after_think = match text.rfind("</think>") {
        Some(end) => &text[end..],
        None if text.contains("<think>") => return None,
        None => text,
    };
    last_section(after_think, "<answer>", "</answer>").map(|range| after_think[range].trim())
}

/// Byte range of the reasoning: what stands between `<think>` and `</think>`, or the end if it is never closed.
pub fn think(text: &str) -> Option<Range<usize>> {
    let start = text.find("<think>")? + "<think>".len();
    let length = text[start..].find("</think>").unwrap_or(text.len() - start);
    Some(start..start + length)
}

/// The words of the reasoning with the tokens that state each; none where no token does.
pub(crate) fn reasoning_words(completion: &Completion) -> Vec<(&str, Option<Range<usize>>)> {
    let text = completion.text.as_str();
    let Some(range) = think(text) else { return Vec::new() };
    let base = text.as_ptr() as usize;
    let words = text[range].split_whitespace().map(|word| {
        let start = word.as_ptr() as usize - base;
        let token_of = |byte: usize| completion.token_spans.iter().position(|span| span.contains(&byte));
        let tokens = token_of(start).zip(token_of(start + word.len() - 1));
        (word, tokens.map(|(first, last)| first..last + 1))
    });
    words.collect()
}

#[cfg(test)]
pub(crate) mod tests_support {
    use kyoka_core::{Completion, Sample};

    pub fn sample(answer: Option<&str>, steps: &[&str]) -> Sample {
        Sample {
            id: "r1".into(),
            parts: Vec::new(),
            answer: answer.map(str::to_owned),
            steps: steps.iter().map(|&step| step.to_owned()).collect(),
            completion: None,
            origin: ("rows.jsonl".into(), 1),
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
}
