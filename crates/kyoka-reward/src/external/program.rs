//! A reward from a program that speaks JSON lines.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use kyoka_core::{Completion, OwnSettings, Reward, RewardContext, RewardError, RewardFn, SettingsFault, own};
use serde::{Deserialize, Serialize};
use toml::Table;

use super::{Ask, External, LONGEST_ANSWER, NoAnswer, Patience, external};

/// Asks a program: a question a line on its standard input, an answer a line on its standard output.
///
/// A question is `{"id": 7, "sample": {..}, "completions": [{"text": .., "token_ids": [..], ..}], "progress": {"step": 3, ..}}`, the
/// completions of one prompt; `sample` has the row's own columns, the paths of its media, and its answer. The answer is
/// `{"id": 7, "rewards": [0.5, null]}`: a number a completion, `null` where nothing can be said, or
/// `{"total": 1, "parts": {"tone": 0.5}, "right": true}`; or `{"id": 7, "error": ".."}`.
///
/// The program is started when it is first needed, as often as questions are asked at the same time, and asked again and again; its
/// input ends with the run. What it writes on its standard error is kept for messages, its last lines only. A program that
/// does not answer in time, ends, or writes something else is stopped, and another one is started for the next try. What no try
/// answers is ungraded and reported.
pub struct ProgramReward(External<Programs>);

/// Settings of [`ProgramReward`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramRewardSettings {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Seconds that an answer may take, above 0; the first one has the start of the program in it. Default 60.
    #[serde(default = "minute")]
    pub time_limit_s: f64,
    /// Further tries, at most 10. Default 1.
    #[serde(default = "once")]
    pub retries: u32,
    /// Programs at the same time, from 1 to 64. Default 1.
    #[serde(default = "one")]
    pub concurrency: usize,
}

fn minute() -> f64 {
    60.0
}

fn once() -> u32 {
    1
}

fn one() -> usize {
    1
}

impl OwnSettings for ProgramRewardSettings {
    fn check(&self) -> Result<(), SettingsFault> {
        let named = self.command.first().is_some_and(|program| !program.is_empty());
        SettingsFault::unless(
            named,
            "command",
            "a program and its arguments",
            format!("{:?}", self.command),
        )?;
        Patience::new(self.time_limit_s, self.retries, self.concurrency).map(drop)
    }
}

impl ProgramReward {
    /// A reward from settings; starts nothing.
    ///
    /// # Errors
    /// If a setting is out of range, or there is no such program.
    pub fn read(settings: Table) -> Result<Self, SettingsFault> {
        let ProgramRewardSettings { command, time_limit_s, retries, concurrency } = own(settings)?;
        if !is_there(Path::new(&command[0])) {
            let reason = format!("expected a program that is there, got {:?}", command[0]);
            return Err(SettingsFault::at("command", reason));
        }
        let patience = Patience::new(time_limit_s, retries, concurrency)?;
        Ok(Self(External::new(Programs { command, idle: Mutex::default() }, patience)))
    }
}

external!(ProgramReward);

/// Whether a program can be found, by its path or on the search path.
fn is_there(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let names = [program.to_owned(), program.with_extension("exe")];
    std::env::split_paths(&folders).any(|folder| names.iter().any(|name| folder.join(name).is_file()))
}

/// The programs that run.
struct Programs {
    command: Vec<String>,
    /// Those that no question is open with.
    idle: Mutex<Vec<Program>>,
}

impl Programs {
    fn idle(&self) -> MutexGuard<'_, Vec<Program>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ask for Programs {
    const NAME: &'static str = "program";
    const IS_NUMBERED: bool = true;

    fn judge(&self) -> String {
        format!("program {}", self.command.join(" "))
    }

    fn ask(&self, request: &str, deadline: Instant) -> Result<String, NoAnswer> {
        let idle = self.idle().pop();
        let mut program = match idle {
            Some(program) => program,
            None => Program::start(&self.command).map_err(|error| NoAnswer {
                reason: format!("expected a program that starts: {error}"),
                // What is not there will not be there.
                again: error.kind() != std::io::ErrorKind::NotFound,
                pause: None,
            })?,
        };
        match program.ask(request, deadline) {
            Ok(answer) if is_of(&answer, request) => {
                self.idle().push(program);
                Ok(answer)
            }
            // Whatever else it has written would be taken for the next answer; the caller says what is wrong with it.
            Ok(answer) => Ok(answer),
            Err(reason) => Err(NoAnswer::now(program.with_last_words(reason))),
        }
    }
}

/// Whether an answer is JSON for that question: the program may be asked again.
fn is_of(answer: &str, request: &str) -> bool {
    #[derive(Deserialize)]
    struct Numbered {
        id: Option<u64>,
    }
    let id = |text: &str| serde_json::from_str::<Numbered>(text).ok();
    match (id(answer), id(request)) {
        (Some(answer), Some(request)) => answer.id.is_none() || answer.id == request.id,
        _ => false,
    }
}

/// Programs that run, by the number of their process.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Stops all reward programs of this process and whatever they have started: for a process that ends without dropping its rewards.
pub fn stop_programs() {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.iter().for_each(|id| kill_group(*id));
}

/// Ends a program and all that it has started.
fn kill_group(id: u32) {
    #[cfg(unix)]
    {
        use nix::{sys::signal, unistd::Pid};
        let _ = signal::killpg(Pid::from_raw(id as i32), signal::Signal::SIGKILL);
    }
    #[cfg(not(unix))]
    let _ = id;
}

