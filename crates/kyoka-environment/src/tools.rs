//! An environment whose answers are those of tools.

use std::sync::Arc;

use kyoka_core::{
    Action, Answer, Environment, EnvironmentError, EnvironmentFactory, Part, Sample, ToolSchema,
};

use crate::{Tool, ToolCall, ToolError, tool_calls};

/// Most calls of a turn that are answered; the others are told so.
const MAX_CALLS: usize = 8;

/// Tools that the policy may call. A turn without a call ends the episode.
pub struct Tools {
    tools: Arc<Vec<(String, Box<dyn Tool>)>>,
    schemas: Vec<ToolSchema>,
}

impl Tools {
    /// An environment of tools.
    pub fn new(tools: Vec<Box<dyn Tool>>) -> Self {
        let schemas: Vec<ToolSchema> = tools.iter().map(|tool| tool.schema()).collect();
        let tools = schemas.iter().map(|schema| schema.name.clone()).zip(tools).collect();
        Self { tools: Arc::new(tools), schemas }
    }

    /// A name by which two tools would be called.
    pub fn called_alike(&self) -> Option<&str> {
        let names = || self.schemas.iter().map(|schema| schema.name.as_str());
        names()
            .enumerate()
            .find(|(at, name)| names().take(*at).any(|other| other == *name))
            .map(|(_, name)| name)
    }
}

impl EnvironmentFactory for Tools {
    fn tools(&self) -> &[ToolSchema] {
        &self.schemas
    }

    fn open(&self) -> Result<Box<dyn Environment>, EnvironmentError> {
        Ok(Box::new(Calls { tools: self.tools.clone(), row: Sample::default() }))
    }
}

/// An episode.
struct Calls {
    tools: Arc<Vec<(String, Box<dyn Tool>)>>,
    row: Sample,
}

impl Environment for Calls {
    fn reset(&mut self, row: &Sample, _seed: u64) -> Result<Vec<Part>, EnvironmentError> {
        self.row.clone_from(row);
        Ok(Vec::new())
    }

    fn step(&mut self, action: &Action<'_>) -> Result<Answer, EnvironmentError> {
        // A call that a limit has cut off is none, and nothing follows it.
        if action.ended.is_truncation() {
            return Ok(Answer::default());
        }
        let calls = tool_calls(action.text);
        if calls.is_empty() {
            return Ok(Answer { done: true, ..Answer::default() });
        }
        let mut parts = Vec::new();
        let too_many = calls.len().saturating_sub(MAX_CALLS);
        for call in calls.into_iter().take(MAX_CALLS) {
            if !parts.is_empty() {
                parts.push(Part::Text("\n".to_owned()));
            }
            match call.map_err(ToolError::Refused).and_then(|call| self.call(&call)) {
                Ok(result) if result.is_empty() => parts.push(Part::Text("done".to_owned())),
                Ok(result) => parts.extend(result),
                Err(ToolError::Refused(reason)) => parts.push(Part::Text(format!("error: {reason}"))),
                Err(ToolError::Failed(error)) => return Err(error),
            }
        }
        if too_many > 0 {
            parts.push(Part::Text(format!("\nerror: {MAX_CALLS} calls a turn; {too_many} were left out")));
        }
        Ok(Answer { parts, ..Answer::default() })
    }
}

impl Calls {
    fn call(&self, call: &ToolCall) -> Result<Vec<Part>, ToolError> {
        match self.tools.iter().find(|(name, _)| *name == call.name) {
            Some((_, tool)) => tool.call(&call.arguments, &self.row),
            None => {
                let names: Vec<&str> = self.tools.iter().map(|(name, _)| name.as_str()).collect();
                let (got, there) = (shortened(&call.name), names.join(", "));
                Err(ToolError::Refused(format!("there is no tool called {got:?} (there: {there})")))
            }
        }
    }
}

/// What the policy wrote, no longer than an error message should be.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use kyoka_core::{MediaRef, Modality, StopReason};
    use kyoka_image::Picture;

    use super::*;
    use crate::Crop;

    fn step(row: &Sample, text: &str) -> Answer {
        let tools = Tools::new(vec![Box::new(Crop::default())]);
        assert_eq!((tools.tools()[0].name.as_str(), tools.called_alike()), ("crop", None));
        let mut episode = tools.open().unwrap();
        assert_eq!(episode.reset(row, 3).unwrap(), []);
        episode.step(&Action { text, turn: 0, ended: StopReason::EndToken }).unwrap()
    }

    fn row() -> Sample {
        let pixels = (0..40 * 60).map(|at| (at % 60 * 4) as u8).collect();
        let picture = Picture::grey(40, 60, pixels).to_png();
        Sample::asking(vec![Part::Media(MediaRef::bytes(Modality::Image, "ramp", picture))])
    }

    fn crop(arguments: &str) -> String {
        format!("<tool_call>{{\"name\": \"crop\", \"arguments\": {arguments}}}</tool_call>")
    }

    #[test]
    fn calls_are_answered_in_order_and_a_turn_without_one_ends() {
        let text =
            [crop("{\"bbox_2d\": [10, 5, 50, 35]}"), crop("{\"bbox_2d\": [0, 0, 900, 9]}")].join(" then ");
        let Answer { parts, reward, done } = step(&row(), &text);
        let [Part::Media(medium), Part::Text(_), Part::Text(refused)] = &parts[..] else {
            panic!("{parts:?}")
        };
        let seen = Picture::decode(&medium.content.read().unwrap()).unwrap();
        assert_eq!((seen.height, seen.width, seen.rgb[0]), (30, 40, 40));
        assert!(refused.starts_with("error: bbox_2d: expected"), "{refused}");
        assert_eq!((reward, done), (None, false));
        assert!(step(&row(), "a ramp").done);
        let mut cut = Tools::new(vec![Box::new(Crop::default())]).open().unwrap();
        let action = Action { text: &crop("{}"), turn: 0, ended: StopReason::Length };
        assert!(cut.step(&action).unwrap().parts.is_empty(), "no call is answered that was cut off");
    }

    #[test]
    fn what_the_policy_did_wrong_is_told_to_it() {
        for (text, expected) in [
            (
                "<tool_call>{\"name\": \"zoom\"}</tool_call>".to_owned(),
                "error: there is no tool called \"zoom\" (there: crop)",
            ),
            ("<tool_call>crop</tool_call>".to_owned(), "error: expected a call such as"),
            (crop("{}"), "error: bbox_2d: expected"),
            (crop("{\"bbox_2d\": [0, 0, 1e99, 3]}"), "error: bbox_2d: expected"),
            (crop("{\"bbox_2d\": [0, 0, 9, 9], \"image\": 4}"), "error: image: expected 0 to 0, got 4"),
        ] {
            let answer = step(&row(), &text);
            let [Part::Text(said)] = &answer.parts[..] else { panic!("{:?}", answer.parts) };
            assert!(said.starts_with(expected) && !answer.done, "{text}: {said}");
        }
        let many = step(&row(), &crop("{}").repeat(11));
        assert!(matches!(many.parts.last(), Some(Part::Text(said)) if said.ends_with("3 were left out")));
    }

    #[test]
    fn two_tools_of_one_name_are_found() {
        let tools = Tools::new(vec![Box::new(Crop::default()), Box::new(Crop::default())]);
        assert_eq!(tools.called_alike(), Some("crop"));
    }
}
