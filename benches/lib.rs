//! Criterion measurements, a folder a crate: `cargo bench -p kyoka-benches`.
