//! Transcripts: requests and the answers that are expected, as a shell session reads.
//!
//! ```text
//! # Why these lines are here.
//! > GetItem {"TableName": "Phones", "Key": {…}}
//! < 200 {"Item": {…}}
//! # DynamoDB Local: how it differs, in words.
//! <dynamodb-local 200 {…}
//! ```
//! Indented lines continue the one above. An answer that a named service alone gives must have its reason above it.
//!
//! In an expected answer
//! - `"$text"`, `"$number"` and `"$any"` stand for any such value, `"$absent"` for a member that is not there;
//! - any other `"$name"` stands for a value: the first answer with it says which, and it has that value from then on,
//!   also in requests;
//! - `{"$has": {…}}` is an object with at least these members;
//! - `{"$unordered": […]}` is a list in any order, and sets (`SS`, `NS`, `BS`) have no order anyway.
//!
//! In a request, `"$repeat x 7"` is `xxxxxxx`, and `"$lists 2"` is the attribute value of a list in a list.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A request and its expected answers.
#[derive(Debug)]
pub struct Step {
    /// The line in the file, from 1.
    pub line: usize,
    /// The operation.
    pub operation: String,
    /// The request's body, names in it not yet replaced.
    pub body: Value,
    /// The answer of every service that has none of its own.
    pub expected: Expected,
    /// The answers of single services.
    pub by_service: BTreeMap<String, Expected>,
}

/// An expected answer.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
}

/// The values of a transcript's names so far.
pub type Names = BTreeMap<String, Value>;

impl Step {
    /// The expected answer of this service.
    pub fn expected_of(&self, service: &str) -> &Expected {
        self.by_service.get(service).unwrap_or(&self.expected)
    }
}

/// Reads a transcript.
///
/// # Panics
/// With the line, where it is none.
pub fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut comment = String::new();
    for (line, text) in joined_lines(text) {
        if let Some(words) = text.strip_prefix('#') {
            comment = words.trim().to_owned();
        } else if let Some(request) = text.strip_prefix("> ") {
            let (operation, body) = request.split_once(' ').unwrap_or_else(|| panic!("line {line}: no body"));
            let nothing = Expected { status: 0, body: Value::Null };
            let (operation, body) = (operation.to_owned(), json(line, body));
            steps.push(Step { line, operation, body, expected: nothing, by_service: BTreeMap::new() });
        } else if let Some(answer) = text.strip_prefix('<') {
            let step = steps.last_mut().unwrap_or_else(|| panic!("line {line}: an answer without a request"));
            let mut parts = answer.splitn(3, ' ');
            let [Some(service), Some(status), Some(body)] = [parts.next(), parts.next(), parts.next()] else {
                panic!("line {line}: no status and body");
            };
            let status = status.parse().unwrap_or_else(|error| panic!("line {line}: {status}: {error}"));
            let expected = Expected { status, body: json(line, body) };
            if service.is_empty() {
                step.expected = expected;
            } else {
                let title = service.replace("dynamodb-local", "DynamoDB Local");
                assert!(comment.starts_with(&format!("{title}: ")), "line {line}: no reason for {service}'s answer");
                step.by_service.insert(service.to_owned(), expected);
            }
            comment.clear();
        } else {
            assert!(text.is_empty(), "line {line}: neither a comment, a request nor an answer");
        }
    }
    for step in &steps {
        assert_ne!(step.expected.status, 0, "line {}: no answer is expected", step.line);
    }
    steps
}

/// The request's body with its names replaced.
///
/// # Panics
/// A name stands for nothing yet.
pub fn fill(body: &Value, names: &Names) -> Value {
    match body {
        Value::String(text) => match text.strip_prefix('$') {
            None => body.clone(),
            Some(repeat) if repeat.starts_with("repeat ") => {
                let mut words = repeat.split(' ').skip(1);
                let (what, times) = (words.next().expect("what"), words.next().expect("how often"));
                what.repeat(times.parse().expect("a number of times")).into()
            }
            Some(lists) if lists.starts_with("lists ") => {
                let depth: usize = lists["lists ".len()..].parse().expect("a number of lists");
                (1..depth).fold(json!({"L": []}), |inner, _| json!({"L": [inner]}))
            }
            Some(name) => names.get(name).unwrap_or_else(|| panic!("${name} stands for nothing yet")).clone(),
        },
        Value::Array(values) => values.iter().map(|value| fill(value, names)).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), fill(value, names))).collect(),
        _ => body.clone(),
    }
}

