//! Records: views into a page, borrowed or keeping it alive.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::page::{Entry, NO_SIZE, PageData, Span};
use super::scan::Scanner;
use super::value::decode_item;
use super::{DecodeError, Item};
use crate::model::sequence_number::SequenceNumber;

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventName {
    /// A new item was added.
    Insert,
    /// One or more of an item's attributes changed.
    Modify,
    /// The item was deleted.
    Remove,
    /// The record names no event, or one that the API did not know when this was written.
    Other,
}

impl EventName {
    pub(super) fn from_wire(name: &str) -> Self {
        match name {
            "INSERT" => EventName::Insert,
            "MODIFY" => EventName::Modify,
            "REMOVE" => EventName::Remove,
            _ => EventName::Other,
        }
    }
}

/// The parts of an item that a stream's records hold besides its keys (`StreamViewType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ViewType {
    /// Nothing.
    KeysOnly,
    /// The item after the change.
    NewImage,
    /// The item before the change.
    OldImage,
    /// The item before and after the change.
    NewAndOldImages,
}

impl ViewType {
    /// The view type of this name in the API, if it is one.
    pub fn from_wire(name: &str) -> Option<Self> {
        Some(match name {
            "KEYS_ONLY" => ViewType::KeysOnly,
            "NEW_IMAGE" => ViewType::NewImage,
            "OLD_IMAGE" => ViewType::OldImage,
            "NEW_AND_OLD_IMAGES" => ViewType::NewAndOldImages,
            _ => return None,
        })
    }

    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            ViewType::KeysOnly => "KEYS_ONLY",
            ViewType::NewImage => "NEW_IMAGE",
            ViewType::OldImage => "OLD_IMAGE",
            ViewType::NewAndOldImages => "NEW_AND_OLD_IMAGES",
        }
    }

    /// Whether records hold the item after the change.
    pub fn has_new_image(self) -> bool {
        matches!(self, ViewType::NewImage | ViewType::NewAndOldImages)
    }

    /// Whether records hold the item before the change.
    pub fn has_old_image(self) -> bool {
        matches!(self, ViewType::OldImage | ViewType::NewAndOldImages)
    }
}

/// One record of a batch: a view, copied freely, that borrows from the batch.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    page: &'a Arc<PageData>,
    entry: &'a Entry,
    index: u32,
}

impl<'a> Record<'a> {
    #[inline]
    pub(super) fn at(page: &'a Arc<PageData>, index: u32) -> Option<Self> {
        let entry = page.entries().get(index as usize)?;
        Some(Self { page, entry, index })
    }

