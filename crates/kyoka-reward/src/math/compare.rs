//! Whether two answers say the same.

use super::{
    expression::{Expr, Value},
    number::Complex,
    structure::{Answer, Order},
};

/// Draws of unknowns by which expressions are compared.
const DRAWS: u64 = 6;

/// How answers are compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison {
    /// Decimals to which numbers must agree where one of them was written with some.
    pub decimals: u32,
}

/// How close two values must be.
#[derive(Debug, Clone, Copy)]
struct Closeness {
    /// One of them was written with decimals.
    rounded: bool,
    /// Both are numbers as they were written, without functions and unknowns.
    plain: bool,
    /// Infinity stands in both.
    infinite: bool,
}

impl Comparison {
    /// Whether a given answer says what the right one says.
    pub(crate) fn same(self, gold: &Answer, given: &Answer) -> bool {
        match (gold, given) {
            (Answer::One(a, a_percent), Answer::One(b, b_percent)) => {
                self.ones((a, *a_percent), (b, *b_percent))
            }
            (Answer::Words(a), Answer::Words(b)) => a == b,
            (Answer::Words(words), Answer::One(one, false))
            | (Answer::One(one, false), Answer::Words(words)) => {
                letters(one).is_some_and(|letters| letters == *words)
            }
            (
                Answer::Equation { left, right, gives },
                Answer::Equation { left: other_left, right: other, gives: other_gives },
            ) => {
                if *gives && *other_gives && self.same(right, other) {
                    return true;
                }
                match (left, &**right, other_left, &**other) {
                    (Some(a), Answer::One(b, _), Some(c), Answer::One(d, _)) => {
                        proportional(&difference(a, b), &difference(c, d)).is_some()
                    }
                    _ => false,
                }
            }
            (Answer::Equation { right, gives: true, .. }, other) => self.same(right, other),
            (other, Answer::Equation { right, gives: true, .. }) => self.same(other, right),
            (Answer::Order(sides, orders), Answer::Order(others, other_orders)) => {
                self.orders((sides, orders), (others, other_orders))
            }
            (Answer::Order(sides, orders), interval) | (interval, Answer::Order(sides, orders)) => {
                as_interval(sides, orders).is_some_and(|own| self.same(&own, interval))
            }
            (Answer::Ratio(a), Answer::Ratio(b)) => self.in_order(a, b),
            (Answer::Union(a), Answer::Union(b)) => self.in_any_order(a, b),
            (Answer::One(one, _), _) if one.has_plus_minus() => self.lists(&spread(gold), given),
            (_, Answer::One(one, _)) if one.has_plus_minus() => self.lists(gold, &spread(given)),
            (Answer::One(..), Answer::Bracketed { open: 's' | '{', items, .. }) if items.len() == 1 => {
                self.same(gold, &items[0])
            }
            (Answer::Bracketed { open: 's' | '{', items, .. }, Answer::One(..)) if items.len() == 1 => {
                self.same(&items[0], given)
            }
            _ => self.lists(gold, given),
        }
    }

    /// Lists, points, intervals and sets.
    fn lists(self, gold: &Answer, given: &Answer) -> bool {
        let (Some((a_open, a_close, a)), Some((b_open, b_close, b))) = (items(gold), items(given)) else {
            return false;
        };
        let is_set = |open: char| open == 's' || open == ' ';
        match (is_set(a_open), is_set(b_open)) {
            (true, true) => self.in_any_order(&spread_all(a), &spread_all(b)),
            // Braces alone may be a set or a group of LaTeX.
            (true, false) if b_open == '{' => self.in_any_order(&spread_all(a), &spread_all(b)),
            (false, true) if a_open == '{' => self.in_any_order(&spread_all(a), &spread_all(b)),
            (true, false) | (false, true) => (a_open == ' ' || b_open == ' ') && self.in_order(a, b),
            (false, false) if a_open == '{' || b_open == '{' => self.in_order(a, b),
            (false, false) => (a_open, a_close) == (b_open, b_close) && self.in_order(a, b),
        }
    }

