//! An engine that is not where the trainer is: a thread with a copy of the weights, told of everything through a channel.

use std::sync::{Mutex, PoisonError, mpsc};

use kyoka::{
    EngineContext,
    burn::module::Module,
    core::{CausalLm, GroupSink, RolloutEngine, RolloutError, RolloutPrompt, RolloutRequest},
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

/// What the thread does with its engine.
type Job<M> = Box<dyn FnOnce(&LocalEngine<M>) + Send>;

/// A stand-in for a server: it keeps weights of its own, answers in an order of its own, and cannot tell entropies.
pub struct Elsewhere<M> {
    thread: Mutex<mpsc::Sender<Job<M>>>,
    banned_ids: Vec<u32>,
    latency_ms: u64,
}

impl<M: CausalLm + Module + 'static> Elsewhere<M> {
    /// Starts the thread; it ends with the engine.
    pub fn start(context: &EngineContext<'_>, settings: ElsewhereSettings) -> Self {
        let (thread, jobs) = mpsc::channel::<Job<M>>();
        let engine = context.local();
        std::thread::spawn(move || jobs.into_iter().for_each(|job| job(&engine)));
        let (banned_ids, latency_ms) = (context.tokenizer.banned_ids(), settings.latency_ms);
        Self { thread: Mutex::new(thread), banned_ids, latency_ms }
    }

    fn tell(&self, job: impl FnOnce(&LocalEngine<M>) + Send + 'static) -> Result<(), RolloutError> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.send(Box::new(job)).map_err(|_| gone())
    }
}

fn gone() -> RolloutError {
    RolloutError::Engine { source: "it ended before it had answered".into() }
}

impl<M: CausalLm + Module + 'static> RolloutEngine<M> for Elsewhere<M> {
    fn banned_ids(&self) -> &[u32] {
        &self.banned_ids
    }

    fn publish(&self, version: u64, model: &M) -> Result<(), RolloutError> {
        let model = model.clone();
        self.tell(move |engine| engine.publish(version, &model).expect("an engine here takes all weights"))
    }

    fn generate(&self, request: RolloutRequest<'_>, sink: &mut GroupSink<'_>) -> Result<(), RolloutError> {
        let (answer, answers) = mpsc::channel();
        let RolloutRequest { group_size, seed, .. } = request;
        let (sampling, latency) =
            (request.sampling.clone(), std::time::Duration::from_millis(self.latency_ms));
        let asked: Vec<_> = request.prompts.iter().map(|asked| (asked.prompt.clone(), asked.key)).collect();
        self.tell(move |engine| {
            let prompts = asked.iter().map(|(prompt, key)| RolloutPrompt { prompt, sample: None, key: *key });
            let (prompts, sampling, episodes) = (&prompts.collect::<Vec<_>>(), &sampling, None);
            let request = RolloutRequest { prompts, group_size, sampling, seed, episodes };
            let answered = engine.generate_all(request).map(|groups| {
                for (place, mut group) in groups.into_iter().enumerate().rev() {
                    std::thread::sleep(latency);
                    group.rollouts.iter_mut().for_each(|rollout| rollout.entropies.clear());
                    drop(answer.send(Ok((place, group))));
                }
            });
            // Whoever asked may have gone.
            answered.unwrap_or_else(|error| drop(answer.send(Err(error))));
        })?;
        for _ in request.prompts {
            let (place, group) = answers.recv().map_err(|_| gone())??;
            sink(place, group)?;
        }
        Ok(())
    }
}
