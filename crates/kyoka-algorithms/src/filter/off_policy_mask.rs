//! Off-policy sequence mask: bad completions that the policy has left behind are dropped (DeepSeek-V3.2, arXiv 2512.02556,
//! section 3.1).

/// Whether a completion is trained: not if its advantage is below 0 and the mean of `log p_old - log p` over its tokens
/// is above `threshold` (default 0.5).
///
/// `log_ratios` are `log p - log p_old` of the tokens that count; without any the completion is kept, for it adds
/// nothing.
pub fn keeps_on_policy(advantage: f32, log_ratios: &[f32], threshold: f64) -> bool {
    let sum: f64 = log_ratios.iter().map(|&l| f64::from(l)).sum();
    let drift = -sum / log_ratios.len().max(1) as f64;
    advantage >= 0.0 || drift <= threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bad_and_far_completions_are_dropped() {
        assert!(!keeps_on_policy(-1.0, &[-0.4, -0.8], 0.5));
        assert!(keeps_on_policy(1.0, &[-0.4, -0.8], 0.5));
        assert!(keeps_on_policy(-1.0, &[0.4, 0.8], 0.5));
        assert!(keeps_on_policy(-1.0, &[-0.4, -0.5], 0.5));
        assert!(keeps_on_policy(-1.0, &[], 0.5));
    }
}
