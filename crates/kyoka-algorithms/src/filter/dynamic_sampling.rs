//! Dynamic sampling: groups that say nothing are replaced (DAPO, arXiv 2503.14476, equation 11).

/// Whether anything tells the completions of a group apart: two rewards that differ.
///
/// The paper's rule, "neither all right nor all wrong", for rewards of any kind. A group of one says nothing.
pub fn is_informative(totals: &[f32]) -> bool {
    totals.windows(2).any(|pair| pair[0] != pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_informative() {
        assert!(is_informative(&[0.0, 0.0, 1.0]));
        assert!(!is_informative(&[1.0; 4]));
        assert!(!is_informative(&[1.0]));
        assert!(!is_informative(&[]));
    }
}
