//! Ready-made conditions on what kind of change a record is.

use std::borrow::Cow;
use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

use super::Error;
use crate::model::record::scan::Scanner;
use crate::model::record::{DecodeError, EventName, Record};

/// Kinds of changes: those that are to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    insert: bool,
    modify: bool,
    remove: bool,
}

impl Events {
    /// New items.
    pub const INSERT: Self = Self { insert: true, modify: false, remove: false };
    /// Changed items.
    pub const MODIFY: Self = Self { insert: false, modify: true, remove: false };
    /// Deleted items.
    pub const REMOVE: Self = Self { insert: false, modify: false, remove: true };

    /// All kinds.
    pub(super) const ALL: Self = Self { insert: true, modify: true, remove: true };

    /// The kinds.
    pub(super) fn names(self) -> Vec<EventName> {
        let all = [EventName::Insert, EventName::Modify, EventName::Remove];
        all.into_iter().filter(|event| self.hold(*event)).collect()
    }

    pub(super) fn hold(self, event: EventName) -> bool {
        match event {
            EventName::Insert => self.insert,
            EventName::Modify => self.modify,
            EventName::Remove => self.remove,
            EventName::Other => false,
        }
    }
}

impl BitOr for Events {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self {
            insert: self.insert || other.insert,
            modify: self.modify || other.modify,
            remove: self.remove || other.remove,
        }
    }
}

impl FromStr for Events {
    type Err = Error;

    /// Reads names separated by commas: `insert`, `modify`, `remove`, in any case.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut events = Self { insert: false, modify: false, remove: false };
        for name in text.split(',') {
            let event = match name.trim().to_ascii_lowercase().as_str() {
                "insert" => &mut events.insert,
                "modify" => &mut events.modify,
                "remove" => &mut events.remove,
                _ => {
                    let what = format!("{name:?} is no event; write insert, modify, remove, or several with commas");
                    return Err(Error::Malformed { path: String::new(), what });
                }
            };
            *event = true;
        }
        Ok(events)
    }
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(self.insert, "insert"), (self.modify, "modify"), (self.remove, "remove")];
        let names: Vec<&str> = names.iter().filter(|(is_in, _)| *is_in).map(|(_, name)| *name).collect();
        f.write_str(&names.join(","))
    }
}

/// Whether a record is a write that a global table of version 2017.11.29 made to replicate another region's.
///
/// Such a table keeps in each item where it was written last (`aws:rep:updateregion`), when (`aws:rep:updatetime`), and
/// whether a delete is being replicated (`aws:rep:deleting`); the developer guide names them ("Global tables: How it
/// works", legacy version). A local change of an item that came from elsewhere may still carry the old marks; where the
/// record holds both images, an unchanged time tells it. The current version (2019.11.21) leaves no marks.
pub(super) fn is_replicated(record: &Record<'_>) -> bool {
    let (new, old) = (record.new_image_json(), record.old_image_json());
    let is_removal = record.event_name() == EventName::Remove;
    let Some(image) = (if is_removal { old } else { new }) else {
        return false;
    };
    let Some(region) = record.aws_region() else {
        return false;
    };
    let is_from_elsewhere = text_of(image, "aws:rep:updateregion", "S").is_some_and(|origin| origin != region);
    if !is_from_elsewhere {
        return false;
    }
    if is_removal {
        return attribute(image, "aws:rep:deleting", "BOOL", |scanner| scanner.boolean()) == Some(true);
    }
    let time = |image| text_of(image, "aws:rep:updatetime", "N");
    match (time(image), old.and_then(time)) {
        (Some(new_time), Some(old_time)) => new_time != old_time,
        _ => true,
    }
}

fn text_of<'a>(image: &'a str, name: &str, tag: &str) -> Option<Cow<'a, str>> {
    attribute(image, name, tag, |scanner| {
        let text = scanner.string("expected a string")?;
        scanner.value_of(text)
    })
}

/// The attribute `name` of an image as `take` reads it, if it is of the type `tag`.
fn attribute<'a, T>(
    image: &'a str,
    name: &str,
    tag: &str,
    take: impl FnOnce(&mut Scanner<'a>) -> Result<T, DecodeError>,
) -> Option<T> {
    let mut scanner = Scanner::new(image, 0);
    for wanted in [name, tag] {
        scanner.enter_member(wanted).ok()??;
    }
    take(&mut scanner).ok()
}
