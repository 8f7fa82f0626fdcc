//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kyoka::{BenchShape, core::Modality};

/// Reinforcement-learning post-training of multimodal language models
#[derive(Parser)]
#[command(name = "kyoka", version, about, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Train a recipe: bundled by name, or a TOML file
    #[command(after_help = "Example:\n  kyoka train spoken-count --seed 2 --set rl.steps=100")]
    Train(TrainArguments),
    /// Predict the memory, tokens and arithmetic of a recipe, and what would fit less memory
    #[command(after_help = "Example:\n  kyoka plan spoken-count --memory 256M")]
    Plan(PlanArguments),
    /// Evaluate a run, a checkpoint or a Hugging Face model on a split of a dataset
    #[command(
        after_help = "Examples:\n  kyoka eval runs/spoken-count-seed1 --split test --blank audio\n  kyoka eval SmolVLM-256M-Instruct --recipe mine.toml --split test\n  kyoka eval SmolVLM-256M-Instruct --dataset data --reward exact_answer --split test"
    )]
    Eval(EvalArguments),
    /// Ask a checkpoint one question about pictures and sounds
    #[command(
        after_help = "Example:\n  kyoka generate --model runs/spoken-count-seed1 --image a.png --image b.png \\\n    --audio word.wav --prompt \"How many of the pictures show the spoken item?\""
    )]
    Generate(GenerateArguments),
    /// Talk to a model that has a chat template: reads lines, answers each
    #[command(
        after_help = "Example:\n  kyoka chat --model SmolLM2-135M-Instruct --system \"Answer briefly.\""
    )]
    Chat(ChatArguments),
    /// Give a policy back as a folder that transformers or PEFT loads; it is read back and compared before it counts
    #[command(after_help = "Example:\n  kyoka export runs/tuned --to tuned --dtype bf16")]
    Export(ExportArguments),
    /// List the bundled recipes
    #[command(after_help = "Example:\n  kyoka recipes --json")]
    Recipes {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure how long the parts of training take
    #[command(
        after_help = "Example:\n  kyoka bench step --checkpoint smolvlm --prompts 8 --group 8 --new-tokens 48 --json"
    )]
    Bench(BenchArguments),
    /// Compare a device with the CPU: passes, sampling, a step of training
    #[command(after_help = "Example:\n  kyoka device-check --device wgpu")]
    DeviceCheck {
        /// cuda:N or wgpu
        #[arg(long)]
        device: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Try rewards on completions
    Reward {
        #[command(subcommand)]
        command: RewardCommand,
    },
    /// Work with datasets
    Data {
        #[command(subcommand)]
        command: DataCommand,
    },
}

#[derive(Args)]
pub struct TrainArguments {
    /// Bundled recipe or path of a TOML file; may be left out with --resume
    #[arg(required_unless_present = "resume")]
    pub recipe: Option<String>,
    /// Change a setting; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Seed of weights, order, augmentation and sampling [default: 1]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Folder of the run [default: runs/<recipe>-seed<seed>]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// auto (CUDA, then wgpu on a GPU, then the CPU: what is there), cpu, cuda:N or wgpu
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Go on with the run in this folder, from its newest checkpoint that can be read. With --set, these settings may
    /// differ: checkpoints.*, eval.*, steps and eval_every of a stage that is not over, rl.max_generated_tokens. More steps
    /// go on with a run that has ended; a schedule of rates is then that of the new number of steps
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Compute layers again on the way back instead of keeping them: less memory, a forward pass more
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// Print nothing but warnings and errors
    #[arg(long)]
    pub quiet: bool,
    /// Print one JSON object a step, and the summary at the end
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
}

#[derive(Args)]
pub struct PlanArguments {
    /// Bundled recipe or path of a TOML file
    pub recipe: String,
    /// Change a setting; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// As in training
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// Memory to fit into: bytes, or with K, M or G
    #[arg(long)]
    pub memory: Option<Bytes>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A number of bytes, written with K, M or G for powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bytes(pub u64);

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches(['B', 'b']).trim_end_matches(['i']);
        let (number, factor) = match text.chars().last() {
            Some('k' | 'K') => (&text[..text.len() - 1], 10),
            Some('m' | 'M') => (&text[..text.len() - 1], 20),
            Some('g' | 'G') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        let number: f64 =
            number.trim().parse().map_err(|_| "expected a size such as 512M or 8G".to_owned())?;
        if !(number.is_finite() && number > 0.0) {
            return Err("expected a size above 0".to_owned());
        }
        Ok(Self((number * f64::from(1_u32 << factor)) as u64))
    }
}

