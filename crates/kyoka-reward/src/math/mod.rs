//! Do two mathematical answers say the same?

mod compare;
mod expression;
mod extract;
mod number;
mod parse;
mod structure;
mod tokens;

pub(crate) use compare::Comparison;
pub(crate) use extract::extract;
pub(crate) use structure::Answer;
