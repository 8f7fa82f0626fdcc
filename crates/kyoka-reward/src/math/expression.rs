//! Expressions, and what they come to.

use num_bigint::BigInt;
use num_rational::BigRational;

use super::number::{Complex, Rational};

/// An expression of numbers, symbols, operations and known functions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expr {
    /// A number; whether it was written with decimals, which are rounded.
    Number(Rational, bool),
    /// A number too long for a fraction.
    Float(f64),
    /// A constant or unknown by its name.
    Symbol(String),
    Sum(Vec<Expr>),
    Product(Vec<Expr>),
    Quotient(Box<Expr>, Box<Expr>),
    Power(Box<Expr>, Box<Expr>),
    Negative(Box<Expr>),
    /// One of two signs, `+` first.
    PlusMinus(Box<Expr>),
    /// A function by its LaTeX name, and its arguments.
    Call(String, Vec<Expr>),
    /// Rows of a matrix.
    Matrix(Vec<Vec<Expr>>),
}

/// What an expression comes to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Scalar(Complex),
    Matrix(Vec<Vec<Complex>>),
}

impl Expr {
    /// The number that it is exactly; `None` with symbols, roots, decimals that do not fit.
    pub fn exact(&self) -> Option<Rational> {
        match self {
            Self::Number(number, _) => Some(*number),
            Self::Sum(terms) => {
                terms.iter().try_fold(Rational::whole(0), |sum, term| sum.plus(term.exact()?))
            }
            Self::Product(factors) => {
                factors.iter().try_fold(Rational::whole(1), |product, factor| product.times(factor.exact()?))
            }
            Self::Quotient(above, below) => above.exact()?.over(below.exact()?),
            Self::Power(base, exponent) => base.exact()?.power(exponent.exact()?),
            Self::Negative(inner) => Rational::whole(0).plus(inner.exact()?)?.times(Rational::whole(-1)),
            _ => None,
        }
    }

    /// Whether it is made of numbers by the four operations and powers alone.
    pub fn is_number(&self) -> bool {
        match self {
            Self::Number(..) | Self::Float(_) => true,
            Self::Sum(parts) | Self::Product(parts) => parts.iter().all(Self::is_number),
            Self::Quotient(a, b) => a.is_number() && b.is_number(),
            Self::Power(base, exponent) => {
                base.is_number() && exponent.exact().is_some_and(|exponent| exponent.denominator == 1)
            }
            Self::Negative(inner) => inner.is_number(),
            Self::Symbol(_) | Self::PlusMinus(_) | Self::Call(..) | Self::Matrix(_) => false,
        }
    }

    /// The fraction that it is, of up to some thousand digits; `None` with anything else than numbers, or where it would take long.
    pub fn exact_of_any_size(&self) -> Option<BigRational> {
        self.exact_within(&mut 100_000)
    }

    /// The fraction, where its operations have no more than so many bits in all.
    fn exact_within(&self, bits: &mut u64) -> Option<BigRational> {
        const MOST_BITS: u64 = 16_384;
        let whole = |number: i64| BigRational::from_integer(number.into());
        let mut counted = |number: BigRational| {
            let own = number.numer().bits().max(number.denom().bits());
            *bits = bits.checked_sub(own)?;
            (own <= MOST_BITS).then_some(number)
        };
        match self {
            Self::Number(Rational { numerator, denominator }, _) => {
                counted(BigRational::new(BigInt::from(*numerator), BigInt::from(*denominator)))
            }
            Self::Sum(parts) | Self::Product(parts) => {
                let is_sum = matches!(self, Self::Sum(_));
                parts.iter().try_fold(whole(i64::from(!is_sum)), |so_far, part| {
                    let part = part.exact_within(bits)?;
                    let next = if is_sum { so_far + part } else { so_far * part };
                    let own = next.numer().bits().max(next.denom().bits());
                    *bits = bits.checked_sub(own)?;
                    (own <= MOST_BITS).then_some(next)
                })
            }
            Self::Quotient(above, below) => {
                let (above, below) = (above.exact_within(bits)?, below.exact_within(bits)?);
                if below == whole(0) { None } else { Some(above / below) }
            }
            Self::Power(base, exponent) => {
                let (base, exponent) = (base.exact_within(bits)?, exponent.exact()?);
                let own = base.numer().bits().max(base.denom().bits());
                let size = exponent.numerator.unsigned_abs();
                if exponent.denominator != 1 || size > u128::from(MOST_BITS / own.max(1)) {
                    return None;
                }
                *bits = bits.checked_sub(own * size as u64)?;
                let power = base.pow(i32::try_from(size).ok()?);
                match (exponent.numerator < 0, power == whole(0)) {
                    (true, true) => None,
                    (true, false) => Some(power.recip()),
                    (false, _) => Some(power),
                }
            }
            Self::Negative(inner) => Some(-inner.exact_within(bits)?),
            _ => None,
        }
    }

