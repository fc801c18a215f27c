//! The matcher on raw bytes agrees with an obvious and slow one: event-ruler's definition taken by the word.
//!
//! There, a pattern becomes all its combinations of alternatives, a record the list of all its single values, and a
//! combination matches when each of its conditions finds a value, no two of them in different elements of one array.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value};

use super::Pattern;

/// A single value of a record: the names that lead to it, and for each array on the way which one and which element.
struct Flat {
    names: Vec<String>,
    elements: Vec<(String, usize)>,
    value: Value,
}

fn flatten(value: &Value, names: &[String], elements: &[(String, usize)], flat: &mut Vec<Flat>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                flatten(value, &[names, std::slice::from_ref(name)].concat(), elements, flat);
            }
        }
        Value::Array(values) => {
            let array = format!("{names:?} {elements:?}");
            for (index, value) in values.iter().enumerate() {
                flatten(value, names, &[elements, &[(array.clone(), index)]].concat(), flat);
            }
        }
        value => flat.push(Flat { names: names.to_vec(), elements: elements.to_vec(), value: value.clone() }),
    }
}

/// A path and one of the values that it may have.
type Condition = (Vec<String>, Value);

/// All combinations of alternatives of an object of fields.
fn combinations(fields: &Map<String, Value>, names: &[String]) -> Vec<Vec<Condition>> {
    let mut all = vec![Vec::new()];
    for (name, value) in fields {
        let inner: Vec<String> = [names, std::slice::from_ref(name)].concat();
        let of_field: Vec<Vec<Condition>> = match value {
            Value::Array(objects) if name == "$or" => {
                objects.iter().flat_map(|object| combinations(object.as_object().unwrap(), names)).collect()
            }
            Value::Array(choices) => choices.iter().map(|choice| vec![(inner.clone(), choice.clone())]).collect(),
            Value::Object(fields) => combinations(fields, &inner),
            other => unreachable!("{other}"),
        };
        all = all.iter().flat_map(|left| of_field.iter().map(move |right| [&left[..], right].concat())).collect();
    }
    all
}

fn slow(pattern: &Value, record: &Value) -> bool {
    let mut flat = Vec::new();
    flatten(record, &[], &[], &mut flat);
    combinations(pattern.as_object().unwrap(), &[])
        .iter()
        .any(|conditions| all_hold(conditions, &flat, &mut Vec::new()))
}

fn all_hold<'a>(conditions: &[Condition], flat: &'a [Flat], chosen: &mut Vec<&'a Flat>) -> bool {
    let Some(((names, choice), rest)) = conditions.split_first() else {
        return true;
    };
    let mut here = flat.iter().filter(|value| value.names == *names);
    if choice["exists"] == false {
        return here.next().is_none() && all_hold(rest, flat, chosen);
    }
    let is_number = names.last().is_some_and(|name| name == "N" || name == "NS");
    here.any(|candidate| {
        if !passes(choice, &candidate.value, is_number) || !chosen.iter().all(|other| agree(other, candidate)) {
            return false;
        }
        chosen.push(candidate);
        let outcome = all_hold(rest, flat, chosen);
        chosen.pop();
        outcome
    })
}

fn agree(left: &Flat, right: &Flat) -> bool {
    let same_array = |(array, index): &(String, usize)| {
        right.elements.iter().all(|(other_array, other_index)| array != other_array || index == other_index)
    };
    left.elements.iter().all(same_array)
}

