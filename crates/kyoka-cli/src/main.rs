//! The `kyoka` command: parse, resolve, call the library, show.

#[macro_use]
mod output;

mod arguments;
mod chat;
mod planning;
mod progress;
mod rewards;
mod stopping;

use std::process::ExitCode;

use arguments::{
    Arguments, BenchArguments, BenchKind, Command, DataCommand, EvalArguments, ExportArguments,
    GenerateArguments, PlanArguments, TrainArguments,
};
use clap::Parser;
use kyoka::{
    BenchOptions, Error, EvalOptions, ExportOptions, Exported, GenerateOptions, PlanOptions, Recipe,
    TrainOptions, trainer::TrainError,
};
use serde_json::json;

/// The command line or the recipe is wrong.
const EXIT_USAGE: u8 = 2;

/// Lets glibc keep freed memory instead of returning it to the system.
///
/// A training step frees and takes the same large tensors over and over; without this every one of them is mapped, faulted
/// in and unmapped anew.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "mallopt has no safe form; it is called before any thread starts")]
fn keep_freed_memory() {
    const LARGE: i32 = 1 << 30;
    // The threshold for mapping cannot be raised above 32 MiB, so mapping is turned off; and a second arena could not
    // grow above 64 MiB without it, so all threads share the first.
    // SAFETY: mallopt only sets numbers of the allocator, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}

fn main() -> ExitCode {
    keep_freed_memory();
    let arguments = Arguments::parse();
    let stop = match arguments.command {
        Command::Eval(_) | Command::Reward { .. } => stopping::Stop::at_once(),
        _ => stopping::Stop::default(),
    };
    if matches!(arguments.command, Command::Train(_) | Command::Eval(_) | Command::Reward { .. }) {
        stop.listen();
    }
    // On a thread of the pool, the parallel parts of a step start at once; from outside, each one would wake the pool and
    // put this thread to sleep.
    rayon::scope(|_| run(arguments, stop))
}

fn run(arguments: Arguments, stop: stopping::Stop) -> ExitCode {
    let result = match arguments.command {
        Command::Train(train) => run_train(&train, stop),
        Command::Plan(plan) => run_plan(&plan),
        Command::Eval(eval) => run_eval(&eval),
        Command::Generate(generate) => run_generate(&generate),
        Command::Chat(chat) => chat::run(&chat),
        Command::Export(export) => run_export(&export),
        Command::Recipes { json } => run_recipes(json),
        Command::Bench(bench) => run_bench(&bench),
        Command::DeviceCheck { device, json } => run_device_check(&device, json),
        Command::Reward { command } => rewards::run(&command),
        Command::Data { command: DataCommand::Check { file, allow_outside, json } } => {
            run_check(&file, allow_outside, json)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stopping::say(&format!("error: {error}"));
            ExitCode::from(match error {
                Error::Train(TrainError::Interrupted { .. }) => stopping::exit_code(),
                Error::Train(TrainError::Config { .. } | TrainError::Setting(_))
                | Error::OtherRecipe { .. } => EXIT_USAGE,
                Error::UnknownRecipe { .. }
                | Error::Recipe { .. }
                | Error::Device { .. }
                | Error::Argument { .. }
                | Error::TooLate { .. }
                | Error::UnknownSplit { .. } => EXIT_USAGE,
                _ => 1,
            })
        }
    }
}

fn run_train(arguments: &TrainArguments, stop: stopping::Stop) -> Result<(), Error> {
    let (mut recipe, resumed_seed) = match (&arguments.recipe, &arguments.resume) {
        (Some(name), _) => (Recipe::named(name)?, None),
        (None, Some(run)) => Recipe::of_run(run)?,
        (None, None) => unreachable!("the parser wants a recipe unless --resume is given"),
    };
    for assignment in &arguments.set {
        recipe.set(assignment)?;
    }
    if arguments.gradient_checkpointing {
        recipe.set("gradient_checkpointing=true")?;
    }
    if !arguments.quiet {
        say_device(&arguments.device)?;
    }
    let options = TrainOptions {
        seed: arguments.seed.or(resumed_seed).unwrap_or(1),
        out: arguments.out.clone(),
        device: arguments.device.clone(),
        resume: arguments.resume.clone(),
        stop: stop.stop,
        started: stop.started,
    };
    let mut observer = progress::observer(arguments.quiet, arguments.json);
    let outcome = kyoka::train(&recipe, &options, observer.as_mut())?;
    drop(observer);
    if arguments.json {
        print_line!("{}", json!({"run": outcome.run_folder, "summary": outcome.summary}));
    } else if !arguments.quiet {
        output::show(&progress::results(&outcome));
    }
    Ok(())
}

/// Says which device `auto` takes, and why.
fn say_device(name: &str) -> Result<(), Error> {
    if name == "auto" {
        let chosen = kyoka::choose_device(name)?;
        stopping::say(&format!("device {}: {}", chosen.name, chosen.reason));
    }
    Ok(())
}

fn run_plan(arguments: &PlanArguments) -> Result<(), Error> {
    let mut recipe = Recipe::named(&arguments.recipe)?;
    for assignment in &arguments.set {
        recipe.set(assignment)?;
    }
    if arguments.gradient_checkpointing {
        recipe.set("gradient_checkpointing=true")?;
    }
    let memory = arguments.memory.map(|bytes| bytes.0);
    let plan = kyoka::plan(&recipe, &PlanOptions { memory })?;
    if arguments.json {
        print_line!("{}", json!(plan));
    } else {
        output::show(&planning::lines(&plan, memory));
    }
    Ok(())
}

fn run_device_check(device: &str, as_json: bool) -> Result<(), Error> {
    let comparisons = kyoka::check_device(device)?;
    if as_json {
        print_line!("{}", json!(comparisons));
    } else {
        for comparison in &comparisons {
            let verdict = if comparison.passed { "good" } else { "DIFFERS" };
            print_line!("{verdict:<8} {:<46} {:.1e}", comparison.name, comparison.difference);
        }
    }
    let faults = comparisons.iter().filter(|comparison| !comparison.passed).count();
    if faults == 0 {
        return Ok(());
    }
    let reason = format!(
        "{faults} of {} comparisons differ by more than {}",
        comparisons.len(),
        kyoka::DEVICE_TOLERANCE
    );
    Err(Error::Device { name: device.to_owned(), reason })
}

fn run_export(arguments: &ExportArguments) -> Result<(), Error> {
    let exported = kyoka::export(&ExportOptions {
        model: arguments.model.clone(),
        to: arguments.to.clone(),
        dtype: arguments.dtype.into(),
        merge: arguments.merge,
    })?;
    let what = match exported {
        Exported::Checkpoint => "checkpoint",
        Exported::Adapter => "adapter (PEFT)",
    };
    print_line!("{what}: {}", arguments.to.display());
    Ok(())
}

fn run_eval(arguments: &EvalArguments) -> Result<(), Error> {
    let mut recipe = arguments.recipe.as_deref().map(Recipe::named).transpose()?;
    for assignment in &arguments.set {
        let recipe = recipe.as_mut().expect("the parser wants a recipe beside --set");
        recipe.set(assignment)?;
    }
    say_device(&arguments.device)?;
    let options = EvalOptions {
        model: arguments.model.clone(),
        adapter: arguments.adapter.clone(),
        recipe,
        dataset: arguments.dataset.clone(),
        rewards: arguments.reward.clone(),
        split: arguments.split.clone(),
        blank: arguments.blank.map(Into::into),
        max_rows: arguments.max_rows,
        samples: arguments.samples,
        temperature: arguments.temperature,
        max_new_tokens: arguments.max_new_tokens,
        seed: arguments.seed,
        device: arguments.device.clone(),
    };
    let summary =
        kyoka::evaluate_checkpoint(&options, &mut |warning| stopping::say(&format!("warning: {warning}")))?;
    if arguments.json {
        print_line!("{}", json!(summary));
    } else {
        print_line!("{} ({} rows)", summary.split, summary.num_rows);
        for (name, value) in &summary.parts {
            print_line!("  {name:<15} {value:.3}");
        }
    }
    Ok(())
}

fn run_generate(arguments: &GenerateArguments) -> Result<(), Error> {
    say_device(&arguments.device)?;
    let sampling = kyoka::core::SamplingConfig {
        temperature: arguments.temperature,
        max_new_tokens: arguments.max_new_tokens,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        min_p: arguments.min_p,
        stop: arguments.stop.clone(),
    };
    let completions = kyoka::generate(&GenerateOptions {
        model: arguments.model.clone(),
        adapter: arguments.adapter.clone(),
        prompt: arguments.prompt.clone(),
        images: arguments.image.clone(),
        audios: arguments.audio.clone(),
        sampling,
        count: arguments.count,
        seed: arguments.seed,
        device: arguments.device.clone(),
    })?;
    if arguments.json {
        print_line!("{}", json!(completions));
    } else {
        for completion in completions {
            print_line!("{completion}");
        }
    }
    Ok(())
}

fn run_bench(arguments: &BenchArguments) -> Result<(), Error> {
    say_device(&arguments.device)?;
    let options = BenchOptions {
        checkpoint: arguments.checkpoint.clone(),
        shape: arguments.shape,
        image_tokens: arguments.image_tokens.0,
        prompts: arguments.prompts,
        group: arguments.group,
        prompt_tokens: arguments.prompt_tokens,
        new_tokens: arguments.new_tokens,
        steps: arguments.steps,
        gradient_checkpointing: arguments.gradient_checkpointing,
        device: arguments.device.clone(),
    };
    let result = match arguments.kind {
        BenchKind::Step => json!(kyoka::bench_step(&options)?),
        BenchKind::Decode => json!(kyoka::bench_decode(&options)?),
        BenchKind::Roofline => json!(kyoka::bench_roofline(&arguments.device)?),
        BenchKind::TextStep => json!(kyoka::bench_text_step(&options)?),
    };
    if arguments.json {
        print_line!("{result}");
    } else {
        for (name, value) in result.as_object().into_iter().flatten() {
            print_line!("{name:<24} {value}");
        }
    }
    Ok(())
}

fn run_recipes(as_json: bool) -> Result<(), Error> {
    let recipes = Recipe::bundled()?;
    if as_json {
        let list: Vec<_> =
            recipes.iter().map(|(name, text)| json!({"name": name, "description": text})).collect();
        print_line!("{}", json!(list));
    } else {
        for (name, description) in recipes {
            print_line!("{name:<22} {description}");
        }
    }
    Ok(())
}

fn run_check(file: &std::path::Path, allow_outside: bool, as_json: bool) -> Result<(), Error> {
    let checked = kyoka::check_data(file, kyoka::data::ReadOptions { allow_outside, ..Default::default() })?;
    checked.warnings.iter().for_each(|warning| stopping::say(&format!("warning: {warning}")));
    if as_json {
        print_line!("{}", json!({"audios": checked.audios, "images": checked.images, "rows": checked.rows}));
    } else {
        print_line!(
            "{}: {} rows, {} pictures, {} sounds: all good",
            file.display(),
            checked.rows,
            checked.images,
            checked.audios
        );
    }
    Ok(())
}
