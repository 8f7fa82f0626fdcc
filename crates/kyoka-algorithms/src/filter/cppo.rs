//! CPPO: only the completions with the largest advantages are trained (arXiv 2503.22342, section 4.2).
//!
//! Of a group of `G` the `k = floor(G (1 - P))` with the largest `|A|` are kept; the paper fills the room they leave with
//! completions of further prompts.
//!
//! Completions without a token in the loss (cut off by the length limit, say) are not candidates: kept in the place of
//! others they would teach nothing.
//!
//! Deviation 1: the trainer leaves the room free, so that a step stays cheaper; `rl.prompts_per_step` fills it.

/// Places of the completions to keep, in order: of those that are `candidates`, the `floor(share * G)` with the largest
/// `|A|`, at least one.
///
/// `share` is `1 - P` of the paper, in (0, 1], of the whole group. Of equals the earlier one is kept.
pub fn strongest(advantages: &[f32], candidates: &[bool], share: f64) -> Vec<usize> {
    let (expected, got) = (advantages.len(), candidates.len());
    assert_eq!(got, expected, "candidates: expected {expected}, got {got}");
    // A share such as 1/3 of 6 must not lose a completion to rounding.
    let count = (advantages.len() as f64 * share + 1e-9).floor().max(1.0) as usize;
    let mut order: Vec<usize> = (0..advantages.len()).filter(|&place| candidates[place]).collect();
    order.sort_by(|&a, &b| advantages[b].abs().total_cmp(&advantages[a].abs()));
    order.truncate(count);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_case() {
        assert_eq!(strongest(&[0.1, -2.0, 1.0, -0.2], &[true; 4], 0.5), [1, 2]);
        assert_eq!(strongest(&[0.1, -2.0, 1.0], &[true; 3], 1.0), [0, 1, 2]);
    }

    #[test]
    fn a_completion_without_a_token_takes_nobodys_place() {
        let advantages = [0.1, -2.0, 1.0, -0.2];
        assert_eq!(strongest(&advantages, &[true, false, true, true], 0.5), [2, 3]);
        assert_eq!(strongest(&advantages, &[true, false, false, false], 0.5), [0]);
        assert!(strongest(&advantages, &[false; 4], 0.5).is_empty());
    }

    #[test]
    fn degenerate_groups_are_defined() {
        assert_eq!(strongest(&[1.0; 6], &[true; 6], 1.0 / 3.0), [0, 1]);
        assert_eq!(strongest(&[0.0; 4], &[true; 4], 0.01), [0]);
        assert!(strongest(&[], &[], 0.5).is_empty());
    }
}