    fn in_order(self, a: &[Answer], b: &[Answer]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.same(a, b))
    }

    fn in_any_order(self, a: &[Answer], b: &[Answer]) -> bool {
        if a == b {
            return true;
        }
        if a.len().max(b.len()) > 64 {
            return false;
        }
        let (a, b) = (self.each_once(a), self.each_once(b));
        if a.len() != b.len() {
            return false;
        }
        let mut left = b;
        a.into_iter().all(|a| {
            let found = left.iter().position(|b| self.same(a, b));
            found.map(|at| left.remove(at)).is_some()
        })
    }

    /// Items without those that say what one before them says.
    fn each_once(self, items: &[Answer]) -> Vec<&Answer> {
        let mut once: Vec<&Answer> = Vec::new();
        for item in items {
            if !once.iter().any(|other| self.same(other, item)) {
                once.push(item);
            }
        }
        once
    }

    fn ones(self, (a, a_percent): (&Expr, bool), (b, b_percent): (&Expr, bool)) -> bool {
        if a == b {
            return true;
        }
        if a_percent != b_percent {
            let hundredth = |one: &Expr| {
                let hundred = Expr::Number(super::number::Rational::whole(100), false);
                Expr::Quotient(Box::new(one.clone()), Box::new(hundred))
            };
            let share = if a_percent { self.equal(&hundredth(a), b) } else { self.equal(a, &hundredth(b)) };
            // 28% is told as 28 and as 0.28.
            return share || self.equal(a, b);
        }
        self.equal(a, b)
    }

    fn equal(self, a: &Expr, b: &Expr) -> bool {
        if a.has_plus_minus() || b.has_plus_minus() {
            return a.has_plus_minus() && b.has_plus_minus() && {
                let signs = |one: &Expr| [one.with_sign(true), one.with_sign(false)];
                let (a, b) = (signs(a), signs(b));
                (self.equal(&a[0], &b[0]) && self.equal(&a[1], &b[1]))
                    || (self.equal(&a[0], &b[1]) && self.equal(&a[1], &b[0]))
            };
        }
        let rounded = a.has_decimals() || b.has_decimals();
        if let (false, Some(a), Some(b)) = (rounded, a.exact(), b.exact()) {
            return a == b;
        }
        // Numbers that no fraction of machine words holds.
        let plain = a.is_number() && b.is_number();
        if plain && !rounded {
            return matches!((a.exact_of_any_size(), b.exact_of_any_size()), (Some(a), Some(b)) if a == b);
        }
        let infinite = a.has_infinity() && b.has_infinity();
        let unknown = a.has_unknowns() || b.has_unknowns();
        let draws = if unknown { DRAWS } else { 1 };
        let mut compared = 0;
        for draw in 0..draws {
            let (Some(a), Some(b)) = (a.value(draw), b.value(draw)) else { return false };
            match self.values(&a, &b, Closeness { rounded, plain, infinite }) {
                Some(false) => return false,
                Some(true) => compared += 1,
                None => (),
            }
        }
        compared > draws / 3
    }

    /// Whether two values are equal; `None` if they are no numbers.
    fn values(self, a: &Value, b: &Value, closeness: Closeness) -> Option<bool> {
        match (a, b) {
            (Value::Scalar(a), Value::Scalar(b)) => self.numbers(*a, *b, closeness),
            (Value::Matrix(a), Value::Matrix(b)) => {
                if a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.len() != b.len()) {
                    return Some(false);
                }
                let cells = a.iter().flatten().zip(b.iter().flatten());
                let equal: Option<Vec<bool>> = cells.map(|(a, b)| self.numbers(*a, *b, closeness)).collect();
                Some(equal?.into_iter().all(|equal| equal))
            }
            _ => Some(false),
        }
    }

    fn numbers(self, a: Complex, b: Complex, closeness: Closeness) -> Option<bool> {
        if a.re.is_infinite() || b.re.is_infinite() {
            // What is only too large for a number is not the same as another such.
            return Some(closeness.infinite && a.re == b.re);
        }
        if !a.is_finite() || !b.is_finite() {
            return None;
        }
        let distance = (a - b).abs();
        let (least, largest) = (a.abs().min(b.abs()), a.abs().max(b.abs()));
        // What was computed may end near 0 by rounding; what was written does not.
        let floor = if closeness.plain { 0.0 } else { 1e-3 };
        let close = 1e-9 * largest.max(floor);
        let unit = 10_f64.powi(-(self.decimals as i32));
        let step =
            if closeness.rounded && (least >= unit || !closeness.plain) { 0.500_001 * unit } else { 0.0 };
        Some(distance <= close.max(step))
    }

    fn orders(self, (a, a_orders): (&[Expr], &[Order]), (b, b_orders): (&[Expr], &[Order])) -> bool {
        if a.len() == b.len() && a_orders == b_orders && a.iter().zip(b).all(|(a, b)| self.equal(a, b)) {
            return true;
        }
        let turned: Vec<Order> = b_orders.iter().rev().map(|order| order.turned()).collect();
        if a.len() == b.len()
            && a_orders == turned
            && a.iter().zip(b.iter().rev()).all(|(a, b)| self.equal(a, b))
        {
            return true;
        }
        let ([a_left, a_right], [a_order], [b_left, b_right], [b_order]) = (a, a_orders, b, b_orders) else {
            return false;
        };
        match proportional(&difference(a_left, a_right), &difference(b_left, b_right)) {
            Some(factor) if factor > 0.0 => a_order == b_order,
            Some(_) => *a_order == b_order.turned(),
            None => false,
        }
    }
}

