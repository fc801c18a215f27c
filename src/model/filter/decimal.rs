//! Decimal numbers compared by value, exactly and without limits on their digits: DynamoDB's have up to 38, more than
//! any machine type holds.

use std::cmp::Ordering;

/// Compares two numbers in JSON's notation or DynamoDB's. `None` when either text is no number.
pub(super) fn compare(left: &str, right: &str) -> Option<Ordering> {
    let (left, right) = (Decimal::read(left)?, Decimal::read(right)?);
    Some(match (left.sign(), right.sign()) {
        (1, 1) => left.compare_magnitude(&right),
        (-1, -1) => right.compare_magnitude(&left),
        (left, right) => left.cmp(&right),
    })
}

/// Whether a number is further from zero than `limit` is.
pub(super) fn is_beyond(number: &str, limit: &str) -> bool {
    compare(number.trim_start_matches('-'), limit) == Some(Ordering::Greater)
}

/// The parts of a number.
struct Decimal<'a> {
    is_negative: bool,
    /// The digits from the first that is not zero on, up to the point and behind it. Both empty: the number is zero.
    integer: &'a [u8],
    fraction: &'a [u8],
    /// The power of ten of the first of them.
    magnitude: i64,
}

impl<'a> Decimal<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (text, 0),
        };
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let (integer, fraction) = (integer.as_bytes(), fraction.as_bytes());
        let is_number = integer.iter().chain(fraction).all(u8::is_ascii_digit);
        if !is_number || integer.len() + fraction.len() == 0 {
            return None;
        }
        let is_significant = |digit: &u8| *digit != b'0';
        let number = match integer.iter().position(is_significant) {
            Some(zeros) => {
                let integer = &integer[zeros..];
                Self { is_negative, integer, fraction, magnitude: exponent + integer.len() as i64 - 1 }
            }
            None => {
                let zeros = fraction.iter().position(is_significant).unwrap_or(fraction.len());
                let fraction = &fraction[zeros..];
                Self { is_negative, integer: &[], fraction, magnitude: exponent - zeros as i64 - 1 }
            }
        };
        Some(number)
    }

    fn sign(&self) -> i8 {
        match (self.integer.is_empty() && self.fraction.is_empty(), self.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    /// Compares without the signs; neither is zero.
    fn compare_magnitude(&self, other: &Self) -> Ordering {
        let digits = |number: &Self| number.integer.len() + number.fraction.len();
        let longest = digits(self).max(digits(other));
        let padded = |number: &Self, place: usize| {
            let fraction_place = place.wrapping_sub(number.integer.len());
            let digit = number.integer.get(place).or_else(|| number.fraction.get(fraction_place));
            digit.copied().unwrap_or(b'0')
        };
        self.magnitude.cmp(&other.magnitude).then_with(|| {
            let differs = (0..longest).map(|place| padded(self, place).cmp(&padded(other, place)));
            differs.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        })
    }
}

/// An exponent beyond a trillion either way stands for a trillion: no number that is stored anywhere comes near.
fn read_exponent(text: &str) -> Option<i64> {
    const LIMIT: i64 = 1_000_000_000_000;
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let size = digits.parse().unwrap_or(LIMIT).min(LIMIT);
    Some(if is_negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_compare_by_value_whatever_their_notation() {
        let ascending = [
            "-1E+125",
            "-300.5",
            "-300",
            "-0.001",
            "0",
            "1e-130",
            "0.001",
            "0.0011",
            "1",
            "9",
            "9.5",
            "10",
            "299.999",
            "3.0e2",
            "12345678901234567890123456789012345677",
            "12345678901234567890123456789012345678",
            "9.9E+125",
        ];
        for (left_place, left) in ascending.iter().enumerate() {
            for (right_place, right) in ascending.iter().enumerate() {
                assert_eq!(compare(left, right), Some(left_place.cmp(&right_place)), "{left} and {right}");
            }
        }
        for equal in ["300", "300.0", "3.0e2", "0300.00", "+300", "30000E-2", ".3e3", "300."] {
            assert_eq!(compare(equal, "3E2"), Some(Ordering::Equal), "{equal}");
        }
        for zero in ["0", "-0", "0.000", "0e99", "-0.0E-5"] {
            assert_eq!(compare(zero, "0"), Some(Ordering::Equal), "{zero}");
        }
    }

    #[test]
    fn what_is_no_number_does_not_compare() {
        for text in ["", "-", ".", "e5", "1e", "1e+", "1x", "1.2.3", "--1", "1e5.5", "é", " 1"] {
            assert_eq!(compare(text, "1"), None, "{text:?}");
            assert_eq!(compare("1", text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn small_numbers_compare_as_machine_numbers_do(left: i32, right: i32, scale in 0u32..6) {
            let exponent = format!("e-{scale}");
            let order = compare(&format!("{left}{exponent}"), &format!("{right}{exponent}"));
            prop_assert_eq!(order, Some(left.cmp(&right)));
        }
    }
}
