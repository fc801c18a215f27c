//! Filters: the records of a stream that the processor gets.
//!
//! A [`Pattern`] is a condition in the syntax of AWS Lambda's event filters for DynamoDB, which is EventBridge's
//! (Lambda developer guide, "Filter rule syntax"; EventBridge user guide, "Comparison operators"). [`Filters`] are
//! several of them, one of which has to match, and presets, each of which has to. They read a record's JSON as it came, and
//! of it only the members that they name.
//!
//! Beyond Lambda, `numeric` compares number attributes (`N` and `NS`), which records hold as strings, and by value
//! with all their digits.
//!
//! - `pattern`, `scalar`, `decimal`: patterns and their tests on single values
//! - `evaluate`: patterns put to records
//! - `check`, `place`: patterns that cannot match, and the layout of records
//! - `lambda`: patterns that Lambda would treat otherwise
//! - `presets`: conditions on the kind of change

mod check;
mod decimal;
mod error;
mod evaluate;
#[cfg(feature = "cli")]
mod lambda;
mod pattern;
mod place;
mod presets;
mod scalar;

pub use error::Error;
pub use pattern::Pattern;
pub use place::Layout;
pub use presets::Events;

use crate::model::record::{Record, ViewType};

/// A choice of records. The default is all of them.
///
/// ```
/// use shardkeeper::{Events, Filters, Pattern};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let is_paid: Pattern = r#"{"dynamodb": {"NewImage": {"status": {"S": ["paid"]}}}}"#.parse()?;
/// let filters = Filters::new().or(is_paid).events(Events::INSERT | Events::MODIFY);
/// # drop(filters);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    patterns: Vec<Pattern>,
    events: Option<Events>,
    skip_ttl_deletes: bool,
    skip_replicated: bool,
}

impl Filters {
    /// All records pass.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pattern. When there are any, one of them has to match.
    #[must_use]
    pub fn or(mut self, pattern: Pattern) -> Self {
        self.patterns.push(pattern);
        self
    }

    /// Lets only these kinds of changes pass.
    #[must_use]
    pub fn events(mut self, events: Events) -> Self {
        self.events = Some(events);
        self
    }

    /// Whether removals by time to live are left out ([`Record::is_ttl_delete`]).
    #[must_use]
    pub fn skip_ttl_deletes(mut self, skip: bool) -> Self {
        self.skip_ttl_deletes = skip;
        self
    }

    /// Whether writes are left out by which a global table of version 2017.11.29, or an application that keeps
    /// `aws:rep:updateregion` itself, replicates what happened in another region. The current version of global
    /// tables does not mark such writes.
    #[must_use]
    pub fn skip_replicated(mut self, skip: bool) -> Self {
        self.skip_replicated = skip;
        self
    }

    /// The filters for records of this stream: patterns may name its ARN as `eventSourceARN`.
    #[must_use]
    pub fn for_stream(mut self, arn: &str) -> Self {
        for pattern in &mut self.patterns {
            pattern.set_stream_arn(arn);
        }
        self
    }

    /// Whether all records pass, whatever they are.
    pub fn pass_all(&self) -> bool {
        *self == Self::default()
    }

    /// Makes sure that each of the filters can have an effect on a stream with this view type; `None` stands for one
    /// that is not known.
    ///
    /// # Errors
    /// Names the first pattern that no record could match, with the place in it, or the preset that cannot work.
    pub fn check(&self, view_type: Option<ViewType>) -> Result<(), Error> {
        self.check_for(&Layout { view_type, keys: Vec::new() })
    }

    /// As [`Filters::check`], with all that is known of the stream's records.
    pub(crate) fn check_for(&self, layout: &Layout) -> Result<(), Error> {
        let view_type = layout.view_type;
        let lacks_new_image = view_type.filter(|view_type| !view_type.has_new_image());
        if let (true, Some(view_type)) = (self.skip_replicated, lacks_new_image) {
            return Err(Error::CannotWork {
                filter: "skip-replicated".into(),
                path: String::new(),
                what: format!(
                    "it looks at new images, and the stream's view type is {}; streams with NEW_IMAGE or \
                     NEW_AND_OLD_IMAGES have them",
                    view_type.as_str()
                ),
            });
        }
        let events = self.events.unwrap_or(Events::ALL);
        self.patterns.iter().try_for_each(|pattern| pattern.check_for(layout, events))
    }

    /// A sentence for each part of the patterns that AWS Lambda would treat otherwise, for those who copy them to or
    /// from an event source mapping.
    #[cfg(feature = "cli")]
    pub(crate) fn differences_from_lambda(&self) -> Vec<String> {
        let of_pattern = |pattern: &Pattern| {
            let notes = pattern.differences_from_lambda().into_iter();
            notes.map(|note| format!("the filter {}: {note}", pattern.as_str())).collect::<Vec<_>>()
        };
        let mut notes: Vec<String> = self.patterns.iter().flat_map(of_pattern).collect();
        let (count, most) = (self.patterns.len(), lambda::LAMBDA_PATTERNS);
        if count > most {
            notes.push(format!("there are {count} patterns; an event source mapping of Lambda takes {most}"));
        }
        notes
    }

    /// Whether the record passes.
    pub fn matches(&self, record: &Record<'_>) -> bool {
        self.events.is_none_or(|events| events.hold(record.event_name()))
            && !(self.skip_ttl_deletes && record.is_ttl_delete())
            && (self.patterns.is_empty() || self.patterns.iter().any(|pattern| pattern.matches(record)))
            && !(self.skip_replicated && presets::is_replicated(record))
    }
}

#[cfg(test)]
mod beside_lambda;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
