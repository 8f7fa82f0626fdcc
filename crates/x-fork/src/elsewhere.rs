//! An engine that is not where the trainer is: a thread with a copy of the weights, told of everything through a channel.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    time::Duration,
};

use kyoka::{
    EngineContext, Policy,
    core::{
        GroupSink, Prompt, RolloutEngine, RolloutError, RolloutGroup, RolloutPrompt, RolloutRequest,
        SamplingConfig,
    },
    rollout::LocalEngine,
};
use serde::Deserialize;

/// Settings of the engine.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElsewhereSettings {
    /// How long a group takes to come back.
    pub latency_ms: u64,
}

/// What the thread is told.
enum Message {
    Weights {
        version: u64,
        model: Box<Policy>,
    },
    Ask {
        prompts: Vec<(Prompt, u64)>,
        group_size: usize,
        sampling: SamplingConfig,
        seed: u64,
        answer: Answers,
    },
}

/// Where the groups go, each with the place of its prompt.
type Answers = mpsc::Sender<Result<(usize, RolloutGroup), RolloutError>>;

/// A stand-in for a server: it keeps weights of its own, answers in an order of its own, and cannot tell entropies.
pub struct Elsewhere {
    thread: Mutex<mpsc::Sender<Message>>,
    banned_ids: Vec<u32>,
}

impl Elsewhere {
    /// Starts the thread; it ends with the engine.
    pub fn start(context: &EngineContext<'_>, settings: ElsewhereSettings) -> Self {
        let (thread, messages) = mpsc::channel();
        let (engine, banned_ids) = (context.local(), context.tokenizer.banned_ids());
        std::thread::spawn(move || serve(&engine, &messages, Duration::from_millis(settings.latency_ms)));
        Self { thread: Mutex::new(thread), banned_ids }
    }

    fn tell(&self, message: Message) -> Result<(), RolloutError> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.send(message).map_err(|error| gone(error.to_string()))
    }
}

fn gone(reason: String) -> RolloutError {
    RolloutError::Engine { source: reason.into() }
}

/// The thread: weights replace weights, questions are answered.
fn serve(engine: &LocalEngine<Policy>, messages: &mpsc::Receiver<Message>, latency: Duration) {
    for message in messages {
        let Message::Ask { prompts, group_size, sampling, seed, answer } = message else {
            if let Message::Weights { version, model } = message {
                engine.publish(version, &model).expect("an engine in this process takes all weights");
            }
            continue;
        };
        let asked: Vec<RolloutPrompt<'_>> =
            prompts.iter().map(|(prompt, key)| RolloutPrompt { prompt, sample: None, key: *key }).collect();
        let request =
            RolloutRequest { prompts: &asked, group_size, sampling: &sampling, seed, episodes: None };
        match engine.generate_all(request) {
            Err(error) => drop(answer.send(Err(error))),
            Ok(groups) => {
                for (place, mut group) in groups.into_iter().enumerate().rev() {
                    std::thread::sleep(latency);
                    group.rollouts.iter_mut().for_each(|rollout| rollout.entropies.clear());
                    // Whoever asked may have gone.
                    let _ = answer.send(Ok((place, group)));
                }
            }
        }
    }
}

impl RolloutEngine<Policy> for Elsewhere {
    fn banned_ids(&self) -> &[u32] {
        &self.banned_ids
    }

    fn publish(&self, version: u64, model: &Policy) -> Result<(), RolloutError> {
        self.tell(Message::Weights { version, model: Box::new(model.clone()) })
    }

    fn generate(&self, request: RolloutRequest<'_>, sink: &mut GroupSink<'_>) -> Result<(), RolloutError> {
        let (answer, answers) = mpsc::channel();
        let prompts = request.prompts.iter().map(|asked| (asked.prompt.clone(), asked.key)).collect();
        let (group_size, sampling, seed) = (request.group_size, request.sampling.clone(), request.seed);
        self.tell(Message::Ask { prompts, group_size, sampling, seed, answer })?;
        for _ in request.prompts {
            let answered = answers.recv().map_err(|_| gone("it ended before it had answered".to_owned()))?;
            let (place, group) = answered?;
            sink(place, group)?;
        }
        Ok(())
    }
}
