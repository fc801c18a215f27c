//! Items and their attribute values, typed, decoded from a record's JSON on demand.

use std::borrow::Cow;

use super::DecodeError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::scan::{Scanner, Text};

/// An attribute value, borrowed from its page wherever its text holds no escape.
///
/// The types and their JSON are those of the DynamoDB API's `AttributeValue`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// A string.
    S(Cow<'a, str>),
    /// A number, in the service's own digits: up to 38 of them, more than any machine type holds.
    N(Cow<'a, str>),
    /// Bytes.
    B(Vec<u8>),
    /// A boolean.
    Bool(bool),
    /// The null value.
    Null,
    /// A list of values.
    L(Vec<Value<'a>>),
    /// A map of names to values.
    M(Item<'a>),
    /// A set of strings, in the order in which the service sent it.
    Ss(Vec<Cow<'a, str>>),
    /// A set of numbers, in the order in which the service sent it.
    Ns(Vec<Cow<'a, str>>),
    /// A set of byte strings, in the order in which the service sent it.
    Bs(Vec<Vec<u8>>),
}

/// The accessors of the values that have a content: `None` for a value of another type.
macro_rules! contents {
    ($($(#[$doc:meta])* $name:ident: $variant:ident -> $output:ty;)*) => {
        impl<'a> Value<'a> {
            $(
                $(#[$doc])*
                pub fn $name(&self) -> Option<&$output> {
                    match self {
                        Value::$variant(content) => Some(content),
                        _ => None,
                    }
                }
            )*

            /// Whether it is the null value.
            pub fn is_null(&self) -> bool {
                matches!(self, Value::Null)
            }
        }
    };
}

contents! {
    /// The text of a string.
    as_s: S -> str;
    /// The digits of a number.
    as_n: N -> str;
    /// The bytes of a byte string.
    as_b: B -> [u8];
    /// The truth of a boolean.
    as_bool: Bool -> bool;
    /// The values of a list.
    as_l: L -> [Value<'a>];
    /// The attributes of a map.
    as_m: M -> Item<'a>;
    /// The texts of a set of strings.
    as_ss: Ss -> [Cow<'a, str>];
    /// The digits of a set of numbers.
    as_ns: Ns -> [Cow<'a, str>];
    /// The bytes of a set of byte strings.
    as_bs: Bs -> [Vec<u8>];
}

/// The attributes of an item (or of a map inside one), in the order in which the service sent them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item<'a> {
    attributes: Vec<(Cow<'a, str>, Value<'a>)>,
}

impl<'a> Item<'a> {
    /// Decodes DynamoDB's JSON of an item, such as `{"Company":{"S":"Nokia"},"Size":{"N":"5"}}`.
    ///
    /// Fails when the text is not valid JSON, continues after the item, or holds something that is not an attribute value.
    pub fn decode(json: &'a str) -> Result<Self, DecodeError> {
        let mut scanner = Scanner::new(json, 0);
        let item = decode_item(&mut scanner)?;
        scanner.finish()?;
        Ok(item)
    }

    /// The value of the attribute `name`. Should a name stand twice, the last counts, as in a map.
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        let found = self.attributes.iter().rfind(|(candidate, _)| candidate == name);
        found.map(|(_, value)| value)
    }

    /// The attributes in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value<'a>)> {
        self.attributes.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// The number of attributes.
    pub fn len(&self) -> usize {
        self.attributes.len()
    }

    /// Whether there is no attribute.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }
}

impl<'a> IntoIterator for Item<'a> {
    type Item = (Cow<'a, str>, Value<'a>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.attributes.into_iter()
    }
}

/// Takes an item. The scanner's limit on nesting bounds the recursion.
pub(super) fn decode_item<'a>(scanner: &mut Scanner<'a>) -> Result<Item<'a>, DecodeError> {
    scanner.open(b'{', "expected an item")?;
    let mut attributes = Vec::new();
    let mut first = true;
    while let Some(name) = scanner.next_member(&mut first)? {
        let name = scanner.value_of(name)?;
        attributes.push((name, decode_value(scanner)?));
    }
    Ok(Item { attributes })
}

/// Passes an item after making sure that [`decode_item`] would take it: cheaply for those of plain strings and numbers,
/// as keys are, and by decoding any other.
pub(super) fn check_item(scanner: &mut Scanner<'_>) -> Result<(), DecodeError> {
    let start = *scanner;
    scanner.open(b'{', "expected an item")?;
    let mut first = true;
    while scanner.next_member(&mut first)?.is_some() {
        if !pass_plain_value(scanner)? {
            *scanner = start;
            return decode_item(scanner).map(drop);
        }
    }
    Ok(())
}

/// Passes `{"S":"…"}` or `{"N":"…"}`; false, somewhere in the middle, when there is anything else.
fn pass_plain_value(scanner: &mut Scanner<'_>) -> Result<bool, DecodeError> {
    scanner.open(b'{', "expected an attribute value")?;
    let mut first = true;
    let Some(tag) = scanner.next_member(&mut first)? else {
        return Ok(false);
    };
    if !matches!(&*scanner.value_of(tag)?, "S" | "N") || scanner.peek()? != b'"' {
        return Ok(false);
    }
    scanner.string("expected a string")?;
    Ok(scanner.next_member(&mut first)?.is_none())
}

/// Takes an attribute value: an object whose one member that is not null names the type.
fn decode_value<'a>(scanner: &mut Scanner<'a>) -> Result<Value<'a>, DecodeError> {
    scanner.open(b'{', "expected an attribute value")?;
    let mut value = None;
    let mut first = true;
    while let Some(tag) = scanner.next_member(&mut first)? {
        if scanner.null()? {
            continue;
        }
        if value.is_some() {
            return Err(scanner.error("attribute value of two types"));
        }
        value = Some(decode_tagged(scanner, tag)?);
    }
    value.ok_or_else(|| scanner.error("attribute value without a type"))
}

fn decode_tagged<'a>(scanner: &mut Scanner<'a>, tag: Text) -> Result<Value<'a>, DecodeError> {
    let tag_name = scanner.value_of(tag)?;
    Ok(match &*tag_name {
        "S" => Value::S(decode_text(scanner)?),
        "N" => Value::N(decode_text(scanner)?),
        "B" => Value::B(decode_bytes(scanner)?),
        "BOOL" => Value::Bool(scanner.boolean()?),
        "NULL" => {
            scanner.boolean()?;
            Value::Null
        }
        "L" => Value::L(decode_elements(scanner, decode_value)?),
        "M" => Value::M(decode_item(scanner)?),
        "SS" => Value::Ss(decode_elements(scanner, decode_text)?),
        "NS" => Value::Ns(decode_elements(scanner, decode_text)?),
        "BS" => Value::Bs(decode_elements(scanner, decode_bytes)?),
        _ => {
            return Err(DecodeError::new("attribute value of an unknown type", tag.start));
        }
    })
}

fn decode_elements<'a, T>(
    scanner: &mut Scanner<'a>,
    decode: fn(&mut Scanner<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    scanner.open(b'[', "expected an array")?;
    let mut elements = Vec::new();
    let mut first = true;
    while scanner.next_element(&mut first)? {
        elements.push(decode(scanner)?);
    }
    Ok(elements)
}

fn decode_text<'a>(scanner: &mut Scanner<'a>) -> Result<Cow<'a, str>, DecodeError> {
    let text = scanner.string("expected a string")?;
    scanner.value_of(text)
}

fn decode_bytes(scanner: &mut Scanner<'_>) -> Result<Vec<u8>, DecodeError> {
    let text = scanner.string("expected a string")?;
    let encoded = scanner.value_of(text)?;
    BASE64.decode(&*encoded).map_err(|_| DecodeError::new("malformed base64", text.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_decodes_in_order() {
        let json = r#"{"s":{"S":"a\nb"},"n":{"N":"-1.5E10"},"b":{"B":"Zm8="},"t":{"BOOL":true},"z":{"NULL":true},
            "l":{"L":[{"S":"x"},{"L":[]}]},"m":{"M":{"in":{"N":"1"}}},"ss":{"SS":["p","q"]},"ns":{"NS":["1"]},"bs":{"BS":["",""]}}"#;
        let item = Item::decode(json).unwrap();
        let names: Vec<&str> = item.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["s", "n", "b", "t", "z", "l", "m", "ss", "ns", "bs"]);
        assert_eq!(item.get("s").and_then(Value::as_s), Some("a\nb"));
        assert_eq!(item.get("n").and_then(Value::as_n), Some("-1.5E10"));
        assert_eq!(item.get("b"), Some(&Value::B(b"fo".to_vec())));
        assert_eq!(item.get("t"), Some(&Value::Bool(true)));
        assert_eq!(item.get("z"), Some(&Value::Null));
        assert_eq!(item.get("l"), Some(&Value::L(vec![Value::S("x".into()), Value::L(vec![])])));
        assert_eq!(item.get("ss"), Some(&Value::Ss(vec!["p".into(), "q".into()])));
        assert_eq!(item.get("bs"), Some(&Value::Bs(vec![vec![], vec![]])));
        assert_eq!(item.get("absent"), None);
    }

    #[test]
    fn text_without_escapes_is_borrowed() {
        let item = Item::decode(r#"{"a":{"S":"plain"}}"#).unwrap();
        assert!(matches!(item.get("a"), Some(Value::S(Cow::Borrowed("plain")))));
    }

    #[test]
    fn what_is_no_attribute_value_is_refused_by_both_ways() {
        let broken = [
            "[]",
            "null",
            r#"{"a":1}"#,
            r#"{"a":null}"#,
            r#"{"a":{}}"#,
            r#"{"a":{"S":1}}"#,
            r#"{"a":{"S":null}}"#,
            r#"{"a":{"N":1}}"#,
            r#"{"a":{"S":"x","N":"1"}}"#,
            r#"{"a":{"X":"x"}}"#,
            r#"{"a":{"B":"*"}}"#,
            r#"{"a":{"B":"Zg="}}"#,
            r#"{"a":{"B":"Zh=="}}"#,
            r#"{"a":{"L":[null]}}"#,
            r#"{"a":{"SS":"x"}}"#,
            r#"{"a":{"BOOL":"true"}}"#,
            r#"{"a":{"M":[]}}"#,
            r#"{"a":{"S":"x"}"#,
        ];
        for json in broken {
            assert!(Item::decode(json).is_err(), "{json}");
            assert!(check_item(&mut Scanner::new(json, 0)).is_err(), "{json}");
        }
    }

    #[test]
    fn unusual_but_legal_keys_pass_the_check() {
        for json in [
            r#"{}"#,
            r#"{"a":{"B":"Zg=="}}"#,
            r#"{"a":{"\u0053":"x"}}"#,
            r#"{"a":{"N":null,"S":"x"}}"#,
            r#"{ "a" : { "S" : "x" } }"#,
        ] {
            let mut scanner = Scanner::new(json, 0);
            check_item(&mut scanner).unwrap();
            assert_eq!(scanner.at(), json.len());
        }
    }
}
