//! How a policy's texts are read.

use std::path::Path;

use kyoka_text::{ChatTemplate, Tokenizer};

use crate::Error;

/// Folder inside a checkpoint of ours that holds tokenizer, processors and layout of the checkpoint it came from.
pub(crate) const SOURCE_FOLDER: &str = "source";

/// How a policy's texts are read: its tokenizer, and its chat template where it has one.
pub type TextSide = (Tokenizer, Option<ChatTemplate>);

/// The tokenizer and the template of a checkpoint of ours.
pub(crate) fn text_side(folder: &Path) -> Result<TextSide, Error> {
    let source = folder.join(SOURCE_FOLDER);
    if source.is_dir() {
        return Ok((Tokenizer::from_checkpoint(&source)?, ChatTemplate::from_folder(&source)?));
    }
    Ok((Tokenizer::from_file(&folder.join("tokenizer.json"))?, None))
}