/// Compares an answer's value with what is expected, learning names from it.
///
/// # Errors
/// The place of the difference, and both values.
pub fn compare(expected: &Value, found: &Value, names: &mut Names) -> Result<(), String> {
    compare_at("", expected, found, names)
}

fn compare_at(place: &str, expected: &Value, found: &Value, names: &mut Names) -> Result<(), String> {
    let unlike = || Err(format!("at {place}/: expected {expected}, found {found}"));
    match (expected, found) {
        (Value::String(text), _) if text.starts_with('$') => {
            let fits = match text.as_str() {
                "$any" => true,
                "$text" => found.is_string(),
                "$number" => found.is_number(),
                name => names.entry(name[1..].to_owned()).or_insert_with(|| found.clone()) == found,
            };
            if fits { Ok(()) } else { unlike() }
        }
        (Value::Object(members), _) if let Some(Value::Object(wanted)) = members.get("$has") => {
            let Value::Object(found) = found else {
                return unlike();
            };
            compare_members(place, wanted, found, names)
        }
        (Value::Object(members), _) if let Some(Value::Array(wanted)) = members.get("$unordered") => match found {
            Value::Array(found) => compare_unordered(place, wanted, found, names),
            _ => unlike(),
        },
        (Value::Object(wanted), Value::Object(found)) => {
            if let Some(name) = found.keys().find(|name| !wanted.contains_key(*name)) {
                return Err(format!("at {place}/{name}: not expected: {}", found[name]));
            }
            compare_members(place, wanted, found, names)
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            let mut pairs = wanted.iter().zip(found).enumerate();
            pairs.try_for_each(|(index, (wanted, found))| compare_at(&format!("{place}/{index}"), wanted, found, names))
        }
        _ if expected == found => Ok(()),
        _ => unlike(),
    }
}

fn compare_members(
    place: &str,
    wanted: &Map<String, Value>,
    found: &Map<String, Value>,
    names: &mut Names,
) -> Result<(), String> {
    for (name, wanted) in wanted {
        let place = format!("{place}/{name}");
        match (found.get(name), wanted) {
            (found, Value::String(text)) if text == "$absent" => {
                if let Some(found) = found {
                    return Err(format!("at {place}: not expected: {found}"));
                }
            }
            (None, _) => return Err(format!("at {place}: missing")),
            (Some(Value::Array(found)), Value::Array(wanted)) if matches!(name.as_str(), "SS" | "NS" | "BS") => {
                compare_unordered(&place, wanted, found, names)?;
            }
            (Some(found), wanted) => compare_at(&place, wanted, found, names)?,
        }
    }
    Ok(())
}

/// ReaderEvents each wanted value a partner of its own.
fn compare_unordered(place: &str, wanted: &[Value], found: &[Value], names: &mut Names) -> Result<(), String> {
    let mut left: Vec<&Value> = found.iter().collect();
    for wanted in wanted {
        let partner = left.iter().position(|found| {
            let mut trial = names.clone();
            let fits = compare_at(place, wanted, found, &mut trial).is_ok();
            if fits {
                *names = trial;
            }
            fits
        });
        match partner {
            Some(index) => drop(left.remove(index)),
            None => return Err(format!("at {place}: missing {wanted} among {}", Value::from(found.to_vec()))),
        }
    }
    match left.first() {
        None => Ok(()),
        Some(found) => Err(format!("at {place}: not expected: {found}")),
    }
}

/// The lines with those that are indented put after the ones above, and their numbers.
fn joined_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match lines.last_mut() {
            Some((_, last)) if line.starts_with("    ") => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push((index + 1, line.to_owned())),
        }
    }
    lines
}

fn json(line: usize, text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("line {line}: {error} in {text}"))
}
