//! Where rows come from, if not from a folder of files.

use kyoka_core::Sample;

use crate::{PreferenceRow, Rows};

/// Anything that can be wrong with a source.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Gives the rows of a dataset, split by split.
///
/// A split has the same rows in the same order whenever it is asked for: a run that is resumed checks that it goes on over what it
/// began with. Media are files, which are read when a row is drawn, or bytes that are at hand.
///
/// ```
/// use kyoka_core::{Part, Sample};
/// use kyoka_data::{RowSource, Rows, SourceError};
///
/// /// Asks for sums.
/// struct Sums(u32);
///
/// impl RowSource for Sums {
///     fn rows(&self, split: &str) -> Result<Rows<Sample>, SourceError> {
///         let first = if split == "train" { 0 } else { self.0 };
///         let row = |a: u32| Sample {
///             id: a.to_string(),
///             answer: Some((a + 1).into()),
///             ..Sample::asking(vec![Part::Text(format!("{a} + 1 ="))])
///         };
///         Ok((first..first + self.0).map(row).collect::<Vec<_>>().into())
///     }
/// }
/// assert_eq!(Sums(3).rows("val").unwrap().rows[0].answers(), ["4"]);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` gives no rows",
    note = "implement `RowSource`: `rows` gives those of a split, the same whenever it is asked"
)]
pub trait RowSource: Send + Sync {
    /// The rows of a split.
    ///
    /// # Errors
    /// If there is no such split, or it cannot be read.
    fn rows(&self, split: &str) -> Result<Rows<Sample>, SourceError>;

    /// The comparisons of a split, which stages of kind `preference` and `reward_model` read. By default there are none.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    fn pairs(&self, _split: &str) -> Result<Rows<PreferenceRow>, SourceError> {
        Err("this source has no comparisons".into())
    }
}
