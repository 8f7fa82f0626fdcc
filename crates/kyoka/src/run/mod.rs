//! The folder of a run: its lock, metrics, samples, summary and report, and how a run goes on.

mod embed;
mod folder;
mod log;
mod report;
mod resuming;
mod summary;
mod tensorboard;

pub(crate) use folder::{RunFolder, config_of, refuse_taken};
pub(crate) use log::{LogPlace, RunLog};
pub use report::write_report;
pub use resuming::RESUMABLE;
pub(crate) use resuming::{check_data, check_settings, config_text, data_path, data_prints};
pub use summary::RunSummary;
pub(crate) use summary::peak_rss_mb;
