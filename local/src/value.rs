//! Attribute values and items: their types, their JSON as the service reads and writes it, their sizes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::number::{Number, NumberError};

/// Most levels of nested lists and maps ("Limits, Nested attribute depth").
const MAX_NESTING: usize = 32;

/// An item: attribute values by attribute name.
pub type Item = BTreeMap<String, AttributeValue>;

/// A value of one of DynamoDB's ten types, named as the service's JSON names them.
///
/// The derived order serves collections only; the service's comparisons exist between strings, numbers and
/// binaries of the same type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttributeValue {
    /// A string.
    S(String),
    /// A number.
    N(Number),
    /// Bytes.
    B(Vec<u8>),
    /// True or false.
    Bool(bool),
    /// The null value.
    Null,
    /// A list of any values.
    L(Vec<AttributeValue>),
    /// A map of any values.
    M(Item),
    /// A set of strings, never empty.
    Ss(BTreeSet<String>),
    /// A set of numbers, never empty.
    Ns(BTreeSet<Number>),
    /// A set of bytes, never empty.
    Bs(BTreeSet<Vec<u8>>),
}

/// The refusal of JSON that is no attribute value, as the service words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError(pub String);

impl AttributeValue {
    /// Reads `{"S": "x"}`, `{"N": "1"}`, `{"B": "AQ=="}` and so on, as the API's AttributeValue has it.
    ///
    /// # Errors
    /// Not exactly one member of a known type, a value of the wrong JSON type, no number, no base64, an empty set
    /// or one with an element twice, or more than 32 lists and maps inside one another.
    pub fn from_json(json: &Value) -> Result<Self, ValueError> {
        value_from_json(json, 0)
    }

    /// The value as the service writes it. Sets come in the order of their elements.
    pub fn to_json(&self) -> Value {
        let payload = match self {
            Self::S(text) => Value::from(text.as_str()),
            Self::N(number) => Value::from(number.to_string()),
            Self::B(bytes) => Value::from(BASE64.encode(bytes)),
            Self::Bool(flag) => Value::from(*flag),
            Self::Null => Value::from(true),
            Self::L(list) => list.iter().map(Self::to_json).collect(),
            Self::M(map) => item_to_json(map),
            Self::Ss(set) => set.iter().map(String::as_str).collect(),
            Self::Ns(set) => set.iter().map(Number::to_string).collect(),
            Self::Bs(set) => set.iter().map(|bytes| BASE64.encode(bytes)).collect(),
        };
        Value::Object([(self.type_name().to_owned(), payload)].into_iter().collect())
    }

    /// Appends the text of [`AttributeValue::to_json`] without building it first.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(self.type_name().as_bytes());
        out.extend_from_slice(b"\":");
        match self {
            Self::S(text) => write_string(text, out),
            Self::N(number) => write_number(number, out),
            Self::B(bytes) => write_base64(bytes, out),
            Self::Bool(flag) => out.extend_from_slice(if *flag { b"true" } else { b"false" }),
            Self::Null => out.extend_from_slice(b"true"),
            Self::L(list) => write_array(list, out, Self::write_json),
            Self::M(map) => write_item_json(map, out),
            Self::Ss(set) => write_array(set, out, |text, out| write_string(text, out)),
            Self::Ns(set) => write_array(set, out, write_number),
            Self::Bs(set) => write_array(set, out, |bytes, out| write_base64(bytes, out)),
        }
        out.push(b'}');
    }

    /// The type as the service's JSON and `attribute_type` name it: "S", "SS", "BOOL" and so on.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::S(_) => "S",
            Self::N(_) => "N",
            Self::B(_) => "B",
            Self::Bool(_) => "BOOL",
            Self::Null => "NULL",
            Self::L(_) => "L",
            Self::M(_) => "M",
            Self::Ss(_) => "SS",
            Self::Ns(_) => "NS",
            Self::Bs(_) => "BS",
        }
    }

    /// The bytes that the value counts for in an item's size, by the developer guide's "Item sizes and formats".
    pub fn size(&self) -> usize {
        match self {
            Self::S(text) => text.len(),
            Self::N(number) => number_size(number),
            Self::B(bytes) => bytes.len(),
            Self::Bool(_) | Self::Null => 1,
            // Three bytes for the list or map itself and one for each element.
            Self::L(list) => 3 + list.iter().map(|value| 1 + value.size()).sum::<usize>(),
            Self::M(map) => 3 + map.len() + item_size(map),
            Self::Ss(set) => set.iter().map(String::len).sum(),
            Self::Ns(set) => set.iter().map(number_size).sum(),
            Self::Bs(set) => set.iter().map(Vec::len).sum(),
        }
    }

    /// `string` or `binary` if it is an empty one.
    pub(crate) fn empty_kind(&self) -> Option<&'static str> {
        match self {
            Self::S(text) if text.is_empty() => Some("string"),
            Self::B(bytes) if bytes.is_empty() => Some("binary"),
            _ => None,
        }
    }

    /// Levels of nested lists and maps; 0 for any other value.
    pub(super) fn nesting(&self) -> usize {
        match self {
            Self::L(list) => 1 + list.iter().map(Self::nesting).max().unwrap_or(0),
            Self::M(map) => 1 + map.values().map(Self::nesting).max().unwrap_or(0),
            _ => 0,
        }
    }
}