    /// Whether infinity stands in it.
    pub fn has_infinity(&self) -> bool {
        match self {
            Self::Symbol(name) => name == "infty",
            Self::Number(..) | Self::Float(_) => false,
            Self::Sum(parts) | Self::Product(parts) | Self::Call(_, parts) => {
                parts.iter().any(Self::has_infinity)
            }
            Self::Quotient(a, b) | Self::Power(a, b) => a.has_infinity() || b.has_infinity(),
            Self::Negative(inner) | Self::PlusMinus(inner) => inner.has_infinity(),
            Self::Matrix(rows) => rows.iter().flatten().any(Self::has_infinity),
        }
    }

    /// Whether a number in it was written with decimals.
    pub fn has_decimals(&self) -> bool {
        match self {
            Self::Number(_, decimals) => *decimals,
            Self::Float(_) => true,
            Self::Symbol(_) => false,
            Self::Sum(parts) | Self::Product(parts) | Self::Call(_, parts) => {
                parts.iter().any(Self::has_decimals)
            }
            Self::Quotient(a, b) | Self::Power(a, b) => a.has_decimals() || b.has_decimals(),
            Self::Negative(inner) | Self::PlusMinus(inner) => inner.has_decimals(),
            Self::Matrix(rows) => rows.iter().flatten().any(Self::has_decimals),
        }
    }

    /// Whether a symbol in it stands for something unknown.
    pub fn has_unknowns(&self) -> bool {
        match self {
            Self::Number(..) | Self::Float(_) => false,
            Self::Symbol(name) => constant(name).is_none(),
            Self::Sum(parts) | Self::Product(parts) | Self::Call(_, parts) => {
                parts.iter().any(Self::has_unknowns)
            }
            Self::Quotient(a, b) | Self::Power(a, b) => a.has_unknowns() || b.has_unknowns(),
            Self::Negative(inner) | Self::PlusMinus(inner) => inner.has_unknowns(),
            Self::Matrix(rows) => rows.iter().flatten().any(Self::has_unknowns),
        }
    }

    pub fn has_plus_minus(&self) -> bool {
        match self {
            Self::PlusMinus(_) => true,
            Self::Number(..) | Self::Float(_) | Self::Symbol(_) => false,
            Self::Sum(parts) | Self::Product(parts) | Self::Call(_, parts) => {
                parts.iter().any(Self::has_plus_minus)
            }
            Self::Quotient(a, b) | Self::Power(a, b) => a.has_plus_minus() || b.has_plus_minus(),
            Self::Negative(inner) => inner.has_plus_minus(),
            Self::Matrix(rows) => rows.iter().flatten().any(Self::has_plus_minus),
        }
    }

    /// The expression with one of the two signs everywhere.
    pub fn with_sign(&self, plus: bool) -> Self {
        let all = |parts: &[Self]| parts.iter().map(|part| part.with_sign(plus)).collect();
        let one = |part: &Self| Box::new(part.with_sign(plus));
        match self {
            Self::PlusMinus(inner) if plus => inner.with_sign(plus),
            Self::PlusMinus(inner) => Self::Negative(one(inner)),
            Self::Sum(parts) => Self::Sum(all(parts)),
            Self::Product(parts) => Self::Product(all(parts)),
            Self::Call(name, parts) => Self::Call(name.clone(), all(parts)),
            Self::Quotient(a, b) => Self::Quotient(one(a), one(b)),
            Self::Power(a, b) => Self::Power(one(a), one(b)),
            Self::Negative(inner) => Self::Negative(one(inner)),
            Self::Matrix(rows) => Self::Matrix(rows.iter().map(|row| all(row)).collect()),
            Self::Number(..) | Self::Float(_) | Self::Symbol(_) => self.clone(),
        }
    }

