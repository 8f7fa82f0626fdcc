//! What is refused before memory is taken.

/// Largest side that a picture may have.
pub(crate) const MAX_SIDE: u32 = 16_384;

/// Largest memory that one decoded picture may take, in bytes.
pub(crate) const MAX_BYTES: u64 = 1 << 30;
