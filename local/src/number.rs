//! DynamoDB numbers: up to 38 significant digits, exact.
//!
//! The service stores a number as a decimal, never as a binary float: `0.1 + 0.2` is `0.3`. Its range and
//! precision are those of "Data types, Number" in the developer guide: 38 significant digits, magnitudes
//! from 1E-130 to 9.99…E+125, positive or negative, and zero.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The most significant digits that a number may have.
const MAX_DIGITS: u32 = 38;
/// The greatest power of ten that a number's first digit may stand for.
const MAX_MAGNITUDE: i32 = 125;
/// The least power of ten that a number's first digit may stand for.
const MIN_MAGNITUDE: i32 = -130;

/// An exact decimal, normalised: equal values are equal in every field, so derived equality is by value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Number {
    /// Whether the value is below zero; never set for zero.
    negative: bool,
    /// The significant digits without trailing zeros; 0 for zero.
    coefficient: u128,
    /// The power of ten that the coefficient's last digit stands for; 0 for zero.
    exponent: i32,
}

/// The refusal of a text or a sum that is no number of the service's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumberError {
    /// The text is not a decimal number.
    NotNumeric(String),
    /// The magnitude is above 9.99…E+125.
    Overflow,
    /// The magnitude is below 1E-130.
    Underflow,
    /// More than 38 significant digits.
    TooPrecise,
}

impl Number {
    /// Zero.
    pub const ZERO: Self = Self { negative: false, coefficient: 0, exponent: 0 };

    /// The exact sum.
    ///
    /// # Errors
    /// The sum leaves the service's range or needs more than 38 digits: the service never rounds.
    pub fn add(self, other: Self) -> Result<Self, NumberError> {
        let (high, low) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        if high.coefficient == 0 {
            return Ok(low);
        }
        if low.coefficient == 0 {
            return Ok(high);
        }
        // Both coefficients end in a digit other than zero, so with unequal exponents the sum's last digit stands
        // at the lower one: what doesn't fit into a u128 there has more than 38 significant digits.
        let shift = high.exponent.abs_diff(low.exponent);
        let scaled = 10_u128
            .checked_pow(shift)
            .and_then(|factor| high.coefficient.checked_mul(factor))
            .ok_or(NumberError::TooPrecise)?;
        let (negative, coefficient) = if high.negative == low.negative {
            let sum = scaled.checked_add(low.coefficient).ok_or(NumberError::TooPrecise)?;
            (high.negative, sum)
        } else if scaled >= low.coefficient {
            (high.negative, scaled - low.coefficient)
        } else {
            (low.negative, low.coefficient - scaled)
        };
        Self::normalised(negative, coefficient, low.exponent)
    }

    /// The exact difference.
    ///
    /// # Errors
    /// As [`Number::add`].
    pub fn sub(self, other: Self) -> Result<Self, NumberError> {
        self.add(other.negated())
    }

    /// The number of digit pairs, counted from the decimal point, that hold its significant digits; 0 for zero.
    pub fn significant_pairs(&self) -> usize {
        let digits = usize::try_from(digits(self.coefficient)).unwrap_or(usize::MAX);
        // A zero fills up the pair of a last digit that stands first in it.
        let filled = usize::from(self.exponent.rem_euclid(2) == 1);
        (digits + filled).div_ceil(2)
    }

    /// Whether the value is below zero.
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    fn negated(self) -> Self {
        Self { negative: !self.negative && self.coefficient != 0, ..self }
    }

    /// The number `coefficient * 10^exponent`, checked and without trailing zeros.
    fn normalised(negative: bool, mut coefficient: u128, mut exponent: i32) -> Result<Self, NumberError> {
        if coefficient == 0 {
            return Ok(Self::ZERO);
        }
        while coefficient.is_multiple_of(10) {
            coefficient /= 10;
            exponent += 1;
        }
        let number = Self { negative, coefficient, exponent };
        if number.magnitude() > MAX_MAGNITUDE {
            return Err(NumberError::Overflow);
        }
        if number.magnitude() < MIN_MAGNITUDE {
            return Err(NumberError::Underflow);
        }
        if digits(coefficient) > MAX_DIGITS {
            return Err(NumberError::TooPrecise);
        }
        Ok(number)
    }

    /// The power of ten that the first digit stands for; meaningless for zero.
    fn magnitude(&self) -> i32 {
        digits(self.coefficient).cast_signed() - 1 + self.exponent
    }

    /// The order of two values that are not zero, their signs left aside.
    fn cmp_absolute(&self, other: &Self) -> Ordering {
        // With all 38 digits written out, equal magnitudes compare by their coefficients.
        let padded = |n: &Self| n.coefficient * 10_u128.pow(MAX_DIGITS - digits(n.coefficient));
        self.magnitude().cmp(&other.magnitude()).then_with(|| padded(self).cmp(&padded(other)))
    }