/// Makes a group of its own of a program, to which no Ctrl-C goes, and lets it have the signals that this process waits for.
#[cfg(unix)]
#[expect(unsafe_code, reason = "there is no safe way to do something between fork and exec")]
fn apart(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    // SAFETY: to set the mask of signals is allowed between fork and exec, and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            let none = nix::sys::signal::SigSet::empty();
            none.thread_set_mask().map_err(std::io::Error::from)
        });
    }
}

/// A running program, stopped when it is dropped.
struct Program {
    child: Child,
    questions: Option<mpsc::Sender<String>>,
    answers: mpsc::Receiver<Result<String, String>>,
    last_words: Arc<Mutex<Vec<u8>>>,
}

/// Bytes of standard error that are kept.
const LAST_WORDS: usize = 1000;

impl Program {
    fn start(command: &[String]) -> std::io::Result<Self> {
        let (program, arguments) = command.split_first().expect("the settings were checked");
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for the run: it ends its steps, and with them its programs.
        #[cfg(unix)]
        apart(&mut command);
        let mut child = command.spawn()?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(child.id());
        let (questions, to_write) = mpsc::channel::<String>();
        // A program that writes without being asked waits, and fills no memory.
        let (found, answers) = mpsc::sync_channel(1);
        let last_words = Arc::new(Mutex::new(Vec::new()));
        if let Some(mut input) = child.stdin.take() {
            std::thread::spawn(move || {
                // Ends when the program does, or no more is asked.
                for line in to_write {
                    if input.write_all(line.as_bytes()).and_then(|()| input.flush()).is_err() {
                        break;
                    }
                }
            });
        }
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || read_lines(BufReader::new(output), &found));
        }
        if let Some(errors) = child.stderr.take() {
            let kept = last_words.clone();
            std::thread::spawn(move || keep_end(errors, &kept));
        }
        Ok(Self { child, questions: Some(questions), answers, last_words })
    }

    fn ask(&mut self, request: &str, deadline: Instant) -> Result<String, String> {
        // An answer that nobody has asked for yet.
        if let Ok(early) = self.answers.try_recv() {
            let shown: String = early?.chars().take(120).collect();
            return Err(format!("expected one line an answer, got another one: {shown:?}"));
        }
        let sent = self.questions.as_ref().is_some_and(|line| line.send(format!("{request}\n")).is_ok());
        if !sent {
            return Err("expected a program that reads its input, got one that has closed it".to_owned());
        }
        let limit = deadline.saturating_duration_since(Instant::now());
        match self.answers.recv_timeout(limit) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(format!("expected an answer within {:.1} s, got none", limit.as_secs_f64()))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err("expected an answer, got the end of its output".to_owned())
            }
        }
    }

    /// What is wrong, with how the program ended and what it wrote on standard error.
    fn with_last_words(mut self, reason: String) -> String {
        // What has ended has just done so; its last words are on their way.
        std::thread::sleep(Duration::from_millis(20));
        let ended = self.child.try_wait().ok().flatten().map(|status| format!(" ({status})"));
        self.stop();
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words = String::from_utf8_lossy(&words);
        let last: Vec<&str> = words.trim().lines().rev().take(3).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join(" / ");
        let said = if last.is_empty() { String::new() } else { format!("; it wrote: {last}") };
        format!("{reason}{}{said}", ended.unwrap_or_default())
    }

    fn stop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = running.iter().position(|id| *id == self.child.id()) {
            running.swap_remove(place);
            kill_group(self.child.id());
        }
        drop(running);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Waits for its end until `patience`.
    fn ends_by(&mut self, patience: Instant) -> bool {
        loop {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return true;
            }
            if Instant::now() >= patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Time that programs have to end once no more is asked, and once they are told to.
const FAREWELL: Duration = Duration::from_secs(2);

impl Drop for Programs {
    /// The input of all ends, and all are waited for at the same time; those that do not end are told to, then stopped.
    fn drop(&mut self) {
        let mut programs = std::mem::take(&mut *self.idle());
        programs.iter_mut().for_each(|program| program.questions = None);
        let patience = Instant::now() + FAREWELL;
        programs.retain_mut(|program| !program.ends_by(patience));
        #[cfg(unix)]
        for program in &programs {
            use nix::{sys::signal, unistd::Pid};
            let _ = signal::killpg(Pid::from_raw(program.child.id() as i32), signal::Signal::SIGTERM);
        }
        let patience = Instant::now() + FAREWELL;
        for program in &mut programs {
            program.ends_by(patience);
        }
    }
}

impl Drop for Program {
    /// What still runs of it, or of what it has started, is stopped.
    fn drop(&mut self) {
        self.stop();
    }
}

/// Hands lines on until the output ends; a line that is too long or no text is an error.
fn read_lines(mut output: impl BufRead, found: &mpsc::SyncSender<Result<String, String>>) {
    loop {
        let mut line = Vec::new();
        let read = (&mut output).take(LONGEST_ANSWER as u64 + 1).read_until(b'\n', &mut line);
        let line = match read {
            Ok(0) => return,
            Ok(_) if line.len() > LONGEST_ANSWER => {
                Err(format!("expected a line of at most {LONGEST_ANSWER} bytes, got a longer one"))
            }
            Ok(_) => {
                String::from_utf8(line).map_err(|_| "expected a line of UTF-8, got other bytes".to_owned())
            }
            Err(error) => Err(error.to_string()),
        };
        let ends = line.is_err();
        // Empty lines are no answers.
        let empty = line.as_ref().is_ok_and(|line| line.trim().is_empty());
        if !empty && (found.send(line).is_err() || ends) {
            return;
        }
    }
}

/// Keeps the last bytes of what is written.
fn keep_end(mut errors: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = errors.read(&mut buffer) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..length]);
        let surplus = kept.len().saturating_sub(LAST_WORDS);
        kept.drain(..surplus);
    }
}
