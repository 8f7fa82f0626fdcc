//! Whether what was written is the policy it was written from: weights and answers.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Device, Tensor, TensorData},
};
use kyoka_core::{CausalLm, Distribution, PackedGroup, ParameterPath, Part, Prompt, Task, lazy_parameters};
use kyoka_nn::Dtype;

use crate::{
    Error, MediaAugment, MultimodalTask, Policy, PolicyConfig,
    generating::{open, parts, user_sample},
    policy::Source,
    text_side::TextSide,
};

/// Log-probabilities of equal weights differ by no more.
const TOLERANCE: f32 = 1e-3;
/// And where a run in bf16 rounded weights of its checkpoint that the export does not hold.
const ROUNDED_TOLERANCE: f32 = 0.25;
/// Names listed in an error.
const LISTED: usize = 4;

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Checkpoint,
    Adapter,
}

/// A policy on its way out, and where it is written.
pub(super) struct Export<'a> {
    pub config: &'a PolicyConfig,
    pub source: &'a Source,
    pub text: TextSide,
    pub folder: &'a Path,
    pub device: &'a Device,
}

impl Export<'_> {
    /// Reads the folder back, and compares. `policy` is what was written, `dtype_of` the kind of numbers of each parameter.
    ///
    /// # Errors
    /// Names the parameters that training changed and the export lacks, or the answer that differs.
    pub fn check(
        &self,
        policy: Policy,
        dtype_of: &dyn Fn(&str) -> Dtype,
        written: Written,
    ) -> Result<(), Error> {
        let (tokenizer, template) = self.text.clone();
        let task = MultimodalTask::new(tokenizer, self.config.clone(), MediaAugment::default(), 0);
        let task = task.with_template(template);
        let policy = policy.map(&mut Round { path: ParameterPath::default(), dtype_of });
        let probe = Probe::new(self.folder, self.config, &task)?;
        let (prompt, answers) = probe.ask(&policy, &task)?;
        let prints = prints(&policy, false);
        drop(policy);
        let (back, its_task) = match written {
            Written::Checkpoint => open(self.folder, None, self.device),
            Written::Adapter => open(&self.source.folder, Some(self.folder), self.device)
                .map_err(|error| self.without_base(error)),
        }?;
        let rounded = self.compare_weights(&prints, &back, written)?;
        let (its_prompt, its_answers) = probe.ask(&back, &its_task)?;
        probe.remove()?;
        if prompt.token_ids != its_prompt.token_ids {
            return Err(self.fails("a prompt is laid out in other tokens than in the run".to_owned()));
        }
        let tolerance = if rounded { ROUNDED_TOLERANCE } else { TOLERANCE };
        let pairs = || answers.iter().zip(&its_answers);
        match pairs().position(|(a, b)| !((a - b).abs() <= tolerance || a == b)) {
            None if answers.len() == its_answers.len() => Ok(()),
            place => {
                let place = place.unwrap_or_default();
                Err(self.fails(format!(
                    "token {place} after a fixed prompt has the log-probability {} in the run and {} in the export",
                    answers[place], its_answers[place]
                )))
            }
        }
    }

    fn without_base(&self, error: Error) -> Error {
        if self.source.folder.is_dir() {
            return error;
        }
        let reason = format!(
            "the checkpoint that the adapter stands beside is not there, so that the export cannot be read back ({error}); \
             --merge writes the whole policy"
        );
        Error::file(&self.source.folder, reason)
    }

    fn fails(&self, what: String) -> Error {
        let folder = self.folder.parent().unwrap_or(self.folder);
        Error::file(
            folder,
            format!("the export was read back and is not the policy that was trained: {what}"),
        )
    }

    /// Compares weights; whether some are equal only after rounding to bf16.
    fn compare_weights(
        &self,
        prints: &BTreeMap<String, blake3::Hash>,
        back: &Policy,
        written: Written,
    ) -> Result<bool, Error> {
        let unlike = |prints: &BTreeMap<String, blake3::Hash>, others: &BTreeMap<String, blake3::Hash>| {
            let names = prints.keys().chain(others.keys().filter(|name| !prints.contains_key(*name)));
            names.filter(|name| prints.get(*name) != others.get(*name)).cloned().collect::<Vec<String>>()
        };
        let exact = unlike(prints, &self::prints(back, false));
        if exact.is_empty() {
            return Ok(false);
        }
        let rounded = self::prints(back, true);
        let names: Vec<&String> =
            exact.iter().filter(|name| prints.get(*name) != rounded.get(*name)).collect();
        if names.is_empty() {
            return Ok(true);
        }
        let listed: Vec<&str> = names.iter().take(LISTED).map(|name| name.as_str()).collect();
        let more = names.len().saturating_sub(LISTED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let why = match written {
            Written::Checkpoint => "",
            Written::Adapter => {
                "; an adapter holds what model.lora trains, and the weights beside it are those of the checkpoint it names: \
                 --merge writes the whole policy"
            }
        };
        let what = format!("it lacks what training made of {}{more}{why}", listed.join(", "));
        Err(self.fails(what))
    }
}

