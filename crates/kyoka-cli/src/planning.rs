//! A plan as text.

use std::fmt::Write;

use kyoka::{Phase, Plan};

/// A table of phases, the peak, and what would fit.
pub fn lines(plan: &Plan, memory: Option<u64>) -> String {
    let mut text = format!(
        "{}: {:.2} M parameters, in 32-bit numbers on the CPU\n\n",
        plan.recipe,
        plan.params as f64 / 1e6
    );
    let _ = writeln!(
        text,
        "{:<14}{:>8}{:>9}{:>7}{:>9}{:>11}{:>11}{:>8}{:>13}{:>8}{:>8}",
        "phase",
        "tokens",
        "GFLOP",
        "parts",
        "weights",
        "gradients",
        "optimizer",
        "caches",
        "activations",
        "logits",
        "media"
    );
    for phase in &plan.phases {
        text.push_str(&row(phase));
    }
    let _ = writeln!(text, "(MB at the peak of each phase; parts are micro-batches)\n");
    let _ = write!(
        text,
        "process with its data read {} MB, decoded media up to {} MB",
        megabytes(plan.base_bytes),
        megabytes(plan.media_store_bytes)
    );
    if plan.feature_store_bytes > 0 {
        let _ = write!(text, ", features of frozen towers up to {} MB", megabytes(plan.feature_store_bytes));
    }
    text.push('\n');
    let _ = writeln!(
        text,
        "peak {} MB; {} MB if every completion runs to its limit",
        megabytes(plan.peak_bytes),
        megabytes(plan.limit_bytes)
    );
    if let Some(memory) = memory {
        let _ = writeln!(text, "{}", verdict(plan, memory));
        for suggestion in &plan.suggestions {
            let peak = megabytes(suggestion.limit_bytes as usize);
            let _ = writeln!(text, "  {:<60} {peak} MB", suggestion.change);
        }
    }
    text
}

fn verdict(plan: &Plan, memory: u64) -> String {
    let asked = megabytes(memory as usize);
    match (plan.limit_bytes as u64 <= memory, plan.suggestions.is_empty()) {
        (true, _) => format!("fits into {asked} MB"),
        (false, false) => format!("does not fit into {asked} MB; with one of these changes it does:"),
        (false, true) => {
            format!("does not fit into {asked} MB, whatever the micro-batch, checkpointing or adapters")
        }
    }
}

fn row(phase: &Phase) -> String {
    let bytes = &phase.bytes;
    let parts = if phase.micro_batches > 0 { phase.micro_batches.to_string() } else { "-".to_owned() };
    let cells = [
        (bytes.weights, 9),
        (bytes.gradients, 11),
        (bytes.optimizer, 11),
        (bytes.caches, 8),
        (bytes.activations, 13),
        (bytes.logits, 8),
        (bytes.media, 8),
    ];
    let mut line = format!("{:<14}{:>8}{:>9.1}{parts:>7}", phase.name, phase.tokens, phase.gflop);
    for (bytes, width) in cells {
        let _ = write!(line, "{:>width$}", megabytes(bytes));
    }
    line.push('\n');
    line
}

fn megabytes(bytes: usize) -> String {
    format!("{:.0}", bytes as f64 / f64::from(1 << 20))
}
