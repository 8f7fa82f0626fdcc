//! CPPO: only the completions with the largest advantages are trained (arXiv 2503.22342, section 4.2).
//!
//! Of a group of `G` the `k = floor(G (1 - P))` with the largest `|A|` are kept; the paper fills the room they leave with
//! completions of further prompts.
//!
//! Deviation 1: the trainer leaves the room free, so that a step stays cheaper; `rl.prompts_per_step` fills it.

/// Places of the completions to keep, in order: the `floor(share * G)` with the largest `|A|`, at least one.
///
/// `share` is `1 - P` of the paper, in (0, 1]. Of equals the earlier one is kept.
pub fn strongest(advantages: &[f32], share: f64) -> Vec<usize> {
    // A share such as 1/3 of 6 must not lose a completion to rounding.
    let count = (advantages.len() as f64 * share + 1e-9).floor().max(1.0) as usize;
    let mut order: Vec<usize> = (0..advantages.len()).collect();
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
        assert_eq!(strongest(&[0.1, -2.0, 1.0, -0.2], 0.5), [1, 2]);
        assert_eq!(strongest(&[0.1, -2.0, 1.0], 1.0), [0, 1, 2]);
    }

    #[test]
    fn degenerate_groups_are_defined() {
        assert_eq!(strongest(&[1.0; 6], 1.0 / 3.0), [0, 1]);
        assert_eq!(strongest(&[0.0; 4], 0.01), [0]);
        assert!(strongest(&[], 0.5).is_empty());
    }
}
