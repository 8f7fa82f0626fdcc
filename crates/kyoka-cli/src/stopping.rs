//! Ctrl-C, SIGTERM and SIGHUP while training: the first asks for a checkpoint and an end, the second ends at once.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
};

/// The signal that a program gets at Ctrl-C.
const SIGINT: i32 = 2;

/// The signal that ended the run.
static SIGNAL: AtomicI32 = AtomicI32::new(SIGINT);

/// The exit code of a program that a signal ended, as shells report it.
pub fn exit_code() -> u8 {
    128 + SIGNAL.load(Ordering::Relaxed) as u8
}

/// Writes a line to standard error; one that is gone (a closed terminal) must not end the run.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What training and the listener share.
#[derive(Clone, Default)]
pub struct Stop {
    /// Set at the first signal.
    pub stop: Arc<AtomicBool>,
    /// Set by the run once it has something to keep.
    pub started: Arc<AtomicBool>,
    /// Whether there is nothing to keep: the command ends at the first signal.
    plain: bool,
}

impl Stop {
    /// For commands that keep nothing, but may have started reward programs.
    pub fn at_once() -> Self {
        Self { plain: true, ..Self::default() }
    }

    /// Listens from now on. No other thread may run yet.
    pub fn listen(&self) {
        if let Err(error) = listen(self.clone()) {
            say(&format!("warning: Ctrl-C will end at once, without a checkpoint: {error}"));
        }
    }

    fn on_signal(&self, signal: i32) {
        SIGNAL.store(signal, Ordering::Relaxed);
        if self.plain {
            say("\nstopped");
            kyoka::reward::stop_programs();
            std::process::exit(i32::from(exit_code()));
        }
        if !self.started.load(Ordering::Relaxed) {
            kyoka::reward::stop_programs();
            say("\nstopped while the run was prepared, before its first step");
            std::process::exit(i32::from(exit_code()));
        }
        if self.stop.swap(true, Ordering::Relaxed) {
            say("\nstopped at once; the newest checkpoint stands (--resume)");
            kyoka::reward::stop_programs();
            std::process::exit(i32::from(exit_code()));
        }
        say(
            "\nstopping with a checkpoint: sampling and evaluation are given up, an update under way is finished first; \
             press Ctrl-C again to stop at once",
        );
    }
}

/// The signals are blocked, which threads that start later take over, and one thread waits for them.
#[cfg(unix)]
fn listen(stop: Stop) -> std::io::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let mut wanted = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    // `nohup` asks programs to outlive their terminal.
    if !is_ignored(libc::SIGHUP) {
        wanted.add(Signal::SIGHUP);
    }
    wanted.thread_block()?;
    let wait = move || {
        while let Ok(signal) = wanted.wait() {
            stop.on_signal(signal as i32);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

#[cfg(not(unix))]
fn listen(stop: Stop) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(move || stop.on_signal(SIGINT))
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "the only way to ask what happens at a signal")]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: without a new action the call only fills the struct, which is ours and may hold any bytes before.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut current) == 0
            && current.sa_sigaction == libc::SIG_IGN
    }
}
