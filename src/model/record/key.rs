//! A number for an item's primary key, by which records of one item are kept in order.

use super::{Item, Value};

/// FNV-1a, 64 bits: offset and prime (Fowler, Noll and Vo).
const OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01B3;

/// A number that follows from the item's attributes, however the service orders and escapes them. Two items may share
/// one: then they only wait for each other.
pub(super) fn hash(keys: &Item<'_>) -> u64 {
    keys.iter().fold(0, |sum, (name, value)| sum.wrapping_add(mix(attribute(name, value))))
}

fn attribute(name: &str, value: &Value<'_>) -> u64 {
    let named = bytes(bytes(OFFSET, name.as_bytes()), &[0xFF]);
    match value {
        Value::S(text) => bytes(bytes(named, b"S"), text.as_bytes()),
        Value::N(digits) => bytes(bytes(named, b"N"), digits.as_bytes()),
        Value::B(binary) => bytes(bytes(named, b"B"), binary),
        // No key attribute is of another type; equal ones stay equal all the same.
        _ => bytes(named, b"?"),
    }
}

fn bytes(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// The finish of SplitMix64: attributes' hashes are added up, so each must be well spread.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(json: &str) -> u64 {
        hash(&Item::decode(json).unwrap())
    }

    #[test]
    fn an_item_has_one_number_however_its_key_is_written() {
        let number = hash_of(r#"{"pk":{"S":"a b"},"sk":{"N":"7"}}"#);
        assert_eq!(number, hash_of(r#"{ "sk":{"N":"7"}, "pk" : {"S":"\u0061 b"}}"#));
        for other in [
            r#"{"pk":{"S":"a b"}}"#,
            r#"{"pk":{"S":"a b"},"sk":{"N":"8"}}"#,
            r#"{"pk":{"S":"a b"},"sk":{"S":"7"}}"#,
            r#"{"pk":{"N":"7"},"sk":{"S":"a b"}}"#,
            r#"{"pk":{"B":"YQ=="},"sk":{"N":"7"}}"#,
        ] {
            assert_ne!(number, hash_of(other), "{other}");
        }
    }

    #[test]
    fn many_items_have_numbers_of_their_own() {
        let mut numbers: Vec<u64> = (0..10_000).map(|n| hash_of(&format!(r#"{{"pk":{{"S":"item-{n}"}}}}"#))).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 10_000);
    }
}