/// Reads an item, or a key: an object of attribute values by name.
///
/// # Errors
/// No object, an empty name, or a value that is none (see [`AttributeValue::from_json`]).
pub fn item_from_json(json: &Value) -> Result<Item, ValueError> {
    map_from_json(json, 0)
}

/// The item as the service writes it, attributes in the order of their names.
pub fn item_to_json(item: &Item) -> Value {
    let members = item.iter().map(|(name, value)| (name.clone(), value.to_json()));
    Value::Object(members.collect())
}

/// Appends the text of [`item_to_json`] without building it first.
pub fn write_item_json(item: &Item, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (name, value)) in item.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        value.write_json(out);
    }
    out.push(b'}');
}

/// The bytes that an item counts for: its names in UTF-8 and its values.
pub fn item_size(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value.size()).sum()
}

/// Refuses nesting deeper than the service allows; `depth` counts the lists and maps down to a value.
pub(super) fn check_nesting(depth: usize) -> Result<(), ValueError> {
    if depth <= MAX_NESTING {
        return Ok(());
    }
    Err(ValueError(
        "Nesting Levels have exceeded supported limits: \
         Attributes in the item have nested levels beyond supported limit"
            .to_owned(),
    ))
}

impl std::fmt::Display for ValueError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ValueError {}

impl From<NumberError> for ValueError {
    fn from(error: NumberError) -> Self {
        Self(error.to_string())
    }
}

/// Reads a value inside `depth` lists and maps.
fn value_from_json(json: &Value, depth: usize) -> Result<AttributeValue, ValueError> {
    let members = match json {
        Value::Object(members) => members,
        Value::Null => return refuse("The supplied Item contains a null AttributeValue"),
        other => return Err(wrong_json(other, "a structure")),
    };
    let mut known = members.iter().filter(|(name, payload)| is_type_name(name) && !payload.is_null());
    let Some((type_name, payload)) = known.next() else {
        return refuse("Supplied AttributeValue is empty, must contain exactly one of the supported datatypes");
    };
    if known.next().is_some() {
        return refuse(
            "Supplied AttributeValue has more than one datatypes set, \
             must contain exactly one of the supported datatypes",
        );
    }
    match type_name.as_str() {
        "S" => Ok(AttributeValue::S(string(payload)?.to_owned())),
        "N" => Ok(AttributeValue::N(string(payload)?.parse()?)),
        "B" => Ok(AttributeValue::B(binary(payload)?)),
        "BOOL" => Ok(AttributeValue::Bool(boolean(payload)?)),
        "NULL" => null(payload),
        "L" => list_from_json(payload, depth + 1),
        "M" => {
            check_nesting(depth + 1)?;
            Ok(AttributeValue::M(map_from_json(payload, depth + 1)?))
        }
        "SS" => string_set(payload),
        "NS" => number_set(payload),
        _ => binary_set(payload),
    }
}

