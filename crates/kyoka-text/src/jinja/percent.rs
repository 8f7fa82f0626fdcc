//! Python's `%`: the remainder of numbers, and values written into a text.

use minijinja::{Error as TemplateError, State, Value, context, value::ValueKind};

use super::fail;

/// `left % right`.
pub(crate) fn percent(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, TemplateError> {
    let Some(text) = left.as_str() else {
        let expression = state.env().compile_expression("left % right")?;
        return expression.eval(context! { left, right });
    };
    let mut values = match right.is_tuple() {
        true => right.try_iter()?.collect(),
        false => vec![right.clone()],
    };
    let (text, taken) = as_the_engine_has_it(text, &mut values);
    // Maps and lists may hold more than the text asks for.
    let spare = right.is_tuple() || !matches!(right.kind(), ValueKind::Map | ValueKind::Seq);
    if spare && taken < values.len() {
        return Err(fail(format!("%: expected {taken} values as the text asks for, got {}", values.len())));
    }
    // The filter pays for widths before it makes them.
    values.insert(0, Value::from(text));
    state.apply_filter("format", &values)
}

/// The text with conversions that the engine has, values that fit them, and the number of values it takes: `%r` writes
/// what Python's `repr` does, `%d` and `%i` cut floats.
fn as_the_engine_has_it(text: &str, values: &mut [Value]) -> (String, usize) {
    let (mut out, mut rest, mut taken) = (String::new(), text, 0);
    while let Some(at) = rest.find('%') {
        let named = rest[at + 1..].starts_with('(');
        let key = if named { rest[at..].find(')').unwrap_or(0) } else { 1 };
        let kind = |c: char| c == '%' || c.is_alphabetic() && !"hlL".contains(c);
        let Some(end) = rest[at + key..].find(kind).map(|end| at + key + end) else { break };
        let conversion = rest[end..].chars().next().unwrap_or('%');
        out.push_str(&rest[..end]);
        out.push(if conversion == 'r' { 's' } else { conversion });
        if conversion != '%' && !named {
            if let Some(value) = values.get_mut(taken) {
                *value = converted(value, conversion);
            }
            taken += 1;
        }
        rest = &rest[end + conversion.len_utf8()..];
    }
    (out + rest, taken)
}

fn converted(value: &Value, conversion: char) -> Value {
    match (conversion, f64::try_from(value.clone())) {
        ('r', _) => Value::from(repr(value)),
        ('d' | 'i', Ok(number)) if !value.is_integer() => Value::from(number as i128),
        _ => value.clone(),
    }
}

/// A value as it stands in a list.
fn repr(value: &Value) -> String {
    let list = Value::from(vec![value.clone()]).to_string();
    list[1..list.len() - 1].to_owned()
}
