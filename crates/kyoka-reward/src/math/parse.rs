//! Expressions as LaTeX and plain text write them.

use super::{
    expression::Expr,
    number::Rational,
    tokens::{FUNCTIONS, Token, tokens},
};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 96;

/// Reads a whole expression; `None` if anything in it is not understood.
pub(super) fn expression(text: &str) -> Option<Expr> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, at: 0, depth: 0, bars: 0 };
    let expression = parser.sum()?;
    parser.skip_words();
    (parser.at == tokens.len()).then_some(expression)
}

/// Whether a text is words in the main, and which.
pub(super) fn words(text: &str) -> Option<String> {
    let tokens = tokens(text)?;
    let mut said = String::new();
    for token in tokens {
        match token {
            Token::Text(text) | Token::Name(text) | Token::Number(text) => said.push_str(&text),
            Token::Command(_) => return None,
            Token::Sign('(' | ')' | '{' | '}' | '.' | '-') => (),
            Token::Sign(_) => return None,
        }
    }
    let said: String =
        said.chars().filter(|letter| !letter.is_whitespace() && !"().".contains(*letter)).collect();
    (!said.is_empty()).then(|| said.to_lowercase())
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// Open signs of absolute values: inside one the next sign closes it.
    bars: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn eat(&mut self, sign: char) -> bool {
        let there = self.peek() == Some(&Token::Sign(sign));
        self.at += usize::from(there);
        there
    }

    /// Words behind a number are its unit, with a power it may have.
    fn skip_words(&mut self) {
        while let Some(Token::Text(_)) = self.peek() {
            self.at += 1;
            if self.peek() == Some(&Token::Sign('^')) {
                self.at += 1;
                let _ = self.argument();
            }
        }
    }

    fn sum(&mut self) -> Option<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut terms = vec![self.term()?];
        loop {
            match self.peek() {
                Some(Token::Sign('+')) => {
                    self.at += 1;
                    terms.push(self.term()?);
                }
                Some(Token::Sign('-')) => {
                    self.at += 1;
                    terms.push(Expr::Negative(Box::new(self.term()?)));
                }
                Some(Token::Command(name)) if name == "pm" || name == "mp" => {
                    self.at += 1;
                    terms.push(Expr::PlusMinus(Box::new(self.term()?)));
                }
                _ => break,
            }
        }
        self.depth -= 1;
        Some(if terms.len() == 1 { terms.remove(0) } else { Expr::Sum(terms) })
    }

    /// Factors side by side, or with signs between them.
    fn term(&mut self) -> Option<Expr> {
        let mut product = self.signed()?;
        let mut quotients = 0;
        loop {
            match self.peek() {
                Some(Token::Sign('*')) => {
                    self.at += 1;
                    product = product_of(product, self.signed()?);
                }
                Some(Token::Sign('/')) => {
                    self.at += 1;
                    quotients += 1;
                    if quotients > MAX_DEPTH {
                        return None;
                    }
                    product = Expr::Quotient(Box::new(product), Box::new(self.signed()?));
                }
                Some(Token::Text(_)) => {
                    self.skip_words();
                }
                Some(Token::Number(_)) if matches!(last_factor(&product), Expr::Number(..)) => {
                    // 1 1/2 is one and a half; other numbers side by side are no product.
                    let Expr::Number(Rational { denominator: 1, .. }, false) = product else { return None };
                    let fraction = self.fraction()?;
                    return Some(Expr::Sum(vec![product, fraction]));
                }
                Some(Token::Sign('|')) if self.bars == 0 => {
                    product = product_of(product, self.power()?);
                }
                Some(Token::Number(_) | Token::Name(_) | Token::Sign('(' | '{' | '['))
                | Some(Token::Command(_))
                    if self.begins_factor() =>
                {
                    let mixed = matches!(&product, Expr::Number(number, false) if number.denominator == 1)
                        && matches!(self.peek(), Some(Token::Command(name)) if name == "frac");
                    let factor = self.power()?;
                    product = match (mixed, factor.exact()) {
                        // 1\frac{1}{2} is one and a half.
                        (true, Some(_)) => Expr::Sum(vec![product, factor]),
                        _ => product_of(product, factor),
                    };
                }
                _ => return Some(product),
            }
        }
    }

    /// A whole number over another.
    fn fraction(&mut self) -> Option<Expr> {
        let whole = |token: Option<&Token>| match token {
            Some(Token::Number(digits)) if !digits.contains('.') => number(digits),
            _ => None,
        };
        let (above, below) = (whole(self.tokens.get(self.at))?, whole(self.tokens.get(self.at + 2))?);
        if self.tokens.get(self.at + 1) != Some(&Token::Sign('/')) {
            return None;
        }
        self.at += 3;
        Some(Expr::Quotient(Box::new(above), Box::new(below)))
    }

    fn begins_factor(&self) -> bool {
        match self.peek() {
            Some(Token::Command(name)) => {
                FUNCTIONS.contains(&name.as_str())
                    || ["frac", "begin", "lfloor", "lceil"].contains(&name.as_str())
                    || is_letter(name)
            }
            Some(_) => true,
            None => false,
        }
    }

    fn signed(&mut self) -> Option<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let signed = match self.peek()? {
            Token::Sign('-') => {
                self.at += 1;
                Expr::Negative(Box::new(self.signed()?))
            }
            Token::Sign('+') => {
                self.at += 1;
                self.signed()?
            }
            Token::Command(name) if name == "pm" || name == "mp" => {
                self.at += 1;
                Expr::PlusMinus(Box::new(self.signed()?))
            }
            _ => self.power()?,
        };
        self.depth -= 1;
        Some(signed)
    }

    fn power(&mut self) -> Option<Expr> {
        let mut base = self.atom()?;
        for _ in 0..MAX_DEPTH {
            if self.eat('!') {
                base = Expr::Call("factorial".to_owned(), vec![base]);
            } else if let Some(Token::Text(raised)) = self.peek().filter(|token| is_raised(token)) {
                let exponent = if raised == "²" { 2 } else { 3 };
                self.at += 1;
                base = Expr::Power(Box::new(base), Box::new(Expr::Number(Rational::whole(exponent), false)));
            } else if self.eat('^') {
                // `^\circ` has left nothing behind.
                match self.peek() {
                    None | Some(Token::Sign(')' | ']' | '}' | '+' | '*' | '/' | ',')) => (),
                    _ => {
                        let Some(exponent) = self.argument()? else { continue };
                        base = Expr::Power(Box::new(base), Box::new(exponent));
                    }
                }
            } else if self.eat('\'') {
                let Expr::Symbol(name) = base else { return None };
                base = Expr::Symbol(format!("{name}'"));
            } else {
                return Some(base);
            }
        }
        None
    }

    /// An argument of `^` or a command: a group, or one piece. `None` inside for an empty group.
    fn argument(&mut self) -> Option<Option<Expr>> {
        if self.eat('{') {
            if self.eat('}') {
                return Some(None);
            }
            let inside = self.sum()?;
            self.skip_words();
            return self.eat('}').then_some(Some(inside));
        }
        match self.peek()? {
            Token::Sign('-') => {
                self.at += 1;
                Some(Some(Expr::Negative(Box::new(self.atom()?))))
            }
            _ => self.atom().map(Some),
        }
    }

    fn atom(&mut self) -> Option<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let atom = self.shallow_atom();
        self.depth -= 1;
        atom
    }

    fn shallow_atom(&mut self) -> Option<Expr> {
        let token = self.peek()?.clone();
        self.at += 1;
        let expression = match token {
            Token::Number(digits) => number(&digits)?,
            Token::Name(name) => Expr::Symbol(name),
            Token::Sign(open @ ('(' | '{' | '[')) => {
                let inside = self.sum()?;
                self.skip_words();
                let close = match open {
                    '(' => ')',
                    '{' => '}',
                    _ => ']',
                };
                if !self.eat(close) {
                    return None;
                }
                inside
            }
            Token::Sign('|') => {
                self.bars += 1;
                let inside = self.sum()?;
                if !self.eat('|') {
                    return None;
                }
                self.bars -= 1;
                Expr::Call("abs".to_owned(), vec![inside])
            }
            Token::Command(name) => self.command(&name)?,
            Token::Text(_) | Token::Sign(_) => return None,
        };
        self.subscripted(expression)
    }

    /// A name or number with what stands below it is one name.
    fn subscripted(&mut self, expression: Expr) -> Option<Expr> {
        if self.peek() != Some(&Token::Sign('_')) {
            return Some(expression);
        }
        self.at += 1;
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(token) = self.peek() {
            match token {
                Token::Sign('{') => depth += 1,
                Token::Sign('}') => depth = depth.checked_sub(1)?,
                _ => (),
            }
            self.at += 1;
            if depth == 0 {
                break;
            }
        }
        let below: Vec<String> = self.tokens[start..self.at].iter().map(spelled).collect();
        let name = match expression {
            Expr::Symbol(name) => name,
            Expr::Number(number, false) if number.denominator == 1 => number.numerator.to_string(),
            _ => return None,
        };
        Some(Expr::Symbol(format!("{name}_{}", below.concat())))
    }

    fn command(&mut self, name: &str) -> Option<Expr> {
        match name {
            "frac" => {
                let above = self.needed()?;
                let below = self.needed()?;
                Some(Expr::Quotient(Box::new(above), Box::new(below)))
            }
            "binom" => {
                let (n, k) = (self.needed()?, self.needed()?);
                Some(Expr::Call("binom".to_owned(), vec![n, k]))
            }
            "sqrt" => {
                let index = if self.eat('[') {
                    let index = self.sum()?;
                    if !self.eat(']') {
                        return None;
                    }
                    Some(index)
                } else {
                    None
                };
                let inside = self.needed()?;
                Some(match index {
                    Some(index) => Expr::Call("root".to_owned(), vec![index, inside]),
                    None => Expr::Call("sqrt".to_owned(), vec![inside]),
                })
            }
            "lfloor" | "lceil" => {
                let inside = self.sum()?;
                let close = if name == "lfloor" { "rfloor" } else { "rceil" };
                let closed = matches!(self.peek(), Some(Token::Command(name)) if name == close);
                self.at += usize::from(closed);
                let function = if name == "lfloor" { "floor" } else { "ceil" };
                closed.then(|| Expr::Call(function.to_owned(), vec![inside]))
            }
            "begin" => self.matrix(),
            _ if FUNCTIONS.contains(&name) => self.function(name),
            _ if is_letter(name) => Some(Expr::Symbol(name.to_owned())),
            _ => None,
        }
    }

    /// An argument that must be there.
    fn needed(&mut self) -> Option<Expr> {
        self.argument()?
    }

    /// A function, with a power before its argument or none.
    fn function(&mut self, name: &str) -> Option<Expr> {
        let mut base = None;
        if self.eat('_') {
            base = Some(self.argument()??);
        }
        let exponent = if self.eat('^') { Some(self.argument()??) } else { None };
        let mut arguments: Vec<Expr> = base.into_iter().collect();
        if self.eat('(') {
            loop {
                arguments.push(self.sum()?);
                if self.eat(')') {
                    break;
                }
                if !self.eat(',') {
                    return None;
                }
            }
        } else if matches!(self.peek(), Some(Token::Sign('{'))) {
            arguments.push(self.argument()??);
        } else {
            arguments.push(self.function_term()?);
        }
        match exponent {
            // \sin^{-1} is the inverse.
            Some(exponent)
                if exponent.exact() == Some(Rational::whole(-1)) && ["sin", "cos", "tan"].contains(&name) =>
            {
                Some(Expr::Call(format!("arc{name}"), arguments))
            }
            Some(exponent) => {
                Some(Expr::Power(Box::new(Expr::Call(name.to_owned(), arguments)), Box::new(exponent)))
            }
            None => Some(Expr::Call(name.to_owned(), arguments)),
        }
    }

    /// What a function without brackets takes: factors up to the next function, sign or end.
    fn function_term(&mut self) -> Option<Expr> {
        let mut factors = vec![self.power()?];
        while let Some(token) = self.peek() {
            match token {
                Token::Number(_) | Token::Name(_) => factors.push(self.power()?),
                Token::Command(name) if name == "frac" || is_letter(name) => factors.push(self.power()?),
                _ => break,
            }
        }
        Some(if factors.len() == 1 { factors.remove(0) } else { Expr::Product(factors) })
    }

    /// A matrix behind its `\begin`.
    fn matrix(&mut self) -> Option<Expr> {
        let name = self.group_text()?;
        if !name.ends_with("matrix") && name != "array" {
            return None;
        }
        if name == "array" {
            self.group_text()?;
        }
        let mut rows = vec![Vec::new()];
        loop {
            match self.peek()? {
                Token::Command(name) if name == "end" => {
                    self.at += 1;
                    self.group_text()?;
                    break;
                }
                Token::Command(name) if name == "\\" => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                Token::Sign('&') => self.at += 1,
                _ => {
                    let cell = self.sum()?;
                    rows.last_mut()?.push(cell);
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        (!rows.is_empty()).then_some(Expr::Matrix(rows))
    }

    /// The letters of a group.
    fn group_text(&mut self) -> Option<String> {
        if !self.eat('{') {
            return None;
        }
        let mut text = String::new();
        while let Some(token) = self.peek().cloned() {
            self.at += 1;
            match token {
                Token::Sign('}') => return Some(text),
                other => text.push_str(&spelled(&other)),
            }
        }
        None
    }
}

fn last_factor(product: &Expr) -> &Expr {
    match product {
        Expr::Product(factors) => factors.last().unwrap_or(product),
        one => one,
    }
}

/// A product with one factor more, side by side with the others.
fn product_of(product: Expr, factor: Expr) -> Expr {
    match product {
        Expr::Product(mut factors) => {
            factors.push(factor);
            Expr::Product(factors)
        }
        one => Expr::Product(vec![one, factor]),
    }
}

fn spelled(token: &Token) -> String {
    match token {
        Token::Number(text) | Token::Name(text) | Token::Command(text) | Token::Text(text) => text.clone(),
        Token::Sign('{' | '}') => String::new(),
        Token::Sign(sign) => sign.to_string(),
    }
}

fn is_raised(token: &Token) -> bool {
    matches!(token, Token::Text(text) if text == "²" || text == "³")
}

/// Whether a command is a letter: Greek ones, and what papers invent.
fn is_letter(name: &str) -> bool {
    const OTHERS: [&str; 29] = [
        "frac", "begin", "end", "lfloor", "rfloor", "lceil", "rceil", "pm", "mp", "le", "leq", "ge", "geq",
        "lt", "gt", "ne", "neq", "in", "cup", "cap", "setminus", "approx", "equiv", "pmod", "to", "langle",
        "rangle", "\\", "boxed",
    ];
    !OTHERS.contains(&name) && !FUNCTIONS.contains(&name)
}

fn number(digits: &str) -> Option<Expr> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    match Rational::decimal(if whole.is_empty() { "0" } else { whole }, fraction) {
        Some(number) => Some(Expr::Number(number, !fraction.is_empty())),
        None => digits.parse().ok().map(Expr::Float),
    }
}
