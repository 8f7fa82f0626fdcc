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