    /// -1, 0 or 1.
    fn sign(&self) -> i8 {
        match (self.coefficient, self.negative) {
            (0, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        }
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sign().cmp(&other.sign()).then_with(|| match self.sign() {
            0 => Ordering::Equal,
            1 => self.cmp_absolute(other),
            _ => other.cmp_absolute(self),
        })
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::normalised(false, u128::from(value), 0).expect("an integer of at most 20 digits is in range")
    }
}

impl FromStr for Number {
    type Err = NumberError;

    /// Reads `[+-] digits [. digits] [e [+-] digits]`, with a digit on at least one side of the point.
    fn from_str(text: &str) -> Result<Self, NumberError> {
        let not_numeric = || NumberError::NotNumeric(text.to_owned());
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent).ok_or_else(not_numeric)?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
            return Err(not_numeric());
        }
        from_digits(negative, whole, fraction, exponent)
    }
}

impl fmt::Display for Number {
    /// The service prints a number in full, without an exponent and without zeros that say nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negative {
            f.write_str("-")?;
        }
        let digits = self.coefficient.to_string();
        if self.exponent >= 0 {
            let zeros = usize::try_from(self.exponent).unwrap_or(0);
            return write!(f, "{digits}{:0<zeros$}", "");
        }
        let decimals = usize::try_from(self.exponent.unsigned_abs()).unwrap_or(0);
        match digits.len().checked_sub(decimals) {
            Some(point) if point > 0 => write!(f, "{}.{}", &digits[..point], &digits[point..]),
            _ => write!(f, "0.{digits:0>decimals$}"),
        }
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NumberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNumeric(text) if text.is_empty() => {
                f.write_str("The parameter cannot be converted to a numeric value")
            }
            Self::NotNumeric(text) => {
                write!(f, "The parameter cannot be converted to a numeric value: {text}")
            }
            Self::Overflow => {
                f.write_str("Number overflow. Attempting to store a number with magnitude larger than supported range")
            }
            Self::Underflow => f.write_str(
                "Number underflow. Attempting to store a number with magnitude smaller than supported range",
            ),
            Self::TooPrecise => f.write_str("Attempting to store more than 38 significant digits in a Number"),
        }
    }
}

impl std::error::Error for NumberError {}

/// The number of decimal digits; 0 for zero.
fn digits(value: u128) -> u32 {
    value.checked_ilog10().map_or(0, |log| log + 1)
}

/// A signed exponent of at most 32 bits; the service takes a longer one for no number at all.
fn parse_exponent(text: &str) -> Option<i32> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// The number with these digits, which are ASCII digits, before and behind the point.
fn from_digits(negative: bool, whole: &str, fraction: &str, exponent: i32) -> Result<Number, NumberError> {
    let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let leading = all.iter().take_while(|digit| **digit == b'0').count();
    if leading == all.len() {
        return Ok(Number::ZERO);
    }
    let trailing = all.iter().rev().take_while(|digit| **digit == b'0').count();
    let significant = &all[leading..all.len() - trailing];
    // Positions are small against an i64: they count the characters of one request.
    let last = i64::from(exponent) - offset(fraction.len()) + offset(trailing);
    let first = last + offset(significant.len()) - 1;
    if first > i64::from(MAX_MAGNITUDE) {
        return Err(NumberError::Overflow);
    }
    if first < i64::from(MIN_MAGNITUDE) {
        return Err(NumberError::Underflow);
    }
    if offset(significant.len()) > i64::from(MAX_DIGITS) {
        return Err(NumberError::TooPrecise);
    }
    let coefficient = significant.iter().fold(0_u128, |sum, digit| sum * 10 + u128::from(digit - b'0'));
    let exponent = i32::try_from(last).map_err(|_| NumberError::Underflow)?;
    Number::normalised(negative, coefficient, exponent)
}