fn passes(choice: &Value, value: &Value, is_number: bool) -> bool {
    let Some((operator, operand)) = choice.as_object().and_then(|operators| operators.iter().next()) else {
        return choice == value;
    };
    let texts = || Some((operand.as_str()?.to_owned(), value.as_str()?.to_owned()));
    match operator.as_str() {
        "exists" => true,
        "prefix" => texts().is_some_and(|(wanted, text)| text.starts_with(&wanted)),
        "suffix" => texts().is_some_and(|(wanted, text)| text.ends_with(&wanted)),
        "equals-ignore-case" => texts().is_some_and(|(wanted, text)| text.to_lowercase() == wanted.to_lowercase()),
        "anything-but" => match operand {
            Value::Array(operands) => !operands.iter().any(|operand| passes(operand, value, is_number)),
            operand => !passes(operand, value, is_number),
        },
        "numeric" => {
            let from_text = || value.as_str().filter(|_| is_number)?.parse::<f64>().ok();
            let Some(number) = value.as_f64().or_else(from_text) else { return false };
            operand.as_array().unwrap().chunks(2).all(|pair| {
                let limit = pair[1].as_f64().unwrap();
                match pair[0].as_str().unwrap() {
                    "=" => number == limit,
                    "<" => number < limit,
                    "<=" => number <= limit,
                    ">" => number > limit,
                    _ => number >= limit,
                }
            })
        }
        other => unreachable!("{other}"),
    }
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "N", "NS", "é\"\\", "😀"]).prop_map(str::to_owned)
}

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "x", "X", "xy", "Yx", "1", "2.5", "-3", "ß\n\"", "😀x"]).prop_map(str::to_owned)
}

fn number() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![0, 1, 2, -3, 25]).prop_map(Value::from)
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => text().prop_map(Value::from),
        2 => number(),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ]
}

