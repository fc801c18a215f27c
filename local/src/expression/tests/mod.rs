//! Expressions give the service's answers, and stay within their limits.

mod dynamodb_local_fixtures;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::value::{Item, item_from_json, item_to_json};
use dynamodb_local_fixtures::{CONDITIONS, KEY_CONDITIONS, PROJECTIONS, UPDATES};

/// The item that all expressions are asked of; its key attributes are `h` and `r`.
fn item() -> Item {
    let json = json!({
        "h": {"S": "a"}, "r": {"N": "1"}, "n": {"N": "5"}, "s": {"S": "str"}, "b": {"B": "AQID"},
        "l": {"L": [{"N": "1"}, {"S": "x"}, {"M": {"q": {"S": "z"}}}]},
        "m": {"M": {"x": {"N": "1"}, "y": {"M": {"z": {"S": "w"}}}}},
        "ss": {"SS": ["a", "b"]}, "ns": {"NS": ["1", "2"]}, "nul": {"NULL": true}, "bo": {"BOOL": true},
    });
    item_from_json(&json).unwrap()
}

fn placeholders(values: Value) -> Placeholders {
    Placeholders::from_request(&json!({"ExpressionAttributeValues": values})).unwrap()
}

fn condition_values() -> Placeholders {
    placeholders(json!({
        ":n": {"N": "1"}, ":n5": {"N": "5"}, ":s": {"S": "q"}, ":st": {"S": "st"}, ":a": {"S": "a"}, ":h": {"S": "a"},
        ":l": {"L": [{"N": "9"}]}, ":ss": {"SS": ["a", "b"]}, ":b": {"B": "AQ=="}, ":m": {"M": {}},
        ":nul": {"NULL": true}, ":bo": {"BOOL": true}, ":tS": {"S": "S"}, ":tX": {"S": "X"}, ":ns": {"NS": ["1"]},
    }))
}

/// An error as the tables have it.
fn shortened(error: ExpressionError, kind: ExpressionKind) -> String {
    error.0.replace(&format!("Invalid {kind:?}: "), "! ")
}

