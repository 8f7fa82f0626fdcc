//! Jinja2 as transformers sets it up, over minijinja: what the engine lacks of Python's texts and Jinja2's filters.

mod arguments;
mod filters;
mod json;
mod methods;
mod percent;
mod source;

use minijinja::{
    Environment, Error as TemplateError, ErrorKind, Value,
    syntax::SyntaxConfig,
    value::{Rest, ValueKind},
};
use minijinja_contrib::globals::{cycler, joiner};

pub(crate) use source::prepared;

/// Steps a template may take, and 64 bytes each that it may make: far more than any conversation needs, and an end for
/// one that loops or grows.
const MOST_STEPS: u64 = 4_000_000;

/// The engine with what transformers gives its templates.
pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the usual syntax is valid"));
    environment.set_fuel(Some(MOST_STEPS));
    environment.set_debug(false);
    environment.set_unknown_method_callback(methods::call);
    filters::add(&mut environment);
    environment.add_function("cycler", |items: Rest<Value>| cycler(items.0));
    environment.add_function("joiner", joiner);
    environment.add_function("raise_exception", |message: String| Err::<Value, _>(fail(message)));
    environment.add_function("strftime_now", |format: String| {
        jiff::fmt::strtime::format(&format, &jiff::Zoned::now())
            .map_err(|error| fail(format!("strftime_now: {error}")))
    });
    environment.set_formatter(|out, state, value| {
        if value.kind() == ValueKind::Number && !value.is_integer() {
            let number = f64::try_from(value.clone())?;
            return out.write_str(&json::python_float(number)).map_err(TemplateError::from);
        }
        minijinja::escape_formatter(out, state, value)
    });
    environment
}

/// What Python would raise.
fn fail(reason: impl Into<String>) -> TemplateError {
    TemplateError::new(ErrorKind::InvalidOperation, reason.into())
}
