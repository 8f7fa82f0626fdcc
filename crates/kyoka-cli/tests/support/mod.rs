//! Runs the built command on small inputs.

use std::{
    path::Path,
    process::{Command, Output},
};

/// The command, with its data under `home`.
pub fn kyoka(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyoka"));
    command.env("KYOKA_DATA_DIR", home.join("data")).current_dir(home);
    command
}

/// Settings that make the main recipe take seconds.
pub fn tiny_run(command: &mut Command) -> &mut Command {
    for setting in [
        "sft.steps=4",
        "sft.batch_size=4",
        "rl.steps=5",
        "rl.prompts_per_step=2",
        "rl.group_size=3",
        "rl.sampling.max_new_tokens=8",
        "rl.eval_every=2",
        "eval.max_rows=3",
        "eval.max_new_tokens=8",
        "checkpoints.every=1",
    ] {
        command.args(["--set", setting]);
    }
    command
}

/// What went to standard error.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
