//! "Did you mean" for names that users type.

/// The candidate that looks most like `name`, if any looks alike at all.
///
/// ```
/// assert_eq!(kyoka_core::nearest("grop_size", ["group_size", "steps"]), Some("group_size"));
/// assert_eq!(kyoka_core::nearest("zzz", ["group_size", "steps"]), None);
/// ```
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The candidate that `name` is with a slip of the keyboard: letter case, `_`, `-` and spaces aside, one letter is added,
/// left out, changed or swapped with the next; two in a candidate of more than seven letters, none in one of less than
/// four. A name that a user may well have meant as it stands is not one.
///
/// ```
/// use kyoka_core::misspelt;
/// assert_eq!(misspelt("setps", ["steps", "id"]), Some("steps"));
/// assert_eq!(misspelt("Answer", ["answer"]), Some("answer"));
/// assert_eq!(misspelt("idx", ["id"]), None);
/// assert_eq!(misspelt("answer_type", ["answer"]), None);
/// ```
pub fn misspelt<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-', ' '], "");
    let name = plain(name);
    let slips = |candidate: &str| match candidate.len() {
        0..=3 => 0,
        4..=7 => 1,
        _ => 2,
    };
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&name, &plain(candidate)), candidate))
        .filter(|&(distance, candidate)| distance <= slips(candidate))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}