fn is_type_name(name: &str) -> bool {
    matches!(name, "S" | "N" | "B" | "BOOL" | "NULL" | "L" | "M" | "SS" | "NS" | "BS")
}

fn map_from_json(json: &Value, depth: usize) -> Result<Item, ValueError> {
    let Value::Object(members) = json else {
        return Err(wrong_json(json, "a map"));
    };
    members
        .iter()
        .map(|(name, value)| {
            if name.is_empty() {
                return refuse("Empty attribute name");
            }
            Ok((name.clone(), value_from_json(value, depth)?))
        })
        .collect()
}

fn list_from_json(json: &Value, depth: usize) -> Result<AttributeValue, ValueError> {
    check_nesting(depth)?;
    let values = array(json)?.iter().map(|value| value_from_json(value, depth));
    Ok(AttributeValue::L(values.collect::<Result<_, _>>()?))
}

fn string_set(json: &Value) -> Result<AttributeValue, ValueError> {
    let texts = array(json)?
        .iter()
        .map(|text| match text {
            Value::Null => refuse(
                "One or more parameter values were invalid: \
                 An string set may not have a null string as a member",
            ),
            text => string(text),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if texts.is_empty() {
        return refuse("One or more parameter values were invalid: An string set  may not be empty");
    }
    let set: BTreeSet<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    if set.len() < texts.len() {
        return refuse(&format!(
            "One or more parameter values were invalid: Input collection [{}] contains duplicates.",
            texts.join(", ")
        ));
    }
    Ok(AttributeValue::Ss(set))
}

fn number_set(json: &Value) -> Result<AttributeValue, ValueError> {
    let numbers = array(json)?;
    if numbers.is_empty() {
        return refuse("One or more parameter values were invalid: An number set  may not be empty");
    }
    let set =
        numbers.iter().map(|number| Ok(string(number)?.parse()?)).collect::<Result<BTreeSet<Number>, ValueError>>()?;
    if set.len() < numbers.len() {
        return refuse("Input collection contains duplicates");
    }
    Ok(AttributeValue::Ns(set))
}

fn binary_set(json: &Value) -> Result<AttributeValue, ValueError> {
    let binaries = array(json)?;
    if binaries.is_empty() {
        return refuse("One or more parameter values were invalid: Binary sets should not be empty");
    }
    let set = binaries.iter().map(binary).collect::<Result<BTreeSet<_>, _>>()?;
    if set.len() < binaries.len() {
        return refuse(
            "One or more parameter values were invalid: \
             Input collection of type BS contains duplicates.",
        );
    }
    Ok(AttributeValue::Bs(set))
}

fn null(json: &Value) -> Result<AttributeValue, ValueError> {
    if boolean(json)? {
        return Ok(AttributeValue::Null);
    }
    refuse(
        "One or more parameter values were invalid: \
         Null attribute value types must have the value of true",
    )
}

fn string(json: &Value) -> Result<&str, ValueError> {
    json.as_str().ok_or_else(|| wrong_json(json, "String"))
}

fn boolean(json: &Value) -> Result<bool, ValueError> {
    json.as_bool().ok_or_else(|| wrong_json(json, "Boolean"))
}

fn array(json: &Value) -> Result<&Vec<Value>, ValueError> {
    json.as_array().ok_or_else(|| wrong_json(json, "a list"))
}

fn binary(json: &Value) -> Result<Vec<u8>, ValueError> {
    let text = json.as_str().ok_or_else(|| wrong_json(json, "a Blob"))?;
    BASE64.decode(text).map_err(|error| {
        let why = match text.len() % 4 {
            0 => error.to_string(),
            _ => format!("Base64 encoded length is expected a multiple of 4 bytes but found: {}", text.len()),
        };
        ValueError(format!("'{text}' can not be converted to a Blob: {why}"))
    })
}

/// The service's words for JSON of the wrong type.
fn wrong_json(json: &Value, wanted: &str) -> ValueError {
    let found = match json {
        Value::Null => "NULL_VALUE",
        Value::Bool(true) => "TRUE_VALUE",
        Value::Bool(false) => "FALSE_VALUE",
        Value::Number(_) => "NUMBER_VALUE",
        Value::String(_) => "STRING_VALUE",
        Value::Array(_) => {
            return ValueError("Unrecognized collection type class java.util.ArrayList".to_owned());
        }
        Value::Object(_) => {
            return ValueError("Start of structure or map found where not expected".to_owned());
        }
    };
    ValueError(format!("{found} cannot be converted to {wanted}"))
}

fn refuse<T>(message: &str) -> Result<T, ValueError> {
    Err(ValueError(message.to_owned()))
}

/// One byte for each pair of significant digits, one more, and one for a minus sign. Pairs are counted from the
/// decimal point, as DynamoDB Local does it: 6.3 is 06 and 30.
fn number_size(number: &Number) -> usize {
    number.significant_pairs() + 1 + usize::from(number.is_negative())
}

fn write_array<'a, T: 'a>(
    values: impl IntoIterator<Item = &'a T>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(&'a T, &mut Vec<u8>),
) {
    out.push(b'[');
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(value, out);
    }
    out.push(b']');
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
}