fn offset(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(text: &str) -> Number {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_print_in_full_without_idle_zeros() {
        for (text, printed) in [
            ("0", "0"),
            ("-0", "0"),
            ("0.0", "0"),
            ("0e999", "0"),
            ("1.0", "1"),
            ("100", "100"),
            ("1e3", "1000"),
            ("1E-7", "0.0000001"),
            ("+5", "5"),
            ("5.", "5"),
            (".5", "0.5"),
            ("-.5", "-0.5"),
            ("123.4500e3", "123450"),
            ("-1.50", "-1.5"),
            ("0000000000000000000000000000000000000000000000001", "1"),
            ("12345.678", "12345.678"),
        ] {
            assert_eq!(number(text).to_string(), printed, "{text}");
        }
        assert_eq!(number("1e125").to_string(), format!("1{}", "0".repeat(125)));
        assert_eq!(number("-1e-130").to_string(), format!("-0.{}1", "0".repeat(129)));
    }

    #[test]
    fn text_that_is_no_number_is_refused_with_the_text() {
        for text in [
            " 5",
            "5 ",
            "1e",
            "1e5.0",
            "Infinity",
            "NaN",
            "1d",
            ".",
            "-",
            "+-1",
            "e5",
            "0x1",
            "1_0",
            "1e+-5",
            "1e2147483648",
            "0e9999999999",
            "1.2.3",
            "é",
        ] {
            assert_eq!(
                text.parse::<Number>().unwrap_err().to_string(),
                format!("The parameter cannot be converted to a numeric value: {text}")
            );
        }
        assert_eq!(
            "".parse::<Number>().unwrap_err().to_string(),
            "The parameter cannot be converted to a numeric value"
        );
    }

    #[test]
    fn numbers_outside_the_range_or_precision_are_refused() {
        let refused = |text: &str| text.parse::<Number>().unwrap_err();
        assert_eq!(refused("1e126"), NumberError::Overflow);
        assert_eq!(refused("-1e126"), NumberError::Overflow);
        assert_eq!(refused("1e-131"), NumberError::Underflow);
        assert_eq!(refused(&"1".repeat(39)), NumberError::TooPrecise);
        assert!("9.9999999999999999999999999999999999999e125".parse::<Number>().is_ok());
        assert!("0.1e-129".parse::<Number>().is_ok());
        assert!(format!("{}{}", "1".repeat(38), "0".repeat(80)).parse::<Number>().is_ok());
    }

    #[test]
    fn sums_are_exact_or_refused() {
        let nines = "9".repeat(38);
        for (left, right, sum) in [
            ("0.1", "0.2", "0.3"),
            (nines.as_str(), "1", "100000000000000000000000000000000000000"),
            ("1e38", "-1", nines.as_str()),
            ("1e37", "1", "10000000000000000000000000000000000001"),
            ("1", "-1", "0"),
            ("0", "7", "7"),
            ("1e125", "0", &format!("1{}", "0".repeat(125))),
        ] {
            assert_eq!(number(left).add(number(right)).unwrap().to_string(), sum);
            assert_eq!(number(right).add(number(left)).unwrap().to_string(), sum);
        }
        for (left, right, error) in [
            (nines.as_str(), "2", NumberError::TooPrecise),
            (nines.as_str(), "0.1", NumberError::TooPrecise),
            ("1e38", "1", NumberError::TooPrecise),
            ("9e38", "-1", NumberError::TooPrecise),
            ("1e125", "1", NumberError::TooPrecise),
            ("9e125", "9e125", NumberError::Overflow),
            ("1.5e-129", "-1.49e-129", NumberError::Underflow),
        ] {
            assert_eq!(number(left).add(number(right)).unwrap_err(), error, "{left} + {right}");
        }
    }

    /// Any number that the service can hold.
    fn any_number() -> impl Strategy<Value = Number> {
        (any::<bool>(), 0..10_u128.pow(38), -130..=88_i32)
            .prop_filter_map("in range", |(negative, coefficient, exponent)| {
                Number::normalised(negative, coefficient, exponent).ok()
            })
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_as_the_same_number(value in any_number()) {
            prop_assert_eq!(value.to_string().parse::<Number>().unwrap(), value);
        }

        #[test]
        fn integers_add_subtract_and_order_as_integers(
            left in -(10_i128.pow(30))..10_i128.pow(30),
            right in -(10_i128.pow(30))..10_i128.pow(30),
        ) {
            let (a, b) = (number(&left.to_string()), number(&right.to_string()));
            prop_assert_eq!(a.cmp(&b), left.cmp(&right));
            prop_assert_eq!(a.add(b).unwrap(), number(&(left + right).to_string()));
            prop_assert_eq!(a.sub(b).unwrap(), number(&(left - right).to_string()));
        }

        #[test]
        fn decimals_of_one_scale_order_and_add_as_their_integers(
            left in -1_000_000_i64..1_000_000,
            right in -1_000_000_i64..1_000_000,
            scale in -60_i32..60,
        ) {
            let scaled = |value: i64| number(&format!("{value}e{scale}"));
            prop_assert_eq!(scaled(left).cmp(&scaled(right)), left.cmp(&right));
            prop_assert_eq!(scaled(left).add(scaled(right)).unwrap(), scaled(left + right));
        }

        #[test]
        fn order_agrees_with_the_sign_of_the_difference(left in any_number(), right in any_number()) {
            if let Ok(difference) = left.sub(right) {
                prop_assert_eq!(left.cmp(&right), difference.cmp(&Number::ZERO));
            }
            prop_assert_eq!(left.cmp(&right), right.cmp(&left).reverse());
            prop_assert_eq!(left == right, left.cmp(&right) == Ordering::Equal);
        }

        #[test]
        fn subtracting_what_was_added_gives_the_number_back(left in any_number(), right in any_number()) {
            if let Ok(sum) = left.add(right) {
                prop_assert_eq!(sum.sub(right).unwrap(), left);
            }
        }
    }
}