    /// The record's JSON object, exactly the bytes that the service sent.
    #[inline]
    pub fn json(&self) -> &'a str {
        self.text_of(self.entry.record).unwrap_or_default()
    }

    /// The service's identifier of the event (`eventID`).
    pub fn event_id(&self) -> Option<&'a str> {
        self.text_of(self.entry.event_id)
    }

    /// A key that stands for this change and no other: the same each time the record is delivered, by whichever worker.
    ///
    /// It is the `eventID`, which the API calls globally unique, or, where a service sends none, the sequence number,
    /// which no other record of the shard has.
    pub fn idempotency_key(&self) -> &'a str {
        self.event_id().unwrap_or_else(|| self.sequence_number())
    }

    /// The kind of the change.
    pub fn event_name(&self) -> EventName {
        self.entry.event_name
    }

    /// The event's name as the service wrote it, for names that [`EventName`] has no word for.
    pub fn event_name_text(&self) -> Option<Cow<'a, str>> {
        self.look_up(&["eventName"])
    }

    /// The digits of the record's position in its shard.
    #[inline]
    pub fn sequence_number(&self) -> &'a str {
        self.text_of(self.entry.sequence_number).unwrap_or_default()
    }

    /// The record's position in its shard.
    pub fn position(&self) -> SequenceNumber {
        SequenceNumber::of_digits(self.sequence_number())
    }

    /// The time of the change in seconds since 1970, as the service wrote it.
    pub(crate) fn created_at_secs(&self) -> Option<f64> {
        let created_at = self.entry.created_at;
        (!created_at.is_nan()).then_some(created_at)
    }

    /// The size of the stream record as the service counts it, in bytes.
    pub fn size_bytes(&self) -> Option<u64> {
        Some(self.entry.size_bytes).filter(|size| *size != NO_SIZE)
    }

    /// The item's primary key; empty when the record carries none.
    pub fn keys(&self) -> Item<'a> {
        let keys = self.decode(self.entry.keys);
        debug_assert!(keys.is_ok(), "keys are checked when their page is decoded");
        keys.ok().flatten().unwrap_or_default()
    }

    /// The item's primary key, as the service wrote it.
    pub fn keys_json(&self) -> Option<&'a str> {
        self.text_of(self.entry.keys)
    }

    /// A number that all records of one item share, and hardly any other item's: for keeping their order.
    pub fn key_hash(&self) -> u64 {
        super::key::hash(&self.keys())
    }

    /// The item after the change, as the service wrote it, if the stream's view type includes it.
    pub fn new_image_json(&self) -> Option<&'a str> {
        self.text_of(self.entry.new_image)
    }

    /// The item before the change, as the service wrote it, if the stream's view type includes it.
    pub fn old_image_json(&self) -> Option<&'a str> {
        self.text_of(self.entry.old_image)
    }

    /// The item after the change, decoded by this call.
    ///
    /// That the image is valid JSON has been checked with its page; it fails when something in it is not an attribute
    /// value.
    pub fn new_image(&self) -> Result<Option<Item<'a>>, DecodeError> {
        self.decode(self.entry.new_image)
    }

    /// The item before the change, decoded by this call. Fails as [`new_image`](Self::new_image) does.
    pub fn old_image(&self) -> Result<Option<Item<'a>>, DecodeError> {
        self.decode(self.entry.old_image)
    }

    /// The identity that made the change, when it was not the table's user: the service itself, by time to live.
    pub fn user_identity(&self) -> Option<UserIdentity<'a>> {
        let mut scanner = self.page.scanner_at(self.entry.user_identity)?;
        UserIdentity::decode(&mut scanner).ok()
    }

    /// Whether the service removed the item because its time to live had passed.
    ///
    /// The mark is the one of the developer guide ("DynamoDB Streams and Time to Live"). A replica of a global table
    /// has it only in the region where the item expired.
    pub fn is_ttl_delete(&self) -> bool {
        self.event_name() == EventName::Remove
            && self.user_identity().is_some_and(|identity| {
                identity.kind.as_deref() == Some("Service")
                    && identity.principal_id.as_deref() == Some("dynamodb.amazonaws.com")
            })
    }

    /// The service that the record comes from, `aws:dynamodb`. Looked up in the record's JSON by this call, as are the
    /// three that follow.
    pub fn event_source(&self) -> Option<Cow<'a, str>> {
        self.look_up(&["eventSource"])
    }

    /// The version of the record's layout.
    pub fn event_version(&self) -> Option<Cow<'a, str>> {
        self.look_up(&["eventVersion"])
    }

    /// The region in which the record was made.
    pub fn aws_region(&self) -> Option<Cow<'a, str>> {
        self.look_up(&["awsRegion"])
    }

    /// The parts of an item that the record holds: `KEYS_ONLY`, `NEW_IMAGE`, `OLD_IMAGE` or `NEW_AND_OLD_IMAGES`.
    pub fn stream_view_type(&self) -> Option<Cow<'a, str>> {
        self.look_up(&["dynamodb", "StreamViewType"])
    }

    /// A record that outlives its batch; it keeps the whole page in memory.
    // It takes a reference so that it comes before `ToOwned::to_owned`, which would only copy the view.
    pub fn to_owned(&self) -> OwnedRecord {
        OwnedRecord { page: Arc::clone(self.page), index: self.index }
    }

    /// A scanner at the record's start, and the offset of that start as the scanner counts.
    pub(super) fn scanner(&self) -> (Scanner<'a>, usize) {
        let start = self.entry.record.start();
        (self.page.scanner_from(start), start)
    }

    /// A scanner at the record's identity, if it has one, and the offset of the record's start as the scanner counts.
    pub(super) fn identity_scanner(&self) -> Option<(Scanner<'a>, usize)> {
        Some((self.page.scanner_at(self.entry.user_identity)?, self.entry.record.start()))
    }

    #[inline]
    fn text_of(&self, span: Span) -> Option<&'a str> {
        self.page.text_of(span)
    }

    fn decode(&self, span: Span) -> Result<Option<Item<'a>>, DecodeError> {
        let Some(mut scanner) = self.page.scanner_at(span) else {
            return Ok(None);
        };
        decode_item(&mut scanner).map(Some)
    }

    /// The string at a path of member names. The page was checked as a whole, so an error can only mean that there is
    /// no string there.
    fn look_up(&self, path: &[&str]) -> Option<Cow<'a, str>> {
        let mut scanner = self.page.scanner_at(self.entry.record)?;
        for wanted in path {
            scanner.enter_member(wanted).ok()??;
        }
        let text = scanner.string("expected a string").ok()?;
        scanner.value_of(text).ok()
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({})", self.json())
    }
}

