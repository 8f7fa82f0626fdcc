//! The built `kyoka`, called as a user calls it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};

/// A program to call.
pub struct KyokaCommand(PathBuf);

impl KyokaCommand {
    /// The program at `given`, or else the one beside this program, which is built where it is not there.
    pub fn find(root: &Path, given: Option<&Path>) -> Result<Self> {
        if let Some(path) = given {
            return path.canonicalize().map(Self).with_context(|| path.display().to_string());
        }
        let beside =
            std::env::current_exe()?.with_file_name(format!("kyoka{}", std::env::consts::EXE_SUFFIX));
        if !beside.is_file() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let status =
                Command::new(cargo).args(["build", "--package", "kyoka-cli"]).current_dir(root).status()?;
            ensure!(
                status.success() && beside.is_file(),
                "cargo build --package kyoka-cli left no {}",
                beside.display()
            );
        }
        Ok(Self(beside))
    }

    /// Standard output of a call in the folder `home` that must end well; one thread, so that calls can run beside each
    /// other.
    pub fn call(&self, home: &Path, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let shown = arguments.join(" ");
        let mut child = Command::new(&self.0)
            .args(arguments)
            .env("RAYON_NUM_THREADS", "1")
            .current_dir(home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| shown.clone())?;
        // A command that fails early reads nothing.
        let _ = child.stdin.take().context("a pipe")?.write_all(input.unwrap_or_default().as_bytes());
        let Output { status, stdout, stderr } = child.wait_with_output()?;
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        ensure!(status.success(), "kyoka {shown}: {status}\n{stdout}{}", String::from_utf8_lossy(&stderr));
        Ok(stdout)
    }
}
