//! `kyoka chat`: reads lines, answers each.

use std::{
    io::{BufRead, IsTerminal, Write},
    path::PathBuf,
};

use kyoka::{Chat, Error, core::SamplingConfig};

use crate::arguments::ChatArguments;

const HELP: &str = "/image FILE and /audio FILE come before the next message, /system TEXT sets the system prompt, \
/forget starts anew, /quit ends";

pub fn run(arguments: &ChatArguments) -> Result<(), Error> {
    let sampling = SamplingConfig {
        temperature: arguments.temperature,
        top_p: arguments.top_p,
        max_new_tokens: arguments.max_new_tokens,
        ..SamplingConfig::default()
    };
    crate::say_device(&arguments.device)?;
    let model = (arguments.model.as_path(), arguments.adapter.as_deref());
    let mut chat = Chat::open(model, &arguments.device, sampling, arguments.seed)?;
    if let Some(text) = &arguments.system {
        chat.system(text);
    }
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        print_line!("{HELP}");
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if interactive {
            crate::output::show("> ");
            // A terminal that is gone ends the loop below.
            let _ = std::io::stdout().flush();
        }
        let Some(line) = lines.next() else { return Ok(()) };
        let line = line.map_err(|error| Error::File { path: "stdin".into(), reason: error.to_string() })?;
        match command(line.trim()) {
            Input::Nothing => {}
            Input::Quit => return Ok(()),
            Input::Help => print_line!("{HELP}"),
            Input::Forget => chat.forget(),
            Input::System(text) => chat.system(text),
            Input::Image(path) => chat.show(path),
            Input::Audio(path) => chat.play(path),
            Input::Message(text) => match chat.say(text) {
                Ok(answer) => print_line!("{answer}"),
                Err(error) if interactive => eprintln!("error: {error}"),
                Err(error) => return Err(error),
            },
        }
    }
}

#[derive(Debug, PartialEq)]
enum Input<'a> {
    Nothing,
    Quit,
    Help,
    Forget,
    System(&'a str),
    Image(PathBuf),
    Audio(PathBuf),
    Message(&'a str),
}

fn command(line: &str) -> Input<'_> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match word {
        "" => Input::Nothing,
        "/quit" | "/exit" => Input::Quit,
        "/forget" => Input::Forget,
        "/system" if !rest.is_empty() => Input::System(rest),
        "/image" if !rest.is_empty() => Input::Image(rest.into()),
        "/audio" if !rest.is_empty() => Input::Audio(rest.into()),
        word if word.starts_with('/') => Input::Help,
        _ => Input::Message(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_messages() {
        assert_eq!(command("/image a b.png"), Input::Image("a b.png".into()));
        assert_eq!(command("/system  be brief"), Input::System("be brief"));
        assert_eq!(command("what / is this?"), Input::Message("what / is this?"));
        assert_eq!(
            (command(""), command("/quit"), command("/imgae x")),
            (Input::Nothing, Input::Quit, Input::Help)
        );
    }
}
