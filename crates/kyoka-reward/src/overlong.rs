//! Soft punishment of completions near the length limit.

use kyoka_core::{Completion, Reward, RewardContext, RewardError, RewardFn};
use serde::{Deserialize, Serialize};

/// DAPO's soft over-long punishment (arXiv 2503.14476, equation 13): with `L` the limit, `C` the buffer and `y` the
/// length, 0 while `y <= L - C`, then `((L - C) - y) / C`, floored at -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SoftOverlong {
    /// Width of the buffer before the limit, in tokens; at least 1, at most the limit. Default 16.
    pub buffer_tokens: usize,
}

impl Default for SoftOverlong {
    fn default() -> Self {
        Self { buffer_tokens: 16 }
    }
}

impl SoftOverlong {
    fn punishment(&self, tokens: usize, limit: usize) -> f32 {
        let buffer = self.buffer_tokens.max(1) as f32;
        let free = limit as f32 - buffer;
        ((free - tokens as f32) / buffer).clamp(-1.0, 0.0)
    }
}

impl RewardFn for SoftOverlong {
    fn name(&self) -> &str {
        "overlong"
    }

    fn score(&self, _: &RewardContext<'_>, completion: &Completion) -> Result<Reward, RewardError> {
        let punishment = self.punishment(completion.token_spans.len(), completion.max_new_tokens);
        Ok(Reward::graded(self.name(), punishment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punishment_falls_linearly_over_the_buffer() {
        let rule = SoftOverlong { buffer_tokens: 4 };
        let at = |tokens| rule.punishment(tokens, 20);
        assert_eq!([at(0), at(16), at(18), at(20), at(25)], [0.0, 0.0, -0.5, -1.0, -1.0]);
    }
}
