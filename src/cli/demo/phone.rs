//! Phones, the items that the demonstration writes, and the records of their changes.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

/// The primary key of a phone: its company and its model.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PhoneKey {
    /// The partition key, `Company`.
    pub company: Arc<str>,
    /// The sort key, `Model`.
    pub model: Arc<str>,
}

/// A change of a phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new phone.
    Insert,
    /// A changed phone.
    Modify,
    /// A removed phone.
    Remove,
}

/// The parts of a stream record that the demonstration uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhoneRecord {
    /// The phone's key.
    pub key: PhoneKey,
    /// The change.
    pub event: Event,
    /// The version of the phone that the write made; a removal counts as one.
    pub version: u64,
    /// The changed attributes as text: `Price 199 -> 189`.
    pub changes: String,
}

impl PhoneKey {
    /// The key of this company's model.
    pub fn new(company: &str, model: &str) -> Self {
        Self { company: company.into(), model: model.into() }
    }
}

impl fmt::Display for PhoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.company, self.model))
    }
}

impl Event {
    /// The service's name for the event.
    pub fn name(self) -> &'static str {
        match self {
            Event::Insert => "INSERT",
            Event::Modify => "MODIFY",
            Event::Remove => "REMOVE",
        }
    }
}

impl PhoneRecord {
    /// Reads one line of a worker's standard output. Returns `None` when it is no record of a phone.
    pub fn read(line: &[u8]) -> Option<Self> {
        let record: Value = serde_json::from_slice(line).ok()?;
        let event = match record["eventName"].as_str()? {
            "INSERT" => Event::Insert,
            "MODIFY" => Event::Modify,
            "REMOVE" => Event::Remove,
            _ => return None,
        };
        let change = &record["dynamodb"];
        let text = |name: &str| change["Keys"][name]["S"].as_str();
        let key = PhoneKey::new(text("Company")?, text("Model")?);
        let (old, new) = (change["OldImage"].as_object(), change["NewImage"].as_object());
        let version = match event {
            Event::Remove => version(old?)? + 1,
            Event::Insert | Event::Modify => version(new?)?,
        };
        let none = Map::new();
        let changes = changes(old.unwrap_or(&none), new.unwrap_or(&none));
        Some(Self { key, event, version, changes })
    }
}

fn version(image: &Map<String, Value>) -> Option<u64> {
    image.get("Version")?["N"].as_str()?.parse().ok()
}

/// The differences between two images, except keys and version.
fn changes(old: &Map<String, Value>, new: &Map<String, Value>) -> String {
    let shown_names = ["Price", "Stock", "Color"];
    let changes = shown_names.into_iter().filter_map(|name| match (shown(old, name), shown(new, name)) {
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new)) => Some(format!("{name} {old} -> {new}")),
        (None, Some(new)) => Some(format!("{name} {new}")),
        (Some(old), None) => Some(format!("{name} was {old}")),
        (None, None) => None,
    });
    changes.collect::<Vec<_>>().join(", ")
}

fn shown<'a>(image: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let value = image.get(name)?;
    value["S"].as_str().or_else(|| value["N"].as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"Company":{"S":"Nokia"},"Version":{"N":"7"},"Price":{"N":"90"},"Color":{"S":"red"}}"#;
    const NEW: &str = r#"{"Company":{"S":"Nokia"},"Version":{"N":"8"},"Price":{"N":"80"},"Color":{"S":"red"}}"#;

    fn read(event: &str, images: &str) -> Option<PhoneRecord> {
        let keys = r#""Keys":{"Company":{"S":"Nokia"},"Model":{"S":"3310"}}"#;
        PhoneRecord::read(format!(r#"{{"eventName":"{event}","dynamodb":{{{keys}{images}}}}}"#).as_bytes())
    }

    #[test]
    fn a_change_carries_the_new_version_and_its_differences() {
        let record = read("MODIFY", &format!(r#","OldImage":{OLD},"NewImage":{NEW}"#)).unwrap();
        assert_eq!((record.event, record.version), (Event::Modify, 8));
        assert_eq!((record.key.to_string().as_str(), record.changes.as_str()), ("Nokia/3310", "Price 90 -> 80"));
    }

    #[test]
    fn a_removal_is_the_version_after_the_last() {
        let record = read("REMOVE", &format!(r#","OldImage":{OLD}"#)).unwrap();
        assert_eq!((record.version, record.changes.as_str()), (8, "Price was 90, Color was red"));
    }

    #[test]
    fn a_line_that_is_no_record_of_a_phone_is_not_read() {
        assert_eq!(read("MODIFY", ""), None);
        assert_eq!(read("RENAME", &format!(r#","NewImage":{NEW}"#)), None);
        assert_eq!(PhoneRecord::read(b"{\"eventName\":"), None);
    }
}
