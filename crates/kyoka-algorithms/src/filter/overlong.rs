//! Over-long filtering: a completion cut off by the length limit is not trained (DAPO, arXiv 2503.14476, section 3.4).

/// Lengths as the loss counts them: 0 for completions that did not finish.
///
/// A row of length 0 has no token in the loss mask and none in the reduction's denominator; its reward still counts in
/// the group's baseline.
pub fn without_overlong(lengths: &[usize], finished: &[bool]) -> Vec<usize> {
    assert_eq!(finished.len(), lengths.len(), "finished: expected {}, got {}", lengths.len(), finished.len());
    lengths.iter().zip(finished).map(|(&length, &finished)| if finished { length } else { 0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_case() {
        assert_eq!(without_overlong(&[3, 8, 5], &[true, false, true]), [3, 0, 5]);
    }
}
