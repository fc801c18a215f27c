//! The layout of records: the members at each place, and the values that the API writes there.

use super::decimal;
use super::scalar::{Scalar, Test};
use crate::model::record::{EventName, ViewType};

const OF_RECORD: &[&str] =
    &["eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "eventSourceARN", "dynamodb", "userIdentity"];
const OF_STREAM_RECORD: &[&str] =
    &["Keys", "NewImage", "OldImage", "SequenceNumber", "SizeBytes", "ApproximateCreationDateTime", "StreamViewType"];
const OF_IDENTITY: &[&str] = &["type", "principalId"];

const EVENTS: &[&str] = &["INSERT", "MODIFY", "REMOVE"];
const VIEW_TYPES: &[&str] = &["KEYS_ONLY", "NEW_IMAGE", "OLD_IMAGE", "NEW_AND_OLD_IMAGES"];

/// The content of a stream's records, as DescribeStream tells it.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The view type, if the service gives a known one.
    pub view_type: Option<ViewType>,
    /// The attributes of the table's key; empty if the service names none.
    pub keys: Vec<String>,
}

/// The knowledge of a value that the layout of records gives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Record,
    StreamRecord,
    Identity,
    /// Attributes by name.
    Item,
    /// An attribute value: an object by its type.
    Value,
    /// The attributes of a primary key, and one of their values.
    KeyItem,
    KeyValue,
    /// One of these words.
    Word {
        known: &'static [&'static str],
        only: Option<&'static str>,
    },
    Text,
    /// Bytes in Base64, or an array of such.
    Base64,
    /// A string of digits: a sequence number.
    Digits,
    Number,
    /// A number without a fraction.
    Integer,
    /// A number in a string, or an array of such.
    DigitText,
    Bool,
    /// Nothing but true.
    True,
}

impl Place {
    pub(super) fn is_object(self) -> bool {
        matches!(self, Place::Record | Place::StreamRecord | Place::Identity | Place::Item | Place::KeyItem)
            || self.is_value()
    }

    /// Whether an attribute value is here.
    pub(super) fn is_value(self) -> bool {
        matches!(self, Place::Value | Place::KeyValue)
    }

    /// The layout of the member `name`, or the reason why there is none.
    pub(super) fn inside(self, name: &str, layout: &Layout, event: Option<EventName>) -> Result<Place, String> {
        let Layout { view_type, keys } = layout;
        let view_type = *view_type;
        let word = |known, only| Place::Word { known, only };
        Ok(match (self, name) {
            (Place::Record, "dynamodb") => Place::StreamRecord,
            (Place::Record, "userIdentity") => match event {
                None | Some(EventName::Remove) => Place::Identity,
                Some(_) => return Err("such a change has no such member".into()),
            },
            (Place::Record, "eventName") => word(EVENTS, event.and_then(name_of)),
            (Place::Record, "eventSource") => word(&["aws:dynamodb"], None),
            (Place::Record, "eventID" | "eventVersion" | "awsRegion" | "eventSourceARN") => Place::Text,
            (Place::StreamRecord, "NewImage") => {
                let is_there = event != Some(EventName::Remove);
                image(view_type, ViewType::has_new_image, is_there)?
            }
            (Place::StreamRecord, "OldImage") => {
                let is_there = event != Some(EventName::Insert);
                image(view_type, ViewType::has_old_image, is_there)?
            }
            (Place::StreamRecord, "Keys") => Place::KeyItem,
            (Place::StreamRecord, "SequenceNumber") => Place::Digits,
            (Place::StreamRecord, "StreamViewType") => word(VIEW_TYPES, view_type.map(ViewType::as_str)),
            (Place::StreamRecord, "SizeBytes") => Place::Integer,
            (Place::StreamRecord, "ApproximateCreationDateTime") => Place::Number,
            (Place::Identity, "type" | "Type") => word(&["Service"], None),
            (Place::Identity, "principalId" | "PrincipalId") => word(&["dynamodb.amazonaws.com"], None),
            (Place::KeyItem, name) if !keys.is_empty() && !keys.iter().any(|key| key == name) => {
                return Err(format!("the table's key has no such attribute: it is {}", keys.join(" and ")));
            }
            (Place::KeyItem, _) => Place::KeyValue,
            (Place::Item, _) | (Place::Value, "L") => Place::Value,
            (Place::Value, "M") => Place::Item,
            (Place::Value | Place::KeyValue, "S") | (Place::Value, "SS") => Place::Text,
            (Place::Value | Place::KeyValue, "B") | (Place::Value, "BS") => Place::Base64,
            (Place::Value | Place::KeyValue, "N") | (Place::Value, "NS") => Place::DigitText,
            (Place::Value, "BOOL") => Place::Bool,
            (Place::Value, "NULL") => Place::True,
            (Place::Value, _) => {
                let types = "S, N, B, BOOL, NULL, M, L, SS, NS or BS";
                return Err(format!("{name:?} is no type of an attribute value; write {types}"));
            }
            (Place::KeyValue, _) => return Err(format!("{name:?} is no type of a key; write S, N or B")),
            _ => return Err(self.no_member(name)),
        })
    }

    /// Whether each record has the member `name` here.
    pub(super) fn always_has(self, name: &str) -> bool {
        match self {
            Place::Record => name != "userIdentity",
            Place::StreamRecord => !matches!(name, "NewImage" | "OldImage"),
            _ => false,
        }
    }

