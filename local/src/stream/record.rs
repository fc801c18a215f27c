//! Stream records, whose JSON is written once.

use bytes::Bytes;
use serde_json::Value;

use crate::table::KeySchema;
use crate::timestamp::Timestamp;
use crate::value::{Item, item_size, write_item_json};

/// The parts of a changed item in its records ("StreamViewType").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewType {
    KeysOnly,
    NewImage,
    OldImage,
    NewAndOldImages,
}

/// A record as it waits in its shard.
#[derive(Clone, Debug)]
pub(crate) struct StoredRecord {
    pub(crate) sequence: u128,
    pub(crate) created: Timestamp,
    /// The JSON object that GetRecords answers with.
    pub(crate) json: Bytes,
}

/// The origin of a change, which the record's `userIdentity` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteSource {
    /// A request; such records have no `userIdentity`.
    Request,
    /// The item's time to live was over.
    Expiry,
}

/// One change of an item, before it is a record.
pub(crate) struct Change<'a> {
    pub(crate) old: Option<&'a Item>,
    pub(crate) new: Option<&'a Item>,
    pub(crate) source: WriteSource,
}

/// The content of a record beside the change itself.
pub(crate) struct RecordFrame<'a> {
    pub(crate) region: &'a str,
    pub(crate) schema: &'a KeySchema,
    pub(crate) view: ViewType,
    pub(crate) sequence: u128,
    pub(crate) event_id: [u64; 2],
    pub(crate) created: Timestamp,
}

impl ViewType {
    /// The four names that the API has.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "KEYS_ONLY" => Self::KeysOnly,
            "NEW_IMAGE" => Self::NewImage,
            "OLD_IMAGE" => Self::OldImage,
            "NEW_AND_OLD_IMAGES" => Self::NewAndOldImages,
            _ => return None,
        })
    }

    /// The API's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KeysOnly => "KEYS_ONLY",
            Self::NewImage => "NEW_IMAGE",
            Self::OldImage => "OLD_IMAGE",
            Self::NewAndOldImages => "NEW_AND_OLD_IMAGES",
        }
    }

    fn has_new(self) -> bool {
        matches!(self, Self::NewImage | Self::NewAndOldImages)
    }

    fn has_old(self) -> bool {
        matches!(self, Self::OldImage | Self::NewAndOldImages)
    }
}

impl Change<'_> {
    /// Whether anything differs afterwards; otherwise there is no record.
    pub(crate) fn is_change(&self) -> bool {
        self.old != self.new
    }

    fn event_name(&self) -> &'static str {
        match (self.old, self.new) {
            (None, _) => "INSERT",
            (Some(_), Some(_)) => "MODIFY",
            (Some(_), None) => "REMOVE",
        }
    }
}

/// Writes the record of a change, members in the order that the service has them.
pub(crate) fn write_record(frame: &RecordFrame<'_>, change: &Change<'_>) -> StoredRecord {
    let keys = match change.new.or(change.old) {
        Some(item) => frame.schema.project(item),
        None => Item::new(),
    };
    let new = change.new.filter(|_| frame.view.has_new());
    let old = change.old.filter(|_| frame.view.has_old());
    let size = item_size(&keys) + new.map_or(0, item_size) + old.map_or(0, item_size);

    let mut out = Vec::with_capacity(384 + 2 * size);
    let [id_high, id_low] = frame.event_id;
    let region = Value::from(frame.region);
    append(
        &mut out,
        format_args!(
            "{{\"eventID\":\"{id_high:016x}{id_low:016x}\",\"eventName\":\"{}\",\"eventVersion\":\"1.1\",\
             \"eventSource\":\"aws:dynamodb\",\"awsRegion\":{region},\
             \"dynamodb\":{{\"ApproximateCreationDateTime\":{},\"Keys\":",
            change.event_name(),
            frame.created.as_secs(),
        ),
    );
    write_item_json(&keys, &mut out);
    if let Some(new) = new {
        out.extend_from_slice(b",\"NewImage\":");
        write_item_json(new, &mut out);
    }
    if let Some(old) = old {
        out.extend_from_slice(b",\"OldImage\":");
        write_item_json(old, &mut out);
    }
    append(
        &mut out,
        format_args!(
            ",\"SequenceNumber\":\"{}\",\"SizeBytes\":{size},\"StreamViewType\":\"{}\"}}",
            frame.sequence,
            frame.view.name()
        ),
    );
    if change.source == WriteSource::Expiry {
        out.extend_from_slice(br#","userIdentity":{"type":"Service","principalId":"dynamodb.amazonaws.com"}"#);
    }
    out.push(b'}');
    StoredRecord { sequence: frame.sequence, created: frame.created, json: Bytes::from(out) }
}

/// Appends formatted text.
pub(crate) fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    // Writing to a vector has no error to give.
    let _ = out.write_fmt(text);
}
