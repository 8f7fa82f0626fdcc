//! Whether an Ogg file (RFC 3533) ends within a page.

/// Bytes of a page before its table of segments.
const HEAD: usize = 27;

/// Whether the last page is not whole; what is no Ogg is not cut.
pub(crate) fn is_cut(file: &[u8]) -> bool {
    let mut rest = file;
    while rest.starts_with(b"OggS") {
        let Some(&segments) = rest.get(HEAD - 1) else { return true };
        let head = HEAD + usize::from(segments);
        let Some(table) = rest.get(HEAD..head) else { return true };
        let length = head + table.iter().map(|&bytes| usize::from(bytes)).sum::<usize>();
        let Some(after) = rest.get(length..) else { return true };
        rest = after;
    }
    // A page may begin anew, its mark not whole.
    file.starts_with(b"OggS") && !rest.is_empty() && b"OggS".starts_with(rest)
}
