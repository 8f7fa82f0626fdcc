//! A template's text as minijinja takes it: without `{% generation %}`, and with a filter in the place of `%`.

/// The tags of a template, and what stands for them.
const OPENING: [&str; 3] = ["{{", "{%", "{#"];
/// Names behind which an operand begins.
const KEYWORDS: [&str; 6] = ["and", "or", "not", "in", "if", "else"];

/// The text with `{% generation %}`, which marks what an assistant wrote, as a scope of its own, and with `a % b` as
/// `(a) | percent(b)`: the engine has no `%` for texts. Lines end with a line feed, as Jinja2 has them.
pub(crate) fn prepared(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let (mut out, mut rest) = (String::with_capacity(text.len()), text.as_str());
    while let Some(start) = OPENING.iter().filter_map(|opening| rest.find(opening)).min() {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let (opening, inside) = tag.split_at(2);
        let Some(length) = tag_length(opening, inside) else {
            // A tag without an end: the engine says so.
            rest = tag;
            break;
        };
        let (code, after) = inside.split_at(length);
        let word = code.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(opening);
        match (opening, word) {
            ("{%", "generation") => out.push_str(&code.replace(word, "with")),
            ("{%", "endgeneration") => out.push_str(&code.replace(word, "endwith")),
            ("{#", _) => out.push_str(code),
            _ => out.push_str(&with_percent(code, opening == "{%")),
        }
        rest = after;
        if opening == "{%" && word == "raw" {
            let end = rest.find("endraw").unwrap_or(rest.len());
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out + rest
}

/// Bytes up to where the tag closes, outside of texts and brackets.
fn tag_length(opening: &str, inside: &str) -> Option<usize> {
    let closing = match opening {
        "{#" => return inside.find("#}"),
        "{%" => "%}",
        _ => "}}",
    };
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(token) = token(&inside[at..]) {
        if depth == 0 && inside[at..].starts_with(closing) {
            return Some(at);
        }
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += token.len();
    }
    None
}

/// The first token of an expression; white space is one too.
fn token(text: &str) -> Option<&str> {
    let first = text.chars().next()?;
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let run = |of: &dyn Fn(char) -> bool| text.find(|c| !of(c)).unwrap_or(text.len());
    let length = match first {
        '\'' | '"' => {
            let mut escaped = false;
            let close = text.char_indices().skip(1).find(|&(_, c)| {
                let closes = c == first && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            close.map_or(text.len(), |(at, _)| at + 1)
        }
        _ if first.is_whitespace() => run(&char::is_whitespace),
        _ if word(first) => run(&word),
        _ => {
            let pair = ["**", "//", "==", "!=", "<=", ">="].iter().any(|pair| text.starts_with(pair));
            if pair { 2 } else { first.len_utf8() }
        }
    };
    Some(&text[..length])
}

/// One level of brackets while an expression is read.
struct Level {
    /// Where in the output the chain of `*`, `/` and `%` begins that is being read.
    chain: usize,
    /// Whether the right side of a `%` is being read.
    open: bool,
}

/// An expression, or a statement, with `%` between operands as a filter.
fn with_percent(code: &str, statement: bool) -> String {
    if !code.contains('%') {
        return code.to_owned();
    }
    // A sign directly at the start or before the end belongs to the tag.
    let sign = code.len() - code.strip_prefix(['-', '+']).unwrap_or(code).len();
    let body = code.strip_suffix(['-', '+']).unwrap_or(code);
    let mut out = String::with_capacity(code.len() + 16);
    out.push_str(&code[..sign]);
    let mut levels = vec![Level { chain: sign, open: false }];
    let (mut operand, mut last, mut at) = (false, "", sign);
    let mut keyword_due = statement;
    while let Some(token) = token(&body[at..]) {
        at += token.len();
        if token.trim().is_empty() {
            out.push_str(token);
            continue;
        }
        let begins_chain = match token {
            "," | ":" | "=" | "~" | "==" | "!=" | "<" | ">" | "<=" | ">=" => true,
            "+" | "-" => operand,
            _ if keyword_due && token.starts_with(char::is_alphabetic) => true,
            _ => KEYWORDS.contains(&token) && last != "." && last != "is",
        };
        let closes = matches!(token, ")" | "]" | "}");
        let level = levels.last_mut().expect("the outermost level stays");
        if level.open && (begins_chain || closes || matches!(token, "*" | "/" | "//" | "%")) {
            out.push(')');
            level.open = false;
        }
        match token {
            "%" if operand => {
                out.insert(level.chain, '(');
                out.push_str(") | percent(");
                level.open = true;
            }
            "(" | "[" | "{" => {
                out.push_str(token);
                levels.push(Level { chain: out.len(), open: false });
            }
            _ => {
                out.push_str(token);
                if begins_chain {
                    level.chain = out.len();
                }
                if closes && levels.len() > 1 {
                    levels.pop();
                }
            }
        }
        let names = token.starts_with(|c: char| c.is_alphanumeric() || "_'\"".contains(c));
        operand = closes || (names && !begins_chain);
        keyword_due = false;
        last = token;
    }
    if levels[0].open {
        out.push(')');
    }
    out + &code[body.len()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percent_sign_between_operands_becomes_a_filter_and_others_stay() {
        for (text, expected) in [
            ("{{ '%s' % x }}", "{{( '%s' ) | percent( x )}}"),
            ("{{- 7 % 4 -}}{%- if x%2-%}", "{{-( 7 ) | percent( 4 )-}}{%- if( x) | percent(2)-%}"),
            ("{{ a + b % c * d }}", "{{ a +( b ) | percent( c )* d }}"),
            ("{{ f(a % 2)[1 % n] -}}", "{{ f((a ) | percent( 2))[(1 ) | percent( n)] -}}"),
            ("{% if i % 2 is not odd %}", "{% if( i ) | percent( 2 is not odd )%}"),
            (
                "{# 5 % 3 #}{{ '50%' }}{% raw %}{{ 1 % 2 }}{% endraw %}5 % 3",
                "{# 5 % 3 #}{{ '50%' }}{% raw %}{{ 1 % 2 }}{% endraw %}5 % 3",
            ),
            ("{{ {'a': {}} }}{{ '}}' }}{{ x", "{{ {'a': {}} }}{{ '}}' }}{{ x"),
        ] {
            assert_eq!(prepared(text), expected);
        }
    }

    #[test]
    fn generation_marks_become_scopes() {
        assert_eq!(prepared("{%- generation -%}a{% endgeneration %}"), "{%- with -%}a{% endwith %}");
    }
}