fn check(table: &[(&str, &str)], answer: impl Fn(&str) -> Result<String, ExpressionError>, kind: ExpressionKind) {
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(expression, wanted)| {
            let got = answer(expression).unwrap_or_else(|error| shortened(error, kind));
            (got != *wanted).then(|| format!("{expression}\n  wanted {wanted}\n  got    {got}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn conditions_answer_as_the_service() {
    let kind = ExpressionKind::FilterExpression;
    let answer = |text: &str| {
        let condition = Condition::parse(kind, text, &condition_values())?;
        Ok(condition.holds(Some(&item()))?.to_string())
    };
    check(CONDITIONS, answer, kind);
}

#[test]
fn updates_answer_as_the_service() {
    let answer = |text: &str| {
        let values = placeholders(json!({
            ":n": {"N": "1"}, ":n5": {"N": "5"}, ":s": {"S": "q"}, ":l": {"L": [{"N": "9"}]}, ":b": {"B": "AQ=="},
            ":ss": {"SS": ["b", "c"]},
            ":ss2": {"SS": ["zz"]}, ":both": {"SS": ["a", "b"]}, ":ns": {"NS": ["2", "3"]}, ":m": {"M": {}}, ":nul": {"NULL": true}, ":bo": {"BOOL": true},
        }));
        let updated = Update::parse(text, &values)?.apply(&item(), &["h", "r"])?;
        Ok(difference(&item(), &updated))
    };
    check(UPDATES, answer, ExpressionKind::UpdateExpression);
}

#[test]
fn projections_answer_as_the_service() {
    let answer = |text: &str| {
        let projection = Projection::parse(text, &Placeholders::default())?;
        Ok(item_to_json(&projection.project(&item())).to_string())
    };
    check(PROJECTIONS, answer, ExpressionKind::ProjectionExpression);
}

#[test]
fn key_conditions_answer_as_the_service() {
    let answer = |text: &str| {
        let condition = KeyCondition::parse(text, &condition_values(), "h", Some("r"))?;
        condition.check_types("S", Some("N"))?;
        let item = item();
        let matches = *condition.hash() == item["h"] && condition.matches_range(&item["r"]);
        Ok(matches.to_string())
    };
    check(KEY_CONDITIONS, answer, ExpressionKind::KeyConditionExpression);
}

/// The attributes that differ, as JSON, with null for those that are gone.
fn difference(before: &Item, after: &Item) -> String {
    let changed = after
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(value))
        .map(|(name, value)| (name.clone(), value.to_json()));
    let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    Value::Object(changed.chain(gone).collect()).to_string()
}

#[test]
fn a_placeholder_stands_for_a_whole_name() {
    let request = json!({"ExpressionAttributeNames": {"#m": "m", "#x": "x", "#dotted": "m.x"}});
    let placeholders = Placeholders::from_request(&request).unwrap();
    let project = |text: &str| {
        let projection = Projection::parse(text, &placeholders).unwrap();
        item_to_json(&projection.project(&item()))
    };
    assert_eq!(project("#m.#x"), json!({"m": {"M": {"x": {"N": "1"}}}}));
    assert_eq!(project("#dotted"), json!({}));
    assert!(placeholders.check_all_used().is_ok());
}

#[test]
fn a_condition_on_no_item_sees_no_attributes() {
    let holds = |text: &str| {
        let kind = ExpressionKind::ConditionExpression;
        Condition::parse(kind, text, &condition_values()).unwrap().holds(None).unwrap()
    };
    assert!(holds("attribute_not_exists(h)"));
    assert!(holds("n <> :n"));
    assert!(!holds("n = :n OR attribute_exists(n)"));
}

#[test]
fn size_counts_utf_16_units() {
    let item = item_from_json(&json!({"u": {"S": "é😀"}})).unwrap();
    let three = placeholders(json!({":three": {"N": "3"}}));
    let condition = Condition::parse(ExpressionKind::FilterExpression, "size(u) = :three", &three).unwrap();
    assert!(condition.holds(Some(&item)).unwrap());
}

#[test]
fn limits_are_the_service_s_and_deep_nesting_is_refused_not_followed() {
    let refusal = |text: &str| {
        let kind = ExpressionKind::FilterExpression;
        shortened(Condition::parse(kind, text, &condition_values()).unwrap_err(), kind)
    };
    let too_many = "! The expression contains too many operators; operator count: 301";
    let redundant = "! The expression has redundant parentheses;";
    let conjunction = vec!["n = :n"; 151].join(" AND ");
    assert_eq!(refusal(&conjunction), too_many);
    assert_eq!(refusal(&format!("{}n = :n", "NOT ".repeat(1000))), too_many);
    assert_eq!(refusal(&"(".repeat(4096)), redundant);
    assert_eq!(refusal(&format!("n = {}", "(".repeat(4000))), redundant);
    assert!(refusal(&"size(".repeat(800)).starts_with("! "));
    assert!(refusal(&"(NOT ".repeat(800)).starts_with("! "));
    assert_eq!(
        refusal(&format!("n IN ({}:n)", ":n,".repeat(100))),
        "! The IN operator is provided with too many operands; number of operands: 101"
    );
    assert_eq!(
        refusal(&format!("{} = :n", ["a"; 33].join("."))),
        "! The document path has too many nesting levels; nesting levels: 33"
    );
    let nested_sets = format!("SET a = {}", "if_not_exists(a, ".repeat(240));
    assert!(Update::parse(&nested_sets, &Placeholders::default()).is_err());
    assert!(Update::parse(&format!("SET a = {}", "(".repeat(4000)), &Placeholders::default()).is_err());
}

#[test]
fn an_update_nests_no_deeper_than_an_item_may() {
    let deep = (0..31).fold(json!({"N": "1"}), |inner, _| json!({"L": [inner]}));
    let values = placeholders(json!({":v": deep}));
    let apply = |text: &str| Update::parse(text, &values).unwrap().apply(&item(), &["h", "r"]);
    assert!(apply("SET m.deep = :v").is_ok());
    assert_eq!(
        apply("SET m.y.deep = :v").unwrap_err().0,
        "Nesting Levels have exceeded supported limits: \
         Attributes in the item have nested levels beyond supported limit"
    );
}

#[test]
fn sums_outside_the_range_of_numbers_are_refused() {
    let values = placeholders(json!({":v": {"N": "9.99e125"}, ":w": {"N": "1e125"}}));
    let update = Update::parse("SET n = :v + :w", &values).unwrap();
    assert_eq!(
        update.apply(&item(), &[]).unwrap_err().0,
        "Number overflow. Attempting to store a number with magnitude larger than supported range"
    );
}

#[test]
fn what_an_update_touches_is_picked_out_of_the_old_and_the_new_item() {
    let values = placeholders(json!({":v": {"N": "7"}}));
    let touched = |text: &str| {
        let update = Update::parse(text, &values).unwrap();
        let new = update.apply(&item(), &["h", "r"]).unwrap();
        let old = item_to_json(&update.project_touched(&item()));
        (old, item_to_json(&update.project_touched(&new)))
    };
    assert_eq!(
        touched("SET m.x = :v, l[2].q = :v REMOVE s"),
        (
            json!({"m": {"M": {"x": {"N": "1"}}}, "l": {"L": [{"M": {"q": {"S": "z"}}}]}, "s": {"S": "str"}}),
            json!({"m": {"M": {"x": {"N": "7"}}}, "l": {"L": [{"M": {"q": {"N": "7"}}}]}}),
        )
    );
    assert_eq!(touched("SET a = :v"), (json!({}), json!({"a": {"N": "7"}})));
}

#[test]
fn a_key_condition_needs_no_range_key_and_takes_ranges_of_strings() {
    let values = placeholders(json!({":h": {"S": "a"}, ":p": {"S": "2024-"}, ":q": {"S": "2025"}}));
    let parse = |text: &str, range: Option<&str>| KeyCondition::parse(text, &values, "h", range);
    let string = |text: &str| crate::value::AttributeValue::S(text.to_owned());
    assert!(parse("h = :h", None).unwrap().matches_range(&string("any")));
    assert_eq!(parse("h = :h AND r = :p", None).unwrap_err().0, "Query key condition not supported");
    let prefixed = parse("begins_with(r, :p) AND h = :h", Some("r")).unwrap();
    assert_eq!(prefixed.hash(), &string("a"));
    assert!(prefixed.matches_range(&string("2024-05")));
    assert!(!prefixed.matches_range(&string("2025-05")));
    let between = parse("h = :h AND r BETWEEN :p AND :q", Some("r")).unwrap();
    assert!(between.matches_range(&string("2024-05")) && between.matches_range(&string("2025")));
    assert!(!between.matches_range(&string("2025-05")));
    let above = parse("h = :h AND :p < r", Some("r")).unwrap();
    assert!(above.matches_range(&string("2024-1")) && !above.matches_range(&string("2024-")));
}

proptest! {
    /// No sequence of tokens makes a parser fail otherwise than with a message.
    #[test]
    fn any_tokens_are_parsed_or_refused(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..24)) {
        let text = tokens.join(" ");
        let values = condition_values();
        for kind in [ExpressionKind::ConditionExpression, ExpressionKind::FilterExpression] {
            if let Ok(condition) = Condition::parse(kind, &text, &values) {
                prop_assert!(condition.holds(Some(&item())).is_ok());
            }
        }
        if let Ok(update) = Update::parse(&format!("SET {text}"), &values) {
            let _ = update.apply(&item(), &["h"]);
        }
        let _ = Projection::parse(&text, &values);
        let _ = KeyCondition::parse(&text, &values, "h", Some("r"));
    }
}

const TOKENS: &[&str] = &[
    "a",
    "n",
    "m",
    "l",
    "name",
    "size",
    "contains",
    "attribute_exists",
    "if_not_exists",
    "list_append",
    "#a",
    ":n",
    ":s",
    ":l",
    ":undefined",
    "(",
    ")",
    "(",
    ")",
    "[",
    "]",
    "0",
    "1",
    ".",
    ",",
    "=",
    "<>",
    "<",
    ">=",
    "+",
    "-",
    "AND",
    "OR",
    "NOT",
    "IN",
    "BETWEEN",
    "SET",
    "REMOVE",
    "ADD",
    "DELETE",
    "é",
    "$",
];