    /// What it comes to where unknowns are what draw number `draw` makes them.
    pub fn value(&self, draw: u64) -> Option<Value> {
        let scalar = |value| match value {
            Value::Scalar(number) => Some(number),
            Value::Matrix(_) => None,
        };
        let of = |part: &Self| part.value(draw).and_then(scalar);
        Some(Value::Scalar(match self {
            Self::Number(number, _) => Complex::real(number.to_f64()),
            Self::Float(number) => Complex::real(*number),
            Self::Symbol(name) => constant(name).unwrap_or_else(|| drawn(name, draw)),
            Self::Sum(terms) => {
                let mut values = terms.iter().map(|term| term.value(draw));
                let first = values.next()??;
                return values.try_fold(first, |sum, term| plus(sum, term?));
            }
            Self::Product(factors) => {
                let mut values = factors.iter().map(|factor| factor.value(draw));
                let first = values.next()??;
                return values.try_fold(first, |product, factor| times(product, factor?));
            }
            Self::Negative(inner) => return times(Value::Scalar(Complex::real(-1.0)), inner.value(draw)?),
            Self::Quotient(above, below) => {
                let below = Value::Scalar(Complex::real(1.0) / of(below)?);
                return times(above.value(draw)?, below);
            }
            Self::Power(base, exponent) => match base.value(draw)? {
                Value::Scalar(base) => base.power(of(exponent)?),
                matrix => return whole_power(matrix, exponent),
            },
            Self::PlusMinus(_) => return None,
            Self::Call(name, arguments) => {
                let arguments: Vec<Complex> = arguments.iter().map(of).collect::<Option<_>>()?;
                call(name, &arguments)?
            }
            Self::Matrix(rows) => {
                let rows = rows.iter().map(|row| row.iter().map(of).collect::<Option<Vec<_>>>());
                return Some(Value::Matrix(rows.collect::<Option<_>>()?));
            }
        }))
    }
}

/// A matrix times itself.
fn whole_power(matrix: Value, exponent: &Expr) -> Option<Value> {
    let exponent = exponent.exact()?;
    if exponent.denominator != 1 || !(1..20).contains(&exponent.numerator) {
        return None;
    }
    (1..exponent.numerator).try_fold(matrix.clone(), |power, _| times(power, matrix.clone()))
}

/// A symbol that means a number.
pub(super) fn constant(name: &str) -> Option<Complex> {
    Some(match name {
        "pi" => Complex::real(std::f64::consts::PI),
        "e" => Complex::real(std::f64::consts::E),
        "i" => Complex::I,
        "infty" => Complex::real(f64::INFINITY),
        _ => return None,
    })
}

/// A number for an unknown: the same for the same name and draw, positive in even draws, of either sign in odd ones.
fn drawn(name: &str, draw: u64) -> Complex {
    let mut state = draw.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        state ^= state >> 29;
    }
    let share = (state >> 11) as f64 / (1_u64 << 53) as f64;
    let sign = if draw % 2 == 1 && state & 1 == 1 { -1.0 } else { 1.0 };
    Complex::real(sign * (0.4 + 1.9 * share))
}

