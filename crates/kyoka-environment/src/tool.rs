//! What a tool is.

use kyoka_core::{EnvironmentError, Part, Sample, ToolSchema};
use serde_json::Value;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// What was asked for cannot be had: the policy is told, in these words.
    #[error("{0}")]
    Refused(String),
    /// The tool itself is broken: the episode fails.
    #[error("{0}")]
    Failed(EnvironmentError),
}

/// Something that the policy can call in a turn.
///
/// The same call about the same row gives the same result, so that a run that is resumed meets what it would have met. Calls come from
/// several threads at once.
///
/// ```
/// use kyoka_core::{Part, Sample, ToolSchema};
/// use kyoka_environment::{Tool, ToolError};
/// use serde_json::{Value, json};
///
/// /// Counts the pictures of a row.
/// struct CountPictures;
///
/// impl Tool for CountPictures {
///     fn schema(&self) -> ToolSchema {
///         let description = "How many pictures there are.".to_owned();
///         let parameters = json!({"type": "object", "properties": {}});
///         ToolSchema { name: "count_pictures".to_owned(), description, parameters }
///     }
///     fn call(&self, _arguments: &Value, row: &Sample) -> Result<Vec<Part>, ToolError> {
///         Ok(vec![Part::Text(row.media().count().to_string())])
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no tool that a policy can call",
    note = "implement `Tool`: `schema` tells the policy of it, `call` answers"
)]
pub trait Tool: Send + Sync {
    /// What the policy is told of it; the same each time.
    fn schema(&self) -> ToolSchema;

    /// Answers a call about a row. `arguments` is what the policy wrote: an object, not yet compared with the schema.
    ///
    /// # Errors
    /// [`ToolError::Refused`] for what the policy did wrong, [`ToolError::Failed`] where the tool cannot do its work.
    fn call(&self, arguments: &Value, row: &Sample) -> Result<Vec<Part>, ToolError>;
}
