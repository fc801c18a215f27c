//! The JSON Schema of the configuration file. What a key takes is asked of its option: the words that it knows, the
//! name of its value, and, for numbers, its parser.

use clap::{Arg, Command};
use serde_json::{Map, Value, json};

use super::options_of_run;
use crate::cli::config::{is_key, is_list, key, parse, value_name};

/// The schema as text.
pub fn text() -> String {
    format!("{:#}\n", schema(&options_of_run()))
}

fn schema(run: &Command) -> Value {
    let keys: Map<String, Value> =
        run.get_arguments().filter(|arg| is_key(arg)).map(|arg| (key(arg).to_owned(), property(arg))).collect();
    let exclusive = run.get_groups().cloned().filter_map(|mut group| {
        let is_member = |arg: &&Arg| is_key(arg) && group.get_args().any(|id| id == arg.get_id());
        let members: Vec<&str> = run.get_arguments().filter(is_member).map(key).collect();
        (members.len() > 1 && !group.is_multiple()).then(|| json!({"not": {"required": members}}))
    });
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "The configuration file of shardkeeper",
        "type": "object",
        "additionalProperties": false,
        "properties": keys,
        "allOf": exclusive.collect::<Vec<Value>>(),
    })
}

fn property(arg: &Arg) -> Value {
    let mut property = of_value(arg);
    if is_list(arg) {
        property = json!({"anyOf": [property, {"type": "array", "items": property}]});
    }
    property["description"] = arg.get_help().map(|help| help.to_string()).unwrap_or_default().into();
    if let Some(default) = default(arg) {
        property["default"] = default;
    }
    property
}

fn of_value(arg: &Arg) -> Value {
    let words: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    match value_name(arg) {
        "true|false" => json!({"type": "boolean"}),
        "DURATION" => json!({"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}),
        // What begins with min or max holds for numbers, a pattern for text.
        "SIZE" => with_range(arg, json!({"type": ["integer", "string"], "pattern": "^[0-9]+([kKmMgG][iI]?)?[bB]?$"})),
        "N" => with_range(arg, json!({"type": "integer"})),
        _ if !words.is_empty() => json!({"enum": words}),
        _ => json!({"type": "string", "minLength": 1}),
    }
}

fn with_range(arg: &Arg, mut property: Value) -> Value {
    let (least, most) = range(arg);
    property["minimum"] = least.into();
    // TOML's integers end there.
    if most <= i64::MAX.unsigned_abs() {
        property["maximum"] = most.into();
    }
    property
}

fn default(arg: &Arg) -> Option<Value> {
    let [text] = arg.get_default_values() else { return None };
    let text = text.to_str().filter(|_| !arg.is_hide_default_value_set() || value_name(arg) == "true|false")?;
    Some(match text.parse::<u64>() {
        Ok(number) => number.into(),
        Err(_) => text.parse::<bool>().map_or_else(|_| text.into(), Value::from),
    })
}

/// The least and the greatest number that an option takes, both found by its parser: it takes all between them, and a
/// power of two or 0.
fn range(arg: &Arg) -> (u64, u64) {
    let takes = |number: u64| parse(arg, &number.to_string()).is_ok();
    let powers = || (0..u64::BITS).map(|bit| 1 << bit);
    let one = [0].into_iter().chain(powers()).find(|number| takes(*number)).expect("a power of two is in range");
    // Each bit, from the highest on, that leaves the number within the range.
    let up = |from: u64| {
        powers().rev().fold(from, |most, step| match most.checked_add(step) {
            Some(more) if takes(more) => more,
            _ => most,
        })
    };
    let down = |from: u64| {
        powers().rev().fold(from, |least, step| match least.checked_sub(step) {
            Some(less) if takes(less) => less,
            _ => least,
        })
    };
    (down(one), up(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `SHARDKEEPER_WRITE_DOCS` set it writes the file.
    #[test]
    fn the_schema_in_docs_is_made_from_the_options() {
        crate::cli::reference::settings::assert_written("docs/config-schema.json", &text());
    }

    #[test]
    fn numbers_have_the_range_of_their_parser() {
        let option = |parser| Arg::new("n").long("n").value_parser(parser);
        let whole = crate::cli::args::value::whole::<u64>;
        for (least, most) in [(0, 10_000), (1, 10), (37, 4_000_000_001), (0, u64::MAX)] {
            assert_eq!(range(&option(clap::builder::ValueParser::new(whole(least..=most)))), (least, most));
        }
    }
}