    /// The reason why nothing is found by `name`, and the name that was meant if that can be told.
    fn no_member(self, name: &str) -> String {
        let members = match self {
            Place::StreamRecord => OF_STREAM_RECORD,
            Place::Identity => OF_IDENTITY,
            _ => OF_RECORD,
        };
        if name.contains('.') {
            let nested = name.split('.').rev().fold("…".to_owned(), |inner, name| format!("{{{name:?}:{inner}}}"));
            return format!("a dot does not lead into an object; write {nested}");
        }
        let plain = |name: &str| name.to_lowercase().replace(['_', '-'], "");
        let similar = |members: &[&'static str]| members.iter().find(|member| plain(member) == plain(name)).copied();
        if let Some(member) = similar(members) {
            return format!("no record has this member; write {member:?}");
        }
        match similar(OF_STREAM_RECORD) {
            Some(member) if self == Place::Record => {
                format!("no record has this member here; write {{\"dynamodb\":{{{member:?}:…}}}}")
            }
            _ => format!("no record has this member; there are {}", members.join(", ")),
        }
    }

    /// Whether a value that the API writes here can pass the test.
    pub(super) fn may_pass(self, test: &Test) -> bool {
        match (self, test) {
            (_, Test::Exists) => true,
            (Place::Word { known, only }, test) => {
                let passes = |word: &&str| test.passes(&Scalar::Text((*word).into()), false);
                let can_be = match only {
                    Some(word) => passes(&word),
                    None => known.iter().any(passes),
                };
                can_be && excludes_something(test, Place::Word { known, only: None })
            }
            (_, Test::AnythingBut(_)) => excludes_something(test, self),
            (_, Test::Null) => false,
            (Place::True, Test::Bool(value)) => *value,
            (_, Test::Bool(_)) => self == Place::Bool,
            (Place::Integer, Test::Number(digits)) => digits.bytes().all(|byte| byte.is_ascii_digit()),
            (_, Test::Number(_)) => self == Place::Number,
            (_, Test::Range(_)) => matches!(self, Place::Number | Place::Integer | Place::DigitText),
            (_, Test::Text(text)) => match self {
                Place::Text => true,
                Place::Base64 => is_base64(text),
                Place::Digits => !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()),
                Place::DigitText => decimal::compare(text, "0").is_some(),
                _ => false,
            },
            (_, Test::Prefix(part) | Test::Suffix(part)) => part.chars().all(|part| self.may_hold(part)),
            (_, Test::Folded(folded) | Test::FoldedPrefix(folded) | Test::FoldedSuffix(folded)) => {
                folded.chars().all(|part| self.may_hold(part))
            }
        }
    }

    /// Whether a string here can hold this character.
    fn may_hold(self, character: char) -> bool {
        match self {
            Place::Text => true,
            Place::Base64 => is_of_base64(character) || character == '=',
            Place::Digits => character.is_ascii_digit(),
            Place::DigitText => character.is_ascii_digit() || "+-.eE".contains(character),
            _ => false,
        }
    }

    /// The right form of values here, for those who wrote others.
    pub(super) fn hint(self) -> String {
        match self {
            Place::Word { known: [word], .. } => format!("records have {word:?} here"),
            Place::Word { only: Some(word), .. } => format!("the stream's records have {word:?} here"),
            Place::Word { known, .. } => format!("records have one of {} here", known.join(", ")),
            Place::Base64 => "records have bytes in Base64 here, which these values never equal".into(),
            Place::Digits => "records have a string of digits here, which these values never equal".into(),
            Place::DigitText => {
                "a number is a string in records: write [\"100\"], or [{\"numeric\":[\"=\",100]}]".into()
            }
            Place::Number => "records have numbers here, which these values never equal".into(),
            Place::Integer => "records have whole numbers here: write [26], or [{\"numeric\":[\"=\",26]}]".into(),
            Place::Bool => "records have true or false here: write [true] or [false]".into(),
            Place::True => "records have true here: write [true]".into(),
            _ => "records have strings here, which these values never equal".into(),
        }
    }
}

/// An excluded value must be a possible one, or nothing is excluded.
fn excludes_something(test: &Test, place: Place) -> bool {
    match test {
        Test::AnythingBut(tests) => tests.iter().any(|test| place.may_pass(test)),
        _ => true,
    }
}

fn name_of(event: EventName) -> Option<&'static str> {
    match event {
        EventName::Insert => Some("INSERT"),
        EventName::Modify => Some("MODIFY"),
        EventName::Remove => Some("REMOVE"),
        EventName::Other => None,
    }
}

fn image(view_type: Option<ViewType>, is_included: fn(ViewType) -> bool, is_there: bool) -> Result<Place, String> {
    match view_type {
        Some(view_type) if !is_included(view_type) => {
            Err(format!("the stream's view type is {}: its records have no such image", view_type.as_str()))
        }
        _ if !is_there => Err("such a change has no such image".into()),
        _ => Ok(Place::Item),
    }
}

fn is_of_base64(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '+' | '/')
}

/// Whether `text` is Base64 with its padding (RFC 4648, section 4).
fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    text.len().is_multiple_of(4) && text.len() - digits.len() <= 2 && digits.chars().all(is_of_base64)
}

/// The way to a place in a pattern, as errors show it. A name with a dot in it is quoted: it is one member.
pub(super) fn show(path: &[String]) -> String {
    let is_plain = |name: &String| !name.is_empty() && !name.contains(['.', '"']);
    let names: Vec<String> =
        path.iter().map(|name| if is_plain(name) { name.clone() } else { format!("{name:?}") }).collect();
    names.join(".")
}