/// A record that owns its part of a page, by keeping the page alive.
#[derive(Clone)]
pub struct OwnedRecord {
    page: Arc<PageData>,
    index: u32,
}

impl OwnedRecord {
    /// The record itself.
    pub fn view(&self) -> Record<'_> {
        Record { page: &self.page, entry: &self.page.entries()[self.index as usize], index: self.index }
    }

    pub(super) fn page(&self) -> &Arc<PageData> {
        &self.page
    }
}

/// The accessors of [`Record`], so that a closure need not take a view first.
macro_rules! same_as_record {
    ($($name:ident -> $output:ty;)*) => {
        impl OwnedRecord {
            $(
                #[doc = concat!("[`Record::", stringify!($name), "`].")]
                pub fn $name(&self) -> $output {
                    self.view().$name()
                }
            )*
        }
    };
}

same_as_record! {
    json -> &str;
    event_id -> Option<&str>;
    idempotency_key -> &str;
    event_name -> EventName;
    sequence_number -> &str;
    position -> SequenceNumber;
    size_bytes -> Option<u64>;
    keys -> Item<'_>;
    keys_json -> Option<&str>;
    new_image -> Result<Option<Item<'_>>, DecodeError>;
    new_image_json -> Option<&str>;
    old_image -> Result<Option<Item<'_>>, DecodeError>;
    old_image_json -> Option<&str>;
    is_ttl_delete -> bool;
}

impl fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnedRecord({})", self.view().json())
    }
}

/// The identity that made a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserIdentity<'a> {
    /// The principal's identifier; `dynamodb.amazonaws.com` for time to live.
    pub principal_id: Option<Cow<'a, str>>,
    /// The kind of principal; `Service` for time to live.
    pub kind: Option<Cow<'a, str>>,
}

impl<'a> UserIdentity<'a> {
    /// Takes an identity. The API's model names its members `PrincipalId` and `Type`; the developer guide, and records
    /// that went through other services, `principalId` and `type`.
    pub(super) fn decode(scanner: &mut Scanner<'a>) -> Result<Self, DecodeError> {
        let mut identity = Self::default();
        scanner.open(b'{', "expected an identity")?;
        let mut first = true;
        while let Some(name) = scanner.next_member(&mut first)? {
            let slot = match &*scanner.value_of(name)? {
                "PrincipalId" | "principalId" => &mut identity.principal_id,
                "Type" | "type" => &mut identity.kind,
                _ => {
                    scanner.skip_value()?;
                    continue;
                }
            };
            if !scanner.null()? {
                let text = scanner.string("expected a string")?;
                *slot = Some(scanner.value_of(text)?);
            }
        }
        Ok(identity)
    }
}
