//! `kyoka bench` in release, alone or in turn with a peer in Python.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{cargo, target_folder};

/// Who is measured beside us.
#[derive(Clone, Copy, ValueEnum)]
pub enum Peer {
    /// TRL's GRPOTrainer
    Trl,
    /// A PyTorch loop that shares prompt and picture within a group
    Torch,
}

/// What is measured.
#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    /// Whole GRPO steps
    Step,
    /// Sampling alone
    Decode,
    /// A supervised step on 32 rows of 128 tokens of text
    TextStep,
    /// The machine's limits: rate of matrix products, and of moving memory
    Roofline,
}

impl Kind {
    /// Its name on the command line, the peers' name for it, and the number that is compared; less is better.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Step => ("step", "step", "s_per_step"),
            Self::Decode => ("decode", "decode", "s_decode"),
            Self::TextStep => ("text-step", "textstep", "ms_step"),
            Self::Roofline => ("roofline", "roofline", "gemm_gflop_per_s"),
        }
    }
}

#[derive(Args)]
pub struct StepArgs {
    /// What to measure
    pub kind: Kind,
    /// Folder of a checkpoint; without, a policy with random weights
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// Width and layers of the decoder without a checkpoint
    #[arg(long, value_name = "WIDTHxLAYERS", default_value = "256x4", conflicts_with = "checkpoint")]
    pub shape: String,
    /// Compute layers again on the way back instead of keeping them
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// Tokens of a picture, or auto
    #[arg(long, default_value = "auto")]
    pub image_tokens: String,
    /// Prompts a step
    #[arg(long, default_value_t = 8)]
    pub prompts: usize,
    /// Completions a prompt
    #[arg(long, default_value_t = 8)]
    pub group: usize,
    /// Words of a prompt, in tokens
    #[arg(long, default_value_t = 32)]
    pub prompt_tokens: usize,
    /// Tokens of every completion
    #[arg(long, default_value_t = 48)]
    pub new_tokens: usize,
    /// Timed steps
    #[arg(long, default_value_t = 5)]
    pub steps: usize,
    /// Threads of each
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Run a peer in turn with us, A B A B, and print the ratio pair by pair
    #[arg(long, requires = "python", requires = "checkpoint", conflicts_with = "gradient_checkpointing")]
    pub versus: Option<Peer>,
    /// Python with the packages of benches/peers/requirements.txt
    #[arg(long)]
    pub python: Option<PathBuf>,
    /// Pairs of runs
    #[arg(long, default_value_t = 2)]
    pub rounds: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl StepArgs {
    /// What both sides are told.
    fn sizes(&self) -> Vec<String> {
        let mut sizes = vec!["--image-tokens".to_owned(), self.image_tokens.clone()];
        if let Some(checkpoint) = &self.checkpoint {
            sizes.extend(["--checkpoint".to_owned(), checkpoint.display().to_string()]);
        }
        for (name, value) in [
            ("--prompts", self.prompts),
            ("--group", self.group),
            ("--prompt-tokens", self.prompt_tokens),
            ("--new-tokens", self.new_tokens),
            ("--steps", self.steps),
        ] {
            sizes.extend([name.to_owned(), value.to_string()]);
        }
        sizes
    }
}

/// Builds the command in release and measures.
pub fn run_step(root: &Path, args: &StepArgs) -> Result<()> {
    cargo(root, &["build", "--release", "--quiet", "--package", "kyoka-cli"])?;
    let kyoka = target_folder(root)?.join("release/kyoka");
    let (ours, theirs, compared) = args.kind.names();
    let us = || {
        let mut command = alone(&kyoka);
        command.args(["bench", ours, "--json"]).args(args.sizes());
        if args.checkpoint.is_none() {
            command.args(["--shape", &args.shape]);
        }
        if args.gradient_checkpointing {
            command.arg("--gradient-checkpointing");
        }
        command.env("RAYON_NUM_THREADS", args.threads.to_string());
        last_json(command)
    };
    let (Some(peer), Some(python)) = (args.versus, &args.python) else {
        let result = us()?;
        println!("{}", if args.json { result.to_string() } else { lines(&result) });
        return Ok(());
    };
    let script = match peer {
        Peer::Trl => "benches/peers/trl_step.py",
        Peer::Torch => "benches/peers/torch_step.py",
    };
    let them = || {
        let mut command = alone(python);
        command.arg(root.join(script)).args(args.sizes());
        command.args(["--threads", &args.threads.to_string()]);
        if !matches!(args.kind, Kind::Step) {
            command.args(["--mode", theirs]);
        }
        last_json(command)
    };
    let mut pairs = Vec::new();
    for round in 1..=args.rounds {
        let (ours, theirs) = (us()?, them()?);
        let number =
            |result: &Value| result[compared].as_f64().with_context(|| format!("no {compared} in {result}"));
        let (a, b) = (number(&ours)?, number(&theirs)?);
        if !args.json {
            let memory = ours["peak_rss_mb"].as_f64().zip(theirs["peak_rss_mb"].as_f64());
            let memory = memory.map(|(a, b)| format!(", memory {a:.0} / {b:.0} MB = {:.2}", a / b));
            let memory = memory.unwrap_or_default();
            println!("round {round}: {compared} {a:.3} / {b:.3} = {:.2}{memory}", a / b);
        }
        pairs.push(json!({"kyoka": ours, "peer": theirs, "ratio": a / b}));
    }
    if args.json {
        println!("{}", json!({"compared": compared, "pairs": pairs}));
    }
    Ok(())
}

/// A command in a scheduling group of its own, weighted above everything else where that is allowed: otherwise a build
/// in another terminal takes half of each core, whatever its niceness.
pub fn alone(program: &Path) -> Command {
    if !cfg!(target_os = "linux") {
        return Command::new(program);
    }
    let script = r#"{ echo -17 > /proc/self/autogroup; } 2>/dev/null; exec "$@""#;
    let mut command = Command::new("setsid");
    command.args(["--wait", "sh", "-c", script, "sh"]).arg(program);
    command
}

/// The last line that a command prints, as JSON.
pub fn last_json(mut command: Command) -> Result<Value> {
    let what = format!("{command:?}");
    let output = command.stderr(Stdio::inherit()).output().with_context(|| what.clone())?;
    if !output.status.success() {
        bail!("{what} failed");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("{what}: the last line is no JSON: {last}"))
}

pub fn lines(result: &Value) -> String {
    let fields = result.as_object().into_iter().flatten();
    fields.map(|(name, value)| format!("{name:<24} {value}")).collect::<Vec<_>>().join("\n")
}
