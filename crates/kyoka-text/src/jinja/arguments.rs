//! Arguments of filters and methods.

use minijinja::{Error as TemplateError, value::Kwargs};

/// An argument by place or by name.
pub(super) fn named<'a, T>(
    place: Option<T>,
    options: &'a Kwargs,
    name: &'a str,
) -> Result<Option<T>, TemplateError>
where
    Option<T>: minijinja::value::ArgType<'a, Output = Option<T>>,
{
    // Looked up in any case, so that the name counts as known.
    let by_name = options.get::<Option<T>>(name)?;
    Ok(place.or(by_name))
}
