//! Pieces of expressions as LaTeX and plain text write them.

/// A piece of an expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Number(String),
    /// A letter, or a name that is known as one word.
    Name(String),
    /// A LaTeX command without its backslash.
    Command(String),
    Sign(char),
    /// Words that are no mathematics.
    Text(String),
}

/// Functions with their arguments behind them.
pub(super) const FUNCTIONS: [&str; 24] = [
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "ln",
    "log",
    "lg",
    "exp",
    "gcd",
    "max",
    "min",
    "sqrt",
    "abs",
    "floor",
    "ceil",
    "factorial",
    "binom",
];

/// The pieces of a text; `None` if one is not known, or there are too many.
pub(super) fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let width = first.len_utf8();
        if first.is_whitespace() || first == '~' {
            rest = &rest[width..];
        } else if first.is_ascii_digit()
            || (first == '.' && rest[1..].starts_with(|next: char| next.is_ascii_digit()))
        {
            let length = number_length(rest);
            tokens.push(Token::Number(rest[..length].to_owned()));
            rest = &rest[length..];
        } else if first == '\\' {
            let (token, behind) = command(&rest[1..])?;
            rest = behind;
            let two = matches!(&token, Some(Token::Command(name)) if name == "frac" || name == "binom");
            tokens.extend(token);
            // \frac13 has two arguments of one digit.
            for _ in 0..if two { 2 } else { 0 } {
                let digits = rest.trim_start();
                if !digits.starts_with(|next: char| next.is_ascii_digit()) {
                    break;
                }
                tokens.push(Token::Number(digits[..1].to_owned()));
                rest = &digits[1..];
            }
        } else if first.is_alphabetic() {
            let length = rest.find(|next: char| !next.is_alphabetic()).unwrap_or(rest.len());
            names(&rest[..length], &mut tokens);
            rest = &rest[length..];
        } else {
            tokens.extend(sign(first)?);
            rest = &rest[width..];
        }
        if tokens.len() > 2_000 {
            return None;
        }
    }
    Some(tokens)
}

/// Bytes of a number with decimals; thousands are joined before.
fn number_length(text: &str) -> usize {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    match text[whole..].strip_prefix('.') {
        Some(fraction) if digits(fraction) > 0 => whole + 1 + digits(fraction),
        _ => whole,
    }
}

/// Letters side by side: known names are words, others are factors.
fn names(letters: &str, tokens: &mut Vec<Token>) {
    let known =
        ["pi", "infinity", "inf", "infty", "sqrt"].into_iter().chain(FUNCTIONS).find(|name| letters == *name);
    match known {
        Some("infinity" | "inf" | "infty") => tokens.push(Token::Name("infty".to_owned())),
        Some(name) if FUNCTIONS.contains(&name) => tokens.push(Token::Command(name.to_owned())),
        Some(name) => tokens.push(Token::Name(name.to_owned())),
        None if letters.chars().count() > 4 => tokens.push(Token::Text(letters.to_owned())),
        None => tokens.extend(letters.chars().map(|letter| match letter {
            'π' => Token::Name("pi".to_owned()),
            '∞' => Token::Name("infty".to_owned()),
            other => Token::Name(other.to_string()),
        })),
    }
}

fn sign(first: char) -> Option<Option<Token>> {
    Some(match first {
        '+' | '-' | '*' | '/' | '^' | '_' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '!' | ',' | '&'
        | '\'' | '=' => Some(Token::Sign(first)),
        '.' => None,
        '−' | '–' => Some(Token::Sign('-')),
        '×' | '·' | '⋅' | '∗' => Some(Token::Sign('*')),
        '÷' => Some(Token::Sign('/')),
        '±' => Some(Token::Command("pm".to_owned())),
        '√' => Some(Token::Command("sqrt".to_owned())),
        '°' => None,
        '²' | '³' => {
            return Some(Some(Token::Text(first.to_string())));
        }
        _ => return None,
    })
}

/// A command behind its backslash, and what follows it.
fn command(text: &str) -> Option<(Option<Token>, &str)> {
    let length = text.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(text.len());
    if length == 0 {
        let first = text.chars().next()?;
        let rest = &text[first.len_utf8()..];
        return Some(match first {
            '{' | '}' => (Some(Token::Sign(first)), rest),
            '|' => (Some(Token::Sign('|')), rest),
            '\\' => (Some(Token::Command("\\".to_owned())), rest),
            // Space, and signs of money and percent that were looked at before.
            ',' | ';' | '!' | ':' | ' ' | '$' | '%' => (None, rest),
            _ => return None,
        });
    }
    let (name, rest) = text.split_at(length);
    Some(match name {
        "left" | "right" | "big" | "Big" | "bigg" | "Bigg" | "bigl" | "bigr" | "displaystyle" | "quad"
        | "qquad" | "limits" => (None, rest.strip_prefix('.').unwrap_or(rest)),
        "text" | "textbf" | "textit" | "textnormal" | "textrm" | "mbox" | "mathrm" | "mathbf"
        | "operatorname" | "rm" => {
            let Some(inside) = rest.trim_start().strip_prefix('{') else { return Some((None, rest)) };
            let (words, behind) = inside.split_once('}')?;
            let token = match words.trim() {
                "e" | "i" | "d" if name.starts_with("math") => Token::Name(words.trim().to_owned()),
                said if FUNCTIONS.contains(&said) => Token::Command(said.to_owned()),
                said if name.starts_with("mathb") => Token::Name(said.to_owned()),
                said => Token::Text(said.to_owned()),
            };
            (Some(token), behind)
        }
        "dfrac" | "tfrac" | "cfrac" => (Some(Token::Command("frac".to_owned())), rest),
        "dbinom" | "tbinom" => (Some(Token::Command("binom".to_owned())), rest),
        "cdot" | "times" | "ast" => (Some(Token::Sign('*')), rest),
        "div" => (Some(Token::Sign('/')), rest),
        "lbrace" => (Some(Token::Sign('{')), rest),
        "rbrace" => (Some(Token::Sign('}')), rest),
        "lvert" | "rvert" | "vert" | "mid" => (Some(Token::Sign('|')), rest),
        "circ" | "degree" | "prime" => (None, rest),
        "infty" => (Some(Token::Name("infty".to_owned())), rest),
        "pi" => (Some(Token::Name("pi".to_owned())), rest),
        other => (Some(Token::Command(other.to_owned())), rest),
    })
}