#[derive(Args)]
pub struct EvalArguments {
    /// Folder of a run (its newest checkpoint is taken), of a checkpoint, or of a Hugging Face model (or its name)
    pub model: PathBuf,
    /// Split: the name of a JSONL file of the dataset
    #[arg(long)]
    pub split: String,
    /// Folder of a PEFT adapter for a Hugging Face model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Bundled recipe or TOML file whose dataset, rewards and [eval] are taken [default: the run's own]
    #[arg(long)]
    pub recipe: Option<String>,
    /// Change a setting of the recipe; may be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "recipe")]
    pub set: Vec<String>,
    /// Dataset, instead of the recipe's
    #[arg(long, value_name = "DIR")]
    pub dataset: Option<String>,
    /// Kind of a reward (exact_answer, format, ..) with weight 1, instead of the recipe's; may be repeated
    #[arg(long, value_name = "KIND")]
    pub reward: Vec<String>,
    /// Blank out a sense: grey pictures or silence
    #[arg(long)]
    pub blank: Option<Sense>,
    /// Evaluate only so many rows; 0 takes all
    #[arg(long, default_value_t = 0)]
    pub max_rows: usize,
    /// Completions a row: means over all of them, and pass@2, pass@4 and so on up to pass@K [default: the recipe's, else 1]
    #[arg(long, value_name = "K")]
    pub samples: Option<usize>,
    /// 0 takes the likeliest token always [default: the recipe's, else 0 for one completion a row and 1 for several]
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Most tokens of a completion [default: the recipe's, else 256]
    #[arg(long)]
    pub max_new_tokens: Option<usize>,
    /// Seed of the draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// auto, cpu, cuda:N or wgpu
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Sense {
    /// Pictures
    Image,
    /// Sounds
    Audio,
}

impl From<Sense> for Modality {
    fn from(sense: Sense) -> Self {
        match sense {
            Sense::Image => Modality::Image,
            Sense::Audio => Modality::Audio,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum BenchKind {
    /// Whole GRPO steps on random pictures and words: rollout, reward, one update
    Step,
    /// Sampling alone
    Decode,
    /// A supervised step on 32 rows of 128 tokens of text
    TextStep,
    /// The machine's limits: rate of matrix products, and of moving memory
    Roofline,
}

/// A number of tokens, or whatever the checkpoint gives.
#[derive(Clone, Copy)]
pub struct ImageTokens(pub Option<usize>);

impl std::str::FromStr for ImageTokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self(None)),
            number => {
                number.parse().map(|count| Self(Some(count))).map_err(|_| "expected auto or a number".into())
            }
        }
    }
}

#[derive(Args)]
pub struct BenchArguments {
    /// What to measure
    pub kind: BenchKind,
    /// Folder of a checkpoint, ours or a SmolVLM of Hugging Face; without, a policy with random weights
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// Width and layers of the decoder without a checkpoint
    #[arg(long, value_name = "WIDTHxLAYERS", default_value = "256x4", conflicts_with = "checkpoint")]
    pub shape: BenchShape,
    /// Tokens that a picture must take; auto takes what the checkpoint makes of it, 16 without one
    #[arg(long, default_value = "auto")]
    pub image_tokens: ImageTokens,
    /// Prompts a step
    #[arg(long, default_value_t = 8)]
    pub prompts: usize,
    /// Completions a prompt
    #[arg(long, default_value_t = 8)]
    pub group: usize,
    /// Words of a prompt, in tokens, beside its picture
    #[arg(long, default_value_t = 32)]
    pub prompt_tokens: usize,
    /// Tokens of every completion
    #[arg(long, default_value_t = 48)]
    pub new_tokens: usize,
    /// Timed steps, after one that is not
    #[arg(long, default_value_t = 5)]
    pub steps: usize,
    /// Compute layers again on the way back instead of keeping them
    #[arg(long)]
    pub gradient_checkpointing: bool,
    /// auto, cpu, cuda:N or wgpu
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct ChatArguments {
    /// Folder of a run (its newest checkpoint is taken), of a checkpoint, or of a Hugging Face model (or its name)
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Folder of a PEFT adapter for a Hugging Face model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// What the model is told about itself
    #[arg(long)]
    pub system: Option<String>,
    /// 0 takes the likeliest token always
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Keep the likeliest tokens up to this sum of probabilities
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Most tokens of an answer
    #[arg(long, default_value_t = 256)]
    pub max_new_tokens: usize,
    /// Seed of the draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// auto, cpu, cuda:N or wgpu
    #[arg(long, default_value = "auto")]
    pub device: String,
}

#[derive(Args)]
pub struct ExportArguments {
    /// Folder of a run (its newest checkpoint is taken) or of a checkpoint
    pub model: PathBuf,
    /// Folder to write: new or empty
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Kind of numbers; `same` writes adapters in 32 bits, as they were trained
    #[arg(long, default_value = "same")]
    pub dtype: DtypeArgument,
    /// Fold adapters into the weights instead of writing them in PEFT's layout
    #[arg(long)]
    pub merge: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum DtypeArgument {
    /// As the checkpoint had them, adapters in 32 bits
    Same,
    /// 32 bits
    F32,
    /// 16 bits, IEEE
    F16,
    /// 16 bits, the upper half of f32
    Bf16,
}

impl From<DtypeArgument> for kyoka::ExportDtype {
    fn from(dtype: DtypeArgument) -> Self {
        match dtype {
            DtypeArgument::Same => Self::Same,
            DtypeArgument::F32 => Self::F32,
            DtypeArgument::F16 => Self::F16,
            DtypeArgument::Bf16 => Self::Bf16,
        }
    }
}

#[derive(Args)]
pub struct GenerateArguments {
    /// Folder of a run (its newest checkpoint is taken), of a checkpoint, or of a Hugging Face model (or its name)
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Folder of a PEFT adapter for a Hugging Face model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// A picture; may be repeated
    #[arg(long, value_name = "FILE")]
    pub image: Vec<PathBuf>,
    /// A sound; may be repeated
    #[arg(long, value_name = "FILE")]
    pub audio: Vec<PathBuf>,
    /// The question; <image> and <audio> mark where media go (\<image> is that text), else they come first
    #[arg(long)]
    pub prompt: String,
    /// 0 takes the likeliest token always
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Keep the k likeliest tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Keep the likeliest tokens up to this sum of probabilities
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Drop tokens below this share of the likeliest one's probability
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    /// A text that ends the completion; may be repeated
    #[arg(long)]
    pub stop: Vec<String>,
    /// Most tokens of the completion
    #[arg(long, default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Number of completions
    #[arg(long, default_value_t = 1)]
    pub count: usize,
    /// Seed of the draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// auto, cpu, cuda:N or wgpu
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum DataCommand {
    /// Read every row and decode every medium of a JSONL file; list all faults with file and line
    #[command(after_help = "Example:\n  kyoka data check my-data/train.jsonl")]
    Check {
        /// The file
        file: PathBuf,
        /// Allow media outside the file's folder
        #[arg(long)]
        allow_outside: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
pub enum RewardCommand {
    /// Judge the completions of a JSONL file: rows with `completion` or `completions`, and what the reward compares with
    #[command(
        after_help = "Examples:\n  kyoka reward score --kind math_answer --in answers.jsonl --out scores.jsonl\n  kyoka reward score --recipe mine.toml --in answers.jsonl"
    )]
    Score(ScoreArguments),
    /// Judge gold, wrong, truncated, padded and hostile completions by a recipe's rewards, and say what is odd
    #[command(after_help = "Example:\n  kyoka reward check mine.toml")]
    Check {
        /// Bundled recipe or path of a TOML file
        recipe: String,
        /// Change a setting; may be repeated
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Rows to look at, spread over the split
        #[arg(long, default_value_t = 50)]
        rows: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub struct ScoreArguments {
    /// Kind of a reward (exact_answer, math_answer, ..)
    #[arg(long, required_unless_present = "recipe")]
    pub kind: Option<String>,
    /// Bundled recipe or TOML file whose rewards are taken
    #[arg(long, conflicts_with = "kind")]
    pub recipe: Option<String>,
    /// A setting of the reward, or of the recipe; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// File with the rows
    #[arg(long = "in", value_name = "FILE")]
    pub rows: PathBuf,
    /// File for the rewards, a line a row [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Allow media outside the file's folder
    #[arg(long)]
    pub allow_outside: bool,
    /// The limit that the completions were sampled under, for rewards of length; tokens are words here
    #[arg(long, default_value_t = 256)]
    pub max_new_tokens: usize,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        let bytes = |text: &str| text.parse::<super::Bytes>().map(|bytes| bytes.0);
        assert_eq!(bytes("8G"), Ok(8 << 30));
        assert_eq!(bytes("1.5 MiB"), Ok(3 << 19));
        assert_eq!(bytes("100"), Ok(100));
        assert!(bytes("many").is_err() && bytes("-1G").is_err() && bytes("0").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
