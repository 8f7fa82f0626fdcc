//! The folder of a run: metrics, samples, summary and report.

mod embed;
mod log;
mod report;
mod summary;
mod tensorboard;

pub(crate) use log::RunLog;
pub use report::write_report;
pub use summary::RunSummary;
pub(crate) use summary::peak_rss_mb;