/// A digest of every parameter's values.
fn prints(policy: &Policy, in_bf16: bool) -> BTreeMap<String, blake3::Hash> {
    let parameters = lazy_parameters(policy).into_iter();
    let print = |data: TensorData| {
        let data = if in_bf16 { data.convert_dtype(DType::BF16) } else { data };
        blake3::hash(data.convert_dtype(DType::F32).as_bytes())
    };
    parameters.map(|(name, parameter)| (name, print(parameter.data()))).collect()
}

/// Rounds parameters as they were rounded on their way to disk.
struct Round<'a> {
    path: ParameterPath,
    dtype_of: &'a dyn Fn(&str) -> Dtype,
}

impl ModuleMapper for Round<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let dtype = match (self.dtype_of)(&self.path.name()) {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            _ => return param,
        };
        param.map(|value| {
            let data = value.to_data().convert_dtype(dtype).convert_dtype(DType::F32);
            Tensor::from_data(data, &value.device())
        })
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
}

/// A question with a medium for every sense, and tokens to be scored after it.
struct Probe {
    folder: PathBuf,
    /// Empty where the tokenizer can write no question: tokens alone are asked then.
    parts: Vec<Part>,
    token_ids: Vec<u32>,
}

/// Words of the question, and tokens that are scored.
const WORDS: usize = 3;
const SCORED: usize = 8;

impl Probe {
    fn new(beside: &Path, config: &PolicyConfig, task: &MultimodalTask) -> Result<Self, Error> {
        let folder = beside.join("probe");
        let (image, audio) = (folder.join("probe.png"), folder.join("probe.wav"));
        let write =
            |path: &Path, bytes: &[u8]| fs::write(path, bytes).map_err(|error| Error::file(path, error));
        fs::create_dir_all(&folder).map_err(|error| Error::file(&folder, error))?;
        write(&image, include_bytes!("probe.png"))?;
        write(&audio, &sound())?;
        let images: Vec<PathBuf> = config.vision.iter().map(|_| image.clone()).collect();
        let audios: Vec<PathBuf> = config.audio.iter().map(|_| audio.clone()).collect();
        let words = words(task);
        let questions = [parts(task, &words, [&images, &audios]), parts(task, &words, [&[], &[]])];
        let is_asked = |parts: &Vec<Part>| task.prompt(&user_sample(parts.clone()), None).is_ok();
        let parts = questions.into_iter().flatten().find(is_asked).unwrap_or_default();
        let banned = task.tokenizer().banned_ids();
        let vocab = config.decoder.vocab_size.min(task.tokenizer().vocab_size());
        let spread = (1..).map(|place| (place * (vocab / (2 * SCORED) + 1) % vocab.max(1)) as u32);
        let token_ids = spread.filter(|id| !banned.contains(id)).take(SCORED).collect();
        Ok(Self { folder, parts, token_ids })
    }

    /// The prompt, and the log-probability of each token after it.
    fn ask(&self, policy: &Policy, task: &MultimodalTask) -> Result<(Prompt, Vec<f32>), Error> {
        let prompt = match self.parts.is_empty() {
            true => Prompt { token_ids: self.token_ids.clone(), ..Prompt::default() },
            false => {
                let prompt = task.prompt(&user_sample(self.parts.clone()), None);
                prompt.map_err(|error| Error::file(&self.folder, error))?
            }
        };
        let group = PackedGroup { prompt: &prompt, completions: vec![(&self.token_ids).into()] };
        let logprobs = policy.score(&[group], &Distribution::default()).into_data().convert::<f32>();
        let logprobs = logprobs.try_into_vec().expect("they were converted");
        Ok((prompt, logprobs))
    }

    fn remove(&self) -> Result<(), Error> {
        fs::remove_dir_all(&self.folder).map_err(|error| Error::file(&self.folder, error))
    }
}

/// A few words that the tokenizer knows, whatever its vocabulary.
fn words(task: &MultimodalTask) -> String {
    let tokenizer = task.tokenizer();
    let size = tokenizer.vocab_size();
    let word = |id: usize| {
        let text = tokenizer.decode(&[id as u32]).text;
        let plain = text.chars().all(|letter| letter.is_ascii_alphanumeric()) && !text.is_empty();
        (plain && tokenizer.encode(&text).is_ok()).then_some(text)
    };
    let spread = (0..size).map(|place| (size / 2 + place * ((size / 7) | 1)) % size.max(1));
    spread.filter_map(word).take(WORDS).collect::<Vec<_>>().join(" ")
}

/// Six tenths of a second of a rising tone, as a WAV file: 16 kHz, mono, 16 bits.
fn sound() -> Vec<u8> {
    const RATE_HZ: u32 = 16_000;
    let samples = (0..RATE_HZ * 6 / 10).map(|place| {
        let seconds = place as f32 / RATE_HZ as f32;
        let phase = std::f32::consts::TAU * (220.0 + 400.0 * seconds) * seconds;
        (phase.sin() * 12_000.0) as i16
    });
    let data: Vec<u8> = samples.flat_map(i16::to_le_bytes).collect();
    let length = data.len() as u32;
    let head = [
        b"RIFF".as_slice(),
        &(36 + length).to_le_bytes(),
        b"WAVEfmt ",
        &16_u32.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &RATE_HZ.to_le_bytes(),
        &(2 * RATE_HZ).to_le_bytes(),
        &2_u16.to_le_bytes(),
        &16_u16.to_le_bytes(),
        b"data",
        &length.to_le_bytes(),
    ];
    [head.concat(), data].concat()
}