fn write_number(number: &Number, out: &mut Vec<u8>) {
    use std::io::Write as _;
    write!(out, "\"{number}\"").expect("writing to memory cannot fail");
}

fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(BASE64.encode(bytes).as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn value(json: Value) -> AttributeValue {
        AttributeValue::from_json(&json).unwrap()
    }

    fn refusal(json: Value) -> String {
        AttributeValue::from_json(&json).unwrap_err().0
    }

    #[test]
    fn every_type_reads_and_writes_as_the_service_has_it() {
        for json in [
            json!({"S": "a\"b\\c\u{1}é"}),
            json!({"S": ""}),
            json!({"N": "-1.5"}),
            json!({"B": "AQID"}),
            json!({"BOOL": false}),
            json!({"NULL": true}),
            json!({"L": [{"S": "x"}, {"N": "2"}]}),
            json!({"L": []}),
            json!({"M": {"a": {"M": {}}, "b": {"S": "y"}}}),
            json!({"SS": ["", "a", "b"]}),
            json!({"NS": ["-2", "1", "10"]}),
            json!({"BS": ["", "AQ=="]}),
        ] {
            let value = value(json.clone());
            assert_eq!(value.to_json(), json);
            let mut text = Vec::new();
            value.write_json(&mut text);
            assert_eq!(text, json.to_string().into_bytes());
            assert!(json.get(value.type_name()).is_some());
        }
    }

    #[test]
    fn numbers_are_normalised() {
        assert_eq!(value(json!({"N": "1.50"})), value(json!({"N": "15e-1"})));
        assert_eq!(value(json!({"N": "1e2"})).to_json(), json!({"N": "100"}));
    }

    #[test]
    fn a_value_has_exactly_one_member_of_a_known_type() {
        let empty = "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes";
        assert_eq!(refusal(json!({})), empty);
        assert_eq!(refusal(json!({"Q": "x"})), empty);
        assert_eq!(refusal(json!({"S": null})), empty);
        assert_eq!(
            refusal(json!({"S": "a", "N": "1"})),
            "Supplied AttributeValue has more than one datatypes set, \
             must contain exactly one of the supported datatypes"
        );
    }

    #[test]
    fn sets_are_neither_empty_nor_hold_an_element_twice() {
        let invalid = "One or more parameter values were invalid: ";
        for (json, message) in [
            (json!({"SS": []}), format!("{invalid}An string set  may not be empty")),
            (json!({"NS": []}), format!("{invalid}An number set  may not be empty")),
            (json!({"BS": []}), format!("{invalid}Binary sets should not be empty")),
            (json!({"SS": ["a", "b", "a"]}), format!("{invalid}Input collection [a, b, a] contains duplicates.")),
            (json!({"NS": ["1", "1.0"]}), "Input collection contains duplicates".to_owned()),
            (json!({"BS": ["AQ==", "AQ=="]}), format!("{invalid}Input collection of type BS contains duplicates.")),
        ] {
            assert_eq!(refusal(json), message);
        }
    }

    #[test]
    fn wrong_payloads_are_refused_also_inside_lists_and_maps() {
        assert_eq!(
            refusal(json!({"L": [{"M": {"a": {"N": "x"}}}]})),
            "The parameter cannot be converted to a numeric value: x"
        );
        assert_eq!(refusal(json!({"S": 1})), "NUMBER_VALUE cannot be converted to String");
        assert_eq!(
            refusal(json!({"NULL": false})),
            "One or more parameter values were invalid: Null attribute value types must have the value of true"
        );
        assert_eq!(
            refusal(json!({"B": "AQ"})),
            "'AQ' can not be converted to a Blob: \
             Base64 encoded length is expected a multiple of 4 bytes but found: 2"
        );
        assert!(refusal(json!({"B": "A?=="})).starts_with("'A?==' can not be converted to a Blob: "));
        assert_eq!(refusal(json!({"M": {"": {"S": "x"}}})), "Empty attribute name");
        assert_eq!(item_from_json(&json!({"": {"S": "x"}})).unwrap_err().0, "Empty attribute name");
        assert!(item_from_json(&json!([])).is_err());
    }

    #[test]
    fn thirty_two_levels_of_nesting_are_the_most() {
        let nested = |levels: usize| {
            (0..levels).fold(json!({"S": "x"}), |inner, level| {
                if level % 2 == 0 { json!({"L": [inner]}) } else { json!({"M": {"a": inner}}) }
            })
        };
        assert_eq!(value(nested(32)).nesting(), 32);
        assert_eq!(
            refusal(nested(33)),
            "Nesting Levels have exceeded supported limits: \
             Attributes in the item have nested levels beyond supported limit"
        );
    }

    #[test]
    fn sizes_follow_the_developer_guide() {
        for (json, size) in [
            (json!({"S": "é"}), 2),
            (json!({"B": "AQID"}), 3),
            (json!({"N": "0"}), 1),
            (json!({"N": "27"}), 2),
            (json!({"N": "-27"}), 3),
            (json!({"N": "461"}), 3),
            (json!({"N": "1000"}), 2),
            (json!({"BOOL": true}), 1),
            (json!({"NULL": true}), 1),
            (json!({"L": []}), 3),
            (json!({"M": {}}), 3),
            (json!({"L": [{"S": "ab"}]}), 6),
            (json!({"M": {"key": {"S": "ab"}}}), 9),
            (json!({"SS": ["a", "bc"]}), 3),
        ] {
            assert_eq!(value(json.clone()).size(), size, "{json}");
        }
        let item = item_from_json(&json!({"Company": {"S": "Acme"}, "Size": {"N": "6"}})).unwrap();
        assert_eq!(item_size(&item), 11 + 6);
    }

    /// Any value, lists and maps nested a few levels deep.
    fn any_value() -> impl Strategy<Value = AttributeValue> {
        let number = (any::<i64>(), -30..30_i32)
            .prop_map(|(digits, exponent)| format!("{digits}e{exponent}").parse::<Number>().unwrap());
        let bytes = prop::collection::vec(any::<u8>(), 0..8);
        let leaf = prop_oneof![
            any::<String>().prop_map(AttributeValue::S),
            number.clone().prop_map(AttributeValue::N),
            bytes.clone().prop_map(AttributeValue::B),
            any::<bool>().prop_map(AttributeValue::Bool),
            Just(AttributeValue::Null),
            prop::collection::btree_set(any::<String>(), 1..4).prop_map(AttributeValue::Ss),
            prop::collection::btree_set(number, 1..4).prop_map(AttributeValue::Ns),
            prop::collection::btree_set(bytes, 1..4).prop_map(AttributeValue::Bs),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(AttributeValue::L),
                prop::collection::btree_map(".+", inner, 0..4).prop_map(AttributeValue::M),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_written_value_reads_back_as_itself(value in any_value()) {
            prop_assert_eq!(&AttributeValue::from_json(&value.to_json()).unwrap(), &value);
        }

        #[test]
        fn both_ways_of_writing_agree(value in any_value()) {
            let mut text = Vec::new();
            value.write_json(&mut text);
            prop_assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), value.to_json());
        }
    }
}