fn plus(a: Value, b: Value) -> Option<Value> {
    match (a, b) {
        (Value::Scalar(a), Value::Scalar(b)) => Some(Value::Scalar(a + b)),
        (Value::Matrix(a), Value::Matrix(b)) if a.len() == b.len() => {
            let rows = a.into_iter().zip(b).map(|(a, b)| {
                (a.len() == b.len()).then(|| a.into_iter().zip(b).map(|(a, b)| a + b).collect())
            });
            Some(Value::Matrix(rows.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

fn times(a: Value, b: Value) -> Option<Value> {
    match (a, b) {
        (Value::Scalar(a), Value::Scalar(b)) => Some(Value::Scalar(a * b)),
        (Value::Scalar(scalar), Value::Matrix(rows)) | (Value::Matrix(rows), Value::Scalar(scalar)) => {
            let rows = rows.into_iter().map(|row| row.into_iter().map(|cell| cell * scalar).collect());
            Some(Value::Matrix(rows.collect()))
        }
        (Value::Matrix(a), Value::Matrix(b)) => {
            let columns = b.first()?.len();
            if a.iter().any(|row| row.len() != b.len()) || b.iter().any(|row| row.len() != columns) {
                return None;
            }
            let cell = |row: &[Complex], column: usize| {
                row.iter().zip(&b).fold(Complex::real(0.0), |sum, (a, b)| sum + *a * b[column])
            };
            Some(Value::Matrix(
                a.iter().map(|row| (0..columns).map(|column| cell(row, column)).collect()).collect(),
            ))
        }
    }
}

/// The value of a known function; `None` for others and for a wrong number of arguments.
fn call(name: &str, arguments: &[Complex]) -> Option<Complex> {
    let one = Complex::real(1.0);
    Some(match (name, arguments) {
        ("sqrt", [x]) => x.power(Complex::real(0.5)),
        ("root", [index, x]) if x.im == 0.0 && x.re < 0.0 && index.im == 0.0 && index.re % 2.0 == 1.0 => {
            Complex::real(-(-x.re).powf(1.0 / index.re))
        }
        ("root", [index, x]) => x.power(one / *index),
        ("abs", [x]) => Complex::real(x.abs()),
        ("sin", [x]) => x.sin(),
        ("cos", [x]) => x.cos(),
        ("tan", [x]) => x.sin() / x.cos(),
        ("cot", [x]) => x.cos() / x.sin(),
        ("sec", [x]) => one / x.cos(),
        ("csc", [x]) => one / x.sin(),
        ("arcsin", [x]) if x.im == 0.0 => Complex::real(x.re.asin()),
        ("arccos", [x]) if x.im == 0.0 => Complex::real(x.re.acos()),
        ("arctan", [x]) if x.im == 0.0 => Complex::real(x.re.atan()),
        ("sinh", [x]) => (x.exp() - (-*x).exp()) / Complex::real(2.0),
        ("cosh", [x]) => (x.exp() + (-*x).exp()) / Complex::real(2.0),
        ("ln" | "log", [x]) => x.ln(),
        ("lg", [x]) => x.ln() / Complex::real(10.0).ln(),
        ("log", [base, x]) => x.ln() / base.ln(),
        ("exp", [x]) => x.exp(),
        ("floor", [x]) if x.im == 0.0 => Complex::real(x.re.floor()),
        ("ceil", [x]) if x.im == 0.0 => Complex::real(x.re.ceil()),
        ("factorial", [x]) => Complex::real(factorial(whole(*x)?)?),
        ("binom", [n, k]) => {
            let (n, k) = (whole(*n)?, whole(*k)?);
            let chosen = (0..k).fold(1.0, |product, at| product * (n as f64 - at as f64) / (at as f64 + 1.0));
            Complex::real(chosen.round())
        }
        ("gcd", [a, b]) => {
            let (mut a, mut b) = (whole(*a)?, whole(*b)?);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            Complex::real(a as f64)
        }
        ("max", numbers) if !numbers.is_empty() => {
            Complex::real(numbers.iter().map(|number| number.re).fold(f64::NEG_INFINITY, f64::max))
        }
        ("min", numbers) if !numbers.is_empty() => {
            Complex::real(numbers.iter().map(|number| number.re).fold(f64::INFINITY, f64::min))
        }
        _ => return None,
    })
}

fn whole(x: Complex) -> Option<u64> {
    (x.im == 0.0 && x.re.fract() == 0.0 && (0.0..=170.0).contains(&x.re)).then_some(x.re as u64)
}

fn factorial(n: u64) -> Option<f64> {
    (n <= 170).then(|| (1..=n).map(|factor| factor as f64).product())
}
