//! Sequence numbers: positions in a shard, compared by value.
//!
//! The service gives them as decimal strings of 21 to 40 digits, emulators of it of 1 to 56. That is more than a `u128`
//! holds and sometimes padded with zeros, so neither parsing to an integer nor comparing as text is right. The text is kept as it came, because it
//! goes back to the service as it came.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// The most digits that a sequence number of DynamoDB has (API reference, `StreamRecord.SequenceNumber`).
pub const PADDED_DIGITS: usize = 40;

/// The position of a record in its shard: a decimal number of any length, ordered by value.
///
/// The API documents 21 to 40 digits (API reference, `StreamRecord.SequenceNumber`). Numbers that differ only in leading zeros are equal. Cloning is cheap.
#[derive(Clone)]
pub struct SequenceNumber(Arc<str>);

/// The most of a wrong text that an error quotes.
const MOST_QUOTED: usize = 60;

/// A text that is no sequence number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a sequence number (decimal digits)")]
pub struct ParseError(String);

impl SequenceNumber {
    /// The number of these digits, which are known to be some.
    pub(super) fn of_digits(digits: &str) -> Self {
        debug_assert!(is_sequence_number(digits), "{digits:?}");
        Self(digits.into())
    }

    /// The digits as the service sent them.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A text that compares as the number does, for stores that know no numbers of this length (a DynamoDB number has 38
    /// digits): with zeros before it, 40 digits. A longer number has a colon and the count of its digits
    /// before it, which compares above all digits.
    pub fn padded(&self) -> String {
        let digits = self.0.trim_start_matches('0');
        match digits.len() {
            0..=PADDED_DIGITS => format!("{digits:0>PADDED_DIGITS$}"),
            count => format!(":{count:04}:{digits}"),
        }
    }
}

impl FromStr for SequenceNumber {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if is_sequence_number(text) {
            return Ok(Self(text.into()));
        }
        Err(ParseError(text.chars().take(MOST_QUOTED).collect()))
    }
}

/// Whether `text` is decimal digits, one at least.
pub fn is_sequence_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Compares two texts of decimal digits by the numbers they stand for.
pub fn compare_digits(left: &str, right: &str) -> Ordering {
    let left = left.trim_start_matches('0');
    let right = right.trim_start_matches('0');
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_digits(&self.0, &other.0)
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SequenceNumber {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for SequenceNumber {}

impl Hash for SequenceNumber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.trim_start_matches('0').hash(state);
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(text: &str) -> SequenceNumber {
        text.parse().expect("a sequence number")
    }

    #[test]
    fn longer_numbers_are_larger_whatever_their_first_digit() {
        assert!(number("900000000000000000000") < number("1000000000000000000000"));
        assert!(number("4911") < number("4912"));
    }

    #[test]
    fn leading_zeros_do_not_count() {
        assert_eq!(number("000000000000000000341"), number("341"));
        assert!(number("000000000000000000999") < number("1000"));
        assert_eq!(number("000").cmp(&number("0")), Ordering::Equal);
    }

    #[test]
    fn the_text_is_kept_as_it_came() {
        assert_eq!(number("000341").to_string(), "000341");
    }

    #[test]
    fn anything_but_digits_is_refused() {
        for text in ["", "TRIM_HORIZON", "-1", "1.0", "1e3", " 1", "٣"] {
            assert!(text.parse::<SequenceNumber>().is_err(), "{text:?}");
        }
        for digits in [40, 56] {
            assert!("9".repeat(digits).parse::<SequenceNumber>().is_ok());
        }
    }

    #[test]
    fn padded_texts_compare_as_their_numbers_at_every_length() {
        let lengths = [1, 21, 39, 40, 41, 56, 100, 1000];
        let texts = lengths.map(|length| number(&"9".repeat(length)).padded());
        assert!(texts.is_sorted(), "{texts:?}");
        assert!(number(&"9".repeat(56)).padded() > number(&format!("1{}", "0".repeat(55))).padded());
        assert_eq!(number("0341").padded(), number("341").padded());
    }

    proptest! {
        #[test]
        fn order_is_that_of_the_values(left: u128, right: u128, pad in 0_usize..2) {
            let (a, b) = (number(&left.to_string()), number(&format!("{}{right}", "0".repeat(pad))));
            prop_assert_eq!(a.cmp(&b), left.cmp(&right));
            prop_assert_eq!(a.padded().cmp(&b.padded()), left.cmp(&right));
            prop_assert_eq!(a == b, left == right);
        }
    }
}