impl Order {
    /// The order with its sides changed.
    fn turned(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            Self::NotEqual => Self::NotEqual,
        }
    }
}

/// Brackets and items; a list has none and is ' '.
fn items(answer: &Answer) -> Option<(char, char, &[Answer])> {
    match answer {
        Answer::Bracketed { open, close, items } => Some((*open, *close, items)),
        Answer::List(items) => Some((' ', ' ', items)),
        _ => None,
    }
}

/// Both values of a plus-minus, as a list.
fn spread(answer: &Answer) -> Answer {
    match answer {
        Answer::One(one, percent) if one.has_plus_minus() => {
            Answer::List([true, false].map(|plus| Answer::One(one.with_sign(plus), *percent)).into())
        }
        other => other.clone(),
    }
}

/// Items, each with its name taken away and its two signs apart; none twice.
fn spread_all(items: &[Answer]) -> Vec<Answer> {
    let mut all: Vec<Answer> = Vec::new();
    for item in items {
        let value = match item {
            Answer::Equation { right, gives: true, .. } => right,
            other => other,
        };
        let several = match spread(value) {
            Answer::List(several) => several,
            one => vec![one],
        };
        all.extend(several);
    }
    all
}

fn difference(a: &Expr, b: &Expr) -> Expr {
    Expr::Sum(vec![a.clone(), Expr::Negative(Box::new(b.clone()))])
}

/// The number by which one expression is a multiple of another, whatever the unknowns.
fn proportional(a: &Expr, b: &Expr) -> Option<f64> {
    let mut factor: Option<f64> = None;
    for draw in 0..DRAWS {
        let (Some(Value::Scalar(a)), Some(Value::Scalar(b))) = (a.value(draw), b.value(draw)) else {
            return None;
        };
        let ratio = a / b;
        if !ratio.is_finite() || ratio.im.abs() > 1e-9 || ratio.re.abs() < 1e-9 {
            return None;
        }
        match factor {
            None => factor = Some(ratio.re),
            Some(known) if (known - ratio.re).abs() <= 1e-7 * known.abs() => (),
            Some(_) => return None,
        }
    }
    factor
}

/// The values that a chain such as -2 < x <= 7 leaves to the unknown in its middle.
fn as_interval(sides: &[Expr], orders: &[Order]) -> Option<Answer> {
    let infinite = |negative: bool| {
        let infinity = Expr::Symbol("infty".to_owned());
        if negative { Expr::Negative(Box::new(infinity)) } else { infinity }
    };
    let bracket = |order: Order, closed: char, open: char| match order {
        Order::LessOrEqual | Order::GreaterOrEqual => closed,
        _ => open,
    };
    let interval = |low: Expr, low_order: Order, high: Expr, high_order: Order| Answer::Bracketed {
        open: bracket(low_order, '[', '('),
        close: bracket(high_order, ']', ')'),
        items: vec![Answer::One(low, false), Answer::One(high, false)],
    };
    match (sides, orders) {
        ([low, middle, high], [first, second]) if middle.has_unknowns() => match (first, second) {
            (Order::Less | Order::LessOrEqual, Order::Less | Order::LessOrEqual) => {
                Some(interval(low.clone(), *first, high.clone(), *second))
            }
            (Order::Greater | Order::GreaterOrEqual, Order::Greater | Order::GreaterOrEqual) => {
                Some(interval(high.clone(), *second, low.clone(), *first))
            }
            _ => None,
        },
        ([left, right], [order]) => {
            let (bound, order) = match (left.has_unknowns(), right.has_unknowns()) {
                (true, false) => (right, *order),
                (false, true) => (left, order.turned()),
                _ => return None,
            };
            match order {
                Order::Less | Order::LessOrEqual => {
                    Some(interval(infinite(true), Order::Less, bound.clone(), order))
                }
                Order::Greater | Order::GreaterOrEqual => {
                    Some(interval(bound.clone(), order, infinite(false), Order::Less))
                }
                Order::NotEqual => None,
            }
        }
        _ => None,
    }
}

/// Letters side by side as a word.
fn letters(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Symbol(name) => Some(name.to_lowercase()),
        Expr::Product(factors) => {
            factors.iter().map(letters).collect::<Option<Vec<_>>>().map(|parts| parts.concat())
        }
        _ => None,
    }
}