fn record() -> impl Strategy<Value = Value> {
    let value = scalar().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(name(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    prop::collection::btree_map(name(), value, 1..5).prop_map(|members| Value::Object(members.into_iter().collect()))
}

fn operator(name: &'static str) -> impl Fn(Value) -> Value {
    move |operand| Value::Object(Map::from_iter([(name.to_owned(), operand)]))
}

fn choice() -> impl Strategy<Value = Value> {
    let texts = || prop::sample::select(vec!["prefix", "suffix", "equals-ignore-case"]);
    let literal = || prop_oneof![text().prop_map(Value::from), number()];
    let some_texts = || prop::collection::vec(text().prop_filter("empty", |text| !text.is_empty()), 1..3);
    prop_oneof![
        4 => scalar(),
        3 => any::<bool>().prop_map(|exists| operator("exists")(exists.into())),
        3 => (texts(), text()).prop_map(|(name, text)| operator(name)(text.into())),
        2 => literal().prop_map(operator("anything-but")),
        1 => prop::collection::vec(number(), 1..4).prop_map(|list| operator("anything-but")(list.into())),
        1 => prop::collection::vec(text(), 1..4).prop_map(|list| operator("anything-but")(list.into())),
        // For several texts the slow matcher is told each with its operator, which means the same.
        2 => (texts(), some_texts()).prop_map(|(name, texts)| {
            let each: Vec<Value> = texts.into_iter().map(|text| operator(name)(text.into())).collect();
            operator("anything-but")(Value::Array(each))
        }),
        2 => (prop::sample::select(vec!["=", "<", "<=", ">", ">="]), number())
            .prop_map(|(comparison, number)| operator("numeric")(Value::Array(vec![comparison.into(), number]))),
        1 => (-4..3, 3..30)
            .prop_map(|(low, high)| operator("numeric")(serde_json::json!([">", low, "<=", high]))),
    ]
}

/// Objects of fields. The names in a `$or` differ from those beside it: what is said of one array in both places need
/// not hold for one element.
fn pattern() -> impl Strategy<Value = Value> {
    let leaf = prop::collection::vec(choice(), 1..4).prop_map(Value::Array);
    let node = leaf.prop_recursive(4, 16, 3, |inner| {
        let fields = || prop::collection::btree_map(name(), inner.clone(), 1..3);
        prop_oneof![
            3 => fields().prop_map(|fields| Value::Object(fields.into_iter().collect())),
            1 => (fields(), prop::collection::vec(fields(), 2..4)).prop_map(|(beside, alternatives)| {
                let objects: Vec<Value> = alternatives
                    .into_iter()
                    .map(|fields| fields.into_iter().filter(|(name, _)| !beside.contains_key(name)).collect::<Map<_, _>>())
                    .filter(|fields| !fields.is_empty())
                    .map(Value::Object)
                    .collect();
                let mut object: Map<String, Value> = beside.into_iter().collect();
                if objects.len() > 1 {
                    object.insert("$or".to_owned(), Value::Array(objects));
                }
                Value::Object(object)
            }),
        ]
    });
    node.prop_filter_map("a pattern is an object", |node| match node {
        Value::Object(_) => Some(node),
        choices => Some(Value::Object(Map::from_iter([("a".to_owned(), choices)]))),
    })
}

/// The text of a pattern as users write it: several operators in one `anything-but` become one with a list.
fn pattern_text(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| {
                let value = match (name.as_str(), value) {
                    ("anything-but", Value::Array(operands)) if operands[0].is_object() => {
                        let name = operands[0].as_object().unwrap().keys().next().unwrap();
                        let texts: Vec<Value> = operands.iter().map(|operand| operand[name].clone()).collect();
                        serde_json::json!({ name: texts })
                    }
                    (_, value) => pattern_text(value),
                };
                (name.clone(), value)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(values) => values.iter().map(pattern_text).collect::<Vec<_>>().into(),
        value => value.clone(),
    }
}

/// Writes JSON with escapes and spaces wherever `chance` says so.
fn write(value: &Value, chance: &mut impl FnMut() -> bool, json: &mut String) {
    let text = |text: &str, chance: &mut dyn FnMut() -> bool, json: &mut String| {
        json.push('"');
        for character in text.chars() {
            if chance() || character < ' ' || matches!(character, '"' | '\\') {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    json.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                json.push(character);
            }
        }
        json.push('"');
    };
    match value {
        Value::String(string) => text(string, chance, json),
        Value::Array(values) => {
            json.push('[');
            for (index, value) in values.iter().enumerate() {
                json.push_str(if index > 0 { "," } else { "" });
                write(value, chance, json);
                json.push_str(if chance() { " " } else { "" });
            }
            json.push(']');
        }
        Value::Object(members) => {
            json.push('{');
            for (index, (name, value)) in members.iter().enumerate() {
                json.push_str(if index > 0 { "," } else { "" });
                text(name, chance, json);
                json.push_str(if chance() { " : " } else { ":" });
                write(value, chance, json);
            }
            json.push('}');
        }
        value => json.push_str(&value.to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn raw_bytes_are_matched_as_the_definition_says(
        pattern in pattern(),
        record in record(),
        seed in any::<u64>(),
    ) {
        let mut state = seed | 1;
        let mut chance = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 61 == 0
        };
        let (mut pattern_json, mut record_json) = (String::new(), String::new());
        write(&pattern_text(&pattern), &mut chance, &mut pattern_json);
        write(&record, &mut chance, &mut record_json);
        let parsed = Pattern::parse(&pattern_json);
        prop_assert!(parsed.is_ok(), "{pattern_json}: {parsed:?}");
        let outcome = parsed.unwrap().matches_json(&record_json);
        prop_assert_eq!(outcome, Ok(slow(&pattern, &record)), "{} on {}", pattern_json, record_json);
    }

    #[test]
    fn no_text_is_too_broken_to_be_answered(
        text in r#"[\[\]{}":,a0-9\\ ntf.-]{0,40}"#,
        pattern in pattern(),
        record in record(),
        cut in 0..200_usize,
    ) {
        let _ = Pattern::parse(&text);
        let pattern = Pattern::parse(&pattern_text(&pattern).to_string()).expect("a pattern");
        let _ = pattern.matches_json(&text);
        let whole = record.to_string();
        let ends: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
        let _ = pattern.matches_json(&whole[..ends[cut % ends.len()]]);
        let _ = pattern.matches_json(&whole.replacen(['}', ']'], &text, 1));
    }
}

#[test]
fn what_is_generated_matches_often_enough_to_prove_something() {
    let mut runner = TestRunner::deterministic();
    let mut draw = || {
        let draw = (pattern(), record()).new_tree(&mut runner).expect("a value").current();
        slow(&draw.0, &draw.1)
    };
    let matching = (0..2000).filter(|_| draw()).count();
    assert!((150..1850).contains(&matching), "{matching} of 2000 match");
}
